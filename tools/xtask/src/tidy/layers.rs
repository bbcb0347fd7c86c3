//! Layers: which crate of the workspace may depend on which.
//!
//! Owns: the arrows of the design.  Not: dependencies from outside (`papers.rs`).
//! L1  `net` on `shards` on `engine`, `shards` on `numa`; `engine` and `numa` on none of ours.
//! L2  `tools`, `bench` and `tests` may depend on any; no crate depends on `tests` or `xtask`.
//! L3  the rule holds for dev- and build-dependencies too.

use super::Finding;
use crate::tree::Package;

/// For each lower crate, the crates of the workspace that it may know (L1).
const ARROWS: [(&str, &[&str]); 4] = [
    ("heronry-numa", &[]),
    ("heronry-engine", &[]),
    ("heronry-shards", &["heronry-engine", "heronry-numa"]),
    ("heronry-net", &["heronry-engine", "heronry-shards"]),
];
/// Crates that may know any other (L2).
const TOP: [&str; 4] = ["heronry-bench", "heronry-tests", "heronry", "xtask"];
/// Crates that nobody may know (L2).
const ROOTS: [&str; 2] = ["heronry-tests", "xtask"];

/// Arrows that are not allowed, and crates that have no place yet.
pub fn check(packages: &[Package]) -> Vec<Finding> {
    let ours = |name: &&String| packages.iter().any(|package| package.name == **name);
    let mut findings = Vec::new();
    for package in packages {
        let manifest = format!("{}/Cargo.toml", package.folder);
        let rule = ARROWS.iter().find(|(name, _)| *name == package.name);
        if rule.is_none() && !TOP.contains(&package.name.as_str()) {
            let what = "the crate has no place in the layers; give it one in tidy/layers.rs";
            findings.push(Finding::file(&manifest, what));
        }
        for target in package.dependencies.iter().filter(ours) {
            let allowed = rule.is_none_or(|(_, targets)| targets.contains(&target.as_str()));
            if !allowed || ROOTS.contains(&target.as_str()) {
                let what = format!("{} must not depend on {target}", package.name);
                findings.push(Finding::file(&manifest, what));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.into(),
            folder: name.into(),
            licence: None,
            dependencies: dependencies.iter().map(|name| (*name).into()).collect(),
            targets: Vec::new(),
        }
    }

    fn with(name: &str, dependency: &str) -> Vec<Package> {
        let all = ARROWS.iter().map(|(name, _)| *name).chain(TOP);
        all.map(|n| if n == name { package(n, &[dependency]) } else { package(n, &[]) }).collect()
    }

    #[test]
    fn l1_the_workspace_has_no_forbidden_arrow() {
        let tree = Tree::load().expect("cargo metadata works here");
        assert_eq!(check(&tree.packages), []);
    }

    #[test]
    fn l1_every_arrow_upwards_or_sideways_is_found() {
        for (from, allowed) in ARROWS {
            for (to, _) in ARROWS {
                let expected = usize::from(!allowed.contains(&to));
                assert_eq!(check(&with(from, to)).len(), expected, "{from} -> {to}");
            }
            for to in TOP {
                assert_eq!(check(&with(from, to)).len(), 1, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn l2_nobody_knows_tests_or_xtask_and_a_new_crate_needs_a_place() {
        assert_eq!(check(&with("heronry", "heronry-bench")), []);
        assert_eq!(check(&with("heronry", "heronry-tests")).len(), 1);
        assert_eq!(check(&with("heronry-bench", "xtask")).len(), 1);
        assert_eq!(check(&[package("heronry-extra", &[])]).len(), 1);
    }
}
