//! Slots and instances together: what a guest writes is found, what is restored is seen, and a
//! guest that misbehaves is cut off.
//!
//! Owns: the invariants of `sandbox::slot` (S1-S4, R2) and `sandbox::instance` (I1-I4) as a guest
//! meets them.  Not: the guest ABI's meaning, which `sandbox::host` has.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use heronry_shards::sandbox::instance::{
    CompiledModule, Exit, GuestCall, Instance, InstanceError, Progress, SandboxPlan, Sandboxes,
    Trap, engine_config,
};
use heronry_shards::sandbox::slot::{
    BaseImage, Captured, Delta, IDLE_CAPTURES_MAX, Lengths, PAGE, PoolPlan, Slot, SlotError,
    SlotPool, Tracking,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{Engine, Linker, Module, Val};

const LONG: Duration = Duration::from_secs(60);
const WASM_PAGE: usize = 65_536;

/// The pages of an image, and which were reported last.
#[derive(Clone, Default)]
struct Pages {
    held: BTreeMap<u32, [u8; PAGE]>,
    reported: Vec<u32>,
}

impl Delta for Pages {
    fn held<'a>(&'a self, page_idx: u32, _: &'a mut [u8; PAGE]) -> Option<&'a [u8; PAGE]> {
        self.held.get(&page_idx)
    }

    fn holds(&self, page_idx: u32) -> bool {
        self.held.contains_key(&page_idx)
    }

    fn keep(&mut self, page_idx: u32, base: &[u8; PAGE], bytes: &[u8; PAGE]) -> bool {
        let changed = self.held.get(&page_idx).unwrap_or(base) != bytes;
        if changed {
            self.held.insert(page_idx, *bytes);
            self.reported.push(page_idx);
        }
        changed
    }
}

impl Pages {
    fn page<'a>(&'a self, base: &'a BaseImage, page_idx: u32) -> &'a [u8; PAGE] {
        self.held.get(&page_idx).unwrap_or(base.page(page_idx))
    }
}

/// Both ways to find written pages, or the one that works here.
fn trackings() -> Vec<Tracking> {
    match SlotPool::new(PoolPlan { tracking: Some(Tracking::Userfault), ..PoolPlan::default() }) {
        Ok(_) => vec![Tracking::Userfault, Tracking::Compare],
        Err(error) => {
            println!("skipped: the kernel's tracking: {error}");
            vec![Tracking::Compare]
        }
    }
}

fn pool(tracking: Tracking) -> Rc<SlotPool> {
    SlotPool::new(PoolPlan { tracking: Some(tracking), slots_max: Some(16), ..PoolPlan::default() })
        .unwrap()
}

fn base(page_count: u32) -> Arc<BaseImage> {
    let mut bytes = vec![0; page_count as usize * PAGE];
    for page_idx in (0..page_count as usize).step_by(2) {
        bytes[page_idx * PAGE..][..PAGE].fill(page_idx as u8 + 1);
    }
    Arc::new(BaseImage::from_bytes(&bytes).unwrap())
}

fn lengths(memory_bytes: usize, memory_bytes_max: usize) -> Lengths {
    Lengths { memory_bytes, memory_bytes_max }
}

/// Writes as a guest would: through a page, so that the kernel sees a write.
fn poke(slot: &mut Slot, page_idx: u32, at: usize, byte: u8) {
    let mut page = *slot.page(page_idx);
    page[at] = byte;
    slot.write_page(page_idx, &page);
}

#[derive(Debug, Clone)]
enum Step {
    Write { page_idx: u32, at: usize, byte: u8 },
    Touch { page_idx: u32 },
    Read { page_idx: u32 },
    Capture,
    Idle,
    Revert,
    Checkpoint,
    Rollback,
    Grow,
    Fork,
}

const BASE_PAGES: u32 = 12;
const GROWTH_PAGES: u32 = 4;
const PAGES_MAX: u32 = 24;

fn step() -> impl Strategy<Value = Step> {
    let page_idx = 0..PAGES_MAX;
    prop_oneof![
        8 => (page_idx.clone(), 0..PAGE, 0..3u8)
            .prop_map(|(page_idx, at, byte)| Step::Write { page_idx, at, byte }),
        3 => page_idx.clone().prop_map(|page_idx| Step::Touch { page_idx }),
        2 => page_idx.prop_map(|page_idx| Step::Read { page_idx }),
        4 => Just(Step::Capture),
        1 => Just(Step::Idle),
        1 => Just(Step::Revert),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Rollback),
        1 => Just(Step::Grow),
        1 => Just(Step::Fork),
    ]
}

/// A slot beside a plain copy of its memory and of the image it belongs to.
struct Model {
    slot: Slot,
    base: Arc<BaseImage>,
    pool: Rc<SlotPool>,
    memory: Vec<u8>,
    image: Pages,
    kept: Option<(Vec<u8>, Pages)>,
}

impl Model {
    fn new(tracking: Tracking) -> Model {
        let (pool, base) = (pool(tracking), base(BASE_PAGES));
        let len_bytes = base.len_bytes();
        let lengths = lengths(len_bytes, PAGES_MAX as usize * PAGE);
        let slot = Slot::new(&pool, &base, lengths).unwrap();
        let memory = base.bytes().to_vec();
        Model { slot, base, pool, memory, image: Pages::default(), kept: None }
    }

    fn capture(&mut self) {
        let mut wanted = Vec::new();
        for (page_idx, page) in self.memory.as_chunks::<PAGE>().0.iter().enumerate() {
            if page != self.image.page(&self.base, page_idx as u32) {
                wanted.push(page_idx as u32);
            }
        }
        self.image.reported.clear();
        let captured = self.slot.capture(&mut self.image).unwrap();
        assert_eq!(self.image.reported, wanted, "S1");
        assert_eq!(captured.changed_count as usize, wanted.len());
        assert!(self.slot.hot_count() <= self.memory.len() / PAGE);
    }

    /// Takes the slot to another image, of the same length.
    fn follow(&mut self, memory: Vec<u8>, image: Pages) {
        for page_idx in 0..(memory.len() / PAGE) as u32 {
            let (from, to) = (self.image.held.get(&page_idx), image.held.get(&page_idx));
            match (from, to) {
                (None, None) => {}
                (_, Some(page)) => self.slot.write_page(page_idx, page),
                (Some(_), None) => self.slot.reset_page(page_idx).unwrap(),
            }
        }
        (self.memory, self.image) = (memory, image);
    }

    fn step(&mut self, step: Step) {
        let page_count = (self.memory.len() / PAGE) as u32;
        match step {
            Step::Write { page_idx, at, byte } if page_idx < page_count => {
                poke(&mut self.slot, page_idx, at, byte);
                self.memory[page_idx as usize * PAGE + at] = byte;
            }
            Step::Touch { page_idx } if page_idx < page_count => {
                let byte = self.memory[page_idx as usize * PAGE];
                poke(&mut self.slot, page_idx, 0, byte);
            }
            Step::Read { page_idx } if page_idx < page_count => {
                let at = page_idx as usize * PAGE;
                assert_eq!(self.slot.page(page_idx)[..], self.memory[at..at + PAGE]);
            }
            Step::Write { .. } | Step::Touch { .. } | Step::Read { .. } => {}
            Step::Capture => self.capture(),
            Step::Idle => (0..=IDLE_CAPTURES_MAX).for_each(|_| self.capture()),
            Step::Revert => {
                self.slot.revert(&self.image).unwrap();
                for page_idx in 0..page_count {
                    let page = self.image.page(&self.base, page_idx);
                    self.memory[page_idx as usize * PAGE..][..PAGE].copy_from_slice(page);
                }
            }
            Step::Checkpoint => {
                self.capture();
                self.kept = Some((self.memory.clone(), self.image.clone()));
            }
            Step::Rollback => {
                self.capture();
                match self.kept.clone() {
                    Some((memory, image)) if memory.len() == self.memory.len() => {
                        self.follow(memory, image);
                    }
                    _ => {}
                }
            }
            Step::Grow => {
                let wanted = self.memory.len() + GROWTH_PAGES as usize * PAGE;
                let grown = self.slot.grow(wanted);
                assert_eq!(grown.is_ok(), wanted <= PAGES_MAX as usize * PAGE);
                if grown.is_ok() {
                    self.memory.resize(wanted, 0);
                }
            }
            Step::Fork => {
                self.capture();
                let lengths = lengths(self.memory.len(), PAGES_MAX as usize * PAGE);
                // The old slot ends first, so that the new one gets its reservation.
                let spare = Slot::new(&self.pool, &self.base, lengths).unwrap();
                drop(std::mem::replace(&mut self.slot, spare));
                let second = Slot::new(&self.pool, &self.base, lengths).unwrap();
                self.slot = second;
                for (page_idx, page) in &self.image.held {
                    self.slot.write_page(*page_idx, page);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn s1_capture_reports_exactly_what_differs(steps in prop::collection::vec(step(), 1..120)) {
        for tracking in trackings() {
            let mut model = Model::new(tracking);
            for step in &steps {
                model.step(step.clone());
            }
            model.capture();
            for (page_idx, page) in model.memory.as_chunks::<PAGE>().0.iter().enumerate() {
                prop_assert_eq!(model.slot.page(page_idx as u32), page);
            }
        }
    }
}

#[test]
fn s4_a_cold_page_is_protected_and_still_found() {
    for tracking in trackings() {
        let (pool, base) = (pool(tracking), base(8));
        let mut slot = Slot::new(&pool, &base, lengths(8 * PAGE, 8 * PAGE)).unwrap();
        let mut image = Pages::default();
        poke(&mut slot, 3, 1, 77);
        // Written, but with the base's own bytes: cools down to being shared again.
        let same = base.page(4)[9];
        poke(&mut slot, 4, 9, same);
        let first = slot.capture(&mut image).unwrap();
        assert_eq!(first.changed_count, 1);
        let mut cooled = 0;
        for _ in 0..2 * IDLE_CAPTURES_MAX {
            let Captured { changed_count, cooled_count, .. } = slot.capture(&mut image).unwrap();
            assert_eq!(changed_count, 0);
            cooled += cooled_count;
        }
        if tracking == Tracking::Userfault {
            assert_eq!((cooled, slot.hot_count(), slot.dirty_count().unwrap()), (2, 0, 0));
        }
        poke(&mut slot, 3, 1, 78);
        poke(&mut slot, 4, 9, 1);
        image.reported.clear();
        assert_eq!(slot.capture(&mut image).unwrap().changed_count, 2);
        assert_eq!(image.reported, [3, 4]);
    }
}

#[test]
fn s3_a_memory_never_shrinks() {
    let (pool, base) = (pool(Tracking::Compare), base(8));
    let refused = Slot::new(&pool, &base, lengths(7 * PAGE, 9 * PAGE)).map(drop);
    assert!(matches!(refused, Err(SlotError::Shrink { .. })));
    let mut slot = Slot::new(&pool, &base, lengths(9 * PAGE, 9 * PAGE)).unwrap();
    assert!(matches!(slot.grow(8 * PAGE), Err(SlotError::Shrink { .. })));
    assert!(matches!(slot.grow(10 * PAGE), Err(SlotError::Length { .. })));
    assert_eq!(slot.len_bytes(), 9 * PAGE);
    assert_eq!(slot.page(8), &[0; PAGE]);
}

#[test]
fn r2_a_recycled_slot_sees_nothing_of_its_predecessor() {
    for tracking in trackings() {
        let (pool, bases) = (pool(tracking), [base(8), base(6)]);
        for turn in 0..6 {
            let base = &bases[turn / 2 % 2];
            let mut slot = Slot::new(&pool, base, lengths(10 * PAGE, 12 * PAGE)).unwrap();
            slot.grow(12 * PAGE).unwrap();
            for page_idx in 0..12 {
                assert_eq!(slot.page(page_idx), base.page(page_idx));
            }
            let mut image = Pages::default();
            slot.capture(&mut image).unwrap();
            assert!(image.reported.is_empty(), "{:?}", image.reported);
            (0..12).for_each(|page_idx| poke(&mut slot, page_idx, 7, 0xee));
            drop(slot);
            assert_eq!(pool.live_count(), 0);
            assert!(pool.idle_count() <= bases.len(), "{} idle", pool.idle_count());
        }
        pool.trim();
        assert_eq!(pool.idle_count(), 0);
    }
}

#[test]
fn r4_an_idle_reservation_lets_a_dropped_base_go() {
    for tracking in trackings() {
        let (pool, kept) = (pool(tracking), base(4));
        let mut files = Vec::new();
        for page_count in 1..10 {
            let base = base(page_count);
            let file = std::fs::File::from(base.fd().try_clone_to_owned().unwrap());
            files.push((Arc::downgrade(&base), file.metadata().unwrap().ino()));
            let len_bytes = page_count as usize * PAGE;
            let mut slot = Slot::new(&pool, &base, lengths(len_bytes, len_bytes)).unwrap();
            poke(&mut slot, 0, 0, 99);
        }
        assert!(files.iter().all(|(base, _)| base.upgrade().is_none()), "R4");
        // What maps them goes as reservations come back.
        for _ in 0..10 {
            drop(Slot::new(&pool, &kept, lengths(4 * PAGE, 4 * PAGE)).unwrap());
        }
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let inodes: Vec<_> =
            maps.lines().filter_map(|line| line.split_whitespace().nth(4)).collect();
        for (_, inode) in files {
            assert!(!inodes.contains(&inode.to_string().as_str()), "R4: inode {inode}");
        }
    }
}

#[test]
fn r1_a_full_pool_refuses_and_says_how_many() {
    // Memory for three slots, at what a slot is reckoned with, and for less than one.
    for (memory_bytes, slots_max) in [(2_000_000, 3), (1000, 1)] {
        let plan = PoolPlan { memory_bytes: Some(memory_bytes), ..PoolPlan::default() };
        assert_eq!(SlotPool::new(plan).unwrap().slots_max(), slots_max);
    }
    let pool = SlotPool::new(PoolPlan { slots_max: Some(2), ..PoolPlan::default() }).unwrap();
    let base = base(1);
    let take = || Slot::new(&pool, &base, lengths(PAGE, PAGE));
    let (_a, b) = (take().unwrap(), take().unwrap());
    assert!(matches!(take(), Err(SlotError::Full { slots_max: 2 })));
    drop(b);
    take().unwrap();
}

/// A guest of every kind of misbehaviour, and a few that behave.
const GUEST: &str = r#"(module
    (import "host" "exit" (func $exit (param i32)))
    (memory (export "memory") 2 100)
    (table $table 2 funcref)
    (global $g32 (export "g32") (mut i32) (i32.const 5))
    (global $g64 (export "g64") (mut i64) (i64.const 6))
    (global $f32 (export "f32") (mut f32) (f32.const 1.5))
    (global $f64 (export "f64") (mut f64) (f64.const 2.5))
    (global $v (export "v") (mut v128) (v128.const i64x2 7 8))
    (func (export "add") (param i32 i32) (result i32)
        (i32.store (local.get 0) (i32.add (i32.load (local.get 0)) (local.get 1)))
        (i32.load (local.get 0)))
    (func (export "spin") (loop (br 0)))
    (func (export "count") (param i32) (result i32)
        (loop $again
            (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
            (br_if $again (i32.lt_u (i32.load (i32.const 64)) (local.get 0))))
        (i32.load (i32.const 64)))
    (func $deep (export "deep") (result i32) (i32.add (i32.const 1) (call $deep)))
    (func (export "size") (result i32) (memory.size))
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "grow_table") (result i32)
        (table.grow $table (ref.null func) (i32.const 1)))
    (func (export "far") (result i32) (i32.load offset=4000000000 (i32.const 4)))
    (func (export "die") unreachable)
    (func (export "exit") (param i32) (call $exit (local.get 0)))
    (func (export "bump")
        (global.set $g32 (i32.add (global.get $g32) (i32.const -10)))
        (global.set $g64 (i64.sub (global.get $g64) (i64.const 100)))
        (global.set $f32 (f32.neg (global.get $f32)))
        (global.set $f64 (f64.neg (global.get $f64)))
        (global.set $v (i64x2.neg (global.get $v))))
    (func (export "heronry_alloc") (param i32) (result i32)
        (select (i32.const 1024) (i32.const 0) (i32.lt_u (local.get 0) (i32.const 60000))))
    (func (export "heronry_message") (param i64 i32 i32) (result i32)
        (i32.add (i32.load8_u (local.get 1)) (local.get 2))))"#;

const GLOBALS: [&str; 5] = ["g32", "g64", "f32", "f64", "v"];

struct World {
    sandboxes: Sandboxes,
    module: Rc<CompiledModule<u32>>,
    base: Arc<BaseImage>,
}

impl World {
    fn new() -> World {
        let plan = SandboxPlan { compiles: true, ..SandboxPlan::default() };
        let sandboxes = Sandboxes::new(plan).unwrap();
        let code = Module::new(sandboxes.engine(), wat::parse_str(GUEST).unwrap()).unwrap();
        let module = Rc::new(bind(&sandboxes, &code).unwrap());
        let base = Arc::new(BaseImage::from_bytes(&vec![0; 2 * WASM_PAGE]).unwrap());
        World { sandboxes, module, base }
    }

    fn instance(&self) -> Instance<u32> {
        let lengths = lengths(2 * WASM_PAGE, 4 * WASM_PAGE);
        Instance::new(&self.sandboxes, &self.module, &self.base, lengths, 0).unwrap()
    }
}

fn bind(sandboxes: &Sandboxes, code: &Module) -> Result<CompiledModule<u32>, InstanceError> {
    let mut linker = Linker::<u32>::new(sandboxes.engine());
    let exit = |code: i32| -> wasmtime::Result<()> { Err(Exit(code).into()) };
    linker.func_wrap("host", "exit", exit).unwrap();
    CompiledModule::new(sandboxes, code, &linker, GLOBALS)
}

fn export(name: &str, args: &[i32]) -> GuestCall {
    let args = args.iter().map(|arg| Val::I32(*arg)).collect();
    GuestCall::Export { name: name.to_owned(), args }
}

/// Runs a call to its end, however many slices it takes.
fn run(instance: &mut Instance<u32>, call: GuestCall) -> Result<i32, Trap> {
    instance.start(call, LONG);
    loop {
        if let Progress::Done(answer) = instance.poll() {
            return answer;
        }
    }
}

#[test]
fn a_guest_runs_in_its_slot_and_its_pages_are_captured() {
    let world = World::new();
    let mut guest = world.instance();
    assert_eq!(run(&mut guest, export("add", &[8192, 5])).unwrap(), 5);
    assert_eq!(run(&mut guest, export("add", &[8192, 5])).unwrap(), 10);
    let mut image = Pages::default();
    guest.slot_mut().capture(&mut image).unwrap();
    assert_eq!(image.reported, [2]);
    let mut fork = world.instance();
    fork.slot_mut().write_page(2, &image.held[&2]);
    assert_eq!(run(&mut fork, export("add", &[8192, 1])).unwrap(), 11);
    assert_eq!(run(&mut guest, export("add", &[8192, 0])).unwrap(), 10);
    let payload = vec![3; 100].into();
    assert_eq!(run(&mut guest, GuestCall::Message { request: 1, payload }).unwrap(), 103);
    let payload = vec![3; 60_000].into();
    let none = run(&mut guest, GuestCall::Message { request: 1, payload });
    assert!(matches!(none, Err(Trap::Memory { pages: 2 })), "{none:?}");
    assert!(matches!(run(&mut guest, GuestCall::Init), Err(Trap::Missing { .. })));
}

#[test]
fn i3_an_endless_loop_yields_and_is_cut_by_its_budget() {
    let world = World::new();
    let mut guest = world.instance();
    guest.start(export("spin", &[]), Duration::from_millis(20));
    let mut slices = 0;
    let trap = loop {
        match guest.poll() {
            Progress::Yielded => slices += 1,
            Progress::Done(answer) => break answer.unwrap_err(),
        }
    };
    assert!(slices >= 1, "it never yielded");
    assert!(matches!(trap, Trap::Budget { ms: 20.. }), "{trap:?}");
    assert_eq!(run(&mut guest, export("add", &[0, 1])).unwrap(), 1);
}

#[test]
fn traps_say_what_happened() {
    let world = World::new();
    let mut guest = world.instance();
    let mut trap = |call| run(&mut guest, call).unwrap_err();
    assert!(matches!(trap(export("deep", &[])), Trap::Stack));
    assert!(matches!(trap(export("die", &[])), Trap::Code(wasmtime::Trap::UnreachableCodeReached)));
    assert!(matches!(trap(export("far", &[])), Trap::Code(wasmtime::Trap::MemoryOutOfBounds)));
    assert!(matches!(trap(export("exit", &[7])), Trap::Exit { code: 7 }));
    let missing = trap(export("nothing", &[]));
    assert!(missing.to_string().contains("nothing"), "{missing}");
    assert!(matches!(trap(export("add", &[])), Trap::Host(_)));
}

#[test]
fn limits_refuse_growth_inside_the_guest() {
    let world = World::new();
    let mut guest = world.instance();
    assert_eq!(run(&mut guest, export("grow", &[1])).unwrap(), 2);
    assert_eq!(run(&mut guest, export("grow", &[2])).unwrap(), -1);
    assert_eq!(run(&mut guest, export("size", &[])).unwrap(), 3);
    assert_eq!(run(&mut guest, export("grow_table", &[])).unwrap(), -1);
    guest.grow(4 * WASM_PAGE).unwrap();
    assert_eq!(run(&mut guest, export("size", &[])).unwrap(), 4);
    assert!(matches!(guest.grow(5 * WASM_PAGE), Err(SlotError::Length { .. })));
    assert!(matches!(guest.grow(3 * WASM_PAGE), Err(SlotError::Shrink { .. })));
    let end = 4 * WASM_PAGE as i32 - 4;
    assert_eq!(run(&mut guest, export("add", &[end, 9])).unwrap(), 9);
    assert!(run(&mut guest, export("add", &[end + 1, 9])).is_err());
    let mut image = Pages::default();
    guest.slot_mut().capture(&mut image).unwrap();
    assert_eq!(image.reported, [(4 * WASM_PAGE / PAGE) as u32 - 1]);
}

#[test]
fn globals_come_back() {
    let world = World::new();
    let mut guest = world.instance();
    let mut before = Vec::new();
    guest.globals(&mut before);
    assert_eq!(before, [5, 6, 1.5f32.to_bits().into(), 2.5f64.to_bits(), 7, 8]);
    run(&mut guest, export("bump", &[])).unwrap();
    let mut after = Vec::new();
    guest.globals(&mut after);
    let minus = |value: i64| value as u64;
    let bits = [u64::from(-5i32 as u32), minus(-94), (-1.5f32).to_bits().into()];
    assert_eq!(after[..3], bits);
    assert_eq!(after[3..], [(-2.5f64).to_bits(), minus(-7), minus(-8)]);
    guest.set_globals(&before).unwrap();
    let mut restored = Vec::new();
    guest.globals(&mut restored);
    assert_eq!(restored, before);
    let wrong = guest.set_globals(&before[1..]);
    assert!(matches!(wrong, Err(InstanceError::Globals { words: 5, wanted: 6 })));
}

#[test]
fn i1_two_paused_calls_interleave() {
    let world = World::new();
    let (mut a, mut b) = (world.instance(), world.instance());
    a.start(export("count", &[60_000_000]), LONG);
    b.start(export("count", &[90_000_000]), LONG);
    let (mut a_answer, mut b_answer, mut both) = (None, None, 0);
    while a_answer.is_none() || b_answer.is_none() {
        both += u32::from(a.is_paused() && b.is_paused());
        for (guest, answer) in [(&mut a, &mut a_answer), (&mut b, &mut b_answer)] {
            if answer.is_none()
                && let Progress::Done(done) = guest.poll()
            {
                *answer = Some(done.unwrap());
            }
        }
    }
    assert_eq!((a_answer, b_answer), (Some(60_000_000), Some(90_000_000)));
    assert!(both >= 1, "they never took turns");
}

#[test]
fn i2_dropping_a_paused_call_frees_everything() {
    let world = World::new();
    for _ in 0..20 {
        let mut guest = world.instance();
        guest.start(export("spin", &[]), LONG);
        assert!(matches!(guest.poll(), Progress::Yielded));
        drop(guest);
        assert_eq!(world.sandboxes.pool().live_count(), 0);
        assert_eq!(world.sandboxes.pool().idle_count(), 1);
    }
    assert_eq!(run(&mut world.instance(), export("add", &[0, 1])).unwrap(), 1);
}

#[test]
fn two_thousand_instances_live_at_once() {
    let world = World::new();
    let before = mapping_count();
    let mut guests: Vec<_> = (0..2_000).map(|_| world.instance()).collect();
    for (nth, guest) in guests.iter_mut().enumerate() {
        assert_eq!(run(guest, export("add", &[4096, nth as i32])).unwrap(), nth as i32);
    }
    let added = mapping_count() - before;
    println!("{added} mappings for 2,000 instances");
    assert!(added <= 2_000 * 3 + 100, "{added} mappings");
    for (nth, guest) in guests.iter_mut().enumerate() {
        assert_eq!(run(guest, export("add", &[4096, 0])).unwrap(), nth as i32);
    }
}

fn mapping_count() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

#[test]
fn a_module_that_cannot_be_captured_is_refused() {
    let world = World::new();
    let bind = |text: &str| {
        let code = Module::new(world.sandboxes.engine(), wat::parse_str(text).unwrap()).unwrap();
        let linker = Linker::<u32>::new(world.sandboxes.engine());
        CompiledModule::new(&world.sandboxes, &code, &linker, ["g"]).map(drop)
    };
    let memory = r#"(memory (export "memory") 1)"#;
    let good = format!(r#"(module {memory} (global (export "g") (mut i32) (i32.const 1)))"#);
    bind(&good).unwrap();
    assert!(matches!(bind("(module)"), Err(InstanceError::Memory { count: 0 })));
    let constant = format!(r#"(module {memory} (global (export "g") i32 (i32.const 1)))"#);
    assert!(matches!(bind(&constant), Err(InstanceError::Global { .. })));
    let reference =
        format!(r#"(module {memory} (global (export "g") (mut funcref) (ref.null func)))"#);
    assert!(matches!(bind(&reference), Err(InstanceError::Global { .. })));
    let import = format!(
        r#"(module (import "a" "b" (func)) {memory}
        (global (export "g") (mut i32) (i32.const 1)))"#
    );
    assert!(matches!(bind(&import), Err(InstanceError::Link(_))));
    let signature = format!(
        r#"(module {memory} (func (export "heronry_init") (param i32))
        (global (export "g") (mut i32) (i32.const 1)))"#
    );
    assert!(matches!(bind(&signature), Err(InstanceError::Signature { .. })));
}

/// Where the child of the next test finds its compiled module.
const CHILD: &str = "HERONRY_SANDBOX_MEMORY_CHILD";

#[test]
fn i4_a_shard_never_starts_a_second_thread() {
    if let Some(path) = std::env::var_os(CHILD) {
        return live_without_threads(path.as_ref());
    }
    let engine = Engine::new(&engine_config()).unwrap();
    let compiled = engine.precompile_module(&wat::parse_str(GUEST).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    std::fs::write(&path, compiled).unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "i4_a_shard_never_starts_a_second_thread", "--test-threads=1"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// All a shard does with sandboxes, in a process of its own.
fn live_without_threads(path: &std::path::Path) {
    let before = thread_count();
    let sandboxes = Sandboxes::new(SandboxPlan::default()).unwrap();
    // SAFETY: the file is what this test's parent just compiled, and nobody changes it.
    let code = unsafe { Module::deserialize_file(sandboxes.engine(), path) }.unwrap();
    let module = Rc::new(bind(&sandboxes, &code).unwrap());
    let base = Arc::new(BaseImage::from_bytes(&vec![0; 2 * WASM_PAGE]).unwrap());
    let lengths = lengths(2 * WASM_PAGE, 4 * WASM_PAGE);
    let mut guest = Instance::new(&sandboxes, &module, &base, lengths, 0).unwrap();
    assert_eq!(run(&mut guest, export("add", &[8192, 5])).unwrap(), 5);
    assert_eq!(run(&mut guest, export("grow", &[1])).unwrap(), 2);
    guest.start(export("spin", &[]), Duration::from_millis(5));
    while matches!(guest.poll(), Progress::Yielded) {}
    guest.slot_mut().capture(&mut Pages::default()).unwrap();
    assert_eq!(thread_count(), before, "I4");
    let text = wat::parse_str(GUEST).unwrap();
    assert!(Module::new(sandboxes.engine(), text).is_err(), "a shard compiled");
    assert_eq!(thread_count(), before, "I4");
}

fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
