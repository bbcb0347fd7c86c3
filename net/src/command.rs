//! The commands: one table that drives dispatch, COMMAND, its docs, and docs/commands.md.
//!
//! Owns: names, arity, grammar, and how a command is found and misspelt ones are answered.
//! [`table`] lists them, [`parse`] turns arguments into verbs, [`docs`] prints them.
//! Not: executing them (`session` does).
//! T1  names are upper case in the table and found in any case.
//! T2  the arity of a command follows from its grammar.

pub mod docs;
pub mod parse;
pub mod table;

pub use docs::commands_markdown;
pub use table::{COMMAND_COUNT, COMMANDS};

/// Longest name that is compared with the table, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// One command, or one subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Upper case; a subcommand's is `PARENT|CHILD`.
    pub name: &'static str,
    /// What the session does.
    pub action: Action,
    /// Heading in the docs.
    pub group: Group,
    /// Flags that COMMAND shows; `no_auth` lets it run before AUTH.
    pub flags: &'static [&'static str],
    /// Version that brought it.
    pub since: &'static str,
    /// Cost, in big-O terms.
    pub complexity: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Its arguments after the name.
    pub args: &'static [Arg],
    /// The reply, in words: RESP3 first, and what RESP2 gets instead.
    pub reply: Replies,
    /// Codes of the errors it can give beside `ERR` and `NOAUTH`.
    pub errors: &'static [&'static str],
    /// What to type in redis-cli, and what it prints.
    pub example: &'static str,
    /// Subcommands, if it has any.
    pub subcommands: &'static [Command],
}

/// A reply in both protocols.
#[derive(Clone, Copy, Debug)]
pub struct Replies {
    /// In RESP3.
    pub resp3: &'static str,
    /// In RESP2; empty when the same.
    pub resp2: &'static str,
}

/// What a command is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// About the connection itself.
    Connection,
    /// About the node.
    Server,
    /// What agents are made from.
    Template,
    /// On agents.
    Agent,
}

impl Group {
    /// As COMMAND DOCS names it.
    pub fn name(self) -> &'static str {
        match self {
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Template => "template",
            Group::Agent => "agent",
        }
    }
}

/// What the session does for a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the command of the same name")]
pub enum Action {
    Hello,
    Auth,
    Ping,
    Echo,
    Quit,
    Reset,
    Select,
    Info,
    Command,
    CommandCount,
    CommandList,
    CommandInfo,
    CommandDocs,
    CommandGetKeys,
    CommandHelp,
    Client,
    ClientSetName,
    ClientGetName,
    ClientSetInfo,
    ClientId,
    ClientInfo,
    ClientList,
    ClientNoEvict,
    ClientNoTouch,
    ClientReply,
    Config,
    ConfigGet,
    TemplateList,
    ShardList,
    Errand(parse::ErrandVerb),
    Agent(parse::AgentVerb),
}

/// One argument of a grammar.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// Its name in the grammar.
    pub name: &'static str,
    /// Its type.
    pub kind: ArgKind,
    /// The word before it.
    pub token: Option<&'static str>,
    /// Whether it may be left out.
    pub optional: bool,
    /// Whether it may be repeated.
    pub multiple: bool,
    /// Range or set of values, and what it means.
    pub about: &'static str,
}

/// Type of an argument, as COMMAND DOCS names it.
#[derive(Clone, Copy, Debug)]
pub enum ArgKind {
    /// An agent's key.
    Key,
    /// Bytes.
    Text,
    /// A decimal number.
    Integer,
    /// A glob.
    Pattern,
    /// The token alone.
    Token,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of these.
    Either(&'static [Arg]),
    /// These in a row.
    Block(&'static [Arg]),
}

impl Arg {
    /// A required argument.
    pub const fn new(name: &'static str, kind: ArgKind, about: &'static str) -> Arg {
        Arg { name, kind, token: None, optional: false, multiple: false, about }
    }

    /// The same, optional.
    pub const fn optional(mut self) -> Arg {
        self.optional = true;
        self
    }

    /// The same, repeatable.
    pub const fn multiple(mut self) -> Arg {
        self.multiple = true;
        self
    }

    /// The same, still required, after the word `token`.
    pub const fn following(mut self, token: &'static str) -> Arg {
        self.token = Some(token);
        self
    }

    /// The same, optional, after the word `token`.
    pub const fn after(mut self, token: &'static str) -> Arg {
        self.token = Some(token);
        self.optional = true;
        self
    }
}

impl std::fmt::Display for Arg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.optional {
            f.write_str("[")?;
        }
        if let Some(token) = self.token {
            write!(f, "{token}")?;
            if !matches!(self.kind, ArgKind::Token) {
                f.write_str(" ")?;
            }
        }
        match self.kind {
            ArgKind::Token => {}
            ArgKind::OneOf(words) => f.write_str(&words.join("|"))?,
            ArgKind::Either(args) => write_joined(f, args, " | ")?,
            ArgKind::Block(args) => write_joined(f, args, " ")?,
            _ => f.write_str(self.name)?,
        }
        if self.multiple {
            f.write_str(" ...")?;
        }
        if self.optional {
            f.write_str("]")?;
        }
        Ok(())
    }
}

fn write_joined(
    f: &mut std::fmt::Formatter<'_>,
    args: &[Arg],
    separator: &str,
) -> std::fmt::Result {
    for (idx, arg) in args.iter().enumerate() {
        let bare = Arg { optional: arg.optional && separator == " ", ..*arg };
        write!(f, "{}{bare}", if idx == 0 { "" } else { separator })?;
    }
    Ok(())
}

/// A command that cannot be executed, and why. `Display` is the text after the code.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadCommand {
    /// No such command.
    #[error("unknown command '{name}'; {hint}COMMAND LIST names all")]
    Unknown {
        /// As given, cut.
        name: String,
        /// The nearest name, if one is near.
        hint: String,
    },
    /// No such subcommand.
    #[error("unknown subcommand '{name}' of {parent}; {hint}it has {allowed}")]
    UnknownSubcommand {
        /// As given, cut.
        name: String,
        /// The command.
        parent: &'static str,
        /// The nearest name, if one is near.
        hint: String,
        /// All of them.
        allowed: String,
    },
    /// Too few or too many arguments.
    #[error("wrong number of arguments for '{}' ({given} given); usage: {usage}",
        name.to_lowercase())]
    Arity {
        /// The command.
        name: &'static str,
        /// How many came after the name.
        given: usize,
        /// The grammar.
        usage: String,
    },
    /// A word where an option was due.
    #[error("unknown option '{option}' of {name}; {hint}usage: {usage}")]
    Option {
        /// As given, cut.
        option: String,
        /// The command.
        name: &'static str,
        /// The nearest option, if one is near.
        hint: String,
        /// The grammar.
        usage: String,
    },
    /// An option without its value, twice, or beside one that excludes it.
    #[error("option {option} of {name} {fault}; usage: {usage}")]
    OptionUse {
        /// The option.
        option: &'static str,
        /// The command.
        name: &'static str,
        /// What is wrong.
        fault: &'static str,
        /// The grammar.
        usage: String,
    },
    /// The arguments make no good request.
    #[error(transparent)]
    Refused(#[from] heronry_engine::Refusal),
}

impl BadCommand {
    /// The code before the text.
    pub fn code(&self) -> &'static str {
        match self {
            BadCommand::Refused(refusal) => refusal.code(),
            _ => "ERR",
        }
    }
}

impl Command {
    /// The grammar: name and arguments.
    pub fn usage(&self) -> String {
        let mut usage = self.name.replace('|', " ");
        if !self.subcommands.is_empty() && self.args.is_empty() {
            usage.push_str(" SUBCOMMAND ...");
        }
        for arg in self.args {
            usage.push_str(&format!(" {arg}"));
        }
        usage
    }

    /// Words of the name: 1, or 2 for a subcommand.
    pub fn word_count(&self) -> usize {
        1 + usize::from(self.name.contains('|'))
    }

    /// Fewest and most arguments after the name (T2); `None`: no bound.
    pub fn arg_counts(&self) -> (usize, Option<usize>) {
        if !self.subcommands.is_empty() {
            let least = usize::from(self.action != Action::Command);
            return (least, None);
        }
        let mut least = 0;
        let mut most = Some(0);
        for arg in self.args {
            let (words_min, words_max) = arg_words(arg);
            least += if arg.optional { 0 } else { words_min };
            most = match (most, words_max) {
                (Some(sum), Some(words)) if !arg.multiple => Some(sum + words),
                _ => None,
            };
        }
        (least, most)
    }

    /// Arity as COMMAND shows it: words with the name; negative means at least.
    pub fn arity(&self) -> i64 {
        let (least, most) = self.arg_counts();
        let words = (least + self.word_count()) as i64;
        if most == Some(least) { words } else { -words }
    }

    /// Position of the first key, 0 without one; names count.
    pub fn key_position(&self) -> usize {
        let key = self.args.iter().position(|arg| matches!(arg.kind, ArgKind::Key));
        key.map_or(0, |idx| idx + self.word_count())
    }

    /// Checks the number of arguments. Error: [`BadCommand::Arity`].
    fn check_arity(&'static self, words: usize) -> Result<&'static Command, BadCommand> {
        let given = words - self.word_count();
        let (least, most) = self.arg_counts();
        match given < least || most.is_some_and(|most| given > most) {
            true => Err(self.bad_arity(given)),
            false => Ok(self),
        }
    }

    fn bad_arity(&'static self, given: usize) -> BadCommand {
        BadCommand::Arity { name: self.name, given, usage: self.usage() }
    }
}

/// Fewest and most words of an argument that is there.
fn arg_words(arg: &Arg) -> (usize, Option<usize>) {
    let token = usize::from(arg.token.is_some());
    let (least, most) = match arg.kind {
        ArgKind::Token => (0, Some(0)),
        ArgKind::Either(args) => {
            let words = args.iter().map(arg_words);
            let least = words.clone().map(|(least, _)| least).min().unwrap_or(0);
            (least, words.map(|(_, most)| most).max().flatten())
        }
        ArgKind::Block(args) => args.iter().map(arg_words).fold((0, Some(0)), |sum, words| {
            let most = sum.1.zip(words.1).map(|(a, b)| a + b);
            (sum.0 + words.0, most)
        }),
        _ => (1, Some(1)),
    };
    (least + token, most.map(|most| most + token))
}

/// Finds commands by name (T1): a hash table over [`COMMANDS`], built once per shard.
#[derive(Debug)]
pub struct Lookup {
    /// Index into the table plus one; 0 is empty.
    slots: [u8; SLOT_COUNT],
    /// Fewest and most words of each command, its name counted.
    words: [(u16, u16); COMMAND_COUNT],
}

const SLOT_COUNT: usize = 256;
const _: () = assert!(COMMAND_COUNT < SLOT_COUNT / 2);

impl Default for Lookup {
    fn default() -> Lookup {
        let mut slots = [0u8; SLOT_COUNT];
        for (idx, command) in COMMANDS.iter().enumerate() {
            let mut slot = slot_of(command.name.as_bytes());
            while slots[slot] != 0 {
                slot = (slot + 1) % SLOT_COUNT;
            }
            slots[slot] = idx as u8 + 1;
        }
        let words = std::array::from_fn(|idx| {
            let (least, most) = COMMANDS[idx].arg_counts();
            (least as u16 + 1, most.map_or(u16::MAX, |most| most as u16 + 1))
        });
        Lookup { slots, words }
    }
}

impl Lookup {
    /// The command called `name`, in any case. Cost: about 5 ns.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<&'static Command> {
        self.find_idx(name).map(|idx| &COMMANDS[idx])
    }

    #[inline]
    fn find_idx(&self, name: &[u8]) -> Option<usize> {
        let mut slot = slot_of(name);
        while self.slots[slot] != 0 {
            let idx = usize::from(self.slots[slot]) - 1;
            let known = COMMANDS[idx].name.as_bytes();
            // Most clients send upper case, which is compared at once.
            if known == name || known.eq_ignore_ascii_case(name) {
                return Some(idx);
            }
            slot = (slot + 1) % SLOT_COUNT;
        }
        None
    }

    /// The command or subcommand that `count` words begin with, if their number fits its
    /// grammar. Error: what to type instead.
    #[inline]
    pub fn resolve<'w>(
        &self,
        count: usize,
        word: impl Fn(usize) -> &'w [u8],
    ) -> Result<&'static Command, BadCommand> {
        let Some(idx) = self.find_idx(word(0)) else { return Err(unknown(word(0))) };
        let command = &COMMANDS[idx];
        let (least, most) = self.words[idx];
        if count < usize::from(least) || count > usize::from(most) {
            return Err(command.bad_arity(count - 1));
        }
        if command.subcommands.is_empty() || count < 2 {
            return Ok(command);
        }
        let short = |sub: &Command| sub.name.split_once('|').map_or(sub.name, |(_, name)| name);
        let name = word(1);
        let mut subs = command.subcommands.iter();
        if let Some(sub) = subs.find(|sub| short(sub).as_bytes().eq_ignore_ascii_case(name)) {
            return sub.check_arity(count);
        }
        let names: Vec<&str> = command.subcommands.iter().map(short).collect();
        Err(BadCommand::UnknownSubcommand {
            name: shown(name),
            parent: command.name,
            hint: hint(name, names.iter().copied()),
            allowed: names.join(", "),
        })
    }
}

#[inline]
fn slot_of(name: &[u8]) -> usize {
    // Length and three letters tell the names apart; case bits are masked.
    let at = |idx: usize| usize::from(name.get(idx).copied().unwrap_or(0) & 0xdf);
    let tail = at(name.len().wrapping_sub(1)) * 31 + at(name.len() / 2 + 1) * 7;
    (name.len() * 41 + at(6) * 5 + tail) % SLOT_COUNT
}

fn unknown(name: &[u8]) -> BadCommand {
    let hint = hint(name, COMMANDS.iter().map(|command| command.name));
    BadCommand::Unknown { name: shown(name), hint }
}

/// `did you mean X? ` when a name is near.
pub(crate) fn hint<'n>(given: &[u8], names: impl Iterator<Item = &'n str>) -> String {
    let given = shown(given).to_uppercase();
    let near = names
        .map(|name| (strsim::damerau_levenshtein(&given, name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min();
    near.map(|(_, name)| format!("did you mean {name}? ")).unwrap_or_default()
}

/// Bytes as an error shows them: cut, and readable.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(NAME_BYTES_MAX)];
    let dots = if cut.len() < bytes.len() { "..." } else { "" };
    format!("{}{dots}", cut.escape_ascii())
}
