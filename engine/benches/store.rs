//! Cost of the store's operations: writes, seal, fork, rollback, diff, and the hot-agent counter.
//!
//! Images are sparse: a page in every 64 KiB is there, so 1 GiB takes 64 MiB. `warm` cycles use the
//! same few frames again and again; `cold` ones go round 4096 agents, more than the caches hold.
//!
//! Run: `cargo bench -p heronry-engine --bench store`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use heronry_engine::{Image, Nanos, PAGE_BYTES, PageStore, SealKind, SpaceSaving, VersionTree};
use std::hint::black_box;

const KIB: u64 = 1 << 10;
const SIZES: [(&str, u64); 4] =
    [("64KiB", 64 * KIB), ("1MiB", 1 << 20), ("64MiB", 64 << 20), ("1GiB", 1 << 30)];
const AGENT_COUNT: usize = 4096;
const AUTO: SealKind = SealKind::Auto { history_max: 4 };

/// What a shard keeps of an agent.
struct Agent {
    image: Image,
    tree: VersionTree,
    /// What it writes next, so that no write is of bytes that are there already.
    text: u8,
}

impl Agent {
    fn new(image: Image, store: &mut PageStore) -> Agent {
        let tree = VersionTree::new(&image, store, Nanos(0));
        Agent { image, tree, text: 2 }
    }

    fn write(&mut self, store: &mut PageStore, offset: u64) {
        self.text = if self.text == u8::MAX { 2 } else { self.text + 1 };
        let changed = self.image.write(store, offset, &[self.text; 100]);
        assert!(changed.expect("room for a write"));
    }

    fn seal(&mut self, store: &mut PageStore) {
        self.tree.seal(&self.image, store, Nanos(1), AUTO).expect("automatic seals have no limit");
    }

    fn end(self, store: &mut PageStore) {
        self.image.release(store);
        self.tree.release(store);
    }
}

fn store(arena_bytes: usize) -> PageStore {
    PageStore::new(vec![0; arena_bytes].leak())
}

fn sparse(store: &mut PageStore, len_bytes: u64) -> Image {
    let mut image = Image::EMPTY;
    for offset in (0..len_bytes).step_by(64 * KIB as usize) {
        image.write(store, offset, &[1; PAGE_BYTES]).expect("room for the image");
    }
    image.resize(store, len_bytes).expect("within the bound");
    image
}

fn access(c: &mut Criterion) {
    let mut group = c.benchmark_group("access");
    for (name, len_bytes) in SIZES {
        let mut store = store(128 << 20);
        let image = sparse(&mut store, len_bytes);
        let mut agent =
            Agent { image, tree: VersionTree::new(&Image::EMPTY, &mut store, Nanos(0)), text: 0 };
        let offset = (len_bytes / 2) & !(64 * KIB - 1);
        group.bench_function(BenchmarkId::new("write_100_bytes_unshared", name), |b| {
            b.iter(|| agent.write(&mut store, offset + 200));
        });
        let mut out = [0; 100];
        group.bench_function(BenchmarkId::new("read_100_bytes", name), |b| {
            b.iter(|| black_box(agent.image.read_into(&store, offset + 200, &mut out)));
        });
        agent.end(&mut store);
    }
    group.finish();
}

/// Write 100 bytes into what the last seal shared, and seal, with the history of four that an agent
/// has by default: one path and one frame copied, the oldest version pruned.
fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal_and_first_write");
    for (name, len_bytes) in SIZES {
        let mut store = store(128 << 20);
        let image = sparse(&mut store, len_bytes);
        let mut agent = Agent::new(image, &mut store);
        group.bench_function(BenchmarkId::new("warm", name), |b| {
            b.iter(|| {
                agent.write(&mut store, len_bytes / 2);
                agent.seal(&mut store);
            });
        });
        agent.end(&mut store);
    }
    let mut store = store(512 << 20);
    let base = sparse(&mut store, 1 << 30);
    let fork = |store: &mut PageStore| Agent::new(base.share(store), store);
    let mut agents: Vec<Agent> = (0..AGENT_COUNT).map(|_| fork(&mut store)).collect();
    for _ in 0..8 {
        for agent in &mut agents {
            agent.write(&mut store, 1 << 29);
            agent.seal(&mut store);
        }
    }
    let mut turn = 0;
    group.bench_function(BenchmarkId::new("cold", "1GiB"), |b| {
        b.iter(|| {
            turn = (turn + 1) % AGENT_COUNT;
            agents[turn].write(&mut store, 1 << 29);
            agents[turn].seal(&mut store);
        });
    });
    group.finish();
}

/// Fork a sealed image, write 100 bytes in the branch, and end a branch.
fn fork(c: &mut Criterion) {
    let mut group = c.benchmark_group("fork_first_write_and_end");
    for (name, len_bytes) in SIZES {
        let mut store = store(128 << 20);
        let image = sparse(&mut store, len_bytes);
        let parent = Agent::new(image, &mut store);
        let fork = |store: &mut PageStore| {
            let image = parent.tree.head_image().share(store);
            let mut branch = Agent::new(image, store);
            branch.write(store, len_bytes / 2);
            branch
        };
        group.bench_function(BenchmarkId::new("warm", name), |b| {
            b.iter(|| {
                let branch = fork(&mut store);
                branch.end(&mut store);
            });
        });
        let mut branches: Vec<Agent> = (0..AGENT_COUNT).map(|_| fork(&mut store)).collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("cold", name), |b| {
            b.iter(|| {
                turn = (turn + 1) % AGENT_COUNT;
                let branch = fork(&mut store);
                std::mem::replace(&mut branches[turn], branch).end(&mut store);
            });
        });
    }
    group.finish();
}

/// Change pages of a 1 GiB image, then return to the version before.
fn rollback(c: &mut Criterion) {
    let mut group = c.benchmark_group("change_and_rollback_1GiB");
    for page_count in [1, 16, 256, 4096] {
        let mut store = store(128 << 20);
        let image = sparse(&mut store, 1 << 30);
        let mut agent = Agent::new(image, &mut store);
        group.throughput(Throughput::Elements(page_count));
        group.bench_function(BenchmarkId::from_parameter(page_count), |b| {
            b.iter(|| {
                for page in 0..page_count {
                    agent.write(&mut store, page * 64 * KIB);
                }
                let sealed = agent.tree.head_image().share(&mut store);
                std::mem::replace(&mut agent.image, sealed).release(&mut store);
            });
        });
    }
    group.finish();
}

fn diff(c: &mut Criterion) {
    let mut group = c.benchmark_group("diff_1GiB");
    for page_count in [1, 16, 256] {
        let mut store = store(128 << 20);
        let image = sparse(&mut store, 1 << 30);
        let mut agent = Agent::new(image, &mut store);
        for page in 0..page_count {
            agent.write(&mut store, page * 64 * KIB);
        }
        group.throughput(Throughput::Elements(page_count));
        group.bench_function(BenchmarkId::from_parameter(page_count), |b| {
            b.iter(|| black_box(agent.tree.head_image().diff(&agent.image, &store)));
        });
    }
    group.finish();
}

fn hot(c: &mut Criterion) {
    let mut group = c.benchmark_group("hot_touch");
    for (name, key_count) in [("followed", 64u64), ("mostly_unknown", 1 << 20)] {
        let mut hot = SpaceSaving::new(128);
        let mut state = 1u64;
        group.bench_function(name, |b| {
            b.iter(|| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                hot.touch((state >> 33) % key_count);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, access, seal, fork, rollback, diff, hot);
criterion_main!(benches);
