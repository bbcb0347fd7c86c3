//! The changed module, and the memory that its data segments make.
//!
//! Owns: which sections are written anew.  Not: whether the module may be so (`survey.rs`).
//! Z1  sections stand in the order that Wasm wants; all but exports, data and start are copied.
//! Z2  no index changes: exports are added at the end, segments stay in their places.

use super::survey::Survey;
use super::{GlobalDecl, ModuleError, OWN_PREFIX, START_EXPORT};
use wasm_encoder::{DataSection, ExportKind, ExportSection, Module, RawSection};
use wasmparser::{ConstExpr, DataKind, ExternalKind, Operator, Parser, Payload};

/// The memory as it starts: active segments in their order, over zeros.
pub(super) fn memory(survey: &Survey<'_>) -> Result<Vec<u8>, ModuleError> {
    let memory_bytes = survey.memory_bytes();
    let mut memory = vec![0; memory_bytes as usize];
    for (segment, data) in survey.data.iter().enumerate() {
        let DataKind::Active { offset_expr, .. } = &data.kind else { continue };
        let start = u64::from(offset(offset_expr)?);
        let end = start + data.data.len() as u64;
        if end > memory_bytes {
            return Err(ModuleError::Data { segment, end, memory_bytes });
        }
        memory[start as usize..end as usize].copy_from_slice(data.data);
    }
    Ok(memory)
}

/// The value of a constant expression of a valid module without imported globals: `i32.const`, and
/// sums, differences and products of such.
fn offset(expr: &ConstExpr<'_>) -> Result<u32, ModuleError> {
    let mut stack: Vec<i32> = Vec::new();
    for operator in expr.get_operators_reader() {
        let mut pop = || stack.pop().unwrap_or(0);
        let value = match operator? {
            Operator::I32Const { value } => value,
            Operator::I32Add => pop().wrapping_add(pop()),
            Operator::I32Mul => pop().wrapping_mul(pop()),
            Operator::I32Sub => {
                let less = pop();
                pop().wrapping_sub(less)
            }
            _ => break,
        };
        stack.push(value);
    }
    Ok(stack.pop().unwrap_or(0).cast_unsigned())
}

/// The module with its globals exported and its data gone (Z1, Z2).
pub(super) fn module(
    wasm: &[u8],
    survey: &Survey<'_>,
    globals: &[GlobalDecl],
) -> Result<Vec<u8>, ModuleError> {
    let exports = exports(survey, globals)?;
    let mut out = Module::new();
    let mut exported = false;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        if !exported && after_exports(&payload) {
            out.section(&exports);
            exported = true;
        }
        match &payload {
            Payload::ExportSection(_) | Payload::StartSection { .. } => continue,
            Payload::DataCountSection { .. } if !survey.keeps_data => continue,
            Payload::DataSection(_) => {
                if survey.keeps_data {
                    out.section(&segments(survey));
                }
                continue;
            }
            Payload::CustomSection(custom) if custom.name() != "name" => continue,
            _ => {}
        }
        if let Some((id, range)) = payload.as_section() {
            out.section(&RawSection { id, data: &wasm[range] });
        }
    }
    if !exported {
        out.section(&exports);
    }
    Ok(out.finish())
}

/// Whether the exports must stand before this.
fn after_exports(payload: &Payload<'_>) -> bool {
    matches!(
        payload,
        Payload::ExportSection(_)
            | Payload::StartSection { .. }
            | Payload::ElementSection(_)
            | Payload::DataCountSection { .. }
            | Payload::CodeSectionStart { .. }
            | Payload::DataSection(_)
    )
}

/// The exports there are and those added.
fn exports(survey: &Survey<'_>, globals: &[GlobalDecl]) -> Result<ExportSection, ModuleError> {
    let mut section = ExportSection::new();
    let mut has_memory = false;
    for export in &survey.exports {
        let taken = export.name.starts_with(OWN_PREFIX)
            || export.name == "memory" && export.kind != ExternalKind::Memory;
        if taken {
            return Err(ModuleError::ExportTaken { name: export.name.to_owned() });
        }
        has_memory |= export.name == "memory";
        section.export(export.name, export.kind.into(), export.index);
    }
    if !has_memory {
        section.export("memory", ExportKind::Memory, 0);
    }
    let mutable = survey.globals.iter().enumerate().filter(|(_, global)| global.mutable);
    for ((idx, _), global) in mutable.zip(globals) {
        section.export(&global.export_name, ExportKind::Global, idx as u32);
    }
    if let Some(start) = survey.start {
        section.export(START_EXPORT, ExportKind::Func, start);
    }
    Ok(section)
}

/// Segments for `memory.init`: passive ones as they are, and for each active one, which counts as
/// dropped once the module runs, an empty one.
fn segments(survey: &Survey<'_>) -> DataSection {
    let mut section = DataSection::new();
    for data in &survey.data {
        match data.kind {
            DataKind::Passive => section.passive(data.data.iter().copied()),
            DataKind::Active { .. } => section.passive([]),
        };
    }
    section
}
