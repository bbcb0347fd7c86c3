//! Reference counts of numbered entries, and which entries are free.
//!
//! Owns: the counts, a bump pointer over what was never used, a list through what was freed.
//! Not: what an entry is; `W` words of the entry lie beside its count, in one cache line with it.
//! P2 to P4 of `page.rs` are kept here.

/// Set in a count: the entry is free and the low bits link to the next free one.
const FREE: u32 = 1 << 31;
/// Ends the list of free entries; no entry has this number or a higher one.
pub(super) const LIST_END: u32 = FREE - 1;

/// The counts of one kind of entry: the first of an entry's `W` words is its count.
pub(super) struct RefTable<const W: usize = 1> {
    entries: Vec<[u32; W]>,
    fresh: u32,
    free_first: u32,
    used: u32,
}

impl<const W: usize> RefTable<W> {
    /// All free. The zeroed vector comes from untouched memory.
    pub(super) fn new(capacity: u32) -> RefTable<W> {
        let entries = vec![[0; W]; capacity as usize];
        RefTable { entries, fresh: 0, free_first: LIST_END, used: 0 }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Entries with a reference.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Bytes of the entries with a reference, and of all there may be.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let bytes = |count: u32| u64::from(count) * (W * size_of::<u32>()) as u64;
        (bytes(self.used), bytes(self.capacity()))
    }

    /// One past the highest entry that was ever used.
    pub(super) fn fresh(&self) -> u32 {
        self.fresh
    }

    /// Whether an entry has a reference.
    pub(super) fn is_live(&self, idx: u32) -> bool {
        idx < self.fresh && self.entries[idx as usize][0] & FREE == 0
    }

    /// Word `word` of an entry, from 1.
    #[inline]
    pub(super) fn word(&self, idx: u32, word: usize) -> u32 {
        self.entries[idx as usize][word]
    }

    #[inline]
    pub(super) fn set_word(&mut self, idx: u32, word: usize, value: u32) {
        self.entries[idx as usize][word] = value;
    }

    pub(super) fn free_count(&self) -> u32 {
        self.capacity() - self.used
    }

    pub(super) fn count(&self, idx: u32) -> u32 {
        let count = self.entries[idx as usize][0];
        assert!(count != 0 && count & FREE == 0, "P3: entry {idx} is free");
        count
    }

    /// A free entry, now with one reference.
    pub(super) fn take(&mut self) -> Option<u32> {
        let idx = if self.free_first != LIST_END {
            let idx = self.free_first;
            let link = self.entries[idx as usize][0];
            assert!(link & FREE != 0, "P2: entry {idx} is listed as free");
            self.free_first = link & !FREE;
            idx
        } else if self.fresh < self.capacity() {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.entries[idx as usize][0] = 1;
        self.used += 1;
        Some(idx)
    }

    #[inline]
    pub(super) fn retain(&mut self, idx: u32) {
        let count = self.count(idx) + 1;
        assert!(count < FREE, "P3: too many references to entry {idx}");
        self.entries[idx as usize][0] = count;
    }

    /// Drops a reference; whether it was the last.
    #[inline]
    pub(super) fn release(&mut self, idx: u32) -> bool {
        let count = self.count(idx) - 1;
        if count > 0 {
            self.entries[idx as usize][0] = count;
            return false;
        }
        self.entries[idx as usize][0] = FREE | self.free_first;
        self.free_first = idx;
        self.used -= 1;
        true
    }

    /// Panics unless the counts are `expected` and every other entry is free.
    pub(super) fn check(&self, expected: &[u32]) {
        let mut free_count = 0;
        let mut idx = self.free_first;
        while idx != LIST_END {
            let link = self.entries[idx as usize][0];
            assert!(link & FREE != 0, "P2: listed entry {idx} is live");
            free_count += 1;
            assert!(free_count <= self.fresh, "P2: the free list has a cycle");
            idx = link & !FREE;
        }
        assert_eq!(free_count + self.used, self.fresh, "P2: free + live == touched");
        let counts = self.entries.iter().map(|entry| entry[0]);
        for (idx, (count, &expected)) in counts.zip(expected).enumerate() {
            let count = if count & FREE == 0 { count } else { 0 };
            assert_eq!(count, expected, "P3: references to entry {idx}");
        }
        let untouched = &self.entries[self.fresh as usize..];
        assert!(untouched.iter().all(|entry| *entry == [0; W]), "P4: touched early");
    }
}
