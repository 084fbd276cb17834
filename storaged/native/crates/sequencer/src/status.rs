//! `BlockStatus` from the CHUNK_MAPs of the own chain. A block counts as data when any layer maps
//! it, and wherever a parent is visible: saying "data" of zeros is allowed, the reverse would lose
//! data, and servers tell the maps of own layers only.

use drystone_types::consts::CHUNK_BLOCKS;

use crate::api::{Extent, IoError};
use crate::engine::Sequencer;
use crate::job::{span, Job, BLOCK, CHUNK};
use crate::read::{Owner, What};
use crate::reply::bit;

impl Sequencer {
    pub(crate) fn start_status_part(&mut self, j: u32) {
        let Some(job) = self.jobs.get_mut(j) else { return };
        let block = job.cursor;
        let count = span(block, job.end, CHUNK);
        job.cursor += u64::from(count);
        job.inflight += 1;
        let bytes = usize::try_from((job.end - job.start).div_ceil(8)).unwrap_or(0);
        job.mapped.resize(bytes, 0);
        self.ask_layer(j, 0, block);
    }

    /// Asks layer number `position` of the own chain for the chunk of `block`.
    fn ask_layer(&mut self, j: u32, position: u32, block: u64) {
        let Some((layer, _)) = self.ticket.chain.get(position as usize).copied() else {
            let visible = self.parents.first().map_or(0, |g| g.size.div_ceil(BLOCK));
            self.mark(j, block / CHUNK * CHUNK, |b| b < visible);
            return self.part_done(j, None);
        };
        let pg = self.pg_of(0, self.ticket.seed, block);
        let first = block / CHUNK * CHUNK;
        self.new_read(Owner::Status(j, position), What::Map(layer), pg, first, CHUNK_BLOCKS);
    }

    /// Notes which blocks of a chunk hold data; gives the first block asked for.
    fn mark(&mut self, j: u32, chunk_start: u64, data: impl Fn(u64) -> bool) -> Option<u64> {
        let job = self.jobs.get_mut(j)?;
        let (from, to) = (chunk_start.max(job.start), (chunk_start + CHUNK).min(job.end));
        for b in (from..to).filter(|b| data(*b)) {
            let i = b - job.start;
            if let Some(byte) = job.mapped.get_mut((i / 8) as usize) {
                *byte |= 1 << (i % 8);
            }
        }
        Some(from)
    }

    pub(crate) fn status_map(&mut self, j: u32, position: u32, chunk_start: u64, result: Result<Vec<u8>, IoError>) {
        let map = match result {
            Ok(map) => map,
            Err(e) => return self.part_done(j, Some(e)),
        };
        if let Some(from) = self.mark(j, chunk_start, |b| bit(&map, b - chunk_start)) {
            self.ask_layer(j, position + 1, from);
        }
    }

    /// CHUNK_MAP of the head, for a write that met a full drive.
    pub(crate) fn ask_mapped(&mut self, w: u32) {
        let Some(op) = self.writes.get(w) else { return };
        let (pg, block) = (op.pg, op.block / CHUNK * CHUNK);
        let Some(head) = self.ticket.head() else { return };
        self.new_read(Owner::Mapped(w), What::Map(head), pg, block, CHUNK_BLOCKS);
    }
}

/// Runs of the requested bytes.
pub(crate) fn extents(job: &Job) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for b in job.start..job.end {
        let from = (b * BLOCK).max(job.offset);
        let len = ((b + 1) * BLOCK).min(job.offset + job.len) - from;
        let data = bit(&job.mapped, b - job.start);
        match out.last_mut() {
            Some(last) if last.data == data => last.len += len,
            _ => out.push(Extent { len, data }),
        }
    }
    out
}
