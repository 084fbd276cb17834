//! SEAL and FENCE: stop admitting, drain every stream, log, then answer.

use drystone_store::api::{MetaKey, ObjectStore};
use drystone_types::{Epoch, Flags, Frame, Gen, Header, PgId, PoolId, Reader, Rule, Status, Ticket, VolumeId, Writer};

use crate::api::{Action, ControlResult, PeerId};
use crate::limits::{SEAL_ENTRIES_MAX, VOLUMES_MAX};
use crate::replica::Replica;
use crate::state::{Asker, Op, Refusal, Role, SealJob, Then};
use crate::tables::sorted_keys;
use crate::ticket::take_ticket;

/// One listed block: where, version, kind.
struct Entry {
    pg: PgId,
    layer: u64,
    block: u64,
    gen: u32,
    seq: u64,
    kind: u8,
}

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn on_seal(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        let h = &frame.hdr;
        let ticket = self.open_ticket(peer, frame)?;
        if h.gen.0 == 0 || ticket.mode == drystone_types::AttachMode::Snapshot {
            return Err(Refusal::Invalid);
        }
        self.check_room(h.vol)?;
        let vol = self.vols.entry(h.vol).or_default();
        // The nonce tells two owners of one generation apart (B10): the first SEAL of a generation that
        // came without one (a fence, a list of the store) settles it, any other is refused from then on.
        let known = vol.nonce == ticket.nonce || vol.nonce == 0 || !self.cfg.rules.on(Rule::SealNonce);
        let mine = h.gen == vol.sealed && known;
        if h.gen < vol.sealed || h.gen == vol.sealed && !mine {
            return Err(Refusal::NackGen);
        }
        let newer = h.gen > vol.sealed;
        if self.cfg.rules.on(Rule::SealStops) {
            vol.sealed = h.gen;
        }
        // Without the rule the old owner's writes go on until the SEAL is logged, so its ticket does too.
        let old = vol.ticket.as_deref().cloned().filter(|_| newer && !self.cfg.rules.on(Rule::SealStops));
        if newer {
            vol.ticket = None;
        }
        if !take_ticket(vol, &ticket, &frame.meta) {
            self.keep_guest(ticket.clone());
        }
        if let Some(old) = old {
            self.keep_guest(old);
        }
        if newer {
            self.new_grant(h.vol, h.gen);
        }
        let who = Asker::Peer(peer, Box::new(*h));
        self.start_seal(SealJob { vol: h.vol, gen: h.gen, who, fence: false, pools: pools_of(&ticket) });
        Ok(())
    }

    pub(crate) fn on_fence(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        let h = frame.hdr;
        let nonce = fence_nonce(&frame.meta)?;
        self.fence(h.vol, h.gen, nonce, Asker::Peer(peer, Box::new(h)))
    }

    /// FENCE: as SEAL, for the owner `nonce` that the store gave the generation (0: not told). A higher seal counts,
    /// and so does an equal one of that owner. Another owner of the same generation is one of a store that was
    /// restored (B10): it is not fenced by this, so this must not pass for a proof.
    pub(crate) fn fence(&mut self, vol_id: VolumeId, gen: Gen, nonce: u64, who: Asker) -> Result<(), Refusal> {
        if gen.0 == 0 {
            return Err(Refusal::Invalid);
        }
        self.check_room(vol_id)?;
        let vol = self.vols.entry(vol_id).or_default();
        if gen > vol.sealed {
            vol.sealed = gen;
            vol.nonce = nonce;
            vol.ticket = None;
            vol.ticket_bytes = Vec::new();
            self.new_grant(vol_id, gen);
        } else if gen == vol.sealed && vol.nonce == 0 {
            vol.nonce = nonce;
        } else if gen == vol.sealed && nonce != 0 && vol.nonce != nonce {
            return Err(Refusal::NackGen);
        }
        let gen = self.vols.get(&vol_id).map_or(gen, |v| v.sealed);
        self.start_seal(SealJob { vol: vol_id, gen, who, fence: true, pools: Vec::new() });
        Ok(())
    }

    fn check_room(&self, vol: VolumeId) -> Result<(), Refusal> {
        if self.vols.len() >= VOLUMES_MAX && !self.vols.contains_key(&vol) {
            return Err(Refusal::Retry);
        }
        Ok(())
    }

    /// From here nothing older is admitted; what was admitted becomes durable first (P1).
    fn start_seal(&mut self, job: SealJob) {
        if let Some(vol) = self.vols.get_mut(&job.vol) {
            vol.sealing += 1;
        }
        let op = self.ops.insert(Op { left: 0, then: Then::SealDrained(Box::new(job)) });
        if self.cfg.rules.on(Rule::SealDrains) {
            self.store.barrier(op);
        } else {
            self.settle(op);
        }
    }

    pub(crate) fn seal_drained(&mut self, job: Box<SealJob>) {
        if let Some(vol) = self.vols.get_mut(&job.vol).filter(|_| !self.cfg.rules.on(Rule::SealStops)) {
            vol.sealed = vol.sealed.max(job.gen);
        }
        // A later SEAL may have overtaken this one; what is logged is what is sealed now.
        let bound = self.log_first_grant(job.vol);
        match self.log_seal(job.vol) {
            Ok(token) => {
                let op = self.ops.insert(Op { left: 0, then: Then::SealDurable(job) });
                self.wait_on(op, token);
                bound.into_iter().for_each(|token| self.wait_on(op, token));
                self.settle(op);
            }
            Err(refusal) => self.seal_refused(*job, refusal),
        }
    }

    pub(crate) fn seal_durable(&mut self, job: Box<SealJob>) {
        if let Some(token) = self.open_gate(&job.pools) {
            self.then(token, Then::SealDurable(job));
            return;
        }
        if let Some(vol) = self.vols.get_mut(&job.vol) {
            vol.sealing = vol.sealing.saturating_sub(1);
        }
        let sealed = self.vols.get(&job.vol).map_or(Gen(0), |v| v.sealed);
        let SealJob { vol, gen, who, fence, pools } = *job;
        match who {
            Asker::Control(id) => {
                self.stats.fences += 1;
                self.out.push(Action::ControlDone { id, result: ControlResult::Fenced(sealed) });
            }
            Asker::Peer(peer, hdr) if fence => {
                self.stats.fences += 1;
                self.answer_seal(peer, &hdr, sealed, Vec::new(), Vec::new());
            }
            Asker::Peer(peer, hdr) if sealed == gen => {
                self.stats.seals += 1;
                self.top_up(vol, gen);
                let (pgs, entries) = self.list_unstable(vol, &pools);
                self.answer_seal(peer, &hdr, sealed, pgs, entries);
            }
            Asker::Peer(peer, hdr) => self.refuse(peer, &hdr, Refusal::NackGen),
        }
    }

    fn seal_refused(&mut self, job: SealJob, refusal: Refusal) {
        if let Some(vol) = self.vols.get_mut(&job.vol) {
            vol.sealing = vol.sealing.saturating_sub(1);
        }
        match job.who {
            Asker::Peer(peer, hdr) => self.refuse(peer, &hdr, refusal),
            Asker::Control(id) => {
                let result = ControlResult::Failed("the drive cannot log the fence: it failed and must be dropped");
                self.out.push(Action::ControlDone { id, result });
            }
        }
    }

    /// A re-stamping of some PG in these pools that is not durable yet.
    fn open_gate(&mut self, pools: &[PoolId]) -> Option<u64> {
        let gates: Vec<u64> =
            self.pgs.iter().filter(|(id, _)| pools.contains(&id.pool)).filter_map(|(_, pg)| pg.gate).collect();
        gates.into_iter().filter(|token| self.recs.get_mut(*token).is_some()).max()
    }

    /// Adopted epochs, and exactly what is durable above stable, never a void block.
    fn list_unstable(&mut self, vol: VolumeId, pools: &[PoolId]) -> (Vec<(PgId, Epoch)>, Vec<Entry>) {
        let pgs: Vec<(PgId, Epoch)> = sorted_keys(&self.pgs)
            .into_iter()
            .filter(|id| pools.contains(&id.pool))
            .filter_map(|id| self.pgs.get(&id).map(|pg| (id, pg)))
            .filter(|(_, pg)| pg.role != Role::Out)
            .map(|(id, pg)| (id, if pg.draining { Epoch(0) } else { pg.epoch() }))
            .collect();
        let mut unstable = self.store.unstable(vol);
        unstable.sort_by_key(crate::state::entry_order);
        let entries = unstable
            .into_iter()
            .filter(|e| self.pgs.get(&e.pg).is_some_and(|pg| !self.is_void_entry(e.pg, pg.role, vol, e)))
            .map(|e| Entry {
                pg: e.pg,
                layer: e.key.layer.0,
                block: e.key.chunk * u64::from(drystone_types::consts::CHUNK_BLOCKS) + u64::from(e.block),
                gen: e.version.gen.0,
                seq: e.version.seq,
                kind: e.kind as u8,
            })
            .collect();
        (pgs, entries)
    }

    fn is_void_entry(&self, pg: PgId, role: Role, vol: VolumeId, e: &drystone_store::api::Unstable) -> bool {
        match role {
            Role::Out => true,
            Role::InSync => false,
            Role::Joining(_) if !self.cfg.rules.on(Rule::SealVoid) => false,
            Role::Joining(join) => e.since_join != Some(join) && !self.is_copied(pg, vol, e.key, e.block),
        }
    }

    /// One answer in as many parts as the metadata limit asks for; the last has LAST.
    fn answer_seal(&mut self, peer: PeerId, hdr: &Header, sealed: Gen, pgs: Vec<(PgId, Epoch)>, entries: Vec<Entry>) {
        let exists = u8::from(self.store.lineage_exists(hdr.vol));
        let mut parts: Vec<&[Entry]> = entries.chunks(SEAL_ENTRIES_MAX).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        for (i, part) in parts.into_iter().enumerate() {
            let listed: Vec<(PgId, Epoch)> =
                pgs.iter().filter(|(id, _)| i == 0 || part.iter().any(|e| e.pg == *id)).copied().collect();
            let meta = encode_part(sealed, exists, &listed, part);
            let flags = if i == last { Flags::LAST } else { Flags::default() };
            self.send_with(peer, hdr, flags, meta);
        }
    }

    /// FREEZE of a layer at a cut; OK when durable.
    pub(crate) fn on_freeze(&mut self, peer: PeerId, h: &Header) -> Result<(), Refusal> {
        self.check_gen(h)?;
        let ticket = self.ticket_of(h, peer)?;
        if h.map_rev > self.adopted_rev {
            self.want_map(h.map_rev);
            return Err(Refusal::Retry);
        }
        let cut = h.version();
        if h.stable < cut || h.stable.gen > h.gen {
            return Err(Refusal::Invalid);
        }
        if !ticket.has_layer(h.layer) {
            return Err(Refusal::NeedTicket);
        }
        self.raise_stable(h);
        let cut = *self.freezes.entry(h.layer).or_insert(cut);
        let mut w = Writer::new();
        w.u32(cut.gen.0).u64(cut.seq);
        let token = self.append_meta(MetaKey::Freeze(h.layer), w.finish()).map_err(|_| Refusal::Eio)?;
        self.then(token, Then::Persisted { peer, hdr: Box::new(*h) });
        Ok(())
    }

    /// A plain OK for requests that are done at once.
    pub(crate) fn send_ok(&mut self, peer: PeerId, hdr: &Header) {
        self.send(peer, hdr, Status::Ok, Vec::new());
    }
}

/// Nonce of the owner in a FENCE; a sender that knows none leaves it out.
fn fence_nonce(meta: &[u8]) -> Result<u64, Refusal> {
    let mut r = Reader::new(meta);
    let nonce = if meta.is_empty() { Ok(0) } else { r.u64() };
    let nonce = nonce.map_err(|_| Refusal::Invalid)?;
    r.finish().map_err(|_| Refusal::Invalid)?;
    Ok(nonce)
}

fn pools_of(ticket: &Ticket) -> Vec<PoolId> {
    let mut pools: Vec<PoolId> = core::iter::once(ticket.pool).chain(ticket.parents.iter().map(|p| p.pool)).collect();
    pools.sort_unstable();
    pools.dedup();
    pools
}

fn encode_part(sealed: Gen, exists: u8, pgs: &[(PgId, Epoch)], entries: &[Entry]) -> Vec<u8> {
    let mut w = Writer::new();
    w.u32(sealed.0).u8(exists).count(pgs.len());
    let mut rest = entries;
    for (id, epoch) in pgs {
        // Entries are sorted by PG, as the PGs are.
        let from = rest.iter().position(|e| e.pg >= *id).unwrap_or(rest.len());
        rest = rest.get(from..).unwrap_or(&[]);
        let n = rest.iter().take_while(|e| e.pg == *id).count();
        let (mine, after) = rest.split_at(n.min(rest.len()));
        w.u32(id.to_wire()).u32(epoch.0).count(mine.len());
        for e in mine {
            w.u64(e.layer).u64(e.block).u32(e.gen).u64(e.seq).u8(e.kind);
        }
        rest = after;
    }
    w.finish()
}
