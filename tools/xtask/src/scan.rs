//! Rust source with its comments and literals told apart from its code.
//!
//! Owns: a scanner just good enough to ask "is this word code?".  Not: any rule about the answer.
//! C1  `code`, like `lines`, has one entry per line; comments and the insides of literals are
//!     spaces in it, everything else is where it was.

/// One scanned file.
pub struct Source {
    /// Path relative to the root.
    pub path: String,
    /// Lines as written.
    pub lines: Vec<String>,
    /// The same lines without comments and literals (C1).
    pub code: Vec<String>,
}

/// Where the scanner is.
#[derive(Clone, Copy)]
enum Mode {
    Code,
    LineComment,
    BlockComment { depth: u32 },
    Text,
    RawText { hashes: usize },
}

impl Source {
    /// Scans `text`.
    pub fn new(text: String, path: String) -> Source {
        let code = mask(&text).lines().map(str::to_owned).collect();
        let lines = text.lines().map(str::to_owned).collect();
        Source { path, lines, code }
    }

    /// Lines before the file's own tests.
    pub fn body(&self) -> usize {
        let start = |line: &String| line.starts_with("mod tests {") || line == "mod tests;";
        let found = self.code.iter().position(start);
        found.map_or(self.lines.len(), |line| line.saturating_sub(1))
    }

    /// Whether `word` stands in the code as a whole word, and on which lines (from 0).
    pub fn lines_with<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let lines = self.code.iter().enumerate();
        lines.filter(|(_, line)| has_word(line, word)).map(|(number, _)| number)
    }
}

/// Whether `line` holds `word` not as a part of a longer name.
pub fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let before = line[..at].chars().next_back().is_some_and(part);
        let after = line[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

/// `text` with comments and the insides of literals replaced by spaces (C1).
fn mask(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut mode = Mode::Code;
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let (next, kept, taken) = step(mode, rest, at.checked_sub(1).map(|i| chars[i]));
        for c in &rest[..taken] {
            out.push(if kept || *c == '\n' { *c } else { ' ' });
        }
        mode = next;
        at += taken;
    }
    out
}

/// One step: the next mode, whether what was taken stays visible, and how much was taken.
fn step(mode: Mode, rest: &[char], before: Option<char>) -> (Mode, bool, usize) {
    match mode {
        Mode::Code => step_code(rest, before),
        Mode::LineComment if rest[0] == '\n' => (Mode::Code, true, 1),
        Mode::LineComment => (mode, false, 1),
        Mode::BlockComment { depth } if rest.starts_with(&['*', '/']) => {
            let next =
                if depth == 1 { Mode::Code } else { Mode::BlockComment { depth: depth - 1 } };
            (next, false, 2)
        }
        Mode::BlockComment { depth } if rest.starts_with(&['/', '*']) => {
            (Mode::BlockComment { depth: depth + 1 }, false, 2)
        }
        Mode::BlockComment { .. } => (mode, false, 1),
        Mode::Text if rest[0] == '\\' => (mode, false, rest.len().min(2)),
        Mode::Text if rest[0] == '"' => (Mode::Code, true, 1),
        Mode::Text => (mode, false, 1),
        Mode::RawText { hashes } => {
            let closes =
                rest[0] == '"' && rest[1..].iter().take_while(|c| **c == '#').count() >= hashes;
            if closes { (Mode::Code, true, 1 + hashes) } else { (mode, false, 1) }
        }
    }
}

fn step_code(rest: &[char], before: Option<char>) -> (Mode, bool, usize) {
    let in_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    match rest {
        ['/', '/', ..] => (Mode::LineComment, false, 2),
        ['/', '*', ..] => (Mode::BlockComment { depth: 1 }, false, 2),
        ['"', ..] => (Mode::Text, true, 1),
        ['r', ..] | ['b', 'r', ..] if !in_name => {
            let prefix = if rest[0] == 'b' { 2 } else { 1 };
            let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
            if rest.get(prefix + hashes) == Some(&'"') {
                (Mode::RawText { hashes }, true, prefix + hashes + 1)
            } else {
                (Mode::Code, true, 1)
            }
        }
        // A character literal, not a lifetime: an escape, or one character and a quote.
        ['\'', '\\', escaped, ..] => {
            let from = if *escaped == '\'' || *escaped == '\\' { 3 } else { 2 };
            let end = rest[from..].iter().position(|c| *c == '\'').map_or(from, |i| from + i + 1);
            (Mode::Code, false, end)
        }
        ['\'', _, '\'', ..] => (Mode::Code, false, 3),
        _ => (Mode::Code, true, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        mask(text)
    }

    #[test]
    fn c1_comments_and_literals_are_blank_and_code_stays() {
        assert_eq!(code("a // unsafe\nb"), "a          \nb");
        assert_eq!(code("a /* x /* y */ z */ b"), format!("a {} b", " ".repeat(17)));
        assert_eq!(code(r#"f("unsafe \" {")"#), r#"f("           ")"#);
        assert_eq!(code("r#\"a\"b\"# c"), "r#\"   \"# c");
        assert_eq!(code("'{' '\\'' 'a: &'b str"), "         'a: &'b str");
        for text in ["x\n\"a\nb\"\n", "/*\n\n*/ y", "// a\n// b\n"] {
            assert_eq!(code(text).lines().count(), text.lines().count(), "{text:?}");
        }
    }

    #[test]
    fn c1_words_are_whole() {
        assert!(has_word("unsafe {", "unsafe"));
        assert!(!has_word("deny(unsafe_code)", "unsafe"));
        assert!(!has_word("an_unsafe", "unsafe"));
    }

    #[test]
    fn body_ends_before_the_tests_attribute() {
        let text = "//! a\nfn f() {}\n#[cfg(test)]\nmod tests {\n}\n".to_owned();
        assert_eq!(Source::new(text, "a.rs".into()).body(), 2);
    }
}
