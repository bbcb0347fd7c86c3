//! The errno values of preview 1 that this host gives.
//!
//! Owns: their numbers.  Not: when they are given.
//! Source: <https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md#-errno-variant>.

/// Why a WASI function did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Errno {
    /// No such descriptor, or not one for this.
    Badf = 8,
    /// The file exists.
    Exist = 20,
    /// A pointer outside the memory.
    Fault = 21,
    /// An argument out of its range.
    Inval = 28,
    /// It is a directory.
    Isdir = 31,
    /// Too many open files.
    Mfile = 33,
    /// The path is too long.
    Nametoolong = 37,
    /// No such file.
    Noent = 44,
    /// No such function here.
    Nosys = 52,
    /// It is no directory.
    Notdir = 54,
    /// Not supported here.
    Notsup = 58,
    /// The files cannot be changed.
    Rofs = 69,
    /// It has no position.
    Spipe = 70,
}
