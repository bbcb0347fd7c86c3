//! The page store: 4 KiB frames and the radix nodes above them, shared and copied on first write.
//!
//! Owns: frame bytes, nodes, reference counts, free lists.  Not: which image uses what
//! (`image.rs`), the log, the clock.  One owner, so counts are plain integers without a lock.
//! P1  a frame or node with more than one reference is never written.
//! P2  free + live == capacity, for frames and for nodes.
//! P3  a count equals the references that images and nodes hold; at zero the entry is free.
//! P4  entries past the bump pointer were never touched; freed ones are reused last in, first out.

use crate::image::Image;

/// Size of a frame, and of a page of an image.
pub const PAGE_BYTES: usize = 4096;
/// Children of a radix node.
pub const NODE_FANOUT: usize = 16;
/// Bound of nodes per frame. A page alone on a path of its own needs five.
pub const NODES_PER_FRAME_MAX: u32 = 8;

/// Nodes are allocated in blocks of this many, so that growth never copies.
const NODE_BLOCK: usize = 1024;
/// Set in a count: the entry is free and the low bits link to the next free one.
const FREE: u32 = 1 << 31;
/// Ends the list of free entries.
const LIST_END: u32 = FREE - 1;

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

/// A frame (level 0) or a node (levels above), as a parent or an image refers to it.
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

/// Frames and nodes that a change takes from the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Need {
    /// New frames.
    pub(crate) frames: u32,
    /// New nodes.
    pub(crate) nodes: u32,
}

/// One cache line of children.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Node([Slot; NODE_FANOUT]);

/// Frames and nodes with their reference counts. One per shard.
pub struct PageStore {
    frames: &'static mut [Frame],
    frame_refs: RefTable,
    nodes: Vec<Box<[Node; NODE_BLOCK]>>,
    node_refs: RefTable,
}

impl PageStore {
    /// A store over `frames`, whose bytes may hold anything; a rest shorter than a page stays
    /// unused. Touches no frame. Panics past 2^31 - 1 frames (8 TiB).
    pub fn new(frames: &'static mut [u8]) -> PageStore {
        let frame_count = (frames.len() / PAGE_BYTES) as u64;
        let node_count_max = frame_count.saturating_mul(u64::from(NODES_PER_FRAME_MAX));
        PageStore::with_nodes(frames, node_count_max.min(u64::from(LIST_END)) as u32)
    }

    /// As [`PageStore::new`], with a bound of its own for nodes.
    pub fn with_nodes(frames: &'static mut [u8], node_count_max: u32) -> PageStore {
        let (frames, _rest) = frames.as_chunks_mut::<PAGE_BYTES>();
        assert!(frames.len() < LIST_END as usize, "P2: more frames than a count can link");
        let frame_refs = RefTable::new(frames.len() as u32);
        let node_refs = RefTable::new(node_count_max.min(LIST_END));
        PageStore { frames, frame_refs, nodes: Vec::new(), node_refs }
    }

    /// Ends the store and gives its frames back, with whatever bytes they hold.
    pub fn into_frames(self) -> &'static mut [u8] {
        self.frames.as_flattened_mut()
    }

    /// Frames there are.
    pub fn frame_count(&self) -> u32 {
        self.frame_refs.capacity()
    }

    /// Frames in use.
    pub fn used_count(&self) -> u32 {
        self.frame_refs.used
    }

    /// Frames not in use.
    pub fn free_count(&self) -> u32 {
        self.frame_refs.free_count()
    }

    /// Nodes in use.
    pub fn node_count(&self) -> u32 {
        self.node_refs.used
    }

    /// Bytes of all frames.
    pub fn arena_bytes(&self) -> u64 {
        u64::from(self.frame_count()) * PAGE_BYTES as u64
    }

    /// Bytes of the frames in use.
    pub fn used_bytes(&self) -> u64 {
        u64::from(self.used_count()) * PAGE_BYTES as u64
    }

    /// Checks P2 to P4 against `roots`, which must be every image that lives. Panics when one is
    /// broken. Cost: the whole store, so only for tests and `debug_assert!`-like use.
    pub fn debug_check<'a>(&self, roots: impl IntoIterator<Item = &'a Image>) {
        let mut frame_refs = vec![0u32; self.frame_refs.fresh as usize];
        let mut node_refs = vec![0u32; self.node_refs.fresh as usize];
        for image in roots {
            let (root, height) = image.root();
            self.count_refs(root, height, &mut frame_refs, &mut node_refs);
        }
        self.frame_refs.check(&frame_refs);
        self.node_refs.check(&node_refs);
    }

    /// Counts one reference to `slot`, and those below when it is the first.
    fn count_refs(&self, slot: Slot, level: u8, frames: &mut [u32], nodes: &mut [u32]) {
        if slot.is_absent() {
            return;
        }
        if level == 0 {
            frames[slot.idx()] += 1;
            return;
        }
        nodes[slot.idx()] += 1;
        if nodes[slot.idx()] == 1 {
            for child in self.node(slot).0 {
                self.count_refs(child, level - 1, frames, nodes);
            }
        }
    }
}

/// What images are built with. Infallible takes follow a successful [`PageStore::ensure`].
impl PageStore {
    /// Whether `need` can be taken now.
    pub(crate) fn ensure(&self, need: Need) -> Result<(), PageError> {
        if need.frames > self.frame_refs.free_count() {
            let (used_bytes, arena_bytes) = (self.used_bytes(), self.arena_bytes());
            return Err(PageError::Full { used_bytes, arena_bytes });
        }
        if need.nodes > self.node_refs.free_count() {
            let bytes = |count: u32| u64::from(count) * size_of::<Node>() as u64;
            return Err(PageError::Full {
                used_bytes: bytes(self.node_refs.used),
                arena_bytes: bytes(self.node_refs.capacity()),
            });
        }
        Ok(())
    }

    /// References to `slot`.
    pub(crate) fn ref_count(&self, slot: Slot, level: u8) -> u32 {
        self.table(level).count(slot.0)
    }

    /// Whether `slot` has one reference only.
    pub(crate) fn is_unshared(&self, slot: Slot, level: u8) -> bool {
        self.ref_count(slot, level) == 1
    }

    /// Adds a reference, unless `slot` is absent.
    pub(crate) fn retain(&mut self, slot: Slot, level: u8) {
        if !slot.is_absent() {
            self.table_mut(level).retain(slot.0);
        }
    }

    /// Drops a reference, unless `slot` is absent; what nobody refers to any more is freed.
    pub(crate) fn release(&mut self, slot: Slot, level: u8) {
        if !slot.is_absent() && self.table_mut(level).release(slot.0) && level > 0 {
            self.release_children(slot, level);
        }
    }

    /// Bytes of a frame.
    pub(crate) fn frame(&self, slot: Slot) -> &Frame {
        &self.frames[slot.idx()]
    }

    /// Bytes of a frame, to write (P1).
    pub(crate) fn frame_mut(&mut self, slot: Slot) -> &mut Frame {
        assert!(self.is_unshared(slot, 0), "P1: wrote a shared frame {slot:?}");
        &mut self.frames[slot.idx()]
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

    /// A frame with one reference and any bytes.
    pub(crate) fn take_frame(&mut self) -> Slot {
        Slot(self.frame_refs.take().expect("P2: a frame was ensured"))
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

    /// A private copy of a shared frame or node; drops the reference to the shared one.
    /// With `keep_bytes` false a frame's copy may hold anything. Cost: one 4 KiB copy, or one
    /// node and its children's counts.
    pub(crate) fn take_copy(&mut self, shared: Slot, level: u8, keep_bytes: bool) -> Slot {
        assert!(!self.is_unshared(shared, level), "P1: copied what needs no copy {shared:?}");
        self.table_mut(level).release(shared.0);
        if level > 0 {
            let copy = self.take_node();
            let children = self.children(shared);
            let table = self.table_mut(level - 1);
            for child in children.iter().filter(|child| !child.is_absent()) {
                table.retain(child.0);
            }
            self.node_mut(copy).0 = children;
            return copy;
        }
        let copy = self.take_frame();
        if keep_bytes {
            let pair = self.frames.get_disjoint_mut([copy.idx(), shared.idx()]);
            let [to, from] = pair.expect("P3: a new frame is not the one it copies");
            to.copy_from_slice(from);
        }
        copy
    }

    /// Drops what a freed node refers to.
    fn release_children(&mut self, node: Slot, level: u8) {
        for child in self.children(node).into_iter().filter(|child| !child.is_absent()) {
            if self.table_mut(level - 1).release(child.0) && level > 1 {
                self.release_children(child, level - 1);
            }
        }
    }

    fn table(&self, level: u8) -> &RefTable {
        if level == 0 { &self.frame_refs } else { &self.node_refs }
    }

    fn table_mut(&mut self, level: u8) -> &mut RefTable {
        if level == 0 { &mut self.frame_refs } else { &mut self.node_refs }
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

/// Reference counts of one kind of entry, and its free entries: a bump pointer over what was
/// never used, and a list threaded through the counts of what was freed.
struct RefTable {
    refs: Vec<u32>,
    fresh: u32,
    free_first: u32,
    used: u32,
}

impl RefTable {
    /// All free. The zeroed vector comes from untouched memory.
    fn new(capacity: u32) -> RefTable {
        RefTable { refs: vec![0; capacity as usize], fresh: 0, free_first: LIST_END, used: 0 }
    }

    fn capacity(&self) -> u32 {
        self.refs.len() as u32
    }

    fn free_count(&self) -> u32 {
        self.capacity() - self.used
    }

    fn count(&self, idx: u32) -> u32 {
        let count = self.refs[idx as usize];
        assert!(count != 0 && count & FREE == 0, "P3: entry {idx} is free");
        count
    }

    /// A free entry, now with one reference.
    fn take(&mut self) -> Option<u32> {
        let idx = if self.free_first != LIST_END {
            let idx = self.free_first;
            let link = self.refs[idx as usize];
            assert!(link & FREE != 0, "P2: entry {idx} is listed as free");
            self.free_first = link & !FREE;
            idx
        } else if self.fresh < self.capacity() {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.refs[idx as usize] = 1;
        self.used += 1;
        Some(idx)
    }

    #[inline]
    fn retain(&mut self, idx: u32) {
        let count = self.count(idx) + 1;
        assert!(count < FREE, "P3: too many references to entry {idx}");
        self.refs[idx as usize] = count;
    }

    /// Drops a reference; whether it was the last.
    #[inline]
    fn release(&mut self, idx: u32) -> bool {
        let count = self.count(idx) - 1;
        if count > 0 {
            self.refs[idx as usize] = count;
            return false;
        }
        self.refs[idx as usize] = FREE | self.free_first;
        self.free_first = idx;
        self.used -= 1;
        true
    }

    /// Panics unless the counts are `expected` and every other entry is free.
    fn check(&self, expected: &[u32]) {
        let mut free_count = 0;
        let mut idx = self.free_first;
        while idx != LIST_END {
            let link = self.refs[idx as usize];
            assert!(link & FREE != 0, "P2: listed entry {idx} is live");
            free_count += 1;
            assert!(free_count <= self.fresh, "P2: the free list has a cycle");
            idx = link & !FREE;
        }
        assert_eq!(free_count + self.used, self.fresh, "P2: free + live == touched");
        for (idx, (&count, &expected)) in self.refs.iter().zip(expected).enumerate() {
            let count = if count & FREE == 0 { count } else { 0 };
            assert_eq!(count, expected, "P3: references to entry {idx}");
        }
        assert!(self.refs[self.fresh as usize..].iter().all(|c| *c == 0), "P4: touched early");
    }
}
