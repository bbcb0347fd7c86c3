//! Engine cycles in process: dirty some pages of an image, then seal, fork or roll back.
//!
//! Owns: the store, image and tree that such a cycle needs, and its timing in batches.
//! Not: which sizes (`seal.rs`), how many at once (`scaling.rs`).
//! Y1  a batch is timed as one span and divided, since one operation is shorter than two clock
//!     reads; a latency is the mean of its batch.
//! Y2  every cycle leaves the store with the pages it had before.

use crate::report::Latency;
use anyhow::Context as _;
use heronry_engine::image::Image;
use heronry_engine::page::{PAGE_BYTES, PageStore};
use heronry_engine::version::{SealKind, VersionTree};
use heronry_engine::{Nanos, VersionId};
use heronry_numa::arena::{Arena, ArenaPlan};
use std::time::{Duration, Instant};

/// Operations timed as one span (Y1), for images that are not too large.
const BATCH_MAX: usize = 32;
/// Most bytes of all images of a cycle; a batch of large images is shorter.
const IMAGES_BYTES_MAX: u64 = 128 << 20;
/// Automatic versions kept, as a node's default.
const HISTORY_MAX: u32 = 4;

/// Shape of the images of a cycle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Pages of each image, all of them written.
    pub page_count: u32,
    /// Pages dirtied before each operation; at most `page_count`.
    pub dirty_count: u32,
}

impl Shape {
    /// The part of a figure's name that says the shape.
    pub fn name(&self) -> String {
        let kib = u64::from(self.page_count) * PAGE_BYTES as u64 / 1024;
        format!("{kib}KiB/{}-dirty", self.dirty_count)
    }
}

/// Which operation is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// First writes after a seal: copies a path and a frame for each dirty page.
    Write,
    /// Make the dirty image a new version.
    Seal,
    /// Share the present as a branch with a version tree of its own.
    Fork,
    /// Make the version before the dirtying the present again.
    Rollback,
}

/// One agent's memory.
struct Cell {
    image: Image,
    tree: VersionTree,
    base: VersionId,
}

/// Several agents' memory in one store.
pub struct Cycle {
    store: PageStore,
    cells: Vec<Cell>,
    shape: Shape,
    step: u64,
}

impl Cycle {
    /// Makes the images. Error: the host does not lend the memory.
    pub fn new(shape: Shape) -> anyhow::Result<Cycle> {
        // Present, kept versions and a branch may all differ in the dirty pages.
        let copies = u64::from(HISTORY_MAX) + 3;
        let pages = u64::from(shape.page_count) + u64::from(shape.dirty_count) * copies;
        let fit = IMAGES_BYTES_MAX / (u64::from(shape.page_count) * PAGE_BYTES as u64).max(1);
        let cell_count = fit.clamp(1, BATCH_MAX as u64);
        let bytes = (pages * cell_count + 1024) * PAGE_BYTES as u64;
        let plan = ArenaPlan { bytes: bytes..=bytes.max(2 << 20), node: None, huge_pages: true };
        let mut store = PageStore::new(Arena::reserve(&plan, None)?.bytes);
        let mut cells = Vec::new();
        for _ in 0..cell_count {
            let mut image = Image::EMPTY;
            for page in 0..shape.page_count {
                let offset = u64::from(page) * PAGE_BYTES as u64;
                image.write(&mut store, offset, &[page as u8; PAGE_BYTES]).context("the arena")?;
            }
            let tree = VersionTree::new(&image, &mut store, Nanos(0));
            cells.push(Cell { image, base: tree.head(), tree });
        }
        Ok(Cycle { store, cells, shape, step: 0 })
    }

    /// Runs batches for `seconds`; returns per-operation latencies and how many operations ran.
    pub fn run(&mut self, operation: Operation, seconds: f64) -> anyhow::Result<(Latency, u64)> {
        let mut latency = Latency::new();
        let end_at = Instant::now() + Duration::from_secs_f64(seconds);
        let mut count = 0;
        while Instant::now() < end_at {
            let ns = self.batch(operation)?;
            latency.record_ns(ns / self.cells.len() as u64);
            count += self.cells.len() as u64;
        }
        Ok((latency, count))
    }

    /// Dirty, seal and fork each cell once, untimed: the work of `scaling`. Returns operations.
    pub fn turn_over(&mut self) -> anyhow::Result<u64> {
        self.dirty()?;
        let count = self.cells.len() as u64;
        for cell in &mut self.cells {
            seal(cell, &mut self.store)?;
            let branch = cell.image.share(&mut self.store);
            let tree = VersionTree::new(&branch, &mut self.store, Nanos(0));
            tree.release(&mut self.store);
            branch.release(&mut self.store);
        }
        Ok(count)
    }

    fn batch(&mut self, operation: Operation) -> anyhow::Result<u64> {
        match operation {
            Operation::Write => {
                let ns = timed(|| self.dirty())?;
                self.seal_all()?;
                Ok(ns)
            }
            Operation::Seal => {
                self.dirty()?;
                timed(|| self.seal_all())
            }
            Operation::Fork => {
                self.dirty()?;
                self.seal_all()?;
                let mut branches = Vec::with_capacity(self.cells.len());
                let ns = timed(|| {
                    for cell in &self.cells {
                        let image = cell.image.share(&mut self.store);
                        let tree = VersionTree::new(&image, &mut self.store, Nanos(0));
                        branches.push((image, tree));
                    }
                    Ok(())
                })?;
                for (image, tree) in branches {
                    tree.release(&mut self.store);
                    image.release(&mut self.store);
                }
                Ok(ns)
            }
            Operation::Rollback => {
                self.seal_all()?;
                self.cells.iter_mut().for_each(|cell| cell.base = cell.tree.head());
                self.dirty()?;
                timed(|| self.roll_back())
            }
        }
    }

    /// Writes 8 bytes to each of the dirty pages, which are spread over the image.
    fn dirty(&mut self) -> anyhow::Result<()> {
        self.step += 1;
        let stride = u64::from(self.shape.page_count / self.shape.dirty_count.max(1)).max(1);
        let bytes = self.step.to_le_bytes();
        for cell in &mut self.cells {
            for n in 0..u64::from(self.shape.dirty_count) {
                let offset = n * stride * PAGE_BYTES as u64 + self.step % 500 * 8;
                cell.image.write(&mut self.store, offset, &bytes)?;
            }
        }
        Ok(())
    }

    fn seal_all(&mut self) -> anyhow::Result<()> {
        for cell in &mut self.cells {
            seal(cell, &mut self.store)?;
        }
        Ok(())
    }

    fn roll_back(&mut self) -> anyhow::Result<()> {
        for cell in &mut self.cells {
            let base = cell.tree.set_head(cell.base).context("Y2: the base is kept")?;
            let image = base.share(&mut self.store);
            std::mem::replace(&mut cell.image, image).release(&mut self.store);
        }
        Ok(())
    }
}

fn seal(cell: &mut Cell, store: &mut PageStore) -> anyhow::Result<()> {
    let kind = SealKind::Auto { history_max: HISTORY_MAX };
    cell.tree.seal(&cell.image, store, Nanos(0), kind)?;
    Ok(())
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let started_at = Instant::now();
    work()?;
    Ok(started_at.elapsed().as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn y2_cycles_use_no_more_pages_the_longer_they_run() {
        for dirty_count in [1, 4] {
            let mut cycle = Cycle::new(Shape { page_count: 16, dirty_count }).expect("memory");
            let once = |cycle: &mut Cycle| {
                for _ in 0..HISTORY_MAX + 2 {
                    for operation in
                        [Operation::Write, Operation::Seal, Operation::Fork, Operation::Rollback]
                    {
                        cycle.batch(operation).expect("room");
                    }
                    cycle.turn_over().expect("room");
                }
                cycle.store.used_count()
            };
            let first = once(&mut cycle);
            assert_eq!(once(&mut cycle), first);
        }
    }
}
