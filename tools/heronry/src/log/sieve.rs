//! The sieve: which agents a damaged log still gives, and as of when.
//!
//! Owns: telling records that may be used from those that rest on what is lost, what becomes of
//! each agent that the damage touches.  Not: following chains (the engine), reading (`walk.rs`).
//! V1  after damage an agent's records count only from where its chain begins anew: its own whole
//!     record, an index that holds its chain, a fork of an agent that counts. Until then it stays
//!     as it was before; what would change it is left out.
//! V2  every record of a chain that is kept was read and proved itself.
//! V3  of a record in parts, none counts that may have lost one.
//! V4  batches at the end whose flush is not whole are void.

use super::segment::{Segment, ShardLog};
use super::walk::{Damage, Spot, Step, Walked, walk};
use anyhow::Result;
use heronry_engine::log::batch::Batch;
use heronry_engine::log::{BatchHead, Kind, Place, RECORD_BYTES_MAX, Record, RecordError};
use heronry_engine::partition::{Awaits, Last, Recovery};
use heronry_engine::{AgentId, AgentKey, PAGE_BYTES, PageStore, Partition, PartitionConfig};
use heronry_engine::{ShardId, TenantId, template};
use std::collections::{BTreeMap, BTreeSet};

/// Bad records that are named one by one.
const BAD_RECORDS_MAX: usize = 100;
/// Pages of a partition whose agents stay in the log.
const STORE_PAGES: usize = 16;

/// What becomes of an agent that the damage touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It stays as it was before the damage.
    Back,
    /// No record gives it any more.
    Lost,
}

/// An agent that the damage touches.
#[derive(Clone, Debug)]
pub struct Touched {
    /// Its tenant and key, where a record that can be read names them.
    pub owner: Option<(TenantId, AgentKey)>,
    /// Records of it in lost batches, as far as these still name their agents.
    pub in_damage: u64,
    /// Records of it after the damage that rest on what is lost.
    pub left_out: u64,
    /// Records of its chain that cannot be read, or rest on one that cannot.
    pub unreadable: u64,
    /// What becomes of it.
    pub fate: Fate,
}

/// A record that makes no sense where it stands.
#[derive(Clone, Debug)]
pub struct BadRecord {
    /// Where its batch or it is.
    pub at: Spot,
    /// Number of its batch.
    pub sequence: u64,
    /// What is wrong.
    pub error: RecordError,
}

/// What a shard's log gives.
pub struct Sieved {
    /// The walk.
    pub walked: Walked,
    /// Agents that can be had, with their chains; the recovery has not ended.
    pub partition: Partition,
    /// The recovery.
    pub recovery: Recovery,
    /// Numbers that the lives of the shard gave.
    pub last: Last,
    /// Records by kind, in the order of [`Kind`].
    pub kinds: BTreeMap<u8, u64>,
    /// Records in whole batches.
    pub records: u64,
    /// The first of those that make no sense, and how many there are.
    pub bad: (Vec<BadRecord>, u64),
    /// Agents that the damage touches.
    pub touched: BTreeMap<AgentId, Touched>,
    /// Other agents that stay as they were before the damage: lost batches may have changed them.
    pub doubtful: u64,
    /// Where reading began: the first segment of a start, or an older one where the index is lost.
    pub from: u32,
}

impl Sieved {
    /// Whether nothing is lost or damaged.
    pub fn is_good(&self) -> bool {
        self.walked.damages.is_empty() && self.bad.1 == 0 && self.touched.is_empty()
    }
}

/// Reads a shard's log and sieves it.
pub fn sieve(log: &ShardLog) -> Result<Sieved> {
    let found = Sieve::new(log).run(log.first, None)?;
    // Without the index that a start begins with, what is left of older segments is looked at too.
    let headless = found.walked.damages.first().filter(|damage| damage.sequence.is_none());
    let oldest = log.segments.first().copied().unwrap_or(log.first);
    let Some(damage) = headless.filter(|_| oldest < log.first) else { return Ok(found) };
    let mut again = Sieve::new(log);
    again.distrust();
    let mut older = again.run(oldest, Some(damage).filter(|damage| damage.next.is_none()))?;
    (older.walked.damages, older.walked.torn) = (found.walked.damages, None);
    Ok(older)
}

/// A partition whose agents stay in the log.
pub(super) fn partition(shard: ShardId) -> Partition {
    let shard_count = shard.0 + 1;
    let config = PartitionConfig { shard, shard_count, log: true, ..Default::default() };
    let store = Box::leak(vec![0; STORE_PAGES * PAGE_BYTES].into_boxed_slice());
    Partition::new(config, PageStore::new(store), template::built_in())
}

struct Sieve<'a> {
    log: &'a ShardLog,
    sieved: Sieved,
    /// Batches of a flush that is not whole yet.
    held: Vec<Held>,
    epoch: u32,
    /// After damage: agents whose chains have begun anew (V1).
    fresh: Option<BTreeSet<AgentId>>,
    /// Whether the next record is the first after damage.
    first: bool,
    /// Whose parts are being left out (V3).
    cut: Option<AgentId>,
    /// The segment that a stub's places were looked up in last.
    open: Option<(u32, Segment)>,
}

/// A batch that waits for the end of its flush.
struct Held {
    spot: Spot,
    head: BatchHead,
    records: Vec<u8>,
    record_count: u32,
    len_bytes: usize,
}

impl<'a> Sieve<'a> {
    fn new(log: &'a ShardLog) -> Sieve<'a> {
        let partition = partition(ShardId(log.shard));
        let sieved = Sieved {
            walked: Walked::default(),
            partition,
            recovery: Recovery::default(),
            last: Last::default(),
            kinds: BTreeMap::new(),
            records: 0,
            bad: (Vec::new(), 0),
            touched: BTreeMap::new(),
            doubtful: 0,
            from: 0,
        };
        let (held, fresh, cut, open) = (Vec::new(), None, None, None);
        Sieve { log, sieved, held, epoch: 0, fresh, first: false, cut, open }
    }

    /// Reads from a segment on; `lost` is missing at the end, and the walk does not know it.
    fn run(mut self, from: u32, lost: Option<&Damage>) -> Result<Sieved> {
        let log = self.log;
        self.sieved.from = from;
        self.sieved.walked = walk(log, from, &mut |step| match step {
            Step::Batch(spot, batch) => self.hold(spot, batch),
            Step::Damage(damage) => {
                // Whether their flush was whole is lost: what they say is better than nothing.
                self.take_held()?;
                self.damage(damage);
                Ok(())
            }
        })?;
        if lost.is_some() {
            self.take_held()?;
        } else {
            // Of a flush that never was whole: void, as it is to a node.
            self.held.clear();
        }
        lost.into_iter().for_each(|damage| self.damage(damage));
        self.check_chains()?;
        self.settle();
        Ok(self.sieved)
    }

    /// From here on nothing counts that does not begin anew (V1).
    fn distrust(&mut self) {
        self.fresh = Some(BTreeSet::new());
        self.first = true;
        self.cut = None;
        self.sieved.recovery.forget_parts();
    }

    fn damage(&mut self, damage: &Damage) {
        self.distrust();
        for id in &damage.suspects {
            if self.sieved.partition.chain_places(*id).is_some() {
                self.touch(*id).in_damage += 1;
            }
        }
        for (kind, id, heading) in &damage.named {
            let changes = match kind {
                Kind::Whole | Kind::Split | Kind::Change | Kind::Fork => true,
                Kind::Part | Kind::Pages | Kind::End => true,
                Kind::Stub => self.sieved.partition.chain_places(*id).is_none(),
                Kind::Orphan | Kind::IndexBegin | Kind::IndexEnd => false,
            };
            if changes {
                let touched = self.touch(*id);
                touched.in_damage += 1;
                touched.owner = touched.owner.take().or_else(|| heading.owner.clone());
            }
        }
    }

    fn touch(&mut self, id: AgentId) -> &mut Touched {
        self.sieved.touched.entry(id).or_insert(Touched {
            owner: None,
            in_damage: 0,
            left_out: 0,
            unreadable: 0,
            fate: Fate::Lost,
        })
    }

    /// Takes a batch in once its flush is whole.
    fn hold(&mut self, spot: Spot, batch: Batch<'_>) -> Result<()> {
        let Batch { head, records, record_count, len_bytes } = batch;
        self.held.push(Held { spot, head, records: records.to_vec(), record_count, len_bytes });
        if batch.head.whole { self.take_held() } else { Ok(()) }
    }

    fn take_held(&mut self) -> Result<()> {
        for held in std::mem::take(&mut self.held) {
            let Held { spot, head, records, record_count, len_bytes } = held;
            self.batch(spot, Batch { head, records: &records, record_count, len_bytes })?;
        }
        Ok(())
    }

    fn batch(&mut self, spot: Spot, batch: Batch<'_>) -> Result<()> {
        let head = batch.head;
        let last = &mut self.sieved.last;
        last.call = last.call.max(head.call_last);
        last.request = last.request.max(head.request_last);
        if self.epoch != head.epoch {
            // What a life of the shard did not end to write does not go on in the next.
            self.sieved.recovery.forget_parts();
            self.epoch = head.epoch;
        }
        for (begins, record) in batch.iter() {
            let at = Spot { offset: spot.offset + begins as u32, ..spot };
            self.sieved.records += 1;
            let taken = match record {
                Ok(record) => self.record(record, at)?,
                Err(error) => {
                    // Those behind it cannot be told apart.
                    self.distrust();
                    Err(error)
                }
            };
            if let Err(error) = taken {
                self.sieved.bad.1 += 1;
                if self.sieved.bad.0.len() < BAD_RECORDS_MAX {
                    let sequence = head.sequence;
                    self.sieved.bad.0.push(BadRecord { at, sequence, error });
                }
            }
        }
        Ok(())
    }

    /// Takes a record in, or leaves it out; an error is of one that makes no sense.
    fn record(&mut self, record: Record<'_>, at: Spot) -> Result<Result<(), RecordError>> {
        *self.sieved.kinds.entry(record.kind as u8).or_default() += 1;
        let first = std::mem::take(&mut self.first);
        let cut = self.cut.take() == Some(record.id) || first;
        let len_bytes = record.len_bytes as u32;
        let place = Place { segment: at.segment, offset: at.offset, len_bytes };
        if record.kind.is_part() {
            if cut {
                self.cut = Some(record.id);
                return Ok(Ok(()));
            }
            return Ok(self.feed(record, place));
        }
        let heading = match record.heading() {
            Ok(heading) => heading,
            Err(error) => {
                self.sieved.recovery.forget_parts_of(record.id);
                self.doubt(record.id);
                return Ok(Err(error));
            }
        };
        // After parts that were left out, or where such may be lost (V3).
        let last_of_more = record.kind == Kind::Split || record.len_bytes >= RECORD_BYTES_MAX;
        let in_parts = cut && (!first || last_of_more);
        let counts = match record.kind {
            Kind::Whole | Kind::Split => !in_parts,
            Kind::Change => !in_parts && self.is_fresh(record.id),
            Kind::Fork => !in_parts && heading.from.is_none_or(|from| self.is_fresh(from)),
            Kind::Stub => self.fresh.is_none() || self.are_readable(&heading.places)?,
            _ => true,
        };
        if !counts {
            self.sieved.recovery.forget_parts_of(record.id);
            if record.kind != Kind::Stub {
                self.doubt(record.id);
                let touched = self.touch(record.id);
                touched.left_out += 1;
                touched.owner = touched.owner.take().or(heading.owner);
            }
            return Ok(Ok(()));
        }
        let taken = self.feed(record, place);
        match record.kind {
            _ if taken.is_err() => self.doubt(record.id),
            Kind::Whole | Kind::Split | Kind::Fork | Kind::Stub => {
                self.fresh.as_mut().map(|fresh| fresh.insert(record.id));
                self.sieved.touched.remove(&record.id);
            }
            Kind::End => self.ended(record.id),
            _ => {}
        }
        Ok(taken)
    }

    /// What becomes of an agent that ended is no question any more.
    fn ended(&mut self, id: AgentId) {
        self.fresh.as_mut().map(|fresh| fresh.remove(&id));
        self.sieved.touched.remove(&id);
    }

    fn feed(&mut self, record: Record<'_>, place: Place) -> Result<(), RecordError> {
        self.sieved.partition.recover(&mut self.sieved.recovery, record, place)
    }

    fn is_fresh(&self, id: AgentId) -> bool {
        self.fresh.as_ref().is_none_or(|fresh| fresh.contains(&id))
    }

    /// From here on this agent does not count until it begins anew.
    fn doubt(&mut self, id: AgentId) {
        let partition = &self.sieved.partition;
        let all = || partition.chains().map(|chain| chain.id).collect();
        self.fresh.get_or_insert_with(all).remove(&id);
    }

    fn are_readable(&mut self, places: &[Place]) -> Result<bool> {
        for place in places {
            if self.read(*place)?.is_none() {
                return Ok(false);
            }
        }
        Ok(!places.is_empty())
    }

    /// What the record at a place is, if it is one (V2).
    fn read(&mut self, place: Place) -> Result<Option<(Kind, AgentId, Awaits)>> {
        if self.open.as_ref().is_none_or(|(number, _)| *number != place.segment) {
            if !self.log.segments.contains(&place.segment) {
                return Ok(None);
            }
            self.open = Some((place.segment, self.log.segment(place.segment)?));
        }
        let Some((_, segment)) = &mut self.open else { return Ok(None) };
        let bytes = segment.at(place.offset.into(), place.len_bytes as usize)?;
        let record = Record::read(bytes).ok().filter(|record| record.len_bytes == bytes.len());
        Ok(record.map(|record| {
            let awaits = record.heading().map(|heading| heading.awaits).unwrap_or_default();
            (record.kind, record.id, awaits)
        }))
    }

    /// Reads every record of every chain, each once, and cuts chains at the first that is no use.
    fn check_chains(&mut self) -> Result<()> {
        let chains = self.sieved.partition.chains();
        let places: BTreeSet<Place> = chains.flat_map(|chain| chain.places).copied().collect();
        let mut bad = BTreeSet::new();
        for place in places {
            if self.read(place)?.is_none() {
                bad.insert(place);
            }
        }
        if bad.is_empty() {
            return Ok(());
        }
        let chains = self.sieved.partition.chains();
        let broken: Vec<(AgentId, TenantId, AgentKey)> = chains
            .filter(|chain| chain.places.iter().any(|place| bad.contains(place)))
            .map(|chain| (chain.id, chain.tenant, chain.key.clone()))
            .collect();
        for (id, tenant, key) in broken {
            self.touch(id).owner = Some((tenant, key));
            self.cut_chain(id, &bad)?;
        }
        Ok(())
    }

    /// Cuts a chain after the last record of its own agent before one that is bad.
    fn cut_chain(&mut self, id: AgentId, bad: &BTreeSet<Place>) -> Result<()> {
        let places = self.sieved.partition.chain_places(id).unwrap_or_default().to_vec();
        let good = places.iter().take_while(|place| !bad.contains(place)).count();
        let mut kept = (0, Awaits::Nothing);
        for count in (1..=good).rev() {
            let head = self.read(places[count - 1])?;
            let own = head.filter(|(kind, of, _)| !kind.is_part() && *of == id);
            if let Some((_, _, awaits)) = own {
                kept = (count, awaits);
                break;
            }
        }
        self.touch(id).unreadable = (places.len() - kept.0) as u64;
        self.sieved.partition.cut_chain(id, kept.0, kept.1);
        Ok(())
    }

    /// Says what becomes of the agents that are touched, and counts those that may be.
    fn settle(&mut self) {
        let sieved = &mut self.sieved;
        let mut doubtful = 0;
        for chain in sieved.partition.chains() {
            match sieved.touched.get_mut(&chain.id) {
                Some(touched) => {
                    touched.fate = Fate::Back;
                    touched.owner = Some((chain.tenant, chain.key.clone()));
                }
                None => {
                    let stale = self.fresh.as_ref().is_some_and(|fresh| !fresh.contains(&chain.id));
                    doubtful += u64::from(stale);
                }
            }
        }
        sieved.doubtful = doubtful;
    }
}
