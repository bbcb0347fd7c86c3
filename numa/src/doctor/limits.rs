//! Probes of what the kernel lets one process have: locked memory, files, mappings.
//!
//! Owns: those findings and their thresholds.  Not: raising a limit.
//! Each is a judgement of numbers that the caller hands over.

use super::{Eyes, Finding, humane_limit};

/// Locked memory that one shard's rings and registered buffers take at most.
const MEMLOCK_BYTES_GOOD: u64 = 8 << 20;
/// What a glommio executor needs.
const MEMLOCK_BYTES_LEAST: u64 = 512 << 10;
/// Files for 10,000 connections, listeners and the shards' own.
const OPEN_FILES_GOOD: u64 = 16_384;
const OPEN_FILES_LEAST: u64 = 1_024;
/// The kernel's own default.
const MAP_COUNT_GOOD: u64 = 65_530;
/// Mappings that one live sandbox takes.
const MAPS_PER_SANDBOX: u64 = 3;

pub(super) fn memlock(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "memlock";
    const FIX: &str = "ulimit -l unlimited (as root), or LimitMEMLOCK=infinity in the unit";
    let Some(limit) = (eyes.limit)(libc::RLIMIT_MEMLOCK) else {
        return Finding::warn(NAME, "unreadable", "buffers may fail to register", FIX);
    };
    let found = format!("{} bytes, hard {}", humane_limit(limit.soft), humane_limit(limit.hard));
    if limit.soft >= MEMLOCK_BYTES_GOOD {
        Finding::good(NAME, found)
    } else if limit.soft >= MEMLOCK_BYTES_LEAST {
        Finding::warn(NAME, found, "shards register fewer buffers: large payloads are slower", FIX)
    } else {
        let cost =
            "rings may be refused (before Linux 5.12, and always with runtime = \"glommio\")";
        Finding::bad(NAME, found, cost, FIX)
    }
}

pub(super) fn open_files(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "open_files";
    let Some(limit) = (eyes.limit)(libc::RLIMIT_NOFILE) else {
        let fix = "ulimit -n 65536";
        return Finding::warn(NAME, "unreadable", "connections may be refused", fix);
    };
    let found = format!("{}, hard {}", humane_limit(limit.soft), humane_limit(limit.hard));
    if limit.soft >= OPEN_FILES_GOOD {
        return Finding::good(NAME, found);
    }
    let fix = if limit.hard >= OPEN_FILES_GOOD {
        format!("ulimit -n {}", limit.hard.min(1 << 20))
    } else {
        "LimitNOFILE=1048576 in the unit, or a nofile line in /etc/security/limits.conf".to_owned()
    };
    let cost = format!("at most about {} client connections", limit.soft.saturating_sub(128));
    if limit.soft >= OPEN_FILES_LEAST {
        Finding::warn(NAME, found, cost, fix)
    } else {
        Finding::bad(NAME, found, cost, fix)
    }
}

pub(super) fn max_map_count(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "max_map_count";
    const FIX: &str = "sysctl -w vm.max_map_count=262144";
    match eyes.number("/proc/sys/vm/max_map_count") {
        None => Finding::warn(NAME, "unreadable", "live sandboxes per shard are not known", FIX),
        Some(count) => {
            let sandboxes = count / MAPS_PER_SANDBOX;
            let found = format!("{count}: about {sandboxes} live sandboxes per shard");
            if count >= MAP_COUNT_GOOD {
                Finding::good(NAME, found)
            } else {
                Finding::warn(NAME, found, "fewer live sandboxes; then even malloc fails", FIX)
            }
        }
    }
}
