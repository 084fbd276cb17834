//! The core of one drive: events in, actions out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use drystone_store::api::{AppendError, DevOp, ObjectStore, Record, SpaceClass, StoreEvent, Stream};
use drystone_types::consts::Micros;
use drystone_types::{Buf, ClusterMap, Epoch, LayerId, PgId, PoolId, Rev, Version, VolumeId};
use smallvec::SmallVec;

use crate::api::{Action, Config, Event, PeerId, PeerInfo, Report};
use crate::bad_blocks::{BadBlocks, FoundBy};
use crate::bulk::Bulk;
use crate::cross_check::Compare;
use crate::freeing::Freeing;
use crate::limits::USAGE_PERIOD;
use crate::peer_check::Checks;
use crate::quiet::Quiet;
use crate::relay::Relays;
use crate::requests::Requests;
use crate::resync::source::CopyJobs;
use crate::scrub_pace::ScrubPace;
use crate::slab::Slab;
use crate::startup::StoredRole;
use crate::state::{Op, Parked, Pg, Then, Vol};
use crate::stats::Stats;
use crate::tables::Table;
use crate::ticket::Guests;

/// The replica rules of engine §4.3 for one drive, without I/O, clock or randomness.
pub struct Replica<S: ObjectStore> {
    pub(crate) cfg: Config,
    pub(crate) store: S,
    pub(crate) now: Micros,
    pub(crate) out: Vec<Action>,
    pub(crate) vols: Table<VolumeId, Vol>,
    pub(crate) pgs: Table<PgId, Pg>,
    pub(crate) map: Arc<ClusterMap>,
    /// Highest revision all of whose PGs are adopted here (R7).
    pub(crate) adopted_rev: Rev,
    pub(crate) peers: Table<u64, PeerInfo>,
    pub(crate) ops: Slab<Op>,
    /// Operations that wait for an admitted record.
    pub(crate) recs: Slab<SmallVec<[u64; 2]>>,
    pub(crate) parked: VecDeque<Parked>,
    pub(crate) parked_bytes: usize,
    /// Set while parked requests run for the last time.
    pub(crate) no_park: bool,
    /// Deadline that a request which is parked again keeps.
    pub(crate) park_deadline: Option<Micros>,
    pub(crate) need_map: Option<(Rev, Micros)>,
    pub(crate) lease_until: Micros,
    pub(crate) guests: Guests,
    pub(crate) freezes: Table<LayerId, Version>,
    pub(crate) stable_queue: VecDeque<(Micros, VolumeId)>,
    pub(crate) generations: BTreeMap<PoolId, crate::join::Generations>,
    pub(crate) relays: Relays,
    pub(crate) requests: Requests,
    pub(crate) repairs: BadBlocks,
    /// The comparison of a PG's copies that runs.
    pub(crate) compare: Option<Box<Compare>>,
    pub(crate) scrub_pace: ScrubPace,
    pub(crate) checks: Checks,
    pub(crate) copy_jobs: CopyJobs,
    pub(crate) bulk: Bulk,
    /// DIGEST requests of peers that wait for the store.
    pub(crate) digest_jobs: usize,
    /// PGs with a copy to make, and when one of them wants to be looked at again.
    pub(crate) resyncing: BTreeSet<PgId>,
    pub(crate) resync_wake: Option<Micros>,
    /// When this drive asks again to be dropped.
    pub(crate) leave_again: Option<Micros>,
    /// Promises to answer no reads that stand.
    pub(crate) quiet: Quiet,
    /// Layers freed lately: a peer that has not freed them yet still lists them.
    pub(crate) freed: VecDeque<LayerId>,
    /// What moves left here, and what of it is freed.
    pub(crate) freeing: Freeing,
    pub(crate) stored_pgs: Table<PgId, crate::startup::StoredPg>,
    /// What the log said of this drive's part at the open, where that counts; that it left is added as it leaves.
    pub(crate) noted: BTreeMap<PgId, (Epoch, StoredRole)>,
    pub(crate) dirty_pgs: VecDeque<(Micros, PgId)>,
    pub(crate) last_client: Micros,
    /// When a drive that this one copies from last said that clients work with it.
    pub(crate) told_clients: Option<Micros>,
    pub(crate) usage_at: Micros,
    pub(crate) failed: bool,
    /// The drive is being closed.
    pub(crate) stopping: bool,
    pub(crate) stats: Stats,
    pub(crate) dev: Vec<DevOp>,
}

impl<S: ObjectStore> Replica<S> {
    /// Handles one event; what must be done is appended to `out`. Device operations come from
    /// [`Replica::flush`], once for all events of a turn, so that they share a group.
    pub fn step(&mut self, now: Micros, event: Event, out: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.handle(event);
        out.append(&mut self.out);
    }

    /// Ends a turn: runs what is due and starts the device operations.
    pub fn flush(&mut self, now: Micros, out: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.timers();
        self.pump_compare();
        self.pace_scrub();
        self.take_store_events();
        self.poll_store();
        // A poll may find something that needs no device.
        self.take_store_events();
        // Behind what clients asked for: that is on its way by now.
        while self.run_bulk() {
            self.poll_store();
            self.take_store_events();
        }
        out.append(&mut self.out);
    }

    fn take_store_events(&mut self) {
        let mut events = Vec::new();
        loop {
            self.store.take_events(&mut events);
            if events.is_empty() {
                return;
            }
            events.drain(..).for_each(|e| self.on_store(e));
        }
    }

    /// When `Event::Tick` is due at the latest. A drive that failed has nothing to wait for: nothing that is due is done.
    pub fn next_deadline(&self) -> Option<Micros> {
        if self.failed {
            return self.leave_again;
        }
        let parked = self.parked.front().map(|p| p.deadline);
        let stable = self.stable_queue.front().map(|(at, _)| *at);
        let dirty = self.dirty_pgs.front().map(|(at, _)| *at);
        let generations = self.generations.values().filter_map(|g| g.again_at).min();
        [
            parked,
            stable,
            dirty,
            generations,
            self.requests.deadline(),
            self.relays.deadline(),
            self.resync_wake,
            self.leave_again,
            self.quiet.deadline(),
            self.repairs.deadline(),
            self.compare.as_ref().and_then(|c| c.deadline()),
            self.scrub_pace.deadline(),
            self.freeing.deadline(),
            Some(self.usage_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The drive's id.
    pub fn drive(&self) -> drystone_types::DriveId {
        self.cfg.drive
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats { unhealed: self.repairs.unhealed(), ..self.stats }
    }

    /// Operations that wait for the log or for a peer: requests of clients, mostly.
    pub fn open_ops(&self) -> usize {
        self.ops.len()
    }

    /// Whether its device failed: it answers nothing any more, and waits to be dropped.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Incarnation and revision of the metadata store as the newest map that was taken shows them.
    pub fn store_seen(&self) -> (u64, u64) {
        (u64::from(self.map.incarnation), self.map.revision.0)
    }

    /// The log, for oracles and space figures.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The log, to be changed by fault injection of tests and the simulator.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::PeerUp { peer, info } => {
                self.peers.insert(peer.0, info);
            }
            Event::PeerGone(peer) => {
                self.peers.remove(&peer.0);
                self.drop_asks_of(peer);
            }
            Event::Frame { peer, frame } => self.on_frame(peer, frame),
            Event::DriveReply { drive, frame } => self.on_drive_reply(drive, frame),
            Event::DriveDown { drive } => self.on_drive_down(drive),
            Event::Dev { id, result } => {
                let mut events = Vec::new();
                self.store.complete(id, result, &mut events);
                events.into_iter().for_each(|e| self.on_store(e));
            }
            Event::Map(map) => self.on_map(map),
            Event::Generations { pool, revision, list } => self.on_generations(pool, revision, &list),
            Event::Lease { valid_until } => self.lease_until = valid_until,
            Event::Control { id, req } => self.on_control(id, req),
            Event::Tick => {}
        }
    }

    fn on_store(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Durable(token) => self.on_durable(token),
            StoreEvent::Barrier(op) => self.finish(op),
            StoreEvent::Read(op, blocks) => self.on_read_done(op, blocks),
            StoreEvent::ReadExact(op, found) => self.on_read_exact_done(op, found),
            StoreEvent::Digest(op, objects) => self.on_digest_done(op, objects),
            StoreEvent::Failed(why) => self.fail(why),
            StoreEvent::Rotten(list) => self.repair_found(list, FoundBy::Scrub),
            StoreEvent::RottenMoved(list) => self.repair_found(list, FoundBy::Move),
            StoreEvent::ScrubDone(blocks, bad) => {
                self.repairs.scrub_walked(blocks, bad);
                self.pump_repairs();
            }
        }
    }

    /// Admits a record nobody or somebody waits for; the token can be waited on.
    pub(crate) fn append(
        &mut self,
        stream: Stream,
        space: SpaceClass,
        rec: Record,
        data: Buf,
    ) -> Result<u64, AppendError> {
        let token = self.recs.insert(SmallVec::new());
        let result = self.store.append(stream, space, rec, data, token);
        if let Err(error) = result {
            self.recs.remove(token);
            // A store that is being closed refuses everything too.
            if error == AppendError::Failed && !self.stopping {
                self.fail("the log refuses records");
            }
            return Err(error);
        }
        Ok(token)
    }

    /// Admits a small value in the reserve. The stream of small values keeps their order.
    pub(crate) fn append_meta(
        &mut self,
        key: drystone_store::api::MetaKey,
        value: Vec<u8>,
    ) -> Result<u64, AppendError> {
        self.append(Stream::Small, SpaceClass::Reserve, Record::Meta(key, value), Buf::empty())
    }

    /// Makes `op` wait for an admitted record; nothing to wait for when it is durable already.
    pub(crate) fn wait_on(&mut self, op: u64, token: u64) {
        let Some(waiters) = self.recs.get_mut(token) else { return };
        waiters.push(op);
        if let Some(op) = self.ops.get_mut(op) {
            op.left += 1;
        }
    }

    /// An operation that waits for `token` alone.
    pub(crate) fn then(&mut self, token: u64, then: Then) {
        let op = self.ops.insert(Op { left: 0, then });
        self.wait_on(op, token);
        self.settle(op);
    }

    /// Ends `op` now if it waits for nothing.
    pub(crate) fn settle(&mut self, op: u64) {
        if self.ops.get_mut(op).is_some_and(|o| o.left == 0) {
            self.finish(op);
        }
    }

    fn on_durable(&mut self, token: u64) {
        let Some(waiters) = self.recs.remove(token) else { return };
        for op in waiters {
            let Some(entry) = self.ops.get_mut(op) else { continue };
            entry.left = entry.left.saturating_sub(1);
            if entry.left == 0 {
                self.finish(op);
            }
        }
    }

    fn finish(&mut self, id: u64) {
        let Some(op) = self.ops.remove(id) else { return };
        match op.then {
            Then::WriteOk { peer, hdr } => self.finish_write(peer, hdr),
            Then::Persisted { peer, hdr } => self.finish_persisted(peer, &hdr),
            Then::SealDrained(job) => self.seal_drained(job),
            Then::SealDurable(job) => self.seal_durable(job),
            Then::JoinDrained(pgs) => self.join_drained(&pgs),
            Then::StableLogged(vol, stable) => self.stable_logged(vol, stable),
            Then::GrantLogged { vol, gen, bound, window } => self.grant_logged(vol, gen, bound, window),
            Then::ResyncLogged(bytes) => self.bulk.logged(bytes),
            Then::CopyDrained { pg, join, epoch } => self.copy_drained(pg, join, epoch),
            Then::RepairDone(key, block) => self.repair_done(key, block),
            Then::QuiesceLogged { pg, epoch, who } => self.quiesce_logged(pg, epoch, who),
            Then::LayerFreed { id, layer } => self.layer_freed(id, layer),
            Then::FreeStep(step) => self.free_step_done(step),
            Then::Control(id) => self.control_done(id),
            // These end with an answer of the store that carries data, never here.
            Then::Read { .. }
            | Then::ReadRoll { .. }
            | Then::SourceDigest { .. }
            | Then::SourceCopy(_)
            | Then::SourceCopyData { .. }
            | Then::OwnDigest { .. }
            | Then::RepairDigest(..)
            | Then::CompareDigest(_)
            | Then::CompareRead(_)
            | Then::CheckDigest { .. }
            | Then::AnswerCheckDigest { .. } => {}
        }
    }

    fn timers(&mut self) {
        if self.leave_again.is_some_and(|at| at <= self.now) {
            self.ask_to_leave();
        }
        if self.failed {
            return;
        }
        self.expire_parked();
        self.log_due_stables(self.now);
        self.log_due_pgs(self.now);
        self.ask_generations_again();
        self.expire_requests();
        self.relays.expire(self.now);
        self.resync_timers();
        self.repair_again();
        self.free_timers();
        self.tell_quiet();
        if self.now >= self.usage_at {
            self.usage_at = self.now + USAGE_PERIOD;
            let usage = self.store.take_usage();
            if !usage.is_empty() {
                self.report(Report::Usage(usage));
            }
        }
    }

    fn poll_store(&mut self) {
        let mut dev = core::mem::take(&mut self.dev);
        self.store.poll(&mut dev);
        self.out.extend(dev.drain(..).map(Action::Dev));
        self.dev = dev;
    }

    /// The device failed: nothing more becomes durable, so nothing more is answered OK.
    pub(crate) fn fail(&mut self, why: &'static str) {
        if self.failed {
            return;
        }
        self.failed = true;
        self.report(Report::DriveFailed(why));
        self.ask_to_leave();
        self.fail_open_requests();
    }

    pub(crate) fn report(&mut self, report: Report) {
        self.out.push(Action::Report(report));
    }

    /// States that an invariant of engine §4.6 holds at this point.
    pub(crate) fn assert_that(&mut self, holds: bool, what: &'static str) {
        if !holds {
            self.stats.invariants += 1;
            self.out.push(Action::Invariant(what));
        }
    }

    pub(crate) fn peer(&self, peer: PeerId) -> Option<PeerInfo> {
        self.peers.get(&peer.0).copied()
    }
}
