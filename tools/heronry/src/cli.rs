//! The command line: every argument of `heronry` as a type.
//!
//! Owns: names, defaults, help texts; completions and man pages are made from them.
//! Not: what a command does.
//! A1  the nouns and verbs are those of the Redis commands; an option is named as its word there.

use crate::address::{Address, BadAddress, DEFAULT_DATA_DIR};
use clap::{Args, Parser, Subcommand};
use heronry_engine::verb::Language;
use std::net::IpAddr;
use std::path::PathBuf;

/// Many stateful agents on one machine, each with versions: checkpoint, fork, roll back, commit.
#[derive(Parser, Debug)]
#[command(name = "heronry", version, propagate_version = true, subcommand_required = true)]
#[command(after_help = "Exit status: 0 done, 1 refused or failed, 2 wrong usage.")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten, next_help_heading = "Options of every command")]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// Print JSON instead of tables and text
    #[arg(long, global = true)]
    pub json: bool,
    /// Where the node is: HOST:PORT, or the path of its Unix socket [env: HERONRY_ADDR] [default:
    /// heronry-data.sock if it is there, else 127.0.0.1:7373]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub connect: Option<Address>,
    /// Password of the node [env: HERONRY_PASSWORD]
    #[arg(long, global = true, value_name = "TEXT")]
    pub password: Option<String>,
}

impl Global {
    /// Takes what was not given from the environment, where empty is the same as absent. Not done
    /// by the parser: it would show what it finds there as required in every usage line.
    pub fn fill(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<(), BadAddress> {
        let set = |name| variable(name).filter(|text| !text.is_empty());
        if self.connect.is_none() {
            self.connect = set("HERONRY_ADDR").map(|text| text.parse()).transpose()?;
        }
        if self.password.is_none() {
            self.password = set("HERONRY_PASSWORD");
        }
        Ok(())
    }
}

/// What `heronry` can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start a node and serve until Ctrl-C
    Up(UpOptions),
    /// Make, ask, branch and end agents
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Deploy and list the templates that agents start from
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Shards of the node
    #[command(subcommand)]
    Shard(ShardCommand),
    /// Check, print and mend the logs of a data folder, read without its node
    #[command(subcommand)]
    Log(LogCommand),
    /// Copy a node's data, as of one moment, to a new folder, and check the copy; the node may run
    Backup {
        /// Folder to make
        to: PathBuf,
        /// Data folder of the node
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
        data: PathBuf,
    },
    /// Check a backup and make a data folder of it
    Restore {
        /// Folder that `heronry backup` made
        from: PathBuf,
        /// Data folder to make
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
        data: PathBuf,
    },
    /// Check what this host offers a node, and how to improve it
    Doctor,
    /// Compile, show, compare and check config files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Measure: load, replay of traces, peers side by side, the promises
    Bench(heronry_bench::BenchArgs),
    /// Watch the node: load and latencies per shard, hottest agents
    Top(TopOptions),
    /// Print shell completions
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write one page per command into DIR
    Man {
        /// Folder to write to
        dir: Option<PathBuf>,
    },
    /// Build a template file, for the node that asks for it
    #[command(hide = true)]
    TemplateBuild(BuildOptions),
    /// Write the generated docs into DIR
    #[command(hide = true)]
    Docs {
        /// Folder to write to
        dir: PathBuf,
    },
}

/// Options of `up`. What is not given comes from the config file, then from the defaults.
#[derive(Args, Clone, Debug, Default)]
pub struct UpOptions {
    /// Config, as TOML or compiled
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// TCP port; 0 takes any free one [default: 7373]
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<IpAddr>,
    /// Data folder; the Unix socket is beside it [default: heronry-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Number of shards; 0 is one per allowed CPU [default: 0]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Show 850 agents created, driven, forked and rolled back, then stop
    #[arg(long)]
    pub demo: bool,
    /// Any key of the config, such as shards.spin_us=50; wins over the file
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// What can be asked of agents.
#[derive(Subcommand, Debug)]
pub enum AgentCommand {
    /// Make an agent from its template
    Create {
        /// Its key: template/name
        key: String,
        /// Initial length of its image in bytes; 0 keeps the template's own
        #[arg(long, value_name = "N", default_value_t = 0)]
        image_bytes: u64,
    },
    /// Send one message and print the reply
    Send(SendOptions),
    /// Run code in the agent's live interpreter and print what it prints
    Exec {
        /// Key of the agent; it is created if absent
        key: String,
        /// The code; - reads it from standard input
        #[arg(allow_hyphen_values = true)]
        code: String,
        /// Give up if the turn has not begun by then
        #[arg(long, value_name = "MS")]
        timeout_ms: Option<u64>,
    },
    /// Read bytes of the image
    Read {
        /// Key of the agent
        key: String,
        /// First byte
        #[arg(long, value_name = "N", default_value_t = 0)]
        offset: u64,
        /// Most bytes to read
        #[arg(long, value_name = "N", default_value_t = 4096)]
        len: u32,
        /// Write the bytes as they are, without a line end
        #[arg(long)]
        raw: bool,
    },
    /// Overwrite bytes of the image
    Write {
        /// Key of the agent
        key: String,
        /// First byte
        offset: u64,
        /// New bytes; - reads them from standard input
        #[arg(allow_hyphen_values = true)]
        bytes: String,
    },
    /// Keep the present as a version
    Checkpoint {
        /// Key of the agent
        key: String,
        /// Name of the version
        #[arg(long, value_name = "NAME")]
        label: Option<String>,
    },
    /// Make branches that share the agent's memory until they write
    Fork {
        /// Key of the agent
        key: String,
        /// Number of branches
        #[arg(long, value_name = "N", default_value_t = 1)]
        count: u32,
        /// Version to fork, by number or label [default: the present]
        #[arg(long, value_name = "VERSION")]
        at: Option<String>,
        /// Name of the branch, key~NAME; numbered when absent
        #[arg(long = "as", value_name = "NAME", conflicts_with = "count")]
        suffix: Option<String>,
        /// Let the sleeps that the agent awaits go on in the branches
        #[arg(long)]
        keep_timers: bool,
    },
    /// Make an earlier version the present
    Rollback {
        /// Key of the agent
        key: String,
        /// The version, by number or label [default: the newest checkpoint]
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
    },
    /// List the versions that are kept
    Versions {
        /// Key of the agent
        key: String,
    },
    /// Write all that an agent is into a file
    Export {
        /// Key of the agent
        key: String,
        /// File to make; - is standard output
        file: PathBuf,
    },
    /// Make an agent of such a file, here or on another node
    Import {
        /// Key of the new agent, of the same template
        key: String,
        /// File to read; - is standard input
        file: PathBuf,
    },
    /// The BLAKE3 of a version: equal where the image is
    Digest {
        /// Key of the agent
        key: String,
        /// Number or label [default: the present]
        #[arg(long, value_name = "VERSION")]
        at: Option<String>,
    },
    /// Byte ranges in which two versions differ
    Diff {
        /// Key of the agent
        key: String,
        /// Older side: number or label
        from: String,
        /// Newer side [default: the present]
        to: Option<String>,
    },
    /// Put a branch in its parent's place; its siblings end
    Commit {
        /// Key of the branch
        key: String,
    },
    /// Take no more turns; messages wait
    Suspend {
        /// Key of the agent
        key: String,
    },
    /// Take turns again, also after quarantine
    Resume {
        /// Key of the agent
        key: String,
    },
    /// End an agent and free its memory
    Terminate {
        /// Key of the agent
        key: String,
    },
    /// Describe an agent
    Info {
        /// Key of the agent
        key: String,
    },
    /// List agents
    List {
        /// Only keys that match, such as 'notebook/*'
        #[arg(long = "match", value_name = "GLOB")]
        pattern: Option<String>,
        /// Agents that restarted shards lost, instead of living ones
        #[arg(long)]
        lost: bool,
        /// Stop after this many; 0 lists all
        #[arg(long, value_name = "N", default_value_t = 0)]
        limit: usize,
    },
    /// The busiest agents of late
    Hottest {
        /// How many to show
        #[arg(long, value_name = "N", default_value_t = 10)]
        limit: usize,
    },
}

/// Options of `agent send`.
#[derive(Args, Debug)]
pub struct SendOptions {
    /// Key of the agent; it is created if absent
    pub key: String,
    /// The message; - reads it from standard input
    #[arg(allow_hyphen_values = true)]
    pub payload: String,
    /// Request id: a retry with the same one gets the first reply
    #[arg(long, value_name = "TEXT")]
    pub id: Option<String>,
    /// Give up if the turn has not begun by then
    #[arg(long, value_name = "MS")]
    pub timeout_ms: Option<u64>,
    /// Acknowledge when the effect is on disk
    #[arg(long)]
    pub durable: bool,
}

/// What can be asked about templates.
#[derive(Subcommand, Debug)]
pub enum TemplateCommand {
    /// Make a template, or the next number of one, from a file; prints the number
    Deploy {
        /// Its name, as in name/agent
        name: String,
        /// The agent's file: .py, .js, .mjs or .wasm
        file: PathBuf,
        /// Code to run once before the template is sealed, in the same language
        #[arg(long, value_name = "FILE")]
        warm: Option<PathBuf>,
        /// Leave new agents with the number that they get now
        #[arg(long)]
        no_activate: bool,
    },
    /// Let new agents start from this number of a template
    Activate {
        /// The template's name
        name: String,
        /// The number, as `template list` shows it
        number: u32,
    },
    /// List the templates
    List,
}

/// Options of a build, as the control thread gives them.
#[derive(Args, Debug)]
pub struct BuildOptions {
    /// What the source is
    #[arg(long, value_parser = language)]
    pub language: Language,
    /// The agent's file
    #[arg(long)]
    pub source: Option<PathBuf>,
    /// Code to run before sealing
    #[arg(long)]
    pub warm: Option<PathBuf>,
    /// Folder of the interpreters
    #[arg(long)]
    pub guests: PathBuf,
    /// Folder of compiled modules
    #[arg(long)]
    pub cache: PathBuf,
    /// Longest linear memory
    #[arg(long)]
    pub memory_bytes_max: u64,
    /// File to make
    #[arg(long)]
    pub out: PathBuf,
    /// Only compile the module, which must have this hash
    #[arg(long, value_parser = module_hash)]
    pub only_module: Option<blake3::Hash>,
}

fn module_hash(text: &str) -> Result<blake3::Hash, blake3::HexError> {
    blake3::Hash::from_hex(text)
}

fn language(text: &str) -> Result<Language, String> {
    let all = [Language::Python, Language::JavaScript, Language::Wasm];
    let known = all.into_iter().find(|language| language.name() == text);
    known.ok_or_else(|| "expected python, javascript or wasm".to_owned())
}

/// What can be asked about shards.
#[derive(Subcommand, Debug)]
pub enum ShardCommand {
    /// List the shards with their state and counters
    List,
}

/// What can be done with the logs of a data folder.
#[derive(Subcommand, Debug)]
pub enum LogCommand {
    /// Check every batch, every record and every agent's chain; exit status 1 if one is damaged
    Verify(LogOptions),
    /// Print a line per batch and per record, from the first that a start reads; with --json each
    /// line is a JSON value
    Dump(LogOptions),
    /// Segments, live and dead bytes, chains, records by kind
    Stats(LogOptions),
    /// Say what going on without the damaged part would cost, and with --yes do it
    ///
    /// Agents stay as they were before the damage, unless whole batches after it hold them anew:
    /// no change is put on a state that it was not made from. What is kept is written as a new
    /// index, with which the next start begins. All old segments are kept in the folder
    /// damaged-TIME beside them.
    Repair {
        /// Which logs
        #[command(flatten)]
        options: LogOptions,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// Which logs.
#[derive(Args, Clone, Debug)]
pub struct LogOptions {
    /// Data folder of the node
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data: PathBuf,
    /// Only the log of this shard
    #[arg(long, value_name = "N")]
    pub shard: Option<u16>,
}

/// What can be done with config files. Each takes TOML or a compiled file.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Check TOML and write the binary file that a node maps
    Compile {
        /// TOML to read
        input: PathBuf,
        /// File to write; replaced in one step
        output: PathBuf,
    },
    /// Print every key with its value; without a file, the defaults
    Show {
        /// The config
        file: Option<PathBuf>,
    },
    /// Print the keys in which two configs differ
    Diff {
        /// One side
        left: PathBuf,
        /// The other
        right: PathBuf,
    },
    /// Name every error with its line; exit status 1 if there is one
    Check {
        /// The config
        file: PathBuf,
    },
}

/// Options of `top`.
#[derive(Args, Debug)]
pub struct TopOptions {
    /// Print one frame as text and end
    #[arg(long)]
    pub once: bool,
    /// Time between frames
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub interval_ms: u64,
}
