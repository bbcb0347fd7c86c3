//! A sandboxed template: the engine's behaviour over live instances.
//!
//! Owns: bringing an instance to the agent's image, its turn, and the image to what the turn did.
//! Not: versions, mailboxes, effects (the engine's), the cache of instances (`live.rs`).
//! B1  the image is the agent; an instance whose image is another one is brought to it before the
//!     guest runs.
//! B2  a turn that fails leaves no instance: the memory is in any state then.
//! B3  what a turn asks for reaches the engine when the turn is over, all of it or nothing.
//! B4  an image is run by the module build that it was made by, or refused.
//! B5  a turn that finds no room for an instance waits for one; no message, no result is lost.
//! B6  a turn of several slices whose image finds no room can end later; none is run again.

mod bring;

use super::host::{
    HOST_BYTES, HOST_PAGES, Host, HostConfig, HostEffect, HostReply, HostState, Left, Status,
};
use super::instance::{CompiledModule, Entry, GuestCall, InstanceError, Progress, Trap};
use super::live::{LastTurn, Live, LiveAgent, Start};
use super::slot::{BaseImage, Delta, PAGE};
use super::tree::Tree;
use bring::decode_with;
use bytes::Bytes;
use heronry_engine::behaviour::{Own, RequestId};
use heronry_engine::{
    AgentId, AgentKey, Behaviour, CallId, Fault, Image, Nanos, PAGE_BYTES, PageStore, Refusal, Turn,
};
use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Bytes of what a turn printed that the operator gets to see.
const PRINT_BYTES_MAX: usize = 4 << 10;

/// What a template is made of on one shard.
pub struct TemplateParts {
    /// Its name, as in `name/agent`.
    pub name: String,
    /// Which deployment it is.
    pub number: u32,
    /// One line for people.
    pub summary: String,
    /// The module, bound to the host's functions.
    pub module: Rc<CompiledModule<Host>>,
    /// The memory as it was sealed.
    pub base: Arc<BaseImage>,
    /// The host state as it was sealed.
    pub state: HostState,
    /// What the guest finds under `/`.
    pub tree: Arc<Tree>,
    /// Arguments, environment, bounds.
    pub config: Arc<HostConfig>,
}

/// A sandboxed template on one shard.
pub struct SandboxTemplate {
    parts: TemplateParts,
    /// The template's host state as pages of an image.
    state_pages: Vec<[u8; PAGE_BYTES]>,
    digest: OnceCell<[u8; 32]>,
    live: Rc<Live>,
}

impl SandboxTemplate {
    /// Ready to be deployed to the shard of `live`.
    pub fn new(parts: TemplateParts, live: Rc<Live>) -> SandboxTemplate {
        let mut encoded = Vec::new();
        parts.state.encode(&mut encoded);
        let page = |chunk: &[u8]| {
            let mut page = [0; PAGE_BYTES];
            page[..chunk.len()].copy_from_slice(chunk);
            page
        };
        let state_pages = encoded.chunks(PAGE_BYTES).map(page).collect();
        SandboxTemplate { parts, state_pages, digest: OnceCell::new(), live }
    }
}

impl Behaviour for SandboxTemplate {
    fn name(&self) -> &str {
        &self.parts.name
    }

    fn summary(&self) -> &str {
        &self.parts.summary
    }

    fn number(&self) -> u32 {
        self.parts.number
    }

    /// The image is the template's: nothing of its own yet.
    fn start(&self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        turn.resize(HOST_BYTES as u64 + self.parts.state.memory_bytes)
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        self.enter(turn, Start::Message(message.clone()))
    }

    fn on_exec(&self, turn: &mut Turn<'_>, code: &Bytes) -> Result<(), Fault> {
        if !self.parts.module.has(Entry::Exec) {
            let name = &self.parts.name;
            let reason = format!("template {name:?} has no interpreter to run code");
            return Err(Fault::refused(reason));
        }
        self.enter(turn, Start::Exec(code.clone()))
    }

    fn on_reply(
        &self,
        turn: &mut Turn<'_>,
        call: CallId,
        result: &Result<Option<Bytes>, Refusal>,
    ) -> Result<(), Fault> {
        self.enter(turn, Start::Reply { call, result: result.clone() })
    }

    fn on_restored(&self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        self.enter(turn, Start::Restored)
    }

    fn resume(&self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        if let Some(start) = self.live.waited(turn.id()) {
            let entered = self.enter(turn, start.clone());
            if entered.as_ref().is_err_and(Fault::is_full) {
                self.live.wait(turn.id(), start);
            }
            return entered;
        }
        let agent = self.live.take(turn.id()).expect("V3: an agent in a turn keeps its instance");
        self.go(turn, agent)
    }

    fn awaits(&self, image: &Image, store: &PageStore) -> bool {
        let mut read = |at: usize, len: usize| {
            let mut bytes = Vec::with_capacity(len);
            image.read(store, at as u64, &mut bytes, len);
            bytes
        };
        image.has_page(store, 0)
            && decode_with(&mut read).is_ok_and(|state| !state.calls.is_empty())
    }

    fn base_page(&self, page_idx: u32) -> Option<&[u8; PAGE_BYTES]> {
        let idx = page_idx as usize;
        match idx.checked_sub(HOST_PAGES) {
            None => self.state_pages.get(idx),
            Some(page) if page < self.parts.base.len_bytes() / PAGE => {
                Some(self.parts.base.page(page as u32))
            }
            Some(_) => None,
        }
    }

    fn digest(&self) -> Option<[u8; 32]> {
        // Once, when the first agent leaves or comes: a pass over the template's memory.
        Some(*self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            self.state_pages.iter().for_each(|page| _ = hasher.update(page));
            for page in 0..self.parts.base.len_bytes() / PAGE {
                hasher.update(self.parts.base.page(page as u32));
            }
            *hasher.finalize().as_bytes()
        }))
    }

    fn sealed_off(&self) -> Option<&'static str> {
        Some(
            "the memory of a sandbox is its own; send it a message, or run code in it with \
             AGENT.EXEC",
        )
    }

    fn copies(&self, agent: AgentId, image: &Image) -> u32 {
        self.live.copies(agent, image)
    }

    fn forget(&self, agent: AgentId, store: &mut PageStore) {
        self.live.forget(agent, store);
    }
}

/// The turn.
impl SandboxTemplate {
    /// Begins a turn; it waits, paused, while all instances are in the middle of turns (B5).
    fn enter(&self, turn: &mut Turn<'_>, start: Start) -> Result<(), Fault> {
        let Some(mut agent) = self.begin(turn)? else {
            self.live.wait(turn.id(), start);
            turn.pause();
            return Ok(());
        };
        match start {
            Start::Message(payload) => match self.open_request(turn, &mut agent) {
                Ok(request) => agent.todo.push_back(GuestCall::Message { request, payload }),
                Err(fault) => return Err(give_up(turn, agent, fault)),
            },
            Start::Exec(payload) => match self.open_request(turn, &mut agent) {
                Ok(request) => agent.todo.push_back(GuestCall::Exec { request, payload }),
                Err(fault) => return Err(give_up(turn, agent, fault)),
            },
            Start::Reply { call, result } => resolve(&mut agent, call, result),
            Start::Restored => {}
        }
        self.go(turn, agent)
    }

    /// Runs the turn's calls until all have ended or a slice is over.
    fn go(&self, turn: &mut Turn<'_>, mut agent: LiveAgent) -> Result<(), Fault> {
        loop {
            if !agent.calling {
                let Some(call) = agent.todo.pop_front() else { break };
                agent.instance.start(call, self.live.limits.turn_cpu_max);
                agent.calling = true;
            }
            match agent.instance.poll() {
                Progress::Yielded => {
                    agent.paused = true;
                    self.live.put(turn.id(), agent);
                    turn.pause();
                    return Ok(());
                }
                Progress::Done(outcome) => {
                    agent.calling = false;
                    if let Err(fault) = self.take_left(turn, &mut agent, outcome) {
                        return Err(give_up(turn, agent, fault));
                    }
                }
            }
        }
        let ended = self.end(turn, &mut agent);
        agent.paused &= ended.as_ref().is_err_and(Fault::is_full);
        match ended {
            Err(fault) if !agent.paused => Err(give_up(turn, agent, fault)),
            ended => {
                self.live.put(turn.id(), agent);
                ended
            }
        }
    }

    /// Takes what a call into the guest left; the fault that it ended with.
    fn take_left(
        &self,
        turn: &Turn<'_>,
        agent: &mut LiveAgent,
        outcome: Result<i32, Trap>,
    ) -> Result<(), Fault> {
        let Left { effects, replies, failure, log, stdout, stderr } =
            agent.instance.host_mut().take();
        self.report(turn.key(), &log, &stdout, &stderr);
        match outcome {
            Ok(0) => {}
            Ok(_) => {
                let silent = || "the guest failed and did not say why".to_owned();
                return Err(Fault::refused(failure.unwrap_or_else(silent)));
            }
            Err(trap) => {
                let mut reason = trap.to_string();
                if let Some(text) = failure {
                    reason = format!("{reason}: {text}");
                }
                return Err(Fault::refused(reason));
            }
        }
        agent.replies.extend(replies);
        for effect in effects {
            match &effect {
                HostEffect::Call { id, key, .. } => {
                    if let Err(refusal) = key.parse::<AgentKey>() {
                        let (id, text) = (*id, format!("{} {refusal}", refusal.code()));
                        agent.instance.host_mut().state.close_call(id);
                        let payload = text.into_bytes().into();
                        agent.todo.push_back(result_call(id, Status::Refused, payload));
                        continue;
                    }
                }
                HostEffect::Send { key, .. } => {
                    if let Err(refusal) = key.parse::<AgentKey>() {
                        return Err(Fault::refused(format!("send: {refusal}")));
                    }
                }
                _ => {}
            }
            agent.effects.push(effect);
        }
        Ok(())
    }

    /// Hands the turn's memory to the image, and its effects to the engine (B3). Where the image
    /// has no room for it, it can be done again (B6).
    fn end(&self, turn: &mut Turn<'_>, agent: &mut LiveAgent) -> Result<(), Fault> {
        let memory_bytes = agent.instance.slot().len_bytes() as u64;
        if turn.image_len() != HOST_BYTES as u64 + memory_bytes {
            turn.resize(HOST_BYTES as u64 + memory_bytes)?;
        }
        let started = Instant::now();
        let flat = !Arc::ptr_eq(agent.instance.slot().base(), &self.parts.base);
        let mut kept = Kept { turn, template: self, flat, fault: None };
        let captured = agent.instance.slot_mut().capture(&mut kept);
        let fault = kept.fault;
        let captured = captured.map_err(|e| Fault::refused(e.to_string()))?;
        fault.map_or(Ok(()), Err)?;
        for effect in &agent.effects {
            if let Some((id, call)) = ask(turn, effect) {
                agent.instance.host_mut().state.bind_call(id, call.0);
            }
        }
        let mut globals = std::mem::take(&mut agent.instance.host_mut().state.globals);
        globals.clear();
        agent.instance.globals(&mut globals);
        let host = agent.instance.host_mut();
        host.state.globals = globals;
        host.state.memory_bytes = memory_bytes;
        if let Some(bytes) = host.changed()
            && let Err(fault) = turn.write(0, bytes)
        {
            host.unmark();
            return Err(fault);
        }
        agent.effects.clear();
        for HostReply { ticket, answer, .. } in agent.replies.drain(..) {
            let raised = |reason| Refusal::Raised { key: turn.key().as_str().into(), reason };
            let answer = answer.map(|payload| Some(payload.into())).map_err(raised);
            turn.reply_to(RequestId(ticket), answer);
        }
        let held = turn.share_image();
        turn.release(std::mem::replace(&mut agent.held, held));
        self.live.last.set(LastTurn {
            capture_ns: started.elapsed().as_nanos() as u64,
            compared_count: captured.compared_count,
            changed_count: captured.changed_count,
            ..self.live.last.get()
        });
        Ok(())
    }

    fn report(&self, key: &AgentKey, log: &[String], stdout: &[u8], stderr: &[u8]) {
        for line in log {
            (self.live.world.report)(format_args!("{key}: {line}"));
        }
        for printed in [stdout, stderr] {
            let shown = &printed[..printed.len().min(PRINT_BYTES_MAX)];
            for line in String::from_utf8_lossy(shown).lines() {
                (self.live.world.report)(format_args!("{key}: {line}"));
            }
        }
    }
}

/// The image as the slot's capture sees it: the host state (`host/codec.rs`) in its first
/// [`HOST_PAGES`] pages, and the linear memory after them. A page that it lacks is the template's.
struct Kept<'a, 't> {
    turn: &'a mut Turn<'t>,
    /// Whose pages absent ones are.
    template: &'a SandboxTemplate,
    /// Whether the slot overlays another base than the template's.
    flat: bool,
    /// The first page that found no room.
    fault: Option<Fault>,
}

impl Delta for Kept<'_, '_> {
    fn held<'a>(&'a self, page_idx: u32, scratch: &'a mut [u8; PAGE]) -> Option<&'a [u8; PAGE]> {
        let page = page_idx + HOST_PAGES as u32;
        let under = self.template.template_page(page);
        self.turn.page(page, under, scratch).or_else(|| self.flat.then_some(under))
    }

    fn holds(&self, page_idx: u32) -> bool {
        self.flat || self.turn.has_page(page_idx + HOST_PAGES as u32)
    }

    fn keep(&mut self, page_idx: u32, _: &[u8; PAGE], bytes: &[u8; PAGE]) -> bool {
        if self.fault.is_some() {
            return true;
        }
        let page = page_idx + HOST_PAGES as u32;
        let put = self.turn.put_page(page, self.template.template_page(page), bytes);
        put.unwrap_or_else(|fault| {
            self.fault.get_or_insert(fault);
            true
        })
    }
}

/// Drops the instance of a turn that failed (B2).
fn give_up(turn: &mut Turn<'_>, agent: LiveAgent, fault: Fault) -> Fault {
    turn.release(agent.held);
    fault
}

/// Lets the guest be told what became of a call.
fn resolve(agent: &mut LiveAgent, call: CallId, result: Result<Option<Bytes>, Refusal>) {
    let state = &mut agent.instance.host_mut().state;
    // A call of a present that was given up resolved when the image was restored.
    let Some(id) = state.call_of(call.0).filter(|id| state.close_call(*id)) else { return };
    let (status, payload) = match result {
        Ok(payload) => (Status::Ok, payload.unwrap_or_default()),
        Err(refusal) => {
            (Status::Refused, format!("{} {refusal}", refusal.code()).into_bytes().into())
        }
    };
    agent.todo.push_back(result_call(id, status, payload));
}

fn result_call(id: u64, status: Status, payload: Bytes) -> GuestCall {
    GuestCall::Result { call: id.cast_signed(), status: status as i32, payload }
}

/// Asks the engine for an effect; the guest's and the engine's number of the call it opens.
fn ask(turn: &mut Turn<'_>, effect: &HostEffect) -> Option<(u64, CallId)> {
    let key = |key: &str| key.parse::<AgentKey>().expect("B3: checked when it was asked for");
    let label = |label: &Option<String>| label.as_ref().map(|label| Bytes::from(label.clone()));
    Some(match effect {
        HostEffect::Send { key: to, payload } => {
            turn.send(key(to), payload.clone());
            return None;
        }
        HostEffect::Call { id, key: to, payload } => (*id, turn.call(key(to), payload.clone())),
        HostEffect::Sleep { id, until_ns } => (*id, turn.sleep(Nanos(*until_ns))),
        HostEffect::Http { id, request } => (*id, turn.http(request.clone())),
        HostEffect::Checkpoint { id, label: name } => {
            (*id, turn.own(Own::Checkpoint { label: label(name) }))
        }
        HostEffect::Fork { id, count } => (*id, turn.own(Own::Fork { count: *count })),
        HostEffect::Rollback { id, label: name } => {
            (*id, turn.own(Own::Rollback { label: label(name) }))
        }
    })
}

fn no_instance(error: InstanceError) -> Fault {
    Fault::refused(error.to_string())
}
