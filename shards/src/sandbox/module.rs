//! Modules made ready: checked, every mutable global exported, their data moved into the memory.
//!
//! Owns: what a module may be, and what is changed in it.  Not: compiling, the cache of the result.
//! A1  what a prepared module can change while it runs is its memory and its exported globals:
//!     everything else that Wasm could change is refused here by name.
//! A2  preparing changes nothing that the module can see: same indices, same memory when it starts.
//! A3  the hash names the original bytes and the way they were prepared; equal hashes mean equal
//!     prepared modules.
//! A4  every byte sequence is prepared or refused; none makes this panic.
//!
//! What is changed: active data segments become part of [`Prepared::memory`]; mutable globals are
//! exported as `__heronry_global_N`, the memory as `memory`; a start function is exported as
//! `__heronry_start` and runs once, at deploy, instead of at every instantiation; custom sections
//! but the names are dropped.

mod features;
mod rewrite;
mod survey;

use super::host::{GLOBAL_COUNT_MAX, MEMORY_BYTES_MAX, Wire};
use survey::Survey;

/// Largest module in bytes.
pub const MODULE_BYTES_MAX: usize = 64 << 20;
/// Most functions of a module, imported ones among them.
pub const FUNCTION_COUNT_MAX: usize = 200_000;
/// Most elements of all tables together; each takes 8 bytes in every live sandbox.
pub const TABLE_COUNT_MAX: u64 = 1 << 17;
/// Largest memory at the start.
pub const START_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a Wasm page.
pub const WASM_PAGE_BYTES: u64 = 65_536;
/// Name under which a start function is exported.
pub const START_EXPORT: &str = "__heronry_start";
/// Beginning of all names that preparing adds.
const OWN_PREFIX: &str = "__heronry_";
/// What is hashed before the bytes; another way of preparing needs another number (A3).
const HASH_CONTEXT: &str = "heronry sandbox module, prepared in way 1";

/// A module that can be captured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// The changed module.
    pub wasm: Vec<u8>,
    /// Its memory as it starts, whole Wasm pages.
    pub memory: Vec<u8>,
    /// How far the memory may grow, in Wasm pages.
    pub memory_pages_max: u32,
    /// All mutable globals, in the module's order.
    pub globals: Vec<GlobalDecl>,
    /// Exported function to call once after the first instantiation, before all others.
    pub start: Option<&'static str>,
    /// Which functions of the guest ABI it exports.
    pub abi: Abi,
    /// A3.
    pub hash: [u8; 32],
}

/// One mutable global.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GlobalDecl {
    /// The name that it is exported under.
    pub export_name: String,
    /// Its type.
    pub kind: GlobalKind,
}

/// Types of globals that fit 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GlobalKind {
    /// `i32`
    I32,
    /// `i64`
    I64,
    /// `f32`
    F32,
    /// `f64`
    F64,
}

/// Functions of the guest ABI that a module exports, all with the right signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "one field for each export of that name")]
pub struct Abi {
    pub initialize: bool,
    pub alloc: bool,
    pub init: bool,
    pub load: bool,
    pub warm: bool,
    pub message: bool,
    pub result: bool,
    pub exec: bool,
    pub restored: bool,
    /// Whether it imports something whose end comes through `heronry_result`.
    pub awaits: bool,
}

/// Why a module is refused. Nothing was changed or stored.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Not valid Wasm.
    #[error("not a valid Wasm module: {0}")]
    Invalid(#[from] wasmparser::BinaryReaderError),
    /// A component, not a module.
    #[error("a Wasm component; deploy a core module, as `clang --target=wasm32-wasi` makes")]
    Component,
    /// It uses a proposal that is not allowed.
    #[error("uses {name}, which sandboxes do not have: {source}; compile without it")]
    Feature {
        /// The proposal.
        name: &'static str,
        /// Where.
        source: wasmparser::BinaryReaderError,
    },
    /// Too much of something.
    #[error("has {count} {what}, at most {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// The bound.
        limit: u64,
    },
    /// No memory, or several.
    #[error("has {count} memories; a sandbox needs exactly one")]
    MemoryCount {
        /// How many.
        count: usize,
    },
    /// A memory that cannot be captured.
    #[error("its memory is {kind}, which cannot be captured; compile for wasm32 without threads")]
    MemoryKind {
        /// `shared` or `64-bit`.
        kind: &'static str,
    },
    /// A name that the host does not have.
    #[error(
        "imports {module:?} {name:?}, which sandboxes do not have; they have the functions of \
         \"heronry\" and of \"wasi_snapshot_preview1\""
    )]
    Import {
        /// Module of the import.
        module: String,
        /// Its name.
        name: String,
    },
    /// A function of another type than the host's.
    #[error("imports {module:?} {name:?} as {found}; it is {expected}")]
    ImportSignature {
        /// Module of the import.
        module: &'static str,
        /// Its name.
        name: &'static str,
        /// The host's type.
        expected: SignatureText,
        /// The module's.
        found: SignatureText,
    },
    /// State that comes from outside.
    #[error(
        "imports the {kind} {module:?} {name:?}, which cannot be captured; define it in the module"
    )]
    ImportKind {
        /// `memory`, `global`, `table` or `tag`.
        kind: &'static str,
        /// Module of the import.
        module: String,
        /// Its name.
        name: String,
    },
    /// An instruction that changes what cannot be captured.
    #[error(
        "function {function} uses {instruction}: changed tables and dropped segments cannot be \
         captured; compile without it"
    )]
    Instruction {
        /// Index of the function.
        function: u32,
        /// Its name in the text format.
        instruction: &'static str,
    },
    /// A global that cannot be captured.
    #[error("its mutable global {global} is a {kind}, which cannot be captured; keep it in memory")]
    Global {
        /// Its index.
        global: u32,
        /// Its type.
        kind: wasmparser::ValType,
    },
    /// A data segment outside the memory.
    #[error("data segment {segment} ends at byte {end}, past its memory of {memory_bytes} bytes")]
    Data {
        /// Its index.
        segment: usize,
        /// Where it ends.
        end: u64,
        /// Length of the memory at the start.
        memory_bytes: u64,
    },
    /// A name that preparing needs.
    #[error("exports {name:?}, a name kept for what the host adds; rename it")]
    ExportTaken {
        /// The name.
        name: String,
    },
    /// A function of the ABI with another type.
    #[error("exports {name:?} as {found}; the ABI has {expected}")]
    ExportSignature {
        /// Its name.
        name: &'static str,
        /// The ABI's type.
        expected: SignatureText,
        /// The module's.
        found: SignatureText,
    },
    /// A function of the ABI is missing.
    #[error("does not export {name:?}, which an agent needs to {purpose}")]
    Missing {
        /// Its name.
        name: &'static str,
        /// What for.
        purpose: &'static str,
    },
}

/// A function's type, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignatureText(String);

impl std::fmt::Display for SignatureText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl SignatureText {
    fn of(params: &[impl ToString], results: &[impl ToString]) -> SignatureText {
        let list = |types: &[String]| types.join(" ");
        let params: Vec<String> = params.iter().map(ToString::to_string).collect();
        let results: Vec<String> = results.iter().map(ToString::to_string).collect();
        SignatureText(format!("({}) -> ({})", list(&params), list(&results)))
    }

    fn of_wire(params: &[Wire], result: Option<Wire>) -> SignatureText {
        SignatureText::of(params, result.as_slice())
    }
}

/// Checks and changes a module (A1 to A4). Cost: some passes over its bytes, and the memory.
pub fn prepare(wasm: &[u8]) -> Result<Prepared, ModuleError> {
    at_most("bytes", wasm.len() as u64, MODULE_BYTES_MAX as u64)?;
    if wasmparser::Parser::is_component(wasm) {
        return Err(ModuleError::Component);
    }
    // First what has a reason of its own, then all that a module must be, then its code.
    let survey = Survey::of(wasm)?;
    survey.check_state()?;
    features::validate(wasm)?;
    survey.check_functions(wasm)?;
    let abi = survey.abi()?;
    let memory = rewrite::memory(&survey)?;
    let globals = survey.captured_globals()?;
    let wasm_prepared = rewrite::module(wasm, &survey, &globals)?;
    Ok(Prepared {
        wasm: wasm_prepared,
        memory,
        memory_pages_max: survey.memory_pages_max(),
        globals,
        start: survey.start.map(|_| START_EXPORT),
        abi,
        hash: hash(wasm),
    })
}

/// The hash that the module will have when prepared (A3).
pub fn hash(wasm: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new_derive_key(HASH_CONTEXT).update(wasm).finalize().as_bytes()
}

impl Prepared {
    /// Checks that it can be an agent: the exports that every agent needs are there.
    pub fn check_agent(&self) -> Result<(), ModuleError> {
        let needed = [
            (self.abi.alloc, "heronry_alloc", "be given messages"),
            (self.abi.message, "heronry_message", "handle messages"),
            (
                self.abi.result || !self.abi.awaits,
                "heronry_result",
                "learn what became of its calls",
            ),
        ];
        match needed.into_iter().find(|(there, ..)| !there) {
            Some((_, name, purpose)) => Err(ModuleError::Missing { name, purpose }),
            None => Ok(()),
        }
    }
}

fn at_most(what: &'static str, count: u64, limit: u64) -> Result<(), ModuleError> {
    if count > limit { Err(ModuleError::TooMany { what, count, limit }) } else { Ok(()) }
}

const _: () = assert!(START_BYTES_MAX <= MEMORY_BYTES_MAX);
const _: () = assert!(GLOBAL_COUNT_MAX < u16::MAX as usize);
