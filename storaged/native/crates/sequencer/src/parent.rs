//! Reads of clones: what the own lineage does not hold is read from the parent's PG, down the
//! chain of parents. No answer is given without an OK to a READ in the own lineage that began
//! after the request (B12), so a fenced owner cannot go on reading from its parents.

use drystone_types::consts::BLOCK_SIZE;
use drystone_types::{Buf, BufMut, LayerId, Rule, Ticket, VolumeId};

use crate::api::{IoError, Pieces};
use crate::engine::Sequencer;
use crate::job::{BLOCK, CHUNK};
use crate::read::{Owner, What};
use crate::reply::{bit, Blocks};
use crate::ticket::layers_meta;

/// Consecutive layers of the parent chain that belong to one lineage: one READ.
#[derive(Debug)]
pub(crate) struct ParentGroup {
    pub(crate) lineage: VolumeId,
    pub(crate) layer: LayerId,
    pub(crate) meta: Vec<u8>,
    /// Bytes visible: nothing is read beyond the recorded size of any lineage on the way.
    pub(crate) size: u64,
    pub(crate) seed: u64,
    pub(crate) pool: u16,
}

/// What is known of one block of a read that descends.
#[derive(Clone, Debug)]
pub(crate) enum BlockState {
    Unknown,
    /// A parent is being asked.
    Asked,
    Known(Buf),
}

/// Groups the parents of a ticket by lineage.
pub(crate) fn groups(ticket: &Ticket) -> Vec<ParentGroup> {
    let mut pools = vec![ticket.pool];
    let mut out: Vec<ParentGroup> = Vec::new();
    let mut visible = u64::MAX;
    for run in ticket.parents.chunk_by(|a, b| a.lineage == b.lineage) {
        let Some(first) = run.first() else { continue };
        visible = visible.min(first.size);
        let pool = pools.iter().position(|p| *p == first.pool).unwrap_or_else(|| {
            pools.push(first.pool);
            pools.len() - 1
        });
        let meta = layers_meta(run.iter().map(|p| p.layer));
        let pool = u16::try_from(pool).unwrap_or(0);
        out.push(ParentGroup {
            lineage: first.lineage,
            layer: first.layer,
            meta,
            size: visible,
            seed: first.seed,
            pool,
        });
    }
    out
}

impl Sequencer {
    /// First layer and READ metadata of a level: 0 = own lineage.
    pub(crate) fn lineage_layers(&self, level: u8) -> Option<(LayerId, Vec<u8>)> {
        match level.checked_sub(1) {
            None => Some((self.ticket.head()?, self.chain_meta.clone())),
            Some(i) => self.parents.get(usize::from(i)).map(|g| (g.layer, g.meta.clone())),
        }
    }

    pub(crate) fn lineage_of(&self, level: u8) -> VolumeId {
        let group = level.checked_sub(1).and_then(|i| self.parents.get(usize::from(i)));
        group.map_or(self.ticket.vol, |g| g.lineage)
    }

    /// The presence cache says that the own lineage has nothing here: the parent is asked beside
    /// it, and counts only once the own READ was answered OK.
    pub(crate) fn start_parallel_parent(&mut self, r: u32) {
        if self.parents.is_empty() {
            return;
        }
        let Some(op) = self.reads.get_mut(r) else { return };
        op.blocks = vec![BlockState::Unknown; op.count as usize];
        let (block, count) = (op.block, op.count);
        if self.presence.all_absent(block, count) {
            self.ask_parent(r, 1, block, count);
        }
    }

    /// Asks level `level` for a range, as far as it is visible there; the rest reads as zeros.
    fn ask_parent(&mut self, root: u32, level: u8, block: u64, count: u32) {
        let group = level.checked_sub(1).and_then(|i| self.parents.get(usize::from(i)));
        let visible = group.map_or(0, |g| g.size.div_ceil(BLOCK));
        let asked = u32::try_from(visible.saturating_sub(block)).unwrap_or(u32::MAX).min(count);
        for b in block + u64::from(asked)..block + u64::from(count) {
            self.set_block(root, b, BlockState::Known(self.zeros.block(0)));
        }
        let Some((seed, pool)) = group_seed(self, level).filter(|_| asked > 0) else { return };
        for b in block..block + u64::from(asked) {
            self.set_block(root, b, BlockState::Asked);
        }
        let Some(op) = self.reads.get_mut(root) else { return };
        op.children += 1;
        let birth = op.birth;
        let pg = self.pg_of(pool, seed, block);
        self.new_read(Owner::Child(root, birth), What::Blocks(level), pg, block, asked);
    }

    fn set_block(&mut self, root: u32, block: u64, state: BlockState) {
        let Some(op) = self.reads.get_mut(root) else { return };
        let at = usize::try_from(block.saturating_sub(op.block)).unwrap_or(usize::MAX);
        if let Some(slot) = op.blocks.get_mut(at) {
            if !matches!((&slot, op.own_done), (BlockState::Known(_), true)) {
                *slot = state;
            }
        }
    }

    /// A verified answer of the own lineage (level 0) or of a parent.
    pub(crate) fn blocks_read(&mut self, r: u32, level: u8, blocks: Blocks) {
        if level > 0 {
            return self.parent_read(r, level, &blocks);
        }
        let Some(op) = self.reads.get(r) else { return };
        let (block, count, owner) = (op.block, op.count, op.owner);
        if op.blocks.is_empty() {
            let pieces = self.plain(&blocks, count);
            self.take_read(r);
            return self.deliver(owner, Ok(pieces));
        }
        self.presence.learn(block, count, |i| !bit(&blocks.present, i) && !bit(&blocks.masked, i));
        self.own_read(r, block, count, &blocks);
    }

    /// Without parents, what is absent reads as zeros.
    fn plain(&self, blocks: &Blocks, count: u32) -> Pieces {
        let mut pieces = Pieces::new();
        if blocks.frame.csums.len() == count as usize {
            pieces.push(blocks.frame.data.clone());
            return pieces;
        }
        let (mut at, mut i) = (0, 0u64);
        while i < u64::from(count) {
            let has = bit(&blocks.present, i);
            let run = (i..u64::from(count)).take_while(|n| bit(&blocks.present, *n) == has).count();
            let len = run * BLOCK_SIZE;
            pieces.push(if has { blocks.frame.data.slice(at..at + len) } else { self.zeros.slice(0..len) });
            at += if has { len } else { 0 };
            i += run as u64;
        }
        pieces
    }

    fn own_read(&mut self, r: u32, block: u64, count: u32, blocks: &Blocks) {
        let mut stored = 0;
        let mut absent: Vec<u64> = Vec::new();
        for i in 0..u64::from(count) {
            let slot = self.reads.get_mut(r).and_then(|op| op.blocks.get_mut(i as usize));
            let Some(slot) = slot else { continue };
            if bit(&blocks.present, i) {
                *slot = BlockState::Known(blocks.frame.data.block(stored));
                stored += 1;
            } else if bit(&blocks.masked, i) {
                *slot = BlockState::Known(Buf::empty());
            } else if matches!(slot, BlockState::Unknown) {
                absent.push(block + i);
            }
        }
        if let Some(op) = self.reads.get_mut(r) {
            op.own_done = true;
        }
        for run in absent.chunk_by(|a, b| a + 1 == *b) {
            if let Some(first) = run.first() {
                self.ask_parent(r, 1, *first, run.len() as u32);
            }
        }
        self.finish_if_known(r);
    }

    fn parent_read(&mut self, r: u32, level: u8, blocks: &Blocks) {
        let Some(op) = self.take_read(r) else { return };
        let Owner::Child(root, birth) = op.owner else { return };
        if self.reads.get(root).is_none_or(|root| root.birth != birth) {
            return;
        }
        let size = group_size(self, level);
        let mut stored = 0;
        let mut absent: Vec<u64> = Vec::new();
        for i in 0..u64::from(op.count) {
            let b = op.block + i;
            if bit(&blocks.present, i) {
                let data = cut_tail(blocks.frame.data.block(stored), b, size);
                self.set_if_asked(root, b, data);
                stored += 1;
            } else if bit(&blocks.masked, i) {
                self.set_if_asked(root, b, Buf::empty());
            } else {
                absent.push(b);
            }
        }
        for run in absent.chunk_by(|a, b| a + 1 == *b) {
            if let Some(first) = run.first() {
                self.ask_parent(root, level + 1, *first, run.len() as u32);
            }
        }
        if let Some(op) = self.reads.get_mut(root) {
            op.children = op.children.saturating_sub(1);
        }
        self.finish_if_known(root);
    }

    /// A parent's block counts only where the own lineage has nothing.
    fn set_if_asked(&mut self, root: u32, block: u64, data: Buf) {
        let Some(op) = self.reads.get_mut(root) else { return };
        let at = usize::try_from(block.saturating_sub(op.block)).unwrap_or(usize::MAX);
        if let Some(slot @ BlockState::Asked) = op.blocks.get_mut(at) {
            *slot = BlockState::Known(data);
        }
    }

    fn finish_if_known(&mut self, r: u32) {
        let Some(op) = self.reads.get(r) else { return };
        if (!op.own_done && self.on(Rule::PresenceOwn)) || op.children > 0 {
            return;
        }
        let Some(op) = self.take_read(r) else { return };
        let zero = self.zeros.block(0);
        let pieces = op.blocks.into_iter().map(|b| match b {
            BlockState::Known(data) if !data.is_empty() => data,
            _ => zero.clone(),
        });
        let pieces = pieces.collect();
        self.deliver(op.owner, Ok(pieces));
    }

    pub(crate) fn child_failed(&mut self, root: u32, birth: u32, error: IoError) {
        if self.reads.get(root).is_none_or(|root| root.birth != birth) {
            return;
        }
        let Some(op) = self.take_read(root) else { return };
        self.deliver(op.owner, Err(error));
    }

    /// Issued writes are present from now on (the cache is only a hint, but a wrong one costs a
    /// needless read).
    pub(crate) fn note_present(&mut self, w: u32) {
        if self.parents.is_empty() {
            return;
        }
        if let Some((block, count)) = self.writes.get(w).map(|op| (op.block, op.count)) {
            self.presence.learn(block, count, |_| false);
        }
    }
}

fn group_seed(s: &Sequencer, level: u8) -> Option<(u64, u16)> {
    let group = level.checked_sub(1).and_then(|i| s.parents.get(usize::from(i)))?;
    Some((group.seed, group.pool))
}

fn group_size(s: &Sequencer, level: u8) -> u64 {
    level.checked_sub(1).and_then(|i| s.parents.get(usize::from(i))).map_or(0, |g| g.size)
}

/// Zeros beyond the parent's recorded size within its last block.
fn cut_tail(data: Buf, block: u64, size: u64) -> Buf {
    let keep = usize::try_from(size.saturating_sub(block * BLOCK)).unwrap_or(usize::MAX);
    if keep >= BLOCK_SIZE {
        return data;
    }
    let mut cut = BufMut::zeroed(BLOCK_SIZE);
    if let (Some(to), Some(from)) = (cut.as_mut_slice().get_mut(..keep), data.as_slice().get(..keep)) {
        to.copy_from_slice(from);
    }
    cut.freeze()
}

/// First block of a chunk and the bit within it.
pub(crate) fn place(block: u64) -> (u64, u64) {
    (block / CHUNK, block % CHUNK)
}
