//! One chunk of the copy: both digests, what differs, and the records that make ours equal.

use std::collections::{BTreeMap, VecDeque};

use drystone_store::api::{AppendError, BlockKind, BlockRecord, ObjectDigest, ObjectStore, Record, SpaceClass, Stream};
use drystone_types::consts::{BLOCK_SIZE, CHUNK_BLOCKS, FRAME_BLOCKS_MAX};
use drystone_types::{Buf, DriveId, Epoch, Frame, LayerId, ObjKey, PgId, Rule, Status, Version, VolumeId};

use super::compare::{cells, layers, object, pack, runs, todo, Todo};
use super::wire::{decode_cells, decode_digest, CopyCell};
use super::{Fetch, Phase, Resync};
use crate::limits::{RESYNC_BACKOFF, RESYNC_BLOCKS_BUSY};
use crate::replica::Replica;
use crate::state::Then;

/// What a source holds of a block; `None` = nothing.
type Held = Option<(BlockKind, Version)>;

/// A block that was fetched: its number, what it is, and the place of its data in the frame.
pub(super) type Copied = (u16, Held, Option<usize>);

impl<S: ObjectStore> Replica<S> {
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
    pub(super) fn usable<'a>(&self, frame: &'a Option<Frame>, epoch: Epoch) -> Option<&'a Frame> {
        frame.as_ref().filter(|f| f.hdr.status == Status::Ok && f.hdr.pg_epoch == epoch)
    }

    fn job_failed(&mut self, id: PgId, rs: &mut Resync, job: u64, drive: DriveId, frame: Option<Frame>, epoch: Epoch) {
        rs.requeue(job);
        if is_stale(&frame, epoch) {
            return;
        }
        if rs.source == Some(drive) {
            self.source_failed(id, rs, frame.map(|f| f.hdr.status));
        } else {
            rs.pause_until = self.now + RESYNC_BACKOFF;
            self.wake_at(rs.pause_until);
        }
    }

    pub(crate) fn own_digest(&mut self, id: PgId, job: u64, objects: Vec<ObjectDigest>) {
        self.bulk.digests = self.bulk.digests.saturating_sub(1);
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
        let most = if self.clients_active() { RESYNC_BLOCKS_BUSY } else { FRAME_BLOCKS_MAX };
        let mut copies = VecDeque::new();
        let mut own = BTreeMap::new();
        for layer in layers(&theirs, &ours) {
            let key = ObjKey { layer, chunk };
            let todos = self.differences(rs.join, key, object(&theirs, layer), object(&ours, layer));
            note_own(&mut own, layer, &todos, object(&ours, layer));
            let mut fetch = Vec::new();
            for (first, count, todo) in runs(&todos, most) {
                match todo {
                    Todo::Fetch => fetch.push((first, count)),
                    Todo::Forget => self.resync_put(id, rs, vol, key, (first, count), None, None),
                    Todo::Put(kind, version) => {
                        self.resync_put(id, rs, vol, key, (first, count), Some((kind, version)), None);
                    }
                }
            }
            copies.extend(pack(&fetch, most).into_iter().map(|runs| Fetch { from: None, layer, runs }));
        }
        if let Some(entry) = rs.jobs.get_mut(&job) {
            (entry.copies, entry.own) = (copies, own);
        }
        self.end_chunk(id, rs, job);
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

    /// Ends a chunk of which nothing is missing any more.
    fn end_chunk(&mut self, id: PgId, rs: &mut Resync, job: u64) {
        let rests = |rs: &Resync| {
            // What met no space is not copied: its blocks stay void (I9).
            let running = rs.phase != Phase::Stopped;
            running && rs.jobs.get(&job).is_some_and(|j| j.compared && j.copies.is_empty() && j.in_flight == 0)
        };
        if !rests(rs) {
            return;
        }
        self.plan_unread(id, rs, job);
        if !rests(rs) {
            return;
        }
        if let Some(entry) = rs.jobs.remove(&job) {
            rs.done.insert(entry.chunk);
            rs.lost.extend(entry.lost.into_iter().map(|(layer, block, v)| ((entry.chunk, layer, block), v)));
            rs.chunks += 1;
            self.stats.resync_chunks += 1;
            self.hold_lost(id, rs);
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
            let now = self.now;
            match (cells, frame) {
                (Some(cells), Some(f)) => {
                    let stable = self.vols.get(&chunk.0).map_or(Version::ZERO, |v| v.stable);
                    let cells = match rs.jobs.get_mut(&job) {
                        Some(entry) => entry.sort_out_unread(drive, layer, cells, (stable, now)),
                        None => Vec::new(),
                    };
                    rs.fails.remove(&drive);
                    self.apply_copy(id, &mut rs, chunk, layer, &cells, &f);
                    self.end_chunk(id, &mut rs, job);
                }
                // Another in-sync member, asked for what the source cannot read: it may be back soon, or is dropped.
                (None, f)
                    if rs.source != Some(drive)
                        && !is_stale(&f, epoch)
                        && rs.note_failed(job, drive, layer, asked, now) =>
                {
                    self.end_chunk(id, &mut rs, job);
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
        cells: &[Copied],
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
            let mapped = self.is_mapped(key, first);
            let same = |(i, (block, c, _)): (u16, &Copied)| {
                *c == cell
                    && *block == first + i
                    && self.is_mapped(key, *block) == mapped
                    && (i == 0 || self.store.since_join(key, *block) != Some(rs.join))
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

    fn is_mapped(&self, key: ObjKey, block: u16) -> bool {
        self.store.held(key, block) != drystone_store::api::Held::Absent
    }

    /// One record of the copy: it keeps the source's version, so what is above stable stays
    /// reported at the next attach (P4).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn resync_put(
        &mut self,
        id: PgId,
        rs: &mut Resync,
        vol: VolumeId,
        key: ObjKey,
        (first, count): (u16, u16),
        cell: Held,
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
        let adds = kind == BlockKind::Data && !(0..count).all(|i| self.is_mapped(key, first + i));
        // What replaces an older copy takes no room for good: a full cluster must be able to heal, as it takes
        // overwrites (I20). New space is taken above reserve and grants only.
        let space = if adds && self.cfg.rules.on(Rule::CopySpace) { SpaceClass::Free } else { SpaceClass::Reserve };
        let rec = if cell.is_some() { Record::Blocks(rec) } else { Record::Forget(rec) };
        match self.append(Stream::Large, space, rec, buf) {
            Ok(token) if cell.is_some() => {
                if bytes > 0 {
                    self.bulk.logging(bytes);
                    self.then(token, Then::ResyncLogged(bytes));
                }
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

/// Versions of the data of ours that is to be replaced by other data.
fn note_own(
    own: &mut BTreeMap<(LayerId, u16), Version>,
    layer: LayerId,
    todos: &[(u16, Todo)],
    ours: Option<&ObjectDigest>,
) {
    let fetched = |block: u16| todos.binary_search_by_key(&block, |t| t.0).ok().and_then(|i| todos.get(i));
    for run in ours.into_iter().flat_map(|o| &o.runs).filter(|r| r.kind == BlockKind::Data) {
        for block in (run.first..run.first + run.count).filter(|b| matches!(fetched(*b), Some((_, Todo::Fetch)))) {
            own.insert((layer, block), run.version);
        }
    }
}

/// An answer of another epoch says nothing about who gave it.
fn is_stale(frame: &Option<Frame>, epoch: Epoch) -> bool {
    frame.as_ref().is_some_and(|f| f.hdr.status == Status::Ok && f.hdr.pg_epoch != epoch)
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
        let place = if matches!(cell, CopyCell::Held(BlockKind::Data, _)) {
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
