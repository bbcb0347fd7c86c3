//! The table of commands held to its invariants, and to docs/commands.md.
//!
//! Owns: T1, T2, O1, and that every option of a grammar is one that the parser takes.
//! Not: what commands do (`session.rs`).

#[path = "fake/node.rs"]
mod node;

use heronry_net::command::table::CODES;
use heronry_net::command::{Action, ArgKind, Command, Lookup};
use heronry_net::{COMMANDS, RespConfig, commands_markdown};
use node::Peer;

fn all() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().flat_map(|command| std::iter::once(command).chain(command.subcommands))
}

#[test]
fn t1_names_are_upper_case_and_found_in_any_case() {
    let lookup = Lookup::default();
    for command in &COMMANDS {
        assert_eq!(command.name, command.name.to_uppercase(), "T1");
        for name in [command.name.to_owned(), command.name.to_lowercase()] {
            let found = lookup.find(name.as_bytes()).expect("T1: found");
            assert_eq!(found.name, command.name, "T1");
        }
    }
    for name in ["", "AGENT", "AGENT.", "AGENT.SENDX", "PIN", "\u{0}", &"X".repeat(300)] {
        assert!(lookup.find(name.as_bytes()).is_none(), "{name}");
    }
}

#[test]
fn t2_arity_follows_from_the_grammar() {
    let arity = |name: &str| {
        let command = all().find(|command| command.name == name).expect("a row");
        (command.arity(), command.arg_counts().1)
    };
    assert_eq!(arity("PING"), (-1, Some(1)));
    assert_eq!(arity("ECHO"), (2, Some(1)));
    assert_eq!(arity("HELLO"), (-1, Some(6)));
    assert_eq!(arity("AUTH"), (-2, Some(2)));
    assert_eq!(arity("AGENT.READ"), (4, Some(3)));
    assert_eq!(arity("AGENT.SEND"), (-3, Some(8)));
    assert_eq!(arity("AGENT.EXEC"), (-3, Some(6)));
    assert_eq!(arity("AGENT.FORK"), (-2, Some(8)));
    assert_eq!(arity("TEMPLATE.DEPLOY"), (-6, Some(8)));
    assert_eq!(arity("TEMPLATE.ACTIVATE"), (3, Some(2)));
    assert_eq!(arity("AGENT.LIST"), (-1, Some(7)));
    assert_eq!(arity("AGENT.DIFF"), (-3, Some(3)));
    assert_eq!(arity("COMMAND"), (-1, None));
    assert_eq!(arity("CLIENT"), (-2, None));
    assert_eq!(arity("CLIENT|SETNAME"), (3, Some(1)));
    assert_eq!(arity("CONFIG|GET"), (-3, None));
}

#[test]
fn every_row_is_told_in_full() {
    let names: Vec<&str> = CODES.iter().map(|(code, _)| *code).collect();
    for command in all() {
        let name = command.name;
        assert!(command.summary.ends_with('.') && command.summary.len() > 10, "{name}");
        assert!(command.complexity.starts_with("O("), "{name}");
        if command.subcommands.is_empty() {
            assert!(command.example.starts_with("> "), "{name} has an example");
            let last = name.rsplit('|').next().unwrap();
            assert!(command.example.contains(last), "{name}: the example is of another command");
        }
        for code in command.errors {
            assert!(names.contains(code), "{name}: {code} has no line in the table of codes");
        }
        for arg in command.args {
            assert!(!arg.about.is_empty() && !arg.name.is_empty(), "{name}");
        }
        if let Action::Agent(_) = command.action {
            let keyed = command.key_position() == 1;
            let has_key = command.usage().contains(" key");
            assert_eq!(keyed, has_key, "{name}");
        }
    }
}

/// A value that the argument accepts.
fn sample(kind: ArgKind) -> &'static str {
    match kind {
        ArgKind::Key => "echo/a",
        ArgKind::OneOf(words) => words[0],
        _ => "1",
    }
}

#[test]
fn every_option_of_a_grammar_is_parsed_alone_and_together() {
    let parsed = |c: &&Command| matches!(c.action, Action::Agent(_) | Action::Errand(_));
    for command in COMMANDS.iter().filter(parsed) {
        let mut base = vec![command.name];
        for arg in command.args.iter().filter(|arg| !arg.optional) {
            base.extend(arg.token);
            base.push(sample(arg.kind));
        }
        let mut together = base.clone();
        for arg in command.args.iter().filter(|arg| arg.optional) {
            let options = match arg.kind {
                ArgKind::Either(options) => options,
                _ => std::slice::from_ref(arg),
            };
            for option in options {
                let mut words = base.clone();
                words.extend(option.token);
                if !matches!(option.kind, ArgKind::Token) {
                    words.push(sample(option.kind));
                }
                assert_parsed(&words);
            }
            together.extend(options[0].token);
            if !matches!(options[0].kind, ArgKind::Token) {
                together.push(sample(options[0].kind));
            }
        }
        assert_parsed(&together);
    }
}

fn assert_parsed(words: &[&str]) {
    let mut peer = Peer::new(RespConfig::default());
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut bytes = Vec::new();
    heronry_net::resp::encode::encode_request(&mut bytes, &words);
    peer.receive(&bytes);
    let output = String::from_utf8(peer.output()).expect("ASCII");
    assert!(output.is_empty() && !peer.asks.is_empty(), "{words:?} gave {output}");
}

#[test]
fn o1_docs_commands_md_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == commands_markdown(),
        "O1: docs/commands.md is not what the table of commands says; run `cargo xtask docs`"
    );
}

#[test]
fn docs_are_text_that_fits() {
    let text = commands_markdown();
    for command in all() {
        assert!(text.contains(&command.usage()), "{}", command.name);
    }
    assert!(!text.contains("  \n") && text.ends_with('\n') && text.is_ascii());
}
