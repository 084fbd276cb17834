//! The in-sync side: DIGEST, COPY and SCRUB, answered with what is durable, in exactly the
//! asker's epoch.

use std::collections::BTreeMap;

use drystone_store::api::{BlockKind, BlockRead, ObjectDigest, ObjectStore};
use drystone_types::consts::{CHUNK_BLOCKS, FRAME_META_MAX};
use drystone_types::{Flags, Frame, Header, ObjKey, Status, Version};

use super::compare::{cells, object, Cell};
use super::wire::{
    decode_digest_ask, decode_runs, decode_scrub_ask, encode_cells, encode_digest, encode_list, CopyCell, DigestAsk,
};
use super::ChunkId;
use crate::api::PeerId;
use crate::limits::{DIGEST_LIST_MAX, SOURCE_JOBS_MAX};
use crate::read::gather;
use crate::replica::Replica;
use crate::state::{Op, Refusal, Role, Then};

/// A COPY being answered: data and versions are read apart and must agree.
pub(crate) struct CopyJob {
    peer: PeerId,
    hdr: Box<Header>,
    runs: Vec<(u16, u16)>,
    digest: Option<Vec<ObjectDigest>>,
    data: Vec<Option<Vec<BlockRead>>>,
}

/// COPY requests being answered.
#[derive(Default)]
pub(crate) struct CopyJobs {
    next: u64,
    open: BTreeMap<u64, CopyJob>,
}

impl<S: ObjectStore> Replica<S> {
    /// In sync in exactly this epoch, and its re-stamping is durable.
    fn check_source(&mut self, h: &Header) -> Result<(), Refusal> {
        if self.check_epoch(h)? != Role::InSync {
            return Err(Refusal::NackEpoch);
        }
        let exact = self.pgs.get(&h.pg).is_some_and(|pg| pg.epoch() == h.pg_epoch);
        if !exact {
            return Err(Refusal::NackEpoch);
        }
        let gate = self.pgs.get(&h.pg).and_then(|pg| pg.gate);
        if gate.is_some_and(|token| self.recs.get_mut(token).is_some()) {
            return Err(Refusal::Retry);
        }
        Ok(())
    }

    pub(crate) fn on_digest(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        let h = &frame.hdr;
        self.check_source(h)?;
        match decode_digest_ask(&frame.meta).map_err(|_| Refusal::Invalid)? {
            DigestAsk::List { e0, after } => {
                let list = self.store.changed_chunks(h.pg, e0, after, DIGEST_LIST_MAX);
                self.stats.digests_served += 1;
                let meta = encode_list(list.len() >= DIGEST_LIST_MAX, &list);
                self.send(peer, h, Status::Ok, meta);
                Ok(())
            }
            DigestAsk::Chunk(chunk) => self.ask_digest(peer, h, chunk),
        }
    }

    /// SCRUB compares (version, checksum) lists of members at one epoch.
    pub(crate) fn on_scrub(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        self.check_source(&frame.hdr)?;
        let chunk = decode_scrub_ask(&frame.meta).map_err(|_| Refusal::Invalid)?;
        self.ask_digest(peer, &frame.hdr, chunk)
    }

    fn ask_digest(&mut self, peer: PeerId, h: &Header, chunk: ChunkId) -> Result<(), Refusal> {
        if self.digest_jobs >= SOURCE_JOBS_MAX {
            return Err(Refusal::Retry);
        }
        self.digest_jobs += 1;
        let op = self.ops.insert(Op { left: 1, then: Then::SourceDigest { peer, hdr: Box::new(*h) } });
        self.store.digest(chunk.0, chunk.1, op);
        Ok(())
    }

    pub(crate) fn on_digest_done(&mut self, op: u64, objects: Vec<ObjectDigest>) {
        let Some(op) = self.ops.remove(op) else { return };
        match op.then {
            Then::SourceDigest { peer, hdr } => self.answer_digest(peer, &hdr, &objects),
            Then::SourceCopy(job) => self.copy_digest(job, objects),
            Then::OwnDigest { pg, job } => self.own_digest(pg, job, objects),
            Then::CompareDigest(job) => self.compare_own_digest(job, objects),
            Then::RepairDigest(key, block) => self.repair_digest(key, block, &objects),
            Then::CheckDigest { pg, expect, trimmed } => self.check_digest(pg, &expect, trimmed, &objects),
            Then::AnswerCheckDigest { job, items } => self.answer_check_digest(job, &items, &objects),
            _ => {}
        }
    }

    fn answer_digest(&mut self, peer: PeerId, h: &Header, objects: &[ObjectDigest]) {
        self.digest_jobs = self.digest_jobs.saturating_sub(1);
        if let Err(refusal) = self.check_source(h) {
            self.refuse(peer, h, refusal);
            return;
        }
        let meta = encode_digest(objects);
        if meta.len() > FRAME_META_MAX {
            self.refuse(peer, h, Refusal::Eio);
            return;
        }
        self.stats.digests_served += 1;
        self.send(peer, h, Status::Ok, meta);
    }

    /// Requests of resync and repair being worked on for others.
    pub(crate) fn source_jobs(&self) -> usize {
        self.digest_jobs + self.copy_jobs.open.len()
    }

    pub(crate) fn on_copy(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        let h = &frame.hdr;
        self.check_source(h)?;
        if self.copy_jobs.open.len() >= SOURCE_JOBS_MAX {
            return Err(Refusal::Retry);
        }
        let runs = decode_runs(&frame.meta).map_err(|_| Refusal::Invalid)?;
        let chunk = h.block / u64::from(CHUNK_BLOCKS);
        self.copy_jobs.next += 1;
        let job = self.copy_jobs.next;
        let data = vec![None; runs.len()];
        let entry = CopyJob { peer, hdr: Box::new(*h), runs: runs.clone(), digest: None, data };
        self.copy_jobs.open.insert(job, entry);
        // Both resolve the index now; what changed under the device reads shows as a mismatch.
        let op = self.ops.insert(Op { left: 1, then: Then::SourceCopy(job) });
        self.store.digest_blocks(h.vol, ObjKey { layer: h.layer, chunk }, &runs, op);
        for (run, (first, count)) in runs.into_iter().enumerate() {
            let op = self.ops.insert(Op { left: 1, then: Then::SourceCopyData { job, run } });
            self.store.read(h.vol, &[h.layer], chunk, first, count, op);
        }
        Ok(())
    }

    fn copy_digest(&mut self, job: u64, objects: Vec<ObjectDigest>) {
        if let Some(entry) = self.copy_jobs.open.get_mut(&job) {
            entry.digest = Some(objects);
        }
        self.answer_copy(job);
    }

    pub(crate) fn copy_data(&mut self, job: u64, run: usize, blocks: Vec<BlockRead>) {
        if let Some(slot) = self.copy_jobs.open.get_mut(&job).and_then(|e| e.data.get_mut(run)) {
            *slot = Some(blocks);
        }
        self.answer_copy(job);
    }

    fn answer_copy(&mut self, id: u64) {
        let ready = |job: &CopyJob| job.digest.is_some() && job.data.iter().all(Option::is_some);
        if !self.copy_jobs.open.get(&id).is_some_and(ready) {
            return;
        }
        let Some(job) = self.copy_jobs.open.remove(&id) else { return };
        if let Err(refusal) = self.check_source(&job.hdr) {
            self.refuse(job.peer, &job.hdr, refusal);
            return;
        }
        match self.match_copy(&job) {
            Ok((cells, blocks)) => {
                self.stats.copies_served += 1;
                let (csums, data) = gather(&blocks);
                self.send_data(job.peer, &job.hdr, encode_cells(&cells), csums, data);
            }
            Err(status) => self.send(job.peer, &job.hdr, status, Vec::new()),
        }
    }

    /// Pairs every block's version with its bytes. What does not match its checksum is repaired here, and named to
    /// an asker that can ask elsewhere; another must come again.
    fn match_copy(&mut self, job: &CopyJob) -> Result<(Vec<CopyCell>, Vec<BlockRead>), Status> {
        let digest = job.digest.as_deref().unwrap_or(&[]);
        let held = cells(object(digest, job.hdr.layer));
        let names_bad = job.hdr.flags.has(Flags::BAD);
        let key = ObjKey { layer: job.hdr.layer, chunk: job.hdr.block / u64::from(CHUNK_BLOCKS) };
        let (mut out, mut blocks, mut corrupt) = (Vec::new(), Vec::new(), false);
        for ((first, count), data) in job.runs.iter().zip(&job.data) {
            let data = data.as_deref().unwrap_or(&[]);
            if data.len() != usize::from(*count) {
                return Err(Status::Eio);
            }
            for (block, read) in (*first..).zip(data) {
                let cell = held.get(usize::from(block)).copied().flatten();
                if matches!(read, BlockRead::Corrupt | BlockRead::Failed) {
                    let Some(cell) = cell.filter(|c| c.kind == BlockKind::Data) else { return Err(Status::Retry) };
                    self.stats.bad_blocks += 1;
                    self.repair_block(job.hdr.pg, job.hdr.vol, key, block);
                    corrupt = true;
                    // Only what was read and does not match is lost; nor is anything whose version is not known.
                    let known = *read == BlockRead::Corrupt && cell.version > Version::ZERO;
                    out.push(if known {
                        CopyCell::Held(BlockKind::Bad, cell.version)
                    } else {
                        CopyCell::Failed(cell.version)
                    });
                    blocks.push(BlockRead::Bad);
                    continue;
                }
                if !agree(cell, read) {
                    return Err(Status::Retry);
                }
                // Its header cannot be read, though a checksum in memory vouches for the bytes: a copy would keep them
                // with no version at all, as older than everything. Another member knows it.
                if cell.is_some_and(Cell::lost_version) {
                    self.repair_block(job.hdr.pg, job.hdr.vol, key, block);
                    corrupt = true;
                    out.push(CopyCell::Failed(Version::ZERO));
                    blocks.push(BlockRead::Bad);
                    continue;
                }
                out.push(cell.map_or(CopyCell::Absent, |c| CopyCell::Held(c.kind, c.version)));
                blocks.push(read.clone());
            }
        }
        if corrupt && !names_bad {
            return Err(Status::BadChecksum);
        }
        Ok((out, blocks))
    }
}

/// Whether a digest's cell and the bytes read describe the same entry.
fn agree(cell: Option<Cell>, read: &BlockRead) -> bool {
    match (cell.map(|c| (c.kind, c.csum)), read) {
        (Some((BlockKind::Data, csum)), BlockRead::Data(_, read)) => csum == *read,
        (None | Some((BlockKind::Hole, _)), BlockRead::Absent) => true,
        (Some((BlockKind::Hole | BlockKind::Zero, _)), BlockRead::Masked) => true,
        (Some((BlockKind::Bad, _)), BlockRead::Bad) => true,
        _ => false,
    }
}
