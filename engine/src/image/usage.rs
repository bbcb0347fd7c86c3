//! What an image's pages cost: its own bytes, and those it shares.
//!
//! Owns: the walk that tells them apart.  Not: reference counts (`page.rs`).
//! U1  a page is the image's own when no other image than it and its twin holds it.

use super::Image;
use crate::page::{PageStore, Slot};

/// Where an image's pages are, in bytes that they take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Held by this image alone, or by it and its twin.
    pub unique_bytes: u64,
    /// Held by other images too: older versions, parent, branches.
    pub shared_bytes: u64,
}

impl Image {
    /// Bytes of pages that nothing but this image and `twin` holds, and that others hold too. An
    /// agent's present and its head version are twins; [`Image::EMPTY`] is nobody's. Cost: every
    /// page that is there.
    pub fn usage(&self, store: &PageStore, twin: &Image) -> Usage {
        self.usage_beside(store, twin, 0)
    }

    /// As [`Image::usage`], when `copies` images are this one once more, kept by its owner: they
    /// hold its root and count as nobody.
    pub(crate) fn usage_beside(&self, store: &PageStore, twin: &Image, copies: u32) -> Usage {
        let mut usage = Usage::default();
        let mut twin = Twin { slot: twin.root, level: twin.height, own: true, joined: false };
        while twin.level > self.height {
            twin = twin.below(store, twin.level, 0);
        }
        let top = Held { own: true, copies };
        add_usage(store, self.root, self.height, top, twin, &mut usage);
        usage
    }
}

/// What a twin has where a walk through an image is.
#[derive(Clone, Copy)]
struct Twin {
    slot: Slot,
    /// Of `slot`. Below the walk's level while the twin's tree is the lower one.
    level: u8,
    /// Whether nothing but the twin holds the nodes above.
    own: bool,
    /// Whether the node above is the image's too: then both hold `slot` by one reference.
    joined: bool,
}

impl Twin {
    /// What the twin has at child `digit` of where a walk is, at `level`. A tree that is lower
    /// than the walk's hangs where it would after being raised: at child 0.
    fn below(self, store: &PageStore, level: u8, digit: usize) -> Twin {
        if self.level < level {
            let slot = if digit == 0 { self.slot } else { Slot::ABSENT };
            return Twin { slot, ..self };
        }
        if self.slot.is_absent() {
            return Twin { level: level - 1, ..self };
        }
        let own = self.own && store.is_unshared(self.slot, level);
        Twin { slot: store.child(self.slot, digit), level: level - 1, own, ..self }
    }
}

/// Who holds what a walk is at.
#[derive(Clone, Copy)]
struct Held {
    /// Whether nothing but the image and its twin holds the nodes above.
    own: bool,
    /// References that count as nobody's.
    copies: u32,
}

/// Adds what hangs at `slot`.
fn add_usage(store: &PageStore, slot: Slot, level: u8, held: Held, twin: Twin, usage: &mut Usage) {
    if slot.is_absent() {
        return;
    }
    let same = twin.slot == slot && twin.level == level;
    let twice = same && twin.own && !twin.joined;
    let own = held.own && store.ref_count(slot, level) == 1 + u32::from(twice) + held.copies;
    if level > 0 {
        for (digit, child) in store.children(slot).into_iter().enumerate() {
            let below = twin.below(store, level, digit);
            let below = Twin { joined: same, own: same || below.own, ..below };
            add_usage(store, child, level - 1, Held { own, copies: 0 }, below, usage);
        }
    } else if own {
        usage.unique_bytes += store.page_bytes(slot);
    } else {
        usage.shared_bytes += store.page_bytes(slot);
    }
}
