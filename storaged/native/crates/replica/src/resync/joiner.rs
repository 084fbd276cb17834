//! The joining side: pages of changed chunks, compared and copied a few at a time.

use drystone_store::api::{AppendError, BlockKind, BlockRecord, ObjectDigest, ObjectStore, Record, SpaceClass, Stream};
use drystone_types::consts::{BLOCK_SIZE, CHUNK_BLOCKS};
use drystone_types::{
    Buf, DriveId, Epoch, Flags, Frame, Header, LayerId, MsgType, ObjKey, PgId, Rule, Status, Version, VolumeId,
};

use super::compare::{cells, layers, object, pack, runs, todo, Todo};
use super::wire::{decode_cells, decode_digest, decode_list, encode_chunk_ask, encode_list_ask, encode_runs, CopyCell};
use super::{Job, Phase, Resync};
use crate::api::{Action, LeaveWhy, Report};
use crate::limits::{
    COMPLETE_AGAIN, DIGEST_LIST_MAX, RESYNC_BACKOFF, RESYNC_BUSY, RESYNC_IDLE, RESYNC_IDLE_AFTER, RESYNC_TIMEOUT,
};
use crate::replica::Replica;
use crate::requests::Ask;
use crate::state::{Op, Role, Then};

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn is_copied(&self, pg: PgId, vol: VolumeId, chunk: u64) -> bool {
        self.pgs.get(&pg).and_then(|pg| pg.resync.as_ref()).is_some_and(|rs| rs.is_copied((vol, chunk)))
    }

    pub(crate) fn start_resync(&mut self, id: PgId) {
        let drive = self.cfg.drive;
        let Some(pg) = self.pgs.get_mut(&id) else { return };
        let Some(joiner) = pg.rec.joiner(drive).copied() else { return };
        pg.resync = Some(Box::new(Resync::new(joiner.join_epoch, joiner.e0)));
        self.resyncing.insert(id);
        self.pump(id);
    }

    pub(crate) fn end_resync(&mut self, id: PgId) {
        self.resyncing.remove(&id);
        if let Some(pg) = self.pgs.get_mut(&id) {
            pg.resync = None;
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

    fn take_resync(&mut self, id: PgId) -> Option<Box<Resync>> {
        let pg = self.pgs.get_mut(&id)?;
        if matches!(pg.role, Role::Joining(_)) {
            pg.resync.take()
        } else {
            None
        }
    }

    fn put_resync(&mut self, id: PgId, rs: Box<Resync>) {
        if let Some(pg) = self.pgs.get_mut(&id) {
            pg.resync = Some(rs);
        }
    }

    fn wake_at(&mut self, at: u64) {
        self.resync_wake = Some(self.resync_wake.map_or(at, |w| w.min(at)));
    }

    pub(crate) fn resync_timers(&mut self) {
        if self.resync_wake.is_none_or(|at| at > self.now) {
            return;
        }
        self.resync_wake = None;
        for id in self.resyncing.clone() {
            self.pump(id);
        }
    }

    fn resync_room(&self) -> bool {
        let idle = self.now.saturating_sub(self.last_client) > RESYNC_IDLE_AFTER;
        self.requests.resync < if idle { RESYNC_IDLE } else { RESYNC_BUSY }
    }

    /// Starts whatever may start now.
    pub(crate) fn pump(&mut self, id: PgId) {
        let Some(mut rs) = self.take_resync(id) else { return };
        while self.pump_once(id, &mut rs) {}
        self.put_resync(id, rs);
    }

    fn pump_all(&mut self, first: PgId) {
        self.pump(first);
        // Slots that this PG left free go to the others.
        if self.resync_room() {
            for id in self.resyncing.clone() {
                self.pump(id);
            }
        }
    }

    fn pump_once(&mut self, id: PgId, rs: &mut Resync) -> bool {
        match rs.phase {
            Phase::Complete => {
                self.tell_complete(id, rs);
                return false;
            }
            Phase::Stopped => {
                self.tell_no_space(id, rs);
                return false;
            }
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
        let Some((job, entry)) = rs.jobs.iter_mut().find(|(_, j)| !j.copies.is_empty()) else { return false };
        let Some((layer, runs)) = entry.copies.pop_front() else { return false };
        entry.in_flight += 1;
        let (vol, chunk) = entry.chunk;
        let count = runs.iter().map(|(_, n)| u32::from(*n)).sum();
        let hdr = Header {
            kind: MsgType::Copy,
            flags: Flags::COPY,
            pg: id,
            vol,
            layer,
            block: chunk * u64::from(CHUNK_BLOCKS),
            count,
            ..Header::default()
        };
        let meta = encode_runs(&runs);
        self.ask(source, hdr, meta, Ask::Copy { pg: id, job: *job, layer, runs }, RESYNC_TIMEOUT);
        true
    }

    fn next_chunk(&mut self, id: PgId, rs: &mut Resync, source: DriveId) -> bool {
        let Some(chunk) = rs.queue.pop_front() else { return false };
        // Never used before, not even by an earlier join: a late answer finds nothing.
        let job = self.requests.next_id();
        let entry = Job { chunk, theirs: None, ours: None, copies: Default::default(), in_flight: 0, compared: false };
        rs.jobs.insert(job, entry);
        let hdr = Header { kind: MsgType::Digest, pg: id, vol: chunk.0, ..Header::default() };
        self.ask(source, hdr, encode_chunk_ask(chunk), Ask::Digest { pg: id, job }, RESYNC_TIMEOUT);
        let op = self.ops.insert(Op { left: 1, then: Then::OwnDigest { pg: id, job } });
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
            None => self.drain_copy(id, rs),
        }
    }

    /// "Kept" and "copied" count only when durable (R6b, B6).
    fn drain_copy(&mut self, id: PgId, rs: &mut Resync) {
        rs.phase = Phase::Draining;
        let epoch = self.pgs.get(&id).map_or(Epoch(0), |pg| pg.epoch());
        let op = self.ops.insert(Op { left: 0, then: Then::CopyDrained { pg: id, join: rs.join, epoch } });
        self.store.barrier(op);
    }

    pub(crate) fn copy_drained(&mut self, id: PgId, join: Epoch, epoch: Epoch) {
        let now = self.pgs.get(&id).map_or(Epoch(0), |pg| pg.epoch());
        let Some(mut rs) = self.take_resync(id) else { return };
        // A barrier of an older epoch or join proves nothing; the newer one is on its way.
        if rs.join == join && now == epoch && rs.phase == Phase::Draining {
            rs.phase = Phase::Complete;
            rs.tell_again = 0;
            self.stats.copies_completed += 1;
            self.tell_complete(id, &mut rs);
        }
        self.put_resync(id, rs);
    }

    fn tell_complete(&mut self, id: PgId, rs: &mut Resync) {
        if self.now >= rs.tell_again {
            rs.tell_again = self.now + COMPLETE_AGAIN;
            let epoch = self.pgs.get(&id).map_or(Epoch(0), |pg| pg.epoch());
            self.out.push(Action::CopyComplete { pg: id, epoch });
        }
        self.wake_at(rs.tell_again);
    }

    /// A joiner without space must not hold back the volume's writes: it asks until it is dropped.
    fn tell_no_space(&mut self, id: PgId, rs: &mut Resync) {
        if self.failed {
            return;
        }
        if self.now >= rs.tell_again {
            rs.tell_again = self.now + COMPLETE_AGAIN;
            self.out.push(Action::LeavePg { pg: id, why: LeaveWhy::NoSpace });
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
    fn source_failed(&mut self, id: PgId, rs: &mut Resync, status: Option<Status>) {
        rs.pause_until = self.now + RESYNC_BACKOFF;
        self.wake_at(rs.pause_until);
        if matches!(status, Some(Status::NackEpoch | Status::Retry)) {
            return;
        }
        self.stats.resync_source_changes += 1;
        let me = self.cfg.drive;
        let Some(pg) = self.pgs.get(&id) else { return };
        let others: Vec<DriveId> = pg.rec.insync.iter().copied().filter(|d| *d != me).collect();
        let at = others.iter().position(|d| Some(*d) == rs.source).map_or(0, |i| i + 1);
        rs.source = others.get(at).or(others.first()).copied();
    }

    pub(crate) fn digest_answered(&mut self, drive: DriveId, id: PgId, job: u64, frame: Option<Frame>) {
        let epoch = self.pgs.get(&id).map_or(Epoch(0), |pg| pg.epoch());
        let Some(mut rs) = self.take_resync(id) else { return };
        if rs.jobs.contains_key(&job) {
            match self.usable(&frame, epoch).map(|f| decode_digest(&f.meta)) {
                Some(Ok(objects)) => {
                    if let Some(entry) = rs.jobs.get_mut(&job) {
                        entry.theirs = Some(objects);
                    }
                    self.compare(id, &mut rs, job);
                }
                _ => self.job_failed(id, &mut rs, job, drive, frame, epoch),
            }
        }
        self.put_resync(id, rs);
        self.pump_all(id);
    }

    /// An answer counts only in the epoch it was given in.
    fn usable<'a>(&self, frame: &'a Option<Frame>, epoch: Epoch) -> Option<&'a Frame> {
        frame.as_ref().filter(|f| f.hdr.status == Status::Ok && f.hdr.pg_epoch == epoch)
    }

    fn job_failed(&mut self, id: PgId, rs: &mut Resync, job: u64, drive: DriveId, frame: Option<Frame>, epoch: Epoch) {
        rs.requeue(job);
        let stale = frame.as_ref().is_some_and(|f| f.hdr.status == Status::Ok && f.hdr.pg_epoch != epoch);
        if !stale && rs.source == Some(drive) {
            self.source_failed(id, rs, frame.map(|f| f.hdr.status));
        }
    }

    pub(crate) fn own_digest(&mut self, id: PgId, job: u64, objects: Vec<ObjectDigest>) {
        let Some(mut rs) = self.take_resync(id) else { return };
        if let Some(entry) = rs.jobs.get_mut(&job) {
            entry.ours = Some(objects);
        }
        self.compare(id, &mut rs, job);
        self.put_resync(id, rs);
        self.pump_all(id);
    }

    /// Both digests are here: forget, put holes, and plan what to fetch.
    fn compare(&mut self, id: PgId, rs: &mut Resync, job: u64) {
        let Some(entry) = rs.jobs.get_mut(&job).filter(|j| !j.compared) else { return };
        if entry.theirs.is_none() || entry.ours.is_none() {
            return;
        }
        entry.compared = true;
        let theirs = entry.theirs.take().unwrap_or_default();
        let ours = entry.ours.take().unwrap_or_default();
        let (vol, chunk) = entry.chunk;
        let mut copies = std::collections::VecDeque::new();
        for layer in layers(&theirs, &ours) {
            let key = ObjKey { layer, chunk };
            let todos = self.differences(rs.join, key, object(&theirs, layer), object(&ours, layer));
            let mut fetch = Vec::new();
            for (first, count, todo) in runs(&todos) {
                match todo {
                    Todo::Fetch => fetch.push((first, count)),
                    Todo::Forget => self.resync_put(id, rs, vol, key, (first, count), None, None),
                    Todo::Put(kind, version) => {
                        self.resync_put(id, rs, vol, key, (first, count), Some((kind, version)), None);
                    }
                }
            }
            copies.extend(pack(&fetch).into_iter().map(|runs| (layer, runs)));
        }
        if let Some(entry) = rs.jobs.get_mut(&job) {
            entry.copies = copies;
        }
        self.end_chunk(rs, job);
    }

    fn differences(
        &mut self,
        join: Epoch,
        key: ObjKey,
        theirs: Option<&ObjectDigest>,
        ours: Option<&ObjectDigest>,
    ) -> Vec<(u16, Todo)> {
        let mut out = Vec::new();
        for (block, (their, our)) in (0u16..).zip(cells(theirs).into_iter().zip(cells(ours))) {
            let Some(todo) = todo(their, our) else { continue };
            if self.store.since_join(key, block) == Some(join) {
                self.stats.resync_kept += 1;
                continue;
            }
            let newer = our.map(|c| c.version) > their.map(|c| c.version);
            if newer && !self.cfg.rules.on(Rule::SourceWins) {
                continue;
            }
            out.push((block, todo));
        }
        out
    }

    fn end_chunk(&mut self, rs: &mut Resync, job: u64) {
        // What met no space is not copied: its blocks stay void (I9).
        if rs.phase == Phase::Stopped {
            return;
        }
        let ended = rs.jobs.get(&job).is_some_and(|j| j.compared && j.copies.is_empty() && j.in_flight == 0);
        if !ended {
            return;
        }
        if let Some(entry) = rs.jobs.remove(&job) {
            rs.done.insert(entry.chunk);
            rs.chunks += 1;
            self.stats.resync_chunks += 1;
        }
    }

    pub(crate) fn copy_answered(
        &mut self,
        drive: DriveId,
        id: PgId,
        job: u64,
        layer: LayerId,
        asked: &[(u16, u16)],
        frame: Option<Frame>,
    ) {
        let epoch = self.pgs.get(&id).map_or(Epoch(0), |pg| pg.epoch());
        let Some(mut rs) = self.take_resync(id) else { return };
        if let Some(entry) = rs.jobs.get_mut(&job) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
            let chunk = entry.chunk;
            let cells = self.usable(&frame, epoch).and_then(|f| checked_cells(f, chunk, asked));
            match (cells, frame) {
                (Some(cells), Some(f)) => {
                    self.apply_copy(id, &mut rs, chunk, layer, &cells, &f);
                    self.end_chunk(&mut rs, job);
                }
                // Bytes that do not match their checksums are as good as none: ask another.
                (None, f) => self.job_failed(id, &mut rs, job, drive, f.map(bad_if_ok), epoch),
                (Some(_), None) => {}
            }
        }
        self.put_resync(id, rs);
        self.pump_all(id);
    }

    /// Appends what was fetched, except blocks written directly in the meantime.
    fn apply_copy(
        &mut self,
        id: PgId,
        rs: &mut Resync,
        chunk: super::ChunkId,
        layer: LayerId,
        cells: &[(u16, CopyCell, Option<usize>)],
        frame: &Frame,
    ) {
        let key = ObjKey { layer, chunk: chunk.1 };
        let mut rest = cells;
        while let Some((first, cell, at)) = rest.first().copied() {
            if self.store.since_join(key, first) == Some(rs.join) {
                self.stats.resync_kept += 1;
                rest = rest.get(1..).unwrap_or(&[]);
                continue;
            }
            let same = |(i, (block, c, _)): (u16, &(u16, CopyCell, Option<usize>))| {
                *c == cell && *block == first + i && (i == 0 || self.store.since_join(key, *block) != Some(rs.join))
            };
            let n = (0u16..).zip(rest).take_while(|(i, c)| same((*i, c))).count();
            let count = u16::try_from(n).unwrap_or(1);
            let data = at.map(|at| {
                let csums: Vec<u64> = frame.csums.iter().skip(at).take(n).copied().collect();
                (csums, frame.data.slice(at * BLOCK_SIZE..(at + n) * BLOCK_SIZE))
            });
            self.resync_put(id, rs, chunk.0, key, (first, count), cell, data);
            rest = rest.get(n..).unwrap_or(&[]);
        }
    }

    /// One record of the copy: it keeps the source's version, so what is above stable stays
    /// reported at the next attach (P4).
    #[allow(clippy::too_many_arguments)]
    fn resync_put(
        &mut self,
        id: PgId,
        rs: &mut Resync,
        vol: VolumeId,
        key: ObjKey,
        (first, count): (u16, u16),
        cell: CopyCell,
        data: Option<(Vec<u64>, Buf)>,
    ) {
        if rs.phase == Phase::Stopped {
            return;
        }
        let pg_epoch = self.pgs.get(&id).map_or(Epoch(0), |pg| pg.epoch());
        self.assert_that(pg_epoch >= rs.join, "I9: a block is copied in an epoch before the join");
        let (kind, version) = cell.unwrap_or((BlockKind::Hole, Version::ZERO));
        let (csums, buf) = data.unwrap_or_default();
        let bytes = buf.len() as u64;
        let rec = BlockRecord {
            vol,
            key,
            pg: id,
            pg_epoch,
            first,
            count,
            kind,
            version,
            since_join: None,
            copy: true,
            csums,
        };
        let space = if kind == BlockKind::Data { SpaceClass::Free } else { SpaceClass::Reserve };
        let rec = if cell.is_some() { Record::Blocks(rec) } else { Record::Forget(rec) };
        match self.append(Stream::Large, space, rec, buf) {
            Ok(_) if cell.is_some() => {
                rs.bytes += bytes;
                self.stats.resync_bytes += bytes;
                self.stats.resync_blocks += u64::from(count);
            }
            Ok(_) => self.stats.resync_forgotten += u64::from(count),
            Err(AppendError::Full) => {
                rs.phase = Phase::Stopped;
                rs.tell_again = 0;
            }
            Err(_) => rs.phase = Phase::Stopped,
        }
    }
}

/// An OK answer that was refused for its bytes counts as a bad source.
fn bad_if_ok(mut frame: Frame) -> Frame {
    if frame.hdr.status == Status::Ok {
        frame.hdr.status = Status::BadChecksum;
    }
    frame
}

/// Pairs every asked block with its cell and, for data, its place in the frame; `None` when the
/// counts or a checksum do not fit.
fn checked_cells(
    frame: &Frame,
    (vol, chunk): super::ChunkId,
    asked: &[(u16, u16)],
) -> Option<Vec<(u16, CopyCell, Option<usize>)>> {
    let cells = decode_cells(&frame.meta).ok()?;
    let blocks = asked.iter().flat_map(|(first, count)| *first..first + count);
    let mut out = Vec::with_capacity(cells.len());
    let mut at = 0usize;
    for (block, cell) in blocks.clone().zip(&cells) {
        let place = if matches!(cell, Some((BlockKind::Data, _))) {
            let number = chunk * u64::from(CHUNK_BLOCKS) + u64::from(block);
            let csum = frame.csums.get(at)?;
            if drystone_csum::block_csum(vol, number, frame.data.block(at).as_slice()) != *csum {
                return None;
            }
            at += 1;
            Some(at - 1)
        } else {
            None
        };
        out.push((block, *cell, place));
    }
    let whole = blocks.count() == cells.len() && at == frame.csums.len() && frame.data.len() == at * BLOCK_SIZE;
    whole.then_some(out)
}
