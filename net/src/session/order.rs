//! The order of a connection's replies: answers arrive in any order, replies leave in one.
//!
//! Owns: one slot per command that has not left yet.  Not: the output's bytes, decoding.
//! S1  replies leave in the order of their commands.
//! S2  a reply is encoded as the connection stood when its command was decoded: protocol, silence.
//! S3  the answer that is next goes straight to the output; only an early one is kept.

use crate::reply::{ListPlace, encode_answer};
use crate::resp::{Encoder, Protocol};
use bytes::Bytes;
use heronry_engine::{AgentKey, Refusal, Reply, ShardId};
use std::collections::VecDeque;

/// An idle connection keeps at most this many slots allocated.
const KEPT_SLOTS_MAX: usize = 64;

/// How a reply is to leave (S2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Form {
    /// The connection's protocol.
    pub protocol: Protocol,
    /// CLIENT REPLY OFF or SKIP: answered, but not said.
    pub silent: bool,
}

/// What an answer becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Its own encoding.
    Plain,
    /// A page of LIST, whose cursor is to hold the shard.
    List(ListPlace),
}

type Answer = Result<Reply, Refusal>;

/// The replies of one connection that have not left.
#[derive(Default, Debug)]
pub struct Order {
    /// Sequence number of the first slot.
    head: u64,
    slots: VecDeque<Slot>,
    /// Bytes that the awaited answers may well have.
    expected_bytes: usize,
}

#[derive(Debug)]
struct Slot {
    form: Form,
    expected_bytes: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Awaits its answer.
    Waiting(Shape),
    /// Answered early, by what nearly every answer is; needs no box.
    Payload(Bytes),
    /// Answered early.
    Answered(Shape, Box<Answer>),
    /// Encoded by the session, behind awaited ones.
    Encoded(Vec<u8>),
    /// Collects the answers of several asks.
    Gather(Box<Gather>),
    /// Its answer goes to the gather this many slots before.
    Part { back: u16 },
    /// Nothing to say.
    Void,
}

#[derive(Debug)]
struct Gather {
    count_max: usize,
    missing: usize,
    answered: usize,
    rows: Vec<(AgentKey, u64)>,
    refusal: Option<Refusal>,
}

impl Order {
    /// Replies that have not left.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// About how many bytes the replies that have not left will have.
    pub fn expected_bytes(&self) -> usize {
        self.expected_bytes
    }

    /// Opens a slot for an ask; returns its sequence number.
    #[inline]
    pub fn ask(&mut self, form: Form, shape: Shape, expected_bytes: usize) -> u64 {
        let expected_bytes = u32::try_from(expected_bytes).unwrap_or(u32::MAX);
        self.open(Slot { form, expected_bytes, state: State::Waiting(shape) })
    }

    /// Opens slots for one ask per shard, whose answers become one reply of the `count_max`
    /// busiest agents; returns the first one's sequence number.
    pub fn gather(&mut self, form: Form, shard_count: u16, count_max: usize) -> u64 {
        let missing = usize::from(shard_count);
        let (rows, refusal) = (Vec::new(), None);
        let gather = Box::new(Gather { count_max, missing, answered: 0, rows, refusal });
        let first = self.open(Slot { form, expected_bytes: 0, state: State::Gather(gather) });
        for back in 1..shard_count {
            self.open(Slot { form, expected_bytes: 0, state: State::Part { back } });
        }
        first
    }

    /// A reply that the session has encoded itself, to leave behind the awaited ones.
    pub fn encoded(&mut self, bytes: Vec<u8>) {
        let expected_bytes = bytes.len() as u32;
        let state = State::Encoded(bytes);
        self.open(Slot { form: Form::default(), expected_bytes, state });
    }

    /// The answer to the ask `seq`: out, or kept until it is its turn (S1).
    #[inline]
    pub fn answer(&mut self, seq: u64, answer: Answer, out: &mut Vec<u8>) {
        let idx = seq.wrapping_sub(self.head) as usize;
        assert!(seq >= self.head && idx < self.slots.len(), "G1: answered {seq} twice");
        let slot = &mut self.slots[idx];
        let State::Waiting(shape) = slot.state else {
            return self.answer_part(idx, answer, out);
        };
        if idx > 0 {
            slot.state = match (shape, answer) {
                (Shape::Plain, Ok(Reply::Payload(Some(bytes)))) => State::Payload(bytes),
                (shape, answer) => State::Answered(shape, Box::new(answer)),
            };
            return;
        }
        // S3: the common case.
        let form = slot.form;
        self.close_first();
        emit(form, shape, &answer, out);
        self.release(out);
    }

    fn open(&mut self, slot: Slot) -> u64 {
        self.expected_bytes += slot.expected_bytes as usize;
        self.slots.push_back(slot);
        self.head + self.slots.len() as u64 - 1
    }

    #[inline]
    fn close_first(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.head += 1;
        self.expected_bytes -= slot.expected_bytes as usize;
        Some(slot)
    }

    fn answer_part(&mut self, idx: usize, answer: Answer, out: &mut Vec<u8>) {
        let gather_idx = match self.slots[idx].state {
            State::Part { back } => {
                self.slots[idx].state = State::Void;
                idx - usize::from(back)
            }
            State::Gather(_) => idx,
            _ => panic!("G1: one ask was answered twice"),
        };
        let slot = &mut self.slots[gather_idx];
        let State::Gather(gather) = &mut slot.state else {
            panic!("G1: a part outlived its gather");
        };
        gather.add(answer);
        if gather.missing == 0 {
            let answer = gather.finish();
            slot.state = State::Answered(Shape::Plain, Box::new(answer));
            self.release(out);
        }
    }

    /// Lets everything leave whose turn it is.
    #[inline]
    fn release(&mut self, out: &mut Vec<u8>) {
        while let Some(slot) = self.slots.front() {
            if matches!(slot.state, State::Waiting(_) | State::Gather(_) | State::Part { .. }) {
                return;
            }
            let slot = self.close_first().expect("S1: the slot is there");
            match slot.state {
                State::Payload(bytes) => {
                    emit(slot.form, Shape::Plain, &Ok(Reply::Payload(Some(bytes))), out);
                }
                State::Answered(shape, answer) => emit(slot.form, shape, &answer, out),
                State::Encoded(bytes) => out.extend_from_slice(&bytes),
                _ => {}
            }
        }
        if self.slots.capacity() > KEPT_SLOTS_MAX {
            self.slots = VecDeque::new();
        }
    }
}

#[inline]
fn emit(form: Form, shape: Shape, answer: &Answer, out: &mut Vec<u8>) {
    if form.silent {
        return;
    }
    let list = match shape {
        Shape::Plain => None,
        Shape::List(place) => Some(place),
    };
    encode_answer(&mut Encoder::new(out, form.protocol), answer, list);
}

impl Gather {
    fn add(&mut self, answer: Answer) {
        self.missing -= 1;
        match answer {
            Ok(Reply::Hottest(rows)) => {
                self.answered += 1;
                self.rows.extend(rows);
            }
            // Only a damaged peer answers otherwise; it counts as one that is down.
            Ok(_) => {}
            Err(refusal) => self.refusal = Some(refusal),
        }
    }

    /// What the shards that answered said, merged; a refusal if none did.
    fn finish(&mut self) -> Answer {
        if self.answered == 0 {
            let down = Refusal::TryAgain { shard: ShardId(0) };
            return Err(self.refusal.take().unwrap_or(down));
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        rows.truncate(self.count_max);
        Ok(Reply::Hottest(rows))
    }
}
