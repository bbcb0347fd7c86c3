//! Modules as a user deploys them: prepared or refused, compiled, signed, loaded.
//!
//! Owns: tests of `sandbox/module.rs` and `sandbox/cache.rs` from outside.  Not: running agents.

use heronry_shards::sandbox::cache::{CacheError, ModuleCache};
use heronry_shards::sandbox::host::{self, Host, HostConfig, HostState};
use heronry_shards::sandbox::module::{self, GlobalKind, ModuleError, Prepared, prepare};
use heronry_shards::sandbox::seen::Seen;
use heronry_shards::sandbox::tree::Tree;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wasmtime::{Engine, Instance, Linker, Module, Store};

fn prepared(text: &str) -> Result<Prepared, ModuleError> {
    prepare(&wat::parse_str(text).expect("text of a module"))
}

fn refusal(text: &str) -> String {
    prepared(text).expect_err("refused").to_string()
}

/// Runs a prepared module from its memory, as a sandbox does.
fn instance(prepared: &Prepared) -> (Store<Host>, Instance) {
    let engine = Engine::default();
    let module = Module::new(&engine, &prepared.wasm).expect("valid after preparing");
    let mut linker = Linker::new(&engine);
    host::link(&mut linker).expect("linked");
    let tree = Arc::new(Tree::empty());
    let state = HostState::new(prepared.hash, tree.hash(), [0; 32]);
    let host = Host::new(state, tree, Arc::new(HostConfig::default())).expect("its own tree");
    let mut store = Store::new(&engine, host);
    let instance = linker.instantiate(&mut store, &module).expect("instantiated");
    let memory = instance.get_memory(&mut store, "memory").expect("exported");
    memory.data_mut(&mut store).copy_from_slice(&prepared.memory);
    (store, instance)
}

const AGENT: &str = r#"(module
  (import "heronry" "reply" (func $reply (param i64 i32 i32)))
  (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
  (memory (export "memory") 1 8)
  (global $hidden (mut i32) (i32.const 5))
  (global $fixed i32 (i32.const 6))
  (global $shown (export "shown") (mut f64) (f64.const 1.5))
  (data (i32.const 8) "first")
  (data (i32.const 10) "over")
  (func (export "heronry_alloc") (param i32) (result i32) (i32.const 64))
  (func (export "heronry_message") (param i64 i32 i32) (result i32)
    (global.set $hidden (i32.add (global.get $hidden) (i32.const 1)))
    (call $reply (local.get 0) (local.get 1) (local.get 2))
    (i32.const 0)))"#;

#[test]
fn a1_a_prepared_module_has_its_globals_exported_and_its_data_in_memory() {
    let prepared = prepared(AGENT).expect("prepared");
    prepared.check_agent().expect("an agent");
    let globals: Vec<_> = prepared.globals.iter().map(|g| (&g.export_name[..], g.kind)).collect();
    let expected =
        [("__heronry_global_0", GlobalKind::I32), ("__heronry_global_2", GlobalKind::F64)];
    assert_eq!(globals, expected);
    assert_eq!(prepared.memory.len(), 65_536);
    assert_eq!(&prepared.memory[6..16], b"\0\0fiover\0\0");
    assert_eq!((prepared.memory_pages_max, prepared.start), (8, None));
    let (mut store, instance) = instance(&prepared);
    store.data_mut().state.open_request(9);
    let message = instance
        .get_typed_func::<(i64, i32, i32), i32>(&mut store, "heronry_message")
        .expect("typed");
    assert_eq!(message.call(&mut store, (1, 10, 4)).expect("no trap"), 0);
    let left = store.data_mut().take();
    assert_eq!(left.replies[0].answer.as_deref(), Ok(&b"over"[..]));
    let hidden = instance.get_global(&mut store, "__heronry_global_0").expect("exported");
    assert_eq!(hidden.get(&mut store).i32(), Some(6));
}

#[test]
fn a2_a_start_function_runs_when_it_is_called_and_not_at_instantiation() {
    let prepared = prepared(
        r#"(module (memory 1) (global $runs (mut i32) (i32.const 0))
           (func $start (global.set $runs (i32.add (global.get $runs) (i32.const 1))))
           (start $start))"#,
    )
    .expect("prepared");
    let (mut store, instance) = instance(&prepared);
    let runs = instance.get_global(&mut store, "__heronry_global_0").expect("exported");
    assert_eq!(runs.get(&mut store).i32(), Some(0));
    let name = prepared.start.expect("a start function");
    let start = instance.get_typed_func::<(), ()>(&mut store, name).expect("exported");
    start.call(&mut store, ()).expect("no trap");
    assert_eq!(runs.get(&mut store).i32(), Some(1));
}

#[test]
fn a2_memory_init_finds_its_segments_and_active_ones_are_gone() {
    let prepared = prepared(
        r#"(module (memory (export "memory") 1)
           (data (i32.const 0) "active") (data $kept "passive")
           (func (export "kept") (memory.init $kept (i32.const 100) (i32.const 0) (i32.const 7)))
           (func (export "gone") (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 1))))"#,
    )
    .expect("prepared");
    let (mut store, instance) = instance(&prepared);
    let call = |store: &mut Store<Host>, name: &str| {
        let function = instance.get_typed_func::<(), ()>(&mut *store, name).expect("exported");
        function.call(store, ())
    };
    call(&mut store, "kept").expect("no trap");
    call(&mut store, "gone").expect_err("an active segment is dropped once it was written");
    let memory = instance.get_memory(&mut store, "memory").expect("exported");
    assert_eq!(&memory.data(&store)[100..107], b"passive");
    assert_eq!(&memory.data(&store)[..6], b"active");
}

#[test]
fn a2_offsets_may_be_sums_and_tables_stay() {
    let prepared = prepared(
        r#"(module (memory 1) (table 2 funcref) (elem (i32.const 0) $f $f)
           (data (offset (i32.sub (i32.const 30) (i32.mul (i32.const 2) (i32.const 5)))) "x")
           (type $t (func (result i32)))
           (func $f (result i32) (i32.const 7))
           (func (export "f") (result i32) (call_indirect (type $t) (i32.const 1))))"#,
    )
    .expect("prepared");
    assert_eq!(prepared.memory[20], b'x');
    let (mut store, instance) = instance(&prepared);
    let f = instance.get_typed_func::<(), i32>(&mut store, "f").expect("exported");
    assert_eq!(f.call(&mut store, ()).expect("no trap"), 7);
}

#[test]
fn a1_what_cannot_be_captured_is_refused_by_name() {
    for (text, reason) in [
        ("(module)", "has 0 memories"),
        ("(module (memory 1) (memory 1))", "has 2 memories"),
        ("(module (memory 1 1 shared))", "shared"),
        ("(module (memory i64 1))", "64-bit"),
        (r#"(module (import "env" "m" (memory 1)))"#, r#"the memory "env" "m""#),
        (r#"(module (import "env" "g" (global i32)) (memory 1))"#, "the global"),
        (r#"(module (import "env" "t" (table 1 funcref)) (memory 1))"#, "the table"),
        (r#"(module (import "env" "f" (func)) (memory 1))"#, r#"imports "env" "f""#),
        (r#"(module (import "heronry" "nothing" (func)) (memory 1))"#, r#""nothing""#),
        (
            r#"(module (import "heronry" "sleep" (func (param i32))) (memory 1))"#,
            r#""heronry" "sleep" as (i32) -> (); it is (i64) -> (i64)"#,
        ),
        (
            "(module (memory 1) (table 1 funcref)
              (func (table.set (i32.const 0) (ref.null func))))",
            "function 0 uses table.set",
        ),
        (
            "(module (memory 1) (table 1 funcref)
              (func (drop (table.grow (ref.null func) (i32.const 1)))))",
            "table.grow",
        ),
        (
            "(module (memory 1) (table 1 funcref)
              (func (table.fill (i32.const 0) (ref.null func) (i32.const 1))))",
            "table.fill",
        ),
        (
            "(module (memory 1) (table 1 funcref)
              (func (table.copy (i32.const 0) (i32.const 0) (i32.const 1))))",
            "table.copy",
        ),
        (
            "(module (memory 1) (table 1 funcref) (elem func)
              (func (table.init 0 (i32.const 0) (i32.const 0) (i32.const 0))))",
            "table.init",
        ),
        (r#"(module (memory 1) (data "x") (func (data.drop 0)))"#, "data.drop"),
        ("(module (memory 1) (global (mut funcref) (ref.null func)))", "mutable global 0"),
        (
            "(module (memory 1) (global (mut v128) (v128.const i64x2 0 0)))",
            "is a v128, which cannot be captured",
        ),
        (r#"(module (memory 1) (data (i32.const 65534) "abc"))"#, "ends at byte 65537"),
        (r#"(module (memory 1) (data (i32.const -1) "a"))"#, "ends at byte 4294967296"),
        (r#"(module (memory 1) (func (export "__heronry_x")))"#, "__heronry_x"),
        (r#"(module (memory 1) (func (export "memory")))"#, r#"exports "memory""#),
        (
            r#"(module (memory 1) (func (export "heronry_alloc")))"#,
            r#""heronry_alloc" as () -> (); the ABI has (i32) -> (i32)"#,
        ),
        (r#"(module (memory 1) (export "heronry_init" (memory 0)))"#, "not a function"),
        ("(module (memory 5000))", "bytes of memory at the start"),
        ("(module (memory 1) (table 200000 funcref))", "elements in its tables"),
    ] {
        let found = refusal(text);
        assert!(found.contains(reason), "{text}\n{found}");
    }
}

#[test]
fn v1_proposals_that_are_not_allowed_are_named() {
    for (text, reason) in [
        ("(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))", "uses threads"),
        ("(module (memory 1) (tag))", "uses exceptions"),
        ("(module (memory 1) (func $f (return_call $f)))", "uses tail calls"),
        ("(module (memory 1) (type (struct)))", "garbage-collected types"),
        ("(module (memory 1) (table i64 1 funcref))", "uses 64-bit"),
        (
            "(module (memory 1) (func (param v128) (result v128) (i32x4.relaxed_trunc_f32x4_s
              (local.get 0))))",
            "uses relaxed SIMD",
        ),
    ] {
        let found = refusal(text);
        assert!(found.contains(reason), "{text}\n{found}");
    }
}

#[test]
fn a1_an_agent_needs_the_exports_that_it_is_called_by() {
    let missing = |text: &str| {
        prepared(text).expect("prepared").check_agent().expect_err("refused").to_string()
    };
    assert!(missing("(module (memory 1))").contains("heronry_alloc"));
    let asks = AGENT.replacen(
        "(memory",
        r#"(import "heronry" "sleep" (func (param i64) (result i64))) (memory"#,
        1,
    );
    assert!(missing(&asks).contains("heronry_result"));
}

#[test]
fn a3_the_hash_names_the_original_bytes() {
    let (one, two) = (wat::parse_str(AGENT).expect("text"), vec![1]);
    assert_eq!(prepared(AGENT).expect("prepared").hash, module::hash(&one));
    assert_ne!(module::hash(&one), module::hash(&two));
    assert_ne!(module::hash(&one), *blake3::hash(&one).as_bytes());
}

#[test]
fn a4_what_is_no_module_is_refused() {
    assert!(matches!(prepare(b""), Err(ModuleError::Invalid(_))));
    assert!(matches!(prepare(b"print('hello')"), Err(ModuleError::Invalid(_))));
    assert!(matches!(prepare(b"\0asm\x0d\0\x01\0"), Err(ModuleError::Component)));
    let large = vec![0; module::MODULE_BYTES_MAX + 1];
    assert!(matches!(prepare(&large), Err(ModuleError::TooMany { what: "bytes", .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a4_damaged_modules_are_prepared_or_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut wasm = wat::parse_str(AGENT).expect("text");
        let at = at.index(wasm.len());
        wasm[at] = byte;
        if let Some(cut) = cut {
            wasm.truncate(cut.index(wasm.len()));
        }
        if let Ok(prepared) = prepare(&wasm) {
            Module::validate(&Engine::default(), &prepared.wasm).expect("A2");
        }
    }
}

struct Folder {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Folder {
    fn new() -> Folder {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("modules");
        Folder { _folder: folder, path }
    }

    fn file(&self, end: &str) -> PathBuf {
        let mut found = std::fs::read_dir(&self.path)
            .expect("listed")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.extension().is_some_and(|found| found == end));
        found.next().expect("a file")
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("mode");
}

#[test]
fn n1_a_module_is_compiled_once_and_loads_in_a_cache_that_was_opened_anew() {
    let (folder, engine) = (Folder::new(), Engine::default());
    let prepared = prepared(AGENT).expect("prepared");
    let cache = ModuleCache::open(&folder.path).expect("a folder");
    let missing = cache.load(&engine, &prepared.hash, None);
    assert!(matches!(missing, Err(CacheError::Missing { .. })));
    cache.load_or_compile(&engine, &prepared).expect("compiled");
    let written =
        || std::fs::metadata(folder.file("cwasm")).expect("there").modified().expect("time");
    let first = written();
    cache.load_or_compile(&engine, &prepared).expect("loaded");
    assert_eq!(written(), first);
    let again = ModuleCache::attach(&folder.path).expect("the same folder");
    let module = again.load(&engine, &prepared.hash, None).expect("loaded");
    assert!(module.get_export("heronry_message").is_some());
    let left: Vec<_> = std::fs::read_dir(&folder.path).expect("listed").collect();
    assert_eq!(left.len(), 3, "N3: key, module and signature, no remains");
    let other = Engine::new(wasmtime::Config::new().epoch_interruption(true)).expect("engine");
    let missing = again.load(&other, &prepared.hash, None);
    assert!(matches!(missing, Err(CacheError::Missing { .. })), "N1: other settings");
}

#[test]
fn n1_tampered_and_cut_files_are_refused_by_load_and_compiled_anew() {
    let (folder, engine) = (Folder::new(), Engine::default());
    let prepared = prepared(AGENT).expect("prepared");
    let cache = ModuleCache::open(&folder.path).expect("a folder");
    cache.load_or_compile(&engine, &prepared).expect("compiled");
    for end in ["cwasm", "mac"] {
        let path = folder.file(end);
        let whole = std::fs::read(&path).expect("read");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let mut last = whole.clone();
        *last.last_mut().expect("not empty") ^= 1;
        let longer = [&whole[..], b"x"].concat();
        let cut = whole[..whole.len() - 1].to_vec();
        for bytes in [flipped, last, longer, cut, Vec::new()] {
            std::fs::write(&path, bytes).expect("written");
            let refused = cache.load(&engine, &prepared.hash, None);
            assert!(matches!(refused, Err(CacheError::Tampered { .. })), "{end}: {refused:?}");
            cache.load_or_compile(&engine, &prepared).expect("compiled anew");
            cache.load(&engine, &prepared.hash, None).expect("loaded");
        }
    }
}

#[test]
fn n1_a_file_that_was_touched_since_it_was_checked_is_looked_at_again() {
    let (folder, engine) = (Folder::new(), Engine::default());
    let prepared = prepared(AGENT).expect("prepared");
    let cache = ModuleCache::open(&folder.path).expect("a folder");
    cache.load_or_compile(&engine, &prepared).expect("compiled");
    let checked =
        cache.check(&engine, &prepared.hash, &Seen::nothing()).expect("it is what was signed");
    cache.load(&engine, &prepared.hash, Some(checked)).expect("loaded");
    let path = folder.file("cwasm");
    let whole = std::fs::read(&path).expect("read");
    let modified = std::fs::metadata(&path).expect("there").modified().expect("a time");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    // In place, as long as before, and as old as before to all appearances; or another file.
    let in_place = || {
        std::fs::write(&path, &flipped).expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("there");
        file.set_modified(modified).expect("a time");
    };
    let another = || {
        let beside = path.with_extension("other");
        std::fs::write(&beside, &flipped).expect("written");
        std::fs::rename(&beside, &path).expect("renamed");
    };
    for change in [&in_place as &dyn Fn(), &another] {
        std::fs::write(&path, &whole).expect("written");
        let checked =
            cache.check(&engine, &prepared.hash, &Seen::nothing()).expect("it is what was signed");
        // The kernel's clock of files goes on in ticks: not before the next one is this another.
        let mut refused = cache.load(&engine, &prepared.hash, Some(checked));
        while refused.is_ok() {
            change();
            refused = cache.load(&engine, &prepared.hash, Some(checked));
        }
        assert!(matches!(refused, Err(CacheError::Tampered { .. })), "{refused:?}");
    }
}

#[test]
fn n1_the_signature_of_one_module_is_not_that_of_another() {
    let (folder, engine) = (Folder::new(), Engine::default());
    let cache = ModuleCache::open(&folder.path).expect("a folder");
    let one = prepared(AGENT).expect("prepared");
    cache.load_or_compile(&engine, &one).expect("compiled");
    let two = prepared(&AGENT.replace("first", "FIRST")).expect("prepared");
    let name = |hash: [u8; 32]| blake3::Hash::from_bytes(hash).to_hex().to_string();
    for end in ["cwasm", "mac"] {
        let path = folder.file(end);
        let copy = path.to_str().expect("text").replace(&name(one.hash), &name(two.hash));
        std::fs::copy(&path, copy).expect("copied");
    }
    let refused = cache.load(&engine, &two.hash, None);
    assert!(matches!(refused, Err(CacheError::Tampered { .. })));
}

#[test]
fn n4_a_folder_or_files_that_others_may_write_are_refused_with_the_remedy() {
    let (folder, engine) = (Folder::new(), Engine::default());
    let prepared = prepared(AGENT).expect("prepared");
    let cache = ModuleCache::open(&folder.path).expect("a folder");
    cache.load_or_compile(&engine, &prepared).expect("compiled");
    let refused = |error: CacheError| {
        assert!(error.to_string().contains("chmod go-w"), "{error}");
    };
    mode(&folder.path, 0o770);
    refused(ModuleCache::open(&folder.path).expect_err("refused"));
    mode(&folder.path, 0o700);
    for end in ["cwasm", "mac"] {
        mode(&folder.file(end), 0o622);
        refused(cache.load_or_compile(&engine, &prepared).expect_err("refused"));
        mode(&folder.file(end), 0o600);
    }
    let key = folder.path.join("key");
    mode(&key, 0o640);
    let error = ModuleCache::attach(&folder.path).expect_err("refused");
    assert!(matches!(error, CacheError::KeyMode { mode: 0o640, .. }), "{error}");
    mode(&key, 0o600);
    std::fs::write(&key, [0; 31]).expect("written");
    let error = ModuleCache::open(&folder.path).expect_err("refused");
    assert!(matches!(error, CacheError::Key { len: 31, .. }), "{error}");
}

#[test]
fn n4_another_key_signs_nothing_here() {
    let (folder, engine) = (Folder::new(), Engine::default());
    let prepared = prepared(AGENT).expect("prepared");
    let cache = ModuleCache::open(&folder.path).expect("a folder");
    cache.load_or_compile(&engine, &prepared).expect("compiled");
    std::fs::write(folder.path.join("key"), [7; 32]).expect("written");
    let other = ModuleCache::attach(&folder.path).expect("a key");
    let refused = other.load(&engine, &prepared.hash, None);
    assert!(matches!(refused, Err(CacheError::Tampered { .. })));
}
