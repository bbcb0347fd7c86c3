//! Pages apart: records that hold pages only, so that a large agent need not be read whole.
//!
//! Owns: which pages of a whole record go into records of their own, and how many into each.
//! Not: the record that names them (`record.rs`), reading them (`paging.rs`).
//! I1  pages go apart where a turn may do without most of them: there are many, and the behaviour
//!     reads by the page.
//! I2  a record of pages holds pages of one version only, whole.

use super::Partition;
use super::journal::Flush;
use super::record::put;
use crate::agent::Agent;
use crate::image::{Elsewhere, Image};
use crate::log::{Kind, Place, RECORD_BYTES_MAX};
use crate::page::PAGE_BYTES;

/// Fewer large pages are read in one go with the rest.
const APART_COUNT_MIN: usize = 4;
/// A page with fewer lines that are not zeros stays with the rest.
const LARGE_LINES_MIN: u32 = 16;
/// Records of pages that a chain has, about, as long as their pages fit into as many: their places
/// are kept in memory.
const RECORD_COUNT_MAX: usize = 256;
/// Pages of one record at most: a record has a bound.
const GROUP_COUNT_MAX: usize = 200;

/// A page and what is said of it, as a record of pages holds them, at most.
const TOLD_BYTES_MAX: usize = PAGE_BYTES + 64;

const _: () = assert!(GROUP_COUNT_MAX * TOLD_BYTES_MAX < RECORD_BYTES_MAX);

/// Which pages of which versions are in records of pages.
#[derive(Debug, Default)]
pub(super) struct Apart {
    /// Ascending by version; of each the pages, ascending, and the numbers of their records.
    versions: Vec<(u64, Vec<(u32, u32)>)>,
    /// Records of pages.
    pub(super) record_count: u32,
}

/// What a record tells by records of pages.
#[derive(Clone, Copy)]
pub(super) enum Told<'a> {
    /// No page.
    Nothing,
    /// These pages, which were put apart for it.
    Apart(&'a Apart),
    /// Pages that are away, in these records of its chain.
    Away(&'a [Place]),
}

impl<'a> Told<'a> {
    /// The same for one version.
    pub(super) fn of(self, version: u64) -> Elsewhere<'a> {
        match self {
            Told::Nothing => Elsewhere::NOWHERE,
            Told::Away(records) => Elsewhere::Chain(records),
            Told::Apart(Apart { versions, .. }) => {
                match versions.binary_search_by_key(&version, |(id, _)| *id) {
                    Ok(at) => Elsewhere::Told(&versions[at].1),
                    Err(_) => Elsewhere::NOWHERE,
                }
            }
        }
    }
}

impl Partition {
    /// Puts the large pages of an agent's versions into records of their own, where that pays (I1).
    pub(super) fn put_apart(&self, slot: u32, flush: &mut Flush) -> Apart {
        let agent = &self.agents[slot];
        let mut apart = Apart::default();
        let large = self.large_pages(agent);
        let count = large.iter().map(|(.., pages)| pages.len()).sum::<usize>();
        if count < APART_COUNT_MIN {
            return apart;
        }
        let group = count.div_ceil(RECORD_COUNT_MAX).min(GROUP_COUNT_MAX);
        for (version, image, pages) in large {
            let mut told = Vec::with_capacity(pages.len());
            for pages in pages.chunks(group) {
                put(flush, Kind::Pages, agent.id, None, |out| {
                    image.put_pages(&self.store, pages, out);
                });
                told.extend(pages.iter().map(|page| (*page, apart.record_count)));
                apart.record_count += 1;
            }
            apart.versions.push((version, told));
        }
        apart
    }

    /// Of each version the pages that it has changed much since the one before.
    fn large_pages<'a>(&self, agent: &'a Agent) -> Vec<(u64, &'a Image, Vec<u32>)> {
        let mut large = Vec::new();
        if !self.templates.behaviour(agent.template).reads_by_page() {
            return large;
        }
        let mut base = &Image::EMPTY;
        for version in agent.versions.sealed() {
            let image = version.image;
            let mut pages = Vec::new();
            image.changed_pages(base, &self.store, &mut pages);
            pages.retain(|page| {
                image.changes_much(base, &self.store, *page)
                    && image.line_count(&self.store, *page) >= LARGE_LINES_MIN
            });
            if !pages.is_empty() {
                large.push((version.id, image, pages));
            }
            base = image;
        }
        large
    }
}
