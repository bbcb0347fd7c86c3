//! What a partition is told and what it tells: settings, counters, reports.
//!
//! Owns: the checks of a request's arguments against the settings.  Not: where settings come from
//! (`config.rs` of the crate), nor how counters are published.

use crate::id::{AgentId, Nanos, ShardId, TenantId};
use crate::key::AgentKey;
use crate::limits::{
    FORK_COUNT_MAX, KEY_BYTES_MAX, LABEL_BYTES_MAX, LIST_COUNT_MAX, REQUEST_ID_BYTES_MAX,
};
use crate::refusal::Refusal;
use crate::verb::{Ack, Errand, Request, Target, Verb, VersionRef};

/// Settings of a partition; the defaults are those of the config's keys.
#[derive(Clone, Debug)]
pub struct PartitionConfig {
    /// This shard.
    pub shard: ShardId,
    /// Shards of the node, at least one.
    pub shard_count: u16,
    /// Seal after every so many turns that changed the image; 0: only at checkpoints. A turn with
    /// effects is always sealed, so that no effect leaves ahead of its version.
    pub seal_every: u32,
    /// Automatic versions kept per agent.
    pub history_max: u32,
    /// Checkpoints kept per agent; one more is refused.
    pub checkpoints_max: u32,
    /// Requests waiting per agent; one more is refused.
    pub mailbox_max: u32,
    /// Agents of this partition; one more is refused.
    pub agents_max: u32,
    /// Largest payload, and largest read or write, in bytes.
    pub payload_bytes_max: usize,
    /// Request ids remembered per agent; 0 ignores them.
    pub dedupe_max: u32,
    /// How long an agent awaits a call.
    pub call_timeout: Nanos,
    /// Failures within the window that quarantine an agent; 0 never does.
    pub quarantine_failures: u32,
    /// The window.
    pub quarantine_window: Nanos,
    /// Whether a message to an absent agent creates it.
    pub create_on_send: bool,
    /// Largest image in bytes.
    pub image_bytes_max: u64,
    /// Whether what happens is for a log: what rests on changes then waits for the disk.
    pub log: bool,
    /// The promise of an answer where the client asks for none.
    pub ack: Ack,
    /// Templates whose agents promise something else there.
    pub ack_by_template: Vec<(String, Ack)>,
}

impl Default for PartitionConfig {
    fn default() -> PartitionConfig {
        PartitionConfig {
            shard: ShardId(0),
            shard_count: 1,
            seal_every: 1,
            history_max: 4,
            checkpoints_max: 64,
            mailbox_max: 1_024,
            agents_max: 10_000_000,
            payload_bytes_max: 8 << 20,
            dedupe_max: 64,
            call_timeout: Nanos::from_ms(30_000),
            quarantine_failures: 5,
            quarantine_window: Nanos::from_ms(10_000),
            create_on_send: true,
            image_bytes_max: 1 << 30,
            log: false,
            ack: Ack::Sealed,
            ack_by_template: Vec::new(),
        }
    }
}

/// What one [`super::Partition::run_turn`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TurnReport {
    /// Whose turn it was. The agent may have ended with it.
    pub agent: AgentId,
    /// Whether a new version was sealed.
    pub sealed: bool,
    /// Whether the turn failed and was undone.
    pub failed: bool,
    /// When the message that it handled came in; `None` for control verbs, for results of calls,
    /// and while the turn has paused.
    pub accepted_at: Option<Nanos>,
}

/// An agent began or ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RosterChange {
    /// It lives.
    Born(TenantId, AgentKey),
    /// It is gone.
    Ended(TenantId, AgentKey),
}

/// Counts since the start, unless they say otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Requests taken in.
    pub requests: u64,
    /// Requests passed on to another shard.
    pub forwards: u64,
    /// Messages whose turn came (SEND and WRITE).
    pub messages: u64,
    /// Turns: messages handled and results of calls handled.
    pub turns: u64,
    /// Good answers.
    pub replies: u64,
    /// Refusals.
    pub refusals: u64,
    /// Retries answered with the first reply.
    pub duplicates: u64,
    /// Results of calls that nobody awaited any more.
    pub late_replies: u64,
    /// Versions sealed by policy.
    pub seals: u64,
    /// Checkpoints asked for and made.
    pub checkpoints: u64,
    /// Branches made.
    pub forks: u64,
    /// Rollbacks.
    pub rollbacks: u64,
    /// Commits.
    pub commits: u64,
    /// Agents created.
    pub creates: u64,
    /// Agents ended.
    pub terminates: u64,
    /// Turns that failed.
    pub faults: u64,
    /// Times an agent was quarantined.
    pub quarantines: u64,
    /// Agents now.
    pub agents: u64,
    /// Agents of a previous life that are lost, now.
    pub lost: u64,
    /// Agents brought back from the log.
    pub loads: u64,
    /// Times that pages of an agent, which was back without them, were.
    pub pagings: u64,
    /// Agents sent to the log only.
    pub evictions: u64,
    /// Agents brought back because they would soon wake.
    pub wakes: u64,
    /// Agents that are in the log only, now.
    pub cold: u64,
    /// Answers and effects that wait for the disk now.
    pub held_events: u64,
    /// Items in mailboxes now.
    pub mail: u64,
    /// Page frames in use now.
    pub frames_used: u64,
    /// Bytes of what versions keep, beside frames, of pages that have changed since.
    pub patch_bytes: u64,
    /// Page frames there are.
    pub frames_total: u64,
}

/// Ids that an agent remembers at least, where there is a log: those of other agents' messages,
/// which come again after a restart.
const LOG_DEDUPE_MIN: u32 = 256;

impl PartitionConfig {
    /// Ids that an agent remembers.
    pub(super) fn dedupe_count_max(&self) -> usize {
        let least = if self.log { LOG_DEDUPE_MIN } else { 0 };
        self.dedupe_max.max(least) as usize
    }

    /// Checks what can be known of a request without its agent.
    pub(super) fn check(&self, request: &Request) -> Result<(), Refusal> {
        let for_shard = matches!(request.verb, Verb::List { .. } | Verb::Hottest | Verb::Errand(_));
        match &request.target {
            Target::Agent { key, .. } if for_shard => {
                return Err(bad("the target", key, "a shard, for what is asked of one"));
            }
            Target::Shard(shard) if !for_shard => {
                return Err(bad("the target", &format!("shard {}", shard.0), "an agent's key"));
            }
            Target::Shard(shard) if *shard != self.shard => {
                let allowed = "the shard that was asked";
                return Err(bad("the target", &format!("shard {}", shard.0), allowed));
            }
            Target::Agent { .. } | Target::Shard(_) => {}
        }
        self.check_verb(&request.verb)
    }

    /// Checks a verb's arguments.
    pub(super) fn check_verb(&self, verb: &Verb) -> Result<(), Refusal> {
        match verb {
            Verb::Send { payload, request_id } => {
                self.check_payload("the message in bytes", payload.len() as u64)?;
                check_text("the request id", request_id.as_deref(), REQUEST_ID_BYTES_MAX)
            }
            Verb::Exec { code } => self.check_payload("the code in bytes", code.len() as u64),
            Verb::Errand(Errand::Deploy { source, warm, .. }) => {
                self.check_payload("the source in bytes", source.len() as u64)?;
                let warm_bytes = warm.as_ref().map_or(0, |warm| warm.len() as u64);
                self.check_payload("the warm-up script in bytes", warm_bytes)
            }
            Verb::Write { offset, bytes } => {
                self.check_payload("the write in bytes", bytes.len() as u64)?;
                self.check_image(offset.saturating_add(bytes.len() as u64))
            }
            Verb::Create { image_bytes } => self.check_image(*image_bytes),
            Verb::Read { len_bytes, .. } => {
                self.check_payload("the read in bytes", u64::from(*len_bytes))
            }
            Verb::Checkpoint { label } => {
                check_text("the label", label.as_deref(), LABEL_BYTES_MAX)
            }
            Verb::Fork { count, at, suffix, keep_timers: _ } => {
                if *count == 0 || *count > FORK_COUNT_MAX {
                    return Err(bad("COUNT", count, format!("1 to {FORK_COUNT_MAX}")));
                }
                if suffix.is_some() && *count > 1 {
                    return Err(bad("COUNT", count, "1, when the branch is named"));
                }
                check_text("the branch name", suffix.as_deref(), KEY_BYTES_MAX)?;
                check_version(at.as_ref())
            }
            Verb::Rollback { to } => check_version(to.as_ref()),
            Verb::Digest { at } => check_version(at.as_ref()),
            Verb::Import { bytes } => {
                self.check_payload("the exported agent in bytes", bytes.len() as u64)
            }
            Verb::Diff { from, to } => {
                check_version(Some(from))?;
                check_version(to.as_ref())
            }
            Verb::List { count, pattern, .. } => {
                if *count == 0 || *count > LIST_COUNT_MAX {
                    return Err(bad("COUNT", count, format!("1 to {LIST_COUNT_MAX}")));
                }
                check_text("the pattern", pattern.as_deref(), KEY_BYTES_MAX)
            }
            Verb::Versions
            | Verb::Export
            | Verb::Commit
            | Verb::Suspend
            | Verb::Resume
            | Verb::Terminate
            | Verb::Info
            | Verb::Hottest
            | Verb::Errand(
                Errand::Activate { .. } | Errand::Snapshot { .. } | Errand::Http { .. },
            ) => Ok(()),
        }
    }

    /// The promise of an answer where the client asks for none.
    pub(super) fn ack_of(&self, target: &Target) -> Ack {
        let Target::Agent { key, .. } = target else { return self.ack };
        let own = self.ack_by_template.iter().find(|(name, _)| name == key.template());
        own.map_or(self.ack, |(_, ack)| *ack)
    }

    fn check_payload(&self, what: &'static str, value: u64) -> Result<(), Refusal> {
        let limit = self.payload_bytes_max as u64;
        let remedy = "use several requests or raise net.payload_bytes_max";
        check_limit(what, value, limit, remedy)
    }

    fn check_image(&self, value: u64) -> Result<(), Refusal> {
        let remedy = "use several agents or raise agents.image_bytes_max";
        check_limit("the image in bytes", value, self.image_bytes_max, remedy)
    }
}

fn check_limit(
    what: &'static str,
    value: u64,
    limit: u64,
    remedy: &'static str,
) -> Result<(), Refusal> {
    if value > limit {
        return Err(Refusal::Limit { what: what.into(), value, limit, remedy: remedy.into() });
    }
    Ok(())
}

fn check_version(version: Option<&VersionRef>) -> Result<(), Refusal> {
    match version {
        Some(VersionRef::Label(label)) => {
            check_text("the version's label", Some(label), LABEL_BYTES_MAX)
        }
        Some(VersionRef::Id(_)) | None => Ok(()),
    }
}

/// Checks the length of a text that must not be empty.
fn check_text(what: &'static str, text: Option<&[u8]>, max: usize) -> Result<(), Refusal> {
    match text {
        Some(text) if text.is_empty() || text.len() > max => {
            Err(bad(what, &format!("{} bytes long", text.len()), format!("1 to {max} bytes")))
        }
        Some(_) | None => Ok(()),
    }
}

fn bad(
    what: &'static str,
    value: &impl std::fmt::Display,
    allowed: impl Into<std::borrow::Cow<'static, str>>,
) -> Refusal {
    Refusal::BadValue { what: what.into(), value: value.to_string(), allowed: allowed.into() }
}
