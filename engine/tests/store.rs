//! Model tests of the store: images and version trees against plain maps, under random changes.
//!
//! The oracle knows nothing of sharing: every image is its own map of pages, every version a copy.
//! After each step the whole store is checked (P2 to P4) and the touched values are compared.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use heronry_engine::image::DIFF_GAP_BYTES;
use heronry_engine::limits::IMAGE_BYTES_MAX;
use heronry_engine::{
    FIRST_VERSION, Image, Nanos, PAGE_BYTES, PageError, PageStore, SealKind, VersionError,
    VersionId, VersionRef, VersionTree,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

const PAGE: u64 = PAGE_BYTES as u64;
const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

thread_local! {
    /// Frames of stores that ended, by their number, full of old bytes that must not show again.
    static FRAMES: RefCell<BTreeMap<usize, Vec<&'static mut [u8]>>> = const {
        RefCell::new(BTreeMap::new())
    };
}

fn store_with(frame_count: usize, node_count_max: u32) -> PageStore {
    let old = FRAMES.with_borrow_mut(|frames| frames.get_mut(&frame_count).and_then(Vec::pop));
    let frames = old.unwrap_or_else(|| vec![0xA5; frame_count * PAGE_BYTES].leak());
    PageStore::with_nodes(frames, node_count_max)
}

fn store(frame_count: usize) -> PageStore {
    store_with(frame_count, 10_000)
}

/// Checks that nothing is left in the store, and keeps its frames for the next one.
fn end_store(store: PageStore) {
    assert_eq!((store.used_count(), store.node_count()), (0, 0), "P3: leaked");
    assert_eq!(store.free_count(), store.frame_count(), "P2");
    store.debug_check([]);
    let frame_count = store.frame_count() as usize;
    let frames = store.into_frames();
    FRAMES.with_borrow_mut(|all| all.entry(frame_count).or_default().push(frames));
}

/// What an image should be: its length and every page that was ever written.
#[derive(Clone, Default, PartialEq, Debug)]
struct Model {
    len_bytes: u64,
    pages: BTreeMap<u32, Vec<u8>>,
}

impl Model {
    fn byte(&self, at: u64) -> u8 {
        let page = self.pages.get(&((at / PAGE) as u32));
        page.map_or(0, |page| page[(at % PAGE) as usize])
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            let at = offset + n as u64;
            let page = self.pages.entry((at / PAGE) as u32).or_insert_with(|| vec![0; PAGE_BYTES]);
            page[(at % PAGE) as usize] = *byte;
        }
        if !bytes.is_empty() {
            self.len_bytes = self.len_bytes.max(offset + bytes.len() as u64);
        }
    }

    fn resize(&mut self, len_bytes: u64) {
        self.pages.retain(|page, _| u64::from(*page) * PAGE < len_bytes);
        if let Some(page) = self.pages.get_mut(&((len_bytes / PAGE) as u32)) {
            page[(len_bytes % PAGE) as usize..].fill(0);
        }
        self.len_bytes = len_bytes;
    }

    /// Compares every page, and that the image has no page which nobody wrote.
    fn check(&self, image: &Image, store: &PageStore) {
        assert_eq!(image.len_bytes(), self.len_bytes);
        let mut frame_count = 0;
        for (page, bytes) in &self.pages {
            let len = (self.len_bytes - u64::from(*page) * PAGE).min(PAGE) as usize;
            let mut read = vec![1; 3];
            let count = image.read(store, u64::from(*page) * PAGE, &mut read, len);
            assert_eq!(count, len);
            let wrong = read[3..].iter().zip(bytes).position(|(read, want)| read != want);
            assert_eq!(wrong, None, "M2, M3: a byte of page {page}");
            let mut scratch = [0; PAGE_BYTES];
            let frame = image.page(store, *page, &ZEROS, &mut scratch);
            assert_eq!(frame.is_some(), image.has_page(store, *page));
            frame_count += u64::from(frame.is_some());
            let past_end = frame.is_some_and(|frame| frame[len..].iter().any(|b| *b != 0));
            assert!(!past_end, "M2: bytes past the end");
        }
        let usage = image.usage(store, &Image::EMPTY);
        let used_bytes = usage.unique_bytes + usage.shared_bytes;
        assert!(used_bytes <= frame_count * PAGE && (used_bytes > 0) == (frame_count > 0));
    }
}

/// One change of one of the images, chosen modulo their number.
#[derive(Clone, Debug)]
enum Step {
    Write {
        of: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Writes what is there.
    Rewrite {
        of: usize,
        offset: u64,
        len: usize,
    },
    Resize {
        of: usize,
        len_bytes: u64,
    },
    Share {
        of: usize,
    },
    Release {
        of: usize,
    },
    Diff {
        of: usize,
        with: usize,
    },
    Read {
        of: usize,
        offset: u64,
        len: usize,
    },
}

impl Step {
    /// Frames that it may take: two for each page, when an older version's lines must be kept too.
    fn frames_max(&self) -> u32 {
        let count = |offset: u64, len: usize| {
            2 * (offset + len as u64).div_ceil(PAGE).saturating_sub(offset / PAGE) as u32
        };
        match self {
            Step::Write { offset, bytes, .. } => count(*offset, bytes.len()),
            Step::Rewrite { offset, len, .. } => count(*offset, *len),
            _ => 2,
        }
    }
}

/// Offsets near the start, around the borders of every tree height, and anywhere.
fn offset() -> impl Strategy<Value = u64> {
    let border = (0..5u32).prop_map(|height| PAGE << (4 * height));
    prop_oneof![
        4 => 0..4 * PAGE,
        2 => 0..64 * PAGE,
        2 => (border, 0..200u64).prop_map(|(at, back)| at - back),
        1 => 0..IMAGE_BYTES_MAX - 3 * PAGE,
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..120),
        2 => (any::<u8>(), 0..3 * PAGE_BYTES).prop_map(|(byte, len)| vec![byte; len]),
        1 => (0..2 * PAGE_BYTES).prop_map(|len| vec![0; len]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let of = 0..8usize;
    prop_oneof![
        8 => (of.clone(), offset(), bytes()).prop_map(|(of, offset, bytes)| Step::Write {
            of, offset, bytes
        }),
        1 => (of.clone(), offset(), 0..300usize).prop_map(|(of, offset, len)| Step::Rewrite {
            of, offset, len
        }),
        3 => (of.clone(), offset()).prop_map(|(of, len_bytes)| Step::Resize { of, len_bytes }),
        4 => of.clone().prop_map(|of| Step::Share { of }),
        2 => of.clone().prop_map(|of| Step::Release { of }),
        3 => (of.clone(), 0..8usize).prop_map(|(of, with)| Step::Diff { of, with }),
        2 => (of, offset(), 0..9000usize).prop_map(|(of, offset, len)| Step::Read {
            of, offset, len
        }),
    ]
}

struct World {
    store: PageStore,
    images: Vec<(Image, Model)>,
}

impl World {
    fn new(store: PageStore) -> World {
        World { store, images: vec![(Image::EMPTY, Model::default())] }
    }

    /// Takes the step on both sides; whether the store had room. A refused one changes nothing.
    fn take(&mut self, step: &Step) -> bool {
        let count = self.images.len();
        match step {
            Step::Write { of, offset, bytes } => return self.write(of % count, *offset, bytes),
            Step::Rewrite { of, offset, len } => {
                let at = of % count;
                let mut present = Vec::new();
                self.images[at].0.read(&self.store, *offset, &mut present, *len);
                return self.write(at, *offset, &present);
            }
            Step::Resize { of, len_bytes } => {
                let before = (self.store.used_bytes(), self.store.node_count());
                let (image, model) = &mut self.images[of % count];
                match image.resize(&mut self.store, *len_bytes) {
                    Ok(()) => model.resize(*len_bytes),
                    Err(error) => return self.refused(error, before),
                }
            }
            Step::Share { of } if count < 8 => {
                let (image, model) = &self.images[of % count];
                let (image, model) = (image.share(&mut self.store), model.clone());
                assert!(image.same(&self.images[of % count].0));
                self.images.push((image, model));
            }
            Step::Share { .. } => {}
            Step::Release { of } if count > 1 => {
                self.images.swap_remove(of % count).0.release(&mut self.store);
            }
            Step::Release { .. } => {}
            Step::Diff { of, with } => {
                check_diff(&self.images[of % count], &self.images[with % count], &self.store);
            }
            Step::Read { of, offset, len } => {
                let (image, model) = &self.images[of % count];
                let mut read = vec![7; *len];
                let count = image.read_into(&self.store, *offset, &mut read);
                assert_eq!(count as u64, model.len_bytes.saturating_sub(*offset).min(*len as u64));
                for (n, byte) in read.iter().enumerate() {
                    let want = if n < count { model.byte(offset + n as u64) } else { 7 };
                    assert_eq!(*byte, want, "M2: byte {n}");
                }
            }
        }
        true
    }

    fn write(&mut self, at: usize, offset: u64, bytes: &[u8]) -> bool {
        let before = (self.store.used_bytes(), self.store.node_count());
        let (image, model) = &mut self.images[at];
        match image.write(&mut self.store, offset, bytes) {
            Ok(changed) => {
                let mut after = model.clone();
                after.write(offset, bytes);
                assert!(changed || after.same_bytes(model), "a change was called none");
                *model = after;
                true
            }
            Err(error) => self.refused(error, before),
        }
    }

    fn refused(&self, error: PageError, before: (u64, u32)) -> bool {
        assert!(matches!(error, PageError::Full { .. }), "{error}");
        assert_eq!((self.store.used_bytes(), self.store.node_count()), before, "M1");
        false
    }

    fn check(&self) {
        self.store.debug_check(self.images.iter().map(|(image, _)| image));
        for (image, model) in &self.images {
            model.check(image, &self.store);
        }
    }

    fn end(mut self) {
        for (image, _) in self.images {
            image.release(&mut self.store);
        }
        end_store(self.store);
    }
}

impl Model {
    fn same_bytes(&self, other: &Model) -> bool {
        let pages: BTreeSet<&u32> = self.pages.keys().chain(other.pages.keys()).collect();
        let zeros = vec![0; PAGE_BYTES];
        self.len_bytes == other.len_bytes
            && pages.into_iter().all(|page| {
                let (a, b) = (self.pages.get(page), other.pages.get(page));
                a.unwrap_or(&zeros) == b.unwrap_or(&zeros)
            })
    }
}

/// M6, byte by byte over all pages that either side ever wrote.
fn check_diff(a: &(Image, Model), b: &(Image, Model), store: &PageStore) {
    let ranges = a.0.diff(&b.0, store);
    assert_eq!(ranges, b.0.diff(&a.0, store), "a diff has no direction");
    for pair in ranges.windows(2) {
        let gap = pair[1].start.checked_sub(pair[0].start + pair[0].len_bytes);
        assert!(gap.is_some_and(|gap| gap >= DIFF_GAP_BYTES), "M6: {pair:?}");
    }
    let shorter = a.1.len_bytes.min(b.1.len_bytes);
    let longer = a.1.len_bytes.max(b.1.len_bytes);
    let differs = |at: u64| at < longer && (at >= shorter || a.1.byte(at) != b.1.byte(at));
    for range in &ranges {
        let last = range.start + range.len_bytes - 1;
        assert!(differs(range.start) && differs(last), "M6: the ends of {range:?}");
    }
    let listed = |at: u64| {
        let next = ranges.partition_point(|range| range.start <= at);
        next > 0 && at < ranges[next - 1].start + ranges[next - 1].len_bytes
    };
    let pages: BTreeSet<&u32> = a.1.pages.keys().chain(b.1.pages.keys()).collect();
    for page in pages {
        for at in u64::from(*page) * PAGE..u64::from(*page + 1) * PAGE {
            assert!(!differs(at) || listed(at), "M6: byte {at} is not listed");
        }
    }
    assert!(shorter == longer || (listed(shorter) && listed(longer - 1)));
}

/// What the agent of a version tree should have.
#[derive(Clone, Debug)]
struct ModelVersion {
    parent: Option<u64>,
    checkpoint: bool,
    label: Option<Vec<u8>>,
    image: Model,
}

#[derive(Clone, Debug)]
enum TreeStep {
    Write { offset: u64, bytes: Vec<u8> },
    Seal,
    Checkpoint { label: Option<u8> },
    Rollback { to: usize },
    RollbackToCheckpoint,
}

fn tree_step() -> impl Strategy<Value = TreeStep> {
    prop_oneof![
        6 => (0..20 * PAGE, vec(any::<u8>(), 1..40)).prop_map(|(offset, bytes)| TreeStep::Write {
            offset, bytes
        }),
        5 => Just(TreeStep::Seal),
        2 => proptest::option::of(0..3u8).prop_map(|label| TreeStep::Checkpoint { label }),
        2 => (0..20usize).prop_map(|to| TreeStep::Rollback { to }),
        1 => Just(TreeStep::RollbackToCheckpoint),
    ]
}

struct Agent {
    store: PageStore,
    image: Image,
    tree: VersionTree,
    present: Model,
    versions: BTreeMap<u64, ModelVersion>,
    head: u64,
    next: u64,
    history_max: u32,
    checkpoints_max: u32,
}

impl Agent {
    fn new(history_max: u32, checkpoints_max: u32) -> Agent {
        let mut store = store(512);
        let image = Image::EMPTY;
        let tree = VersionTree::new(&image, &mut store, Nanos(0));
        let present = Model::default();
        let first =
            ModelVersion { parent: None, checkpoint: false, label: None, image: present.clone() };
        let versions = BTreeMap::from([(1, first)]);
        let (head, next) = (1, 2);
        Agent { store, image, tree, present, versions, head, next, history_max, checkpoints_max }
    }

    fn take(&mut self, step: &TreeStep) {
        match step {
            TreeStep::Write { offset, bytes } => {
                self.image.write(&mut self.store, *offset, bytes).unwrap();
                self.present.write(*offset, bytes);
            }
            TreeStep::Seal => self.seal(),
            TreeStep::Checkpoint { label } => self.checkpoint(label.map(|n| vec![b'a' + n])),
            TreeStep::Rollback { to } => {
                let kept: Vec<u64> = self.versions.keys().copied().collect();
                self.rollback(kept[to % kept.len()]);
            }
            TreeStep::RollbackToCheckpoint => {
                let newest = self.versions.iter().rev().find(|(_, v)| v.checkpoint);
                let want = newest.map_or(1, |(id, _)| *id);
                assert_eq!(self.tree.newest_checkpoint(), VersionId(want), "T3");
                self.rollback(want);
            }
        }
    }

    fn seal(&mut self) {
        let unchanged = self.image.same(self.tree.head_image());
        let kind = SealKind::Auto { history_max: self.history_max };
        let id = self.tree.seal(&self.image, &mut self.store, Nanos(self.next), kind).unwrap();
        if !unchanged {
            self.push(false);
            self.prune();
        }
        assert_eq!(id, VersionId(self.head));
    }

    fn checkpoint(&mut self, label: Option<Vec<u8>>) {
        let head = &self.versions[&self.head];
        let named_else = label.is_some() && head.label.is_some() && head.label != label;
        let reuse = self.image.same(self.tree.head_image()) && !named_else;
        let count = self.versions.values().filter(|v| v.checkpoint).count() as u32;
        let refused = !(reuse && head.checkpoint) && count >= self.checkpoints_max;
        let checkpoints_max = self.checkpoints_max;
        let kind = SealKind::Checkpoint { label: label.clone().map(Into::into), checkpoints_max };
        let sealed = self.tree.seal(&self.image, &mut self.store, Nanos(self.next), kind);
        if refused {
            let error = VersionError::TooManyCheckpoints { count, count_max: checkpoints_max };
            return assert_eq!(sealed, Err(error), "T4");
        }
        if reuse {
            self.versions.get_mut(&self.head).unwrap().checkpoint = true;
        } else {
            self.push(true);
        }
        if label.is_some() {
            let old = self.versions.values_mut().find(|v| v.label == label);
            old.into_iter().for_each(|v| v.label = None);
            self.versions.get_mut(&self.head).unwrap().label = label;
        }
        assert_eq!(sealed, Ok(VersionId(self.head)));
    }

    fn push(&mut self, checkpoint: bool) {
        let parent = Some(self.head);
        let version = ModelVersion { parent, checkpoint, label: None, image: self.present.clone() };
        self.versions.insert(self.next, version);
        self.head = self.next;
        self.next += 1;
    }

    /// T1 to T3 as sentences: of the automatic versions, the newest, the head, and the first one
    /// while there is no checkpoint.
    fn prune(&mut self) {
        let no_checkpoint = !self.versions.values().any(|v| v.checkpoint);
        let (head, first) = (self.head, no_checkpoint.then_some(FIRST_VERSION.0));
        let counted = self.versions.iter().filter(|(id, v)| !v.checkpoint && Some(**id) != first);
        let mut drop: Vec<u64> = counted.map(|(id, _)| *id).collect();
        drop.truncate(drop.len().saturating_sub(self.history_max as usize));
        drop.retain(|id| *id != head);
        drop.iter().for_each(|id| _ = self.versions.remove(id));
    }

    fn rollback(&mut self, to: u64) {
        let image = self.tree.set_head(VersionId(to)).expect("a kept version");
        let image = image.share(&mut self.store);
        std::mem::replace(&mut self.image, image).release(&mut self.store);
        self.head = to;
        self.present = self.versions[&to].image.clone();
    }

    fn check(&mut self) {
        self.store.debug_check(self.tree.images().chain([&self.image]));
        self.present.check(&self.image, &self.store);
        let list = self.tree.list();
        assert_eq!(self.tree.count() as usize, list.len());
        let kept: Vec<u64> = list.iter().map(|info| info.id.0).collect();
        assert_eq!(kept, self.versions.keys().copied().collect::<Vec<_>>(), "T1 to T4");
        for info in list {
            let want = &self.versions[&info.id.0];
            assert_eq!(info.parent.map(|id| id.0), want.parent);
            assert_eq!((info.checkpoint, info.head), (want.checkpoint, info.id.0 == self.head));
            assert_eq!(info.label.as_deref(), want.label.as_deref(), "T5");
            assert_eq!(info.image_bytes, want.image.len_bytes);
            assert_eq!(self.tree.find(&VersionRef::Id(info.id)), Some(info.id));
            if let Some(label) = info.label {
                assert_eq!(self.tree.find(&VersionRef::Label(label)), Some(info.id), "T5");
            }
            want.image.check(self.tree.image_of(info.id).unwrap(), &self.store);
        }
        assert_eq!(self.tree.find(&VersionRef::Id(VersionId(self.next))), None);
        assert!(self.tree.set_head(VersionId(self.next)).is_none());
        assert_eq!(self.tree.find(&VersionRef::Label("no such".into())), None);
    }

    fn end(mut self) {
        self.tree.release(&mut self.store);
        self.image.release(&mut self.store);
        end_store(self.store);
    }
}

proptest! {
    #[test]
    fn m3_images_match_the_oracle_and_nothing_leaks(steps in vec(step(), 1..60)) {
        let mut world = World::new(store(900));
        for step in &steps {
            world.take(step);
            world.check();
        }
        world.end();
    }

    #[test]
    fn m1_a_small_store_refuses_and_goes_on(
        frames in 0usize..12,
        nodes in 0u32..12,
        steps in vec(step(), 1..60),
    ) {
        let mut world = World::new(store_with(frames, nodes));
        for step in &steps {
            world.take(step);
            world.check();
        }
        world.end();
    }

    /// The last step is done where there is room for a frame for each page that it touches, and for
    /// the nodes that it takes; with less it may be refused, and then nothing has changed.
    #[test]
    fn m1_full_at_every_point_changes_nothing(steps in vec(step(), 2..30)) {
        let (last, setup) = steps.split_last().unwrap();
        let run = |frames: u32, nodes: u32| {
            let mut world = World::new(store_with(frames as usize, nodes));
            let room = setup.iter().all(|step| world.take(step));
            (world, room)
        };
        let (mut world, _) = run(900, 10_000);
        let (used_bytes, nodes_before) = (world.store.used_bytes(), world.store.node_count());
        world.take(last);
        let nodes_after = world.store.node_count();
        world.end();
        let enough = used_bytes.div_ceil(PAGE) as u32 + last.frames_max();
        for frames in (used_bytes / PAGE) as u32..=enough {
            for nodes in nodes_before..=nodes_after {
                let (mut world, room) = run(frames, nodes);
                // Where the set-up needed more for a while, there is nothing to see.
                if room {
                    // A cut may take a node before it drops more than that.
                    let cuts = matches!(last, Step::Resize { .. });
                    let done = world.take(last);
                    let fits = nodes == nodes_after;
                    prop_assert!(!done || fits || cuts, "{} {} of {}", frames, nodes, nodes_after);
                    let must = fits && frames == enough && !cuts;
                    prop_assert!(done || !must, "{} {} of {}", frames, nodes, enough);
                    world.check();
                }
                world.end();
            }
        }
    }

    #[test]
    fn t1_to_t5_version_trees_match_the_oracle(
        history_max in 0u32..6,
        checkpoints_max in 0u32..5,
        steps in vec(tree_step(), 1..60),
    ) {
        let mut agent = Agent::new(history_max, checkpoints_max);
        for step in &steps {
            agent.take(step);
            agent.check();
        }
        agent.end();
    }
}

#[test]
fn p1_a_change_of_a_shared_page_takes_lines_and_is_not_seen_elsewhere() {
    let mut store = store(8);
    let mut image = Image::EMPTY;
    assert!(image.write(&mut store, 0, b"one").unwrap());
    let sealed = image.share(&mut store);
    assert!(image.write(&mut store, 0, b"two").unwrap());
    assert!(image.write(&mut store, 4000, b"in place").unwrap());
    assert_eq!(store.used_count(), 1);
    let scratch = &mut [0; PAGE_BYTES];
    assert_eq!(&sealed.page(&store, 0, &ZEROS, scratch).unwrap()[..3], b"one");
    assert_eq!(&image.page(&store, 0, &ZEROS, scratch).unwrap()[..3], b"two");
    sealed.release(&mut store);
    image.release(&mut store);
    end_store(store);
}

#[test]
fn m4_one_page_needs_no_node_and_a_cut_gives_nodes_back() {
    let mut store = store(8);
    let mut image = Image::EMPTY;
    image.write(&mut store, PAGE - 4, b"last").unwrap();
    assert_eq!((store.used_count(), store.node_count()), (1, 0));
    image.write(&mut store, 300 * PAGE, b"far").unwrap();
    assert_eq!((store.used_count(), store.node_count()), (2, 5));
    image.resize(&mut store, PAGE).unwrap();
    assert_eq!((store.used_count(), store.node_count()), (1, 0));
    image.release(&mut store);
    end_store(store);
}

#[test]
fn m2_a_cut_past_the_tree_leaves_its_pages() {
    let mut store = store(8);
    let mut image = Image::EMPTY;
    image.resize(&mut store, 16 * PAGE).unwrap();
    image.write(&mut store, 180, &[7; 120]).unwrap();
    image.resize(&mut store, 2 * PAGE + 200).unwrap();
    assert_eq!(&image.page(&store, 0, &ZEROS, &mut [0; PAGE_BYTES]).unwrap()[180..300], &[7; 120]);
    image.release(&mut store);
    end_store(store);
}

#[test]
fn m1_too_long_is_refused() {
    let mut store = store(8);
    let mut image = Image::EMPTY;
    let refused = image.write(&mut store, IMAGE_BYTES_MAX - 1, b"xy");
    assert!(matches!(refused, Err(PageError::TooLong { .. })));
    assert!(matches!(image.write(&mut store, u64::MAX, b"x"), Err(PageError::TooLong { .. })));
    let refused = image.resize(&mut store, IMAGE_BYTES_MAX + 1);
    assert!(matches!(refused, Err(PageError::TooLong { .. })));
    image.resize(&mut store, IMAGE_BYTES_MAX).unwrap();
    assert_eq!(store.used_count(), 0);
    image.write(&mut store, IMAGE_BYTES_MAX - 1, b"x").unwrap();
    assert_eq!((store.used_count(), store.node_count()), (1, 5));
    image.release(&mut store);
    end_store(store);
}

#[test]
fn m5_what_is_shared_is_not_listed_and_costs_no_page() {
    let mut store = store(600);
    let mut image = Image::EMPTY;
    for page in 0..500 {
        image.write(&mut store, page * PAGE, &[page as u8 | 1; 64]).unwrap();
    }
    let sealed = image.share(&mut store);
    let used = store.used_count();
    image.write(&mut store, 250 * PAGE + 10, &[0; 4]).unwrap();
    assert_eq!(store.used_count(), used);
    assert!(store.patch_bytes() < 200);
    let diff = sealed.diff(&image, &store);
    assert_eq!(diff.len(), 1);
    assert_eq!((diff[0].start, diff[0].len_bytes), (250 * PAGE + 10, 4));
    let usage = image.usage(&store, &Image::EMPTY);
    assert_eq!((usage.unique_bytes, usage.shared_bytes), (PAGE, 499 * PAGE));
    sealed.release(&mut store);
    assert_eq!(image.usage(&store, &Image::EMPTY).shared_bytes, 0);
    image.release(&mut store);
    end_store(store);
}

#[test]
fn usage_counts_what_only_image_and_twin_hold_as_unique() {
    let pages_of = |image: &Image, twin: &Image, store: &PageStore| {
        let usage = image.usage(store, twin);
        (usage.unique_bytes / PAGE, usage.shared_bytes / PAGE)
    };
    for count in [1, 2, 16, 40, 300] {
        let mut store = store(700);
        let mut image = Image::EMPTY;
        for page in 0..count {
            image.write(&mut store, page * PAGE, &[1]).unwrap();
        }
        let twin = image.share(&mut store);
        assert_eq!(pages_of(&image, &twin, &store), (count, 0));
        assert_eq!(pages_of(&image, &Image::EMPTY, &store), (0, count));
        // One page differs; then the image's tree is the higher one.
        image.write(&mut store, 0, &[2]).unwrap();
        assert_eq!(pages_of(&image, &twin, &store), (count, 0));
        image.write(&mut store, 5_000 * PAGE, &[2]).unwrap();
        assert_eq!(pages_of(&image, &twin, &store), (count + 1, 0));
        let third = twin.share(&mut store);
        assert_eq!(pages_of(&image, &twin, &store), (2, count - 1));
        third.release(&mut store);
        assert_eq!(pages_of(&image, &twin, &store), (count + 1, 0));
        let third = image.share(&mut store);
        assert_eq!(pages_of(&image, &twin, &store), (0, count + 1));
        third.release(&mut store);
        // Now the twin's is.
        image.resize(&mut store, 2 * PAGE).unwrap();
        assert_eq!(pages_of(&image, &twin, &store), (count.min(2), 0));
        image.release(&mut store);
        twin.release(&mut store);
        end_store(store);
    }
}
