//! Shape: how long files, functions and lines are, how a file opens, what it may be called.
//!
//! Owns: the bounds of the house style.  Not: formatting, which is rustfmt's.
//! H1  every Rust file opens with 3 to 12 lines of `//!`, outside `src` with 1 to 12; the rows of a
//!     byte table do not count.
//! H2  a file has at most 500 lines before its tests, a function 80, a line 100 characters; files
//!     that are tests may be longer.
//! H3  a file is named by a noun of the design, so that a reader finds a thing by its name.

use super::Finding;
use crate::scan::{Source, has_word};

const HEADER_LINES_MIN: usize = 3;
const HEADER_LINES_MAX: usize = 12;
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 80;
const LINE_CHARS_MAX: usize = 100;
/// Names that say nothing about what is inside (H3).
const EMPTY_NAMES: [&str; 9] =
    ["mod", "utils", "util", "common", "helpers", "helper", "manager", "misc", "types"];

/// What breaks H1 to H3.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        header(source, &mut findings);
        lengths(source, &mut findings);
        functions(source, &mut findings);
        name(source, &mut findings);
    }
    findings
}

fn header(source: &Source, findings: &mut Vec<Finding>) {
    let opening = source.lines.iter().take_while(|line| line.starts_with("//!"));
    let count = opening.filter(|line| !line.starts_with("//! |") && *line != "//!").count();
    let least = if source.path.contains("src/") { HEADER_LINES_MIN } else { 1 };
    if !(least..=HEADER_LINES_MAX).contains(&count) {
        let what =
            format!("opens with {count} lines of //!, allowed: {least} to {HEADER_LINES_MAX}");
        findings.push(Finding::file(&source.path, what));
    }
}

fn lengths(source: &Source, findings: &mut Vec<Finding>) {
    if source.body() > FILE_LINES_MAX && !is_test(&source.path) {
        let what = format!("{} lines before its tests, at most {FILE_LINES_MAX}", source.body());
        findings.push(Finding::file(&source.path, what));
    }
    for (number, line) in source.lines.iter().enumerate() {
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX {
            let what = format!("{chars} characters, at most {LINE_CHARS_MAX}");
            findings.push(Finding::line(&source.path, number, what));
        }
    }
}

/// Whether the whole file is tests.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.starts_with("tests/") || path.ends_with("/tests.rs")
}

/// Functions before the tests, measured from `fn` to the closing brace of the same indent.
fn functions(source: &Source, findings: &mut Vec<Finding>) {
    let code = &source.code[..source.body().min(source.code.len())];
    for (start, line) in code.iter().enumerate() {
        let declares = has_word(line, "fn") && line.contains('(') && !line.contains("fn(");
        if !declares {
            continue;
        }
        let indent = indent_of(line);
        let ends = |line: &String| {
            let text = line.trim();
            indent_of(line) == indent && (text == "}" || text.ends_with(';'))
        };
        let length = code[start..].iter().position(ends).map_or(1, |lines| lines + 1);
        if length > FUNCTION_LINES_MAX {
            let what = format!("a function of {length} lines, at most {FUNCTION_LINES_MAX}");
            findings.push(Finding::line(&source.path, start, what));
        }
    }
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn name(source: &Source, findings: &mut Vec<Finding>) {
    let stem = source.path.trim_end_matches(".rs");
    for part in stem.split('/').filter(|part| EMPTY_NAMES.contains(part)) {
        let what = format!("{part:?} names nothing; call it by the noun it holds");
        findings.push(Finding::file(&source.path, what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&[Source::new(text.to_owned(), path.to_owned())]).len()
    }

    const HEAD: &str = "//! a\n//! b\n//! c\n";

    #[test]
    fn h1_headers_have_three_to_twelve_lines() {
        assert_eq!(findings("a/src/page.rs", HEAD), 0);
        assert_eq!(findings("a/src/page.rs", "//! a\n//! b\n"), 1);
        assert_eq!(findings("a/src/page.rs", &"//! a\n".repeat(13)), 1);
    }

    #[test]
    fn h2_long_files_functions_and_lines_are_found() {
        let long_file = format!("{HEAD}{}", "// x\n".repeat(498));
        assert_eq!(findings("a/src/page.rs", &long_file), 1);
        let long_tests = format!("{HEAD}#[cfg(test)]\nmod tests {{\n{}}}\n", "// x\n".repeat(600));
        assert_eq!(findings("a/src/page.rs", &long_tests), 0);
        let function = |lines| format!("{HEAD}fn f() {{\n{}}}\n", "    g();\n".repeat(lines));
        assert_eq!(findings("a/src/page.rs", &function(78)), 0);
        assert_eq!(findings("a/src/page.rs", &function(79)), 1);
        assert_eq!(findings("a/src/page.rs", &format!("{HEAD}// {}\n", "x".repeat(98))), 1);
    }

    #[test]
    fn h3_empty_names_are_found() {
        assert_eq!(findings("a/src/utils.rs", HEAD), 1);
        assert_eq!(findings("a/src/page/mod.rs", HEAD), 1);
        assert_eq!(findings("a/tests/common/server.rs", HEAD), 1);
    }
}
