//! What a successful answer to a read holds, checked before anything of it is believed (I16).

use drystone_csum::block_csum;
use drystone_types::consts::BLOCK_SIZE;
use drystone_types::{Frame, VolumeId};

use crate::api::{IoError, Pieces};
use crate::engine::Sequencer;
use crate::pg::DxList;
use crate::read::{Owner, ReadOp, What};

/// A verified answer to READ.
pub(crate) struct Blocks {
    pub(crate) frame: Frame,
    /// One bit a block: data follows.
    pub(crate) present: Vec<u8>,
    /// One bit a block: zeros that hide a parent.
    pub(crate) masked: Vec<u8>,
}

/// Bytes of CHUNK_MAP's bitmap: 1024 bits.
const MAP_BYTES: usize = 128;

pub(crate) fn bit(map: &[u8], i: u64) -> bool {
    usize::try_from(i / 8).ok().and_then(|b| map.get(b)).is_some_and(|b| b >> (i % 8) & 1 == 1)
}

/// Splits and verifies: shape, and the seeded checksum of every block.
fn blocks_of(frame: Frame, lineage: VolumeId, block: u64, count: u32) -> Option<Blocks> {
    let bytes = count.div_ceil(8) as usize;
    let (present, masked) = frame.meta.split_at_checked(bytes).filter(|(_, m)| m.len() == bytes)?;
    let numbers = (0..u64::from(count)).filter(|i| bit(present, *i)).map(|i| block + i);
    let stored = numbers.clone().count();
    if frame.data.len() != stored * BLOCK_SIZE || frame.csums.len() != stored {
        return None;
    }
    let data = frame.data.as_slice().chunks_exact(BLOCK_SIZE);
    let ok = data.zip(&frame.csums).zip(numbers).all(|((d, sum), b)| block_csum(lineage, b, d) == *sum);
    let (present, masked) = (present.to_vec(), masked.to_vec());
    ok.then_some(Blocks { frame, present, masked })
}

impl Sequencer {
    /// Takes an OK; false when it does not hold what it should, so that another copy is asked.
    pub(crate) fn read_ok(&mut self, r: u32, frame: Frame) -> bool {
        let Some(op) = self.reads.get(r) else { return true };
        match &op.what {
            What::Blocks(level) => {
                let level = *level;
                let lineage = self.lineage_of(level);
                let (block, count) = (op.block, op.count);
                let Some(blocks) = blocks_of(frame, lineage, block, count) else { return false };
                self.blocks_read(r, level, blocks);
                true
            }
            What::Map(_) => self.map_read(r, frame),
            What::Exact(..) => self.exact_read(r, frame),
        }
    }

    fn map_read(&mut self, r: u32, frame: Frame) -> bool {
        if frame.meta.len() != MAP_BYTES {
            return false;
        }
        let Some(op) = self.take_read(r) else { return true };
        match op.owner {
            Owner::Status(j, position) => self.status_map(j, position, op.block, Ok(frame.meta)),
            Owner::Mapped(w) => {
                let all = self.writes.get(w).map(|op| {
                    let first = op.block % crate::job::CHUNK;
                    (first..first + u64::from(op.count)).all(|b| bit(&frame.meta, b))
                });
                if let Some(all) = all {
                    self.mapped_known(w, Ok(all));
                }
            }
            _ => {}
        }
        true
    }

    fn exact_read(&mut self, r: u32, frame: Frame) -> bool {
        let Some(op) = self.reads.get(r) else { return true };
        let kind = frame.meta.first().copied().unwrap_or(0);
        let good = match kind {
            1 => {
                let sum = block_csum(self.ticket.vol, op.block, frame.data.as_slice());
                frame.data.len() == BLOCK_SIZE && frame.csums.as_slice() == [sum]
            }
            2 | 3 => true,
            _ => false,
        };
        if good {
            if let Some(ReadOp { owner: Owner::Roll(roll), .. }) = self.take_read(r) {
                self.roll_fetched(roll, kind, frame.data);
            }
        }
        good
    }

    /// Ends a read operation; asks still open no longer count as load.
    pub(crate) fn take_read(&mut self, r: u32) -> Option<ReadOp> {
        let op = self.reads.remove(r)?;
        for ask in op.asks.iter().filter(|a| a.open) {
            if let Some(d) = self.drive_mut(ask.drive) {
                d.reads_open = d.reads_open.saturating_sub(1);
            }
        }
        Some(op)
    }

    pub(crate) fn read_failed(&mut self, r: u32, error: IoError) {
        let Some(op) = self.take_read(r) else { return };
        match op.owner {
            Owner::Child(root, birth) => self.child_failed(root, birth, error),
            Owner::Roll(roll) => {
                let rotten: DxList = op.asks.iter().filter(|a| a.rotten).map(|a| a.drive).collect();
                let holds: DxList = op.asks.iter().filter(|a| a.holds).map(|a| a.drive).collect();
                self.roll_unreadable(roll, &rotten, &holds);
            }
            Owner::Status(j, position) => self.status_map(j, position, op.block, Err(error)),
            Owner::Mapped(w) => self.mapped_known(w, Err(error)),
            owner => self.deliver(owner, Err(error)),
        }
    }

    /// Hands blocks, or their failure, to the request they belong to.
    pub(crate) fn deliver(&mut self, owner: Owner, result: Result<Pieces, IoError>) {
        match owner {
            Owner::Edge(j, edge) => self.edge_done(j, edge, result),
            Owner::Part(j, part) => {
                let error = match result {
                    Err(e) => Some(e),
                    Ok(pieces) => {
                        if let Some(p) = self.jobs.get_mut(j).and_then(|job| job.parts.get_mut(part as usize)) {
                            *p = pieces;
                        }
                        None
                    }
                };
                self.part_done(j, error);
            }
            _ => {}
        }
    }
}
