//! The joining side: pages of changed chunks, worked on a few at a time. What becomes of one chunk is in `chunk`.

use drystone_store::api::ObjectStore;
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{DriveId, Epoch, Flags, Frame, Header, MsgType, ObjKey, PgId, Rule, Status, VolumeId};

use super::wire::{decode_list, encode_chunk_ask, encode_list_ask, encode_runs};
use super::{Fetch, Job, Phase, Resync};
use crate::api::{Action, Report};
use crate::limits::{
    COMPLETE_AGAIN, DIGEST_LIST_MAX, RESYNC_BACKOFF, RESYNC_BACKOFF_MAX, RESYNC_BUSY, RESYNC_IDLE, RESYNC_JOBS_MAX,
    RESYNC_TIMEOUT,
};
use crate::replica::Replica;
use crate::requests::Ask;
use crate::state::{Op, Role, Then};

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn is_copied(&self, pg: PgId, vol: VolumeId, key: ObjKey, block: u16) -> bool {
        let rs = self.pgs.get(&pg).and_then(|pg| pg.resync.as_ref());
        rs.is_some_and(|rs| rs.is_copied((vol, key.chunk), key.layer, block))
    }

    pub(crate) fn start_resync(&mut self, id: PgId) {
        let drive = self.cfg.drive;
        let Some(joiner) = self.pgs.get(&id).and_then(|pg| pg.rec.joiner(drive).copied()) else { return };
        // Content that failed its peer check, or was freed, is worth nothing, whatever the map remembers of it.
        let e0 = if self.checks.distrusts(id) || self.is_freed(id) { Epoch(0) } else { joiner.e0 };
        if let Some(pg) = self.pgs.get_mut(&id) {
            pg.resync = Some(Box::new(Resync::new(joiner.join_epoch, e0)));
        }
        self.resyncing.insert(id);
        self.pump(id);
    }

    pub(crate) fn end_resync(&mut self, id: PgId) {
        self.resyncing.remove(&id);
        let ended = self.pgs.get_mut(&id).and_then(|pg| pg.resync.take());
        if let Some(mut rs) = ended {
            self.tell_freed(id, &mut rs);
        }
    }

    /// The epoch moved under a copy of the same join: the cursor stays, requests of the old epoch
    /// are made again, and a finished copy must be proven in the new one.
    pub(crate) fn resync_new_epoch(&mut self, id: PgId) {
        let Some(mut rs) = self.take_resync(id) else { return };
        rs.requeue_all();
        let source = rs.source.filter(|s| self.pgs.get(&id).is_some_and(|pg| pg.rec.is_insync(*s)));
        rs.source = source;
        if matches!(rs.phase, Phase::Draining | Phase::Complete) {
            self.drain_copy(id, &mut rs);
        }
        self.put_resync(id, rs);
        self.pump(id);
    }

    pub(super) fn take_resync(&mut self, id: PgId) -> Option<Box<Resync>> {
        let pg = self.pgs.get_mut(&id)?;
        if matches!(pg.role, Role::Joining(_)) {
            pg.resync.take()
        } else {
            None
        }
    }

    pub(super) fn put_resync(&mut self, id: PgId, rs: Box<Resync>) {
        if let Some(pg) = self.pgs.get_mut(&id) {
            pg.resync = Some(rs);
        }
    }

    pub(crate) fn wake_at(&mut self, at: u64) {
        self.resync_wake = Some(self.resync_wake.map_or(at, |w| w.min(at)));
    }

    pub(crate) fn resync_timers(&mut self) {
        if self.resync_wake.is_none_or(|at| at > self.now) {
            return;
        }
        self.resync_wake = None;
        self.pump_each();
    }

    pub(crate) fn pump_each(&mut self) {
        for id in self.resyncing.clone() {
            self.pump(id);
        }
    }

    pub(crate) fn resync_room(&mut self) -> bool {
        if self.clients_active() {
            return self.copying() < RESYNC_BUSY && self.bulk.pace.may_start(self.now);
        }
        self.bulk.pace.free();
        self.copying() < RESYNC_IDLE
    }

    /// Starts whatever may start now.
    pub(crate) fn pump(&mut self, id: PgId) {
        let Some(mut rs) = self.take_resync(id) else { return };
        while self.pump_once(id, &mut rs) {}
        self.put_resync(id, rs);
    }

    pub(super) fn pump_all(&mut self, first: PgId) {
        self.pump(first);
        // Slots that this PG left free go to the others.
        if self.resync_room() {
            self.pump_each();
        }
    }

    fn pump_once(&mut self, id: PgId, rs: &mut Resync) -> bool {
        match rs.phase {
            Phase::Complete => {
                self.tell_complete(id, rs);
                return false;
            }
            Phase::Stopped => {
                self.tell_leaves(id, rs);
                return false;
            }
            Phase::Held if rs.tell_again > self.now => {
                self.wake_at(rs.tell_again);
                return false;
            }
            Phase::Held => rs.phase = Phase::NeedList,
            Phase::Draining | Phase::Listing => return false,
            Phase::NeedList | Phase::Page => {}
        }
        if rs.pause_until > self.now {
            self.wake_at(rs.pause_until);
            return false;
        }
        if rs.phase == Phase::Page && rs.queue.is_empty() && rs.jobs.is_empty() {
            self.end_page(id, rs);
            return true;
        }
        if !self.resync_room() {
            // Another PG's answer may free a slot without looking here.
            self.wake_at(self.now + RESYNC_BACKOFF);
            return false;
        }
        let Some(source) = self.source_of(id, rs) else {
            self.wake_at(self.now + RESYNC_BACKOFF);
            return false;
        };
        if rs.phase == Phase::NeedList {
            rs.phase = Phase::Listing;
            rs.listing = self.requests.next_id();
            let job = rs.listing;
            let hdr = Header { kind: MsgType::Digest, pg: id, ..Header::default() };
            self.ask(source, hdr, encode_list_ask(rs.e0, rs.cursor), Ask::List { pg: id, job }, RESYNC_TIMEOUT);
            return true;
        }
        self.next_copy(id, rs, source) || self.next_chunk(id, rs, source)
    }

    fn source_of(&self, id: PgId, rs: &mut Resync) -> Option<DriveId> {
        if rs.source.is_none() {
            let me = self.cfg.drive;
            rs.source = self.pgs.get(&id)?.rec.insync.iter().copied().find(|d| *d != me);
        }
        rs.source
    }

    fn next_copy(&mut self, id: PgId, rs: &mut Resync, source: DriveId) -> bool {
        let now = self.now;
        if let Some(at) = rs.jobs.values().filter(|j| !j.copies.is_empty()).map(|j| j.not_before).min() {
            if at > now {
                self.wake_at(at);
            }
        }
        let due = |j: &Job| !j.copies.is_empty() && j.not_before <= now;
        let Some((job, entry)) = rs.jobs.iter_mut().find(|(_, j)| due(j)) else { return false };
        let Some(Fetch { from, layer, runs }) = entry.copies.pop_front() else { return false };
        entry.in_flight += 1;
        let (vol, chunk) = entry.chunk;
        let count = runs.iter().map(|(_, n)| u32::from(*n)).sum();
        let hdr = Header {
            kind: MsgType::Copy,
            // What the source cannot read it shall name, block by block.
            flags: Flags::COPY.with(Flags::BAD),
            pg: id,
            vol,
            layer,
            block: chunk * u64::from(CHUNK_BLOCKS),
            count,
            ..Header::default()
        };
        let meta = encode_runs(&runs);
        let ask = Ask::Copy { pg: id, job: *job, layer, runs };
        self.ask(from.unwrap_or(source), hdr, meta, ask, RESYNC_TIMEOUT);
        true
    }

    fn next_chunk(&mut self, id: PgId, rs: &mut Resync, source: DriveId) -> bool {
        if rs.jobs.len() >= RESYNC_JOBS_MAX {
            return false;
        }
        let Some(chunk) = rs.queue.pop_front() else { return false };
        // Never used before, not even by an earlier join: a late answer finds nothing.
        let job = self.requests.next_id();
        rs.jobs.insert(job, Job::new(chunk));
        let hdr = Header { kind: MsgType::Digest, pg: id, vol: chunk.0, ..Header::default() };
        self.ask(source, hdr, encode_chunk_ask(chunk), Ask::Digest { pg: id, job }, RESYNC_TIMEOUT);
        let op = self.ops.insert(Op { left: 1, then: Then::OwnDigest { pg: id, job } });
        self.bulk.digests += 1;
        self.store.digest(chunk.0, chunk.1, op);
        true
    }

    /// Every chunk of the page is as the source has it.
    fn end_page(&mut self, id: PgId, rs: &mut Resync) {
        rs.done.clear();
        self.out.push(Action::Report(Report::Resync { pg: id, chunks: rs.chunks, bytes: rs.bytes }));
        match rs.page_end {
            Some(end) => {
                rs.cursor = Some(end);
                rs.phase = Phase::NeedList;
            }
            None => {
                self.put_lost(id, rs);
                if rs.phase != Phase::Stopped {
                    self.drain_copy(id, rs);
                }
            }
        }
    }

    /// "Kept" and "copied" count only when durable (R6b, B6).
    fn drain_copy(&mut self, id: PgId, rs: &mut Resync) {
        rs.phase = Phase::Draining;
        let epoch = self.pgs.get(&id).map_or(Epoch(0), |pg| pg.epoch());
        if !self.cfg.rules.on(Rule::CopyDurable) {
            self.lift_freed(id);
            self.copy_done(id, rs);
            return;
        }
        let op = self.ops.insert(Op { left: 0, then: Then::CopyDrained { pg: id, join: rs.join, epoch } });
        self.store.barrier(op);
    }

    pub(crate) fn copy_drained(&mut self, id: PgId, join: Epoch, epoch: Epoch) {
        let now = self.pgs.get(&id).map_or(Epoch(0), |pg| pg.epoch());
        let Some(mut rs) = self.take_resync(id) else { return };
        // A barrier of an older epoch or join proves nothing; the newer one is on its way.
        if rs.join == join && now == epoch && rs.phase == Phase::Draining {
            if self.lift_freed(id) {
                // That this is a whole copy again is durable before anybody counts on it: a restart would take
                // it for a freed one.
                self.drain_copy(id, &mut rs);
            } else {
                self.copy_done(id, &mut rs);
            }
        }
        self.put_resync(id, rs);
    }

    fn copy_done(&mut self, id: PgId, rs: &mut Resync) {
        rs.phase = Phase::Complete;
        rs.tell_again = 0;
        self.stats.copies_completed += 1;
        self.tell_freed(id, rs);
        self.tell_complete(id, rs);
    }

    fn tell_complete(&mut self, id: PgId, rs: &mut Resync) {
        if self.now >= rs.tell_again {
            rs.tell_again = self.now + COMPLETE_AGAIN;
            let epoch = self.pgs.get(&id).map_or(Epoch(0), |pg| pg.epoch());
            self.out.push(Action::CopyComplete { pg: id, epoch });
        }
        self.wake_at(rs.tell_again);
    }

    /// A joiner that cannot go on must not hold back the volume: it asks until it is dropped.
    fn tell_leaves(&mut self, id: PgId, rs: &mut Resync) {
        if self.failed {
            return;
        }
        if self.now >= rs.tell_again {
            rs.tell_again = self.now + COMPLETE_AGAIN;
            self.out.push(Action::LeavePg { pg: id, why: rs.leaves });
        }
        self.wake_at(rs.tell_again);
    }

    pub(crate) fn list_answered(&mut self, drive: DriveId, id: PgId, job: u64, frame: Option<Frame>) {
        let epoch = self.pgs.get(&id).map_or(Epoch(0), |pg| pg.epoch());
        let Some(mut rs) = self.take_resync(id) else { return };
        if rs.phase == Phase::Listing && rs.source == Some(drive) && rs.listing == job {
            match self.usable(&frame, epoch).map(|f| decode_list(&f.meta, rs.cursor)) {
                Some(Ok((more, list))) => self.begin_page(id, &mut rs, more, list),
                _ => {
                    rs.phase = Phase::NeedList;
                    self.source_failed(id, &mut rs, frame.map(|f| f.hdr.status));
                }
            }
        }
        self.put_resync(id, rs);
        self.pump_all(id);
    }

    /// The union of what changed there and here since e0, up to where both lists reach.
    fn begin_page(&mut self, id: PgId, rs: &mut Resync, more: bool, mut list: Vec<super::ChunkId>) {
        let ours = self.store.changed_chunks(id, rs.e0, rs.cursor, DIGEST_LIST_MAX);
        let their_end = if more { list.last().copied() } else { None };
        let our_end = if ours.len() >= DIGEST_LIST_MAX { ours.last().copied() } else { None };
        rs.page_end = match (their_end, our_end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        list.extend(ours);
        list.sort_unstable();
        list.dedup();
        rs.queue = list.into_iter().filter(|c| rs.page_end.is_none_or(|end| *c <= end)).collect();
        rs.done.clear();
        rs.phase = Phase::Page;
    }

    /// NACK and RETRY pass by themselves; anything else asks another in-sync member.
    pub(super) fn source_failed(&mut self, id: PgId, rs: &mut Resync, status: Option<Status>) {
        let passes = matches!(status, Some(Status::NackEpoch | Status::Retry));
        let mut pause = RESYNC_BACKOFF;
        if let Some(source) = rs.source.filter(|_| !passes) {
            let fails = rs.fails.entry(source).or_default();
            pause = (pause << (*fails).min(16)).min(RESYNC_BACKOFF_MAX);
            *fails = fails.saturating_add(1);
        }
        rs.pause_until = self.now + pause;
        self.wake_at(rs.pause_until);
        if passes {
            return;
        }
        self.stats.resync_source_changes += 1;
        let me = self.cfg.drive;
        let Some(pg) = self.pgs.get(&id) else { return };
        let others: Vec<DriveId> = pg.rec.insync.iter().copied().filter(|d| *d != me).collect();
        let at = others.iter().position(|d| Some(*d) == rs.source).map_or(0, |i| i + 1);
        rs.source = others.get(at).or(others.first()).copied();
    }
}
