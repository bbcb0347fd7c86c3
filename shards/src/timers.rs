//! Timers: points of time the loop waits for, kept in user space.
//!
//! Owns: their order. The earliest bounds a driver's park; no timer costs a system call of its own.
//! Not: the clock; the time comes in as an argument.
//! T1  timers come out ordered by time, equal times in order of submission, and never early.

use crate::driver::Token;
use heronry_engine::Nanos;
use std::collections::BTreeMap;

/// Open timers. Every operation costs O(log n).
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeMap<(Nanos, u64), Token>,
    by_token: BTreeMap<Token, (Nanos, u64)>,
    submitted_count: u64,
}

impl Timers {
    pub(crate) fn insert(&mut self, at: Nanos, token: Token) {
        let key = (at, self.submitted_count);
        self.submitted_count += 1;
        self.due.insert(key, token);
        self.by_token.insert(token, key);
    }

    /// Takes back the newest timer of this token. False: there is none.
    pub(crate) fn cancel(&mut self, token: Token) -> bool {
        match self.by_token.remove(&token) {
            Some(key) => self.due.remove(&key).is_some(),
            None => false,
        }
    }

    /// When the earliest is due.
    pub(crate) fn next_at(&self) -> Option<Nanos> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the earliest out, if it is due at `now`.
    pub(crate) fn expired(&mut self, now: Nanos) -> Option<Token> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= now)?;
        let (key, token) = first.remove_entry();
        if self.by_token.get(&token) == Some(&key) {
            self.by_token.remove(&token);
        }
        Some(token)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t1_timers_come_out_in_order_and_not_early() {
        let mut timers = Timers::default();
        for (at, token) in [(30, 1), (10, 2), (20, 3), (10, 4), (25, 5)] {
            timers.insert(Nanos(at), Token(token));
        }
        assert!(timers.cancel(Token(3)));
        assert!(!timers.cancel(Token(3)));
        assert_eq!(timers.next_at(), Some(Nanos(10)));
        assert_eq!(timers.expired(Nanos(9)), None);
        let mut seen = Vec::new();
        while let Some(token) = timers.expired(Nanos(29)) {
            seen.push(token.0);
        }
        assert_eq!(seen, [2, 4, 5]);
        assert_eq!(timers.next_at(), Some(Nanos(30)));
        assert_eq!(timers.expired(Nanos(30)), Some(Token(1)));
        assert!(timers.is_empty());
        assert!(!timers.cancel(Token(1)));
    }

    #[test]
    fn t1_one_token_twice_expires_twice() {
        let mut timers = Timers::default();
        timers.insert(Nanos(1), Token(7));
        timers.insert(Nanos(2), Token(7));
        assert_eq!(timers.expired(Nanos(1)), Some(Token(7)));
        assert!(timers.cancel(Token(7)));
        assert_eq!(timers.expired(Nanos(9)), None);
    }
}
