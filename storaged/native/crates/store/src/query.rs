//! The trait `ObjectStore` over `LogStore`.

use crate::api::*;
use crate::store::LogStore;
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{Buf, Epoch, Gen, LayerId, ObjKey, PgId, Version, VolumeId};

impl LogStore {
    fn digest_objects(&mut self, vol: VolumeId, keys: &[ObjKey], runs: &[(u16, u16)], token: Token) {
        let hot = &self.hot;
        let view =
            crate::reader::View { index: &self.index, segs: &self.segs, layout: &self.layout, csums: &mut self.csums };
        let job = view.plan_digest(vol, keys, runs, |key, block| hot.version(key, block), token);
        self.start_read(job);
    }
}

impl ObjectStore for LogStore {
    fn append(
        &mut self,
        stream: Stream,
        space: SpaceClass,
        rec: Record,
        data: Buf,
        token: Token,
    ) -> Result<(), AppendError> {
        self.admit(stream, space, rec, data, token)
    }
    fn barrier(&mut self, token: Token) {
        self.barriers.push_back((self.next_lsn, token));
        self.finish_barriers();
    }
    fn held(&self, key: ObjKey, block: u16) -> Held {
        if let Some(a) = self.hot.newest(key, block) {
            let known = Held::Known { version: a.version, kind: a.kind, durable: false, token: a.token };
            return if a.forget { Held::Absent } else { known };
        }
        let Some(object) = self.index.get(key) else { return Held::Absent };
        let Some(loc) = object.leaf.get(block) else { return Held::Absent };
        let stable = self.hot.stable(object.vol).0;
        match self.hot.version(key, block).filter(|v| *v > stable) {
            Some(version) => Held::Known { version, kind: loc.kind(), durable: true, token: 0 },
            None => Held::Old,
        }
    }
    fn since_join(&self, key: ObjKey, block: u16) -> Option<Epoch> {
        self.hot.since_join(key, block)
    }
    fn set_stable(&mut self, vol: VolumeId, stable: Version, durable: bool) {
        self.hot.set_stable(vol, stable, durable);
        if durable {
            self.sweep_vol(vol);
        }
    }
    fn set_oldest_out(&mut self, pg: PgId, oldest: Option<Epoch>) {
        self.raise_oldest(pg, oldest);
    }
    fn clear_join(&mut self, pg: PgId) {
        self.hot.clear_join(pg);
    }
    fn unstable(&self, vol: VolumeId) -> Vec<Unstable> {
        let mut out = Vec::new();
        for (key, first, count, version) in self.hot.unstable(vol) {
            let Some(o) = self.index.get(key) else { continue };
            for block in first..first + count {
                let Some(loc) = o.leaf.get(block) else { continue };
                let since_join = self.hot.durable_join(key, block);
                out.push(Unstable { pg: o.pg, key, block, version, kind: loc.kind(), since_join });
            }
        }
        out
    }
    fn lineage_exists(&self, vol: VolumeId) -> bool {
        self.index.vol(vol).objects > 0
    }
    fn unstable_objects(&self, pg: PgId) -> Vec<ObjKey> {
        self.hot.unstable_objects(pg)
    }
    fn changed_chunks(&self, pg: PgId, e0: Epoch, after: Option<(VolumeId, u64)>, max: usize) -> Vec<(VolumeId, u64)> {
        self.index.changed_chunks(pg, e0, after, max)
    }
    fn groups(&self) -> Vec<PgId> {
        self.index.groups()
    }
    fn objects_of(&self, pg: PgId, after: Option<(VolumeId, ObjKey)>, max: usize) -> Vec<(VolumeId, ObjKey, Epoch)> {
        self.index.objects_of(pg, after, max)
    }
    fn read(&mut self, vol: VolumeId, chain: &[LayerId], chunk: u64, first: u16, count: u16, token: Token) {
        let job = self.view().plan_read(vol, chain, chunk, (first, count), token);
        self.start_read(job);
    }
    fn read_exact(&mut self, vol: VolumeId, key: ObjKey, block: u16, version: Version, token: Token) {
        let other = self.hot.version(key, block).is_some_and(|v| v != version);
        let job = if other { None } else { self.view().plan_exact(vol, key, block, version, token) };
        match job {
            Some(job) => self.start_read(job),
            None => self.ready.push(StoreEvent::ReadExact(token, None)),
        }
    }
    fn digest(&mut self, vol: VolumeId, chunk: u64, token: Token) {
        let keys: Vec<ObjKey> = self.index.layers_of(vol, chunk).map(|layer| ObjKey { layer, chunk }).collect();
        self.digest_objects(vol, &keys, &[(0, CHUNK_BLOCKS as u16)], token);
    }
    fn digest_blocks(&mut self, vol: VolumeId, key: ObjKey, runs: &[(u16, u16)], token: Token) {
        self.digest_objects(vol, &[key], runs, token);
    }
    fn chunk_map(&self, key: ObjKey) -> [u8; 128] {
        let mut map = [0u8; 128];
        let Some(o) = self.index.get(key) else { return map };
        o.leaf.visit(0, CHUNK_BLOCKS as u16, |x| {
            for block in (x.first..x.first + x.count).filter(|_| x.loc.is_data()) {
                if let Some(byte) = map.get_mut(usize::from(block / 8)) {
                    *byte |= 1 << (block % 8);
                }
            }
        });
        map
    }
    fn meta(&self, key: MetaKey) -> Option<&[u8]> {
        self.metas.get(&key).map(Vec::as_slice)
    }
    fn metas(&self) -> Vec<(MetaKey, Vec<u8>)> {
        self.metas.iter().map(|(k, v)| (*k, v.clone())).collect()
    }
    fn space(&self) -> Space {
        self.space_now()
    }
    fn grant(&mut self, slots: i64) {
        self.granted = self.granted.saturating_add_signed(slots);
    }
    fn take_usage(&mut self) -> Vec<(LayerId, PgId, i64)> {
        self.usage_now()
    }
    fn recent_stable(&self, pg: PgId, max: usize) -> Vec<(VolumeId, ObjKey, u16, Version)> {
        self.hot.recent(pg, max)
    }
    fn start_scrub(&mut self) {
        self.scrub_start();
    }
    fn hold_scrub(&mut self, hold: bool) {
        self.walks.hold(hold);
    }
    fn scrub_progress(&self) -> Option<ScrubProgress> {
        let (steps, blocks) = self.walks.scrub_progress()?;
        Some(ScrubProgress { steps, blocks, of: self.index.live_data() })
    }
    fn pg_of(&self, key: ObjKey) -> Option<PgId> {
        self.index.get(key).map(|o| o.pg)
    }
    fn poll(&mut self, out: &mut Vec<DevOp>) {
        self.advance();
        out.append(&mut self.out);
    }
    fn take_events(&mut self, out: &mut Vec<StoreEvent>) {
        out.append(&mut self.ready);
    }
    fn complete(&mut self, id: u64, result: DevResult, out: &mut Vec<StoreEvent>) {
        self.finish(id, result, out);
        out.append(&mut self.ready);
    }
    fn max_gen(&self, vol: VolumeId) -> Gen {
        self.index.vol(vol).max_gen
    }
}
