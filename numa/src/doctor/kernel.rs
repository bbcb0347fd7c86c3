//! Probes of the kernel as a whole: its version and what is switched off.
//!
//! Owns: those two findings.  Not: trying the calls (`ring.rs`, `dirty.rs` do).
//! Each is a judgement of a text that the caller hands over.

use super::{Eyes, Finding};

/// First kernel with every io_uring feature of the `uring` driver (DEFER_TASKRUN).
const URING_VERSION: (u32, u32) = (6, 1);
/// First kernel with PAGEMAP_SCAN and asynchronous write protection.
const DIRTY_VERSION: (u32, u32) = (6, 7);

pub(super) fn version(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "kernel";
    let text = eyes.text("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned());
    match parse(&text) {
        Some(version) if version >= DIRTY_VERSION => Finding::good(NAME, text),
        Some(version) if version >= URING_VERSION => Finding::warn(
            NAME,
            text,
            "no PAGEMAP_SCAN: dirty pages of sandboxes cannot be found quickly",
            "install Linux 6.7 or newer",
        ),
        Some(_) => Finding::bad(
            NAME,
            text,
            "the io_uring driver does not start",
            "install Linux 6.7 or newer (6.1 at least)",
        ),
        None => Finding::warn(
            NAME,
            text,
            "whether the kernel is new enough is not known; the probes below tell",
            "mount /proc",
        ),
    }
}

pub(super) fn io_uring_disabled(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "io_uring_disabled";
    const PATH: &str = "/proc/sys/kernel/io_uring_disabled";
    const FIX: &str = "sysctl -w kernel.io_uring_disabled=0";
    match eyes.number(PATH) {
        Some(0) => Finding::good(NAME, "0"),
        None => Finding::good(NAME, "no such switch (before Linux 6.6)"),
        Some(1) => Finding::warn(
            NAME,
            "1",
            "only members of the group kernel.io_uring_group, and root, may use io_uring",
            FIX,
        ),
        Some(other) => Finding::bad(
            NAME,
            other.to_string(),
            "nobody may use io_uring: shards do not start",
            FIX,
        ),
    }
}

/// Major and minor of a release such as `6.12.4-amd64`.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
