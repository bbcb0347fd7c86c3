//! `cargo xtask tidy`: the rules of the repository that rustc and clippy do not know.
//!
//! Owns: running all rules and printing what they found.  Not: the rules; each is a file below.
//! Y1  every rule runs and every finding is printed, so that one run shows all there is to mend.

mod layers;
mod papers;
mod reach;
mod safety;
mod shape;
mod words;

use crate::tree::Tree;
use anyhow::{Result, bail};

/// One thing to mend: where it is and what it should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// `path` or `path:line`.
    pub place: String,
    /// What is wrong, with the number and the bound.
    pub what: String,
}

impl Finding {
    /// About a whole file.
    pub fn file(path: &str, what: impl Into<String>) -> Finding {
        Finding { place: path.to_owned(), what: what.into() }
    }

    /// About a line, counted from 0.
    pub fn line(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { place: format!("{path}:{}", line + 1), what: what.into() }
    }
}

/// Runs all rules (Y1).
pub fn run(tree: &Tree) -> Result<()> {
    eprintln!("== tidy");
    let sources = tree.sources()?;
    let files = tree.files()?;
    let mut findings = layers::check(&tree.packages);
    findings.extend(papers::check(tree, &sources)?);
    findings.extend(reach::check(tree, &sources)?);
    findings.extend(safety::check(&sources));
    findings.extend(shape::check(&sources));
    findings.extend(words::check(tree, &files)?);
    for Finding { place, what } in &findings {
        eprintln!("{place}: {what}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} to mend", findings.len());
    }
    eprintln!("== tidy: ok, {} Rust files", sources.len());
    Ok(())
}
