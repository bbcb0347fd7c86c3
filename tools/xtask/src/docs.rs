//! Generated docs: `docs/commands.md`, `docs/config.md`, man pages, shell completions.
//!
//! Owns: where they go, and saying which are out of date.  Not: their text; the `heronry` binary
//! prints it from its own tables, so that docs and behaviour have one source.
//! G1  a generated file that is checked in equals what the binary prints.

use crate::steps;
use crate::tree::Tree;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;

/// Generated files that are checked in; the rest goes to `target/share` only.
const CHECKED_IN: [&str; 2] = ["commands.md", "config.md"];

/// Writes everything.
pub fn write(tree: &Tree) -> Result<()> {
    let share = generate(tree)?;
    for name in CHECKED_IN {
        let to = tree.root.join("docs").join(name);
        fs::copy(share.join(name), &to).with_context(|| format!("cannot write {to:?}"))?;
    }
    eprintln!("== docs: wrote docs/{{{}}} and {}", CHECKED_IN.join(","), share.display());
    Ok(())
}

/// Fails when a checked-in file is out of date (G1).
pub fn check(tree: &Tree) -> Result<()> {
    let share = generate(tree)?;
    let mut stale = Vec::new();
    for name in CHECKED_IN {
        let fresh = fs::read_to_string(share.join(name))?;
        if tree.read(&format!("docs/{name}")).ok().as_deref() != Some(&fresh) {
            stale.push(name);
        }
    }
    if !stale.is_empty() {
        bail!("docs/{} out of date; run: cargo xtask docs", stale.join(" and docs/"));
    }
    Ok(())
}

/// Lets the binary print everything into `target/share`.
fn generate(tree: &Tree) -> Result<PathBuf> {
    let share = tree.root.join("target/share");
    fs::create_dir_all(&share)?;
    let line = "cargo run --quiet -p heronry -- docs target/share";
    steps::run(tree, "docs", &[], &line.split(' ').collect::<Vec<_>>())?;
    Ok(share)
}
