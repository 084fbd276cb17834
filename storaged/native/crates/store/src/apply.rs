//! Admission of records, and what becomes of them when their group is durable.

use crate::api::*;
use crate::entry::{BlockEntry, Entry};
use crate::loc::Loc;
use crate::ranges::RangeMap;
use crate::store::LogStore;
use crate::writer::{queue_meta, Ack, InGroup, Queued};
use drystone_types::{Buf, Epoch, LayerId, ObjKey, PgId, Rule, VolumeId};

/// Objects looked at per call when holes may have become forgettable: bounds the time of a call.
const SWEEP_MAX: usize = 256;

/// Segments that a full drive needs to turn over: four that only GC may open, and two for open ones.
const TURNOVER_SEGMENTS: u64 = 6;

impl LogStore {
    pub(crate) fn admit(
        &mut self,
        stream: Stream,
        space: SpaceClass,
        rec: Record,
        data: Buf,
        token: Token,
    ) -> Result<(), AppendError> {
        let slots = rec.check(&data)?;
        if self.failed || self.stopping || self.hollow {
            return Err(AppendError::Failed);
        }
        let now = self.space_now();
        let used = now.live + self.pending_slots;
        match space {
            SpaceClass::Granted => self.granted = self.granted.saturating_sub(slots),
            SpaceClass::Free if now.grantable < slots => return Err(AppendError::Full),
            // Half of the reserve stays with GC, which could not end its work without it. What takes no room for
            // good is no danger to it and waits for its turn in the queue: a full drive is cured by what deletes, and
            // a refused overwrite would cost a copy.
            SpaceClass::Reserve if used + slots + now.reserve / 2 > now.total && self.adds_data(&rec) => {
                return Err(AppendError::Full)
            }
            _ => {}
        }
        self.pending_slots += slots - 1;
        let lsn = self.lsn();
        let queued = self.queued(rec, data, token, lsn);
        if let Some(s) = self.streams.get_mut(stream as usize) {
            s.push(queued);
        }
        Ok(())
    }

    /// Whether a record makes more blocks live: data where none is indexed.
    fn adds_data(&self, rec: &Record) -> bool {
        let Record::Blocks(b) = rec else { return false };
        let object = self.index.get(b.key);
        let has_data = |block| object.and_then(|o| o.leaf.get(block)).is_some_and(|loc| loc.is_data());
        b.kind == BlockKind::Data && !(b.first..b.first.saturating_add(b.count)).all(has_data)
    }

    fn queued(&mut self, rec: Record, data: Buf, token: Token, lsn: u64) -> Queued {
        let ack = Ack::Client(token);
        let plain = |entry| Queued { entry, csums: Vec::new(), data: Buf::empty(), value: Vec::new(), ack, taken: 0 };
        match rec {
            Record::Blocks(b) => {
                self.hot.admit(&b, false, lsn, token);
                let entry = Entry::Blocks(block_entry(&b, false, lsn));
                Queued { entry, csums: b.csums, data, value: Vec::new(), ack, taken: 0 }
            }
            Record::Forget(b) => {
                self.hot.admit(&b, true, lsn, token);
                plain(Entry::Blocks(block_entry(&b, true, lsn)))
            }
            Record::Meta(key, value) => {
                let queued = queue_meta(lsn, key, &value, ack);
                if value.is_empty() {
                    self.metas.remove(&key);
                } else {
                    self.metas.insert(key, value);
                }
                queued
            }
            Record::Touch(key, epoch) => {
                let indexed = self.index.get(key).map(|o| (o.vol, o.pg));
                let (vol, pg) = indexed.or_else(|| self.hot.identity(key)).unwrap_or_default();
                plain(Entry::Touch { lsn, key, vol, pg, epoch })
            }
            Record::FreeLayer(layer) => plain(Entry::FreeLayer { lsn, layer }),
        }
    }

    pub(crate) fn apply_group(&mut self, group: InGroup, events: &mut Vec<StoreEvent>) {
        let InGroup { header, acks, values, seg } = group;
        let mut values = values.into_iter();
        self.segs.saw_group(seg, header.gseq);
        for ((entry, slot, csums), ack) in header.walk().zip(acks) {
            let moved = ack == Some(Ack::Gc) || matches!(entry, Entry::Blocks(b) if b.source.is_some());
            if !moved {
                self.pending_slots = self.pending_slots.saturating_sub(csums.len() as u64);
            }
            match entry {
                Entry::Meta { lsn, key, .. } => self.apply_meta(*lsn, *key, values.next().unwrap_or_default()),
                Entry::Blocks(b) => {
                    let overtaken = self.hot.overtaken(b);
                    self.apply_blocks(b, slot, header.slot, &overtaken);
                    (slot..).zip(csums).for_each(|(s, c)| self.csums.put(s, header.seg_seq, *c));
                }
                other => self.apply_other(other),
            }
            match ack {
                Some(Ack::Client(token)) => events.push(StoreEvent::Durable(token)),
                Some(Ack::Gc) => self.walks.moved(),
                None => {}
            }
        }
    }

    /// Applies a block entry but for the blocks that a later record of another stream set already.
    /// Replay calls it in order of admission, with what the checkpoint noted as overtaken.
    pub(crate) fn apply_blocks(&mut self, b: &BlockEntry, slot: u64, header: u64, overtaken: &RangeMap<()>) {
        let loc = if b.has_data() { Loc::data(slot, slot - header) } else { Loc::mark(header, b.kind) };
        if b.source.is_some() {
            return self.index.apply(b, loc, |_| false);
        }
        if self.freed.get(&b.key.layer).is_some_and(|at| *at > b.lsn) {
            return self.hot.dropped(b);
        }
        self.index.apply(b, loc, |block| overtaken.get(block).is_some());
        self.hot.applied(b, overtaken);
    }
    pub(crate) fn apply_meta(&mut self, lsn: u64, key: MetaKey, value: Vec<u8>) {
        let slot = self.durable_metas.entry(key).or_default();
        if slot.0 <= lsn {
            *slot = (lsn, value);
        }
    }
    pub(crate) fn apply_other(&mut self, entry: &Entry) {
        match entry {
            Entry::Touch { key, vol, pg, epoch, .. } if vol.0 != 0 => self.index.ensure(*key, *vol, *pg, *epoch),
            Entry::FreeLayer { lsn, layer } => {
                for key in self.index.free_layer(*layer) {
                    self.hot.forget_object(key);
                }
                self.hot.forget_layer(*layer);
                self.freed.insert(*layer, *lsn);
            }
            _ => {}
        }
    }

    /// Drops holes and empty objects that nothing needs any more (B8, I17).
    pub(crate) fn sweep(&mut self, key: ObjKey) {
        let Some(o) = self.index.get(key) else { return };
        let (vol, pg, last_mod) = (o.vol, o.pg, o.last_mod);
        let forgettable = self.oldest_out.get(&pg).is_some_and(|oldest| oldest.is_none_or(|e| e > last_mod));
        if !forgettable || self.hot.is_admitted(key) {
            return;
        }
        let (stable, durable) = self.hot.stable(vol);
        let durable = if self.cfg.rules.on(Rule::HoleDurable) { durable } else { stable };
        let hot = &self.hot;
        let stays = |b: u16| hot.version(key, b).is_some_and(|v| v > durable) || hot.durable_join(key, b).is_some();
        let all = !self.cfg.rules.on(Rule::HoleStays);
        self.index.sweep(key, true, |b| all || !stays(b));
        for seg in self.index.take_emptied() {
            self.note_emptied(seg);
        }
    }
    pub(crate) fn sweep_vol(&mut self, vol: VolumeId) {
        let mut keys = self.index.sparse_of(vol, self.sweep_from, SWEEP_MAX);
        if keys.len() < SWEEP_MAX {
            keys.extend(self.index.sparse_of(vol, ObjKey::default(), SWEEP_MAX - keys.len()));
        }
        self.sweep_from = keys.last().copied().unwrap_or_default();
        keys.into_iter().for_each(|k| self.sweep(k));
    }
    pub(crate) fn sweep_pg(&mut self, pg: PgId) {
        self.index.sparse_in(pg).into_iter().for_each(|k| self.sweep(k));
    }

    pub(crate) fn space_now(&self) -> Space {
        let total = self.layout.data_slots();
        // 4 % for GC. Below 400 segments that is less than what clients leave to GC and to the checkpoint, and what
        // the open segments of the streams have free: without it a full drive could never turn over again, and every
        // overwrite, trim and order would wait for ever. Single blocks are packed to 96 % only: 2 % for that.
        let reserve = (total / 25).max(total / 50 + TURNOVER_SEGMENTS * self.layout.seg_slots).min(total);
        let live = self.index.live_data();
        let taken = live + self.pending_slots + reserve + self.granted;
        Space { total, live, grantable: total.saturating_sub(taken), granted: self.granted, reserve }
    }
    pub(crate) fn usage_now(&mut self) -> Vec<(LayerId, PgId, i64)> {
        let changed = self.index.take_usage().into_iter().filter(|(_, n)| *n != 0);
        changed.map(|((layer, pg), n)| (layer, pg, n)).collect()
    }
    pub(crate) fn raise_oldest(&mut self, pg: PgId, oldest: Option<Epoch>) {
        self.oldest_out.insert(pg, oldest);
        self.sweep_pg(pg);
    }
}

fn block_entry(b: &BlockRecord, forget: bool, lsn: u64) -> BlockEntry {
    BlockEntry {
        forget,
        kind: b.kind,
        rotten: false,
        copy: b.copy,
        first: b.first,
        count: b.count,
        lsn,
        orig_lsn: lsn,
        vol: b.vol,
        key: b.key,
        pg: b.pg,
        pg_epoch: b.pg_epoch,
        version: b.version,
        since_join: b.since_join,
        source: None,
    }
}
