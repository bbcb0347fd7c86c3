//! Reach: every Rust file belongs to a target, by a chain of `mod` lines.
//!
//! Owns: finding files that nothing compiles.  Not: unused functions, which rustc finds.
//! M1  a file that no target reaches is dead, whatever it says.

use super::Finding;
use crate::scan::Source;
use crate::tree::Tree;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};

/// Files that are reached from no target (M1).
pub fn check(tree: &Tree, sources: &[Source]) -> Result<Vec<Finding>> {
    let mut roots: Vec<String> =
        tree.packages.iter().flat_map(|package| package.targets.iter().cloned()).collect();
    roots.extend(outside_targets(tree)?);
    Ok(dead(&roots, sources))
}

fn dead(roots: &[String], sources: &[Source]) -> Vec<Finding> {
    let by_path: BTreeMap<&str, &Source> =
        sources.iter().map(|source| (source.path.as_str(), source)).collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<(String, bool)> = roots.iter().map(|path| (path.clone(), true)).collect();
    while let Some((path, root)) = open.pop() {
        let Some(source) = by_path.get(path.as_str()) else { continue };
        if reached.insert(path) {
            open.extend(children(source, root).into_iter().map(|path| (path, false)));
        }
    }
    let unreached = sources.iter().filter(|source| !reached.contains(&source.path));
    unreached.map(|source| Finding::file(&source.path, "no mod line reaches it")).collect()
}

/// Files that the `mod` lines of `source` name. A root's modules lie beside it.
fn children(source: &Source, root: bool) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let own = file.trim_end_matches(".rs");
    let base = if root || own == "mod" { folder.to_owned() } else { format!("{folder}/{own}") };
    let mut found = Vec::new();
    for (number, line) in source.code.iter().enumerate() {
        let Some(name) = declared_module(line) else { continue };
        match path_attribute(&source.lines[..number]) {
            Some(path) => found.push(format!("{folder}/{path}")),
            None => {
                found.push(format!("{base}/{name}.rs"));
                found.push(format!("{base}/{name}/mod.rs"));
            }
        }
    }
    found
}

/// The path of a `#[path]` among the attributes that end `above`.
fn path_attribute(above: &[String]) -> Option<&str> {
    let attributes = above.iter().rev().map(|line| line.trim());
    let mut attributes = attributes.take_while(|line| line.starts_with("#["));
    attributes.find_map(|line| line.strip_prefix("#[path = \"")?.strip_suffix("\"]"))
}

fn declared_module(line: &str) -> Option<&str> {
    let words: Vec<&str> = line.trim().strip_suffix(';')?.split_whitespace().collect();
    match words.as_slice() {
        ["mod", name] | [_, "mod", name] => Some(name),
        _ => None,
    }
}

/// Targets of packages that are not members, such as fuzz targets: the `path`s in their manifests.
fn outside_targets(tree: &Tree) -> Result<Vec<String>> {
    let mut roots = Vec::new();
    for manifest in tree.files()?.iter().filter(|path| path.ends_with("/Cargo.toml")) {
        let folder = manifest.trim_end_matches("/Cargo.toml");
        if tree.packages.iter().any(|package| package.folder == folder) {
            continue;
        }
        let text = tree.read(manifest)?;
        let paths = text.lines().filter_map(|line| line.trim().strip_prefix("path = \""));
        roots.extend(paths.map(|path| format!("{folder}/{}", path.trim_end_matches('"'))));
        roots.push(format!("{folder}/src/lib.rs"));
        roots.push(format!("{folder}/src/main.rs"));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m1_files_without_a_mod_line_are_dead() {
        let file = |path: &str, text: &str| Source::new(text.to_owned(), path.to_owned());
        let sources = [
            file(
                "a/src/lib.rs",
                "pub mod page;\n// mod gone;\n#[path = \"x/odd.rs\"]\n#[cfg(test)]\nmod odd;\n",
            ),
            file("a/src/page.rs", "mod radix;\n"),
            file("a/src/page/radix.rs", ""),
            file("a/src/x/odd.rs", ""),
            file("a/src/gone.rs", ""),
            file("a/src/radix.rs", ""),
        ];
        let dead = dead(&["a/src/lib.rs".into()], &sources);
        let places: Vec<&str> = dead.iter().map(|finding| finding.place.as_str()).collect();
        assert_eq!(places, ["a/src/gone.rs", "a/src/radix.rs"]);
    }
}
