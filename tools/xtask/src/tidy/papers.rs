//! Papers: licence, and a reason written down for every dependency.
//!
//! Owns: comparing manifests with `LICENSE` and `docs/decisions.md`.  Not: the licences of
//! dependencies (`deny.toml`).
//! D1  every package is Apache-2.0 and the text of the licence is there.
//! D2  every workspace dependency is used by a package, used in its code, and has a line in
//!     `docs/decisions.md`.

use super::Finding;
use crate::scan::{Source, has_word};
use crate::tree::{Package, Tree};
use anyhow::Result;
use std::collections::BTreeSet;

const LICENCE: &str = "Apache-2.0";
const DECISIONS: &str = "docs/decisions.md";

/// What breaks D1 or D2.
pub fn check(tree: &Tree, sources: &[Source]) -> Result<Vec<Finding>> {
    let mut findings = licence(tree)?;
    let declared = workspace_dependencies(&tree.read("Cargo.toml")?);
    findings.extend(reasons(&declared, &tree.read(DECISIONS)?));
    let used: BTreeSet<&String> =
        tree.packages.iter().flat_map(|package| &package.dependencies).collect();
    for name in declared.iter().filter(|name| !used.contains(name)) {
        findings.push(Finding::file("Cargo.toml", format!("no package uses {name}")));
    }
    for package in &tree.packages {
        findings.extend(unused(package, sources));
    }
    Ok(findings)
}

fn licence(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if !tree.read("LICENSE")?.contains("Apache License") {
        findings.push(Finding::file("LICENSE", "is not the text of the Apache License"));
    }
    for package in tree.packages.iter().filter(|p| p.licence.as_deref() != Some(LICENCE)) {
        let manifest = format!("{}/Cargo.toml", package.folder);
        findings.push(Finding::file(&manifest, format!("license is not {LICENCE:?}")));
    }
    Ok(findings)
}

/// Dependencies that have no row in the table of decisions.
fn reasons(declared: &[String], decisions: &str) -> Vec<Finding> {
    let row = |name: &str| {
        let start = format!("| `{name}` |");
        decisions.lines().any(|line| line.starts_with(&start))
    };
    let missing = declared.iter().filter(|name| !row(name));
    missing.map(|name| Finding::file(DECISIONS, format!("has no row for `{name}`"))).collect()
}

/// Names under `[workspace.dependencies]` that are not ours.
fn workspace_dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let section = lines.take_while(|line| !line.starts_with('['));
    let names = section.filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim());
    names.filter(|name| !name.starts_with("heronry")).map(str::to_owned).collect()
}

/// Dependencies that a package declares and its code never names.
fn unused(package: &Package, sources: &[Source]) -> Vec<Finding> {
    let inside = format!("{}/", package.folder);
    let own: Vec<&Source> = sources.iter().filter(|s| s.path.starts_with(&inside)).collect();
    let named = |name: &str| {
        let word = name.replace('-', "_");
        own.iter().any(|source| source.code.iter().any(|line| has_word(line, &word)))
    };
    let names: BTreeSet<&String> = package.dependencies.iter().collect();
    let idle = names.into_iter().filter(|name| !named(name));
    let manifest = format!("{}/Cargo.toml", package.folder);
    idle.map(|name| Finding::file(&manifest, format!("{name} is not used"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2_names_and_rows_are_matched() {
        let manifest = "[workspace]\na = 1\n[workspace.dependencies]\nheronry-net = {}\n\
                        bytes = \"1\"\nio-uring = \"0.7\"\n\n[profile.dev]\nx = 1\n";
        let declared = workspace_dependencies(manifest);
        assert_eq!(declared, ["bytes", "io-uring"]);
        let found = reasons(&declared, "| `bytes` | shared payloads | Vec |\nio-uring is nice\n");
        assert_eq!(found, [Finding::file(DECISIONS, "has no row for `io-uring`")]);
    }

    #[test]
    fn d2_a_dependency_that_no_code_names_is_found() {
        let package = Package {
            name: "a".into(),
            folder: "a".into(),
            licence: None,
            dependencies: vec!["io-uring".into(), "bytes".into()],
            targets: Vec::new(),
        };
        let text = "use io_uring::opcode; // bytes\n".to_owned();
        let found = unused(&package, &[Source::new(text, "a/src/lib.rs".into())]);
        assert_eq!(found, [Finding::file("a/Cargo.toml", "bytes is not used")]);
    }
}
