//! Options: what follows the fixed arguments of a command.
//!
//! Owns: finding a token in its command's grammar, its value, what is said of a misused one.
//! Not: which options a verb has, and what they mean for it (`parse.rs`).

use super::{bad_value, number};
use crate::command::{ArgKind, BadCommand, Command, hint, shown};
use crate::resp::Args;
use heronry_engine::Ack;
use heronry_engine::verb::Language;

/// Walks the options after the fixed arguments, in any order, each at most once.
pub(super) struct Options<'a> {
    pub(super) command: &'static Command,
    pub(super) args: &'a Args<'a>,
    pub(super) at: usize,
    /// One bit per option met.
    pub(super) seen: u32,
}

impl Options<'_> {
    /// The next option's token as the grammar spells it; `None` at the end.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<&'static str>, BadCommand> {
        if self.at >= self.args.count() {
            return Ok(None);
        }
        let given = self.args.get(self.at);
        let position = tokens(self.command)
            .enumerate()
            .find(|(_, token)| token.as_bytes().eq_ignore_ascii_case(given));
        let Some((bit, token)) = position else {
            return Err(BadCommand::Option {
                option: shown(given),
                name: self.command.name,
                hint: hint(given, tokens(self.command)),
                usage: self.command.usage(),
            });
        };
        if self.seen & 1 << bit != 0 {
            return Err(self.misused(token, "is given twice"));
        }
        self.seen |= 1 << bit;
        self.at += 1;
        Ok(Some(token))
    }

    /// Position of the option's value.
    pub(super) fn value(&mut self, token: &'static str) -> Result<usize, BadCommand> {
        if self.at >= self.args.count() {
            return Err(self.misused(token, "has no value"));
        }
        self.at += 1;
        Ok(self.at - 1)
    }

    pub(super) fn number(
        &mut self,
        token: &'static str,
        least: u64,
        most: u64,
    ) -> Result<u64, BadCommand> {
        let idx = self.value(token)?;
        number(self.args, idx, token, least, most)
    }

    pub(super) fn ack(&mut self, token: &'static str) -> Result<Ack, BadCommand> {
        let idx = self.value(token)?;
        match self.args.get(idx) {
            word if word.eq_ignore_ascii_case(b"sealed") => Ok(Ack::Sealed),
            word if word.eq_ignore_ascii_case(b"durable") => Ok(Ack::Durable),
            other => Err(bad_value("ACK", other, "sealed, durable".to_owned())),
        }
    }

    pub(super) fn language(&mut self, token: &'static str) -> Result<Language, BadCommand> {
        let idx = self.value(token)?;
        let given = self.args.get(idx);
        let all = [Language::Python, Language::JavaScript, Language::Wasm];
        let known = |language: &Language| language.name().as_bytes().eq_ignore_ascii_case(given);
        let allowed = || all.map(Language::name).join(", ");
        all.into_iter().find(known).ok_or_else(|| bad_value(token, given, allowed()))
    }

    pub(super) fn misused(&self, option: &'static str, fault: &'static str) -> BadCommand {
        let usage = self.command.usage();
        BadCommand::OptionUse { option, name: self.command.name, fault, usage }
    }
}

/// The tokens of a grammar.
fn tokens(command: &'static Command) -> impl Iterator<Item = &'static str> {
    command.args.iter().flat_map(|arg| {
        let either = match arg.kind {
            ArgKind::Either(args) => args,
            _ => std::slice::from_ref(arg),
        };
        either.iter().filter_map(|arg| arg.token)
    })
}
