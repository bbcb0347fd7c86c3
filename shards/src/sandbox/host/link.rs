//! How host functions are offered to guests: one table makes both the links and the signatures.
//!
//! Owns: the table's shape, the way from Wasm values to a function of memory and host.  Not: what
//! the functions do.
//! L1  a function that a module may import is linked with exactly the signature that the module was
//!     checked against, because both come from one line.

use super::Host;
use super::memory::GuestMemory;
use wasmtime::{Caller, Extern};

/// The Wasm types that host functions use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// 32 bits.
    I32,
    /// 64 bits.
    I64,
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wire::I32 => "i32",
            Wire::I64 => "i64",
        })
    }
}

/// One importable function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature {
    /// The module it is imported from.
    pub module: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub params: &'static [Wire],
    /// What it gives.
    pub result: Option<Wire>,
}

/// What a host function gives, on its way to the guest.
pub(crate) trait Outcome {
    /// The Wasm result.
    type Value;
    /// The result, or the trap that ends the guest's call.
    fn value(self) -> wasmtime::Result<Self::Value>;
}

/// The guest exports no memory that the host can reach; modules that were prepared always do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the guest exports no memory named \"memory\"; deploy it again")]
pub struct NoMemory;

/// The memory and the host of a guest that calls. Cost: one look-up among its exports.
pub(crate) fn enter<'a>(
    caller: &'a mut Caller<'_, Host>,
) -> Result<(GuestMemory<'a>, &'a mut Host), NoMemory> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return Err(NoMemory) };
    let (bytes, host) = memory.data_and_store_mut(caller);
    Ok((GuestMemory(bytes), host))
}

macro_rules! wire {
    (i32) => {
        $crate::sandbox::host::link::Wire::I32
    };
    (i64) => {
        $crate::sandbox::host::link::Wire::I64
    };
}
macro_rules! result {
    () => {
        None
    };
    ($kind:tt) => {
        Some($crate::sandbox::host::link::wire!($kind))
    };
}
/// `name(arg: i32, ..) -> i32 = function;` for each function: makes `SIGNATURES` and `link`.
macro_rules! host_functions {
    ($module:expr; $($name:ident($($arg:ident: $kind:tt),*) $(-> $result:tt)? = $body:expr;)*) => {
        /// What a module may import from here.
        pub const SIGNATURES: &[$crate::sandbox::host::link::Signature] = &[$(
            $crate::sandbox::host::link::Signature {
                module: $module,
                name: stringify!($name),
                params: &[$($crate::sandbox::host::link::wire!($kind)),*],
                result: $crate::sandbox::host::link::result!($($result)?),
            }
        ),*];

        /// Offers all of [`SIGNATURES`] to the modules of `linker`.
        pub fn link(
            linker: &mut wasmtime::Linker<$crate::sandbox::host::Host>,
        ) -> wasmtime::Result<()> {
            use $crate::sandbox::host::link::{Outcome, enter};
            $(
                linker.func_wrap(
                    $module,
                    stringify!($name),
                    |mut caller: wasmtime::Caller<'_, $crate::sandbox::host::Host>,
                     $($arg: $kind),*| {
                        let (memory, host) = enter(&mut caller)?;
                        $body(memory, host, $($arg),*).value()
                    },
                )?;
            )*
            Ok(())
        }
    };
}
pub(crate) use {host_functions, result, wire};
