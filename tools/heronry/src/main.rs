//! The `heronry` binary: all of it is in the library of the same name.
//!
//! Owns: the choice of allocator. One thread allocates per shard process, which suits mimalloc.
//! Not: anything else.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    heronry::run(std::env::args_os())
}
