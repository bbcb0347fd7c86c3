//! Words that must not stay in the tree: marks of unfinished work, tests switched off.
//!
//! Owns: the list of marks.  Not: prose; a sentence may say that something is not there yet.
//! W1  work that is left is an issue, not a comment.

use super::Finding;
use crate::tree::Tree;
use anyhow::Result;

/// Marks, cut in two so that this file does not hold them.
const MARKS: [(&str, &str); 9] = [
    ("TO", "DO"),
    ("FIX", "ME"),
    ("XX", "X"),
    ("HA", "CK"),
    ("place", "holder"),
    ("to", "do!("),
    ("unimple", "mented!("),
    ("#[ig", "nore"),
    ("d", "bg!("),
];
const TEXT_ENDINGS: [&str; 8] = [".rs", ".md", ".toml", ".sh", ".py", ".yml", "up", "test"];

/// Marks left in text files (W1).
pub fn check(tree: &Tree, files: &[String]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in files.iter().filter(|path| TEXT_ENDINGS.iter().any(|end| path.ends_with(end))) {
        for (number, line) in tree.read(path)?.lines().enumerate() {
            if let Some(mark) = mark_in(line) {
                findings.push(Finding::line(path, number, format!("{mark:?} is left")));
            }
        }
    }
    Ok(findings)
}

fn mark_in(line: &str) -> Option<String> {
    let marks = MARKS.iter().map(|(head, tail)| format!("{head}{tail}"));
    marks.into_iter().find(|mark| {
        crate::scan::has_word(line, mark.trim_end_matches('('))
            || line.contains(mark) && mark.ends_with('(')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w1_marks_are_found_and_words_that_hold_them_are_not() {
        for (head, tail) in MARKS {
            assert!(mark_in(&format!("    // {head}{tail} later")).is_some(), "{head}{tail}");
        }
        assert_eq!(mark_in("a hacker's method"), None);
        assert_eq!(mark_in("it ignores errors"), None);
    }
}
