//! A store that is only maps: the oracle of `LogStore`, and a store for tests of other crates.
//!
//! It has the same life of a record (admitted, then durable in order per stream) and asks for
//! device operations that carry nothing, so that a test decides when and in which order of
//! streams records become durable.

use crate::api::*;
use drystone_types::{Buf, Epoch, Gen, LayerId, ObjKey, PgId, Version, VolumeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A durable block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) kind: BlockKind,
    pub(super) version: Version,
    pub(super) csum: u64,
    pub(super) data: Buf,
    pub(super) order: u64,
}

/// A durable object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) vol: VolumeId,
    pub(super) pg: PgId,
    pub(super) last_mod: Epoch,
    pub(super) blocks: BTreeMap<u16, Block>,
}

/// An admitted record.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) order: u64,
    pub(super) token: Token,
    pub(super) rec: Record,
    data: Buf,
}

/// Which records are refused, and why.
pub type Refused = (fn(&Record) -> bool, AppendError);

/// The naive store. Clone it to have a second copy of a drive.
#[derive(Clone, Debug, Default)]
pub struct NaiveStore {
    pub(super) objects: BTreeMap<ObjKey, Object>,
    pub(super) joins: BTreeMap<(ObjKey, u16), (PgId, Epoch)>,
    pub(super) metas: BTreeMap<MetaKey, Vec<u8>>,
    durable_metas: BTreeMap<MetaKey, (u64, Vec<u8>)>,
    pub(super) stable: BTreeMap<VolumeId, (Version, Version)>,
    oldest_out: BTreeMap<PgId, Option<Epoch>>,
    pub(super) queues: [VecDeque<Pending>; 3],
    writes: BTreeMap<u64, (usize, usize)>,
    answers: BTreeMap<u64, StoreEvent>,
    reads: Vec<DevOp>,
    ready: Vec<StoreEvent>,
    barriers: Vec<(u64, Token)>,
    removed: BTreeMap<(ObjKey, u16), u64>,
    freed: BTreeMap<LayerId, u64>,
    pub(super) usage: BTreeMap<(LayerId, PgId), i64>,
    pub(super) max_gen: BTreeMap<VolumeId, Gen>,
    pub(super) passed: Vec<(PgId, VolumeId, ObjKey, u16, Version)>,
    next_order: u64,
    next_op: u64,
    pub(super) total: u64,
    pub(super) granted: u64,
    failed: bool,
    /// Blocks that the device cannot read now.
    pub(super) unreadable: BTreeSet<(ObjKey, u16)>,
    pub(super) headless: BTreeSet<(ObjKey, u16)>,
    pub(super) hidden: BTreeMap<(ObjKey, u16), Hidden>,
    /// Records that are refused, and why.
    pub(super) refused: Option<Refused>,
    /// Whether a scrub is to wait.
    pub scrub_held: bool,
    /// A scrub that a test has running.
    pub scrubs: Option<ScrubProgress>,
}

/// What a digest knows of a block whose header it cannot read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hidden {
    /// The checksum, as one that is in memory: no version.
    Version,
    /// The version, as one that a summary tells: no checksum.
    Csum,
}

impl NaiveStore {
    /// An empty store of `total` slots.
    pub fn new(total: u64) -> Self {
        NaiveStore { total, ..NaiveStore::default() }
    }
    /// What a restart leaves: everything durable; everything that was only admitted is lost.
    pub fn restart(&mut self) {
        let old = core::mem::take(self);
        self.metas =
            old.durable_metas.iter().map(|(k, (_, v))| (*k, v.clone())).filter(|(_, v)| !v.is_empty()).collect();
        self.objects = old.objects;
        self.joins = old.joins;
        self.durable_metas = old.durable_metas;
        self.max_gen = old.max_gen;
        self.total = old.total;
        self.next_order = old.next_order;
        self.next_op = old.next_op + 1_000_000;
    }
    /// Breaks the stored bytes of a block: it reads as `Corrupt` from now on.
    pub fn corrupt(&mut self, key: ObjKey, block: u16) {
        if let Some(b) = self.objects.get_mut(&key).and_then(|o| o.blocks.get_mut(&block)) {
            b.csum ^= 1;
            b.data = Buf::empty();
        }
    }
    /// Loses a block's bytes and, once it is settled, everything that says which version it had; until it is replaced.
    pub fn lose_header(&mut self, key: ObjKey, block: u16) {
        self.corrupt(key, block);
        self.headless.insert((key, block));
    }
    /// A digest cannot read the header of a block, whose bytes can be read: it shows what else is known of it.
    pub fn hide_header(&mut self, key: ObjKey, block: u16, hidden: Hidden) {
        self.hidden.insert((key, block), hidden);
    }
    /// Every header can be read again.
    pub fn show_headers(&mut self) {
        self.hidden.clear();
    }
    /// The device cannot read a block (`true`), or can again: it reads as `Failed` meanwhile.
    pub fn unreadable(&mut self, key: ObjKey, block: u16, on: bool) {
        if on {
            self.unreadable.insert((key, block));
        } else {
            self.unreadable.remove(&(key, block));
        }
    }
    /// Makes the device fail: nothing more becomes durable.
    pub fn fail(&mut self) {
        self.failed = true;
        self.ready.push(StoreEvent::Failed("the test broke the device"));
    }
    /// Refuses these records from now on; `None` = takes everything again.
    pub fn refuse(&mut self, which: Option<Refused>) {
        self.refused = which;
    }
    /// Completes every outstanding and every newly needed operation.
    pub fn settle(&mut self, out: &mut Vec<StoreEvent>) {
        let mut ops = Vec::new();
        loop {
            self.poll(&mut ops);
            if ops.is_empty() {
                break self.take_events(out);
            }
            for op in ops.drain(..) {
                let (DevOp::Write { id, .. }
                | DevOp::Read { id, .. }
                | DevOp::Flush { id }
                | DevOp::Discard { id, .. }) = op;
                self.complete(id, DevResult::Ok(Buf::empty()), out);
            }
        }
    }

    pub(super) fn admit(&mut self, stream: Stream, rec: Record, data: Buf, token: Token) {
        if let Record::Meta(key, value) = &rec {
            if value.is_empty() {
                self.metas.remove(key);
            } else {
                self.metas.insert(*key, value.clone());
            }
        }
        self.next_order += 1;
        let order = self.next_order;
        if let Some(q) = self.queues.get_mut(stream as usize) {
            q.push_back(Pending { order, token, rec, data });
        }
    }

    pub(super) fn answer(&mut self, event: StoreEvent, stored: bool) {
        if !stored {
            return self.ready.push(event);
        }
        self.next_op += 1;
        self.answers.insert(self.next_op, event);
        self.reads.push(DevOp::Read { id: self.next_op, offset: 0, len: 4096 });
    }

    pub(super) fn add_barrier(&mut self, token: Token) {
        self.barriers.push((self.next_order, token));
        self.finish_barriers();
    }

    fn finish_barriers(&mut self) {
        let oldest = self.queues.iter().filter_map(|q| q.front()).map(|p| p.order).min().unwrap_or(u64::MAX);
        let (done, wait) = core::mem::take(&mut self.barriers).into_iter().partition(|(o, _)| *o < oldest);
        self.barriers = wait;
        let done: Vec<(u64, Token)> = done;
        self.ready.extend(done.into_iter().map(|(_, t)| StoreEvent::Barrier(t)));
    }

    pub(super) fn start_ops(&mut self, out: &mut Vec<DevOp>) {
        out.append(&mut self.reads);
        if self.failed {
            return;
        }
        for stream in 0..3 {
            let busy = self.writes.values().any(|(s, _)| *s == stream);
            let n = self.queues.get(stream).map_or(0, VecDeque::len);
            if busy || n == 0 {
                continue;
            }
            self.next_op += 1;
            self.writes.insert(self.next_op, (stream, n));
            out.push(DevOp::Write { id: self.next_op, offset: 0, bufs: Vec::new(), durable: true });
        }
    }

    pub(super) fn finish_op(&mut self, id: u64, out: &mut Vec<StoreEvent>) {
        if let Some(event) = self.answers.remove(&id) {
            out.push(event);
        }
        if let Some((stream, n)) = self.writes.remove(&id) {
            for _ in 0..n {
                let Some(p) = self.queues.get_mut(stream).and_then(VecDeque::pop_front) else { break };
                self.apply(&p);
                out.push(StoreEvent::Durable(p.token));
            }
            self.finish_barriers();
        }
        out.append(&mut self.ready);
    }

    pub(super) fn drain_ready(&mut self, out: &mut Vec<StoreEvent>) {
        out.append(&mut self.ready);
    }

    fn apply(&mut self, p: &Pending) {
        match &p.rec {
            Record::Blocks(b) => self.apply_blocks(b, &p.data, p.order),
            Record::Forget(b) => self.apply_forget(b, p.order),
            Record::Meta(key, value) => {
                let slot = self.durable_metas.entry(*key).or_default();
                if slot.0 < p.order {
                    *slot = (p.order, value.clone());
                }
            }
            Record::Touch(key, epoch) => self.apply_touch(*key, *epoch),
            Record::FreeLayer(layer) => self.apply_free(*layer, p.order),
        }
    }

    /// An object that only has admitted records yet is made by its first `Touch`.
    fn apply_touch(&mut self, key: ObjKey, epoch: Epoch) {
        let admitted = self.queues.iter().flatten().find_map(|p| match &p.rec {
            Record::Blocks(b) if b.key == key => Some((b.vol, b.pg)),
            _ => None,
        });
        if let (Some((vol, pg)), false) = (admitted, self.objects.contains_key(&key)) {
            self.objects.insert(key, Object { vol, pg, last_mod: epoch, blocks: BTreeMap::new() });
        }
        if let Some(o) = self.objects.get_mut(&key) {
            o.last_mod = o.last_mod.max(epoch);
        }
    }

    fn apply_blocks(&mut self, b: &BlockRecord, data: &Buf, order: u64) {
        if self.freed.get(&b.key.layer).is_some_and(|at| *at > order) {
            return;
        }
        self.saw_gen(b);
        let object = self.objects.entry(b.key).or_insert_with(|| Object {
            vol: b.vol,
            pg: b.pg,
            last_mod: b.pg_epoch,
            blocks: BTreeMap::new(),
        });
        object.last_mod = object.last_mod.max(b.pg_epoch);
        let usage = self.usage.entry((b.key.layer, object.pg)).or_default();
        for i in 0..b.count {
            let at = b.first + i;
            let newer = object.blocks.get(&at).is_some_and(|o| o.order > order);
            if let Some(join) = b.since_join {
                let mark = self.joins.entry((b.key, at)).or_insert((b.pg, join));
                mark.1 = mark.1.max(join);
            }
            if newer || self.removed.get(&(b.key, at)).is_some_and(|o| *o > order) {
                continue;
            }
            let csum = b.csums.get(usize::from(i)).copied().unwrap_or(0);
            let block = Block { kind: b.kind, version: b.version, csum, data: data.block(usize::from(i)), order };
            let old = object.blocks.insert(at, block);
            *usage += i64::from(b.kind == BlockKind::Data) - i64::from(old.is_some_and(|o| o.kind == BlockKind::Data));
        }
    }

    fn saw_gen(&mut self, b: &BlockRecord) {
        let gen = self.max_gen.entry(b.vol).or_default();
        *gen = (*gen).max(b.version.gen);
    }

    fn apply_forget(&mut self, b: &BlockRecord, order: u64) {
        self.saw_gen(b);
        (b.first..b.first + b.count).for_each(|at| {
            // Streams become durable in any order: an older removal must not hide a newer one.
            let newest = self.removed.entry((b.key, at)).or_default();
            *newest = (*newest).max(order);
        });
        let Some(object) = self.objects.get_mut(&b.key) else { return };
        object.last_mod = object.last_mod.max(b.pg_epoch);
        for at in b.first..b.first + b.count {
            if object.blocks.get(&at).is_some_and(|o| o.order < order) {
                let old = object.blocks.remove(&at);
                *self.usage.entry((b.key.layer, object.pg)).or_default() -=
                    i64::from(old.is_some_and(|o| o.kind == BlockKind::Data));
            }
        }
    }

    /// Order of the newest durable record of a block: another stream may have overtaken an admitted one.
    pub(super) fn durable_order(&self, key: ObjKey, block: u16) -> u64 {
        let stored = self.objects.get(&key).and_then(|o| o.blocks.get(&block)).map_or(0, |b| b.order);
        stored.max(self.removed.get(&(key, block)).copied().unwrap_or(0))
    }

    fn apply_free(&mut self, layer: LayerId, order: u64) {
        self.freed.insert(layer, order);
        for (_, o) in self.objects.iter().filter(|(k, _)| k.layer == layer) {
            let data = o.blocks.values().filter(|b| b.kind == BlockKind::Data).count();
            *self.usage.entry((layer, o.pg)).or_default() -= data as i64;
        }
        self.objects.retain(|k, _| k.layer != layer);
        self.joins.retain(|(k, _), _| k.layer != layer);
    }

    pub(super) fn raise_stable(&mut self, vol: VolumeId, stable: Version, durable: bool) {
        let s = self.stable.entry(vol).or_default();
        let before = s.0;
        s.0 = s.0.max(stable);
        if durable {
            s.1 = s.1.max(stable);
        }
        let now = s.0;
        for (key, o) in self.objects.iter().filter(|(_, o)| o.vol == vol) {
            let newly = o.blocks.iter().filter(|(_, b)| b.version > before && b.version <= now);
            self.passed.extend(newly.map(|(at, b)| (o.pg, vol, *key, *at, b.version)));
        }
        let swept = self.objects.iter().filter(|(_, o)| o.vol == vol && durable);
        let keys: Vec<ObjKey> = swept.map(|(k, _)| *k).collect();
        keys.into_iter().for_each(|k| self.sweep(k));
    }

    pub(super) fn set_oldest(&mut self, pg: PgId, oldest: Option<Epoch>) {
        self.oldest_out.insert(pg, oldest);
        let keys: Vec<ObjKey> = self.objects.iter().filter(|(_, o)| o.pg == pg).map(|(k, _)| *k).collect();
        keys.into_iter().for_each(|k| self.sweep(k));
    }

    /// Drops holes and empty objects that nothing needs any more (B8, I17).
    fn sweep(&mut self, key: ObjKey) {
        let Some(o) = self.objects.get_mut(&key) else { return };
        let durable = self.stable.get(&o.vol).copied().unwrap_or_default().1;
        let forgettable = self.oldest_out.get(&o.pg).is_some_and(|oldest| oldest.is_none_or(|e| e > o.last_mod));
        if !forgettable || self.queues.iter().flatten().any(|p| p.touches(key)) {
            return;
        }
        let joins = &self.joins;
        o.blocks.retain(|at, b| b.kind != BlockKind::Hole || b.version > durable || joins.contains_key(&(key, *at)));
        if o.blocks.is_empty() {
            self.objects.remove(&key);
        }
    }
}

impl Pending {
    pub(super) fn covers(&self, key: ObjKey, block: u16) -> Option<(&BlockRecord, bool)> {
        let (b, forget) = match &self.rec {
            Record::Blocks(b) => (b, false),
            Record::Forget(b) => (b, true),
            _ => return None,
        };
        (b.key == key && (b.first..b.first + b.count).contains(&block)).then_some((b, forget))
    }
    fn touches(&self, key: ObjKey) -> bool {
        matches!(&self.rec, Record::Blocks(b) | Record::Forget(b) if b.key == key)
    }
    pub(super) fn clear_join(&mut self, pg: PgId) {
        if let Record::Blocks(b) = &mut self.rec {
            if b.pg == pg {
                b.since_join = None;
            }
        }
    }
}
