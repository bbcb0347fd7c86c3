//! A compiled module bound to its imports: what instances of it share.
//!
//! Owns: the handles of its exports, resolved once.  Not: compiling, instrumenting, caching.
//! C1  a module that gets here has one memory, and globals whose bits can be captured.

use super::{InstanceError, Sandboxes};
use wasmtime::{
    ExternType, InstancePre, Linker, Module, ModuleExport, Mutability, ResourcesRequired, ValType,
};

/// The guest's functions that the host calls by number, with their signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// `_initialize()`: constructors.
    Initialize,
    /// `heronry_alloc(len) -> ptr`
    Alloc,
    /// `heronry_init() -> i32`
    Init,
    /// `heronry_load(ptr, len) -> i32`
    Load,
    /// `heronry_warm(ptr, len) -> i32`
    Warm,
    /// `heronry_message(request, ptr, len) -> i32`
    Message,
    /// `heronry_result(call, status, ptr, len) -> i32`
    Result,
    /// `heronry_exec(request, ptr, len) -> i32`
    Exec,
    /// `heronry_restored(why)`
    Restored,
}

const ENTRIES: [(Entry, &str, &[ValType], &[ValType]); 9] = {
    use ValType::{I32, I64};
    [
        (Entry::Initialize, "_initialize", &[], &[]),
        (Entry::Alloc, "heronry_alloc", &[I32], &[I32]),
        (Entry::Init, "heronry_init", &[], &[I32]),
        (Entry::Load, "heronry_load", &[I32, I32], &[I32]),
        (Entry::Warm, "heronry_warm", &[I32, I32], &[I32]),
        (Entry::Message, "heronry_message", &[I64, I32, I32], &[I32]),
        (Entry::Result, "heronry_result", &[I64, I32, I32, I32], &[I32]),
        (Entry::Exec, "heronry_exec", &[I64, I32, I32], &[I32]),
        (Entry::Restored, "heronry_restored", &[I32], &[]),
    ]
};

impl Entry {
    /// The export's name.
    pub fn name(self) -> &'static str {
        ENTRIES[self as usize].1
    }
}

/// A captured global: the export, and how many words its bits take.
pub(super) struct GlobalSlot {
    pub(super) export: ModuleExport,
    pub(super) ty: ValType,
}

/// A module ready to be instantiated over `H`.
pub struct CompiledModule<H: 'static> {
    pub(super) pre: InstancePre<H>,
    pub(super) memory: ModuleExport,
    pub(super) globals: Vec<GlobalSlot>,
    entries: [Option<ModuleExport>; ENTRIES.len()],
}

impl<H: Send + 'static> CompiledModule<H> {
    /// Binds `module` to the functions of `linker`. `globals` are the exports of all its mutable
    /// globals. Errors: an import that `linker` lacks, no memory or several, an export of the
    /// wrong type.
    pub fn new<'a>(
        sandboxes: &Sandboxes,
        module: &Module,
        linker: &Linker<H>,
        globals: impl IntoIterator<Item = &'a str>,
    ) -> Result<CompiledModule<H>, InstanceError> {
        assert!(wasmtime::Engine::same(module.engine(), sandboxes.engine()), "O1: another engine");
        let ResourcesRequired { num_memories, .. } = module.resources_required();
        let memory = module.get_export_index("memory");
        let exported = matches!(module.get_export("memory"), Some(ExternType::Memory(_)));
        let memory = memory.filter(|_| exported && num_memories == 1);
        let memory = memory.ok_or(InstanceError::Memory { count: num_memories })?;
        let mut entries = [const { None }; ENTRIES.len()];
        for (entry, name, params, results) in &ENTRIES {
            let Some(export) = module.get_export(name) else { continue };
            let same = |is: &mut dyn Iterator<Item = ValType>, wanted: &[ValType]| {
                is.map(|ty| ty.to_string()).eq(wanted.iter().map(|ty| ty.to_string()))
            };
            let fits = export.func().is_some_and(|ty| {
                same(&mut ty.params(), params) && same(&mut ty.results(), results)
            });
            if !fits {
                return Err(InstanceError::Signature { name: (*name).to_owned() });
            }
            entries[*entry as usize] = module.get_export_index(name);
        }
        let globals = globals.into_iter().map(|name| global(module, name));
        let globals = globals.collect::<Result<_, _>>()?;
        let pre = linker.instantiate_pre(module).map_err(InstanceError::Link)?;
        Ok(CompiledModule { pre, memory, globals, entries })
    }

    /// Whether the module has an optional function.
    pub fn has(&self, entry: Entry) -> bool {
        self.entries[entry as usize].is_some()
    }

    /// 64-bit words that the bits of all globals take.
    pub fn global_words(&self) -> usize {
        self.globals.iter().map(|global| words(&global.ty)).sum()
    }

    pub(super) fn entry(&self, entry: Entry) -> Option<&ModuleExport> {
        self.entries[entry as usize].as_ref()
    }
}

/// Words of 64 bits in a global of this type.
fn words(ty: &ValType) -> usize {
    if matches!(ty, ValType::V128) { 2 } else { 1 }
}

fn global(module: &Module, name: &str) -> Result<GlobalSlot, InstanceError> {
    let refused = || InstanceError::Global { name: name.to_owned() };
    let export = module.get_export_index(name).ok_or_else(refused)?;
    let ty = module.get_export(name).and_then(|ty| ty.global().cloned()).ok_or_else(refused)?;
    let captured = ty.content().is_num() || ty.content().is_v128();
    if ty.mutability() != Mutability::Var || !captured {
        return Err(refused());
    }
    Ok(GlobalSlot { export, ty: ty.content().clone() })
}
