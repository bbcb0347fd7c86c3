//! What a module has, read in one pass, and the checks that have names of their own.
//!
//! Owns: reading sections.  Not: validity of the whole (`features.rs`), changing it (`rewrite.rs`).
//! R1  nothing is taken from a section that is not checked: a survey of any bytes is made without
//!     a panic, and used only after validation where it could be wrong.

use super::{
    Abi, GlobalDecl, GlobalKind, MEMORY_BYTES_MAX, ModuleError, OWN_PREFIX, START_BYTES_MAX,
    SignatureText, TABLE_COUNT_MAX, WASM_PAGE_BYTES, at_most,
};
use crate::sandbox::host::{self, GLOBAL_COUNT_MAX, Signature, Wire};
use wasmparser::{
    Data, Export, ExternalKind, FuncType, GlobalType, Import, MemoryType, Operator, Parser,
    Payload, TypeRef, ValType,
};

/// The sections that matter here.
#[derive(Default)]
pub(super) struct Survey<'a> {
    types: Vec<Option<FuncType>>,
    imports: Vec<Import<'a>>,
    /// Type of each function, imported ones first.
    functions: Vec<u32>,
    table_element_count: u64,
    pub(super) memories: Vec<MemoryType>,
    pub(super) globals: Vec<GlobalType>,
    pub(super) exports: Vec<Export<'a>>,
    pub(super) start: Option<u32>,
    pub(super) data: Vec<Data<'a>>,
    /// Whether `memory.init` is used, which needs the segments.
    pub(super) keeps_data: bool,
}

/// Functions of the guest ABI: name, what it takes, what it gives.
const ABI: [(&str, &[Wire], Option<Wire>); 9] = {
    use Wire::{I32, I64};
    [
        ("_initialize", &[], None),
        ("heronry_alloc", &[I32], Some(I32)),
        ("heronry_init", &[], Some(I32)),
        ("heronry_load", &[I32, I32], Some(I32)),
        ("heronry_warm", &[I32, I32], Some(I32)),
        ("heronry_message", &[I64, I32, I32], Some(I32)),
        ("heronry_result", &[I64, I32, I32, I32], Some(I32)),
        ("heronry_exec", &[I64, I32, I32], Some(I32)),
        ("heronry_restored", &[I32], None),
    ]
};
/// Imports of `heronry` whose end comes through `heronry_result`.
const AWAITED: [&str; 6] = ["call", "sleep", "http", "checkpoint", "fork", "rollback"];

impl<'a> Survey<'a> {
    /// Reads the sections of `wasm`.
    pub(super) fn of(wasm: &'a [u8]) -> Result<Survey<'a>, ModuleError> {
        let mut survey = Survey::default();
        for payload in Parser::new(0).parse_all(wasm) {
            survey.read(payload?)?;
        }
        Ok(survey)
    }

    fn read(&mut self, payload: Payload<'a>) -> Result<(), ModuleError> {
        match payload {
            Payload::TypeSection(section) => {
                // Types that are no functions are refused by validation.
                for group in section {
                    let function = |ty: wasmparser::SubType| match ty.composite_type.inner {
                        wasmparser::CompositeInnerType::Func(function) => Some(function),
                        _ => None,
                    };
                    self.types.extend(group?.into_types().map(function));
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    self.import(import?);
                }
            }
            Payload::FunctionSection(section) => {
                for function in section {
                    self.functions.push(function?);
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    let count = table?.ty.initial;
                    self.table_element_count = self.table_element_count.saturating_add(count);
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.memories.push(memory?);
                }
            }
            Payload::GlobalSection(section) => {
                for global in section {
                    self.globals.push(global?.ty);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    self.exports.push(export?);
                }
            }
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::DataSection(section) => {
                for data in section {
                    self.data.push(data?);
                }
            }
            Payload::CodeSectionEntry(body) if !self.keeps_data => {
                for operator in body.get_operators_reader()? {
                    self.keeps_data |= matches!(operator?, Operator::MemoryInit { .. });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, import: Import<'a>) {
        if let TypeRef::Func(ty) = import.ty {
            self.functions.push(ty);
        }
        self.imports.push(import);
    }

    /// Checks all state that the module has: what could not be captured has its own reason.
    pub(super) fn check_state(&self) -> Result<(), ModuleError> {
        for import in &self.imports {
            let kind = match import.ty {
                TypeRef::Func(_) | TypeRef::FuncExact(_) => continue,
                TypeRef::Memory(_) => "memory",
                TypeRef::Global(_) => "global",
                TypeRef::Table(_) => "table",
                TypeRef::Tag(_) => "tag",
            };
            let (module, name) = (import.module.to_owned(), import.name.to_owned());
            return Err(ModuleError::ImportKind { kind, module, name });
        }
        if self.memories.iter().any(|memory| memory.shared) {
            return Err(ModuleError::MemoryKind { kind: "shared" });
        }
        if self.memories.iter().any(|memory| memory.memory64) {
            return Err(ModuleError::MemoryKind { kind: "64-bit" });
        }
        let [memory] = self.memories[..] else {
            return Err(ModuleError::MemoryCount { count: self.memories.len() });
        };
        let start_bytes = memory.initial.saturating_mul(WASM_PAGE_BYTES);
        at_most("bytes of memory at the start", start_bytes, START_BYTES_MAX)?;
        at_most("elements in its tables", self.table_element_count, TABLE_COUNT_MAX)?;
        let function_count = self.functions.len() as u64;
        at_most("functions", function_count, super::FUNCTION_COUNT_MAX as u64)?;
        let mutable_count = self.globals.iter().filter(|global| global.mutable).count();
        at_most("mutable globals", mutable_count as u64, GLOBAL_COUNT_MAX as u64)
    }

    /// Checks the imports and the code of a module that is valid.
    pub(super) fn check_functions(&self, wasm: &[u8]) -> Result<(), ModuleError> {
        for import in &self.imports {
            let known = host::signatures()
                .find(|known| known.module == import.module && known.name == import.name);
            let (Some(known), TypeRef::Func(ty)) = (known, import.ty) else {
                let (module, name) = (import.module.to_owned(), import.name.to_owned());
                return Err(ModuleError::Import { module, name });
            };
            self.check_import(known, ty)?;
        }
        let mut function = self.imports.len() as u32;
        for payload in Parser::new(0).parse_all(wasm) {
            if let Payload::CodeSectionEntry(body) = payload? {
                for operator in body.get_operators_reader()? {
                    if let Some(instruction) = uncapturable(&operator?) {
                        return Err(ModuleError::Instruction { function, instruction });
                    }
                }
                function += 1;
            }
        }
        Ok(())
    }

    fn check_import(&self, known: &Signature, ty: u32) -> Result<(), ModuleError> {
        let expected = SignatureText::of_wire(known.params, known.result);
        let found = self.signature(ty);
        if found != expected {
            let (module, name) = (known.module, known.name);
            return Err(ModuleError::ImportSignature { module, name, expected, found });
        }
        Ok(())
    }

    fn signature(&self, ty: u32) -> SignatureText {
        match self.types.get(ty as usize) {
            Some(Some(ty)) => SignatureText::of(ty.params(), ty.results()),
            _ => SignatureText("not a function".to_owned()),
        }
    }

    /// Which functions of the ABI there are.
    pub(super) fn abi(&self) -> Result<Abi, ModuleError> {
        let mut there = [false; ABI.len()];
        for ((name, params, result), there) in ABI.into_iter().zip(&mut there) {
            let Some(export) = self.exports.iter().find(|export| export.name == name) else {
                continue;
            };
            let ty = self.functions.get(export.index as usize).copied();
            let found = match (export.kind, ty) {
                (ExternalKind::Func, Some(ty)) => self.signature(ty),
                _ => SignatureText("not a function".to_owned()),
            };
            let expected = SignatureText::of_wire(params, result);
            if found != expected {
                return Err(ModuleError::ExportSignature { name, expected, found });
            }
            *there = true;
        }
        let [initialize, alloc, init, load, warm, message, result, exec, restored] = there;
        let awaits = self
            .imports
            .iter()
            .any(|import| import.module == "heronry" && AWAITED.contains(&import.name));
        Ok(Abi { initialize, alloc, init, load, warm, message, result, exec, restored, awaits })
    }

    /// The mutable globals, by the names that they get.
    pub(super) fn captured_globals(&self) -> Result<Vec<GlobalDecl>, ModuleError> {
        let mutable = self.globals.iter().enumerate().filter(|(_, global)| global.mutable);
        mutable
            .map(|(idx, global)| {
                let kind = match global.content_type {
                    ValType::I32 => GlobalKind::I32,
                    ValType::I64 => GlobalKind::I64,
                    ValType::F32 => GlobalKind::F32,
                    ValType::F64 => GlobalKind::F64,
                    kind => return Err(ModuleError::Global { global: idx as u32, kind }),
                };
                Ok(GlobalDecl { export_name: global_export(idx), kind })
            })
            .collect()
    }

    /// How far the memory may grow, in Wasm pages: its own maximum, or what an image can hold.
    pub(super) fn memory_pages_max(&self) -> u32 {
        let limit = MEMORY_BYTES_MAX / WASM_PAGE_BYTES;
        let declared = self.memories.first().and_then(|memory| memory.maximum);
        declared.unwrap_or(limit).min(limit) as u32
    }

    /// Length of the memory at the start; bounded by [`Survey::check_state`].
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memories.first().map_or(0, |memory| memory.initial * WASM_PAGE_BYTES)
    }
}

/// The name that a mutable global is exported under.
pub(super) fn global_export(idx: usize) -> String {
    format!("{OWN_PREFIX}global_{idx}")
}

/// The name of an instruction that changes what no version holds.
///
/// `elem.drop` is none of them: without `table.init` nothing can tell whether a segment is there.
fn uncapturable(operator: &Operator<'_>) -> Option<&'static str> {
    match operator {
        Operator::TableSet { .. } => Some("table.set"),
        Operator::TableGrow { .. } => Some("table.grow"),
        Operator::TableFill { .. } => Some("table.fill"),
        Operator::TableInit { .. } => Some("table.init"),
        Operator::TableCopy { .. } => Some("table.copy"),
        Operator::DataDrop { .. } => Some("data.drop"),
        _ => None,
    }
}
