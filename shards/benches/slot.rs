//! Criterion: a sandbox's life in its slot: instantiate, call, capture, restore.
//!
//! Owns: the cost of each step on an 8 MiB memory, with pages that stay writable (hot) and pages
//! that are protected before each write (cold).  Not: the interpreters in it, which
//! `heronry bench sandbox` measures.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use heronry_shards::sandbox::instance::{
    CompiledModule, GuestCall, Instance, Progress, SandboxPlan, Sandboxes,
};
use heronry_shards::sandbox::slot::{
    BaseImage, Delta, Lengths, PAGE, PoolPlan, Slot, SlotPool, Tracking,
};
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{Linker, Module};

const MEMORY_BYTES: usize = 8 << 20;
const PAGE_COUNT: u32 = (MEMORY_BYTES / PAGE) as u32;
const LENGTHS: Lengths = Lengths { memory_bytes: MEMORY_BYTES, memory_bytes_max: 64 << 20 };

/// An image as an array: what a capture costs without the engine's tree.
struct Pages(Vec<Option<Box<[u8; PAGE]>>>);

impl Pages {
    fn new() -> Pages {
        Pages((0..PAGE_COUNT).map(|_| None).collect())
    }
}

impl Delta for Pages {
    fn held<'a>(&'a self, page_idx: u32, _: &'a mut [u8; PAGE]) -> Option<&'a [u8; PAGE]> {
        self.0[page_idx as usize].as_deref()
    }

    fn holds(&self, page_idx: u32) -> bool {
        self.0[page_idx as usize].is_some()
    }

    fn keep(&mut self, page_idx: u32, base: &[u8; PAGE], bytes: &[u8; PAGE]) -> bool {
        match &mut self.0[page_idx as usize] {
            Some(page) if **page == *bytes => return false,
            Some(page) => **page = *bytes,
            None if base == bytes => return false,
            empty => *empty = Some(Box::new(*bytes)),
        }
        true
    }
}

fn base() -> Arc<BaseImage> {
    Arc::new(BaseImage::from_bytes(&vec![7; MEMORY_BYTES]).expect("a memfd"))
}

/// The `nth` page that is written: scattered over the memory.
fn page(nth: u32) -> u32 {
    nth * 29 % PAGE_COUNT
}

fn touch(slot: &mut Slot, page_count: u32, byte: u8) {
    for page_idx in (0..page_count).map(page) {
        // Byte by byte as a guest writes: a whole page written would measure the copy.
        let at = slot.as_ptr().wrapping_add(page_idx as usize * PAGE + 100);
        poke(at, byte);
    }
}

#[allow(unsafe_code)]
fn poke(at: *mut u8, byte: u8) {
    // SAFETY: inside the open memory of a slot that the caller borrows mutably.
    unsafe { at.write_volatile(byte) };
}

fn capture(c: &mut Criterion) {
    let mut group = c.benchmark_group("slot_capture");
    for tracking in [Tracking::Userfault, Tracking::Compare] {
        let plan = PoolPlan { tracking: Some(tracking), slots_max: Some(4), ..PoolPlan::default() };
        let Ok(pool) = SlotPool::new(plan) else { continue };
        let base = base();
        for page_count in [1u32, 10, 70] {
            let mut slot = Slot::new(&pool, &base, LENGTHS).expect("a slot");
            let mut image = Pages::new();
            let mut byte = 0u8;
            let name = format!("{tracking:?}, hot, write and capture");
            group.bench_function(BenchmarkId::new(name, page_count), |bench| {
                bench.iter(|| {
                    byte = byte.wrapping_add(1);
                    touch(&mut slot, page_count, byte);
                    black_box(slot.capture(&mut image).expect("a capture"));
                });
            });
            if tracking == Tracking::Compare {
                continue;
            }
            let name = "hot, written with the same bytes";
            group.bench_function(BenchmarkId::new(name, page_count), |bench| {
                bench.iter(|| {
                    // Another page keeps the rest from cooling down together.
                    touch(&mut slot, page_count, byte);
                    black_box(slot.capture(&mut image).expect("a capture"));
                });
            });
            let name = "cold, write and capture";
            group.bench_function(BenchmarkId::new(name, page_count), |bench| {
                bench.iter_custom(|rounds| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..rounds {
                        while slot.hot_count() > 0 {
                            slot.capture(&mut image).expect("a capture");
                        }
                        byte = byte.wrapping_add(1);
                        let began = Instant::now();
                        touch(&mut slot, page_count, byte);
                        black_box(slot.capture(&mut image).expect("a capture"));
                        spent += began.elapsed();
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

fn restore(c: &mut Criterion) {
    let pool = SlotPool::new(PoolPlan::default()).expect("a pool");
    let base = base();
    let mut group = c.benchmark_group("slot_restore");
    for page_count in [10u32, 70] {
        let mut slot = Slot::new(&pool, &base, LENGTHS).expect("a slot");
        let mut image = Pages::new();
        touch(&mut slot, page_count, 1);
        slot.capture(&mut image).expect("a capture");
        group.bench_function(
            BenchmarkId::new("written pages back to the image", page_count),
            |bench| {
                bench.iter(|| {
                    touch(&mut slot, page_count, 2);
                    black_box(slot.revert(&image).expect("a revert"));
                });
            },
        );
        for warm in [false, true] {
            let name = if warm { "pages into a warm slot" } else { "pages into a fresh slot" };
            group.bench_function(BenchmarkId::new(name, page_count), |bench| {
                let make = || {
                    if !warm {
                        pool.trim();
                    }
                    Slot::new(&pool, &base, LENGTHS).expect("a slot")
                };
                let fill = |slot: &mut Slot| {
                    for page_idx in (0..page_count).map(page) {
                        slot.write_page(
                            page_idx,
                            image.0[page_idx as usize].as_deref().expect("held"),
                        );
                    }
                };
                bench.iter_batched_ref(make, fill, BatchSize::PerIteration);
            });
        }
        group.bench_function(BenchmarkId::new("pages back to the base", page_count), |bench| {
            bench.iter(|| {
                for page_idx in (0..page_count).map(page) {
                    slot.reset_page(page_idx).expect("a reset");
                }
            });
        });
    }
    group.finish();
}

const GUEST: &str = r#"(module
    (memory (export "memory") 128 1024)
    (func (export "_initialize") (i32.store (i32.const 5000) (i32.const 1))))"#;

fn instance(c: &mut Criterion) {
    let plan = SandboxPlan { compiles: true, ..SandboxPlan::default() };
    let sandboxes = Sandboxes::new(plan).expect("an engine");
    let text = wat::parse_str(GUEST).expect("a module");
    let code = Module::new(sandboxes.engine(), text).expect("a module");
    let linker = Linker::<()>::new(sandboxes.engine());
    let module = CompiledModule::new(&sandboxes, &code, &linker, []).expect("a module");
    let (module, base) = (Rc::new(module), base());
    let make = || Instance::new(&sandboxes, &module, &base, LENGTHS, ()).expect("an instance");
    let call = |guest: &mut Instance<()>| {
        guest.start(GuestCall::Initialize, Duration::from_secs(1));
        // A slice may end at once where another process had the CPU for two ticks.
        while matches!(guest.poll(), Progress::Yielded) {}
    };
    let mut group = c.benchmark_group("instance");
    group.bench_function("new", |bench| {
        bench.iter_batched(|| (), |()| make(), BatchSize::PerIteration);
    });
    group.bench_function("new and drop", |bench| bench.iter(|| drop(make())));
    group.bench_function("new, first call, drop", |bench| bench.iter(|| call(&mut make())));
    let mut guest = make();
    group.bench_function("call", |bench| bench.iter(|| call(&mut guest)));
    group.finish();
}

criterion_group!(benches, capture, restore, instance);
criterion_main!(benches);
