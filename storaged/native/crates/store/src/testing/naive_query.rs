//! The trait over the maps of `NaiveStore`.

use super::naive::{Block, Hidden, NaiveStore};
use crate::api::*;
use drystone_csum::block_csum;
use drystone_types::consts::{BLOCK_SIZE, CHUNK_BLOCKS};
use drystone_types::{Buf, Epoch, Gen, LayerId, ObjKey, PgId, Version, VolumeId};
use std::collections::BTreeSet;

impl NaiveStore {
    /// Digest of one object, at once.
    pub fn digest_now(&self, key: ObjKey) -> Option<Vec<DigestRun>> {
        self.objects.contains_key(&key).then(|| self.digest_of(key))
    }
    /// Digest of a chunk, at once.
    pub fn digest_all(&self, vol: VolumeId, chunk: u64) -> Vec<ObjectDigest> {
        let objects = self.objects.iter().filter(|(k, o)| k.chunk == chunk && o.vol == vol);
        objects
            .map(|(k, o)| ObjectDigest { layer: k.layer, last_mod_epoch: o.last_mod, runs: self.digest_of(*k) })
            .collect()
    }
    /// A read, at once.
    pub fn read_all(&self, vol: VolumeId, chain: &[LayerId], chunk: u64, first: u16, count: u16) -> Vec<BlockRead> {
        (first..first + count).map(|at| self.resolve(vol, chain, chunk, at)).collect()
    }
    fn stable_of(&self, vol: VolumeId) -> Version {
        self.stable.get(&vol).copied().unwrap_or_default().0
    }
    fn newest_pending(&self, key: ObjKey, block: u16) -> Option<(&super::naive::Pending, &BlockRecord, bool)> {
        let all = self.queues.iter().flatten().filter_map(|p| p.covers(key, block).map(|(b, f)| (p, b, f)));
        let durable = self.durable_order(key, block);
        all.max_by_key(|(p, _, _)| p.order).filter(|(p, _, _)| p.order > durable)
    }
    fn show(vol: VolumeId, key: ObjKey, at: u16, b: &Block) -> BlockRead {
        match b.kind {
            BlockKind::Hole => BlockRead::Absent,
            BlockKind::Zero => BlockRead::Masked,
            BlockKind::Bad => BlockRead::Bad,
            BlockKind::Data => {
                let number = key.chunk * u64::from(CHUNK_BLOCKS) + u64::from(at);
                let good = b.data.len() == BLOCK_SIZE && block_csum(vol, number, b.data.as_slice()) == b.csum;
                if good {
                    BlockRead::Data(b.data.clone(), b.csum)
                } else {
                    BlockRead::Corrupt
                }
            }
        }
    }
    fn shown(&self, vol: VolumeId, key: ObjKey, at: u16, b: &Block) -> BlockRead {
        if b.kind == BlockKind::Data && self.unreadable.contains(&(key, at)) {
            BlockRead::Failed
        } else {
            Self::show(vol, key, at, b)
        }
    }
    fn resolve(&self, vol: VolumeId, chain: &[LayerId], chunk: u64, at: u16) -> BlockRead {
        let mut found = chain.iter().filter_map(|layer| {
            let key = ObjKey { layer: *layer, chunk };
            let b = self.objects.get(&key)?.blocks.get(&at)?;
            (b.kind != BlockKind::Hole).then(|| self.shown(vol, key, at, b))
        });
        found.next().unwrap_or(BlockRead::Absent)
    }
    fn digest_of(&self, key: ObjKey) -> Vec<DigestRun> {
        let mut runs: Vec<DigestRun> = Vec::new();
        let durable = self.objects.get(&key).and_then(|o| self.stable.get(&o.vol)).map_or(Version::ZERO, |s| s.1);
        for (at, b) in self.objects.get(&key).into_iter().flat_map(|o| &o.blocks) {
            let lost = b.data.is_empty() && b.version <= durable && self.headless.contains(&(key, *at));
            let hidden = self.hidden.get(&(key, *at));
            let lost = lost || hidden == Some(&Hidden::Version);
            let version = if lost { Version::ZERO } else { b.version };
            let csum = if hidden == Some(&Hidden::Csum) { 0 } else { b.csum };
            let joins =
                runs.last().is_some_and(|r| r.first + r.count == *at && r.kind == b.kind && r.version == version);
            if !joins {
                runs.push(DigestRun { first: *at, count: 0, kind: b.kind, version, csums: Vec::new() });
            }
            if let Some(r) = runs.last_mut() {
                r.count += 1;
                r.csums.extend((b.kind == BlockKind::Data).then_some(csum));
            }
        }
        runs
    }
    fn live(&self) -> u64 {
        self.objects.values().flat_map(|o| o.blocks.values()).filter(|b| b.kind == BlockKind::Data).count() as u64
    }
}

impl ObjectStore for NaiveStore {
    fn append(
        &mut self,
        stream: Stream,
        space: SpaceClass,
        rec: Record,
        data: Buf,
        token: Token,
    ) -> Result<(), AppendError> {
        let slots = rec.check(&data)?;
        if let Some((_, why)) = self.refused.filter(|(which, _)| which(&rec)) {
            return Err(why);
        }
        let now = self.space();
        match space {
            SpaceClass::Granted => self.granted = self.granted.saturating_sub(slots),
            SpaceClass::Free if now.grantable < slots => return Err(AppendError::Full),
            SpaceClass::Reserve if now.live >= now.total => return Err(AppendError::Full),
            _ => {}
        }
        self.admit(stream, rec, data, token);
        Ok(())
    }
    fn barrier(&mut self, token: Token) {
        self.add_barrier(token);
    }
    fn held(&self, key: ObjKey, block: u16) -> Held {
        if let Some((p, b, forget)) = self.newest_pending(key, block) {
            let known = Held::Known { version: b.version, kind: b.kind, durable: false, token: p.token };
            return if forget { Held::Absent } else { known };
        }
        let Some(o) = self.objects.get(&key) else { return Held::Absent };
        match o.blocks.get(&block) {
            None => Held::Absent,
            Some(b) if b.version <= self.stable_of(o.vol) => Held::Old,
            Some(b) => Held::Known { version: b.version, kind: b.kind, durable: true, token: 0 },
        }
    }
    fn since_join(&self, key: ObjKey, block: u16) -> Option<Epoch> {
        let all = self.queues.iter().flatten();
        let pending = all.filter_map(|p| p.covers(key, block).filter(|c| !c.1).and_then(|(b, _)| b.since_join));
        let durable = self.joins.get(&(key, block)).map(|(_, e)| *e);
        pending.chain(durable).max()
    }
    fn set_stable(&mut self, vol: VolumeId, stable: Version, durable: bool) {
        self.raise_stable(vol, stable, durable);
    }
    fn set_oldest_out(&mut self, pg: PgId, oldest: Option<Epoch>) {
        self.set_oldest(pg, oldest);
    }
    fn clear_join(&mut self, pg: PgId) {
        self.joins.retain(|_, (p, _)| *p != pg);
        self.queues.iter_mut().flatten().for_each(|p| p.clear_join(pg));
    }
    fn unstable(&self, vol: VolumeId) -> Vec<Unstable> {
        let stable = self.stable_of(vol);
        let objects = self.objects.iter().filter(|(_, o)| o.vol == vol);
        let blocks = objects.flat_map(|(k, o)| o.blocks.iter().map(move |(at, b)| (*k, o.pg, *at, b)));
        let above = blocks.filter(|(_, _, _, b)| b.version > stable);
        let entry = |(key, pg, block, b): (ObjKey, PgId, u16, &Block)| Unstable {
            pg,
            key,
            block,
            version: b.version,
            kind: b.kind,
            since_join: self.joins.get(&(key, block)).map(|(_, e)| *e),
        };
        above.map(entry).collect()
    }
    fn lineage_exists(&self, vol: VolumeId) -> bool {
        self.objects.values().any(|o| o.vol == vol)
    }
    fn unstable_objects(&self, pg: PgId) -> Vec<ObjKey> {
        let mut out = BTreeSet::new();
        for (key, o) in self.objects.iter().filter(|(_, o)| o.pg == pg) {
            let stable = self.stable_of(o.vol);
            out.extend(o.blocks.values().any(|b| b.version > stable).then_some(*key));
        }
        for p in self.queues.iter().flatten() {
            if let Record::Blocks(b) = &p.rec {
                out.extend((b.pg == pg && b.version > self.stable_of(b.vol)).then_some(b.key));
            }
        }
        out.into_iter().collect()
    }
    fn changed_chunks(&self, pg: PgId, e0: Epoch, after: Option<(VolumeId, u64)>, max: usize) -> Vec<(VolumeId, u64)> {
        let changed = self.objects.iter().filter(|(_, o)| o.pg == pg && o.last_mod >= e0);
        let all: BTreeSet<(VolumeId, u64)> = changed.map(|(k, o)| (o.vol, k.chunk)).collect();
        all.into_iter().filter(|c| after.is_none_or(|a| *c > a)).take(max).collect()
    }
    fn groups(&self) -> Vec<PgId> {
        let all: BTreeSet<PgId> = self.objects.values().map(|o| o.pg).collect();
        all.into_iter().collect()
    }
    fn objects_of(&self, pg: PgId, after: Option<(VolumeId, ObjKey)>, max: usize) -> Vec<(VolumeId, ObjKey, Epoch)> {
        let order = |vol: VolumeId, key: ObjKey| (vol, key.chunk, key.layer);
        let of_pg = self.objects.iter().filter(|(_, o)| o.pg == pg);
        let mut all: Vec<_> = of_pg.map(|(key, o)| (o.vol, *key, o.last_mod)).collect();
        all.retain(|(vol, key, _)| after.is_none_or(|(v, k)| order(*vol, *key) > order(v, k)));
        all.sort_by_key(|(vol, key, _)| order(*vol, *key));
        all.truncate(max);
        all
    }
    fn read(&mut self, vol: VolumeId, chain: &[LayerId], chunk: u64, first: u16, count: u16, token: Token) {
        let blocks = self.read_all(vol, chain, chunk, first, count);
        let stored = blocks.iter().any(|b| matches!(b, BlockRead::Data(..) | BlockRead::Corrupt | BlockRead::Failed));
        self.answer(StoreEvent::Read(token, blocks), stored);
    }
    fn read_exact(&mut self, vol: VolumeId, key: ObjKey, block: u16, version: Version, token: Token) {
        let found = self.objects.get(&key).and_then(|o| o.blocks.get(&block)).filter(|b| b.version == version);
        let answer = found.map(|b| (b.kind, self.shown(vol, key, block, b)));
        let stored = answer.is_some();
        self.answer(StoreEvent::ReadExact(token, answer), stored);
    }
    fn digest(&mut self, vol: VolumeId, chunk: u64, token: Token) {
        let digest = self.digest_all(vol, chunk);
        let stored = digest.iter().any(|d| !d.runs.is_empty());
        self.answer(StoreEvent::Digest(token, digest), stored);
    }
    fn digest_blocks(&mut self, vol: VolumeId, key: ObjKey, runs: &[(u16, u16)], token: Token) {
        let mut digest: Vec<ObjectDigest> =
            self.digest_all(vol, key.chunk).into_iter().filter(|o| o.layer == key.layer).collect();
        let asked = |block: u16| runs.iter().any(|(first, count)| (*first..first + count).contains(&block));
        for object in &mut digest {
            object.runs = split_runs(&object.runs).filter(|r| asked(r.first)).collect();
        }
        let stored = digest.iter().any(|d| !d.runs.is_empty());
        self.answer(StoreEvent::Digest(token, digest), stored);
    }
    fn chunk_map(&self, key: ObjKey) -> [u8; 128] {
        let mut map = [0u8; 128];
        for (at, b) in self.objects.get(&key).into_iter().flat_map(|o| &o.blocks) {
            if let (BlockKind::Data, Some(byte)) = (b.kind, map.get_mut(usize::from(at / 8))) {
                *byte |= 1 << (at % 8);
            }
        }
        map
    }
    fn meta(&self, key: MetaKey) -> Option<&[u8]> {
        self.metas.get(&key).map(Vec::as_slice)
    }
    fn metas(&self) -> Vec<(MetaKey, Vec<u8>)> {
        self.metas.iter().map(|(k, v)| (*k, v.clone())).collect()
    }
    fn space(&self) -> Space {
        let live = self.live();
        let reserve = self.total / 25;
        let grantable = self.total.saturating_sub(live + reserve + self.granted);
        Space { total: self.total, live, grantable, granted: self.granted, reserve }
    }
    fn grant(&mut self, slots: i64) {
        self.granted = self.granted.saturating_add_signed(slots);
    }
    fn take_usage(&mut self) -> Vec<(LayerId, PgId, i64)> {
        let changed = core::mem::take(&mut self.usage).into_iter().filter(|(_, n)| *n != 0);
        changed.map(|((layer, pg), n)| (layer, pg, n)).collect()
    }
    fn recent_stable(&self, pg: PgId, max: usize) -> Vec<(VolumeId, ObjKey, u16, Version)> {
        let newest = self.passed.iter().rev().filter(|e| e.0 == pg);
        newest.take(max).map(|(_, vol, key, at, version)| (*vol, *key, *at, *version)).collect()
    }
    fn start_scrub(&mut self) {
        let mut rotten = Vec::new();
        for (key, o) in &self.objects {
            let bad = o
                .blocks
                .iter()
                .filter(|(at, b)| matches!(Self::show(o.vol, *key, **at, b), BlockRead::Corrupt | BlockRead::Bad));
            rotten.extend(bad.map(|(at, _)| (o.vol, *key, *at)));
        }
        let done = StoreEvent::ScrubDone(self.live(), rotten.len() as u64);
        if !rotten.is_empty() {
            self.answer(StoreEvent::Rotten(rotten), true);
        }
        self.answer(done, true);
    }
    /// The naive scrub is one step: this is only remembered.
    fn hold_scrub(&mut self, hold: bool) {
        self.scrub_held = hold;
    }
    fn scrub_progress(&self) -> Option<ScrubProgress> {
        self.scrubs
    }
    fn pg_of(&self, key: ObjKey) -> Option<PgId> {
        self.objects.get(&key).map(|o| o.pg)
    }
    fn poll(&mut self, out: &mut Vec<DevOp>) {
        self.start_ops(out);
    }
    fn take_events(&mut self, out: &mut Vec<StoreEvent>) {
        self.drain_ready(out);
    }
    fn complete(&mut self, id: u64, _result: DevResult, out: &mut Vec<StoreEvent>) {
        self.finish_op(id, out);
    }
    fn max_gen(&self, vol: VolumeId) -> Gen {
        self.max_gen.get(&vol).copied().unwrap_or_default()
    }
}

/// One run per block.
fn split_runs(runs: &[DigestRun]) -> impl Iterator<Item = DigestRun> + '_ {
    runs.iter().flat_map(|r| {
        (0..r.count).map(|i| DigestRun {
            first: r.first + i,
            count: 1,
            csums: r.csums.get(usize::from(i)).copied().into_iter().collect(),
            ..*r
        })
    })
}
