//! Validation, with the name of what a module uses that is not allowed.
//!
//! Owns: the proposals that sandboxes have.  Not: the runtime's own switches, which must allow them
//! all (`instance/config.rs`).
//! V1  what is allowed is deterministic across CPU types and keeps its state in memory and globals.

use super::ModuleError;
use wasmparser::{Validator, WasmFeatures};

/// Wasm 2.0 and extended constants.
fn allowed() -> WasmFeatures {
    WasmFeatures::WASM2 | WasmFeatures::EXTENDED_CONST
}

/// Proposals that are not, by the name that people know.
fn refused() -> [(WasmFeatures, &'static str); 11] {
    let gc = WasmFeatures::GC | WasmFeatures::FUNCTION_REFERENCES;
    [
        (WasmFeatures::THREADS, "threads"),
        (WasmFeatures::EXCEPTIONS, "exceptions"),
        (WasmFeatures::LEGACY_EXCEPTIONS, "legacy exceptions"),
        (WasmFeatures::TAIL_CALL, "tail calls"),
        (WasmFeatures::MULTI_MEMORY, "several memories"),
        (WasmFeatures::MEMORY64, "64-bit memories or tables"),
        (WasmFeatures::RELAXED_SIMD, "relaxed SIMD, whose results depend on the CPU"),
        (WasmFeatures::FUNCTION_REFERENCES, "typed function references"),
        (gc, "garbage-collected types"),
        (WasmFeatures::CUSTOM_PAGE_SIZES, "custom page sizes"),
        (WasmFeatures::WIDE_ARITHMETIC, "wide arithmetic"),
    ]
}

/// Checks that `wasm` is valid without any proposal that is not allowed.
pub(super) fn validate(wasm: &[u8]) -> Result<(), ModuleError> {
    let validated = |features| Validator::new_with_features(features).validate_all(wasm);
    let Err(source) = validated(allowed()) else { return Ok(()) };
    let with = |extra| validated(allowed() | extra).is_ok();
    match refused().into_iter().find(|(extra, _)| with(*extra)) {
        Some((_, name)) => Err(ModuleError::Feature { name, source }),
        None if with(WasmFeatures::all()) => {
            Err(ModuleError::Feature { name: "a proposal past Wasm 2.0", source })
        }
        None => Err(ModuleError::Invalid(source)),
    }
}
