//! Read repair: a block that does not match its checksum, or was given up as bad, is fetched from an in-sync peer
//! at equal version and appended again.

use std::collections::BTreeMap;

use drystone_store::api::{BlockKind, BlockRecord, Held, ObjectDigest, ObjectStore, Record, SpaceClass, Stream};
use drystone_types::consts::{Micros, CHUNK_BLOCKS};
use drystone_types::{DriveId, Flags, Frame, Header, MsgType, ObjKey, PgId, Status, Version, VolumeId};

use crate::api::Report;
use crate::limits::{HOPELESS_MAX, REPAIRS_MAX, REPAIR_AGAIN_MAX, REPAIR_AGAIN_MIN, RESYNC_TIMEOUT};
use crate::replica::Replica;
use crate::requests::Ask;
use crate::resync::compare::{cells, object};
use crate::resync::wire::{decode_cells, encode_runs, CopyCell};
use crate::state::{Op, Role, Then};

/// One block being healed.
struct Repair {
    pg: PgId,
    vol: VolumeId,
    /// Version that the log says it has.
    want: Option<Version>,
    asked: Vec<DriveId>,
}

/// A block that nobody could heal yet.
struct Waiting {
    pg: PgId,
    vol: VolumeId,
    /// When it is tried again.
    at: Micros,
    /// How long the next failure puts it off.
    wait: Micros,
}

/// Blocks being healed. A direct write to one cancels it.
#[derive(Default)]
pub(crate) struct Repairs {
    open: BTreeMap<(ObjKey, u16), Repair>,
    /// Blocks that nobody could heal, tried again with growing pauses: the peer that has the bytes may
    /// only have been away, and two drives with the same rotten block must not ask each other in a tight loop.
    waiting: BTreeMap<(ObjKey, u16), Waiting>,
}

impl Repairs {
    fn may_start(&self, id: (ObjKey, u16), now: Micros) -> bool {
        let resting = self.waiting.get(&id).is_some_and(|w| w.at > now);
        self.open.len() < REPAIRS_MAX && !self.open.contains_key(&id) && !resting
    }
    fn put_off(&mut self, id: (ObjKey, u16), pg: PgId, vol: VolumeId, now: Micros) {
        self.open.remove(&id);
        let wait = self.waiting.get(&id).map_or(REPAIR_AGAIN_MIN, |w| (w.wait * 2).min(REPAIR_AGAIN_MAX));
        if self.waiting.len() < HOPELESS_MAX || self.waiting.contains_key(&id) {
            self.waiting.insert(id, Waiting { pg, vol, at: now + wait, wait });
        }
    }
    /// When a block is to be tried again.
    pub(crate) fn deadline(&self) -> Option<Micros> {
        self.waiting.values().map(|w| w.at).min()
    }
}

impl<S: ObjectStore> Replica<S> {
    /// Starts a repair of a block whose PG follows from its volume's ticket.
    pub(crate) fn start_repair(&mut self, vol: VolumeId, key: ObjKey, block: u16) {
        let ticket = self.vols.get(&vol).and_then(|v| v.ticket.clone());
        let pg = ticket.and_then(|t| {
            let pg = self.map.pool(t.pool)?.pg_of_hash(drystone_placement::chunk_hash(t.seed, key.chunk));
            Some(PgId { pool: t.pool, pg })
        });
        match pg {
            Some(pg) => self.repair_block(pg, vol, key, block),
            None => self.report(Report::Unrepaired { vol, key, block }),
        }
    }

    pub(crate) fn repair_block(&mut self, pg: PgId, vol: VolumeId, key: ObjKey, block: u16) {
        let insync = self.pgs.get(&pg).is_some_and(|pg| pg.role == Role::InSync);
        let id = (key, block);
        if !insync || !self.repairs.may_start(id, self.now) {
            return;
        }
        self.repairs.open.insert(id, Repair { pg, vol, want: None, asked: Vec::new() });
        let op = self.ops.insert(Op { left: 1, then: Then::RepairDigest(key, block) });
        self.store.digest(vol, key.chunk, op);
    }

    /// Blocks that no copy could give: tried again with growing pauses, a member that returns may have them.
    pub(crate) fn heal_later(&mut self, pg: PgId, blocks: Vec<(VolumeId, ObjKey, u16)>) {
        for (vol, key, block) in blocks {
            self.repairs.put_off((key, block), pg, vol, self.now);
        }
    }

    /// Tries again what nobody could heal.
    pub(crate) fn repair_again(&mut self) {
        if self.repairs.deadline().is_none_or(|at| at > self.now) {
            return;
        }
        let now = self.now;
        let due: Vec<_> =
            self.repairs.waiting.iter().filter(|(_, w)| w.at <= now).map(|(id, w)| (*id, w.pg, w.vol)).collect();
        for ((key, block), pg, vol) in due {
            self.repair_block(pg, vol, key, block);
            if self.repairs.open.contains_key(&(key, block)) {
                // While it runs its own timeouts count; this entry only remembers the pause.
                if let Some(w) = self.repairs.waiting.get_mut(&(key, block)) {
                    w.at = now + REPAIR_AGAIN_MAX;
                }
            } else {
                // No longer in sync here, or too many at once: later.
                self.repairs.put_off((key, block), pg, vol, now);
            }
        }
    }

    /// A write to the block replaces it anyway; healing it afterwards would lower its version (I8).
    pub(crate) fn cancel_repair(&mut self, key: ObjKey, first: u16, count: u16) {
        if self.repairs.open.is_empty() && self.repairs.waiting.is_empty() {
            return;
        }
        self.repairs.open.retain(|(k, b), _| *k != key || *b < first || *b >= first + count);
        self.repairs.waiting.retain(|(k, b), _| *k != key || *b < first || *b >= first + count);
    }

    pub(crate) fn repair_digest(&mut self, key: ObjKey, block: u16, objects: &[ObjectDigest]) {
        let cell = cells(object(objects, key.layer)).get(usize::from(block)).copied().flatten();
        let Some(repair) = self.repairs.open.get_mut(&(key, block)) else { return };
        match cell.filter(|c| matches!(c.kind, BlockKind::Data | BlockKind::Bad)) {
            Some(cell) => {
                repair.want = Some(cell.version);
                self.ask_repair(key, block);
            }
            None => {
                self.repairs.open.remove(&(key, block));
                self.repairs.waiting.remove(&(key, block));
            }
        }
    }

    fn ask_repair(&mut self, key: ObjKey, block: u16) {
        let me = self.cfg.drive;
        let Some(repair) = self.repairs.open.get_mut(&(key, block)) else { return };
        let insync = self.pgs.get(&repair.pg).map(|pg| pg.rec.insync.clone()).unwrap_or_default();
        let Some(peer) = insync.into_iter().find(|d| *d != me && !repair.asked.contains(d)) else {
            let (pg, vol) = (repair.pg, repair.vol);
            self.repairs.put_off((key, block), pg, vol, self.now);
            self.report(Report::Unrepaired { vol, key, block });
            return;
        };
        repair.asked.push(peer);
        let hdr = Header {
            kind: MsgType::Copy,
            flags: Flags::COPY,
            pg: repair.pg,
            vol: repair.vol,
            layer: key.layer,
            block: key.chunk * u64::from(CHUNK_BLOCKS),
            count: 1,
            ..Header::default()
        };
        self.ask(peer, hdr, encode_runs(&[(block, 1)]), Ask::Repair(key, block), RESYNC_TIMEOUT);
    }

    pub(crate) fn repair_answered(&mut self, _drive: DriveId, key: ObjKey, block: u16, frame: Option<Frame>) {
        let Some(repair) = self.repairs.open.get(&(key, block)) else { return };
        let (pg, vol) = (repair.pg, repair.vol);
        let healed = frame.and_then(|f| healing(&f, vol, key, block, repair.want));
        let state = self.pgs.get(&pg).filter(|pg| pg.role == Role::InSync).map(|pg| pg.epoch());
        let (Some((version, csum, data)), Some(pg_epoch)) = (healed, state) else {
            self.ask_repair(key, block);
            return;
        };
        if let Held::Known { version: held, .. } = self.store.held(key, block) {
            self.assert_that(held <= version, "I8: a repair would lower a version");
        }
        let rec = BlockRecord {
            vol,
            key,
            pg,
            pg_epoch,
            first: block,
            count: 1,
            kind: BlockKind::Data,
            version,
            since_join: None,
            copy: true,
            csums: vec![csum],
        };
        match self.append(Stream::Large, SpaceClass::Reserve, Record::Blocks(rec), data) {
            Ok(token) => self.then(token, Then::RepairDone(key, block)),
            Err(_) => {
                self.repairs.open.remove(&(key, block));
            }
        }
    }

    pub(crate) fn repair_done(&mut self, key: ObjKey, block: u16) {
        let Some(repair) = self.repairs.open.remove(&(key, block)) else { return };
        self.repairs.waiting.remove(&(key, block));
        self.stats.healed += 1;
        self.report(Report::Healed { vol: repair.vol, key, block });
    }
}

/// The peer's bytes, if they are this very version and match their own checksum: equal versions
/// are equal bytes (I6), and a checksum of ours may be what rotted.
fn healing(
    frame: &Frame,
    vol: VolumeId,
    key: ObjKey,
    block: u16,
    want: Option<Version>,
) -> Option<(Version, u64, drystone_types::Buf)> {
    let version = want?;
    let csum = *frame.csums.first()?;
    let cells = decode_cells(&frame.meta).ok().filter(|_| frame.hdr.status == Status::Ok)?;
    let number = key.chunk * u64::from(CHUNK_BLOCKS) + u64::from(block);
    let right = cells.first() == Some(&CopyCell::Held(BlockKind::Data, version))
        && drystone_csum::block_csum(vol, number, frame.data.as_slice()) == csum;
    right.then(|| (version, csum, frame.data.clone()))
}
