//! Tests of the host and of the functions of `heronry`, called through a guest.
//!
//! Owns: a guest that can call every import with anything.  Not: what WASI's functions mean
//! (`wasi/tests.rs`).

use super::*;
use heronry_engine::limits::{CALL_COUNT_MAX, EFFECT_COUNT_MAX, FORK_COUNT_MAX};
use proptest::prelude::*;
use wasmtime::{Engine, Instance, Store, Val};

fn host() -> Host {
    let mut state = HostState::new([0; 32], Tree::empty().hash(), [9; 32]);
    state.agent_key = "py/ann".to_owned();
    let config = HostConfig { payload_bytes_max: 1_000, ..HostConfig::default() };
    Host::new(state, Arc::new(Tree::empty()), Arc::new(config)).expect("its own tree")
}

/// A guest that exports each import, so that a test can call it with anything.
struct Guest {
    store: Store<Host>,
    instance: Instance,
}

impl Guest {
    fn new() -> Guest {
        let engine = Engine::default();
        let mut linker = Linker::new(&engine);
        link(&mut linker).expect("linked");
        let module = wasmtime::Module::new(&engine, all_imports()).expect("valid");
        let mut store = Store::new(&engine, host());
        let instance = linker.instantiate(&mut store, &module).expect("instantiated");
        Guest { store, instance }
    }

    fn write(&mut self, ptr: usize, bytes: &[u8]) {
        let memory = self.instance.get_memory(&mut self.store, "memory").expect("exported");
        memory.data_mut(&mut self.store)[ptr..ptr + bytes.len()].copy_from_slice(bytes);
    }

    fn read(&mut self, ptr: usize, len: usize) -> Vec<u8> {
        let memory = self.instance.get_memory(&mut self.store, "memory").expect("exported");
        memory.data(&self.store)[ptr..ptr + len].to_vec()
    }

    /// The result as 64 bits, 0 for none.
    fn call(&mut self, name: &str, args: &[i64]) -> wasmtime::Result<i64> {
        let function = self.instance.get_func(&mut self.store, name).expect("exported");
        let ty = function.ty(&self.store);
        let args: Vec<Val> = ty
            .params()
            .zip(args)
            .map(|(ty, arg)| if ty.is_i64() { Val::I64(*arg) } else { Val::I32(*arg as i32) })
            .collect();
        let mut results = vec![Val::I32(0); ty.results().len()];
        function.call(&mut self.store, &args, &mut results)?;
        Ok(match results.first() {
            Some(Val::I32(result)) => i64::from(*result),
            Some(Val::I64(result)) => *result,
            _ => 0,
        })
    }

    fn host(&mut self) -> &mut Host {
        self.store.data_mut()
    }
}

/// A module of 2 pages that exports, as `module.name`, a function around every one that can be
/// imported.
fn all_imports() -> Vec<u8> {
    use wasm_encoder::*;
    let (mut types, mut imports) = (TypeSection::new(), ImportSection::new());
    let (mut functions, mut exports) = (FunctionSection::new(), ExportSection::new());
    let mut codes = CodeSection::new();
    let wire = |wire: &Wire| if *wire == Wire::I32 { ValType::I32 } else { ValType::I64 };
    let count = signatures().count() as u32;
    for (idx, signature) in (0..).zip(signatures()) {
        let results: Vec<Wire> = signature.result.into_iter().collect();
        types.ty().function(signature.params.iter().map(wire), results.iter().map(wire));
        imports.import(signature.module, signature.name, EntityType::Function(idx));
        functions.function(idx);
        let name = format!("{}.{}", signature.module, signature.name);
        exports.export(&name, ExportKind::Func, count + idx);
        let mut code = Function::new([]);
        for param in 0..signature.params.len() {
            code.instruction(&Instruction::LocalGet(param as u32));
        }
        code.instruction(&Instruction::Call(idx)).instruction(&Instruction::End);
        codes.function(&code);
    }
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: 2,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    exports.export("memory", ExportKind::Memory, 0);
    let mut module = Module::new();
    module.section(&types).section(&imports).section(&functions).section(&memories);
    module.section(&exports).section(&codes);
    module.finish()
}

#[test]
fn l1_every_function_links_with_its_signature_and_preview_1_is_whole() {
    Guest::new();
    let wasi = signatures().filter(|signature| signature.module == wasi::MODULE).count();
    assert_eq!(wasi, 46);
    assert_eq!(signatures().count() - wasi, 12);
}

#[test]
fn m1_effects_and_replies_wait_in_their_order_until_taken() {
    let mut guest = Guest::new();
    guest.host().begin(1_000, 0);
    let request = guest.host().state.open_request(70).expect("room");
    guest.write(0, b"js/bobpayload");
    assert_eq!(guest.call("heronry.send", &[0, 6, 6, 7]).expect("no trap"), 0);
    assert_eq!(guest.call("heronry.call", &[0, 6, 6, 3]).expect("no trap"), 1);
    assert_eq!(guest.call("heronry.sleep", &[500]).expect("no trap"), 2);
    assert_eq!(guest.call("heronry.sleep", &[-500]).expect("no trap"), 3);
    assert_eq!(guest.call("heronry.http", &[6, 7]).expect("no trap"), 4);
    assert_eq!(guest.call("heronry.checkpoint", &[0, 0]).expect("no trap"), 5);
    assert_eq!(guest.call("heronry.fork", &[8]).expect("no trap"), 6);
    assert_eq!(guest.call("heronry.rollback", &[6, 3]).expect("no trap"), 7);
    guest.call("heronry.reply", &[request as i64, 6, 7]).expect("no trap");
    guest.call("heronry.fail", &[6, 7]).expect("no trap");
    guest.call("heronry.log", &[6, 3]).expect("no trap");
    let left = guest.host().take();
    let key = "js/bob".to_owned();
    assert_eq!(
        left.effects,
        [
            HostEffect::Send { key: key.clone(), payload: bytes::Bytes::from_static(b"payload") },
            HostEffect::Call { id: 1, key, payload: bytes::Bytes::from_static(b"pay") },
            HostEffect::Sleep { id: 2, until_ns: 1_500 },
            HostEffect::Sleep { id: 3, until_ns: 1_000 },
            HostEffect::Http { id: 4, request: bytes::Bytes::from_static(b"payload") },
            HostEffect::Checkpoint { id: 5, label: None },
            HostEffect::Fork { id: 6, count: 8 },
            HostEffect::Rollback { id: 7, label: Some("pay".to_owned()) },
        ]
    );
    let reply = HostReply { request, ticket: 70, answer: Ok(b"payload".to_vec()) };
    assert_eq!(left.replies, [reply]);
    assert_eq!(left.failure.as_deref(), Some("payload"));
    assert_eq!(left.log, ["pay"]);
    assert_eq!(guest.host().state.calls.len(), 7);
    assert_eq!(guest.host().take(), Left::default());
}

#[test]
fn m1_a_request_is_answered_once_and_unknown_ones_never() {
    let mut guest = Guest::new();
    let request = guest.host().state.open_request(1).expect("room") as i64;
    guest.call("heronry.refuse", &[request, 0, 0]).expect("no trap");
    guest.call("heronry.reply", &[request, 0, 0]).expect("no trap");
    guest.call("heronry.reply", &[request + 1, 0, 0]).expect("no trap");
    guest.call("heronry.reply", &[-1, 0, 0]).expect("no trap");
    let left = guest.host().take();
    assert_eq!(left.replies, [HostReply { request: 1, ticket: 1, answer: Err(String::new()) }]);
}

#[test]
fn m2_what_is_past_a_bound_is_refused_and_leaves_nothing() {
    let mut guest = Guest::new();
    guest.write(0, b"js/bob");
    let (many, invalid, long) = (1, 2, 3);
    assert_eq!(guest.call("heronry.send", &[0, 0, 0, 0]).expect("no trap"), invalid);
    assert_eq!(guest.call("heronry.send", &[0, 256, 0, 0]).expect("no trap"), invalid);
    assert_eq!(guest.call("heronry.send", &[0, 6, 0, 1_001]).expect("no trap"), long);
    assert_eq!(guest.call("heronry.call", &[0, 6, 0, 1_001]).expect("no trap"), -long);
    assert_eq!(guest.call("heronry.http", &[0, 1_001]).expect("no trap"), -long);
    assert_eq!(guest.call("heronry.checkpoint", &[0, 64]).expect("no trap"), -invalid);
    assert_eq!(guest.call("heronry.fork", &[0]).expect("no trap"), -invalid);
    assert_eq!(guest.call("heronry.fork", &[-1]).expect("no trap"), -invalid);
    let count_max = i64::from(FORK_COUNT_MAX);
    assert_eq!(guest.call("heronry.fork", &[count_max + 1]).expect("no trap"), -invalid);
    guest.write(0, &[0xff]);
    assert_eq!(guest.call("heronry.call", &[0, 1, 0, 0]).expect("no trap"), -invalid);
    assert_eq!(guest.host().take(), Left::default());
    assert_eq!((guest.host().state.call_next, guest.host().state.calls.len()), (1, 0));
    for id in 1..=EFFECT_COUNT_MAX as i64 {
        assert_eq!(guest.call("heronry.sleep", &[1]).expect("no trap"), id);
    }
    assert_eq!(guest.call("heronry.sleep", &[1]).expect("no trap"), -many);
    guest.host().take();
    assert_eq!(guest.host().state.calls.len(), CALL_COUNT_MAX);
    assert_eq!(guest.call("heronry.sleep", &[1]).expect("no trap"), -many);
    assert!(guest.host().state.close_call(5));
    assert!(!guest.host().state.close_call(5));
    assert_eq!(guest.call("heronry.sleep", &[1]).expect("no trap"), CALL_COUNT_MAX as i64 + 1);
}

#[test]
fn m2_a_long_reply_becomes_a_refusal_that_names_the_limit() {
    let mut guest = Guest::new();
    guest.host().state.open_request(1);
    guest.call("heronry.reply", &[1, 0, 1_001]).expect("no trap");
    let left = guest.host().take();
    let Err(text) = &left.replies[0].answer else { panic!("refused") };
    assert!(text.starts_with("LIMIT") && text.contains("1001"), "{text}");
}

#[test]
fn m2_logs_failures_and_output_are_cut_with_a_mark() {
    let mut guest = Guest::new();
    for _ in 0..3 {
        guest.call("heronry.log", &[0, 40_000]).expect("no trap");
    }
    guest.call("heronry.fail", &[0, 100_000]).expect("no trap");
    // One buffer of 100 000 bytes at 0.
    let iov = [0u32, 100_000].map(u32::to_le_bytes).concat();
    guest.write(100_000, &iov);
    for _ in 0..4 {
        let write = &[1, 100_000, 1, 100_008];
        assert_eq!(guest.call("wasi_snapshot_preview1.fd_write", write).expect("no trap"), 0);
    }
    assert_eq!(guest.read(100_008, 4), 100_000u32.to_le_bytes());
    let left = guest.host().take();
    assert_eq!(left.log.len(), 2);
    assert!(left.log[1].contains("log cut"), "{}", left.log[1]);
    let failure = left.failure.expect("failed");
    assert!(failure.ends_with(" [cut: 34464 bytes more]"), "{}", failure.len());
    let mark = format!("\n[output cut: 137856 bytes more than the {STDOUT_BYTES_MAX} kept]\n");
    assert!(left.stdout.ends_with(mark.as_bytes()));
    assert_eq!(left.stdout.len(), STDOUT_BYTES_MAX + mark.len());
    assert_eq!(left.stderr, b"");
}

#[test]
fn m3_a_pointer_outside_the_memory_traps_and_names_it() {
    let mut guest = Guest::new();
    for (name, args) in [
        ("heronry.reply", &[1, 131_000, 100][..]),
        ("heronry.send", &[0, 1, -1, 1]),
        ("heronry.log", &[0, -1]),
    ] {
        let trap = guest.call(name, args).expect_err("outside");
        let out = trap.downcast_ref::<OutOfBounds>().expect("its own error");
        assert_eq!(out.memory_bytes, 131_072);
    }
    assert_eq!(guest.host().take(), Left::default());
}

#[test]
fn m3_exit_is_an_error_of_its_own() {
    let trap = Guest::new().call("wasi_snapshot_preview1.proc_exit", &[3]).expect_err("exit");
    assert_eq!(trap.downcast_ref::<Exit>(), Some(&Exit(3)));
}

#[test]
fn d1_the_key_is_written_up_to_the_room_given() {
    let mut guest = Guest::new();
    assert_eq!(guest.call("heronry.key", &[8, 100]).expect("no trap"), 6);
    assert_eq!(guest.read(8, 8), b"py/ann\0\0");
    assert_eq!(guest.call("heronry.key", &[20, 2]).expect("no trap"), 6);
    assert_eq!(guest.read(20, 4), b"py\0\0");
}

#[test]
fn d1_an_unchanged_state_is_not_given_again() {
    let mut host = host();
    assert!(host.changed().is_some());
    host.begin(5, 6);
    assert_eq!(host.changed(), None);
    host.read_clock(false);
    assert!(host.changed().is_some());
    assert_eq!(host.changed(), None);
    host.state.open_request(1);
    host.mark();
    assert_eq!(host.changed(), None);
    let bytes = {
        host.state.open_request(2);
        host.changed().expect("changed").to_vec()
    };
    assert_eq!(HostState::decode(&bytes).expect("decodes"), host.state);
}

#[test]
fn d1_a_state_of_another_tree_is_refused() {
    let mut host = host();
    let other = HostState::new([0; 32], [1; 32], [0; 32]);
    assert_eq!(host.put_state(other), Err(HostError::Tree));
    let mut damaged = host.state.clone();
    damaged.files.insert(7, OpenFile { what: FileKind::Node(1), position: 0 });
    assert_eq!(host.put_state(damaged), Err(HostError::Node { fd: 7, node: 1, count: 1 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn w2_no_argument_of_any_function_panics(
        calls in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::collection::vec(arg(), 9)), 2_000),
    ) {
        let mut guest = Guest::new();
        let all: Vec<_> = signatures().collect();
        guest.host().begin(1_000, 1_000);
        for (which, args) in calls {
            let signature = all[which.index(all.len())];
            let name = format!("{}.{}", signature.module, signature.name);
            let result = guest.call(&name, &args);
            if let Err(trap) = &result {
                let known = trap.is::<OutOfBounds>() || trap.is::<Exit>();
                prop_assert!(known, "{} {:?}: {:#}", name, args, trap);
            }
            if signature.module == wasi::MODULE && let Ok(errno) = result {
                prop_assert!((0..=76).contains(&errno), "{} {:?}: {}", name, args, errno);
            }
        }
        let mut bytes = Vec::new();
        guest.host().state.encode(&mut bytes);
        prop_assert_eq!(&HostState::decode(&bytes).expect("decodes"), &guest.host().state);
        let left = guest.host().take();
        prop_assert!(left.effects.len() <= EFFECT_COUNT_MAX);
    }
}

/// Small numbers, as descriptors and flags are, pointers into the memory, its ends, and anything.
fn arg() -> impl Strategy<Value = i64> {
    prop_oneof![
        0..6i64,
        0..131_072i64,
        131_060..131_080i64,
        Just(-1),
        Just(i64::from(i32::MIN)),
        Just(i64::MAX),
        Just(i64::MIN),
        any::<i64>(),
    ]
}
