//! Bringing an instance to an agent's image, before the guest runs.
//!
//! Owns: reviving, following a rollback in place, settling what a restored image awaited.  Not: the
//! turn (`behaviour.rs`).
//! The slot of a branch may overlay a base of its own kind: the image of a popular version, made
//! whole ([`Flat`]); an absent page of an image is the template's all the same.
//! G1  afterwards memory, globals and host state are the image's, and the instance holds it.
//! G2  a restore is settled once, in the first turn after it, before anything else.

use super::super::host::{
    HOST_BYTES, HOST_PAGES, Host, HostEffect, HostState, Identity, Why, reconcile,
};
use super::super::instance::{Entry, GuestCall, Instance};
use super::super::live::{Flat, LastTurn, LiveAgent};
use super::super::slot::{BaseImage, Lengths, PAGE};
use super::{SandboxTemplate, no_instance, result_call};
use heronry_engine::behaviour::Restored;
use heronry_engine::{Behaviour, Fault, Image, Turn};
use std::sync::Arc;
use std::time::Instant;

/// Bytes of a page of Wasm.
const WASM_PAGE: u64 = 65_536;
/// An image that differs from its template in no more pages is brought from there at once.
const NEAR_PAGES_MAX: usize = 256;
/// A branch that differs from every base in no more pages is not worth a base of its own: to make
/// one is to copy the whole memory, some milliseconds; a page costs a few microseconds.
const FLAT_PAGES_MIN: usize = 1024;
/// Images of a shard that are bases of their own.
const FLAT_COUNT_MAX: usize = 8;
const ZEROS: [u8; PAGE] = [0; PAGE];

impl SandboxTemplate {
    /// The agent's instance at its image, with what a restore has left to tell; `None` when all
    /// instances that there may be are in the middle of turns.
    pub(super) fn begin(&self, turn: &mut Turn<'_>) -> Result<Option<LiveAgent>, Fault> {
        let started = Instant::now();
        let brought = match self.live.take(turn.id()) {
            Some(agent) if turn.is_image(&agent.held) => Some(agent),
            Some(agent) => self.follow(turn, agent)?,
            None => self.revive(turn)?,
        };
        let Some(mut agent) = brought else { return Ok(None) };
        let bring_ns = started.elapsed().as_nanos() as u64;
        self.live.last.set(LastTurn { bring_ns, ..LastTurn::default() });
        let world = &self.live.world;
        agent.instance.host_mut().begin(turn.now().0, (world.unix_ns)());
        if turn.restored().is_some() || agent.instance.host().state.agent != turn.id().0 {
            self.restore(turn, &mut agent);
        }
        Ok(Some(agent))
    }

    /// A new instance, brought to the image page by page; `None` when there is no room for it.
    fn revive(&self, turn: &mut Turn<'_>) -> Result<Option<LiveAgent>, Fault> {
        let state = self.read_state(turn)?;
        let Some(freed) = self.live.make_room() else { return Ok(None) };
        for image in freed {
            turn.release(image);
        }
        let most =
            (self.live.limits.memory_bytes_max / WASM_PAGE * WASM_PAGE).max(state.memory_bytes);
        let lengths =
            Lengths { memory_bytes: state.memory_bytes as usize, memory_bytes_max: most as usize };
        let globals = state.globals.clone();
        let (tree, config) = (Arc::clone(&self.parts.tree), Arc::clone(&self.parts.config));
        let mut host = Host::new(state, tree, config).map_err(|e| Fault::refused(e.to_string()))?;
        host.mark();
        let (base, pages) = self.nearest_base(turn, lengths.memory_bytes)?;
        let sandboxes = &self.live.sandboxes;
        let instance = Instance::new(sandboxes, &self.parts.module, &base, lengths, host);
        let mut instance = instance.map_err(no_instance)?;
        instance.set_globals(&globals).map_err(no_instance)?;
        let mut scratch = ZEROS;
        for page in pages {
            let bytes = self.page(turn, page, &mut scratch);
            instance.slot_mut().write_page(page - HOST_PAGES as u32, bytes);
        }
        Ok(Some(LiveAgent::new(instance, turn.share_image())))
    }

    /// The base that differs from the image in the fewest pages, and those pages. A branch whose
    /// image is far from all of them makes its image one, for its siblings.
    fn nearest_base(
        &self,
        turn: &mut Turn<'_>,
        memory_bytes: usize,
    ) -> Result<(Arc<BaseImage>, Vec<u32>), Fault> {
        let differing = |turn: &Turn<'_>, from: &Image| {
            let mut pages = Vec::new();
            turn.changed_pages(from, &mut pages);
            pages.retain(|page| *page >= HOST_PAGES as u32);
            pages
        };
        let mut nearest = (Arc::clone(&self.parts.base), differing(turn, &Image::EMPTY));
        if nearest.1.len() <= NEAR_PAGES_MAX {
            return Ok(nearest);
        }
        let mut flats = self.live.flats.borrow_mut();
        let mut chosen = None;
        for (idx, flat) in flats.iter().enumerate() {
            let same = Arc::ptr_eq(&flat.template, &self.parts.base);
            if same && flat.base.len_bytes() <= memory_bytes {
                let pages = differing(turn, &flat.image);
                if pages.len() < nearest.1.len() {
                    nearest = (Arc::clone(&flat.base), pages);
                    chosen = Some(idx);
                }
            }
        }
        if let Some(idx) = chosen {
            flats[idx..].rotate_left(1);
        }
        let branch = matches!(turn.restored(), Some(Restored::Forked { .. }));
        if !branch || nearest.1.len() <= FLAT_PAGES_MIN {
            return Ok(nearest);
        }
        let mut memory = Vec::with_capacity(memory_bytes);
        let mut scratch = ZEROS;
        for page in 0..(memory_bytes / PAGE) as u32 {
            let page = self.page(turn, page + HOST_PAGES as u32, &mut scratch);
            memory.extend_from_slice(page);
        }
        let base = BaseImage::from_bytes(&memory).map_err(|e| Fault::refused(e.to_string()))?;
        let base = Arc::new(base);
        if flats.len() >= FLAT_COUNT_MAX {
            turn.release(flats.remove(0).image);
        }
        let (image, template) = (turn.share_image(), Arc::clone(&self.parts.base));
        flats.push(Flat { image, base: Arc::clone(&base), template });
        Ok((base, Vec::new()))
    }

    /// A page of the agent's memory: the image's, or else the template's, or zeros.
    fn page<'a>(
        &'a self,
        turn: &'a Turn<'_>,
        page: u32,
        scratch: &'a mut [u8; PAGE],
    ) -> &'a [u8; PAGE] {
        let under = self.template_page(page);
        turn.page(page, under, scratch).unwrap_or(under)
    }

    /// A page of the template's memory; zeros past its end.
    pub(super) fn template_page(&self, page: u32) -> &[u8; PAGE] {
        self.base_page(page).unwrap_or(&ZEROS)
    }

    /// Brings an instance from the image that it holds to the agent's, in place.
    fn follow(
        &self,
        turn: &mut Turn<'_>,
        mut agent: LiveAgent,
    ) -> Result<Option<LiveAgent>, Fault> {
        let state = self.read_state(turn)?;
        let wanted = state.memory_bytes as usize;
        if wanted < agent.instance.slot().len_bytes() {
            turn.release(agent.held);
            drop(agent.instance);
            return self.revive(turn);
        }
        agent.instance.grow(wanted).map_err(|e| Fault::refused(e.to_string()))?;
        let mut pages = Vec::new();
        turn.changed_pages(&agent.held, &mut pages);
        let mut scratch = ZEROS;
        for page in pages.into_iter().filter(|page| *page >= HOST_PAGES as u32) {
            let idx = page - HOST_PAGES as u32;
            let slot = agent.instance.slot_mut();
            if !turn.has_page(page) && Arc::ptr_eq(slot.base(), &self.parts.base) {
                slot.reset_page(idx).map_err(|e| Fault::refused(e.to_string()))?;
            } else {
                slot.write_page(idx, self.page(turn, page, &mut scratch));
            }
        }
        agent.instance.set_globals(&state.globals).map_err(no_instance)?;
        let host = agent.instance.host_mut();
        host.put_state(state).map_err(|e| Fault::refused(e.to_string()))?;
        host.mark();
        let held = turn.share_image();
        turn.release(std::mem::replace(&mut agent.held, held));
        Ok(Some(agent))
    }

    /// The host state of the agent's image (B4).
    fn read_state(&self, turn: &mut Turn<'_>) -> Result<HostState, Fault> {
        if !turn.has_page(0) {
            return Ok(self.parts.state.clone());
        }
        let mut read = |at: usize, len: usize| {
            let mut bytes = vec![0; len];
            turn.read(at as u64, &mut bytes);
            bytes
        };
        let state = decode_with(&mut read).map_err(Fault::refused)?;
        if state.module != self.parts.state.module {
            return Err(Fault::refused(
                "the image belongs to another build of the module; deploy the template that made \
                 it, or terminate the agent",
            ));
        }
        Ok(state)
    }

    /// Settles what the image awaited when it came here, and lets the guest make itself fresh.
    fn restore(&self, turn: &Turn<'_>, agent: &mut LiveAgent) {
        let state = &mut agent.instance.host_mut().state;
        let mine = state.agent == turn.id().0;
        let why = match turn.restored() {
            Some(Restored::Committed) => Why::Committed,
            Some(Restored::RolledBack { version }) if mine => {
                Why::RolledBack { version: version.0 }
            }
            Some(Restored::Forked { index, keep_timers, call }) => {
                let call = call.and_then(|call| state.call_of(call.0));
                Why::Forked { index, keep_timers, call }
            }
            // A fresh agent is a fork of its template; so is a branch that went back to its start.
            Some(Restored::RolledBack { .. }) | None => {
                Why::Forked { index: 0, keep_timers: false, call: None }
            }
        };
        let entropy = (self.live.world.entropy)();
        let key = turn.key().as_str();
        let identity = Identity { agent: turn.id().0, key, entropy: &entropy };
        let settled = reconcile(state, why, &identity);
        if self.parts.module.has(Entry::Restored) {
            agent.todo.push_back(GuestCall::Restored { why: why.code() });
        }
        for (id, status, payload) in settled.resolved {
            agent.todo.push_back(result_call(id, status, payload.into_bytes().into()));
        }
        let sleep = |(id, until_ns)| HostEffect::Sleep { id, until_ns };
        agent.effects.extend(settled.sleeps.into_iter().map(sleep));
    }

    pub(super) fn open_request(
        &self,
        turn: &mut Turn<'_>,
        agent: &mut LiveAgent,
    ) -> Result<i64, Fault> {
        let ticket = turn.hold().0;
        let state = &mut agent.instance.host_mut().state;
        let opened = state.open_request(ticket).ok_or(Fault::Limit {
            what: "requests that the agent keeps open",
            value: super::super::host::REQUEST_COUNT_MAX as u64 + 1,
            limit: super::super::host::REQUEST_COUNT_MAX as u64,
            remedy: "let some handlers end first",
        })?;
        Ok(opened.cast_signed())
    }
}

/// Decodes a host state that `read` gives the bytes of, by offset and length.
pub(super) fn decode_with(
    read: &mut dyn FnMut(usize, usize) -> Vec<u8>,
) -> Result<HostState, String> {
    const LEN_AT: usize = 8;
    let head = read(0, LEN_AT + 4);
    let len = head.get(LEN_AT..).and_then(|len| len.try_into().ok()).map_or(0, u32::from_le_bytes);
    let bytes = read(0, (len as usize).clamp(LEN_AT + 4, HOST_BYTES));
    HostState::decode(&bytes).map_err(|error| error.to_string())
}
