//! The bytes of a [`HostState`] at the start of an image.
//!
//! Owns: the format.  Not: where the bytes are kept.
//! K1  equal states have equal bytes, and what changes often stands within the first page.
//! K2  every byte is checked on the way in: a state that decodes obeys S2 and is one that
//!     [`HostState::encode`] could have written.
//!
//! Format 1, little endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `HrnH` |
//! | 4 | 2 | format, 1 |
//! | 6 | 2 | bytes of the key, k |
//! | 8 | 4 | length of all this in bytes |
//! | 12 | 2 x 4 | counts: globals, requests, calls, files |
//! | 20 | 4 | 0 |
//! | 24 | 8 x 3 | bytes of memory, next request, next call |
//! | 48 | 8 x 2 | clock: last read, offset |
//! | 64 | 8 + 32 | random: position, seed |
//! | 104 | 16 + 32 + 32 | agent, module, tree |
//! | 184 | k | key |
//! | | 8 each | globals |
//! | | 16 each | requests by id: id, ticket |
//! | | 25 each | calls by id: id, due, ticket, kind (1 byte) |
//! | | 16 each | files by descriptor: descriptor (4), what (4), position |

use super::clock::Clock;
use super::random::Random;
use super::state::{
    CallKind, FILE_COUNT_MAX, FileKind, GLOBAL_COUNT_MAX, HOST_BYTES, HostState, MEMORY_BYTES_MAX,
    OpenFile, PendingCall, REQUEST_COUNT_MAX,
};
use heronry_engine::limits::{CALL_COUNT_MAX, KEY_BYTES_MAX};
use std::collections::BTreeMap;

const MAGIC: [u8; 4] = *b"HrnH";
const FORMAT: u16 = 1;
const HEAD_BYTES: usize = 184;
const REQUEST_BYTES: usize = 16;
const CALL_BYTES: usize = 25;
const FILE_BYTES: usize = 16;
const WASM_PAGE_BYTES: u64 = 65_536;

const _: () = assert!(
    HEAD_BYTES
        + KEY_BYTES_MAX
        + GLOBAL_COUNT_MAX * 8
        + REQUEST_COUNT_MAX * REQUEST_BYTES
        + CALL_COUNT_MAX * CALL_BYTES
        + FILE_COUNT_MAX * FILE_BYTES
        <= HOST_BYTES
);

/// Why bytes are no host state.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    /// The bytes end early.
    #[error("host state: {have} bytes where {need} are needed; the image is not whole")]
    Short {
        /// What there is.
        have: usize,
        /// What there should be.
        need: usize,
    },
    /// Another kind of bytes, or a later format.
    #[error(
        "host state: format {found} where {FORMAT} is known; \
         the image was not made by this release, or is not a sandbox's"
    )]
    Format {
        /// The format found; `None` without the magic.
        found: Format,
    },
    /// A field is out of its range.
    #[error("host state: {field} is {value}, at most {limit} is allowed; the image is damaged")]
    Range {
        /// Which.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// The bound.
        limit: u64,
    },
    /// Entries out of order, twice, or of no known kind.
    #[error("host state: {field} are not in order or not known; the image is damaged")]
    Order {
        /// Which.
        field: &'static str,
    },
    /// The key is not text.
    #[error("host state: the agent's key is not UTF-8; the image is damaged")]
    Key,
}

/// The format that bytes claim to be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format(pub Option<u16>);

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(format) => write!(f, "{format}"),
            None => f.write_str("unknown"),
        }
    }
}

impl HostState {
    /// Replaces `out` by the state's bytes, at most [`HOST_BYTES`]. Under 1 µs for a usual state.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.check_bounds();
        out.clear();
        out.reserve(self.encoded_bytes());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        put_count(out, self.agent_key.len());
        out.extend_from_slice(&(self.encoded_bytes() as u32).to_le_bytes());
        for count in [self.globals.len(), self.requests.len(), self.calls.len(), self.files.len()] {
            put_count(out, count);
        }
        out.extend_from_slice(&[0; 4]);
        for number in [self.memory_bytes, self.request_next, self.call_next, self.clock.last_ns] {
            put(out, number);
        }
        out.extend_from_slice(&self.clock.offset_ns.to_le_bytes());
        put(out, self.random.position);
        out.extend_from_slice(&self.random.seed);
        out.extend_from_slice(&self.agent.to_le_bytes());
        out.extend_from_slice(&self.module);
        out.extend_from_slice(&self.tree);
        out.extend_from_slice(self.agent_key.as_bytes());
        self.globals.iter().for_each(|global| put(out, *global));
        for (id, ticket) in &self.requests {
            put(out, *id);
            put(out, *ticket);
        }
        for (id, call) in &self.calls {
            [*id, call.due_ns, call.ticket].into_iter().for_each(|number| put(out, number));
            out.push(call.kind as u8);
        }
        for (fd, file) in &self.files {
            out.extend_from_slice(&fd.to_le_bytes());
            out.extend_from_slice(&file.what.code().to_le_bytes());
            put(out, file.position);
        }
        debug_assert_eq!(out.len(), self.encoded_bytes(), "K1: length");
    }

    /// Reads a state from the start of `bytes`; what follows it is not looked at (K2).
    pub fn decode(bytes: &[u8]) -> Result<HostState, StateError> {
        let mut from = Reader { bytes, at: 0 };
        let found = (from.array()? == MAGIC).then_some(from.u16()?);
        if found != Some(FORMAT) {
            return Err(StateError::Format { found: Format(found) });
        }
        let key_bytes = from.count("bytes of the key", KEY_BYTES_MAX)?;
        let length = u32::from_le_bytes(from.array()?) as usize;
        let global_count = from.count("globals", GLOBAL_COUNT_MAX)?;
        let request_count = from.count("requests", REQUEST_COUNT_MAX)?;
        let call_count = from.count("calls", CALL_COUNT_MAX)?;
        let file_count = from.count("open files", FILE_COUNT_MAX)?;
        let reserved = u32::from_le_bytes(from.array()?);
        at_most("reserved bytes", u64::from(reserved), 0)?;
        let memory_bytes = from.u64()?;
        at_most("bytes of memory", memory_bytes, MEMORY_BYTES_MAX)?;
        at_most("bytes of a part of a page", memory_bytes % WASM_PAGE_BYTES, 0)?;
        let (request_next, call_next) = (from.u64()?, from.u64()?);
        let clock = Clock { last_ns: from.u64()?, offset_ns: from.u64()?.cast_signed() };
        let random = Random { position: from.u64()?, seed: from.array()? };
        let state = HostState {
            agent: u128::from_le_bytes(from.array()?),
            module: from.array()?,
            tree: from.array()?,
            agent_key: from.text(key_bytes)?,
            memory_bytes,
            globals: (0..global_count).map(|_| from.u64()).collect::<Result<_, _>>()?,
            requests: from.requests(request_count, request_next)?,
            calls: from.calls(call_count, call_next)?,
            files: from.files(file_count)?,
            clock,
            random,
            request_next,
            call_next,
        };
        if from.at != length {
            return Err(StateError::Short { have: from.at, need: length });
        }
        Ok(state)
    }

    fn encoded_bytes(&self) -> usize {
        HEAD_BYTES
            + self.agent_key.len()
            + self.globals.len() * 8
            + self.requests.len() * REQUEST_BYTES
            + self.calls.len() * CALL_BYTES
            + self.files.len() * FILE_BYTES
    }

    fn check_bounds(&self) {
        assert!(self.agent_key.len() <= KEY_BYTES_MAX, "S2: key");
        assert!(self.globals.len() <= GLOBAL_COUNT_MAX, "S2: globals");
        assert!(self.requests.len() <= REQUEST_COUNT_MAX, "S2: requests");
        assert!(self.calls.len() <= CALL_COUNT_MAX, "S2: calls");
        assert!(self.files.len() <= FILE_COUNT_MAX, "S2: files");
    }
}

impl FileKind {
    /// Nodes count from 0, stdio from the top.
    fn code(self) -> u32 {
        match self {
            FileKind::Stdin => u32::MAX,
            FileKind::Stdout => u32::MAX - 1,
            FileKind::Stderr => u32::MAX - 2,
            FileKind::Node(node) => node,
        }
    }

    fn of_code(code: u32) -> FileKind {
        match u32::MAX - code {
            0 => FileKind::Stdin,
            1 => FileKind::Stdout,
            2 => FileKind::Stderr,
            _ => FileKind::Node(code),
        }
    }
}

impl CallKind {
    fn of_code(code: u8) -> Option<CallKind> {
        use CallKind::*;
        [Call, Sleep, Http, Checkpoint, Fork, Rollback].into_iter().find(|kind| *kind as u8 == code)
    }
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("S2: every bound fits 16 bits");
    out.extend_from_slice(&count.to_le_bytes());
}

fn at_most(field: &'static str, value: u64, limit: u64) -> Result<(), StateError> {
    if value > limit { Err(StateError::Range { field, value, limit }) } else { Ok(()) }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn slice(&mut self, len: usize) -> Result<&[u8], StateError> {
        let need = self.at + len;
        let have = self.bytes.len();
        let slice = self.bytes.get(self.at..need).ok_or(StateError::Short { have, need })?;
        self.at = need;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let slice = self.slice(N)?;
        Ok(slice.try_into().expect("K2: a slice of the length asked for"))
    }

    fn u16(&mut self) -> Result<u16, StateError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, StateError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, StateError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn count(&mut self, field: &'static str, limit: usize) -> Result<usize, StateError> {
        let count = self.u16()?;
        at_most(field, u64::from(count), limit as u64)?;
        Ok(usize::from(count))
    }

    fn text(&mut self, len: usize) -> Result<String, StateError> {
        let text = std::str::from_utf8(self.slice(len)?).map_err(|_| StateError::Key)?;
        Ok(text.to_owned())
    }

    fn requests(&mut self, count: usize, next: u64) -> Result<BTreeMap<u64, u64>, StateError> {
        let mut requests = BTreeMap::new();
        for _ in 0..count {
            let id = self.u64()?;
            in_order("requests", requests.last_key_value().map(|(id, _)| *id), id, next)?;
            requests.insert(id, self.u64()?);
        }
        Ok(requests)
    }

    fn calls(&mut self, count: usize, next: u64) -> Result<BTreeMap<u64, PendingCall>, StateError> {
        let mut calls = BTreeMap::new();
        for _ in 0..count {
            let id = self.u64()?;
            in_order("calls", calls.last_key_value().map(|(id, _)| *id), id, next)?;
            let (due_ns, ticket) = (self.u64()?, self.u64()?);
            let [code] = self.array()?;
            let kind = CallKind::of_code(code).ok_or(StateError::Order { field: "calls" })?;
            calls.insert(id, PendingCall { kind, due_ns, ticket });
        }
        Ok(calls)
    }

    fn files(&mut self, count: usize) -> Result<BTreeMap<u32, OpenFile>, StateError> {
        let mut files = BTreeMap::new();
        for _ in 0..count {
            let fd = self.u32()?;
            let last = files.last_key_value().map(|(fd, _)| u64::from(*fd));
            in_order("open files", last, u64::from(fd), u64::MAX)?;
            let what = FileKind::of_code(self.u32()?);
            files.insert(fd, OpenFile { what, position: self.u64()? });
        }
        Ok(files)
    }
}

/// Ids ascend, and are ones that were given out (S1).
fn in_order(field: &'static str, last: Option<u64>, id: u64, next: u64) -> Result<(), StateError> {
    if last.is_some_and(|last| id <= last) || id >= next {
        return Err(StateError::Order { field });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = CallKind> {
        use CallKind::*;
        prop::sample::select(vec![Call, Sleep, Http, Checkpoint, Fork, Rollback])
    }

    fn pending() -> impl Strategy<Value = PendingCall> {
        (kinds(), any::<u64>(), any::<u64>()).prop_map(|(kind, due_ns, ticket)| PendingCall {
            kind,
            due_ns,
            ticket,
        })
    }

    fn file() -> impl Strategy<Value = OpenFile> {
        let what = prop_oneof![
            Just(FileKind::Stdin),
            Just(FileKind::Stdout),
            Just(FileKind::Stderr),
            (0u32..u32::MAX - 2).prop_map(FileKind::Node),
        ];
        (what, any::<u64>()).prop_map(|(what, position)| OpenFile { what, position })
    }

    prop_compose! {
        fn states()(
            head in any::<([u8; 32], [u8; 32], u128, [u8; 32])>(),
            agent_key in "[a-zé~/0-9]{0,60}",
            pages in 0..MEMORY_BYTES_MAX / WASM_PAGE_BYTES,
            globals in prop::collection::vec(any::<u64>(), 0..40),
            files in prop::collection::btree_map(any::<u32>(), file(), 0..20),
            (last_ns, offset_ns, position) in any::<(u64, i64, u64)>(),
            requests in prop::collection::btree_map(0..1u64 << 40, any::<u64>(), 0..20),
            calls in prop::collection::btree_map(0..1u64 << 40, pending(), 0..20),
            (request_more, call_more) in any::<(u32, u32)>(),
        ) -> HostState {
            let after = |last: Option<u64>, more: u32| last.unwrap_or(0) + 1 + u64::from(more);
            HostState {
                module: head.0,
                tree: head.1,
                agent: head.2,
                agent_key,
                memory_bytes: pages * WASM_PAGE_BYTES,
                globals,
                files,
                clock: Clock { last_ns, offset_ns },
                random: Random { seed: head.3, position },
                request_next: after(requests.keys().last().copied(), request_more),
                call_next: after(calls.keys().last().copied(), call_more),
                requests,
                calls,
            }
        }
    }

    fn encoded(state: &HostState) -> Vec<u8> {
        let mut bytes = vec![1, 2, 3];
        state.encode(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn k1_k2_states_survive_their_bytes_whatever_follows(
            state in states(),
            tail in any::<u8>(),
        ) {
            let mut bytes = encoded(&state);
            prop_assert!(bytes.len() <= HOST_BYTES);
            let len = bytes.len();
            bytes.resize(HOST_BYTES, tail);
            let decoded = HostState::decode(&bytes).expect("K2");
            prop_assert_eq!(&decoded, &state);
            prop_assert_eq!(encoded(&decoded), &bytes[..len]);
        }

        #[test]
        fn k2_bytes_cut_anywhere_are_refused(state in states()) {
            let bytes = encoded(&state);
            for len in 0..bytes.len() {
                prop_assert!(HostState::decode(&bytes[..len]).is_err(), "cut at {}", len);
            }
        }

        #[test]
        fn k2_damaged_bytes_are_refused_or_another_state(
            state in states(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = encoded(&state);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(decoded) = HostState::decode(&bytes) {
                prop_assert_eq!(encoded(&decoded), bytes);
            }
        }

        #[test]
        fn k2_any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = HostState::decode(&bytes);
            let mut headed = encoded(&HostState::new([0; 32], [0; 32], [0; 32]));
            let len = bytes.len().min(headed.len() - 6);
            headed[6..6 + len].copy_from_slice(&bytes[..len]);
            let _ = HostState::decode(&headed);
        }
    }

    #[test]
    fn k1_the_format_is_the_one_of_the_table() {
        let mut state = HostState::new([0xaa; 32], [0xbb; 32], [0xcc; 32]);
        (state.agent, state.agent_key) = (1, "py/a".to_owned());
        (state.memory_bytes, state.globals) = (65_536, vec![0x1122]);
        state.clock = Clock { last_ns: 5, offset_ns: -1 };
        state.random.position = 9;
        assert_eq!(state.open_request(77), Some(1));
        assert_eq!(state.open_call(CallKind::Sleep, 6), Some(1));
        state.bind_call(1, 8);
        let bytes = encoded(&state);
        let mut expected = b"HrnH\x01\0\x04\0".to_vec();
        let numbers = |expected: &mut Vec<u8>, all: &[u64]| {
            all.iter().for_each(|number| put(expected, *number));
        };
        expected.extend_from_slice(&301u32.to_le_bytes());
        expected.extend_from_slice(&[1, 0, 1, 0, 1, 0, 4, 0, 0, 0, 0, 0]);
        numbers(&mut expected, &[65_536, 2, 2, 5, u64::MAX, 9]);
        expected.extend_from_slice(&[0xcc; 32]);
        numbers(&mut expected, &[1, 0]);
        expected.extend_from_slice(&[0xaa; 32]);
        expected.extend_from_slice(&[0xbb; 32]);
        expected.extend_from_slice(b"py/a");
        numbers(&mut expected, &[0x1122, 1, 77, 1, 6, 8]);
        expected.push(2);
        for (fd, what) in [(0, u32::MAX), (1, u32::MAX - 1), (2, u32::MAX - 2), (3u32, 0)] {
            expected.extend_from_slice(&fd.to_le_bytes());
            expected.extend_from_slice(&what.to_le_bytes());
            expected.extend_from_slice(&[0; 8]);
        }
        assert_eq!(expected.len(), 301);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn k2_what_never_was_is_refused_by_name() {
        let state = HostState::new([0; 32], [0; 32], [0; 32]);
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = encoded(&state);
            change(&mut bytes);
            HostState::decode(&bytes).expect_err("refused")
        };
        let found = Format(Some(2));
        assert_eq!(refused(&|bytes| bytes[4] = 2), StateError::Format { found });
        assert_eq!(refused(&|bytes| bytes[0] = 0), StateError::Format { found: Format(None) });
        let range = |error| matches!(error, StateError::Range { .. });
        assert!(range(refused(&|bytes| bytes[13] = 0xff)), "globals");
        assert!(range(refused(&|bytes| bytes[20] = 1)), "reserved");
        assert!(range(refused(&|bytes| bytes[24] = 1)), "part of a page");
        assert!(range(refused(&|bytes| bytes[31] = 1)), "memory");
        let files = StateError::Order { field: "open files" };
        assert_eq!(refused(&|bytes| bytes[184 + 16] = 0), files);
    }
}
