//! READ, READ+ROLL and CHUNK_MAP.

use std::sync::Arc;

use drystone_store::api::{BlockKind, BlockRead, Held, ObjectStore};
use drystone_types::consts::{BLOCK_SIZE, CHAIN_MAX, CHUNK_BLOCKS, FRAME_BLOCKS_MAX, VOLUME_SIZE_MAX};
use drystone_types::{
    AttachMode, Buf, BufMut, Frame, Header, LayerId, ObjKey, Reader, Rule, Status, Ticket, VolumeId, Writer,
};

use crate::api::PeerId;
use crate::replica::Replica;
use crate::state::{Op, Refusal, Role, Then};

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn on_read(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        let h = &frame.hdr;
        let ticket = self.check_reader(h, peer)?;
        let (first, count) = range(h)?;
        let chain = chain_of(&frame.meta)?;
        let lineage = self.check_chain(h, &ticket, &chain)?;
        let chunk = h.block / u64::from(CHUNK_BLOCKS);
        let then = Then::Read { peer, hdr: Box::new(*h), lineage, chain: chain.clone() };
        let op = self.ops.insert(Op { left: 1, then });
        self.store.read(lineage, &chain, chunk, first, count, op);
        Ok(())
    }

    /// The fences come before the ticket: a fenced reader must learn that it is fenced.
    fn check_reader(&self, h: &Header, peer: PeerId) -> Result<Arc<Ticket>, Refusal> {
        let ticket = self.ticket_of(h, peer).or_else(|refusal| self.check_fences(h).and(Err(refusal)))?;
        self.check_read(h, &ticket)?;
        Ok(ticket)
    }

    /// R1, R2, in sync, lease (I10). A snapshot's attachment has no generation of its own.
    fn check_read(&self, h: &Header, ticket: &Ticket) -> Result<(), Refusal> {
        let role = self.check_epoch(h)?;
        if ticket.mode != AttachMode::Snapshot {
            self.check_gen(h)?;
        }
        if role != Role::InSync && self.cfg.rules.on(Rule::ReadInSync) {
            return Err(Refusal::NackEpoch);
        }
        if self.cfg.rules.on(Rule::ReadLease) && self.now >= self.lease_until {
            return Err(Refusal::Retry);
        }
        let quiesced = self.pgs.get(&h.pg).is_some_and(|pg| pg.quiesced >= pg.epoch() && pg.quiesced.0 > 0);
        if quiesced {
            Err(Refusal::Retry)
        } else {
            Ok(())
        }
    }

    /// Every layer of the chain is of one lineage of the ticket; gives the lineage.
    fn check_chain(&self, h: &Header, ticket: &Ticket, chain: &[LayerId]) -> Result<VolumeId, Refusal> {
        let first = chain.first().ok_or(Refusal::Invalid)?;
        let chunk = h.block / u64::from(CHUNK_BLOCKS);
        let end = h.block + u64::from(h.count);
        if ticket.has_layer(*first) {
            if end > ticket.blocks() || !chain.iter().all(|l| ticket.has_layer(*l)) {
                return Err(Refusal::NeedTicket);
            }
            self.check_pg(h.pg, ticket, chunk)?;
            return Ok(ticket.vol);
        }
        let parent = ticket.parents.iter().find(|p| p.layer == *first).ok_or(Refusal::NeedTicket)?;
        let known = |l: &LayerId| ticket.parents.iter().any(|p| p.layer == *l && p.lineage == parent.lineage);
        if !chain.iter().all(known) {
            return Err(Refusal::NeedTicket);
        }
        if end > parent.size.div_ceil(BLOCK_SIZE as u64) {
            return Err(Refusal::Invalid);
        }
        self.check_place(h.pg, parent.pool, parent.seed, chunk)?;
        Ok(parent.lineage)
    }

    pub(crate) fn on_read_done(&mut self, op: u64, blocks: Vec<BlockRead>) {
        let Some(op) = self.ops.remove(op) else { return };
        match op.then {
            Then::Read { peer, hdr, lineage, chain } => self.answer_read(peer, &hdr, lineage, &chain, &blocks),
            Then::SourceCopyData { job, run } => self.copy_data(job, run, blocks),
            _ => {}
        }
    }

    fn answer_read(&mut self, peer: PeerId, h: &Header, lineage: VolumeId, chain: &[LayerId], blocks: &[BlockRead]) {
        // Everything is checked again: the read may have waited for the device while the map,
        // the generation or the lease moved.
        if let Err(refusal) = self.check_reader(h, peer) {
            self.stats.late_nacks += 1;
            self.refuse(peer, h, refusal);
            return;
        }
        if blocks.iter().any(|b| matches!(b, BlockRead::Corrupt | BlockRead::Failed)) {
            self.stats.bad_blocks += 1;
            self.repair_corrupt(h, lineage, chain, blocks);
            self.send(peer, h, Status::BadChecksum, Vec::new());
            return;
        }
        if blocks.contains(&BlockRead::Bad) {
            // Nothing says that it was lost everywhere: a member that came back since may have the bytes.
            self.repair_corrupt(h, lineage, chain, blocks);
            self.refuse(peer, h, Refusal::Eio);
            return;
        }
        if blocks.len() != h.count as usize {
            self.refuse(peer, h, Refusal::Eio);
            return;
        }
        let insync = self.pgs.get(&h.pg).is_some_and(|pg| pg.role == Role::InSync && pg.epoch() == h.pg_epoch);
        self.assert_that(insync, "I10: a read is answered outside its epoch or by a member that is not in sync");
        self.stats.reads += 1;
        let meta = bitmaps(blocks);
        let (csums, data) = gather(blocks);
        self.send_data(peer, h, meta, csums, data);
    }

    fn repair_corrupt(&mut self, h: &Header, lineage: VolumeId, chain: &[LayerId], blocks: &[BlockRead]) {
        let chunk = h.block / u64::from(CHUNK_BLOCKS);
        let first = u16::try_from(h.block % u64::from(CHUNK_BLOCKS)).unwrap_or(0);
        for (block, _) in (first..).zip(blocks).filter(|(_, b)| needs_repair(b)) {
            let keys = chain.iter().map(|layer| ObjKey { layer: *layer, chunk });
            let holder = keys.into_iter().find(|key| self.store.held(*key, block) != Held::Absent);
            if let Some(key) = holder {
                self.repair_block(h.pg, lineage, key, block);
            }
        }
    }

    /// READ+ROLL: an exact version for an attacher, from in-sync or joining members, without a lease (P11).
    pub(crate) fn on_read_exact(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        let h = &frame.hdr;
        let role = self.check_fences(h)?;
        let ticket = self.ticket_of(h, peer)?;
        if !self.cfg.rules.on(Rule::RollFromJoiner) {
            self.check_read(h, &ticket)?;
        }
        let (first, count) = range(h)?;
        if count != 1 {
            return Err(Refusal::Invalid);
        }
        if !ticket.has_layer(h.layer) {
            return Err(Refusal::NeedTicket);
        }
        let key = ObjKey { layer: h.layer, chunk: h.block / u64::from(CHUNK_BLOCKS) };
        self.check_pg(h.pg, &ticket, key.chunk)?;
        if self.cfg.rules.on(Rule::SealVoid) && self.is_void(h.pg, role, h.vol, key, first) {
            return Err(Refusal::Invalid);
        }
        let op = self.ops.insert(Op { left: 1, then: Then::ReadRoll { peer, hdr: Box::new(*h) } });
        self.store.read_exact(h.vol, key, first, h.version(), op);
        Ok(())
    }

    pub(crate) fn on_read_exact_done(&mut self, op: u64, found: Option<(BlockKind, BlockRead)>) {
        let (peer, hdr) = match self.ops.remove(op).map(|op| op.then) {
            Some(Then::ReadRoll { peer, hdr }) => (peer, hdr),
            Some(Then::CompareRead(job)) => return self.compare_own_read(job, found),
            _ => return,
        };
        if let Err(refusal) = self.check_fences(&hdr) {
            self.refuse(peer, &hdr, refusal);
            return;
        }
        match found {
            None => self.refuse(peer, &hdr, Refusal::Invalid),
            Some((_, BlockRead::Corrupt)) => {
                self.stats.bad_blocks += 1;
                self.send(peer, &hdr, Status::BadChecksum, Vec::new());
            }
            // A device that cannot read proves nothing: the attacher must not take it for rot.
            Some((_, BlockRead::Failed)) => {
                self.stats.bad_blocks += 1;
                self.refuse(peer, &hdr, Refusal::Eio);
            }
            Some((kind, read)) => {
                self.stats.exact_reads += 1;
                let (csums, data) = gather(core::slice::from_ref(&read));
                self.send_data(peer, &hdr, vec![kind as u8], csums, data);
            }
        }
    }

    pub(crate) fn on_chunk_map(&mut self, peer: PeerId, h: &Header) -> Result<(), Refusal> {
        let role = self.check_fences(h)?;
        let ticket = self.ticket_of(h, peer)?;
        if role != Role::InSync {
            return Err(Refusal::NackEpoch);
        }
        if !ticket.has_layer(h.layer) {
            return Err(Refusal::NeedTicket);
        }
        let chunk = h.block / u64::from(CHUNK_BLOCKS);
        self.check_pg(h.pg, &ticket, chunk)?;
        let map = self.store.chunk_map(ObjKey { layer: h.layer, chunk });
        self.send(peer, h, Status::Ok, map.to_vec());
        Ok(())
    }
}

/// What another copy may have. A failed read too: the device may never give this place again.
fn needs_repair(block: &BlockRead) -> bool {
    matches!(block, BlockRead::Corrupt | BlockRead::Failed | BlockRead::Bad)
}

/// First block in the chunk and count, inside one chunk.
fn range(h: &Header) -> Result<(u16, u16), Refusal> {
    let first = h.block % u64::from(CHUNK_BLOCKS);
    let exists = h.block < VOLUME_SIZE_MAX / BLOCK_SIZE as u64;
    let fits =
        exists && h.count > 0 && h.count <= FRAME_BLOCKS_MAX && first + u64::from(h.count) <= u64::from(CHUNK_BLOCKS);
    if !fits {
        return Err(Refusal::Invalid);
    }
    let first = u16::try_from(first).map_err(|_| Refusal::Invalid)?;
    let count = u16::try_from(h.count).map_err(|_| Refusal::Invalid)?;
    Ok((first, count))
}

fn chain_of(meta: &[u8]) -> Result<Vec<LayerId>, Refusal> {
    let mut r = Reader::new(meta);
    let n = r.count(CHAIN_MAX).map_err(|_| Refusal::Invalid)?;
    let mut chain = Vec::with_capacity(n);
    for _ in 0..n {
        chain.push(LayerId(r.u64().map_err(|_| Refusal::Invalid)?));
    }
    r.finish().map_err(|_| Refusal::Invalid)?;
    Ok(chain)
}

/// Present and masked bitmaps of a READ answer, LSB first.
fn bitmaps(blocks: &[BlockRead]) -> Vec<u8> {
    let bytes = blocks.len().div_ceil(8);
    let mut w = Writer::new();
    for group in blocks.chunks(8) {
        w.u8(bits(group, |b| matches!(b, BlockRead::Data(..))));
    }
    for group in blocks.chunks(8) {
        w.u8(bits(group, |b| *b == BlockRead::Masked));
    }
    debug_assert!(bytes * 2 <= CHUNK_BLOCKS as usize);
    w.finish()
}

fn bits(group: &[BlockRead], set: impl Fn(&BlockRead) -> bool) -> u8 {
    group.iter().rev().fold(0, |acc, b| acc << 1 | u8::from(set(b)))
}

/// Data of the present blocks back to back. One block is passed on without a copy.
pub(crate) fn gather(blocks: &[BlockRead]) -> (Vec<u64>, Buf) {
    let present: Vec<(&Buf, u64)> =
        blocks.iter().filter_map(|b| if let BlockRead::Data(d, c) = b { Some((d, *c)) } else { None }).collect();
    let csums = present.iter().map(|(_, c)| *c).collect();
    if let [(only, _)] = present.as_slice() {
        return (csums, (*only).clone());
    }
    if present.is_empty() {
        return (csums, Buf::empty());
    }
    let mut out = BufMut::with_len(present.len() * BLOCK_SIZE);
    for (to, (from, _)) in out.as_mut_slice().chunks_exact_mut(BLOCK_SIZE).zip(&present) {
        let from = from.as_slice();
        let n = from.len().min(to.len());
        if let (Some(to), Some(from)) = (to.get_mut(..n), from.get(..n)) {
            to.copy_from_slice(from);
        }
    }
    (csums, out.freeze())
}
