//! Building a template: instantiate once, load the source, warm up, seal.
//!
//! Owns: the order of a build, for a process of its own that may compile and take its time.
//! Not: when templates are built (the control thread), the file's format (`template.rs`).
//! U1  what is built is a function of the module, the source and the warm-up: the guest's
//!     randomness is seeded by them, and every agent gets its own at its first turn.
//! U2  a template awaits nothing: its source cannot call anybody.

use super::cache::{CacheError, ModuleCache};
use super::host::{self, Host, HostConfig, HostError, HostState, Left};
use super::instance::{CompiledModule, Entry, GuestCall, Instance, InstanceError, Progress};
use super::instance::{SandboxPlan, Sandboxes, engine_config};
use super::mapped::FileState;
use super::module::{ModuleError, Prepared, prepare};
use super::seen::Seen;
use super::slot::{BaseImage, Lengths, PAGE, SlotError};
use super::template::{TemplateFile, TemplateFileError, TemplateHeader};
use super::tree::{Tree, TreeError, TreeState};
use bytes::Bytes;
use heronry_engine::verb::Language;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Most CPU time of one step of a build.
const STEP_CPU_MAX: Duration = Duration::from_secs(60);
/// Longest summary taken from a source.
const SUMMARY_CHARS_MAX: usize = 80;

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildPlan {
    /// What the source is.
    pub language: Language,
    /// The agent's file; `None` for the interpreter alone. A module in Wasm must be given.
    pub source: Option<PathBuf>,
    /// Code to run before sealing.
    pub warm: Option<PathBuf>,
    /// Where the interpreters are (`tools/guests/build`).
    pub guests_dir: PathBuf,
    /// Where compiled modules are.
    pub cache_dir: PathBuf,
    /// Largest linear memory in bytes.
    pub memory_bytes_max: u64,
    /// The template's file, made by the build.
    pub out: PathBuf,
}

/// Why there is no template. The file was not made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The interpreter was not built.
    #[error(
        "no {} interpreter at {}; tools/guests/build makes it", language.name(), path.display()
    )]
    NoGuest {
        /// Which.
        language: Language,
        /// Where it should be.
        path: PathBuf,
    },
    /// It was built from a module that is not there any more.
    #[error("{} {OTHER_MODULE}", path.display())]
    OtherModule {
        /// What is there.
        path: PathBuf,
    },
    /// A module in Wasm is its own source.
    #[error("a wasm template needs its module as source")]
    NoSource,
    /// The module is refused.
    #[error("the module is refused: {0}")]
    Module(#[from] ModuleError),
    /// The cache of compiled modules is refused.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The file tree is refused.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The sandbox cannot be made.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The host state does not fit.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A slot cannot be made.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The guest failed; its words.
    #[error("{what} failed: {reason}")]
    Guest {
        /// Which step.
        what: &'static str,
        /// The guest's words.
        reason: String,
    },
    /// The module lacks what the plan asks for.
    #[error("the module exports no {export}, so it cannot {purpose}")]
    Missing {
        /// The export.
        export: &'static str,
        /// What for.
        purpose: &'static str,
    },
    /// U2.
    #[error("the source asks for calls, sleeps or messages while it is loaded; do so in a handler")]
    Awaits,
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] TemplateFileError),
}

/// What [`BuildError::OtherModule`] says of a module.
pub const OTHER_MODULE: &str = "is not the module that it was built from";

/// Builds a template. Cost: compiling the module once (seconds for CPython, then cached), and what
/// the source and the warm-up take. Uses threads to compile: not for shards.
pub fn build(plan: &BuildPlan) -> Result<(), BuildError> {
    let (module_path, tree_path) = module_of(plan)?;
    let wasm = read(&module_path)?;
    let prepared = prepare(&wasm)?;
    prepared.check_agent()?;
    let sandboxes = Sandboxes::new(SandboxPlan { compiles: true, ..SandboxPlan::default() })?;
    let cache = ModuleCache::open(&plan.cache_dir)?;
    let module = cache.load_or_compile(sandboxes.engine(), &prepared)?;
    let mut linker = wasmtime::Linker::new(sandboxes.engine());
    host::link(&mut linker).map_err(InstanceError::Link)?;
    let names = prepared.globals.iter().map(|global| global.export_name.as_str());
    let module = Rc::new(CompiledModule::new(&sandboxes, &module, &linker, names)?);
    let tree = Arc::new(match &tree_path {
        Some(path) => Tree::open(path, None)?,
        None => Tree::empty(),
    });
    let interpreted = plan.language != Language::Wasm;
    let source = plan.source.as_deref().filter(|_| interpreted).map(read).transpose()?;
    let mut warm = plan.warm.as_deref().map(read).transpose()?;
    // The last step of an interpreter, if only with nothing: there it settles for good.
    if interpreted && module.has(Entry::Warm) {
        warm.get_or_insert_default();
    }
    let config = Arc::new(HostConfig::default());
    let state = HostState::new(prepared.hash, tree.hash(), seed(&source, &warm));
    let host = Host::new(state, tree, Arc::clone(&config))?;
    let mut guest = start(plan, &sandboxes, &module, &prepared, host)?;
    run_steps(&mut guest, &module, &prepared, source.as_deref(), warm)?;
    let memory = memory_of(&guest);
    let state = seal(&mut guest, memory.len() as u64)?;
    let header = TemplateHeader {
        language: plan.language,
        module: prepared.hash,
        globals: prepared.globals.into_iter().map(|global| global.export_name).collect(),
        tree: tree_path,
        args: config.args.clone(),
        env: config.env.clone(),
        state,
        summary: summary(plan.language, source.as_deref()),
    };
    Ok(TemplateFile::write(&plan.out, &header, &memory)?)
}

/// Compiles again the module that a built template needs. The template itself stays as it is: what
/// its agents have on disk rests on its memory, and another build of it may have another.
/// Errors: the module of today is another. Uses threads: not for shards.
pub fn compile_again(plan: &BuildPlan, module: &[u8; 32]) -> Result<(), BuildError> {
    let (path, _) = module_of(plan)?;
    let prepared = prepare(&read(&path)?)?;
    if prepared.hash != *module {
        return Err(BuildError::OtherModule { path });
    }
    let sandboxes = Sandboxes::new(SandboxPlan { compiles: true, ..SandboxPlan::default() })?;
    let cache = ModuleCache::open(&plan.cache_dir)?;
    cache.load_or_compile(sandboxes.engine(), &prepared)?;
    Ok(())
}

/// What a built template needs beside its file, as it was when it was looked at: shards that load
/// the template need not look at it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Needs {
    pub(super) module: FileState,
    pub(super) tree: Option<TreeState>,
}

/// Checks that what a built template needs beside its file is there and whole: the compiled module
/// and the file tree. Cost: one pass over what was not `seen` yet, on two threads: not for shards.
pub fn check_needs(
    header: &TemplateHeader,
    cache_dir: &Path,
    seen: &Seen,
) -> Result<Needs, BuildError> {
    std::thread::scope(|scope| {
        let check_tree = |path| Tree::check(path, seen);
        let tree = scope.spawn(move || header.tree.as_deref().map(check_tree).transpose());
        let engine = wasmtime::Engine::new(&engine_config()).map_err(InstanceError::Engine)?;
        let module = ModuleCache::attach(cache_dir)?.check(&engine, &header.module, seen)?;
        let tree = tree.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Needs { module, tree })
    })
}

/// The module's file, and its file tree's.
fn module_of(plan: &BuildPlan) -> Result<(PathBuf, Option<PathBuf>), BuildError> {
    if plan.language == Language::Wasm {
        return Ok((plan.source.clone().ok_or(BuildError::NoSource)?, None));
    }
    let name = plan.language.name();
    // The folder's name says what is in it: a link to the newest must not change under a template.
    let folder = plan.guests_dir.canonicalize().unwrap_or_else(|_| plan.guests_dir.clone());
    let path = folder.join(format!("{name}.wasm"));
    if !path.is_file() {
        return Err(BuildError::NoGuest { language: plan.language, path });
    }
    let tree = folder.join(format!("{name}.tar"));
    Ok((path, tree.is_file().then_some(tree)))
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path).map_err(|source| BuildError::Read { path: path.to_owned(), source })
}

/// The guest's randomness while it is built (U1).
fn seed(source: &Option<Vec<u8>>, warm: &Option<Vec<u8>>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in [source, warm].into_iter().flatten() {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    *hasher.finalize().as_bytes()
}

fn start(
    plan: &BuildPlan,
    sandboxes: &Sandboxes,
    module: &Rc<CompiledModule<Host>>,
    prepared: &Prepared,
    host: Host,
) -> Result<Instance<Host>, BuildError> {
    let base = Arc::new(BaseImage::from_bytes(&prepared.memory)?);
    let pages = u64::from(prepared.memory_pages_max).min(plan.memory_bytes_max / 65_536);
    let memory_bytes = prepared.memory.len();
    let memory_bytes_max = (pages as usize * 65_536).max(memory_bytes);
    let lengths = Lengths { memory_bytes, memory_bytes_max };
    Ok(Instance::new(sandboxes, module, &base, lengths, host)?)
}

fn run_steps(
    guest: &mut Instance<Host>,
    module: &CompiledModule<Host>,
    prepared: &Prepared,
    source: Option<&[u8]>,
    warm: Option<Vec<u8>>,
) -> Result<(), BuildError> {
    if let Some(name) = prepared.start {
        let call = GuestCall::Export { name: name.to_owned(), args: Vec::new() };
        run(guest, "the module's start function", call)?;
    }
    if module.has(Entry::Initialize) {
        run(guest, "_initialize", GuestCall::Initialize)?;
    }
    if module.has(Entry::Init) {
        run(guest, "starting the guest", GuestCall::Init)?;
    }
    if let Some(source) = source {
        if !module.has(Entry::Load) {
            let (export, purpose) = ("heronry_load", "take a source");
            return Err(BuildError::Missing { export, purpose });
        }
        run(guest, "loading the source", GuestCall::Load(Bytes::copy_from_slice(source)))?;
    }
    if let Some(warm) = warm {
        if !module.has(Entry::Warm) {
            let (export, purpose) = ("heronry_warm", "be warmed up");
            return Err(BuildError::Missing { export, purpose });
        }
        run(guest, "the warm-up", GuestCall::Warm(warm.into()))?;
    }
    Ok(())
}

/// One call into the guest, to its end. What it prints goes to our output.
fn run(guest: &mut Instance<Host>, what: &'static str, call: GuestCall) -> Result<(), BuildError> {
    guest.host_mut().begin(0, unix_ns());
    guest.start(call, STEP_CPU_MAX);
    let outcome = loop {
        if let Progress::Done(outcome) = guest.poll() {
            break outcome;
        }
    };
    let Left { effects, failure, stdout, stderr, .. } = guest.host_mut().take();
    let printed = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    let failed = |reason: String| {
        let reason = if printed.is_empty() { reason } else { format!("{reason}\n{printed}") };
        Err(BuildError::Guest { what, reason })
    };
    match outcome {
        Ok(0) if effects.is_empty() => Ok(()),
        Ok(0) => Err(BuildError::Awaits),
        Ok(_) => failed(failure.unwrap_or_else(|| "it did not say why".to_owned())),
        Err(trap) => failed(match failure {
            Some(text) => format!("{trap}: {text}"),
            None => trap.to_string(),
        }),
    }
}

fn memory_of(guest: &Instance<Host>) -> Vec<u8> {
    let slot = guest.slot();
    let mut memory = Vec::with_capacity(slot.len_bytes());
    for page_idx in 0..(slot.len_bytes() / PAGE) as u32 {
        memory.extend_from_slice(slot.page(page_idx));
    }
    memory
}

fn seal(guest: &mut Instance<Host>, memory_bytes: u64) -> Result<Vec<u8>, BuildError> {
    let mut globals = Vec::new();
    guest.globals(&mut globals);
    let state = &mut guest.host_mut().state;
    if !state.calls.is_empty() {
        return Err(BuildError::Awaits);
    }
    state.globals = globals;
    state.memory_bytes = memory_bytes;
    state.clock = host::Clock::default();
    let mut encoded = Vec::new();
    state.encode(&mut encoded);
    Ok(encoded)
}

fn unix_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// The source's first words, as its author would name it.
fn summary(language: Language, source: Option<&[u8]>) -> String {
    let name = language.name();
    let Some(source) = source else {
        return match language {
            Language::Wasm => "a WebAssembly module".to_owned(),
            _ => format!("a live {name} interpreter; AGENT.EXEC runs code in it"),
        };
    };
    let text = String::from_utf8_lossy(source);
    let words = |line: &str| line.trim_matches([' ', '#', '/', '*', '"', '\'']).to_owned();
    let first = text.lines().map(words).find(|line| !line.is_empty()).unwrap_or_default();
    format!("{name}: {}", first.chars().take(SUMMARY_CHARS_MAX).collect::<String>())
}
