//! Read repair: a block that does not match its checksum, or was given up as bad, is fetched from an in-sync peer
//! at equal version and appended again. Where the version is lost too, members agree by the stable value: see
//! `wanted`.

use drystone_store::api::{BlockKind, BlockRecord, Held, ObjectDigest, ObjectStore, Record, SpaceClass, Stream};
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{DriveId, Flags, Frame, Header, LayerId, MsgType, ObjKey, PgId, Status, Version, VolumeId};

use crate::api::Report;
use crate::bad_blocks::{FoundBy, Home, Want};
use crate::limits::RESYNC_TIMEOUT;
use crate::replica::Replica;
use crate::requests::Ask;
use crate::resync::compare::{cells, object, Cell};
use crate::resync::wire::{decode_cells, encode_runs, CopyCell};
use crate::state::{Op, Role, Then};

impl<S: ObjectStore> Replica<S> {
    /// Bad blocks that the store met by itself, or an operator names.
    pub(crate) fn repair_found(&mut self, list: Vec<(VolumeId, ObjKey, u16)>, by: FoundBy) {
        for (vol, key, block) in list {
            match self.store.pg_of(key) {
                Some(pg) if self.pgs.contains_key(&pg) => self.found_bad(Home { pg, vol }, key, block, by),
                // What is left of a PG that this drive has left: nobody reads it, nobody has it.
                _ if by == FoundBy::Scrub => self.repairs.scrub_left(),
                _ => {}
            }
        }
        self.pump_repairs();
    }

    /// A block that somebody who reads it cannot have from here.
    pub(crate) fn repair_block(&mut self, pg: PgId, vol: VolumeId, key: ObjKey, block: u16) {
        if self.pgs.get(&pg).is_some_and(|pg| pg.role == Role::InSync) {
            self.found_bad(Home { pg, vol }, key, block, FoundBy::Read);
            self.pump_repairs();
        }
    }

    fn found_bad(&mut self, home: Home, key: ObjKey, block: u16, by: FoundBy) {
        self.stats.bad_found += u64::from(self.repairs.found((key, block), home, by));
    }

    /// Heals as many of the known bad blocks as may be healed at a time. A scrub reads on when none waits.
    pub(crate) fn pump_repairs(&mut self) {
        if self.failed {
            return;
        }
        while let Some(((key, block), home)) = self.repairs.next() {
            self.begin_repair(home, key, block);
        }
        self.hold_scrub();
        if let Some((blocks, bad, healed)) = self.repairs.scrub_ended() {
            self.report(Report::ScrubDone { blocks, bad, healed });
        }
    }

    fn begin_repair(&mut self, home: Home, key: ObjKey, block: u16) {
        match self.pgs.get(&home.pg).map(|pg| pg.role) {
            Some(Role::InSync) => {}
            // Its copy goes on, or it comes back.
            Some(_) => {
                self.repairs.rest((key, block), self.now);
                return;
            }
            None => return self.repairs.abandon((key, block)),
        }
        // What is on its way to the log replaces it.
        if self.is_gone(key, block) || matches!(self.store.held(key, block), Held::Known { durable: false, .. }) {
            self.repairs.remove((key, block));
            return;
        }
        let op = self.ops.insert(Op { left: 1, then: Then::RepairDigest(key, block) });
        self.store.digest_blocks(home.vol, key, &[(block, 1)], op);
    }

    /// Blocks that no copy could give: tried again with growing pauses, a member that returns may have them.
    pub(crate) fn heal_later(&mut self, pg: PgId, blocks: Vec<(VolumeId, ObjKey, u16)>) {
        for (vol, key, block) in blocks {
            let news = self.repairs.found_hopeless((key, block), Home { pg, vol }, self.now);
            self.stats.bad_found += u64::from(news);
        }
    }

    /// Tries again what nobody could heal.
    pub(crate) fn repair_again(&mut self) {
        if self.repairs.wake(self.now) {
            self.pump_repairs();
        }
    }

    /// A write to the block replaces it anyway; healing it afterwards would lower its version (I8).
    pub(crate) fn cancel_repair(&mut self, key: ObjKey, first: u16, count: u16) {
        if self.repairs.replaced(key, first, count) {
            self.pump_repairs();
        }
    }

    /// What is not here any more, or goes with its layer, is not brought back.
    fn is_gone(&self, key: ObjKey, block: u16) -> bool {
        self.freed.contains(&key.layer) || self.store.held(key, block) == Held::Absent
    }

    /// The layer goes, with every bad block of it.
    pub(crate) fn cancel_repairs(&mut self, layer: LayerId) {
        if self.repairs.layer_gone(layer) {
            self.pump_repairs();
        }
    }

    pub(crate) fn repair_digest(&mut self, key: ObjKey, block: u16, objects: &[ObjectDigest]) {
        let cell = cells(object(objects, key.layer)).get(usize::from(block)).copied().flatten();
        if self.repairs.opened((key, block)).is_none() {
            return;
        }
        // Zeros read right without their version; a copy of them needs it.
        match cell.filter(|c| matches!(c.kind, BlockKind::Data | BlockKind::Bad) || c.lost_version()) {
            Some(cell) => match self.wanted(key, block, cell) {
                Some(want) => {
                    self.repairs.want((key, block), want);
                    self.ask_repair(key, block);
                }
                None => self.unrepaired(key, block),
            },
            None => {
                self.repairs.remove((key, block));
                self.pump_repairs();
            }
        }
    }

    /// Which version of a peer is the one that was here. With the group header and the summary lost nothing on this
    /// drive tells. But the store remembers every version above the durable stable value, so this one was at most
    /// that; everything up to a stable value is on every in-sync member (I11), and each keeps the newest (R5): the
    /// version at most stable that another in-sync member holds is the one that was here. Of a volume whose
    /// stable value is not known here nothing can be said.
    fn wanted(&self, key: ObjKey, block: u16, cell: Cell) -> Option<Want> {
        if cell.version > Version::ZERO {
            return Some(Want::Exactly(cell.version));
        }
        let (Home { vol, .. }, _) = self.repairs.opened((key, block))?;
        let stable = self.vols.get(&vol).map(|v| v.stable).filter(|s| *s > Version::ZERO)?;
        let want = if cell.kind == BlockKind::Zero { Want::StableZeros(stable) } else { Want::Stable(stable) };
        (self.store.held(key, block) == Held::Old).then_some(want)
    }

    fn unrepaired(&mut self, key: ObjKey, block: u16) {
        let home = self.repairs.opened((key, block)).map(|o| o.0);
        let first = self.repairs.rest((key, block), self.now);
        if let Some(Home { vol, .. }) = home.filter(|_| first) {
            self.report(Report::Unrepaired { vol, key, block });
        }
        self.pump_repairs();
    }

    fn ask_repair(&mut self, key: ObjKey, block: u16) {
        let me = self.cfg.drive;
        let Some((Home { pg, vol }, _)) = self.repairs.opened((key, block)) else { return };
        let insync = self.pgs.get(&pg).map(|pg| pg.rec.insync.clone()).unwrap_or_default();
        let peers = insync.into_iter().filter(|d| *d != me);
        let Some(peer) = self.repairs.ask_next((key, block), peers) else { return self.unrepaired(key, block) };
        let hdr = Header {
            kind: MsgType::Copy,
            flags: Flags::COPY,
            pg,
            vol,
            layer: key.layer,
            block: key.chunk * u64::from(CHUNK_BLOCKS),
            count: 1,
            ..Header::default()
        };
        self.ask(peer, hdr, encode_runs(&[(block, 1)]), Ask::Repair(key, block), RESYNC_TIMEOUT);
    }

    pub(crate) fn repair_answered(&mut self, _drive: DriveId, key: ObjKey, block: u16, frame: Option<Frame>) {
        let Some((Home { pg, vol }, want)) = self.repairs.opened((key, block)) else { return };
        let healed = frame.and_then(|f| healing(&f, vol, key, block, want));
        let state = self.pgs.get(&pg).filter(|pg| pg.role == Role::InSync).map(|pg| pg.epoch());
        let (Some(Healing { kind, version, csums, data }), Some(pg_epoch)) = (healed, state) else {
            self.ask_repair(key, block);
            return;
        };
        if self.is_gone(key, block) {
            self.repairs.remove((key, block));
            return self.pump_repairs();
        }
        match self.store.held(key, block) {
            // It was written meanwhile, so what the peer has is no longer what was here.
            Held::Known { .. } if matches!(want, Some(Want::Stable(_) | Want::StableZeros(_))) => {
                self.repairs.rest((key, block), self.now);
                return self.pump_repairs();
            }
            Held::Known { version: held, .. } => {
                self.assert_that(held <= version, "I8: a repair would lower a version");
            }
            _ => {}
        }
        let rec = BlockRecord {
            vol,
            key,
            pg,
            pg_epoch,
            first: block,
            count: 1,
            kind,
            version,
            since_join: None,
            copy: true,
            csums,
        };
        match self.append(Stream::Large, SpaceClass::Reserve, Record::Blocks(rec), data) {
            Ok(token) => self.then(token, Then::RepairDone(key, block)),
            // Garbage collection makes room.
            Err(_) => {
                self.repairs.rest((key, block), self.now);
                self.pump_repairs();
            }
        }
    }

    pub(crate) fn repair_done(&mut self, key: ObjKey, block: u16) {
        let Some(Home { vol, .. }) = self.repairs.remove((key, block)) else { return };
        self.stats.healed += 1;
        self.report(Report::Healed { vol, key, block });
        self.pump_repairs();
    }
}

/// What a peer has in the place of a bad block.
pub(crate) struct Healing {
    pub kind: BlockKind,
    pub version: Version,
    /// Of data.
    pub csums: Vec<u64>,
    pub data: drystone_types::Buf,
}

/// The peer's bytes, if they are the wanted version and match their own checksum: equal versions
/// are equal bytes (I6), and a checksum of ours may be what rotted.
pub(crate) fn healing(frame: &Frame, vol: VolumeId, key: ObjKey, block: u16, want: Option<Want>) -> Option<Healing> {
    let cells = decode_cells(&frame.meta).ok().filter(|_| frame.hdr.status == Status::Ok)?;
    let Some(CopyCell::Held(kind, version)) = cells.first().copied() else { return None };
    let number = key.chunk * u64::from(CHUNK_BLOCKS) + u64::from(block);
    let right = match kind {
        BlockKind::Data => {
            let csum = drystone_csum::block_csum(vol, number, frame.data.as_slice());
            frame.csums.first() == Some(&csum)
        }
        BlockKind::Zero => frame.data.as_slice().is_empty(),
        BlockKind::Hole | BlockKind::Bad => false,
    };
    let csums = frame.csums.iter().take(usize::from(kind == BlockKind::Data)).copied().collect();
    let healing = Healing { kind, version, csums, data: frame.data.clone() };
    want.filter(|want| right && want.kind() == kind && want.is_met_by(version)).map(|_| healing)
}
