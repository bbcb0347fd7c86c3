//! A shard's end of its link to the control thread.
//!
//! Owns: what is in flight on the link, the errands under way, templates loaded and not in use yet.
//! Not: what errands mean; who awaits their results beyond the origin.
//! Holds J1 to J3 of the module above.
//! K1  at most one send and one receive are in flight on the link.

use super::{
    ControlToShard, ERRANDS_MAX, FRAME_BYTES_MAX, FrameError, Frames, ShardToControl, SnapshotStep,
    Step, TemplateRef, Workshop, encode,
};
use crate::connection::{Mark, Todo};
use crate::driver::{Done, Handle, Op, Token};
use crate::gateway::TemplateRow;
use crate::view::NodeFacts;
use heronry_engine::verb::Errand;
use heronry_engine::{Behaviour, Origin, Partition, Refusal, Reply, ShardId};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Most bytes of the text that says why a step failed.
const ERROR_BYTES_MAX: usize = 8 << 10;

/// An answer and whoever awaits it.
type Answer = (Origin, Result<Reply, Refusal>);

/// The link, or the lack of one.
pub(crate) struct Link {
    me: ShardId,
    state: State,
    sending: bool,
    frames: Frames,
    /// Frames that were not sent yet.
    queue: Vec<u8>,
    token_last: u64,
    waiting: BTreeMap<u64, Origin>,
    workshop: Box<dyn Workshop>,
    loaded: BTreeMap<(String, u32), Loaded>,
    /// Steps that the loop answers, by token.
    snapshot: Vec<(u64, SnapshotStep)>,
    report: fn(std::fmt::Arguments<'_>),
}

struct Loaded {
    behaviour: Rc<dyn Behaviour>,
    row: TemplateRow,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is none.
    Missing,
    /// The templates of the node are still coming.
    Expecting(Handle),
    /// In use.
    Open(Handle),
    /// It failed just now, and its errands are to be answered.
    Failing(Handle),
    /// It failed.
    Broken,
}

impl Link {
    pub(crate) fn new(
        me: ShardId,
        handle: Option<Handle>,
        workshop: Box<dyn Workshop>,
        report: fn(std::fmt::Arguments<'_>),
    ) -> Link {
        Link {
            me,
            state: handle.map_or(State::Missing, State::Expecting),
            sending: false,
            frames: Frames::default(),
            queue: Vec::new(),
            token_last: 0,
            waiting: BTreeMap::new(),
            workshop,
            loaded: BTreeMap::new(),
            snapshot: Vec::new(),
            report,
        }
    }

    /// Starts to listen.
    pub(crate) fn begin(&mut self, todo: &mut Todo) {
        if let Some(handle) = self.handle() {
            todo.ops.push((Mark::LinkReceive.token(), Op::Receive(handle)));
        }
    }

    /// Whether templates are still to come.
    pub(crate) fn expecting(&self) -> bool {
        matches!(self.state, State::Expecting(_))
    }

    /// A receive's completion.
    pub(crate) fn received(&mut self, done: Done<'_>) {
        match done {
            Done::Received(bytes) if self.handle().is_some() => self.frames.push(bytes),
            Done::Received(_) => {}
            Done::EndOfStream => self.fail(format_args!("the control thread closed it")),
            Done::Failed { errno } => {
                let error = std::io::Error::from_raw_os_error(errno);
                self.fail(format_args!("{error}"));
            }
            Done::Cancelled => {}
            other => unreachable!("K1: a receive on the link completed as {other:?}"),
        }
    }

    /// A send's completion.
    pub(crate) fn sent(&mut self, done: Done<'_>) {
        self.sending = false;
        match done {
            Done::Sent(_) | Done::Cancelled => {}
            Done::Failed { errno } => {
                let error = std::io::Error::from_raw_os_error(errno);
                self.fail(format_args!("{error}"));
            }
            other => unreachable!("K1: a send on the link completed as {other:?}"),
        }
    }

    /// Sends an errand off; its answer comes from [`Link::serve`]. Error: nothing was sent (J2).
    pub(crate) fn ask(&mut self, to: Origin, errand: Errand) -> Result<(), (Origin, Refusal)> {
        if self.handle().is_none() {
            return Err((to, Refusal::TryAgain { shard: self.me }));
        }
        let count = self.waiting.len();
        if count >= ERRANDS_MAX || self.queue.len() > FRAME_BYTES_MAX {
            let what = "the list of errands of this shard".into();
            let (count, count_max) = (count as u64, ERRANDS_MAX as u64);
            return Err((to, Refusal::Busy { what, count, count_max }));
        }
        self.token_last += 1;
        let token = self.token_last;
        match encode(&ShardToControl::Do { token, errand }, &mut self.queue) {
            Ok(()) => {
                self.waiting.insert(token, to);
                Ok(())
            }
            Err(FrameError::TooLong { len_bytes }) => Err((
                to,
                Refusal::Limit {
                    what: "the errand in bytes".into(),
                    value: len_bytes as u64,
                    limit: FRAME_BYTES_MAX as u64,
                    remedy: "send less at once".into(),
                },
            )),
            Err(other) => unreachable!("J1: an errand has no path: {other}"),
        }
    }

    /// Whether [`Link::serve`] may have something to do.
    pub(crate) fn unserved(&self) -> bool {
        !self.frames.bytes.is_empty() || matches!(self.state, State::Failing(_))
    }

    /// Does the steps that have come, and gives the answers that have.
    pub(crate) fn serve(
        &mut self,
        partition: &mut Partition,
        facts: &mut NodeFacts,
    ) -> Vec<Answer> {
        let mut answers = Vec::new();
        while self.handle().is_some() {
            match self.frames.take::<ControlToShard>() {
                Ok(Some(ControlToShard::Step { token, step: Step::Snapshot(step) })) => {
                    self.snapshot.push((token, step));
                }
                Ok(Some(ControlToShard::Step { token, step })) => {
                    let outcome = self.step(step, partition, facts);
                    self.stepped(token, outcome);
                }
                Ok(Some(ControlToShard::Known)) => {
                    if let State::Expecting(handle) = self.state {
                        self.state = State::Open(handle);
                    }
                }
                Ok(Some(ControlToShard::Done { token, result })) => {
                    answers.extend(self.waiting.remove(&token).map(|to| (to, result)));
                }
                Ok(None) => return answers,
                Err(error) => self.fail(format_args!("{error}")),
            }
        }
        let shard = self.me;
        let unanswered = std::mem::take(&mut self.waiting).into_values();
        answers.extend(unanswered.map(|to| (to, Err(Refusal::TryAgain { shard }))));
        answers
    }

    /// Steps of a snapshot that have come, for the loop to answer with [`Link::stepped`].
    pub(crate) fn snapshot_steps(&mut self) -> Vec<(u64, SnapshotStep)> {
        std::mem::take(&mut self.snapshot)
    }

    /// Says what came of a step.
    pub(crate) fn stepped(&mut self, token: u64, outcome: Result<(), String>) {
        let mut error = outcome.err();
        if let Some(text) = &mut error {
            text.truncate(text.floor_char_boundary(ERROR_BYTES_MAX));
        }
        if self.handle().is_some() {
            let stepped = ShardToControl::Stepped { token, error };
            encode(&stepped, &mut self.queue).expect("J1: an error's text is short");
        }
    }

    /// Sends what is queued; closes a link that failed.
    pub(crate) fn settle(&mut self, todo: &mut Todo) {
        if let State::Failing(handle) = self.state
            && !self.sending
            && self.waiting.is_empty()
        {
            self.state = State::Broken;
            self.frames = Frames::default();
            self.queue = Vec::new();
            todo.ops.push((Token(0), Op::Close(handle)));
        }
        if let Some(handle) = self.handle()
            && !self.sending
            && !self.queue.is_empty()
        {
            self.sending = true;
            let bytes = std::mem::take(&mut self.queue);
            todo.ops.push((Mark::LinkSend.token(), Op::Send(handle, bytes)));
        }
    }

    /// Closes the link at the end of the shard's life.
    pub(crate) fn close(&mut self, todo: &mut Todo) {
        if let State::Expecting(handle) | State::Open(handle) | State::Failing(handle) = self.state
        {
            self.state = State::Broken;
            todo.ops.push((Token(0), Op::Close(handle)));
        }
    }

    fn handle(&self) -> Option<Handle> {
        match self.state {
            State::Expecting(handle) | State::Open(handle) => Some(handle),
            State::Missing | State::Failing(_) | State::Broken => None,
        }
    }

    /// Notes that the link is of no more use, and says so once (J1).
    fn fail(&mut self, why: std::fmt::Arguments<'_>) {
        let Some(handle) = self.handle() else { return };
        self.state = State::Failing(handle);
        (self.report)(format_args!(
            "shard {} lost its link to the control thread ({why}); until the node is restarted \
             it answers TRYAGAIN to TEMPLATE.DEPLOY and to HTTP requests of agents",
            self.me.0
        ));
    }

    fn step(
        &mut self,
        step: Step,
        partition: &mut Partition,
        facts: &mut NodeFacts,
    ) -> Result<(), String> {
        match step {
            Step::Load(template) => self.load(&template),
            Step::Deploy { name, number, activate } => {
                let Some(loaded) = self.loaded.remove(&(name, number)) else {
                    return Err("it was not loaded".to_owned());
                };
                let deployed = partition.deploy(loaded.behaviour, activate);
                deployed.map_err(|error| error.to_string())?;
                let (name, rows) = (loaded.row.name.clone(), &mut facts.templates);
                let activate = activate || rows.iter().all(|row| row.name != name);
                rows.push(loaded.row);
                if activate {
                    mark_active(rows, &name, number);
                }
                Ok(())
            }
            Step::Withdraw { name, number } => {
                self.loaded.remove(&(name, number));
                Ok(())
            }
            Step::Activate { name, number } => {
                partition.activate(&name, number).map_err(|error| error.to_string())?;
                mark_active(&mut facts.templates, &name, number);
                Ok(())
            }
            Step::Snapshot(_) => unreachable!("J3: the loop answers it"),
        }
    }

    fn load(&mut self, template: &TemplateRef) -> Result<(), String> {
        let behaviour = self.workshop.load(template)?;
        let made = (behaviour.name(), behaviour.number());
        if made != (template.name.as_str(), template.number) {
            return Err(format!("loading it gave {:?}, number {}", made.0, made.1));
        }
        let row = TemplateRow {
            name: template.name.clone(),
            number: template.number,
            active: false,
            language: template.header.language.name(),
            summary: template.header.summary.clone(),
        };
        let key = (template.name.clone(), template.number);
        self.loaded.insert(key, Loaded { behaviour, row });
        Ok(())
    }
}

fn mark_active(rows: &mut [TemplateRow], name: &str, number: u32) {
    for row in rows.iter_mut().filter(|row| row.name == name) {
        row.active = row.number == number;
    }
}
