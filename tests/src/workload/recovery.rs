//! After a fault: which of the possible outcomes came true.
//!
//! Owns: the outcomes of what was asked and not answered, and telling them apart.
//! Not: when there is a doubt (`client`), what an operation does (`oracle`).
//! R1  a family goes on only from an outcome that all further replies follow from; where several
//!     fit and are not alike, its agents are ended and it starts over.
//! R2  an agent that lived on a shard that died is said to be lost.

use super::client::{ASKED, Batch, Client, PART, own_part, short};
use crate::op::{At, Command, Op};
use crate::oracle::answer::{Answer, code_of};
use crate::oracle::{Fate, Oracle, family_of, template};
use heronry_net::Value;
use std::collections::BTreeSet;

/// Most outcomes that are followed up.
const OUTCOMES_MAX: usize = 400;

impl Client {
    /// Finds out which of the possible outcomes of `tail` came true for a family. False: that
    /// cannot be told.
    pub(super) async fn find_out(&mut self, family: &str, batch: &Batch, tail: &[usize]) -> bool {
        if template(family) == "relay" || self.died_since(family, batch) {
            return false;
        }
        let mut outcomes = vec![self.oracle.clone()];
        for ticket in tail {
            let command = own_part(&batch.commands[*ticket], family);
            outcomes = outcomes
                .iter()
                .flat_map(|before| self.outcomes(before, *ticket, &command, batch))
                .collect();
            if outcomes.len() > OUTCOMES_MAX {
                return false;
            }
        }
        // What was answered does not wait.
        let unanswered = |ticket: &usize| batch.reply(*ticket).is_none();
        outcomes.retain(|outcome| outcome.waiting(family).iter().all(unanswered));
        let keys = outcomes.iter().flat_map(|outcome| outcome.family(family).map(|(key, _)| key));
        let mut keys: BTreeSet<String> = keys.map(str::to_owned).collect();
        keys.insert(family.to_owned());
        let mut seen = Vec::new();
        for key in keys {
            // What waits and how many turns failed of late cannot be seen: it is let go, forgotten.
            let mut ops = vec![Op::Resume, Op::Suspend, Op::Resume, Op::Info, Op::Versions];
            let agents = outcomes.iter().filter_map(|outcome| outcome.agent(&key));
            let ids: BTreeSet<u64> = agents.clone().flat_map(|agent| agent.version_ids()).collect();
            ops.extend(ids.into_iter().map(|id| Op::Diff { from: At::Id(id), to: None }));
            let len_max = agents.map(|agent| agent.memory().len() as u64).max().unwrap_or(0);
            let parts = (0..=len_max / PART).map(|part| part * PART);
            ops.extend(parts.map(|offset| Op::Read { offset, len: PART }));
            for op in ops {
                let command = Command::new(key.clone(), op);
                let value = self.ask(&command).await;
                seen.push((command, value));
            }
        }
        if self.died_since(family, batch) {
            return false;
        }
        let fits = |outcome: &mut Oracle| {
            seen.iter().all(|(command, value)| {
                outcome.tell(ASKED, &command.key, &command.op, Fate::Served(None));
                let answers = outcome.answers();
                answers.iter().all(|(ticket, answer)| *ticket != ASKED || answer.is(value))
            })
        };
        let count = outcomes.len();
        outcomes.retain_mut(fits);
        let Some(outcome) = outcomes.first() else {
            self.show(batch);
            panic!(
                "{family} is as none of the {count} outcomes of {tail:?} says: {}",
                short(&seen)
            );
        };
        if !outcomes.iter().all(|other| other.is_alike(outcome, family)) {
            return false;
        }
        self.hub.log(family, || format!("one of {count} outcomes of {tail:?}: {}", short(&seen)));
        self.oracle.adopt(family, outcome);
        true
    }

    /// What may have come of an operation.
    fn outcomes(
        &self,
        before: &Oracle,
        ticket: usize,
        command: &Command,
        batch: &Batch,
    ) -> Vec<Oracle> {
        // What a relay says of itself, or said before to the same id, is not its target's answer.
        let asked = &batch.commands[ticket];
        let relayed = command.key != asked.key;
        let again = matches!(asked.op, Op::Send { id: Some(_), .. });
        let own = |reply: &&Value| {
            let of_relay = matches!(code_of(reply), Some("LOST" | "DROPPED"));
            !relayed || !of_relay && !again
        };
        let tell = |fate| {
            let mut after = before.clone();
            after.tell(ticket, &command.key, &command.op, fate);
            let answers = after.answers();
            let fits = |(ticket, answer): &(usize, Answer)| {
                batch.reply(*ticket).filter(own).is_none_or(|reply| answer.is(reply))
            };
            answers.iter().all(fits).then_some(after)
        };
        if let Some(reply) = batch.reply(ticket).filter(own) {
            return tell(self.fate(command, reply)).into_iter().collect();
        }
        let mut outcomes = vec![before.clone()];
        outcomes.extend(tell(Fate::Served(None)));
        if command.op == Op::Commit
            && let Some(parent) = before.agent(&command.key).and_then(|a| a.parent())
        {
            let head = before.agent(parent).map(|parent| parent.head());
            outcomes.extend(tell(Fate::Served(head)));
        }
        if self.hub.full && command.op.runs_turn() {
            outcomes.extend(tell(Fate::Full));
        }
        outcomes
    }

    /// Ends whatever there is of a family, after making sure that what died is said to be lost.
    pub(super) async fn start_over(&mut self, family: &str, batch: &Batch, tail: &[usize]) {
        self.hub.log(family, || format!("{family} starts over"));
        let mut keys: BTreeSet<String> =
            self.oracle.family(family).map(|(k, _)| k.into()).collect();
        let lived = keys.clone();
        keys.extend(self.oracle.lost().filter(|k| family_of(k) == family).map(str::to_owned));
        keys.insert(family.to_owned());
        let mut steady = self.died_since(family, batch);
        for ticket in tail {
            let command = own_part(&batch.commands[*ticket], family);
            let forks = |op: &Op| matches!(op, Op::Fork { .. });
            steady &= !forks(&command.op)
                && !matches!(command.op, Op::Create { .. } | Op::Terminate | Op::Commit);
            if forks(&command.op) {
                let mut after = self.oracle.clone();
                after.tell(0, &command.key, &command.op, Fate::Served(None));
                keys.extend(after.family(family).map(|(key, _)| key.to_owned()));
                keys.extend((1..60).map(|number| format!("{}~{number}", command.key)));
                keys.extend(["a", "b"].map(|suffix| format!("{}~{suffix}", command.key)));
            }
        }
        for key in keys {
            let read = Command::new(key.clone(), Op::Read { offset: 0, len: 0 });
            let value = self.ask(&read).await;
            let lost = code_of(&value) == Some("LOST");
            if steady && lived.contains(&key) {
                assert!(lost, "{key} died with its shard, and says {value:?}");
            }
            if code_of(&value).is_none() {
                // What waits for an agent that ends would make it anew.
                self.ask(&Command::new(key.clone(), Op::Resume)).await;
                let ended = self.ask(&Command::new(key.clone(), Op::Terminate)).await;
                let died = matches!(code_of(&ended), Some("LOST" | "NOAGENT"));
                assert!(Answer::Done.is(&ended) || died, "{key} cannot be ended: {ended:?}");
            }
            let known = lost || code_of(&value).is_none() || code_of(&value) == Some("NOAGENT");
            assert!(known, "{key} says {value:?}");
            let value = self.ask(&read).await;
            self.oracle.forget(&key, code_of(&value) == Some("LOST"));
        }
    }
}
