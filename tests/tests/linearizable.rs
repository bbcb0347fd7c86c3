//! Histories of concurrent clients, with shards that are killed meanwhile, are linearizable: there
//! is an order of all requests, each between its asking and its answer, that explains every reply.
//!
//! Owns: clients that note what they ask and hear.  Not: the checker (todc-utils: Wing and Gong's
//! search, as Lowe extended it).
//! L1  agents are checked one by one, as each is a register or a counter of its own.
//! L2  a change whose answer was lost may count at any later moment or never: it is taken as one
//!     that is answered after all others. A read without an answer says nothing.

use heronry_net::client::Client;
use heronry_tests::node::{Node, PATIENCE, send_signal, wait_until};
use heronry_tests::rows::shard_pids;
use rustix::process::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use todc_utils::{Action, History, Specification, WGLChecker};

const BINARY: &str = env!("CARGO_BIN_EXE_test-node");
const CLIENTS: u64 = 5;
const COUNTERS: usize = 3;
const REGISTERS: usize = 3;
const KILLS: usize = 3;

/// What was asked and what came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    /// One more; what the counter was then, if that was heard.
    Add(Option<u64>),
    Write(u64),
    Read(u64),
}

/// An agent that holds a number.
struct Number;

impl Specification for Number {
    type State = u64;
    type Operation = Operation;

    fn init() -> u64 {
        0
    }

    fn apply(operation: &Operation, state: &u64) -> (bool, u64) {
        match operation {
            Operation::Add(heard) => (heard.is_none_or(|heard| heard == state + 1), state + 1),
            Operation::Write(number) => (true, *number),
            Operation::Read(number) => (number == state, *state),
        }
    }
}

/// One line of what all clients note, in the order in which it happened.
#[derive(Clone, Copy, Debug)]
enum Note {
    Asked {
        id: usize,
        agent: usize,
    },
    Heard {
        id: usize,
        operation: Operation,
    },
    /// The answer did not come.
    Lost {
        id: usize,
        change: Option<Operation>,
    },
}

/// The history of one agent (L1, L2).
fn history_of(agent: usize, notes: &[Note]) -> Vec<(usize, Action<Operation>)> {
    let outcome = |wanted: usize| {
        notes.iter().find_map(|note| match *note {
            Note::Heard { id, operation } if id == wanted => Some(operation),
            Note::Lost { id, change } if id == wanted => change,
            _ => None,
        })
    };
    let (mut actions, mut open) = (Vec::new(), Vec::new());
    for note in notes {
        match *note {
            Note::Asked { id, agent: of } if of == agent => {
                let Some(operation) = outcome(id) else { continue };
                actions.push((id, Action::Call(operation)));
                open.push((id, operation));
            }
            Note::Heard { id, operation } if open.contains(&(id, operation)) => {
                open.retain(|(other, _)| *other != id);
                actions.push((id, Action::Response(operation)));
            }
            _ => {}
        }
    }
    actions.extend(open.into_iter().map(|(id, operation)| (id, Action::Response(operation))));
    actions
}

fn is_linearizable(actions: &[(usize, Action<Operation>)]) -> bool {
    WGLChecker::<Number>::is_linearizable(History::from_actions(actions.to_vec()))
}

/// A client that asks until it is told to stop, and notes everything.
struct Asker {
    port: u16,
    random: fastrand::Rng,
    notes: Arc<Mutex<Vec<Note>>>,
    stop: Arc<AtomicBool>,
}

impl Asker {
    fn run(mut self) {
        let mut client = self.connect();
        while !self.stop.load(Ordering::Relaxed) {
            let agent = self.random.usize(..COUNTERS + REGISTERS);
            let writes = self.random.bool();
            let number = self.random.u64(1..);
            let id = {
                let mut notes = self.notes.lock().expect("nobody panics with it");
                let id = notes.len();
                notes.push(Note::Asked { id, agent });
                id
            };
            let (heard, change) = ask(&mut client, agent, writes.then_some(number));
            let lost = heard.is_none();
            let note = match heard {
                Some(operation) => Note::Heard { id, operation },
                None => Note::Lost { id, change },
            };
            self.notes.lock().expect("nobody panics with it").push(note);
            if lost {
                client = self.connect();
            }
            std::thread::sleep(Duration::from_micros(self.random.u64(..4_000)));
        }
    }

    fn connect(&self) -> Client {
        wait_until("a connection", || {
            let mut client = Client::tcp(&format!("127.0.0.1:{}", self.port), PATIENCE).ok()?;
            client.hello(None).ok()?;
            Some(client)
        })
    }
}

/// Asks an agent; what was heard, and what it may have changed.
fn ask(
    client: &mut Client,
    agent: usize,
    write: Option<u64>,
) -> (Option<Operation>, Option<Operation>) {
    let key = key_of(agent);
    if agent < COUNTERS {
        let payload: &[u8] = if write.is_some() { b"1" } else { b"get" };
        let reply = client.send(&key, payload).ok().flatten();
        let number = reply.map(|reply| String::from_utf8_lossy(&reply).parse().expect("a number"));
        return match write {
            Some(_) => (number.map(|n| Operation::Add(Some(n))), Some(Operation::Add(None))),
            None => (number.map(Operation::Read), None),
        };
    }
    match write {
        Some(number) => {
            let written = client.write(&key, 0, &number.to_le_bytes());
            let change = Operation::Write(number);
            (written.is_ok().then_some(change), Some(change))
        }
        None => {
            let read = client.read(&key, 0, 8).ok();
            let number = read.map(|bytes| bytes[..].try_into().map(u64::from_le_bytes));
            (number.map(|number| Operation::Read(number.expect("eight bytes"))), None)
        }
    }
}

fn key_of(agent: usize) -> String {
    match agent.checked_sub(COUNTERS) {
        None => format!("counter/{agent}"),
        Some(register) => format!("notebook/{register}"),
    }
}

#[test]
fn what_concurrent_clients_hear_while_shards_die_has_an_order_that_explains_it() {
    let mut node = Node::start(BINARY, &["--set", "log.ack=durable"]);
    let mut client = node.client();
    for agent in 0..COUNTERS + REGISTERS {
        client.create(&key_of(agent), if agent < COUNTERS { 0 } else { 64 }).expect("made");
    }
    let (notes, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let askers: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            let random = fastrand::Rng::with_seed(seed);
            let (notes, stop) = (Arc::clone(&notes), Arc::clone(&stop));
            let asker = Asker { port: node.port, random, notes, stop };
            std::thread::spawn(|| asker.run())
        })
        .collect();
    for kill in 0..KILLS {
        std::thread::sleep(Duration::from_millis(300));
        let shard = kill % 2;
        let pids = wait_until("a list of shards", || {
            let mut client = Client::tcp(&format!("127.0.0.1:{}", node.port), PATIENCE).ok()?;
            client.hello(None).ok()?;
            Some(shard_pids(&mut client))
        });
        send_signal(pids[shard], Signal::KILL);
        node.await_log(&format!("shard {shard} is up after"));
    }
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    askers.into_iter().for_each(|asker| asker.join().expect("it ends"));

    let notes = notes.lock().expect("nobody has it any more");
    let heard = notes.iter().filter(|note| matches!(note, Note::Heard { .. })).count();
    assert!(heard > 100, "only {heard} answers");
    for agent in 0..COUNTERS + REGISTERS {
        let actions = history_of(agent, &notes);
        assert!(is_linearizable(&actions), "{}: {actions:#?}", key_of(agent));
    }
}

/// The check is one that fails: for a reply that no order explains.
#[test]
fn a_history_with_a_lost_change_or_an_old_read_is_refused() {
    use Operation::{Add, Read, Write};
    let asked = |id| Note::Asked { id, agent: 0 };
    let heard = |id, operation| Note::Heard { id, operation };
    let lost = |id, change| Note::Lost { id, change };
    let in_turn = |operations: &[Operation]| {
        let pair = |(id, operation)| [asked(id), heard(id, operation)];
        operations.iter().copied().enumerate().flat_map(pair).collect::<Vec<Note>>()
    };
    let good = |notes: &[Note]| is_linearizable(&history_of(0, notes));
    assert!(good(&in_turn(&[Add(Some(1)), Add(Some(2)), Read(2)])));
    assert!(!good(&in_turn(&[Add(Some(1)), Add(Some(1))])), "a change was lost");
    assert!(!good(&in_turn(&[Write(5), Write(6), Read(5)])), "an old read");
    // Two at a time may come in either order.
    let both = [asked(0), asked(1), heard(0, Write(5)), heard(1, Write(6))];
    for number in [5, 6] {
        assert!(good(&[&both[..], &[asked(2), heard(2, Read(number))]].concat()));
    }
    // One whose answer was lost may count, late, or not; but not twice.
    let begun = [asked(0), lost(0, Some(Add(None)))];
    let read = |id, number| [asked(id), heard(id, Read(number))];
    assert!(good(&[&begun[..], &read(1, 0), &read(2, 1)].concat()));
    assert!(good(&[&begun[..], &read(1, 0), &read(2, 0)].concat()));
    assert!(!good(&[&begun[..], &read(1, 1), &read(2, 0)].concat()));
    assert!(!good(&[&begun[..], &read(1, 2)].concat()));
    assert!(good(&[&[asked(0), lost(0, None)][..], &read(1, 0)].concat()), "a read that was lost");
}
