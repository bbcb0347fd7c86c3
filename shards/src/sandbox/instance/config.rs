//! The engine's settings: the same for the process that compiles and for the shards that run.
//!
//! Owns: what Wasm is allowed, how deep guests call, how memories are guarded.  Not: where memories
//! and stacks come from; that does not change compiled code.
//! O1  code compiled under these settings loads under them, with or without a compiler.

use super::super::slot::{GUARD_BYTES, MEMORY_BYTES_MAX};
use wasmtime::{Collector, Config};

/// Stack that Wasm frames may use.
pub const WASM_STACK_BYTES_MAX: usize = 1 << 20;
/// Stack of a call: the guest's frames, then the host functions'.
pub const STACK_BYTES: usize = WASM_STACK_BYTES_MAX + (256 << 10);

/// Settings for an [`wasmtime::Engine`] that compiles modules for sandboxes (O1). Compiling uses
/// threads; an engine that only loads compiled modules starts none.
pub fn engine_config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_init_cow(false)
        .memory_may_move(false)
        .memory_reservation(MEMORY_BYTES_MAX as u64)
        .memory_guard_size(GUARD_BYTES as u64)
        .guard_before_linear_memory(false)
        .max_wasm_stack(WASM_STACK_BYTES_MAX)
        .async_stack_size(STACK_BYTES)
        .collector(Collector::Null)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_function_references(false)
        .wasm_gc(false)
        .wasm_exceptions(false)
        .wasm_tail_call(false)
        .wasm_relaxed_simd(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .generate_address_map(false);
    config
}
