//! Drives a script over a few connections: as fast as possible, evenly, or at the recorded pace.
//!
//! Owns: which turn is in flight, and its latency.  Not: what turns mean (`script.rs`).
//! D1  a family has at most one turn in flight (T1); turns that wait for it keep their due time.
//! D2  open loop: latency counts from the due time, waiting for the family included.  Going as
//!     fast as possible has no due times; latency counts from the start there.
//! D3  the driver sleeps until the next due time or reply: it shares its CPU with a shard.
//! D4  a reply that is an error ends the run: a replay that lost a turn cannot be verified.

use super::script::{Script, Turn};
use crate::context;
use crate::link::{self, Addr, Link, LinkError};
use crate::report::Latency;
use crate::{sys, wire};
use mio::{Events, Poll, Token};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The closed loop's bound on admitted turns, as a multiple of those in flight.
const QUEUED_PER_FLYING: usize = 8;
/// Longest silence before the node is taken for hung.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Passes between two looks at the clock for the progress bar and Ctrl-C.
const CHECK_EVERY: u64 = 256;

/// When turns start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as this many turns in flight allow.
    Flying {
        /// Turns in flight.
        turn_count: usize,
    },
    /// Evenly, this many a second.
    Even {
        /// Turns per second.
        per_second: f64,
    },
    /// As recorded, this many times faster.
    Recorded {
        /// Factor.
        speed: f64,
    },
}

/// What driving gave.
#[derive(Debug)]
pub struct Driven {
    /// Turns completed.
    pub turn_count: u64,
    /// Commands answered.
    pub command_count: u64,
    /// From the first turn's start to the last one's end.
    pub seconds: f64,
    /// Per turn.
    pub latency: Latency,
}

/// Why driving stopped.
#[derive(Debug, Error)]
pub enum DriveError {
    /// A connection failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The poll failed.
    #[error("waiting for replies failed: {0}")]
    Poll(#[from] std::io::Error),
    /// The node refused a command of the script (D4).
    #[error("turn {turn_idx} was refused: {text}")]
    Refused {
        /// Which.
        turn_idx: usize,
        /// The node's words.
        text: String,
    },
    /// No reply for long.
    #[error("no reply for {} s with {flying_count} turns in flight", SILENCE_MAX.as_secs())]
    Silent {
        /// Turns in flight.
        flying_count: usize,
    },
    /// Ctrl-C.
    #[error("interrupted; what was started has been stopped")]
    Interrupted,
}

/// A stage whose replies are on their way.
struct Stage {
    turn_idx: usize,
    stage: u8,
    reply_count: u32,
    replied_count: u32,
    started_at: Instant,
}

struct Lane {
    link: Link,
    waiting: VecDeque<Stage>,
    dirty: bool,
}

struct Family {
    flying: bool,
    queue: VecDeque<(usize, Instant)>,
}

/// Runs every turn of `script` against `addr`. `progress` gets the number of turns done, now and
/// then.
pub fn drive(
    addr: &Addr,
    connections: usize,
    script: &mut dyn Script,
    pace: Pace,
    progress: &mut dyn FnMut(u64),
) -> Result<Driven, DriveError> {
    let mut poll = Poll::new()?;
    let mut lanes = Vec::with_capacity(connections);
    for at in 0..connections {
        let mut link = Link::connect(addr)?;
        link.register(poll.registry(), Token(at)).map_err(LinkError::from)?;
        lanes.push(Lane { link, waiting: VecDeque::new(), dirty: false });
    }
    let turns: Vec<Turn> = script.turns().to_vec();
    let family = || Family { flying: false, queue: VecDeque::new() };
    let families = (0..script.family_count()).map(|_| family()).collect();
    sys::exact_sleeps()?;
    let started_at = Instant::now();
    let mut drive = Drive {
        script,
        turns,
        lanes,
        families,
        flying_count: 0,
        queued_count: 0,
        open: !matches!(pace, Pace::Flying { .. }),
        next: 0,
        driven: Driven { turn_count: 0, command_count: 0, seconds: 0.0, latency: Latency::new() },
    };
    let mut events = Events::with_capacity(256);
    let mut heard_at = started_at;
    for pass in 0u64.. {
        let now = Instant::now();
        let wait = drive.admit(pace, started_at, now);
        drive.flush()?;
        if drive.next == drive.turns.len() && drive.flying_count == 0 {
            break;
        }
        link::sleep(&mut poll, &mut events, wait)?;
        for event in &events {
            heard_at = now;
            drive.collect(event.token().0)?;
        }
        if drive.flying_count == 0 {
            heard_at = now;
        }
        if now.saturating_duration_since(heard_at) > SILENCE_MAX {
            return Err(DriveError::Silent { flying_count: drive.flying_count });
        }
        if pass % CHECK_EVERY == 0 {
            progress(drive.driven.turn_count);
            if context::interrupted() {
                return Err(DriveError::Interrupted);
            }
        }
    }
    drive.driven.seconds = started_at.elapsed().as_secs_f64();
    Ok(drive.driven)
}

struct Drive<'s> {
    script: &'s mut dyn Script,
    turns: Vec<Turn>,
    lanes: Vec<Lane>,
    families: Vec<Family>,
    flying_count: usize,
    queued_count: usize,
    /// Turns have due times (D2).
    open: bool,
    /// First turn not admitted yet.
    next: usize,
    driven: Driven,
}

impl Drive<'_> {
    /// Admits the turns whose time has come; returns how long the loop may wait for replies.
    fn admit(&mut self, pace: Pace, started_at: Instant, now: Instant) -> Duration {
        const IDLE: Duration = Duration::from_millis(50);
        while self.next < self.turns.len() {
            let due_at = match pace {
                Pace::Flying { turn_count } => {
                    let admitted = self.flying_count + self.queued_count;
                    if self.flying_count >= turn_count || admitted >= turn_count * QUEUED_PER_FLYING
                    {
                        return IDLE;
                    }
                    now
                }
                Pace::Even { per_second } => {
                    started_at + Duration::from_secs_f64(self.next as f64 / per_second)
                }
                Pace::Recorded { speed } => {
                    let arrival_ns = self.turns[self.next].arrival_ns as f64;
                    started_at + Duration::from_nanos((arrival_ns / speed) as u64)
                }
            };
            if due_at > now {
                return due_at.saturating_duration_since(Instant::now());
            }
            let turn_idx = self.next;
            self.next += 1;
            let family = &mut self.families[self.turns[turn_idx].family as usize];
            if family.flying {
                family.queue.push_back((turn_idx, due_at));
                self.queued_count += 1;
            } else {
                family.flying = true;
                self.flying_count += 1;
                self.start(turn_idx, 0, due_at);
            }
        }
        IDLE
    }

    fn start(&mut self, turn_idx: usize, stage: u8, started_at: Instant) {
        let family = self.turns[turn_idx].family as usize;
        let at = family % self.lanes.len();
        let lane = &mut self.lanes[at];
        let reply_count = self.script.encode(turn_idx, stage, lane.link.output());
        let replied_count = 0;
        lane.waiting.push_back(Stage { turn_idx, stage, reply_count, replied_count, started_at });
        lane.dirty = true;
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        for lane in self.lanes.iter_mut().filter(|lane| lane.dirty) {
            lane.link.flush()?;
            lane.dirty = lane.link.unsent_bytes() > 0;
        }
        Ok(())
    }

    fn collect(&mut self, at: usize) -> Result<(), DriveError> {
        loop {
            let more = self.lanes[at].link.fill()?;
            let now = Instant::now();
            while let Some(ended) = self.take_reply(at)? {
                if let Some(stage) = ended {
                    self.stage_ended(stage, now);
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Takes one reply; the inner value is the stage that it ended.
    fn take_reply(&mut self, at: usize) -> Result<Option<Option<Stage>>, DriveError> {
        let lane = &mut self.lanes[at];
        let Some((reply, extent)) = lane.link.reply()? else { return Ok(None) };
        let Some(stage) = lane.waiting.front_mut() else { return Err(LinkError::Closed.into()) };
        if extent.error {
            let text = wire::text(reply).unwrap_or_default();
            let text = String::from_utf8_lossy(text).into_owned();
            return Err(DriveError::Refused { turn_idx: stage.turn_idx, text });
        }
        self.script.replied(stage.turn_idx, stage.stage, stage.replied_count, reply);
        self.driven.command_count += 1;
        stage.replied_count += 1;
        if stage.replied_count < stage.reply_count {
            return Ok(Some(None));
        }
        Ok(Some(lane.waiting.pop_front()))
    }

    fn stage_ended(&mut self, stage: Stage, now: Instant) {
        let turn = self.turns[stage.turn_idx];
        if stage.stage + 1 < turn.stage_count {
            return self.start(stage.turn_idx, stage.stage + 1, stage.started_at);
        }
        self.driven.turn_count += 1;
        self.driven.latency.record(now.saturating_duration_since(stage.started_at));
        let family = &mut self.families[turn.family as usize];
        match family.queue.pop_front() {
            Some((turn_idx, due_at)) => {
                self.queued_count -= 1;
                self.start(turn_idx, 0, if self.open { due_at } else { now });
            }
            None => {
                family.flying = false;
                self.flying_count -= 1;
            }
        }
    }
}
