//! The load generator: one thread, many connections, closed or open loop.
//!
//! Owns: pacing, outstanding requests, latency.  Not: what the requests mean (`Requests`), nor how
//! many to compare (scenarios).  It speaks to any RESP server, Redis included.
//! O1  closed loop: every connection keeps exactly `depth` requests unanswered.
//! O2  open loop: the schedule does not wait for replies; latency counts from the intended time.
//! O3  only what is sent after the warm-up, and answered before the end, is counted.

use crate::context;
use crate::link::{self, Addr, Link, LinkError};
use crate::report::Latency;
use crate::{sys, wire};
use mio::{Events, Poll, Token};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long the open loop waits for stragglers after the last request.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Longest sleep of the open loop while it waits for stragglers.
const DRAIN_SLEEP: Duration = Duration::from_millis(2);

/// When requests go out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// The next request when a reply frees its place.
    Closed,
    /// Pipelines of `depth` requests at their own times, evenly spaced, whatever the replies do;
    /// each on the next connection.
    Open {
        /// Requests per second over all connections.
        per_second: f64,
    },
}

/// One run of the generator.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub addr: Addr,
    /// Connections.
    pub connections: usize,
    /// Requests per pipeline: unanswered ones per connection in the closed loop.
    pub depth: usize,
    /// Counted seconds.
    pub seconds: f64,
    /// Seconds before counting.
    pub warmup_seconds: f64,
    /// Stop after this many requests have been answered, counted ones only.
    pub request_count_max: u64,
    /// Closed or open.
    pub pace: Pace,
    /// Poll without sleeping; the generator has a core of its own then.
    pub spin: bool,
    /// Replies that one request brings (a pair of commands brings two).
    pub replies_per_request: u32,
}

impl Plan {
    /// A closed loop of `connections` x `depth` for `seconds`, after a fifth of that as warm-up.
    pub fn closed(addr: Addr, connections: usize, depth: usize, seconds: f64) -> Plan {
        Plan {
            addr,
            connections,
            depth,
            seconds,
            warmup_seconds: (seconds / 5.0).min(0.5),
            request_count_max: u64::MAX,
            pace: Pace::Closed,
            spin: false,
            replies_per_request: 1,
        }
    }
}

/// What a run gave.
#[derive(Debug)]
pub struct Outcome {
    /// Requests answered in the counted time.
    pub request_count: u64,
    /// The counted time in seconds.
    pub seconds: f64,
    /// Replies that were errors, warm-up included.
    pub error_count: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Latency of the counted requests.
    pub latency: Latency,
    /// Open loop: requests whose reply had not come when the drain ended.
    pub unanswered_count: u64,
}

impl Outcome {
    /// Requests per second.
    pub fn per_second(&self) -> f64 {
        self.request_count as f64 / self.seconds.max(1e-9)
    }

    /// Fails when any reply was an error: a rate of errors is no rate.
    pub fn flawless(self) -> anyhow::Result<Outcome> {
        match &self.first_error {
            None => Ok(self),
            Some(text) => anyhow::bail!("{} replies were errors, first: {text}", self.error_count),
        }
    }
}

/// Requests, ready to send.
pub trait Requests {
    /// Appends the next request for connection `conn`.
    fn append(&mut self, conn: usize, out: &mut Vec<u8>);
}

/// Requests encoded beforehand, replayed in a circle.
#[derive(Debug)]
pub struct Encoded {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    at: usize,
}

impl Encoded {
    /// Encodes `count` requests with `encode(n, out)`.
    pub fn new(count: usize, mut encode: impl FnMut(usize, &mut Vec<u8>)) -> Encoded {
        let mut bytes = Vec::new();
        let ends = (0..count).map(|n| {
            encode(n, &mut bytes);
            bytes.len() as u32
        });
        let ends = ends.collect();
        Encoded { bytes, ends, at: 0 }
    }
}

impl Requests for Encoded {
    #[inline]
    fn append(&mut self, _conn: usize, out: &mut Vec<u8>) {
        let from = if self.at == 0 { 0 } else { self.ends[self.at - 1] as usize };
        out.extend_from_slice(&self.bytes[from..self.ends[self.at] as usize]);
        self.at = if self.at + 1 == self.ends.len() { 0 } else { self.at + 1 };
    }
}

/// Requests sent together, waiting for their replies.
struct Batch {
    at: Instant,
    count: u32,
}

struct Lane {
    link: Link,
    waiting: VecDeque<Batch>,
    /// Replies of the request in progress that have come, when one brings several.
    part: u32,
}

/// Runs `plan`. Pin the calling thread first; this one thread does all the work.
pub fn run(plan: &Plan, requests: &mut impl Requests) -> Result<Outcome, LinkError> {
    let mut poll = Poll::new()?;
    let mut lanes = Vec::with_capacity(plan.connections);
    for at in 0..plan.connections {
        let mut link = Link::connect(&plan.addr)?;
        link.register(poll.registry(), Token(at))?;
        lanes.push(Lane { link, waiting: VecDeque::new(), part: 0 });
    }
    let counted_from = Instant::now() + Duration::from_secs_f64(plan.warmup_seconds);
    let mut run = Run {
        plan,
        counted_from,
        end_at: counted_from + Duration::from_secs_f64(plan.seconds),
        last_reply_at: counted_from,
        outcome: Outcome {
            request_count: 0,
            seconds: 0.0,
            error_count: 0,
            first_error: None,
            latency: Latency::new(),
            unanswered_count: 0,
        },
    };
    match plan.pace {
        Pace::Closed => run.closed(&mut poll, &mut lanes, requests)?,
        Pace::Open { per_second } => run.open(&mut poll, &mut lanes, requests, per_second)?,
    }
    let last = run.last_reply_at.min(run.end_at);
    run.outcome.seconds = last.saturating_duration_since(run.counted_from).as_secs_f64();
    Ok(run.outcome)
}

struct Run<'p> {
    plan: &'p Plan,
    counted_from: Instant,
    end_at: Instant,
    last_reply_at: Instant,
    outcome: Outcome,
}

impl Run<'_> {
    fn closed(
        &mut self,
        poll: &mut Poll,
        lanes: &mut [Lane],
        requests: &mut impl Requests,
    ) -> Result<(), LinkError> {
        for (conn, lane) in lanes.iter_mut().enumerate() {
            send(lane, conn, Instant::now(), self.plan.depth as u32, requests)?;
        }
        let mut events = Events::with_capacity(lanes.len().max(64));
        let wait = if self.plan.spin { Duration::ZERO } else { Duration::from_millis(100) };
        loop {
            link::poll_for(poll, &mut events, wait)?;
            for event in &events {
                let conn = event.token().0;
                let lane = &mut lanes[conn];
                let answered = self.collect(lane)?;
                if answered > 0 {
                    send(lane, conn, Instant::now(), answered, requests)?;
                } else if event.is_writable() {
                    lane.link.flush()?;
                }
            }
            let over = events.is_empty() && Instant::now() >= self.end_at;
            if over || self.last_reply_at >= self.end_at || self.enough() {
                return Ok(());
            }
        }
    }

    fn open(
        &mut self,
        poll: &mut Poll,
        lanes: &mut [Lane],
        requests: &mut impl Requests,
        per_second: f64,
    ) -> Result<(), LinkError> {
        sys::exact_sleeps()?;
        let started_at = Instant::now();
        let depth = self.plan.depth as u64;
        let gap_s = depth as f64 / per_second.max(1e-3);
        let due = |pipeline: u64| started_at + Duration::from_secs_f64(pipeline as f64 * gap_s);
        let mut sent = 0u64;
        let mut events = Events::with_capacity(lanes.len().max(64));
        let mut sending = true;
        loop {
            let now = Instant::now();
            while sending && due(sent) <= now {
                let conn = (sent % lanes.len() as u64) as usize;
                send(&mut lanes[conn], conn, due(sent), self.plan.depth as u32, requests)?;
                sent += 1;
            }
            let wait = match (self.plan.spin, sending) {
                (true, _) => Duration::ZERO,
                (false, true) => due(sent).saturating_duration_since(Instant::now()),
                (false, false) => DRAIN_SLEEP,
            };
            link::sleep(poll, &mut events, wait)?;
            for event in &events {
                let lane = &mut lanes[event.token().0];
                self.collect(lane)?;
                lane.link.flush()?;
            }
            sending &= now < self.end_at && !self.enough();
            if !sending {
                let waiting: u32 =
                    lanes.iter().flat_map(|lane| &lane.waiting).map(|batch| batch.count).sum();
                if waiting == 0 || now > self.end_at + DRAIN_MAX || context::interrupted() {
                    self.outcome.unanswered_count = u64::from(waiting);
                    return Ok(());
                }
            }
        }
    }

    /// Takes every reply that has come in. Returns how many requests they answered.
    fn collect(&mut self, lane: &mut Lane) -> Result<u32, LinkError> {
        let mut answered = 0;
        loop {
            let more = lane.link.fill()?;
            let now = Instant::now();
            while let Some((reply, extent)) = lane.link.reply()? {
                if extent.error {
                    self.outcome.error_count += 1;
                    if self.outcome.first_error.is_none() {
                        let text = wire::text(reply).unwrap_or_default();
                        self.outcome.first_error = Some(String::from_utf8_lossy(text).into());
                    }
                }
                lane.part += 1;
                if lane.part < self.plan.replies_per_request {
                    continue;
                }
                lane.part = 0;
                answered += 1;
                self.count_one(lane, now);
            }
            if !more {
                return Ok(answered);
            }
        }
    }

    #[inline]
    fn count_one(&mut self, lane: &mut Lane, now: Instant) {
        let Some(batch) = lane.waiting.front_mut() else { return };
        let in_time = match self.plan.pace {
            Pace::Closed => now < self.end_at,
            Pace::Open { .. } => true,
        };
        if batch.at >= self.counted_from && in_time {
            self.outcome.latency.record(now.saturating_duration_since(batch.at));
            self.outcome.request_count += 1;
        }
        self.last_reply_at = now;
        batch.count -= 1;
        if batch.count == 0 {
            lane.waiting.pop_front();
        }
    }

    fn enough(&self) -> bool {
        self.outcome.request_count >= self.plan.request_count_max || context::interrupted()
    }
}

fn send(
    lane: &mut Lane,
    conn: usize,
    at: Instant,
    count: u32,
    requests: &mut impl Requests,
) -> Result<(), LinkError> {
    for _ in 0..count {
        requests.append(conn, lane.link.output());
    }
    lane.waiting.push_back(Batch { at, count });
    lane.link.flush()
}
