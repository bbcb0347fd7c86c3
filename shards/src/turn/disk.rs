//! The part of the loop that serves the log.
//!
//! Owns: when a shard reads its log and when it writes.  Not: the log's own state (`log.rs`).
//! L1  a shard serves nobody before it knows which agents it has.
//! L2  a log that has failed ends the shard, which begins again from what is on disk.

use super::Shard;
use crate::driver::Driver;
use crate::gateway::Gateway;
use crate::log::scan::{self, Found, ScanError};
use crate::log::{Log, LogPlan};
use heronry_engine::log::Place;
use heronry_engine::{AgentId, AgentKey, Nanos, TenantId};
use std::rc::Rc;

/// Why a shard's loop ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// Its log cannot be used.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Its log cannot be written (L2).
    #[error("the log cannot be written: {0}; beginning again from what is on disk")]
    Write(String),
}

impl<D: Driver, G: Gateway> Shard<D, G> {
    /// Reads the log, if there is one; agents of an earlier life that it does not have are lost.
    pub(super) async fn recover(&mut self) -> Result<(), LoopError> {
        if let Some(mut plan) = self.log_plan.take() {
            let started = self.driver.now();
            self.block().beat(started);
            let block = self.shared.block(self.me);
            let beat = |now| block.beat(now);
            let (partition, driver) = (&mut self.partition, &mut self.driver);
            let (end, found) = scan::recover(self.me, &mut plan, partition, driver, &beat).await?;
            let took = self.driver.now().since(started);
            self.report_found(&found, took);
            self.begin_log(plan, end);
        }
        let past = std::mem::take(&mut self.past);
        if self.log.is_some() {
            // Whoever was told that they are on disk finds them; the others may make them anew.
            let is_gone = |(tenant, key): &(TenantId, AgentKey)| {
                self.partition.key_of(key.id(*tenant)).is_none()
            };
            let gone_count = past.iter().filter(|agent| is_gone(agent)).count();
            if gone_count > 0 {
                (self.plan.report)(format_args!(
                    "shard {}: {gone_count} agents that had just been made were not on disk yet",
                    self.me.0
                ));
            }
            return Ok(());
        }
        for (tenant, key) in past {
            self.partition.lose(std::iter::once(key), tenant);
        }
        let lost_count = self.partition.counters().lost;
        if lost_count > 0 {
            (self.plan.report)(format_args!(
                "shard {} starts again without {lost_count} agents that it lost; AGENT.LIST LOST \
                 names them, AGENT.CREATE starts each anew",
                self.me.0
            ));
        }
        Ok(())
    }

    fn begin_log(&mut self, plan: LogPlan, end: crate::log::End) {
        self.log = Some(Log::new(self.me, plan, end, self.plan.report));
    }

    fn report_found(&self, found: &Found, took: Nanos) {
        let Found { batches, records, bytes, torn, void, bad_records, agents } = *found;
        if batches == 0 {
            return;
        }
        let torn = if torn { "; the last batch was torn and is dropped" } else { "" };
        let void = match void {
            0 => String::new(),
            count => format!("; {count} batches of an unfinished flush are dropped"),
        };
        (self.plan.report)(format_args!(
            "shard {} has {agents} agents from its log: {batches} batches with {records} records, \
             {bytes} bytes, read in {} ms{torn}{void}",
            self.me.0,
            took.0 / 1_000_000
        ));
        if bad_records > 0 {
            (self.plan.report)(format_args!(
                "shard {}: {bad_records} records of the log make no sense where they stand; \
                 `heronry log verify` names them",
                self.me.0
            ));
        }
    }

    /// Writes what is due.
    pub(super) fn pump_log(&mut self, now: Nanos, hurry: bool) {
        let Some(log) = &mut self.log else { return };
        let again = log.pump(now, &mut self.partition, &mut self.driver, hurry);
        self.log_due = again.unwrap_or(Nanos(u64::MAX));
        log.make_room(now, &mut self.partition);
    }

    /// Whether something is not on disk that is to be.
    pub(super) fn is_log_behind(&self) -> bool {
        let behind = |log: &Log| self.partition.is_behind() || log.is_busy();
        self.log.as_ref().is_some_and(|log| log.failed().is_none() && behind(log))
    }

    pub(super) fn check_log(&self) -> Result<(), LoopError> {
        match self.log.as_ref().and_then(Log::failed) {
            Some(why) => Err(LoopError::Write(why.to_owned())),
            None => Ok(()),
        }
    }

    /// Brings an agent's records from the disk.
    pub(super) fn load(&mut self, now: Nanos, agent: AgentId, places: Rc<Vec<Place>>) {
        match &mut self.log {
            Some(log) => log.load(now, agent, places, &mut self.partition, &mut self.driver),
            None => self.partition.loaded(now, agent, &places, Err(libc::ENOENT)),
        }
    }
}
