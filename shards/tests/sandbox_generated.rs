//! Generated modules as agents: what is sealed, forked, rolled back, committed, evicted and revived
//! at random equals what never was.
//!
//! Owns: modules from wasm-smith made into agents, and the comparison of their memory, globals and
//! results with one plain run on an engine of its own: metered by fuel instead of epochs, not
//! optimised, for a baseline CPU.  Not: which modules are refused (`sandbox_modules.rs`).
//! P1  an agent's memory and globals are those of its messages, run one after the other.
//! P2  a message that traps in an agent traps in the plain run.
//! P3  an image goes on under the other engine as it does under its own.

#[allow(dead_code, reason = "other tests use other parts of it")]
#[path = "sandbox/world.rs"]
mod world;

use bytes::Bytes;
use fastrand::Rng;
use heronry_engine::verb::Language;
use heronry_engine::*;
use heronry_shards::sandbox::host::{HOST_BYTES, HostState};
use heronry_shards::sandbox::module::{GlobalKind, Prepared, prepare};
use std::collections::BTreeMap;
use std::convert::Infallible;
use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{ExportKind, Function, Instruction, MemArg, ValType};
use wasmparser::{FuncType, Payload};
use world::*;

/// Modules that are run.
const MODULE_COUNT: usize = 120;
/// Seeds to find them among; the others are refused, have no memory or fail at their start.
const SEED_COUNT_MAX: u64 = 2_000;
/// What is done to the agents of one module.
const STEP_COUNT: usize = 70;
/// Loops and calls of one message; deeper recursion would depend on the engine's frames.
const FUEL: u32 = 300;

/// Where the message function finds its payload, and where it leaves the results.
const PAYLOAD_AT: i32 = 64;
const PAYLOAD_BYTES: usize = 40;
const RESULTS_AT: i32 = 128;

/// Adds the guest ABI to a module: a message names a function, has its arguments, and the results
/// stay in memory.
struct Agentify {
    types: Vec<FuncType>,
    functions: Vec<u32>,
    fuel_global: u32,
    abi_types: [u32; 2],
}

impl Agentify {
    fn wrap(wasm: &[u8], fuel_global: u32) -> Option<Vec<u8>> {
        let mut types = Vec::new();
        let mut functions = Vec::new();
        let mut exports = false;
        for payload in wasmparser::Parser::new(0).parse_all(wasm) {
            match payload.ok()? {
                Payload::TypeSection(section) => {
                    types = section.into_iter_err_on_gc_types().collect::<Result<_, _>>().ok()?;
                }
                Payload::FunctionSection(section) => {
                    functions = section.into_iter().collect::<Result<_, _>>().ok()?;
                }
                Payload::ExportSection(_) => exports = true,
                _ => {}
            }
        }
        if functions.is_empty() || !exports {
            return None;
        }
        let mut wrap = Agentify { types, functions, fuel_global, abi_types: [0; 2] };
        let mut module = wasm_encoder::Module::new();
        wrap.parse_core_module(&mut module, wasmparser::Parser::new(0), wasm).ok()?;
        Some(module.finish())
    }

    /// Calls the function that the payload names.
    fn message(&self) -> Function {
        let locals = [ValType::I32, ValType::I64, ValType::F32, ValType::F64];
        let mut body = Function::new(locals.map(|ty| (1, ty)));
        let at = |offset: i32, align| MemArg { offset: offset as u64, align, memory_index: 0 };
        body.instruction(&Instruction::I32Const(FUEL as i32));
        body.instruction(&Instruction::GlobalSet(self.fuel_global));
        for (index, ty) in self.functions.iter().enumerate() {
            let ty = &self.types[*ty as usize];
            if ty.params().iter().chain(ty.results()).any(|ty| local(*ty).is_none()) {
                continue;
            }
            body.instruction(&Instruction::LocalGet(1));
            body.instruction(&Instruction::I32Load(at(0, 0)));
            body.instruction(&Instruction::I32Const(index as i32));
            body.instruction(&Instruction::I32Eq);
            body.instruction(&Instruction::If(wasm_encoder::BlockType::Empty));
            for (place, param) in ty.params().iter().enumerate() {
                let from = at(8 + 8 * (place as i32 % 4), 0);
                body.instruction(&Instruction::LocalGet(1));
                body.instruction(&match param {
                    wasmparser::ValType::I32 => Instruction::I32Load(from),
                    wasmparser::ValType::I64 => Instruction::I64Load(from),
                    wasmparser::ValType::F32 => Instruction::F32Load(from),
                    _ => Instruction::F64Load(from),
                });
            }
            body.instruction(&Instruction::Call(index as u32));
            for (place, result) in ty.results().iter().enumerate().rev() {
                let local = local(*result).expect("checked above");
                let to = at(RESULTS_AT + 8 * place as i32, 0);
                body.instruction(&Instruction::LocalSet(local));
                body.instruction(&Instruction::I32Const(0));
                body.instruction(&Instruction::LocalGet(local));
                body.instruction(&match result {
                    wasmparser::ValType::I32 => Instruction::I32Store(to),
                    wasmparser::ValType::I64 => Instruction::I64Store(to),
                    wasmparser::ValType::F32 => Instruction::F32Store(to),
                    _ => Instruction::F64Store(to),
                });
            }
            body.instruction(&Instruction::End);
        }
        body.instruction(&Instruction::I32Const(0));
        body.instruction(&Instruction::End);
        body
    }
}

/// The local of the message function for a result of this type.
fn local(ty: wasmparser::ValType) -> Option<u32> {
    match ty {
        wasmparser::ValType::I32 => Some(3),
        wasmparser::ValType::I64 => Some(4),
        wasmparser::ValType::F32 => Some(5),
        wasmparser::ValType::F64 => Some(6),
        _ => None,
    }
}

impl Reencode for Agentify {
    type Error = Infallible;

    fn parse_type_section(
        &mut self,
        types: &mut wasm_encoder::TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_type_section(self, types, section)?;
        let next = self.types.len() as u32;
        self.abi_types = [next, next + 1];
        types.ty().function([ValType::I32], [ValType::I32]);
        types.ty().function([ValType::I64, ValType::I32, ValType::I32], [ValType::I32]);
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut wasm_encoder::FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_function_section(self, functions, section)?;
        for ty in self.abi_types {
            functions.function(ty);
        }
        Ok(())
    }

    fn parse_export_section(
        &mut self,
        exports: &mut wasm_encoder::ExportSection,
        section: wasmparser::ExportSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_export_section(self, exports, section)?;
        let next = self.functions.len() as u32;
        exports.export("heronry_alloc", ExportKind::Func, next);
        exports.export("heronry_message", ExportKind::Func, next + 1);
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut wasm_encoder::CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_code_section(self, code, section)?;
        let mut alloc = Function::new([]);
        alloc.instruction(&Instruction::I32Const(PAYLOAD_AT));
        alloc.instruction(&Instruction::End);
        code.function(&alloc);
        code.function(&self.message());
        Ok(())
    }
}

/// A module of this seed as an agent, and how many functions it has.
fn generate(seed: u64) -> Option<(Vec<u8>, u32)> {
    let mut rng = Rng::with_seed(seed);
    let config = wasm_smith::Config {
        min_memories: 1,
        max_memories: 1,
        max_memory32_bytes: 1 << 20,
        memory_max_size_required: true,
        min_funcs: 3,
        max_funcs: 12,
        min_globals: 2,
        max_globals: 12,
        max_imports: 0,
        export_everything: true,
        canonicalize_nans: true,
        disallow_traps: !seed.is_multiple_of(4),
        bulk_memory_enabled: seed.is_multiple_of(5),
        simd_enabled: seed.is_multiple_of(7),
        reference_types_enabled: false,
        exceptions_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        relaxed_simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        ..wasm_smith::Config::default()
    };
    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(6_000).collect();
    let mut unstructured = arbitrary::Unstructured::new(&bytes);
    let mut module = wasm_smith::Module::new(config, &mut unstructured).ok()?;
    let fuel_global = module.ensure_termination(FUEL).ok()?;
    let wasm = module.to_bytes();
    let functions =
        wasmparser::Parser::new(0).parse_all(&wasm).find_map(|payload| match payload {
            Ok(Payload::FunctionSection(section)) => Some(section.count()),
            _ => None,
        })?;
    Some((Agentify::wrap(&wasm, fuel_global)?, functions))
}

/// The other engine.
struct Plain<'a> {
    module: wasmtime::Module,
    prepared: &'a Prepared,
    store: wasmtime::Store<()>,
    instance: wasmtime::Instance,
}

impl<'a> Plain<'a> {
    fn engine() -> wasmtime::Engine {
        let mut config = wasmtime::Config::new();
        config.consume_fuel(true).cranelift_opt_level(wasmtime::OptLevel::None);
        config.max_wasm_stack(2 << 20);
        // Naming the target leaves out what only this machine's CPU has.
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        config.target(&target).expect("the own architecture");
        wasmtime::Engine::new(&config).expect("an engine")
    }

    /// As the module starts.
    fn new(engine: &wasmtime::Engine, prepared: &'a Prepared) -> Plain<'a> {
        let module = wasmtime::Module::new(engine, &prepared.wasm).expect("compiled");
        let (store, instance) = Plain::instance(&module);
        let mut plain = Plain { module, prepared, store, instance };
        plain.write(&prepared.memory);
        if let Some(start) = prepared.start {
            let start = plain.instance.get_typed_func::<(), ()>(&mut plain.store, start);
            start.expect("exported").call(&mut plain.store, ()).expect("it started in the sandbox");
        }
        plain
    }

    fn instance(module: &wasmtime::Module) -> (wasmtime::Store<()>, wasmtime::Instance) {
        let mut store = wasmtime::Store::new(module.engine(), ());
        store.set_fuel(u64::MAX).expect("metered by fuel");
        let instance = wasmtime::Instance::new(&mut store, module, &[]).expect("no imports");
        (store, instance)
    }

    /// Puts an image in.
    fn load(&mut self, memory: &[u8], globals: &[u64]) {
        (self.store, self.instance) = Plain::instance(&self.module);
        let guest = self.memory();
        let pages = (memory.len() - guest.data_size(&self.store)) / 65_536;
        guest.grow(&mut self.store, pages as u64).expect("as long as in the sandbox");
        self.write(memory);
        for (decl, bits) in self.prepared.globals.iter().zip(globals) {
            let value = match decl.kind {
                GlobalKind::I32 => wasmtime::Val::I32(*bits as i32),
                GlobalKind::I64 => wasmtime::Val::I64(*bits as i64),
                GlobalKind::F32 => wasmtime::Val::F32(*bits as u32),
                GlobalKind::F64 => wasmtime::Val::F64(*bits),
            };
            let global = self.instance.get_global(&mut self.store, &decl.export_name);
            global.expect("exported").set(&mut self.store, value).expect("of this type");
        }
    }

    fn memory(&mut self) -> wasmtime::Memory {
        self.instance.get_memory(&mut self.store, "memory").expect("exported")
    }

    fn write(&mut self, memory: &[u8]) {
        self.memory().write(&mut self.store, 0, memory).expect("it fits");
    }

    /// Handles a message; whether it did not trap.
    fn message(&mut self, payload: &[u8]) -> bool {
        let memory = self.memory();
        memory.write(&mut self.store, PAYLOAD_AT as usize, payload).expect("one page at least");
        let args = (0i64, PAYLOAD_AT, payload.len() as i32);
        let message = self
            .instance
            .get_typed_func::<(i64, i32, i32), i32>(&mut self.store, "heronry_message")
            .expect("exported");
        message.call(&mut self.store, args).is_ok()
    }

    fn state(&mut self) -> (Vec<u8>, Vec<u64>) {
        let memory = self.memory().data(&self.store).to_vec();
        let globals = self.prepared.globals.iter().map(|decl| {
            let global = self.instance.get_global(&mut self.store, &decl.export_name);
            match global.expect("exported").get(&mut self.store) {
                wasmtime::Val::I32(bits) => u64::from(bits as u32),
                wasmtime::Val::I64(bits) => bits as u64,
                wasmtime::Val::F32(bits) => u64::from(bits),
                wasmtime::Val::F64(bits) => bits,
                other => panic!("a global of {other:?}"),
            }
        });
        let globals = globals.collect();
        (memory, globals)
    }
}

/// The messages that an agent is the result of.
type Lineage = Vec<Bytes>;

struct Agent {
    parent: Option<String>,
    lineage: Lineage,
    labels: Vec<(Bytes, Lineage)>,
}

/// The agents of one module.
struct Family<'a> {
    world: &'a mut World,
    rng: Rng,
    functions: u32,
    agents: BTreeMap<String, Agent>,
    trapped: Vec<(Lineage, Bytes)>,
    label_count: u32,
}

impl Family<'_> {
    fn step(&mut self) {
        let keys: Vec<String> = self.agents.keys().cloned().collect();
        let key = keys[self.rng.usize(..keys.len())].as_str();
        match self.rng.u32(..12) {
            0..=6 => self.message(key),
            7 if keys.len() < 6 => self.fork(key),
            8 => self.checkpoint(key),
            9 | 10 => self.rollback(key),
            11 => self.commit(key),
            _ => {}
        }
    }

    fn payload(&mut self) -> Bytes {
        let mut payload = vec![0; PAYLOAD_BYTES];
        self.rng.fill(&mut payload);
        payload[..4].copy_from_slice(&self.rng.u32(..self.functions).to_le_bytes());
        if self.rng.bool() {
            // Small numbers are addresses and counts more often.
            for word in payload[8..].chunks_mut(8) {
                word[2..].fill(0);
            }
        }
        payload.into()
    }

    fn message(&mut self, key: &str) {
        let payload = self.payload();
        let said = text(self.world.does(key, send_bytes(&payload)));
        let lineage = &mut self.agents.get_mut(key).expect("lives").lineage;
        // No module replies: one that returns leaves its request open for ever.
        if said.contains("awaits something that cannot come") {
            lineage.push(payload);
        } else {
            assert!(said.starts_with("FAULT "), "{said}");
            if !said.contains("recursion too deep") {
                self.trapped.push((lineage.clone(), payload));
            }
        }
    }

    fn fork(&mut self, key: &str) {
        let branch = self.world.fork(key, 1, false).remove(0);
        let lineage = self.agents[key].lineage.clone();
        let agent = Agent { parent: Some(key.to_owned()), lineage, labels: Vec::new() };
        self.agents.insert(branch, agent);
    }

    fn checkpoint(&mut self, key: &str) {
        self.label_count += 1;
        let label = Bytes::from(format!("label{}", self.label_count));
        self.world.does(key, Verb::Checkpoint { label: Some(label.clone()) }).expect("sealed");
        let agent = self.agents.get_mut(key).expect("lives");
        agent.labels.push((label, agent.lineage.clone()));
    }

    fn rollback(&mut self, key: &str) {
        let agent = self.agents.get_mut(key).expect("lives");
        if agent.labels.is_empty() {
            return;
        }
        let (label, lineage) = agent.labels[self.rng.usize(..agent.labels.len())].clone();
        agent.lineage = lineage;
        let to = Some(VersionRef::Label(label));
        self.world.does(key, Verb::Rollback { to }).expect("rolled back");
    }

    fn commit(&mut self, key: &str) {
        let Some(parent) = self.agents[key].parent.clone() else { return };
        self.world.does(key, Verb::Commit).expect("committed");
        let lineage = self.agents[key].lineage.clone();
        self.agents.get_mut(&parent).expect("lives").lineage = lineage;
        let of = |agent: &Agent, key: &str| agent.parent.as_deref() == Some(key);
        let ended: Vec<String> =
            self.agents.iter().filter(|(_, a)| of(a, &parent)).map(|(k, _)| k.clone()).collect();
        for ended in ended {
            self.agents.remove(&ended);
            for agent in self.agents.values_mut().filter(|agent| of(agent, &ended)) {
                agent.parent = None;
            }
        }
    }

    /// P1 to P3.
    fn check(&mut self, engine: &wasmtime::Engine, prepared: &Prepared, name: &str) {
        let keys: Vec<String> = self.agents.keys().cloned().collect();
        for key in keys {
            let mut plain = Plain::new(engine, prepared);
            for payload in &self.agents[&key].lineage {
                assert!(plain.message(payload), "P1: {key}: a message trapped");
            }
            let (memory, globals) = self.state(&key);
            same(&key, "P1", &(memory.clone(), globals.clone()), &plain.state());
            plain.load(&memory, &globals);
            let payload = self.payload();
            let said = text(self.world.does(&key, send_bytes(&payload)));
            if said.contains("recursion too deep") {
                continue;
            }
            let went = plain.message(&payload);
            assert_eq!(went, said.contains("awaits something"), "P3: {key}: {said}");
            if went {
                same(&key, "P3", &self.state(&key), &plain.state());
            }
        }
        for (lineage, payload) in self.trapped.iter().rev().take(3) {
            let mut plain = Plain::new(engine, prepared);
            assert!(lineage.iter().all(|payload| plain.message(payload)), "P2: {name}");
            assert!(!plain.message(payload), "P2: {name}: {payload:?} did not trap");
        }
        for key in self.agents.keys() {
            self.world.does(key, Verb::Terminate).expect("ended");
        }
    }

    /// Memory and globals of an agent.
    fn state(&mut self, key: &str) -> (Vec<u8>, Vec<u64>) {
        let mut image = self.world.image(key);
        let memory = image.split_off(HOST_BYTES);
        let len = u32::from_le_bytes(image[8..12].try_into().expect("four bytes")) as usize;
        let state = HostState::decode(&image[..len]).expect("a host state");
        (memory, state.globals)
    }
}

fn same(key: &str, rule: &str, agent: &(Vec<u8>, Vec<u64>), plain: &(Vec<u8>, Vec<u64>)) {
    assert_eq!(agent.1, plain.1, "{rule}: globals of {key}");
    assert_eq!(agent.0.len(), plain.0.len(), "{rule}: memory of {key}");
    let differs = agent.0.iter().zip(&plain.0).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{rule}: first byte of the memory of {key} that differs");
}

fn run_modules() {
    let modules = tempfile::tempdir().expect("a folder");
    let mut world = World::with(Settings {
        live_max: 2,
        frame_count: 1 << 13,
        modules_dir: modules.path().to_owned(),
        ..Settings::default()
    });
    let engine = Plain::engine();
    let (mut ran, mut refused, mut messages, mut traps) = (0, 0, 0, 0);
    for seed in 0..SEED_COUNT_MAX {
        if ran == MODULE_COUNT {
            break;
        }
        let Some((wasm, functions)) = generate(seed) else { continue };
        let name = format!("seed{seed}");
        let Ok(prepared) = prepare(&wasm) else {
            refused += 1;
            continue;
        };
        if prepared.memory.is_empty()
            || world.try_deploy(&name, 1, Language::Wasm, Some(&wasm), None).is_err()
        {
            refused += 1;
            continue;
        }
        let root = Agent { parent: None, lineage: Vec::new(), labels: Vec::new() };
        let mut family = Family {
            world: &mut world,
            rng: Rng::with_seed(seed),
            functions,
            agents: BTreeMap::from([(format!("{name}/a"), root)]),
            trapped: Vec::new(),
            label_count: 0,
        };
        family.message(&format!("{name}/a"));
        for _ in 0..STEP_COUNT {
            family.step();
        }
        messages += family.agents.values().map(|agent| agent.lineage.len()).sum::<usize>();
        traps += family.trapped.len();
        family.check(&engine, &prepared, &name);
        ran += 1;
    }
    println!("{ran} modules, {refused} refused; {messages} messages in the end, {traps} traps");
    println!("{:?}, {:?}", world.live(), world.partition.counters());
    assert_eq!(ran, MODULE_COUNT);
    assert!(messages > 10 * MODULE_COUNT, "the modules do next to nothing");
    world.end();
}

#[test]
fn p1_generated_modules_are_the_same_sealed_forked_rolled_back_and_evicted_or_not() {
    // The plain run uses the thread's own stack.
    let thread = std::thread::Builder::new().stack_size(32 << 20).spawn(run_modules);
    if let Err(panic) = thread.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}
