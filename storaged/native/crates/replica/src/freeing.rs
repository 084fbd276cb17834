//! What a move leaves behind on a drive that stays is freed, once nobody can want it any more (ADR 20).
//!
//! The proof is a map: it neither wants nor remembers this drive for the PG, so that any later join copies everything.
//! Absence of a PG from a map proves nothing. A mark is durable before the first block goes: from then on the copy
//! counts for nothing, whatever a map says, until a whole copy was made again.

use std::collections::BTreeMap;

use drystone_store::api::{BlockKind, BlockRecord, MetaKey, ObjectStore, Record, SpaceClass, Stream};
use drystone_types::consts::{Micros, CHUNK_BLOCKS};
use drystone_types::{Buf, DriveId, Epoch, ObjKey, PgId, PgRecord, PoolMap, Rule, Version, VolumeId};

use crate::api::Report;
use crate::limits::{FREE_AFTER, FREE_BATCH, FREE_LOOK, FREE_PAUSE_BUSY, FREE_STEP};
use crate::replica::Replica;
use crate::startup::{StoredPg, StoredRole};
use crate::state::{Op, Role, Then};

const OLD_MAP: &str = "the map shows a group in an older epoch than what this drive holds of it: the metadata store \
                       may be an old backup, nothing is freed";

/// An object, as the index is walked.
type At = (VolumeId, ObjKey);

/// Where the freeing of a PG stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Every object is older than the map.
    Checking,
    /// The mark is on its way to the log.
    Marking,
    /// Objects go.
    Freeing,
    /// All of them went: waiting until it is durable.
    Draining,
}

/// The PG that is freed now.
#[derive(Debug)]
struct Job {
    pg: PgId,
    phase: Phase,
    after: Option<At>,
    /// The record whose end is awaited; `None` = the next step is due at `at`.
    waits: Option<u64>,
    at: Micros,
}

/// What moves left here.
#[derive(Debug, Default)]
pub(crate) struct Freeing {
    /// PGs whose copy counts for nothing, with the epoch in which that was so.
    marks: BTreeMap<PgId, Epoch>,
    /// Newest epoch in which this drive was a member, since its open.
    member: BTreeMap<PgId, Epoch>,
    /// Since when nobody wants a PG, as far as it was looked at.
    since: BTreeMap<PgId, Micros>,
    /// PGs of which something is newer than the epoch that the map showed.
    refused: BTreeMap<PgId, Epoch>,
    look: Option<Micros>,
    job: Option<Job>,
    steps: u64,
}

impl Freeing {
    pub(crate) fn mark(&mut self, id: PgId, epoch: Epoch) {
        self.marks.insert(id, epoch);
    }
    pub(crate) fn member_in(&mut self, id: PgId, epoch: Epoch) {
        self.member.insert(id, epoch);
    }
    pub(crate) fn is_marked(&self, id: PgId) -> bool {
        self.marks.contains_key(&id)
    }
    pub(crate) fn marked(&self) -> Vec<PgId> {
        self.marks.keys().copied().collect()
    }
    pub(crate) fn look_at(&mut self, at: Micros) {
        self.look = Some(self.look.map_or(at, |look| look.min(at)));
    }
    pub(crate) fn deadline(&self) -> Option<Micros> {
        let step = self.job.as_ref().filter(|job| job.waits.is_none()).map(|job| job.at);
        [self.look, step].into_iter().flatten().min()
    }
}

impl<S: ObjectStore> Replica<S> {
    /// Whether this drive freed what it held of a PG, and has no whole copy again.
    pub(crate) fn is_freed(&self, id: PgId) -> bool {
        self.freeing.is_marked(id) && self.cfg.rules.on(Rule::FreedBlank)
    }

    /// A map that has a freed copy in sync is an old one: the PG stays closed here. Where a person declared every
    /// copy lost, what is left here is all there is.
    pub(crate) fn close_freed(&mut self, id: PgId) {
        if !self.is_freed(id) {
            return;
        }
        let (me, mark) = (self.cfg.drive, self.freeing.marks.get(&id).copied().unwrap_or_default());
        let Some(pg) = self.pgs.get_mut(&id).filter(|pg| pg.role == Role::InSync) else { return };
        if is_heir(&pg.rec, me) && pg.rec.epoch > mark {
            self.freeing.marks.remove(&id);
        } else {
            pg.checking = true;
        }
    }

    /// The copy is whole again: logs that, and tells whether there was a mark.
    pub(crate) fn lift_freed(&mut self, id: PgId) -> bool {
        let lifted = self.freeing.marks.remove(&id).is_some();
        if lifted {
            self.log_pg(id);
        }
        lifted
    }

    pub(crate) fn free_timers(&mut self) {
        if self.freeing.look.is_some_and(|at| at <= self.now) {
            self.look_what_is_left();
        }
        if self.freeing.job.as_ref().is_some_and(|job| job.waits.is_none() && job.at <= self.now) {
            self.free_next();
        }
    }

    /// Which PGs are here without this drive being a member, and since when nobody wants them.
    fn look_what_is_left(&mut self) {
        self.freeing.look = None;
        let left: Vec<PgId> = self.store.groups().into_iter().filter(|id| !self.pgs.contains_key(id)).collect();
        let now = self.now;
        let mut since = core::mem::take(&mut self.freeing.since);
        since.retain(|id, _| left.contains(id));
        for id in &left {
            if self.unwanted(*id).is_some_and(|epoch| self.freeing.refused.get(id) != Some(&epoch)) {
                since.entry(*id).or_insert(now);
            } else {
                since.remove(id);
            }
        }
        let due = since.iter().find(|(_, at)| **at + FREE_AFTER <= now).map(|(id, _)| *id);
        self.freeing.since = since;
        if let (Some(pg), None) = (due, &self.freeing.job) {
            self.freeing.job = Some(Job { pg, phase: Phase::Checking, after: None, waits: None, at: now });
        }
        if !left.is_empty() {
            self.freeing.look_at(now + FREE_LOOK);
        }
    }

    /// The epoch in which the newest map shows that nobody can want what is here of a PG; `None` = that is not so, or
    /// cannot be told. The lease says that no newer map is known to a majority.
    fn unwanted(&self, id: PgId) -> Option<Epoch> {
        let rules = self.cfg.rules;
        let serves = !self.failed && !self.stopping && !self.cfg.suspect && self.lease_until > self.now;
        if !serves || self.adopted_rev != self.map.revision || self.pgs.contains_key(&id) {
            return None;
        }
        let pool = self.map.pool(id.pool)?;
        let rec = pool.pg(id.pg)?;
        if is_wanted(rec, self.cfg.drive) && rules.on(Rule::FreeUnwanted) {
            return None;
        }
        if !self.is_whole(rec, pool) && rules.on(Rule::FreeWhole) {
            return None;
        }
        let left = self.freeing.member.get(&id).is_none_or(|epoch| rec.epoch > *epoch);
        let newer = left
            && match self.freeing.marks.get(&id) {
                Some(mark) => rec.epoch >= *mark,
                None => self.stored_pgs.get(&id).is_none_or(|stored| rec.epoch > stored.epoch),
            };
        (newer || !rules.on(Rule::FreeEpoch)).then_some(rec.epoch)
    }

    /// Every place has a copy that is in sync on a drive that is up.
    fn is_whole(&self, rec: &PgRecord, pool: &PoolMap) -> bool {
        let up = |d: &DriveId| self.map.drive(*d).is_some_and(|info| info.state == 0);
        let places = rec.target.len() >= usize::from(pool.copies.max(1));
        places && rec.target.iter().all(|d| rec.is_insync(*d) && up(d))
    }

    /// The next step, if everything that the last one rested on still holds.
    fn free_next(&mut self) {
        let Some(mut job) = self.freeing.job.take() else { return };
        let Some(epoch) = self.unwanted(job.pg) else {
            self.freeing.since.remove(&job.pg);
            return;
        };
        let batch = self.store.objects_of(job.pg, job.after, FREE_BATCH);
        if batch.iter().any(|(_, _, last_mod)| *last_mod > epoch) && self.cfg.rules.on(Rule::FreeEpoch) {
            self.stats.free_refused += 1;
            self.freeing.refused.insert(job.pg, epoch);
            self.freeing.since.remove(&job.pg);
            return self.report(Report::MapRefused(OLD_MAP));
        }
        job.after = batch.last().map(|(vol, key, _)| (*vol, *key));
        job.at = self.now + FREE_STEP;
        let goes_on = match job.phase {
            Phase::Checking if !batch.is_empty() => true,
            Phase::Checking => self.free_mark(&mut job, epoch),
            Phase::Freeing if batch.is_empty() => self.free_drain(&mut job),
            Phase::Freeing => self.free_batch(&mut job, epoch, &batch),
            // These end with a record.
            Phase::Marking | Phase::Draining => false,
        };
        self.freeing.job = Some(job).filter(|_| goes_on);
    }

    /// From here on the copy counts for nothing; no block goes before that is durable.
    fn free_mark(&mut self, job: &mut Job, epoch: Epoch) -> bool {
        if !self.cfg.rules.on(Rule::FreeMark) {
            job.phase = Phase::Freeing;
            return true;
        }
        // With the first block that goes, the generations and seals of the copy's last join say nothing either.
        let stored = StoredPg { epoch, join: Epoch(0), ..self.stored_pgs.get(&job.pg).copied().unwrap_or_default() };
        self.freeing.mark(job.pg, epoch);
        self.noted.insert(job.pg, (epoch, StoredRole::Freed));
        let role = self.append_meta(StoredRole::key(job.pg), StoredRole::Freed.encode(epoch));
        let logged = role.and_then(|_| self.append_meta(MetaKey::Adopt(job.pg), stored.encode()));
        // One stream keeps their order: the role is durable with what it counts with.
        let Ok(token) = logged else { return false };
        self.stored_pgs.insert(job.pg, stored);
        job.phase = Phase::Marking;
        self.free_waits(job, token);
        true
    }

    fn free_batch(&mut self, job: &mut Job, epoch: Epoch, batch: &[(VolumeId, ObjKey, Epoch)]) -> bool {
        self.report(Report::Freeing { pg: job.pg });
        let mut last = None;
        for (vol, key, _) in batch {
            let rec = forget(job.pg, *vol, *key, epoch);
            // Refused only by a drive that failed or is closed.
            let Ok(token) = self.append(Stream::Small, SpaceClass::Reserve, Record::Forget(rec), Buf::empty()) else {
                return false;
            };
            self.stats.objects_freed += 1;
            last = Some(token);
        }
        // The last of one stream is durable after all of them.
        if let Some(token) = last {
            self.free_waits(job, token);
        }
        true
    }

    fn free_waits(&mut self, job: &mut Job, token: u64) {
        let step = self.next_step(job);
        self.then(token, Then::FreeStep(step));
    }

    fn next_step(&mut self, job: &mut Job) -> u64 {
        self.freeing.steps += 1;
        job.waits = Some(self.freeing.steps);
        self.freeing.steps
    }

    fn free_drain(&mut self, job: &mut Job) -> bool {
        job.phase = Phase::Draining;
        let step = self.next_step(job);
        let op = self.ops.insert(Op { left: 0, then: Then::FreeStep(step) });
        self.store.barrier(op);
        true
    }

    /// A step is durable. It may be one of a job that was given up.
    pub(crate) fn free_step_done(&mut self, step: u64) {
        let pause = if self.clients_active() { FREE_PAUSE_BUSY } else { 0 };
        let now = self.now;
        let Some(job) = self.freeing.job.as_mut().filter(|job| job.waits == Some(step)) else { return };
        (job.waits, job.at) = (None, now + pause);
        match job.phase {
            Phase::Marking => (job.phase, job.after) = (Phase::Freeing, None),
            Phase::Draining => self.end_freeing(),
            Phase::Checking | Phase::Freeing => {}
        }
    }

    fn end_freeing(&mut self) {
        let Some(job) = self.freeing.job.take() else { return };
        self.freeing.since.remove(&job.pg);
        if self.unwanted(job.pg).is_none() {
            return;
        }
        // Nobody will ask for what was deleted here.
        self.store.clear_join(job.pg);
        self.store.set_oldest_out(job.pg, None);
        if self.store.objects_of(job.pg, None, 1).is_empty() {
            self.stats.groups_freed += 1;
            self.report(Report::Freed { pg: job.pg });
        }
    }
}

/// Whether anybody may count on what a drive holds of a PG, now or when it comes back.
fn is_wanted(rec: &PgRecord, me: DriveId) -> bool {
    rec.is_member(me) || rec.target.contains(&me) || rec.out.iter().any(|out| out.drive == me)
}

/// What `pool mark-lost` leaves: one drive in sync, and all others remembered as blank ones.
fn is_heir(rec: &PgRecord, me: DriveId) -> bool {
    let blank = !rec.out.is_empty() && rec.out.iter().all(|out| out.e0 == Epoch(0));
    rec.insync.as_slice() == [me] && rec.joining.is_empty() && blank
}

/// The whole object goes.
fn forget(pg: PgId, vol: VolumeId, key: ObjKey, epoch: Epoch) -> BlockRecord {
    BlockRecord {
        vol,
        key,
        pg,
        pg_epoch: epoch,
        first: 0,
        count: CHUNK_BLOCKS as u16,
        kind: BlockKind::Hole,
        version: Version::ZERO,
        since_join: None,
        copy: true,
        csums: Vec::new(),
    }
}
