//! The functions of the module `heronry`: what a guest asks of the world.
//!
//! Owns: checking what they are given, and the effects they leave in the host.  Not: doing them.
//! M1  nothing is done while the guest runs: replies and effects wait in the host until its caller
//!     takes them.
//! M2  what one turn may leave is bounded in number and in bytes; a request past a bound is
//!     refused by a negative id or a code, never a silent loss.
//! M3  a pointer outside the memory ends the call with a trap that names it.
//!
//! Refusals: `call`, `sleep`, `http`, `checkpoint`, `fork`, `rollback` give an id from 1, or one of
//! [`Denied`] as a negative number; `send` gives 0 or one of [`Denied`] as a positive one.

use super::link::{Outcome, host_functions};
use super::memory::{GuestMemory, OutOfBounds};
use super::state::CallKind;
use super::{Host, HostEffect, HostReply, TURN_BYTES_MAX};
use bytes::Bytes;
use heronry_engine::limits::{EFFECT_COUNT_MAX, FORK_COUNT_MAX, KEY_BYTES_MAX, LABEL_BYTES_MAX};

/// The module's name.
pub const MODULE: &str = "heronry";

/// Why a request was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Denied {
    /// The turn asked for too much already, or too many calls are open.
    TooMany = 1,
    /// A key, label, count or time out of its range, or text that is not UTF-8.
    Invalid = 2,
    /// A payload past `net.payload_bytes_max`, or past what one turn may leave.
    TooLong = 3,
}

host_functions! { MODULE;
    reply(request: i64, ptr: i32, len: i32) = reply;
    refuse(request: i64, ptr: i32, len: i32) = refuse;
    fail(ptr: i32, len: i32) = fail;
    send(key: i32, key_len: i32, ptr: i32, len: i32) -> i32 = send;
    call(key: i32, key_len: i32, ptr: i32, len: i32) -> i64 = call;
    sleep(ns: i64) -> i64 = sleep;
    http(ptr: i32, len: i32) -> i64 = http;
    checkpoint(label: i32, len: i32) -> i64 = checkpoint;
    fork(count: i32) -> i64 = fork;
    rollback(label: i32, len: i32) -> i64 = rollback;
    key(ptr: i32, cap: i32) -> i32 = key;
    log(ptr: i32, len: i32) = log;
}

impl Outcome for Result<(), OutOfBounds> {
    type Value = ();

    fn value(self) -> wasmtime::Result<()> {
        Ok(self?)
    }
}

impl Outcome for Result<i32, OutOfBounds> {
    type Value = i32;

    fn value(self) -> wasmtime::Result<i32> {
        Ok(self?)
    }
}

impl Outcome for Result<i64, OutOfBounds> {
    type Value = i64;

    fn value(self) -> wasmtime::Result<i64> {
        Ok(self?)
    }
}

type Checked<T> = Result<T, OutOfBounds>;

fn reply(
    memory: GuestMemory<'_>,
    host: &mut Host,
    request: i64,
    ptr: i32,
    len: i32,
) -> Checked<()> {
    let payload = memory.bytes(ptr, len)?;
    let payload = host.accept(payload).map_err(|_| host.too_long("reply", payload.len()));
    host.answer(request.cast_unsigned(), payload);
    Ok(())
}

fn refuse(
    memory: GuestMemory<'_>,
    host: &mut Host,
    request: i64,
    ptr: i32,
    len: i32,
) -> Checked<()> {
    let text = super::text_of(memory.bytes(ptr, len)?);
    host.answer(request.cast_unsigned(), Err(text));
    Ok(())
}

fn fail(memory: GuestMemory<'_>, host: &mut Host, ptr: i32, len: i32) -> Checked<()> {
    host.failure = Some(super::text_of(memory.bytes(ptr, len)?));
    Ok(())
}

fn send(
    memory: GuestMemory<'_>,
    host: &mut Host,
    key: i32,
    key_len: i32,
    ptr: i32,
    len: i32,
) -> Checked<i32> {
    let (key, payload) = (memory.bytes(key, key_len)?, memory.bytes(ptr, len)?);
    let sent = message(host, key, payload)
        .map(|(key, payload)| host.effects.push(HostEffect::Send { key, payload }));
    Ok(sent.map_or_else(|denied| denied as i32, |()| 0))
}

fn call(
    memory: GuestMemory<'_>,
    host: &mut Host,
    key: i32,
    key_len: i32,
    ptr: i32,
    len: i32,
) -> Checked<i64> {
    let (key, payload) = (memory.bytes(key, key_len)?, memory.bytes(ptr, len)?);
    Ok(open(host, CallKind::Call, 0, |host, id| {
        let (key, payload) = message(host, key, payload)?;
        Ok(HostEffect::Call { id, key, payload })
    }))
}

fn sleep(_: GuestMemory<'_>, host: &mut Host, ns: i64) -> Checked<i64> {
    let span_ns = u64::try_from(ns).unwrap_or(0);
    let until_ns = host.time().now_ns.saturating_add(span_ns);
    Ok(open(host, CallKind::Sleep, until_ns, |_, id| Ok(HostEffect::Sleep { id, until_ns })))
}

fn http(memory: GuestMemory<'_>, host: &mut Host, ptr: i32, len: i32) -> Checked<i64> {
    let request = memory.bytes(ptr, len)?;
    Ok(open(host, CallKind::Http, 0, |host, id| {
        Ok(HostEffect::Http { id, request: host.accept(request)?.into() })
    }))
}

fn checkpoint(memory: GuestMemory<'_>, host: &mut Host, label: i32, len: i32) -> Checked<i64> {
    let label = memory.bytes(label, len)?;
    Ok(open(host, CallKind::Checkpoint, 0, |_, id| {
        Ok(HostEffect::Checkpoint { id, label: label_of(label)? })
    }))
}

fn fork(_: GuestMemory<'_>, host: &mut Host, count: i32) -> Checked<i64> {
    let count = count.cast_unsigned();
    Ok(open(host, CallKind::Fork, 0, |_, id| {
        if count == 0 || count > FORK_COUNT_MAX {
            return Err(Denied::Invalid);
        }
        Ok(HostEffect::Fork { id, count })
    }))
}

fn rollback(memory: GuestMemory<'_>, host: &mut Host, label: i32, len: i32) -> Checked<i64> {
    let label = memory.bytes(label, len)?;
    Ok(open(host, CallKind::Rollback, 0, |_, id| {
        Ok(HostEffect::Rollback { id, label: label_of(label)? })
    }))
}

fn key(mut memory: GuestMemory<'_>, host: &mut Host, ptr: i32, cap: i32) -> Checked<i32> {
    let key = host.state.agent_key.as_bytes();
    let fits = key.len().min(cap.cast_unsigned() as usize);
    memory.put(ptr, &key[..fits])?;
    Ok(key.len() as i32)
}

fn log(memory: GuestMemory<'_>, host: &mut Host, ptr: i32, len: i32) -> Checked<()> {
    let line = memory.bytes(ptr, len)?;
    host.log(line);
    Ok(())
}

/// Opens a call whose effect `make` gives; a negative number says why not, and leaves nothing.
fn open(
    host: &mut Host,
    kind: CallKind,
    due_ns: u64,
    make: impl FnOnce(&mut Host, u64) -> Result<HostEffect, Denied>,
) -> i64 {
    let opened = room(host).and_then(|()| {
        let id = host.state.call_next;
        let effect = make(host, id)?;
        let opened = host.state.open_call(kind, due_ns).ok_or(Denied::TooMany)?;
        assert_eq!(opened, id, "M1: the effect names the call");
        host.effects.push(effect);
        Ok(id)
    });
    // Ids count from 1, one by one: they stay below 2^63 for as long as the machine lasts.
    opened.map_or_else(|denied| -i64::from(denied as i32), u64::cast_signed)
}

fn room(host: &Host) -> Result<(), Denied> {
    if host.effects.len() >= EFFECT_COUNT_MAX { Err(Denied::TooMany) } else { Ok(()) }
}

fn message(host: &mut Host, key: &[u8], payload: &[u8]) -> Result<(String, Bytes), Denied> {
    room(host)?;
    let key = std::str::from_utf8(key).map_err(|_| Denied::Invalid)?;
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Denied::Invalid);
    }
    Ok((key.to_owned(), host.accept(payload)?.into()))
}

fn label_of(label: &[u8]) -> Result<Option<String>, Denied> {
    if label.len() > LABEL_BYTES_MAX {
        return Err(Denied::Invalid);
    }
    let label = std::str::from_utf8(label).map_err(|_| Denied::Invalid)?;
    Ok((!label.is_empty()).then(|| label.to_owned()))
}

impl Host {
    /// Copies a payload out of the guest, if the turn may leave that much (M2).
    fn accept(&mut self, payload: &[u8]) -> Result<Vec<u8>, Denied> {
        let bytes = self.payload_bytes.saturating_add(payload.len());
        if payload.len() > self.config.payload_bytes_max || bytes > TURN_BYTES_MAX {
            return Err(Denied::TooLong);
        }
        self.payload_bytes = bytes;
        Ok(payload.to_vec())
    }

    fn too_long(&self, what: &str, len: usize) -> String {
        format!(
            "LIMIT the {what} has {len} bytes; net.payload_bytes_max is {} and one turn may \
             leave {TURN_BYTES_MAX} in all; send it in parts",
            self.config.payload_bytes_max
        )
    }

    /// Answers a request that is open; any other number was answered before, or is the parent's.
    fn answer(&mut self, request: u64, answer: Result<Vec<u8>, String>) {
        if let Some(ticket) = self.state.requests.remove(&request) {
            self.replies.push(HostReply { request, ticket, answer });
        }
    }
}
