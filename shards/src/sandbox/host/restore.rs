//! What becomes of what an image awaits when it is put in the place of another.
//!
//! Owns: the rules, as a function of the state.  Not: who finds out that an image was restored.
//! J1  each pending call either resolves here, once, or stays pending as a sleep that must be
//!     registered again; nothing is awaited that cannot come.
//! J2  a branch gets its own identity and randomness; its parent's requests are not its to answer.
//!
//! | pending | forked | rolled back | committed |
//! |---|---|---|---|
//! | call, http | 2 | 1 DROPPED | 1 DROPPED |
//! | sleep | 2, or kept with its due time when asked | kept | kept |
//! | the fork that made this branch | 3, its index | | |
//! | checkpoint | 2 | 3, the version | 1 DROPPED |
//! | fork, rollback | 2 | 1 DROPPED | 1 DROPPED |

use super::state::{CallKind, HostState, PendingCall};

/// How the image came here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It is a branch.
    Forked {
        /// Its place among the branches made at once, from 1.
        index: u32,
        /// Whether its sleeps go on.
        keep_timers: bool,
        /// The branch's call that asked for it; `None` when a client did.
        call: Option<u64>,
    },
    /// The agent went back to this version.
    RolledBack {
        /// Its number.
        version: u64,
    },
    /// The image of a branch replaced its parent's.
    Committed,
}

/// Status of `heronry_result`: what a call became.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Status {
    /// Done; the payload is the result.
    Ok = 0,
    /// It came to nothing; the payload is `CODE text`.
    Refused = 1,
    /// It belongs to the parent; it never resolves in this branch.
    ForkedAway = 2,
    /// Answered again, in a restored past or in a branch.
    Restored = 3,
}

/// What to do for the calls that were pending.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reconciled {
    /// To be told to the guest, by ascending id: id, status, payload.
    pub resolved: Vec<(u64, Status, String)>,
    /// Sleeps to register again: id and due time; one in the past is due at once.
    pub sleeps: Vec<(u64, u64)>,
}

/// Who the image is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity<'a> {
    /// Its id.
    pub agent: u128,
    /// Its key.
    pub key: &'a str,
    /// Fresh bytes, for its randomness.
    pub entropy: &'a [u8; 32],
}

impl Why {
    /// The argument of `heronry_restored`.
    pub fn code(self) -> i32 {
        match self {
            Why::Forked { .. } => 1,
            Why::RolledBack { .. } => 2,
            Why::Committed => 3,
        }
    }
}

/// Settles `state` after a restore: gives it to `identity`, takes what resolves out of its pending
/// calls, and says which sleeps stay (J1, J2). Tickets are forgotten: they were the past's.
pub fn reconcile(state: &mut HostState, why: Why, identity: &Identity<'_>) -> Reconciled {
    state.adopt(identity.agent, identity.key, identity.entropy);
    if matches!(why, Why::Forked { .. }) {
        state.requests.clear();
    }
    let mut reconciled = Reconciled::default();
    state.calls.retain(|id, call| match fate(why, *id, call) {
        None => {
            call.ticket = 0;
            reconciled.sleeps.push((*id, call.due_ns));
            true
        }
        Some((status, payload)) => {
            reconciled.resolved.push((*id, status, payload));
            false
        }
    });
    reconciled
}

/// How a call resolves; `None` when it stays.
fn fate(why: Why, id: u64, call: &PendingCall) -> Option<(Status, String)> {
    let dropped = |what: &str| Some((Status::Refused, format!("DROPPED {what}")));
    match (why, call.kind) {
        (Why::Forked { keep_timers: true, .. }, CallKind::Sleep) => None,
        (Why::Forked { index, call: Some(made), .. }, CallKind::Fork) if made == id => {
            Some((Status::Restored, index.to_string()))
        }
        (Why::Forked { .. }, _) => Some((Status::ForkedAway, String::new())),
        (Why::RolledBack { .. } | Why::Committed, CallKind::Sleep) => None,
        (Why::RolledBack { version }, CallKind::Checkpoint) => {
            Some((Status::Restored, version.to_string()))
        }
        (Why::RolledBack { .. }, _) => dropped("the agent was rolled back"),
        (Why::Committed, _) => dropped("the agent is a branch that was committed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{ForkedAway, Refused, Restored};

    const ENTROPY: [u8; 32] = [5; 32];

    /// One pending call of each kind, ids 1 to 6, and a second fork, 7.
    fn state() -> HostState {
        use CallKind::*;
        let mut state = HostState::new([1; 32], [2; 32], [3; 32]);
        for kind in [Call, Sleep, Http, Checkpoint, Fork, Rollback, Fork] {
            let due_ns = if kind == Sleep { 900 } else { 0 };
            let id = state.open_call(kind, due_ns).expect("room");
            state.bind_call(id, id + 100);
        }
        state.open_request(40);
        state
    }

    type Resolved = Vec<(u64, Status, String)>;

    fn run(why: Why) -> (HostState, Resolved, Vec<(u64, u64)>) {
        let mut state = state();
        let identity = Identity { agent: 9, key: "py/a~1", entropy: &ENTROPY };
        let Reconciled { resolved, sleeps } = reconcile(&mut state, why, &identity);
        let left: Vec<u64> = state.calls.keys().copied().collect();
        assert_eq!(left, sleeps.iter().map(|(id, _)| *id).collect::<Vec<_>>(), "J1");
        assert_eq!(resolved.len() + sleeps.len(), 7, "J1");
        assert!(state.calls.values().all(|call| call.ticket == 0));
        assert_eq!((state.agent, state.agent_key.as_str()), (9, "py/a~1"), "J2");
        (state, resolved, sleeps)
    }

    fn status(resolved: &[(u64, Status, String)], id: u64) -> (Status, &str) {
        let found = resolved.iter().find(|(of, ..)| *of == id).expect("resolved");
        (found.1, found.2.as_str())
    }

    #[test]
    fn j1_forked_call_and_http_belong_to_the_parent() {
        let (_, resolved, _) = run(Why::Forked { index: 2, keep_timers: true, call: Some(5) });
        assert_eq!(status(&resolved, 1), (ForkedAway, ""));
        assert_eq!(status(&resolved, 3), (ForkedAway, ""));
    }

    #[test]
    fn j1_forked_sleep_belongs_to_the_parent() {
        let (_, resolved, sleeps) =
            run(Why::Forked { index: 2, keep_timers: false, call: Some(5) });
        assert_eq!(status(&resolved, 2), (ForkedAway, ""));
        assert_eq!(sleeps, []);
    }

    #[test]
    fn j1_forked_sleep_is_kept_with_its_due_time_when_asked() {
        let (_, _, sleeps) = run(Why::Forked { index: 2, keep_timers: true, call: Some(5) });
        assert_eq!(sleeps, [(2, 900)]);
    }

    #[test]
    fn j1_the_fork_that_made_the_branch_gives_its_index_and_others_do_not() {
        let (_, resolved, _) = run(Why::Forked { index: 2, keep_timers: false, call: Some(5) });
        assert_eq!(status(&resolved, 5), (Restored, "2"));
        for other in [4, 6, 7] {
            assert_eq!(status(&resolved, other), (ForkedAway, ""));
        }
    }

    #[test]
    fn j1_a_fork_by_a_client_answers_no_call() {
        let (_, resolved, _) = run(Why::Forked { index: 1, keep_timers: false, call: None });
        assert!(resolved.iter().all(|(_, status, _)| *status == ForkedAway));
    }

    #[test]
    fn j1_rolled_back_drops_calls_keeps_sleeps_and_answers_checkpoints() {
        let (_, resolved, sleeps) = run(Why::RolledBack { version: 17 });
        for dropped in [1, 3, 5, 6, 7] {
            let expected = (Refused, "DROPPED the agent was rolled back");
            assert_eq!(status(&resolved, dropped), expected);
        }
        assert_eq!(status(&resolved, 4), (Restored, "17"));
        assert_eq!(sleeps, [(2, 900)]);
    }

    #[test]
    fn j1_committed_drops_all_but_sleeps() {
        let (_, resolved, sleeps) = run(Why::Committed);
        for dropped in [1, 3, 4, 5, 6, 7] {
            let (status, payload) = status(&resolved, dropped);
            assert_eq!(status, Refused);
            assert!(payload.starts_with("DROPPED "), "{payload}");
        }
        assert_eq!(sleeps, [(2, 900)]);
    }

    #[test]
    fn j2_only_a_branch_loses_its_requests_and_all_get_fresh_randomness() {
        let forked = Why::Forked { index: 1, keep_timers: false, call: None };
        assert!(run(forked).0.requests.is_empty());
        assert_eq!(run(Why::RolledBack { version: 1 }).0.requests.len(), 1);
        assert_eq!(run(Why::Committed).0.requests.len(), 1);
        for why in [forked, Why::RolledBack { version: 1 }, Why::Committed] {
            assert_ne!(run(why).0.random, state().random);
        }
    }

    #[test]
    fn j1_why_codes_are_those_of_the_abi() {
        let codes = [
            Why::Forked { index: 1, keep_timers: true, call: None }.code(),
            Why::RolledBack { version: 1 }.code(),
            Why::Committed.code(),
        ];
        assert_eq!(codes, [1, 2, 3]);
    }
}
