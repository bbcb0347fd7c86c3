//! Model test of images that lie over a template's: pages put, versions held, against whole copies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use heronry_engine::{Image, PAGE_BYTES, PageError, PageStore};
use proptest::collection::vec;
use proptest::prelude::*;

type Page = [u8; PAGE_BYTES];

const PAGE_COUNT: usize = 20;
const FRAME_COUNT: usize = 400;
/// So few that many a step finds no room.
const FRAME_COUNT_TIGHT: usize = 12;

/// What the template has at each page; the last ones are past its end.
fn under(page: usize) -> Option<Page> {
    (page < PAGE_COUNT - 4).then(|| std::array::from_fn(|at| (at / 7 + page) as u8))
}

#[derive(Clone, Debug)]
enum Step {
    /// Changes bytes of a page of one image and puts the page.
    Put {
        of: usize,
        page: usize,
        changes: Vec<(usize, u8)>,
    },
    /// Puts the template's own bytes.
    PutBack {
        of: usize,
        page: usize,
    },
    /// Fills a page.
    Fill {
        of: usize,
        page: usize,
        byte: u8,
    },
    Share {
        of: usize,
    },
    Release {
        of: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (of, page) = (0..6usize, 0..PAGE_COUNT);
    let changes = prop_oneof![
        3 => vec((0..PAGE_BYTES, any::<u8>()), 1..4),
        1 => vec((0..PAGE_BYTES, any::<u8>()), 20..80),
    ];
    prop_oneof![
        8 => (of.clone(), page.clone(), changes)
            .prop_map(|(of, page, changes)| Step::Put { of, page, changes }),
        1 => (of.clone(), page.clone()).prop_map(|(of, page)| Step::PutBack { of, page }),
        1 => (of.clone(), page, any::<u8>())
            .prop_map(|(of, page, byte)| Step::Fill { of, page, byte }),
        3 => of.clone().prop_map(|of| Step::Share { of }),
        2 => of.prop_map(|of| Step::Release { of }),
    ]
}

/// Images with what they should read as.
struct World {
    store: PageStore,
    unders: Vec<Option<Page>>,
    images: Vec<(Image, Vec<Page>)>,
}

impl World {
    fn new(frame_count: usize) -> World {
        let mut store = PageStore::new(vec![0xA5; frame_count * PAGE_BYTES].leak());
        let unders: Vec<Option<Page>> = (0..PAGE_COUNT).map(under).collect();
        let mut image = Image::EMPTY;
        image.resize(&mut store, (PAGE_COUNT * PAGE_BYTES) as u64).unwrap();
        let pages = unders.iter().map(|page| page.unwrap_or([0; PAGE_BYTES])).collect();
        World { store, unders, images: vec![(image, pages)] }
    }

    fn take(&mut self, step: &Step) {
        let count = self.images.len();
        match step {
            Step::Put { of, page, changes } => {
                let mut bytes = self.images[of % count].1[*page];
                changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
                self.put(of % count, *page, bytes);
            }
            Step::PutBack { of, page } => {
                let bytes = self.unders[*page].unwrap_or([0; PAGE_BYTES]);
                self.put(of % count, *page, bytes);
            }
            Step::Fill { of, page, byte } => self.put(of % count, *page, [*byte; PAGE_BYTES]),
            Step::Share { of } => {
                let (image, pages) = &self.images[of % count];
                let shared = (image.share(&mut self.store), pages.clone());
                self.images.push(shared);
            }
            Step::Release { of } => {
                if count > 1 {
                    self.images.swap_remove(of % count).0.release(&mut self.store);
                }
            }
        }
    }

    fn put(&mut self, of: usize, page: usize, bytes: Page) {
        let under = self.unders[page].unwrap_or([0; PAGE_BYTES]);
        let (image, pages) = &mut self.images[of];
        match image.put_page(&mut self.store, page as u32, &under, &bytes) {
            Ok(changed) => {
                assert_eq!(changed, pages[page] != bytes);
                pages[page] = bytes;
            }
            Err(error) => assert!(matches!(error, PageError::Full { .. }), "{error}"),
        }
    }

    fn check(&self) {
        self.store.debug_check(self.images.iter().map(|(image, _)| image));
        let under = |page: u32| self.unders[page as usize].as_ref();
        for (image, pages) in &self.images {
            let mut read = Vec::new();
            image.read_over(&self.store, 0, &mut read, PAGE_COUNT * PAGE_BYTES, &under);
            assert!(read == pages.as_flattened(), "M3, M5");
        }
        let ((first, a), (last, b)) = (&self.images[0], self.images.last().unwrap());
        let ranges = first.diff_over(last, &self.store, &under);
        let differs = |at: u64| a.as_flattened()[at as usize] != b.as_flattened()[at as usize];
        let listed: u64 = ranges.iter().map(|range| range.len_bytes).sum();
        let count = (0..(PAGE_COUNT * PAGE_BYTES) as u64).filter(|at| differs(*at)).count();
        assert!(listed >= count as u64 && ranges.iter().all(|range| differs(range.start)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn m5_images_over_a_template_match_the_oracle(
        tight in any::<bool>(),
        steps in vec(step(), 1..60),
    ) {
        let mut world = World::new(if tight { FRAME_COUNT_TIGHT } else { FRAME_COUNT });
        for step in &steps {
            world.take(step);
            world.check();
        }
        let images = std::mem::take(&mut world.images);
        images.into_iter().for_each(|(image, _)| image.release(&mut world.store));
        prop_assert_eq!((world.store.used_bytes(), world.store.node_count()), (0, 0));
    }
}

#[test]
fn m5_a_version_costs_the_lines_that_its_turn_changed() {
    let mut world = World::new(FRAME_COUNT);
    for turn in 0..10 {
        world.take(&Step::Share { of: 0 });
        for page in 0..PAGE_COUNT {
            world.take(&Step::Put { of: 0, page, changes: vec![(turn * 100, turn as u8 + 200)] });
        }
    }
    world.check();
    let each_bytes = world.store.used_bytes() / (10 * PAGE_COUNT as u64);
    assert!(each_bytes < 250, "{each_bytes} bytes for a page of a version");
}
