//! Mailboxes: what waits for an agent, in the order it came.
//!
//! Owns: the order and the count.  Not: the bounds that decide whether an item may enter, nor
//! deadlines (the partition checks both).
//! Q1  items leave in the order they entered, so each sender's are handled in its order.
//! Q2  the counts of all mailboxes add up to the items in the slab.
//! Q3  an empty mailbox owns no memory beside its own 12 bytes.

use crate::id::{CallId, Nanos};
use crate::refusal::Refusal;
use crate::slots::{NIL, Slots};
use crate::verb::{Origin, Verb};
use bytes::Bytes;

/// A request that waits. Its target is the mailbox's agent.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// What is asked.
    pub verb: Verb,
    /// Where the answer goes.
    pub origin: Origin,
    /// When it is too late to begin.
    pub deadline: Option<Nanos>,
    /// When it entered.
    pub accepted_at: Nanos,
}

/// One item of a mailbox.
#[derive(Debug)]
pub enum Item {
    /// A request from outside.
    Request(Waiting),
    /// The result of a call that the agent made.
    Returned {
        /// Which call.
        call: CallId,
        /// What the called agent replied.
        result: Result<Option<Bytes>, Refusal>,
    },
    /// The image was put in the place of another, and what it awaits must be told.
    Restored,
}

impl Item {
    /// Whether a suspended agent serves it at once: a request that runs no turn.
    pub fn is_control(&self) -> bool {
        match self {
            Item::Request(waiting) => !runs_turn(&waiting.verb),
            Item::Returned { .. } | Item::Restored => false,
        }
    }

    fn payload_bytes(&self) -> u64 {
        let len = match self {
            Item::Request(waiting) => match &waiting.verb {
                Verb::Send { payload, .. } => payload.len(),
                Verb::Exec { code } => code.len(),
                Verb::Write { bytes, .. } => bytes.len(),
                _ => 0,
            },
            Item::Returned { result: Ok(Some(reply)), .. } => reply.len(),
            Item::Returned { .. } | Item::Restored => 0,
        };
        len as u64
    }
}

/// Whether a verb runs as a turn, which only an active agent takes. All others are control verbs.
pub(crate) fn runs_turn(verb: &Verb) -> bool {
    matches!(verb, Verb::Send { .. } | Verb::Exec { .. } | Verb::Write { .. })
}

struct Node {
    item: Item,
    next: u32,
}

/// The items of all mailboxes of a partition.
#[derive(Default)]
pub struct Mail {
    nodes: Slots<Node>,
    payload_bytes: u64,
}

/// One agent's queue: a list through the partition's [`Mail`] (Q3).
#[derive(Debug)]
pub struct Mailbox {
    first: u32,
    last: u32,
    count: u32,
}

const _: () = assert!(size_of::<Mailbox>() == 12);

impl Mail {
    /// Items in all mailboxes (Q2).
    pub fn count(&self) -> u32 {
        self.nodes.count()
    }

    /// Bytes of payload that the items hold.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }
}

impl Mailbox {
    /// A mailbox with nothing in it.
    pub const EMPTY: Mailbox = Mailbox { first: NIL, last: NIL, count: 0 };

    /// Items waiting.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a request waits, and not only results. Cost: a walk over the results before it.
    pub(crate) fn has_request(&self, mail: &Mail) -> bool {
        self.items(mail).any(|item| matches!(item, Item::Request(_)))
    }

    /// Adds an item at the end.
    pub fn push(&mut self, mail: &mut Mail, item: Item) {
        mail.payload_bytes += item.payload_bytes();
        let node = mail.nodes.insert(Node { item, next: NIL });
        match self.last {
            NIL => self.first = node,
            last => mail.nodes[last].next = node,
        }
        self.last = node;
        self.count += 1;
    }

    /// Puts back the item that was taken last (Q1).
    pub(crate) fn push_first(&mut self, mail: &mut Mail, item: Item) {
        mail.payload_bytes += item.payload_bytes();
        let node = mail.nodes.insert(Node { item, next: self.first });
        self.first = node;
        if self.last == NIL {
            self.last = node;
        }
        self.count += 1;
    }

    /// The item that has waited longest.
    pub(crate) fn first<'a>(&self, mail: &'a Mail) -> Option<&'a Item> {
        (self.first != NIL).then(|| &mail.nodes[self.first].item)
    }

    /// All items, those that have waited longest first.
    pub(crate) fn items<'a>(&self, mail: &'a Mail) -> impl Iterator<Item = &'a Item> {
        let mut node = self.first;
        std::iter::from_fn(move || {
            let Node { item, next } = (node != NIL).then(|| &mail.nodes[node])?;
            node = *next;
            Some(item)
        })
    }

    /// Takes the item that has waited longest (Q1).
    pub fn pop(&mut self, mail: &mut Mail) -> Option<Item> {
        if self.first == NIL {
            return None;
        }
        Some(self.unlink(mail, NIL, self.first))
    }

    /// The result of a call that waits here.
    pub(crate) fn returned<'a>(
        &self,
        mail: &'a Mail,
        call: CallId,
    ) -> Option<&'a Result<Option<Bytes>, Refusal>> {
        self.items(mail).find_map(|item| match item {
            Item::Returned { call: other, result } if *other == call => Some(result),
            _ => None,
        })
    }

    /// Takes the first item after `kept` that is a control verb. `kept` is the last item passed
    /// over: [`NIL`] to begin; stays good while only this function removes items.
    pub fn pop_control(&mut self, mail: &mut Mail, kept: &mut u32) -> Option<Item> {
        loop {
            let node = match *kept {
                NIL => self.first,
                kept => mail.nodes[kept].next,
            };
            if node == NIL {
                return None;
            }
            if mail.nodes[node].item.is_control() {
                return Some(self.unlink(mail, *kept, node));
            }
            *kept = node;
        }
    }

    fn unlink(&mut self, mail: &mut Mail, before: u32, node: u32) -> Item {
        let Node { item, next } = mail.nodes.remove(node);
        match before {
            NIL => self.first = next,
            before => mail.nodes[before].next = next,
        }
        if next == NIL {
            self.last = before;
        }
        self.count -= 1;
        mail.payload_bytes -= item.payload_bytes();
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(text: &'static str) -> Item {
        request(Verb::Send { payload: Bytes::from_static(text.as_bytes()), request_id: None })
    }

    fn request(verb: Verb) -> Item {
        let origin = Origin::Nobody;
        Item::Request(Waiting { verb, origin, deadline: None, accepted_at: Nanos(0) })
    }

    fn text(item: Option<Item>) -> String {
        match item {
            Some(Item::Request(Waiting { verb: Verb::Send { payload, .. }, .. })) => {
                String::from_utf8_lossy(&payload).into()
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn q1_items_leave_in_order() {
        let (mut mail, mut a, mut b) = (Mail::default(), Mailbox::EMPTY, Mailbox::EMPTY);
        for item in ["1", "2", "3"] {
            a.push(&mut mail, send(item));
            b.push(&mut mail, send(item));
        }
        for item in ["1", "2", "3"] {
            assert_eq!(text(b.pop(&mut mail)), item);
        }
        assert!(b.pop(&mut mail).is_none());
        assert_eq!(text(a.pop(&mut mail)), "1");
        assert_eq!((a.count(), mail.count(), mail.payload_bytes()), (2, 2, 2));
    }

    #[test]
    fn q1_controls_can_be_taken_from_between_messages() {
        let (mut mail, mut a) = (Mail::default(), Mailbox::EMPTY);
        for item in [request(Verb::Info), send("1"), request(Verb::Versions), send("2")] {
            a.push(&mut mail, item);
        }
        a.push(&mut mail, request(Verb::Resume));
        let mut kept = NIL;
        for _ in 0..3 {
            assert!(a.pop_control(&mut mail, &mut kept).expect("Q1: a control").is_control());
        }
        assert!(a.pop_control(&mut mail, &mut kept).is_none());
        a.push(&mut mail, send("3"));
        for item in ["1", "2", "3"] {
            assert_eq!(text(a.pop(&mut mail)), item);
        }
        assert_eq!((a.count(), mail.count(), mail.payload_bytes()), (0, 0, 0));
    }
}
