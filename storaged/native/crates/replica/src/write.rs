//! WRITE, TRIM, ZERO and ROLL: R4, R5, R6 and R6c.

use drystone_store::api::{AppendError, BlockKind, BlockRecord, Held, ObjectStore, Record, SpaceClass, Stream};
use drystone_types::consts::{BLOCK_SIZE, CHUNK_BLOCKS, FRAME_BLOCKS_MAX, VOLUME_SIZE_MAX};
use drystone_types::{AttachMode, Epoch, Flags, Frame, Header, MsgType, ObjKey, PgId, Rule, Status, Ticket, Version};
use smallvec::SmallVec;

use crate::api::PeerId;
use crate::limits::{HOLE_BLOCKS_MAX, SMALL_BLOCKS_MAX};
use crate::replica::Replica;
use crate::state::{Op, Refusal, Role, Then};

/// What R5 decided for the blocks of one request.
#[derive(Default)]
struct Plan {
    /// Runs to append: (offset within the request, blocks).
    runs: SmallVec<[(u16, u16); 1]>,
    /// Admissions of duplicates to wait for (R6b).
    waits: SmallVec<[u64; 2]>,
}

/// Where a request goes.
#[derive(Clone, Copy)]
struct Place {
    key: ObjKey,
    first: u16,
    count: u16,
    kind: BlockKind,
    version: Version,
    since_join: Option<Epoch>,
}

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn on_write(&mut self, peer: PeerId, frame: Frame) -> Result<(), Refusal> {
        let h = frame.hdr;
        self.stats.writes += 1;
        let role = self.check_fences(&h)?;
        let place = self.check_write(peer, &frame, role)?;
        if is_unread(&h) {
            self.await_copy(&h, role, place.key, place.first, place.count)?;
            self.send(peer, &h, Status::Ok, Vec::new());
            return Ok(());
        }
        let plan = self.apply_order(&h, place, role);
        let tokens = self.append_runs(&h, place, &plan, frame)?;
        if !h.flags.has(Flags::ROLL) || !self.cfg.rules.on(Rule::RollStable) {
            self.raise_stable(&h);
        }
        let op = self.ops.insert(Op { left: 0, then: Then::WriteOk { peer, hdr: Box::new(h) } });
        if self.cfg.rules.on(Rule::R6) {
            tokens.into_iter().chain(plan.waits).for_each(|token| self.wait_on(op, token));
        }
        self.settle(op);
        Ok(())
    }

    /// R4: shape, ticket, layer, freeze and checksums.
    fn check_write(&mut self, peer: PeerId, frame: &Frame, role: Role) -> Result<Place, Refusal> {
        let h = &frame.hdr;
        let place = shape(frame, role)?;
        let ticket = self.ticket_of(h, peer)?;
        let roll = h.flags.has(Flags::ROLL);
        if !roll && matches!(ticket.mode, AttachMode::ReadOnly | AttachMode::Snapshot) {
            return Err(Refusal::Denied);
        }
        let stable = self.vols.get(&h.vol).map_or(Version::ZERO, |v| v.stable);
        // "Already stable" is tested first: a ROLL into a merged layer must not be refused for ever (P22).
        // A joiner stores void blocks also at stable versions, so there a foreign layer could be written.
        if place.version > stable || matches!(role, Role::Joining(_)) {
            self.check_layer(h, &ticket, place.version)?;
        }
        self.check_pg(h.pg, &ticket, place.key.chunk)?;
        if place.kind == BlockKind::Data && self.cfg.rules.on(Rule::R4Csum) && !checksums_match(frame) {
            return Err(Refusal::Retry);
        }
        Ok(place)
    }

    fn check_layer(&self, h: &Header, ticket: &Ticket, version: Version) -> Result<(), Refusal> {
        let Some((_, cut)) = ticket.chain.iter().find(|(layer, _)| *layer == h.layer) else {
            return Err(Refusal::NeedTicket);
        };
        if h.block + u64::from(h.count) > ticket.blocks() {
            return Err(Refusal::NeedTicket);
        }
        let frozen = self.freezes.get(&h.layer).copied().unwrap_or(Version::ZERO);
        let above = |cut: Version| cut != Version::ZERO && version > cut;
        if self.cfg.rules.on(Rule::R4Freeze) && (above(*cut) || above(frozen)) {
            Err(Refusal::Invalid)
        } else {
            Ok(())
        }
    }

    /// The chunk belongs to this PG by the ticket's seed: a wrong one would be missed by every resync.
    pub(crate) fn check_pg(&self, pg: PgId, ticket: &Ticket, chunk: u64) -> Result<(), Refusal> {
        self.check_place(pg, ticket.pool, ticket.seed, chunk)
    }

    pub(crate) fn check_place(
        &self,
        pg: PgId,
        pool: drystone_types::PoolId,
        seed: u64,
        chunk: u64,
    ) -> Result<(), Refusal> {
        let map = self.map.pool(pool).ok_or(Refusal::Retry)?;
        let right = map.pg_of_hash(drystone_placement::chunk_hash(seed, chunk));
        if pg == (PgId { pool, pg: right }) {
            Ok(())
        } else {
            Err(Refusal::Invalid)
        }
    }

    /// R5, per block and in its order.
    fn apply_order(&mut self, h: &Header, place: Place, role: Role) -> Plan {
        let stable = self.vols.get(&h.vol).map_or(Version::ZERO, |v| v.stable);
        let mut plan = Plan::default();
        for i in 0..place.count {
            let block = place.first + i;
            let held = self.store.held(place.key, block);
            let void = self.is_void(h.pg, role, h.vol, place.key, block);
            if void {
                self.stats.void_writes += 1;
            } else if place.version <= stable {
                self.stats.blocks_skipped += 1;
                continue;
            } else if let Held::Known { version, durable, token, kind } = held {
                // Bytes that a copy had given up: an OK must stand for them, not for the mark of their loss.
                let gives_back = version == place.version && kind == BlockKind::Bad && place.kind != BlockKind::Bad;
                let older = place.version < version && self.cfg.rules.on(Rule::R5Order);
                if (older || place.version == version) && !gives_back {
                    self.stats.blocks_skipped += 1;
                    if !durable && self.cfg.rules.on(Rule::R6b) && !plan.waits.contains(&token) {
                        plan.waits.push(token);
                    }
                    continue;
                }
            }
            match plan.runs.last_mut() {
                Some((first, count)) if *first + *count == i => *count += 1,
                _ => plan.runs.push((i, 1)),
            }
        }
        plan
    }

    /// Void: this drive joins, and the block was neither copied nor written since the join.
    pub(crate) fn is_void(&self, pg: PgId, role: Role, vol: drystone_types::VolumeId, key: ObjKey, block: u16) -> bool {
        let Role::Joining(join) = role else { return false };
        if !self.cfg.rules.on(Rule::R5) {
            return false;
        }
        self.store.since_join(key, block) != Some(join) && !self.is_copied(pg, vol, key, block)
    }

    fn append_runs(
        &mut self,
        h: &Header,
        place: Place,
        plan: &Plan,
        frame: Frame,
    ) -> Result<SmallVec<[u64; 2]>, Refusal> {
        let mut tokens = SmallVec::new();
        if plan.runs.is_empty() {
            return Ok(tokens);
        }
        self.assert_i3(h);
        let (space, slots) = self.space_for(h, place);
        let stream = if u32::from(place.count) <= SMALL_BLOCKS_MAX || place.kind != BlockKind::Data {
            Stream::Small
        } else {
            Stream::Large
        };
        let epoch = self.pgs.get(&h.pg).map_or(h.pg_epoch, |pg| pg.epoch());
        let mut csums = frame.csums;
        let mut taken = 0;
        for (offset, count) in &plan.runs {
            self.cancel_repair(place.key, place.first + offset, *count);
            let run = run_csums(&mut csums, place, *offset, *count);
            let data = run_data(&frame.data, place, *offset, *count);
            let rec = record(h, place, epoch, *offset, *count, run);
            match self.append(stream, space, Record::Blocks(rec), data) {
                Ok(token) => tokens.push(token),
                Err(error) => return Err(self.refused(error, space)),
            }
            taken += u64::from(*count) + 1;
            self.stats.blocks_written += u64::from(*count);
        }
        self.use_credit(h.vol, h.gen, slots, taken);
        Ok(tokens)
    }

    /// Which space a write may use, and the slots of its credit that it uses up.
    fn space_for(&mut self, h: &Header, place: Place) -> (SpaceClass, u64) {
        if h.flags.has(Flags::ROLL) {
            self.stats.rolls += 1;
            return (SpaceClass::Reserve, 0);
        }
        if place.kind != BlockKind::Data {
            return (SpaceClass::Reserve, 0);
        }
        if h.flags.has(Flags::OVERWRITE) {
            let mapped = (0..place.count).all(|i| self.store.held(place.key, place.first + i) != Held::Absent);
            return (if mapped { SpaceClass::Reserve } else { SpaceClass::Free }, 0);
        }
        let slots = u64::from(place.count) + 1;
        let covered = self.vols.get(&h.vol).is_some_and(|v| v.grant.covers(h.gen, slots));
        if covered {
            (SpaceClass::Granted, slots)
        } else {
            (SpaceClass::Free, 0)
        }
    }

    fn refused(&mut self, error: AppendError, space: SpaceClass) -> Refusal {
        match error {
            AppendError::Full => {
                self.assert_that(space != SpaceClass::Granted, "I20: a write with a credit meets no space");
                Refusal::Full
            }
            AppendError::Failed => Refusal::Eio,
            AppendError::Invalid => Refusal::Invalid,
        }
    }

    /// Everything the OK stands for is durable: send it, if its epoch still is the adopted one (R6c).
    pub(crate) fn finish_write(&mut self, peer: PeerId, hdr: Box<Header>) {
        let gate = self.pgs.get(&hdr.pg).and_then(|pg| pg.gate);
        if let Some(token) = gate.filter(|token| self.recs.get_mut(*token).is_some()) {
            self.then(token, Then::WriteOk { peer, hdr });
            return;
        }
        if let Err(refusal) = self.check_late(&hdr) {
            self.stats.late_nacks += 1;
            self.refuse(peer, &hdr, refusal);
            return;
        }
        self.top_up(hdr.vol, hdr.gen);
        self.send(peer, &hdr, Status::Ok, Vec::new());
    }

    fn check_late(&self, hdr: &Header) -> Result<(), Refusal> {
        if self.cfg.rules.on(Rule::R6c) {
            self.check_epoch(hdr)?;
        }
        self.check_gen(hdr)
    }
}

/// A roll that carries no bytes because nobody could read them.
fn is_unread(h: &Header) -> bool {
    h.kind == MsgType::Write && h.flags.has(Flags::ROLL.with(Flags::UNREAD))
}

fn shape(frame: &Frame, role: Role) -> Result<Place, Refusal> {
    let h = &frame.hdr;
    let roll = h.flags.has(Flags::ROLL);
    let bad = h.flags.has(Flags::BAD);
    let kind = match h.kind {
        MsgType::Trim => BlockKind::Hole,
        MsgType::Zero => BlockKind::Zero,
        _ if bad || is_unread(h) => BlockKind::Bad,
        _ => BlockKind::Data,
    };
    let most = if kind == BlockKind::Data { FRAME_BLOCKS_MAX } else { HOLE_BLOCKS_MAX };
    let blocks = if kind == BlockKind::Data { h.count as usize } else { 0 };
    let first = h.block % u64::from(CHUNK_BLOCKS);
    let exists = h.block < VOLUME_SIZE_MAX / BLOCK_SIZE as u64;
    let fits = exists && h.count > 0 && h.count <= most && first + u64::from(h.count) <= u64::from(CHUNK_BLOCKS);
    let bytes = frame.csums.len() == blocks && frame.data.len() == blocks * BLOCK_SIZE;
    let origin = if roll { h.origin_gen <= h.gen && h.origin_gen.0 > 0 } else { h.origin_gen == h.gen && !bad };
    if !fits || !bytes || !origin || h.seq == 0 || h.stable.gen > h.gen {
        return Err(Refusal::Invalid);
    }
    let since_join = match role {
        Role::Joining(join) => Some(join),
        _ => None,
    };
    let key = ObjKey { layer: h.layer, chunk: h.block / u64::from(CHUNK_BLOCKS) };
    let first = u16::try_from(first).map_err(|_| Refusal::Invalid)?;
    let count = u16::try_from(h.count).map_err(|_| Refusal::Invalid)?;
    Ok(Place { key, first, count, kind, version: h.version(), since_join })
}

/// Every block matches its checksum under (lineage, block): a torn receive is RETRY, never EIO.
fn checksums_match(frame: &Frame) -> bool {
    let h = &frame.hdr;
    (h.block..)
        .zip(frame.csums.iter())
        .enumerate()
        .all(|(i, (block, csum))| drystone_csum::block_csum(h.vol, block, frame.data.block(i).as_slice()) == *csum)
}

fn run_csums(csums: &mut Vec<u64>, place: Place, offset: u16, count: u16) -> Vec<u64> {
    if place.kind != BlockKind::Data {
        return Vec::new();
    }
    if count == place.count {
        return core::mem::take(csums);
    }
    csums.iter().skip(usize::from(offset)).take(usize::from(count)).copied().collect()
}

fn run_data(data: &drystone_types::Buf, place: Place, offset: u16, count: u16) -> drystone_types::Buf {
    if place.kind != BlockKind::Data {
        return drystone_types::Buf::empty();
    }
    let start = usize::from(offset) * BLOCK_SIZE;
    data.slice(start..start + usize::from(count) * BLOCK_SIZE)
}

fn record(h: &Header, place: Place, epoch: Epoch, offset: u16, count: u16, csums: Vec<u64>) -> BlockRecord {
    BlockRecord {
        vol: h.vol,
        key: place.key,
        pg: h.pg,
        pg_epoch: epoch,
        first: place.first + offset,
        count,
        kind: place.kind,
        version: place.version,
        since_join: place.since_join,
        copy: false,
        csums,
    }
}
