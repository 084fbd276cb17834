//! Protocol invariants of engine §4.6, watched from outside the cores: on the frames they exchange and
//! on the store's records.

use std::collections::{BTreeMap, BTreeSet};

use drystone_store::api::{BlockKind, Held, ObjectStore};
use drystone_types::{
    CodecError, DriveId, Epoch, Flags, Frame, Gen, Header, LayerId, MsgType, ObjKey, PgId, Reader, Status, Version,
    VolumeId,
};

use crate::meta::Change;
use crate::world::World;

/// A version a client issued.
#[derive(Clone, Debug)]
struct Issued {
    pg: PgId,
    key: ObjKey,
    first: u16,
    count: u32,
    data: bool,
    oks: Vec<(Epoch, DriveId)>,
}

/// Blocks of a frozen layer in one PG: (chunk, block) → kind, version, checksum.
pub type FrozenBlocks = BTreeMap<(u64, u16), (BlockKind, Version, u64)>;
/// A frozen layer by PG, as far as a copy that is not doubtful said what it holds.
pub type FrozenLayer = BTreeMap<u32, FrozenBlocks>;

/// What the watcher remembers.
#[derive(Debug, Default)]
pub struct Checks {
    /// Highest generation each drive has answered a SEAL of.
    sealed: BTreeMap<(DriveId, VolumeId), Gen>,
    /// Highest generation that was ACTIVE.
    active: BTreeMap<VolumeId, Gen>,
    issued: BTreeMap<(VolumeId, Gen, u64), Issued>,
    stable: BTreeMap<(VolumeId, Gen), u64>,
    /// Changes that reached a server: (connection, request).
    asked: BTreeMap<(usize, u64), Header>,
    /// Epochs of each PG in which a drive answered a client's SEAL: (client, PG, epoch, drive).
    seals: BTreeSet<(usize, u32, Epoch, DriveId)>,
    /// Blocks ever trimmed or zeroed: they may be absent.
    holes: BTreeSet<(ObjKey, u16)>,
    /// Drives whose log ever held a version, as bits.
    pub applied_by: BTreeMap<(ObjKey, u16, Version), u64>,
    /// Content of frozen layers.
    pub frozen: BTreeMap<LayerId, FrozenLayer>,
}

impl Checks {
    /// Highest version a sequencer has called stable; everything of an older generation is below it.
    pub fn stable_of(&self, vol: VolumeId) -> Version {
        let last = self.stable.range((vol, Gen(0))..=(vol, Gen(u32::MAX))).next_back();
        last.map_or(Version::ZERO, |((_, gen), seq)| Version { gen: *gen, seq: *seq })
    }
}

fn is_change(kind: MsgType) -> bool {
    matches!(kind, MsgType::Write | MsgType::Trim | MsgType::Zero)
}

impl World {
    /// A sequencer sends a request.
    pub fn check_client_sends(&mut self, _client: usize, frame: &Frame) {
        let h = &frame.hdr;
        if is_change(h.kind) && !h.flags.has(Flags::ROLL) {
            let key = ObjKey { layer: h.layer, chunk: h.block / 1024 };
            let first = (h.block % 1024) as u16;
            let data = h.kind == MsgType::Write;
            if !data {
                self.checks.holes.extend((0..h.count as u16).map(|i| (key, first + i)));
            }
            let fresh = Issued { pg: h.pg, key, first, count: h.count, data, oks: Vec::new() };
            self.checks.issued.entry((h.vol, h.gen, h.seq)).or_insert(fresh);
        }
        if h.stable.gen == h.gen && h.gen.0 > 0 {
            self.stable_rises(h);
        }
    }

    /// I5, I11 and I1 for every version that `stable` newly covers.
    fn stable_rises(&mut self, h: &Header) {
        let seen = self.checks.stable.entry((h.vol, h.gen)).or_insert(0);
        if *seen >= h.stable.seq {
            return;
        }
        let from = *seen + 1;
        *seen = h.stable.seq;
        let range = (h.vol, h.gen, from)..=(h.vol, h.gen, h.stable.seq);
        let keys: Vec<_> = self.checks.issued.range(range).map(|(k, _)| *k).collect();
        for key in keys {
            if let Some(issued) = self.checks.issued.remove(&key) {
                self.check_completed(key, &issued);
            }
        }
    }

    fn check_completed(&mut self, (vol, gen, seq): (VolumeId, Gen, u64), issued: &Issued) {
        let name = format!(
            "volume {vol} version {gen}:{seq} (pg {}, block {} of chunk {})",
            issued.pg.pg, issued.first, issued.key.chunk
        );
        let epochs: BTreeSet<Epoch> = issued.oks.iter().map(|(e, _)| *e).collect();
        let whole = epochs.iter().any(|e| {
            let record = self.meta.history.get(&(issued.pg.pg, *e));
            record.is_some_and(|r| r.members().all(|d| issued.oks.contains(&(*e, d))))
        });
        if !whole {
            self.fail("I5", format!("{name} counts as complete with {:?}", issued.oks));
            return;
        }
        let Some(record) = self.truth().pg(issued.pg.pg).cloned() else { return };
        for id in record.insync {
            let Some(d) = self.drives.iter().position(|d| d.id == id) else { continue };
            if let Some(block) = self.lacks(d, gen, seq, issued).filter(|_| !self.doubtful(d)) {
                self.fail("I1", format!("{name} is acknowledged, but in-sync drive {id} does not hold block {block}"));
                return;
            }
        }
        self.counts.hit("check.i1_i5");
    }

    /// First block of the version that a live drive does not hold durably, or newer.
    fn lacks(&self, d: usize, gen: Gen, seq: u64, issued: &Issued) -> Option<u16> {
        let replica = self.drives.get(d)?.replica.as_ref()?;
        (issued.first..issued.first + issued.count as u16).find(|block| {
            let version = drystone_types::Version { gen, seq };
            match replica.store().held(issued.key, *block) {
                Held::Old => false,
                // A repair writes the same version anew while the first is in the log.
                Held::Known { version: held, durable, .. } => {
                    held < version || (held == version && !durable && !self.logged(d, issued.key, *block, version))
                }
                Held::Absent => issued.data && !self.checks.holes.contains(&(issued.key, *block)),
            }
        })
    }

    /// Whether the log of a drive holds a version, or a newer one.
    fn logged(&self, d: usize, key: ObjKey, block: u16, version: Version) -> bool {
        let cell = self.drives[d].dev.shadow.model.cell(key, block);
        cell.is_some_and(|c| !c.forgotten && c.version >= version)
    }

    /// A request reaches a server.
    pub fn check_server_receives(&mut self, conn: usize, frame: &Frame) {
        if is_change(frame.hdr.kind) {
            self.checks.asked.insert((conn, frame.hdr.request), frame.hdr);
        }
    }

    /// A drive answers.
    pub fn check_server_sends(&mut self, d: usize, conn: usize, frame: &Frame) {
        let h = &frame.hdr;
        self.count_answer(h);
        let id = self.drives[d].id;
        let asked = self.checks.asked.get(&(conn, h.request)).copied().filter(|_| is_change(h.kind) && h.drive == id);
        if h.status == Status::Full {
            self.check_full(d, asked);
        }
        if h.status != Status::Ok {
            return;
        }
        if let Some(asked) = asked {
            if asked.pg_epoch != h.pg_epoch {
                let (epoch, version) = (asked.pg_epoch, h.version());
                let text = format!("drive {id} acknowledged {version} of epoch {epoch} in epoch {}", h.pg_epoch);
                self.fail("I3", text);
            }
            self.check_acked(d, &asked);
        }
        if matches!(h.kind, MsgType::Seal | MsgType::Fence) {
            let sealed = self.checks.sealed.entry((id, h.vol)).or_default();
            *sealed = (*sealed).max(h.gen);
            self.check_sealed_by_joiner(d, frame);
            return;
        }
        let request = is_change(h.kind) || h.kind == MsgType::Read;
        if !request || h.drive != id {
            return;
        }
        let sealed = self.checks.sealed.get(&(id, h.vol)).copied().unwrap_or_default();
        if h.gen < sealed {
            self.fail(
                "I7",
                format!(
                    "drive {id} answered {:?} of generation {} after SEAL({sealed}) of volume {}",
                    h.kind, h.gen, h.vol
                ),
            );
        }
        let record = self.truth().pg(h.pg.pg).cloned().unwrap_or_default();
        let waking = self.wakes_now(self.drives[d].node);
        if h.kind == MsgType::Read && !h.flags.has(Flags::ROLL) && !record.is_insync(id) && !waking {
            self.fail(
                "I10",
                format!(
                    "drive {id} answered a read of pg {} though it is not in sync (epoch {})",
                    h.pg.pg, record.epoch
                ),
            );
        }
        let active = self.checks.active.get(&h.vol).copied().unwrap_or_default();
        if h.gen < active && h.pg_epoch == record.epoch && record.is_member(id) {
            self.fail(
                "I4",
                format!(
                    "drive {id} answered {:?} of generation {} though generation {active} of volume {} is ACTIVE",
                    h.kind, h.gen, h.vol
                ),
            );
        }
    }

    fn count_answer(&mut self, h: &Header) {
        self.counts.hit(match h.status {
            Status::Ok => "answer.ok",
            Status::NackGen => "answer.nack_gen",
            Status::NackEpoch => "answer.nack_epoch",
            Status::NeedTicket => "answer.need_ticket",
            Status::Retry => "answer.retry",
            Status::Full => "answer.full",
            Status::Eio => "answer.eio",
            Status::Invalid => "answer.invalid",
            Status::Denied => "answer.denied",
            Status::BadChecksum => "answer.bad_checksum",
        });
        let active = self.checks.active.get(&h.vol).copied().unwrap_or_default();
        if h.status == Status::NackGen && active > Gen(0) {
            self.counts.hit(if h.kind == MsgType::Read { "zombie.read_refused" } else { "zombie.write_refused" });
        }
    }

    /// An answer reaches a sequencer.
    pub fn check_client_receives(&mut self, client: usize, _drive: usize, frame: &Frame) {
        let h = &frame.hdr;
        if h.kind == MsgType::Seal && h.status == Status::Ok {
            for (pg, epoch) in sealed_pgs(&frame.meta) {
                self.checks.seals.insert((client, pg, epoch, h.drive));
            }
        }
        if is_change(h.kind) && h.status == Status::Ok && !h.flags.has(Flags::ROLL) {
            if let Some(issued) = self.checks.issued.get_mut(&(h.vol, h.gen, h.seq)) {
                issued.oks.push((h.pg_epoch, h.drive));
            }
        }
    }

    /// Nobody is dropped on silence while its lease lasts.
    pub fn check_lease_over(&mut self, changes: &[(u32, Change)]) {
        for (_, change) in changes {
            let Change::Drop(id) = change else { continue };
            let Some(d) = self.drives.iter().position(|d| d.id == *id && d.replica.is_some()) else { continue };
            let slot = d % self.plan.drives_per_node;
            // By the world's clock: what a guest's shows after it stood still is void.
            let until = self.nodes[self.drives[d].node].ends.get(slot).copied().unwrap_or(0);
            self.counts.hit("check.lease_over");
            if until > self.now {
                let text = format!("drive {id} is dropped for its silence though its lease lasts until {until}");
                self.fail("LEASE", text);
            }
        }
    }

    /// A5 was carried out in the store.
    pub fn check_activated(&mut self, vol: VolumeId, gen: Gen) {
        let newest = self.meta.volumes.get(&vol).map(|v| v.gen).unwrap_or_default();
        if gen != newest {
            self.fail(
                "FENCING",
                format!("the store activated generation {gen} of volume {vol}, whose generation is {newest}"),
            );
        }
    }

    /// A client became ACTIVE.
    pub fn check_active(&mut self, c: usize) {
        let (vol, gen) = (self.clients[c].vol, self.clients[c].gen);
        let active = self.checks.active.entry(vol).or_default();
        if gen < *active {
            // Its transaction was in time, only the answer was late: the replicas refuse it by now.
            self.counts.hit("zombie.activated_late");
            return;
        }
        *active = gen;
        for pg in 0..self.meta.pg_count() {
            if !self.sealed_in_one_epoch(c, pg) {
                self.fail(
                    "SEALED",
                    format!("client{c} is ACTIVE though pg{pg} was not sealed by every member in one epoch (A3)"),
                );
            }
        }
    }

    /// A3: every member of some epoch of the PG answered the SEAL in that epoch.
    fn sealed_in_one_epoch(&self, c: usize, pg: u32) -> bool {
        let epochs = self.meta.history.range((pg, Epoch(0))..=(pg, Epoch(u32::MAX)));
        epochs.into_iter().any(|((_, e), record)| record.members().all(|d| self.checks.seals.contains(&(c, pg, *e, d))))
    }
}

/// PGs and adopted epochs of a SEAL answer (wire protocol, "Seal reply meta").
fn sealed_pgs(meta: &[u8]) -> Vec<(u32, Epoch)> {
    let read = |r: &mut Reader<'_>| -> Result<Vec<(u32, Epoch)>, CodecError> {
        r.bytes(5)?;
        let mut pgs = Vec::new();
        for _ in 0..r.u32()? {
            let (pg, epoch) = (PgId::from_wire(r.u32()?), Epoch(r.u32()?));
            for _ in 0..r.u32()? {
                r.bytes(29)?;
            }
            pgs.push((pg.pg, epoch));
        }
        Ok(pgs)
    };
    read(&mut Reader::new(meta)).unwrap_or_default()
}
