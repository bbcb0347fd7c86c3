//! Reads of agents that are wanted again: all records of a chain at once.
//!
//! Owns: reads on their way, the files that are open for them.  Not: what the records say (the
//! engine), reading at a start (`log/scan.rs`).

use super::{Log, adopt};
use crate::connection::Mark;
use crate::driver::{Done, Driver, Handle, Op};
use heronry_engine::log::Place;
use heronry_engine::{AgentId, Nanos, Partition};
use std::io;
use std::rc::Rc;

/// Files that are open to read at a time.
const READERS_MAX: usize = 64;

/// One read of a record.
pub(super) struct Read {
    load: usize,
    at: usize,
}

/// The records of one agent, being read.
pub(super) struct Load {
    agent: AgentId,
    places: Rc<Vec<Place>>,
    records: Vec<Vec<u8>>,
    left: usize,
    failed: Option<i32>,
}

impl Log {
    /// Reads an agent's records.
    pub(crate) fn load<D: Driver>(
        &mut self,
        now: Nanos,
        agent: AgentId,
        places: Rc<Vec<Place>>,
        partition: &mut Partition,
        driver: &mut D,
    ) {
        let mut handles = Vec::with_capacity(places.len());
        for place in places.iter() {
            match self.reader(place.segment, driver) {
                Ok(handle) => handles.push(handle),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    return partition.loaded(now, agent, &places, Err(errno));
                }
            }
        }
        let left = places.len();
        let records = vec![Vec::new(); left];
        let entry = self.loads.vacant_entry();
        let load = entry.key();
        for (at, (place, file)) in places.iter().zip(handles).enumerate() {
            let read = self.reads.insert(Read { load, at });
            let token = Mark::LogRead(read as u32).token();
            let (offset, len_bytes) = (u64::from(place.offset), place.len_bytes);
            driver.submit(token, Op::Read { file, offset, len_bytes });
        }
        entry.insert(Load { agent, places, records, left, failed: None });
    }

    /// A read's completion.
    pub(super) fn read(&mut self, now: Nanos, idx: u32, done: Done<'_>, partition: &mut Partition) {
        let Read { load, at } = self.reads.remove(idx as usize);
        let wanted = &mut self.loads[load];
        match done {
            Done::Read(bytes) => wanted.records[at] = bytes,
            Done::Failed { errno } => wanted.failed = Some(errno),
            Done::Cancelled => wanted.failed = Some(libc::ECANCELED),
            other => unreachable!("G1: a read completed as {other:?}"),
        }
        wanted.left -= 1;
        if wanted.left > 0 {
            return;
        }
        let Load { agent, places, records, failed, .. } = self.loads.remove(load);
        let records = failed.map_or(Ok(records), Err);
        partition.loaded(now, agent, &places, records);
    }

    /// A handle to read a segment with; the one that was used longest ago is closed for it.
    fn reader<D: Driver>(&mut self, segment: u32, driver: &mut D) -> io::Result<Handle> {
        self.read_count += 1;
        if let Some((handle, used)) = self.readers.get_mut(&segment) {
            *used = self.read_count;
            return Ok(*handle);
        }
        if self.readers.len() >= READERS_MAX && self.reads.is_empty() {
            let oldest = self.readers.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = oldest.map(|(segment, _)| *segment);
            if let Some((handle, _)) = oldest.and_then(|segment| self.readers.remove(&segment)) {
                driver.submit(Mark::LogWrite.token(), Op::Close(handle));
            }
        }
        let handle = adopt(self.plan.files.open(segment)?, driver);
        self.readers.insert(segment, (handle, self.read_count));
        Ok(handle)
    }
}
