//! Compiled modules on disk, signed by the node's own key.
//!
//! Owns: the folder's files, their names, key and signatures.  Not: what is compiled, how.
//! N1  code is loaded only if this folder's key signed those very bytes for this module and these
//!     engine settings; the check is of the open file that is then mapped, not of its path. A
//!     shard takes the supervisor's word for a file that nobody has touched since it looked.
//! N2  [`ModuleCache::load`] never compiles and starts no thread, so that shards can call it.
//! N3  a file is whole or absent: it is written beside its place, synced, and renamed.
//! N4  the folder, the key and the files belong to this user, and nobody else may write them, or
//!     they are refused with the remedy.
//!
//! `MODULE-SETTINGS.cwasm` is what wasmtime serializes, bare, so that it can be mapped; the names'
//! parts are hashes in hexadecimal. `MODULE-SETTINGS.mac`, format 1, little endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `HrnyMac1` |
//! | 8 | 8 | length of the compiled module |
//! | 16 | 32 | hash of the module |
//! | 48 | 32 | hash of the settings and of wasmtime's version |
//! | 80 | 32 | BLAKE3 keyed by `key` of the 80 bytes above and the compiled module |
//!
//! `key` holds 32 random bytes, mode 0600, made at first use; `seen` is described in `seen.rs`.

#![allow(unsafe_code)]

use super::mapped::{FileState, Mapped, Owner, OwnerError, check_folder, open_owned};
use super::module::Prepared;
use super::seen::{Seen, Subject};
use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use wasmtime::{Engine, Module};

const MAGIC: [u8; 8] = *b"HrnyMac1";
const SIGNED_BYTES: usize = 80;
const SIDECAR_BYTES: usize = SIGNED_BYTES + 32;
const KEY_BYTES: usize = 32;
const KEY_NAME: &str = "key";

/// A folder of compiled modules.
#[derive(Debug)]
pub struct ModuleCache {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
}

/// Why a compiled module cannot be had. The folder is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file or the folder cannot be trusted or opened.
    #[error("module cache: {0}")]
    Owner(#[from] OwnerError),
    /// A file cannot be read or written.
    #[error("module cache: {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key is not secret.
    #[error("module cache: {path} has mode {mode:03o}, so others can read it; remove the folder")]
    KeyMode {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is not one.
    #[error("module cache: {path} has {len} bytes, a key has {KEY_BYTES}; remove the folder")]
    Key {
        /// The key's file.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// The module was never compiled with these settings.
    #[error("module cache: no compiled module {path}; deploy the template again")]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// The bytes are not what was signed.
    #[error("module cache: {path} {what}; remove it and deploy the template again")]
    Tampered {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The compiler refused the module.
    #[error("the module does not compile: {reason:#}")]
    Compile {
        /// Why.
        reason: wasmtime::Error,
    },
    /// The signed bytes do not load.
    #[error("module cache: {path} does not load: {reason:#}; is the folder on a noexec mount?")]
    Load {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: wasmtime::Error,
    },
}

impl ModuleCache {
    /// Opens the folder, for the process that compiles: makes it, and its key, when absent.
    pub fn open(folder: &Path) -> Result<ModuleCache, CacheError> {
        let fail = |source| CacheError::Io { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail)?;
        check_folder(folder)?;
        let key = folder.join(KEY_NAME);
        if !key.exists() {
            make_key(folder, &key).map_err(|source| CacheError::Io { path: key, source })?;
        }
        ModuleCache::attach(folder)
    }

    /// Opens a folder that [`ModuleCache::open`] has made.
    pub fn attach(folder: &Path) -> Result<ModuleCache, CacheError> {
        check_folder(folder)?;
        let key = read_key(&folder.join(KEY_NAME))?;
        Ok(ModuleCache { folder: folder.to_owned(), key })
    }

    /// Checks the compiled form of the module with this hash (N1): what [`ModuleCache::load`] takes
    /// for checked. Cost: one pass of BLAKE3 over a file not `seen` yet.
    pub fn check(
        &self,
        engine: &Engine,
        hash: &[u8; 32],
        seen: &Seen,
    ) -> Result<FileState, CacheError> {
        let names = Names::of(engine, hash);
        let path = self.folder.join(names.compiled());
        let file = open_existing(&path)?;
        self.check_file(&names, &path, &file, seen)
    }

    fn check_file(
        &self,
        names: &Names,
        path: &Path,
        file: &File,
        seen: &Seen,
    ) -> Result<FileState, CacheError> {
        let sidecar = read_sidecar(&self.folder.join(names.sidecar()))?;
        let io = |source| CacheError::Io { path: path.to_owned(), source };
        let tampered = |what| Err(CacheError::Tampered { path: path.to_owned(), what });
        let state = FileState::of(file).map_err(io)?;
        if state.len_bytes() == 0 {
            return tampered("is empty");
        }
        let head = self.head(names, state.len_bytes());
        let take = || Ok(*self.mac(&head, Mapped::new(file)?.bytes()).as_bytes());
        // Signed for another module, or with other settings, the same bytes have another MAC.
        let subject = Subject::Module(*blake3::hash(&head).as_bytes());
        let mac = blake3::Hash::from_bytes(seen.hash(subject, state, take).map_err(io)?);
        let (signed, signed_mac) = halves(&sidecar);
        // The comparison of two `blake3::Hash` takes the same time wherever they differ.
        if head != signed || mac != signed_mac {
            return tampered("is not what was signed for this module");
        }
        Ok(state)
    }

    /// Maps the compiled form of the module with this hash (N1, N2), which is looked at first
    /// unless it is still as it was when the supervisor `checked` it. Its pages are shared with
    /// every process that maps it.
    pub fn load(
        &self,
        engine: &Engine,
        hash: &[u8; 32],
        checked: Option<FileState>,
    ) -> Result<Module, CacheError> {
        let names = Names::of(engine, hash);
        let path = self.folder.join(names.compiled());
        let file = open_existing(&path)?;
        let io = |source| CacheError::Io { path: path.clone(), source };
        if checked != Some(FileState::of(&file).map_err(io)?) {
            self.check_file(&names, &path, &file, &Seen::nothing())?;
        }
        // SAFETY: the bytes must be what wasmtime serialized, and stay so. Their MAC says that this
        // node's key signed them (N1), which is done for nothing else; the mapping that follows is
        // of the same open file, which only this user can change (N4) and Heronry never does (N3).
        let loaded = unsafe { Module::deserialize_open_file(engine, file) };
        loaded.map_err(|reason| CacheError::Load { path, reason })
    }

    /// Loads the module, compiling it first when it is absent or was tampered with.
    /// Compiling uses threads: not for shards. CPython takes seconds.
    pub fn load_or_compile(
        &self,
        engine: &Engine,
        prepared: &Prepared,
    ) -> Result<Module, CacheError> {
        match self.load(engine, &prepared.hash, None) {
            Err(CacheError::Missing { .. } | CacheError::Tampered { .. }) => {}
            loaded => return loaded,
        }
        let compiled = engine
            .precompile_module(&prepared.wasm)
            .map_err(|reason| CacheError::Compile { reason })?;
        let names = Names::of(engine, &prepared.hash);
        self.write(&names.compiled(), &compiled)?;
        let head = self.head(&names, compiled.len() as u64);
        let sidecar = [&head[..], self.mac(&head, &compiled).as_bytes()].concat();
        self.write(&names.sidecar(), &sidecar)?;
        self.load(engine, &prepared.hash, None)
    }
}

impl ModuleCache {
    /// What is signed of a compiled module beside its bytes.
    fn head(&self, names: &Names, len_bytes: u64) -> [u8; SIGNED_BYTES] {
        let mut head = [0; SIGNED_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..16].copy_from_slice(&len_bytes.to_le_bytes());
        head[16..48].copy_from_slice(&names.module);
        head[48..].copy_from_slice(&names.settings);
        head
    }

    fn mac(&self, head: &[u8], compiled: &[u8]) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.key).update(head).update(compiled).finalize()
    }

    /// What was seen of files in earlier starts (`seen.rs`), signed with this folder's key.
    pub fn seen(&self) -> Seen {
        Seen::open(&self.folder, self.key)
    }

    /// Puts a file into the folder (N3).
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CacheError> {
        let path = self.folder.join(name);
        let beside = self.folder.join(format!("{name}.{}.part", std::process::id()));
        let written = write_new(&beside, bytes)
            .and_then(|()| std::fs::rename(&beside, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all());
        written.map_err(|source| CacheError::Io { path, source })
    }
}

/// What the files of one module are called by.
struct Names {
    module: [u8; 32],
    settings: [u8; 32],
}

impl Names {
    fn of(engine: &Engine, hash: &[u8; 32]) -> Names {
        let mut settings = Settings(blake3::Hasher::new());
        engine.precompile_compatibility_hash().hash(&mut settings);
        Names { module: *hash, settings: *settings.0.finalize().as_bytes() }
    }

    fn compiled(&self) -> String {
        self.name("cwasm")
    }

    fn sidecar(&self) -> String {
        self.name("mac")
    }

    fn name(&self, end: &str) -> String {
        let module = blake3::Hash::from_bytes(self.module).to_hex();
        let settings = blake3::Hash::from_bytes(self.settings).to_hex();
        format!("{module}-{}.{end}", &settings[..16])
    }
}

/// Hashes the settings the same way in every process.
struct Settings(blake3::Hasher);

impl Hasher for Settings {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("N1: the whole hash is taken, not 64 bits of it")
    }
}

/// What is signed, and the MAC.
fn halves(sidecar: &[u8; SIDECAR_BYTES]) -> (&[u8], blake3::Hash) {
    let (signed, mac) = sidecar.split_at(SIGNED_BYTES);
    (signed, blake3::Hash::from_slice(mac).expect("N1: a sidecar ends with 32 bytes of MAC"))
}

fn read_sidecar(path: &Path) -> Result<[u8; SIDECAR_BYTES], CacheError> {
    let file = open_existing(path)?;
    let bytes = read_up_to(file, SIDECAR_BYTES).map_err(|source| {
        let path = path.to_owned();
        CacheError::Io { path, source }
    })?;
    let what = "is no signature of this format";
    bytes.try_into().map_err(|_| CacheError::Tampered { path: path.to_owned(), what })
}

fn open_existing(path: &Path) -> Result<File, CacheError> {
    open_owned(path, Owner::User).map_err(|error| match error {
        OwnerError::Io { path, source } if source.kind() == io::ErrorKind::NotFound => {
            CacheError::Missing { path }
        }
        error => error.into(),
    })
}

/// The whole file, or one byte more than `len` of it.
fn read_up_to(file: File, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len + 1);
    file.take(len as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_key(path: &Path) -> Result<[u8; KEY_BYTES], CacheError> {
    let fail = |source| CacheError::Io { path: path.to_owned(), source };
    let file = open_owned(path, Owner::User)?;
    let found = file.metadata().map_err(fail)?;
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CacheError::KeyMode { path: path.to_owned(), mode });
    }
    let bytes = read_up_to(file, KEY_BYTES).map_err(fail)?;
    bytes.try_into().map_err(|_| CacheError::Key { path: path.to_owned(), len: found.len() })
}

/// Makes a key, or leaves the one that another process made meanwhile.
fn make_key(folder: &Path, path: &Path) -> io::Result<()> {
    let mut key = [0; KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    let beside = folder.join(format!("{KEY_NAME}.{}.part", std::process::id()));
    write_new(&beside, &key)?;
    // A link, unlike a rename, does not replace a key that others have signed with already.
    let linked = std::fs::hard_link(&beside, path);
    std::fs::remove_file(&beside)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(folder)?.sync_all(),
    }
}

/// Writes and syncs a file that only this user can read or write.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
