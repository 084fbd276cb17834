//! The second half of a scrub: blocks that the index has in a segment whose summary and some headers are damaged,
//! so that no group names them. They are found through the index, a few objects at a time, and read where they lie
//! as a reader would read them.

use crate::api::*;
use crate::loc::{Loc, SLOT};
use crate::reader::ReadJob;
use crate::store::{LogStore, Op};
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{ObjKey, VolumeId};
use std::collections::BTreeMap;

/// Objects of the index looked at between two device operations: well below a millisecond of work.
const OBJECTS_MAX: usize = 64;
/// Most blocks read at once: each may be two reads, which the device may do before a client's write.
const BLOCKS_MAX: usize = 32;

/// Blocks of one object that are being read.
#[derive(Debug)]
struct Batch {
    /// The read that brings them.
    job: u64,
    vol: VolumeId,
    key: ObjKey,
    blocks: Vec<(u16, Loc)>,
}

/// What the pass over the index knows.
#[derive(Debug, Default)]
pub struct Sift {
    /// Segments with blocks that no group names, with their use: what was written there since is no concern of it.
    lost: BTreeMap<u32, u64>,
    /// The next object and block to look at.
    at: (ObjKey, u16),
    reading: Option<Batch>,
    /// An operation at the device paces the pass, so that it never does much in one step.
    pacing: bool,
}

impl Sift {
    /// Notes a segment whose groups do not name everything.
    pub fn note(&mut self, seg: u32, seq: u64) {
        self.lost.insert(seg, seq);
    }
    /// A read for pace ended.
    pub fn paced(&mut self) {
        self.pacing = false;
    }
    /// Whether this read is one of the pass.
    pub fn reads(&self, job: u64) -> bool {
        self.reading.as_ref().is_some_and(|b| b.job == job)
    }
}

impl LogStore {
    /// Goes on with the pass; `false` when it is over, or has nothing to do.
    pub(crate) fn sift_step(&mut self) -> bool {
        let sift = &self.walks.sift;
        if sift.lost.is_empty() {
            return false;
        }
        if sift.reading.is_some() || sift.pacing || self.walks.scrub_held() {
            return true;
        }
        let mut found = Vec::new();
        for _ in 0..OBJECTS_MAX {
            let Some((key, vol)) = self.sift_object(&mut found) else {
                self.walks.sift = Sift::default();
                return false;
            };
            if !found.is_empty() {
                self.sift_read(vol, key, found);
                return true;
            }
        }
        self.sift_pace();
        true
    }

    /// Looks at the next object and moves on behind what it takes of it; `None` at the end of the index.
    fn sift_object(&mut self, found: &mut Vec<(u16, Loc)>) -> Option<(ObjKey, VolumeId)> {
        let (from, first) = self.walks.sift.at;
        let (key, object) = self.index.at_or_after(from)?;
        let first = if *key == from { first } else { 0 };
        let (key, vol) = (*key, object.vol);
        let (lost, layout, segs) = (&self.walks.sift.lost, &self.layout, &self.segs);
        object.leaf.visit(first, (CHUNK_BLOCKS as u16).saturating_sub(first), |x| {
            let seg = layout.seg_of(x.loc.slot()).and_then(|seg| lost.get_key_value(&seg));
            let here = seg.is_some_and(|(seg, seq)| segs.get(*seg).is_some_and(|s| s.seq == *seq));
            if here && matches!(x.loc.kind(), BlockKind::Data | BlockKind::Bad) {
                let rest = BLOCKS_MAX.saturating_sub(found.len()).min(usize::from(x.count));
                found.extend((0..rest as u16).map(|i| (x.first + i, x.loc.advance(i))));
            }
        });
        let next = ObjKey { chunk: key.chunk.wrapping_add(1), ..key };
        self.walks.sift.at = match found.last() {
            Some((last, _)) => (key, last + 1),
            None if next.chunk == 0 => {
                (ObjKey { layer: drystone_types::LayerId(key.layer.0.checked_add(1)?), ..next }, 0)
            }
            None => (next, 0),
        };
        Some((key, vol))
    }

    fn sift_read(&mut self, vol: VolumeId, key: ObjKey, blocks: Vec<(u16, Loc)>) {
        self.walks.scrub_reads();
        let job: ReadJob = self.view().plan_located(vol, key, &blocks);
        let ready = job.missing == 0;
        self.walks.sift.reading = Some(Batch { job: self.next_job + 1, vol, key, blocks });
        if ready {
            let event = job.resolve(self.view());
            self.sift_done(event);
            return self.sift_pace();
        }
        self.start_read(job);
    }

    fn sift_pace(&mut self) {
        self.walks.sift.pacing = true;
        let id = self.op(Op::Pace);
        self.out.push(DevOp::Read { id, offset: 0, len: SLOT as u32 });
    }

    /// Blocks were read where they lay. What was written or moved meanwhile does not count.
    pub(crate) fn sift_done(&mut self, event: StoreEvent) {
        let (Some(batch), StoreEvent::Read(_, reads)) = (self.walks.sift.reading.take(), event) else { return };
        let (mut seen, mut rotten) = (0, Vec::new());
        for ((block, loc), read) in batch.blocks.iter().zip(&reads) {
            if self.index.loc(batch.key, *block) != Some(*loc) {
                continue;
            }
            seen += u64::from(loc.is_data());
            if matches!(read, BlockRead::Corrupt | BlockRead::Failed | BlockRead::Bad) {
                rotten.push((batch.vol, batch.key, *block));
            }
        }
        self.walks.scrub_saw(seen, rotten.len() as u64);
        if !rotten.is_empty() {
            self.ready.push(StoreEvent::Rotten(rotten));
        }
    }
}
