//! The page store: pages and the radix nodes above them, shared and changed without copies.
//!
//! Owns: nodes, reference counts, what may be taken.  Not: the pages' bytes (`page/leaves.rs`),
//! which image uses what (`image.rs`), the log, the clock.  One owner, so counts are plain integers
//! without a lock.
//! P1  what a page or node with more than one reference reads as never changes.
//! P2  free + live == capacity, for frames, pages and nodes.
//! P3  a count equals the references that images and nodes hold; at zero the entry is free.
//! P4  entries past the bump pointer were never touched; freed ones are reused last in, first out.

mod counts;
mod leaves;
mod patch;

use counts::{LIST_END, RefTable};
use leaves::Leaves;
pub(crate) use patch::{
    LINE_BYTES, Line, Lines, differing, differing_bytes, each, lines, lines_of,
};

use crate::image::Image;
use crate::log::Place;

/// Size of a frame, and of a page of an image.
pub const PAGE_BYTES: usize = 4096;
/// Children of a radix node.
pub const NODE_FANOUT: usize = 16;
/// Bound of nodes per frame. A page alone on a path of its own needs five, and a version that
/// changes one line of it as many again.
pub const NODES_PER_FRAME_MAX: u32 = 64;

/// Nodes are allocated in blocks of this many, so that growth never copies.
const NODE_BLOCK: usize = 1024;

const _: () = assert!(size_of::<Node>() == 64);
const _: () = assert!(NODE_BLOCK.is_power_of_two());

/// Bytes of one frame.
pub(crate) type Frame = [u8; PAGE_BYTES];

/// A page that was never written reads as this.
pub(crate) static ZERO_PAGE: Frame = [0; PAGE_BYTES];

/// Why an image could not change. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PageError {
    /// No frame, or no node, is left. The numbers are of the kind that ran out.
    #[error("the arena is full: {used_bytes} of {arena_bytes} bytes")]
    Full {
        /// Bytes used.
        used_bytes: u64,
        /// Bytes there are.
        arena_bytes: u64,
    },
    /// The image would be longer than an image may be.
    #[error("an image of {len_bytes} bytes; allowed: 0 to {len_bytes_max}")]
    TooLong {
        /// The length asked for; saturated.
        len_bytes: u64,
        /// The bound.
        len_bytes_max: u64,
    },
}

/// A page (level 0) or a node (levels above), as a parent or an image refers to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot(u32);

impl Slot {
    /// Nothing here: the pages below are zeros.
    pub(crate) const ABSENT: Slot = Slot(u32::MAX);

    /// Whether nothing is here.
    pub(crate) fn is_absent(self) -> bool {
        self == Slot::ABSENT
    }

    fn idx(self) -> usize {
        self.0 as usize
    }
}

impl Away {
    /// Bytes that it takes.
    fn bytes(&self) -> u64 {
        (size_of::<Away>() + self.changes.len()) as u64
    }
}

/// Where the bytes of a page are that is in the log only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Away {
    /// The record that has the page as it once was.
    pub(crate) record: Place,
    /// What has changed of it since, as `image/delta.rs` encodes it: lists of runs, one after the
    /// other.
    pub(crate) changes: Vec<u8>,
}

/// What a change takes from the store at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Need {
    /// New frames, or as much room as they take.
    pub(crate) frames: u32,
    /// New nodes.
    pub(crate) nodes: u32,
}

/// One cache line of children.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Node([Slot; NODE_FANOUT]);

/// Pages and nodes with their reference counts. One per shard.
pub struct PageStore {
    leaves: Leaves,
    nodes: Vec<Box<[Node; NODE_BLOCK]>>,
    node_refs: RefTable,
}

impl PageStore {
    /// A store over `frames`, whose bytes may hold anything; a rest shorter than a page stays
    /// unused. Touches no frame. Panics past 2^30 - 1 frames (4 TiB).
    pub fn new(frames: &'static mut [u8]) -> PageStore {
        let frame_count = (frames.len() / PAGE_BYTES) as u64;
        let node_count_max = frame_count.saturating_mul(u64::from(NODES_PER_FRAME_MAX));
        PageStore::with_nodes(frames, node_count_max.min(u64::from(LIST_END)) as u32)
    }

    /// As [`PageStore::new`], with a bound of its own for nodes.
    pub fn with_nodes(frames: &'static mut [u8], node_count_max: u32) -> PageStore {
        let (frames, _rest) = frames.as_chunks_mut::<PAGE_BYTES>();
        let node_refs = RefTable::new(node_count_max.min(LIST_END));
        PageStore { leaves: Leaves::new(frames), nodes: Vec::new(), node_refs }
    }

    /// Ends the store and gives its frames back, with whatever bytes they hold.
    pub fn into_frames(self) -> &'static mut [u8] {
        self.leaves.into_frames()
    }

    /// Frames there are.
    pub fn frame_count(&self) -> u32 {
        self.leaves.frames().capacity()
    }

    /// Frames in use.
    pub fn used_count(&self) -> u32 {
        self.leaves.frames().used()
    }

    /// Frames that can be taken: those not in use, less what patches take.
    pub fn free_count(&self) -> u32 {
        self.leaves.room_count()
    }

    /// Nodes in use.
    pub fn node_count(&self) -> u32 {
        self.node_refs.used()
    }

    /// Bytes of what older versions keep of pages that have changed since.
    pub fn patch_bytes(&self) -> u64 {
        self.leaves.patch_bytes()
    }

    /// Bytes of all frames.
    pub fn arena_bytes(&self) -> u64 {
        u64::from(self.frame_count()) * PAGE_BYTES as u64
    }

    /// Bytes of the frames in use and of patches; at most [`PageStore::arena_bytes`].
    pub fn used_bytes(&self) -> u64 {
        self.leaves.used_bytes()
    }

    /// Checks P2 to P4 against `roots`, which must be every image that lives. Panics when one is
    /// broken. Cost: the whole store, so only for tests and `debug_assert!`-like use.
    pub fn debug_check<'a>(&self, roots: impl IntoIterator<Item = &'a Image>) {
        let mut page_refs = vec![0u32; self.leaves.pages().fresh() as usize];
        let mut node_refs = vec![0u32; self.node_refs.fresh() as usize];
        for image in roots {
            let (root, height) = image.root();
            self.count_refs(root, height, &mut page_refs, &mut node_refs);
        }
        self.leaves.check(&page_refs);
        self.node_refs.check(&node_refs);
    }

    /// Counts one reference to `slot`, and those below when it is the first.
    fn count_refs(&self, slot: Slot, level: u8, pages: &mut [u32], nodes: &mut [u32]) {
        if slot.is_absent() {
            return;
        }
        if level == 0 {
            pages[slot.idx()] += 1;
            return;
        }
        nodes[slot.idx()] += 1;
        if nodes[slot.idx()] == 1 {
            for child in self.node(slot).0 {
                self.count_refs(child, level - 1, pages, nodes);
            }
        }
    }
}

/// What images are built with. Infallible takes follow a successful [`PageStore::ensure`].
impl PageStore {
    /// Whether `need` can be taken now.
    pub(crate) fn ensure(&self, need: Need) -> Result<(), PageError> {
        if need.frames > self.leaves.room_count() {
            let (used_bytes, arena_bytes) = (self.used_bytes(), self.arena_bytes());
            return Err(PageError::Full { used_bytes, arena_bytes });
        }
        if need.frames > self.leaves.pages().free_count() {
            let (used_bytes, arena_bytes) = self.leaves.pages().bytes();
            return Err(PageError::Full { used_bytes, arena_bytes });
        }
        if need.nodes > self.node_refs.free_count() {
            let bytes = |count: u32| u64::from(count) * size_of::<Node>() as u64;
            return Err(PageError::Full {
                used_bytes: bytes(self.node_refs.used()),
                arena_bytes: bytes(self.node_refs.capacity()),
            });
        }
        Ok(())
    }

    /// References to `slot`.
    pub(crate) fn ref_count(&self, slot: Slot, level: u8) -> u32 {
        if level == 0 { self.leaves.ref_count(slot.0) } else { self.node_refs.count(slot.0) }
    }

    /// Whether `slot` has one reference only.
    pub(crate) fn is_unshared(&self, slot: Slot, level: u8) -> bool {
        self.ref_count(slot, level) == 1
    }

    /// Adds a reference, unless `slot` is absent.
    pub(crate) fn retain(&mut self, slot: Slot, level: u8) {
        if slot.is_absent() {
        } else if level == 0 {
            self.leaves.retain(slot.0);
        } else {
            self.node_refs.retain(slot.0);
        }
    }

    /// Drops a reference, unless `slot` is absent; what nobody refers to any more is freed.
    pub(crate) fn release(&mut self, slot: Slot, level: u8) {
        if slot.is_absent() {
        } else if level == 0 {
            self.leaves.release(slot.0);
        } else if self.node_refs.release(slot.0) {
            self.release_children(slot, level);
        }
    }

    /// Bytes of a page, put together in `scratch` where they are not in one piece. Here and below,
    /// `under` is what the page was made over: zeros, or its template's page.
    pub(crate) fn page<'a>(
        &'a self,
        slot: Slot,
        under: &Frame,
        scratch: &'a mut Frame,
    ) -> &'a Frame {
        self.leaves.read(slot.0, under, scratch)
    }

    /// The lines in which a page differs from `bytes`.
    pub(crate) fn differing(&self, slot: Slot, under: &Frame, bytes: &Frame) -> Lines {
        self.leaves.differing(slot.0, under, bytes)
    }

    /// Bytes of a page that are in one piece.
    pub(crate) fn whole_page(&self, slot: Slot) -> Option<&Frame> {
        self.leaves.whole(slot.0)
    }

    /// Bytes that a page takes by itself.
    pub(crate) fn page_bytes(&self, slot: Slot) -> u64 {
        self.leaves.bytes_of(slot.0)
    }

    /// Frames that a change of these lines of an unshared page takes at most: for the page's own
    /// bytes, and to keep what older versions read.
    pub(crate) fn change_frames(&self, slot: Slot, lines: Lines) -> u32 {
        let own = self.leaves.whole(slot.0).is_none();
        u32::from(own) + u32::from(self.leaves.saves(slot.0, lines))
    }

    /// Writes into an unshared page over zeros (P1). What that takes was ensured.
    pub(crate) fn write(&mut self, slot: Slot, at: usize, bytes: &[u8]) {
        self.leaves.write(slot.0, &ZERO_PAGE, at, bytes);
    }

    /// Makes these lines of an unshared page what they are in `bytes` (P1). What that takes was
    /// ensured.
    pub(crate) fn write_lines(&mut self, slot: Slot, under: &Frame, lines: Lines, bytes: &Frame) {
        self.leaves.write_lines(slot.0, under, lines, bytes);
    }

    /// Whether a change of few lines of a shared page takes only these.
    pub(crate) fn is_root(&self, slot: Slot) -> bool {
        self.leaves.is_root(slot.0)
    }

    /// Whether a page is read over what is under it, not from a frame.
    pub(crate) fn is_over(&self, slot: Slot) -> bool {
        self.leaves.is_over(slot.0)
    }

    /// The lines in which `new` may differ from `old`: those that patches name where the one was
    /// made of the other, else all. Cost: the patches between them.
    pub(crate) fn lines_since(&self, old: Slot, new: Slot) -> Lines {
        self.leaves.lines_since(old.0, new.0)
    }

    /// The lines of `page` that may not be those of what is under it. Cost: the patches over it.
    pub(crate) fn lines_over(&self, page: Slot) -> Lines {
        self.leaves.lines_over(page.0)
    }

    /// A line of a page. Cost: the patches of the page.
    pub(crate) fn line<'a>(&'a self, slot: Slot, under: &'a Frame, line: usize) -> &'a Line {
        self.leaves.line(slot.0, under, line)
    }

    /// Child `digit` of a node.
    pub(crate) fn child(&self, slot: Slot, digit: usize) -> Slot {
        self.node(slot).0[digit]
    }

    /// All children of a node.
    pub(crate) fn children(&self, slot: Slot) -> [Slot; NODE_FANOUT] {
        self.node(slot).0
    }

    /// Puts `child` at `digit` of a node (P1), taking over its reference; returns what was there,
    /// with its reference.
    pub(crate) fn replace_child(&mut self, slot: Slot, digit: usize, child: Slot) -> Slot {
        assert!(self.is_unshared(slot, 1), "P1: wrote a shared node {slot:?}");
        std::mem::replace(&mut self.node_mut(slot).0[digit], child)
    }

    /// A page with one reference and any bytes.
    pub(crate) fn take_page(&mut self) -> Slot {
        Slot(self.leaves.take())
    }

    /// A page with one reference whose bytes are in the log: see [`PageStore::ensure_away`].
    pub(crate) fn take_away_page(&mut self, away: Away) -> Slot {
        Slot(self.leaves.take_away(away))
    }

    /// Whether an away page can be taken now, and so many nodes.
    pub(crate) fn ensure_away(&self, away: &Away, nodes: u32) -> Result<(), PageError> {
        if self.leaves.pages().free_count() == 0 {
            let (used_bytes, arena_bytes) = self.leaves.pages().bytes();
            return Err(PageError::Full { used_bytes, arena_bytes });
        }
        self.ensure(Need { frames: away.bytes().div_ceil(PAGE_BYTES as u64) as u32, nodes })
    }

    /// Where a page's bytes are, if they are not in memory: the page is not read and not changed
    /// before [`PageStore::fill`].
    pub(crate) fn away(&self, slot: Slot) -> Option<&Away> {
        if slot.is_absent() { None } else { self.leaves.away(slot.0) }
    }

    /// Gives an away page its bytes, for all images that have it. On an error nothing changed.
    pub(crate) fn fill(&mut self, slot: Slot, bytes: &Frame) -> Result<(), PageError> {
        self.ensure(Need { frames: 1, nodes: 0 })?;
        self.leaves.fill(slot.0, bytes);
        Ok(())
    }

    /// A node with one reference and no children.
    pub(crate) fn take_node(&mut self) -> Slot {
        let idx = self.node_refs.take().expect("P2: a node was ensured");
        let slot = Slot(idx);
        if slot.idx() / NODE_BLOCK == self.nodes.len() {
            let block = vec![Node([Slot::ABSENT; NODE_FANOUT]); NODE_BLOCK].into_boxed_slice();
            self.nodes.push(block.try_into().expect("P2: a block has its length"));
        } else {
            self.node_mut(slot).0 = [Slot::ABSENT; NODE_FANOUT];
        }
        slot
    }

    /// A page of these bytes with one reference.
    pub(crate) fn take_page_over(&mut self, under: &Frame, bytes: &Frame) -> Slot {
        Slot(self.leaves.take_over(under, bytes))
    }

    /// A page of the same value to change in place of a shared one; drops the reference to that.
    /// With `keep_bytes` false it may hold anything, else `shared` is a root or over zeros.
    /// Cost: constant, mostly: see [`Leaves`].
    pub(crate) fn take_page_copy(&mut self, shared: Slot, keep_bytes: bool) -> Slot {
        Slot(self.leaves.take_copy(shared.0, &ZERO_PAGE, keep_bytes))
    }

    /// A private copy of a shared node at `level`; drops the reference to the shared one.
    /// Cost: one node and its children's counts.
    pub(crate) fn take_node_copy(&mut self, shared: Slot, level: u8) -> Slot {
        let last = self.node_refs.release(shared.0);
        assert!(!last, "P1: copied what needs no copy {shared:?}");
        let copy = self.take_node();
        let children = self.children(shared);
        for child in children {
            self.retain(child, level - 1);
        }
        self.node_mut(copy).0 = children;
        copy
    }

    /// Drops what a freed node refers to.
    fn release_children(&mut self, node: Slot, level: u8) {
        for child in self.children(node) {
            self.release(child, level - 1);
        }
    }

    fn node(&self, slot: Slot) -> &Node {
        &self.nodes[slot.idx() / NODE_BLOCK][slot.idx() % NODE_BLOCK]
    }

    fn node_mut(&mut self, slot: Slot) -> &mut Node {
        &mut self.nodes[slot.idx() / NODE_BLOCK][slot.idx() % NODE_BLOCK]
    }
}

impl std::fmt::Debug for PageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageStore")
            .field("frame_count", &self.frame_count())
            .field("used_count", &self.used_count())
            .field("node_count", &self.node_count())
            .finish()
    }
}
