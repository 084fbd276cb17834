//! The index: what every block of the drive is and where it lies, and per segment how many blocks
//! are indexed in it. It holds only what is durable.

use crate::api::BlockKind;
use crate::entry::BlockEntry;
use crate::layout::Layout;
use crate::leaf::{Extent, Leaf};
use crate::loc::Loc;
use drystone_types::{Epoch, Gen, LayerId, ObjKey, PgId, Rule, Rules, VolumeId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};

/// An object of the index.
#[derive(Clone, Debug)]
pub struct Object {
    /// Volume that owns the layer.
    pub vol: VolumeId,
    /// PG.
    pub pg: PgId,
    /// Epoch of the newest change.
    pub last_mod: Epoch,
    /// Blocks.
    pub leaf: Leaf,
}

/// What is known of a lineage.
#[derive(Clone, Copy, Debug, Default)]
pub struct VolStat {
    /// Objects of it.
    pub objects: u64,
    /// Highest generation seen in its data.
    pub max_gen: Gen,
}

/// The index of a drive.
#[derive(Debug)]
pub struct Index {
    layout: Layout,
    objects: BTreeMap<ObjKey, Object>,
    by_pg: BTreeSet<(PgId, VolumeId, u64, LayerId)>,
    by_chunk: BTreeSet<(VolumeId, u64, LayerId)>,
    vols: BTreeMap<VolumeId, VolStat>,
    live: Vec<u32>,
    live_data: u64,
    usage: BTreeMap<(LayerId, PgId), i64>,
    emptied: Vec<u32>,
    sparse: BTreeSet<(VolumeId, ObjKey)>,
    rules: Rules,
}

impl Index {
    /// An empty index.
    pub fn new(layout: Layout, rules: Rules) -> Index {
        Index {
            layout,
            objects: BTreeMap::new(),
            by_pg: BTreeSet::new(),
            by_chunk: BTreeSet::new(),
            vols: BTreeMap::new(),
            live: vec![0; layout.segments as usize],
            live_data: 0,
            usage: BTreeMap::new(),
            emptied: Vec::new(),
            sparse: BTreeSet::new(),
            rules,
        }
    }
    /// An object.
    pub fn get(&self, key: ObjKey) -> Option<&Object> {
        self.objects.get(&key)
    }
    /// Location of a block.
    pub fn loc(&self, key: ObjKey, block: u16) -> Option<Loc> {
        self.objects.get(&key)?.leaf.get(block)
    }
    /// Objects from `from` (excluded) on, in order of key.
    pub fn after(&self, from: Option<ObjKey>) -> impl Iterator<Item = (&ObjKey, &Object)> {
        use core::ops::Bound::{Excluded, Unbounded};
        let start = from.map_or(Unbounded, Excluded);
        self.objects.range((start, Unbounded))
    }
    /// The first object at `from` or after it, in order of key.
    pub fn at_or_after(&self, from: ObjKey) -> Option<(&ObjKey, &Object)> {
        self.objects.range(from..).next()
    }
    /// Layers that have an object for (vol, chunk).
    pub fn layers_of(&self, vol: VolumeId, chunk: u64) -> impl Iterator<Item = LayerId> + '_ {
        let range = (vol, chunk, LayerId(0))..=(vol, chunk, LayerId(u64::MAX));
        self.by_chunk.range(range).map(|(_, _, l)| *l)
    }
    /// See `ObjectStore::changed_chunks`.
    pub fn changed_chunks(
        &self,
        pg: PgId,
        e0: Epoch,
        after: Option<(VolumeId, u64)>,
        max: usize,
    ) -> Vec<(VolumeId, u64)> {
        let (vol, chunk) = after.unwrap_or_default();
        let from = (pg, vol, chunk, LayerId(0));
        let mut out = Vec::new();
        for (_, vol, chunk, layer) in self.by_pg.range(from..).take_while(|e| e.0 == pg) {
            let at = (*vol, *chunk);
            if out.len() >= max {
                break;
            }
            let seen = after.is_some_and(|a| at <= a) || out.last() == Some(&at);
            let key = ObjKey { layer: *layer, chunk: *chunk };
            if !seen && self.objects.get(&key).is_some_and(|o| o.last_mod >= e0) {
                out.push(at);
            }
        }
        out
    }
    /// PGs with an object, in order: one look per PG, however many objects it has.
    pub fn groups(&self) -> Vec<PgId> {
        use core::ops::Bound::{Excluded, Unbounded};
        let mut out: Vec<PgId> = Vec::new();
        loop {
            let last = (VolumeId(u64::MAX), u64::MAX, LayerId(u64::MAX));
            let from = out.last().map_or(Unbounded, |pg| Excluded((*pg, last.0, last.1, last.2)));
            let Some((pg, ..)) = self.by_pg.range((from, Unbounded)).next() else { return out };
            out.push(*pg);
        }
    }
    /// See `ObjectStore::objects_of`.
    pub fn objects_of(
        &self,
        pg: PgId,
        after: Option<(VolumeId, ObjKey)>,
        max: usize,
    ) -> Vec<(VolumeId, ObjKey, Epoch)> {
        use core::ops::Bound::{Excluded, Included, Unbounded};
        let first = (pg, VolumeId(0), 0, LayerId(0));
        let from = after.map_or(Included(first), |(vol, key)| Excluded((pg, vol, key.chunk, key.layer)));
        let of_pg = self.by_pg.range((from, Unbounded)).take_while(|e| e.0 == pg).take(max);
        of_pg
            .filter_map(|(_, vol, chunk, layer)| {
                let key = ObjKey { layer: *layer, chunk: *chunk };
                self.objects.get(&key).map(|o| (*vol, key, o.last_mod))
            })
            .collect()
    }
    /// What is known of a lineage.
    pub fn vol(&self, vol: VolumeId) -> VolStat {
        self.vols.get(&vol).copied().unwrap_or_default()
    }
    /// All lineages.
    pub fn vols(&self) -> &BTreeMap<VolumeId, VolStat> {
        &self.vols
    }
    /// Notes a generation seen in data.
    pub fn saw_gen(&mut self, vol: VolumeId, gen: Gen) {
        let stat = self.vols.entry(vol).or_default();
        stat.max_gen = stat.max_gen.max(gen);
    }
    /// Blocks indexed in a segment.
    pub fn live_in(&self, seg: u32) -> u32 {
        self.live.get(seg as usize).copied().unwrap_or(0)
    }
    /// Data blocks indexed.
    pub fn live_data(&self) -> u64 {
        self.live_data
    }
    /// Segments whose last indexed block went since the last call.
    pub fn take_emptied(&mut self) -> Vec<u32> {
        core::mem::take(&mut self.emptied)
    }
    /// Changes of live data per layer and PG since the last call.
    pub fn take_usage(&mut self) -> BTreeMap<(LayerId, PgId), i64> {
        core::mem::take(&mut self.usage)
    }
    /// Objects of a volume that may hold holes or nothing, at most `max` after `from`.
    pub fn sparse_of(&self, vol: VolumeId, from: ObjKey, max: usize) -> Vec<ObjKey> {
        let range = self.sparse.range((vol, from)..).take_while(|(v, _)| *v == vol);
        range.map(|(_, k)| *k).take(max).collect()
    }
    /// Objects of a PG that may hold holes or nothing.
    pub fn sparse_in(&self, pg: PgId) -> Vec<ObjKey> {
        let of_pg = |k: &&(VolumeId, ObjKey)| self.objects.get(&k.1).is_some_and(|o| o.pg == pg);
        self.sparse.iter().filter(of_pg).map(|(_, k)| *k).collect()
    }

    /// Applies an entry to the blocks of it that `skip` does not name.
    pub fn apply(&mut self, b: &BlockEntry, loc: Loc, skip: impl Fn(u16) -> bool) {
        self.saw_gen(b.vol, b.version.gen);
        if b.source.is_some() {
            return self.apply_move(b, loc);
        }
        if b.forget && !self.objects.contains_key(&b.key) {
            return;
        }
        self.ensure(b.key, b.vol, b.pg, b.pg_epoch);
        if b.forget || b.kind == BlockKind::Hole {
            self.sparse.insert((b.vol, b.key));
        }
        let mut at = b.first;
        while at < b.first + b.count {
            if skip(at) {
                at += 1;
                continue;
            }
            let end = (at..b.first + b.count).find(|x| skip(*x)).unwrap_or(b.first + b.count);
            let part = Extent { loc: loc.advance(at - b.first), first: at, count: end - at };
            self.replace(b.key, part, !b.forget);
            at = end;
        }
    }
    /// A block moves only if the index still points to where it was taken from (P13, I13).
    fn apply_move(&mut self, b: &BlockEntry, loc: Loc) {
        let Some(source) = b.source else { return };
        let mut found: SmallVec<[Extent; 4]> = SmallVec::new();
        let Some(object) = self.objects.get(&b.key) else { return };
        object.leaf.visit(b.first, b.count, |x| {
            for i in 0..x.count {
                let skip = x.first + i - b.first;
                if self.rules.on(Rule::MoveCas) && x.loc.advance(i) != source.advance(skip) {
                    continue;
                }
                match found.last_mut().filter(|f| f.first + f.count == x.first + i) {
                    Some(f) => f.count += 1,
                    None => found.push(Extent { loc: loc.advance(skip), first: x.first + i, count: 1 }),
                }
            }
        });
        found.into_iter().for_each(|x| self.replace(b.key, x, true));
    }
    /// Creates an object, or raises its epoch.
    pub fn ensure(&mut self, key: ObjKey, vol: VolumeId, pg: PgId, epoch: Epoch) {
        if let Some(o) = self.objects.get_mut(&key) {
            o.last_mod = o.last_mod.max(epoch);
            return;
        }
        self.objects.insert(key, Object { vol, pg, last_mod: epoch, leaf: Leaf::default() });
        self.by_pg.insert((pg, vol, key.chunk, key.layer));
        self.by_chunk.insert((vol, key.chunk, key.layer));
        self.sparse.insert((vol, key));
        self.vols.entry(vol).or_default().objects += 1;
    }
    /// Puts an object that a checkpoint held.
    pub fn load(&mut self, key: ObjKey, vol: VolumeId, pg: PgId, epoch: Epoch, extents: &[Extent]) {
        self.ensure(key, vol, pg, epoch);
        for x in extents {
            self.replace(key, *x, true);
        }
    }
    fn replace(&mut self, key: ObjKey, x: Extent, present: bool) {
        let Some(object) = self.objects.get_mut(&key) else { return };
        let (live, emptied, layout) = (&mut self.live, &mut self.emptied, &self.layout);
        let mut data = 0i64;
        let gone = |old: Extent| {
            data -= if old.loc.is_data() { i64::from(old.count) } else { 0 };
            let Some(seg) = layout.seg_of(old.loc.slot()) else { return };
            let Some(n) = live.get_mut(seg as usize) else { return };
            *n = n.saturating_sub(u32::from(old.count));
            if *n == 0 {
                emptied.push(seg);
            }
        };
        if present {
            object.leaf.set(x, gone);
            data += if x.loc.is_data() { i64::from(x.count) } else { 0 };
            let seg = layout.seg_of(x.loc.slot());
            if let Some(n) = seg.and_then(|s| live.get_mut(s as usize)) {
                *n += u32::from(x.count);
            }
        } else {
            object.leaf.remove(x.first, x.count, gone);
        }
        self.live_data = self.live_data.saturating_add_signed(data);
        if data != 0 {
            *self.usage.entry((key.layer, object.pg)).or_default() += data;
        }
    }
    /// Drops holes that the test names, and the object when it is empty and `forget` allows that.
    /// Returns the blocks dropped.
    pub fn sweep(&mut self, key: ObjKey, forget: bool, droppable: impl Fn(u16) -> bool) {
        let Some(object) = self.objects.get(&key) else { return };
        let vol = object.vol;
        let (mut drop, mut holes) = (Vec::new(), 0u32);
        object.leaf.visit(0, 1024, |x| {
            if x.loc.kind() == BlockKind::Hole {
                holes += u32::from(x.count);
                drop.extend((x.first..x.first + x.count).filter(|b| droppable(*b)));
            }
        });
        let left = holes - drop.len() as u32;
        for block in drop {
            self.replace(key, Extent { loc: Loc(0), first: block, count: 1 }, false);
        }
        let empty = self.objects.get(&key).is_some_and(|o| o.leaf.is_empty());
        if empty && forget {
            self.remove_object(key);
        } else if !empty && left == 0 {
            self.sparse.remove(&(vol, key));
        }
    }
    /// Removes every object of a layer; returns their keys.
    pub fn free_layer(&mut self, layer: LayerId) -> Vec<ObjKey> {
        let range = ObjKey { layer, chunk: 0 }..=ObjKey { layer, chunk: u64::MAX };
        let keys: Vec<ObjKey> = self.objects.range(range).map(|(k, _)| *k).collect();
        keys.iter().for_each(|k| self.remove_object(*k));
        keys
    }
    fn remove_object(&mut self, key: ObjKey) {
        self.replace(key, Extent { loc: Loc(0), first: 0, count: 1024 }, false);
        let Some(o) = self.objects.remove(&key) else { return };
        self.by_pg.remove(&(o.pg, o.vol, key.chunk, key.layer));
        self.by_chunk.remove(&(o.vol, key.chunk, key.layer));
        self.sparse.remove(&(o.vol, key));
        if let Some(stat) = self.vols.get_mut(&o.vol) {
            stat.objects = stat.objects.saturating_sub(1);
        }
    }
    /// Bytes of memory, estimated: leaves exactly, tree nodes with a third of slack.
    pub fn heap_bytes(&self) -> usize {
        let leaves: usize = self.objects.values().map(|o| o.leaf.heap_bytes()).sum();
        let per_object = size_of::<(ObjKey, Object)>()
            + size_of::<(PgId, VolumeId, u64, LayerId)>()
            + size_of::<(VolumeId, u64, LayerId)>();
        leaves + self.objects.len() * per_object * 4 / 3 + self.live.len() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_types::Version;

    fn entry(chunk: u64, first: u16, count: u16) -> BlockEntry {
        BlockEntry {
            forget: false,
            kind: BlockKind::Data,
            rotten: false,
            copy: false,
            first,
            count,
            lsn: 1,
            orig_lsn: 1,
            vol: VolumeId(1),
            key: ObjKey { layer: LayerId(1), chunk },
            pg: PgId::default(),
            pg_epoch: Epoch(1),
            version: Version::new(1, 1),
            since_join: None,
            source: None,
        }
    }

    /// Bytes of memory for a TiB of data, from `chunks` chunks that `fill` writes.
    fn gib_per_tib(chunks: u64, fill: impl Fn(&mut Index, u64)) -> f64 {
        let mut index = Index::new(Layout::new(1 << 40, 64 << 20).unwrap(), Rules::ALL);
        let empty = index.heap_bytes();
        (0..chunks).for_each(|c| fill(&mut index, c));
        (index.heap_bytes() - empty) as f64 / chunks as f64 * (1u64 << 18) as f64 / (1u64 << 30) as f64
    }

    #[test]
    fn a_tebibyte_of_random_blocks_needs_at_most_1_75_gib() {
        let gib = gib_per_tib(64, |index, chunk| {
            for i in 0..1024u32 {
                let slot = 1_000_000 + (chunk * 1024 + u64::from(i)) * 2;
                index.apply(&entry(chunk, (i * 389 % 1024) as u16, 1), Loc::data(slot, 1), |_| false);
            }
        });
        assert!(gib <= 1.75, "{gib}");
    }

    #[test]
    fn a_tebibyte_of_sequential_requests_of_128_kib_needs_at_most_0_15_gib() {
        let gib = gib_per_tib(64, |index, chunk| {
            for i in 0..32u16 {
                let slot = 1_000_000 + (chunk * 32 + u64::from(i)) * 33;
                index.apply(&entry(chunk, i * 32, 32), Loc::data(slot, 1), |_| false);
            }
        });
        assert!(gib <= 0.15, "{gib}");
    }

    #[test]
    fn groups_and_their_objects_are_walked_in_order_and_in_pages() {
        let mut index = Index::new(Layout::new(64 << 20, 256 << 10).unwrap(), Rules::ALL);
        let pg = |n| PgId { pg: n, ..PgId::default() };
        for (n, chunk) in [(3, 7), (1, 2), (3, 5), (9, 0)] {
            index.ensure(ObjKey { layer: LayerId(4), chunk }, VolumeId(1), pg(n), Epoch(n));
        }
        assert_eq!(index.groups(), [pg(1), pg(3), pg(9)]);
        let page = |after, max| index.objects_of(pg(3), after, max).into_iter().map(|(_, key, _)| key.chunk).collect();
        let (all, first): (Vec<u64>, Vec<u64>) = (page(None, 9), page(None, 1));
        let rest: Vec<u64> = page(Some((VolumeId(1), ObjKey { layer: LayerId(4), chunk: 5 })), 9);
        assert_eq!((all, first, rest), (vec![5, 7], vec![5], vec![7]));
        assert_eq!(index.objects_of(pg(2), None, 9), []);
    }

    #[test]
    fn a_move_applies_only_where_the_index_still_points_to_its_source() {
        let mut index = Index::new(Layout::new(64 << 20, 256 << 10).unwrap(), Rules::ALL);
        index.apply(&entry(0, 0, 4), Loc::data(100, 1), |_| false);
        index.apply(&entry(0, 2, 1), Loc::data(200, 1), |_| false);
        let moved = BlockEntry { source: Some(Loc::data(100, 1)), ..entry(0, 0, 4) };
        index.apply(&moved, Loc::data(300, 5), |_| false);
        let key = entry(0, 0, 1).key;
        let locs: Vec<_> = (0..4).map(|b| index.loc(key, b).unwrap()).collect();
        assert_eq!(locs, [Loc::data(300, 5), Loc::data(301, 6), Loc::data(200, 1), Loc::data(303, 8)]);
        assert_eq!(index.live_data(), 4);
    }
}
