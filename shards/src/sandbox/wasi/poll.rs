//! `poll_oneoff`: waiting without waiting.
//!
//! Owns: what is ready, and how far a sleep skips.  Not: the clock.
//! Y1  the shard never waits: files are always ready, and a wait for the clock alone skips the
//!     agent's clock to the earliest time asked for (`sleep` in C, `time.sleep` in Python). An
//!     agent that means to wait awaits `ctx.sleep`.

use super::{Answer, Errno};
use crate::sandbox::host::{GuestMemory, Host};

/// Most subscriptions of one call.
pub const SUBSCRIPTION_COUNT_MAX: u32 = 1_024;

const SUBSCRIPTION_BYTES: usize = 48;
const EVENT_BYTES: usize = 32;
const TAG_CLOCK: u8 = 0;
const TAG_READ: u8 = 1;
const TAG_WRITE: u8 = 2;
const FLAG_ABSOLUTE: u16 = 1;

struct Subscription {
    userdata: [u8; 8],
    tag: u8,
    what: What,
}

enum What {
    Fd(i32),
    Clock { wait_ns: u64 },
    Bad,
}

pub(super) fn poll_oneoff(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    subscriptions: i32,
    events: i32,
    count: i32,
    out: i32,
) -> Answer {
    let count = count.cast_unsigned();
    if count == 0 || count > SUBSCRIPTION_COUNT_MAX {
        return Err(Errno::Inval);
    }
    memory.bytes(out, 4)?;
    let mut all = Vec::with_capacity(count as usize);
    let now = (host.read_clock(true), host.read_clock(false));
    for idx in 0..count {
        all.push(subscription(memory.entry(subscriptions, idx)?, now));
    }
    let ready = all.iter().any(|one| !matches!(one.what, What::Clock { .. }));
    let waits = all.iter().filter_map(|one| match one.what {
        What::Clock { wait_ns } => Some(wait_ns),
        _ => None,
    });
    let skip_ns = if ready { 0 } else { waits.min().unwrap_or(0) };
    let mut given = 0;
    for one in &all {
        let errno = match one.what {
            What::Clock { wait_ns } if wait_ns > skip_ns => continue,
            What::Clock { .. } => None,
            What::Fd(fd) => super::files::open_file(host, fd).err(),
            What::Bad => Some(Errno::Inval),
        };
        let mut event = [0; EVENT_BYTES];
        event[..8].copy_from_slice(&one.userdata);
        event[8] = errno.map_or(0, |errno| errno as u8);
        event[10] = one.tag;
        // How much can be read or written at once is not told; something always can.
        event[16] = u8::from(matches!(one.what, What::Fd(_)));
        memory.put_entry(events, given, &event)?;
        given += 1;
    }
    memory.put_u32(out, given)?;
    host.skip_clock(skip_ns);
    Ok(())
}

/// Reads a subscription; `now` is the date and monotonic time.
fn subscription(bytes: [u8; SUBSCRIPTION_BYTES], now: (u64, u64)) -> Subscription {
    let [u0, u1, u2, u3, u4, u5, u6, u7, tag, _, _, _, _, _, _, _, rest @ ..] = bytes;
    let [i0, i1, i2, i3, _, _, _, _, t0, t1, t2, t3, t4, t5, t6, t7, ..] = rest;
    let id = i32::from_le_bytes([i0, i1, i2, i3]);
    let timeout_ns = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
    let absolute = u16::from_le_bytes([rest[24], rest[25]]) & FLAG_ABSOLUTE != 0;
    let what = match tag {
        TAG_READ | TAG_WRITE => What::Fd(id),
        TAG_CLOCK if super::check_clock(id).is_ok() => {
            let reached = if id == super::CLOCK_REALTIME { now.0 } else { now.1 };
            let wait_ns = if absolute { timeout_ns.saturating_sub(reached) } else { timeout_ns };
            What::Clock { wait_ns }
        }
        _ => What::Bad,
    };
    Subscription { userdata: [u0, u1, u2, u3, u4, u5, u6, u7], tag, what }
}
