//! 512-byte requests: a partial block is read, verified, changed and written whole, under the
//! exclusive lock of the request and as one version.

use drystone_types::consts::BLOCK_SIZE;
use drystone_types::{Buf, BufMut};
use smallvec::SmallVec;

use crate::api::{IoError, Pieces};
use crate::engine::Sequencer;
use crate::job::{Edge, Job, JobKind, BLOCK};
use crate::read::Owner;

/// Ragged blocks of the bytes `offset..end`, ascending; none when both are multiples of 4096.
pub(crate) fn edges(offset: u64, end: u64) -> SmallVec<[Edge; 2]> {
    let mut out = SmallVec::new();
    let within = |b: u64| usize::try_from(b % BLOCK).unwrap_or(0);
    let (first, last) = (offset / BLOCK, end / BLOCK);
    if offset % BLOCK != 0 {
        let to = if first == last { within(end) } else { BLOCK_SIZE };
        out.push(Edge { block: first, from: within(offset), to, buf: Buf::empty() });
    }
    if end % BLOCK != 0 && (offset % BLOCK == 0 || first != last) {
        out.push(Edge { block: last, from: 0, to: within(end), buf: Buf::empty() });
    }
    out
}

impl Sequencer {
    pub(crate) fn read_edges(&mut self, j: u32) {
        let Some(job) = self.jobs.get_mut(j) else { return };
        job.edges_left = u8::try_from(job.edges.len()).unwrap_or(0);
        let blocks: SmallVec<[u64; 2]> = job.edges.iter().map(|e| e.block).collect();
        self.stats.rmw += 1;
        for (i, block) in blocks.into_iter().enumerate() {
            self.read_part(Owner::Edge(j, i as u32), block, 1);
        }
    }

    pub(crate) fn edge_done(&mut self, j: u32, edge: u32, result: Result<Pieces, IoError>) {
        let Some(job) = self.jobs.get_mut(j) else { return };
        job.edges_left = job.edges_left.saturating_sub(1);
        match result {
            Ok(pieces) => {
                if let (Some(e), Some(buf)) = (job.edges.get_mut(edge as usize), pieces.into_iter().next()) {
                    e.buf = buf;
                }
            }
            Err(e) => job.error = job.error.or(Some(e)),
        }
        if job.edges_left == 0 {
            if job.error.is_none() {
                merge(job);
            }
            self.advance(j);
        }
    }
}

fn merge(job: &mut Job) {
    if job.kind == JobKind::Zero {
        for e in &mut job.edges {
            e.buf = with_hole(e);
        }
        return;
    }
    let len = usize::try_from((job.end - job.start) * BLOCK).unwrap_or(0);
    let mut whole = BufMut::with_len(len);
    for e in &job.edges {
        let at = usize::try_from((e.block - job.start) * BLOCK).unwrap_or(0);
        copy(&mut whole, at, e.buf.as_slice());
    }
    let at = usize::try_from(job.offset - job.start * BLOCK).unwrap_or(0);
    copy(&mut whole, at, job.data.as_slice());
    job.data = whole.freeze();
}

fn with_hole(e: &Edge) -> Buf {
    let mut block = BufMut::with_len(BLOCK_SIZE);
    copy(&mut block, 0, e.buf.as_slice());
    if let Some(hole) = block.as_mut_slice().get_mut(e.from..e.to) {
        hole.fill(0);
    }
    block.freeze()
}

fn copy(to: &mut BufMut, at: usize, from: &[u8]) {
    if let Some(target) = to.as_mut_slice().get_mut(at..at + from.len()) {
        target.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(offset: u64, end: u64) -> Vec<(u64, usize, usize)> {
        edges(offset, end).iter().map(|e| (e.block, e.from, e.to)).collect()
    }

    #[test]
    fn edges_are_the_partly_covered_blocks() {
        assert_eq!(shape(0, 8192), vec![]);
        assert_eq!(shape(512, 1024), vec![(0, 512, 1024)]);
        assert_eq!(shape(512, 4096), vec![(0, 512, 4096)]);
        assert_eq!(shape(0, 512), vec![(0, 0, 512)]);
        assert_eq!(shape(3584, 8704), vec![(0, 3584, 4096), (2, 0, 512)]);
    }
}
