//! What is not settled yet: admitted records that are not durable, versions above the durable
//! stable value, and the "written since join" marks.

use crate::api::{BlockKind, BlockRecord, Token};
use crate::entry::BlockEntry;
use crate::ranges::RangeMap;
use core::ops::Bound;
use drystone_types::{Epoch, LayerId, ObjKey, PgId, Rule, Rules, Version, VolumeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Newest versions remembered per PG for the peer check at open.
pub const RECENT_MAX: usize = 64;

/// An admitted record of one object.
#[derive(Clone, Copy, Debug)]
pub struct Admitted {
    /// Order of admission.
    pub lsn: u64,
    /// Name of it.
    pub token: Token,
    /// Forgets instead of writing.
    pub forget: bool,
    /// Kind.
    pub kind: BlockKind,
    /// First block.
    pub first: u16,
    /// Blocks.
    pub count: u16,
    /// Version.
    pub version: Version,
    /// Join mark.
    pub since_join: Option<Epoch>,
    /// Blocks from the first on that are applied to the index.
    applied: u16,
}

impl Admitted {
    fn covers(&self, block: u16) -> bool {
        (self.first..self.first + self.count).contains(&block)
    }
}

/// The unsettled part of one object.
#[derive(Clone, Debug)]
struct HotObject {
    vol: VolumeId,
    pg: PgId,
    admitted: VecDeque<Admitted>,
    versions: RangeMap<Version>,
}

/// Stable values of one volume.
#[derive(Clone, Debug, Default)]
struct HotVolume {
    stable: Version,
    durable: Version,
    versions: BTreeSet<(Version, ObjKey)>,
    passed: Version,
}

/// A version as the peer check names it: volume, object, block, version.
pub type Recent = (VolumeId, ObjKey, u16, Version);

/// Everything unsettled on a drive.
#[derive(Clone, Debug, Default)]
pub struct Hot {
    objects: BTreeMap<ObjKey, HotObject>,
    by_pg: BTreeSet<(PgId, ObjKey)>,
    vols: BTreeMap<VolumeId, HotVolume>,
    joins: BTreeMap<ObjKey, (PgId, RangeMap<Epoch>)>,
    recent: BTreeMap<PgId, VecDeque<Recent>>,
    rules: Rules,
}

impl Hot {
    /// Nothing unsettled.
    pub fn new(rules: Rules) -> Hot {
        Hot { rules, ..Hot::default() }
    }
    fn object(&mut self, key: ObjKey, vol: VolumeId, pg: PgId) -> &mut HotObject {
        self.by_pg.insert((pg, key));
        let fresh = || HotObject { vol, pg, admitted: VecDeque::new(), versions: RangeMap::default() };
        self.objects.entry(key).or_insert_with(fresh)
    }
    /// A record was admitted.
    pub fn admit(&mut self, b: &BlockRecord, forget: bool, lsn: u64, token: Token) {
        let one = Admitted {
            lsn,
            token,
            forget,
            kind: b.kind,
            first: b.first,
            count: b.count,
            version: b.version,
            since_join: b.since_join,
            applied: 0,
        };
        self.object(b.key, b.vol, b.pg).admitted.push_back(one);
    }
    /// Newest admitted record over a block, unless it is durable there already.
    pub fn newest(&self, key: ObjKey, block: u16) -> Option<&Admitted> {
        let list = &self.objects.get(&key)?.admitted;
        let newest = list.iter().rev().find(|a| a.covers(block))?;
        (block >= newest.first + newest.applied).then_some(newest)
    }
    /// Blocks of `b` that a record admitted later has set already, in another stream.
    pub fn overtaken(&self, b: &BlockEntry) -> RangeMap<()> {
        let mut out = RangeMap::default();
        let Some(o) = self.objects.get(&b.key) else { return out };
        let later = o.admitted.iter().rev().take_while(|a| a.lsn > b.lsn);
        later.for_each(|a| out.set(a.first, a.applied, ()));
        out
    }
    /// Blocks of records on their way that a later record has set already, for a checkpoint.
    pub fn all_overtaken(&self) -> Vec<(u64, u16, u16)> {
        let mut out = Vec::new();
        for o in self.objects.values().filter(|o| o.admitted.len() > 1) {
            for (i, a) in o.admitted.iter().enumerate().filter(|(_, a)| a.applied < a.count) {
                for later in o.admitted.iter().skip(i + 1) {
                    let from = later.first.max(a.first + a.applied);
                    let end = (later.first + later.applied).min(a.first + a.count);
                    out.extend((from < end).then(|| (a.lsn, from, end - from)));
                }
            }
        }
        out
    }
    /// A part of an admitted record became durable: notes versions and marks of the blocks that
    /// were not overtaken.
    pub fn applied(&mut self, b: &BlockEntry, overtaken: &RangeMap<()>) {
        let since_join = self.landed(b).unwrap_or(b.since_join);
        let b = BlockEntry { since_join, ..*b };
        let mut at = b.first;
        for run in overtaken.iter() {
            self.note(&b, at, run.first.min(b.first + b.count));
            self.mark(&b, run.first.max(b.first), run.end().min(b.first + b.count));
            at = at.max(run.end());
        }
        self.note(&b, at, b.first + b.count);
        self.retire(b.key);
    }
    /// Notes that a part of an admitted record is durable; returns its mark as it counts now.
    fn landed(&mut self, b: &BlockEntry) -> Option<Option<Epoch>> {
        let list = &mut self.objects.get_mut(&b.key)?.admitted;
        let a = list.iter_mut().find(|a| a.lsn == b.lsn)?;
        a.applied = (b.first + b.count).saturating_sub(a.first);
        Some(a.since_join)
    }
    /// A part of an admitted record became durable after its layer was freed.
    pub fn dropped(&mut self, b: &BlockEntry) {
        self.landed(b);
        self.retire(b.key);
    }
    /// Notes the version and the mark of blocks `[from, end)` of an entry.
    fn note(&mut self, b: &BlockEntry, from: u16, end: u16) {
        if from >= end {
            return;
        }
        self.mark(b, from, end);
        let vol = self.vols.entry(b.vol).or_default();
        let forgets = b.forget || b.copy && !self.rules.on(Rule::CopyUnstable);
        let above = b.version > vol.durable && !forgets;
        if above {
            vol.versions.insert((b.version, b.key));
            self.object(b.key, b.vol, b.pg).versions.set(from, end - from, b.version);
        } else if let Some(o) = self.objects.get_mut(&b.key) {
            o.versions.remove(from, end - from);
        }
    }
    /// Notes a write since the join. It counts even where a later record is already durable, and the
    /// newest join wins: the order in which streams become durable must not show.
    fn mark(&mut self, b: &BlockEntry, from: u16, end: u16) {
        let Some(epoch) = b.since_join.filter(|_| !b.forget && from < end) else { return };
        let marks = &mut self.joins.entry(b.key).or_insert_with(|| (b.pg, RangeMap::default())).1;
        let newer: Vec<_> =
            marks.iter().filter(|r| r.value > epoch && r.first < end && r.end() > from).copied().collect();
        marks.set(from, end - from, epoch);
        for r in newer {
            let (from, end) = (r.first.max(from), r.end().min(end));
            marks.set(from, end - from, r.value);
        }
    }
    fn retire(&mut self, key: ObjKey) {
        let Some(o) = self.objects.get_mut(&key) else { return };
        while o.admitted.front().is_some_and(|a| a.applied >= a.count) {
            o.admitted.pop_front();
        }
        if o.admitted.is_empty() && o.versions.is_empty() {
            let pg = o.pg;
            self.objects.remove(&key);
            self.by_pg.remove(&(pg, key));
        }
    }
    /// Whether a record of the object is admitted and not durable.
    pub fn is_admitted(&self, key: ObjKey) -> bool {
        self.objects.get(&key).is_some_and(|o| !o.admitted.is_empty())
    }
    /// Volume and PG of an object that may not be in the index yet.
    pub fn identity(&self, key: ObjKey) -> Option<(VolumeId, PgId)> {
        self.objects.get(&key).map(|o| (o.vol, o.pg))
    }
    /// Version of a durable block, while it is known.
    pub fn version(&self, key: ObjKey, block: u16) -> Option<Version> {
        self.objects.get(&key)?.versions.get(block)
    }
    /// Stable and durable stable value of a volume.
    pub fn stable(&self, vol: VolumeId) -> (Version, Version) {
        self.vols.get(&vol).map_or((Version::ZERO, Version::ZERO), |v| (v.stable, v.durable))
    }
    /// Raises the stable value.
    pub fn set_stable(&mut self, vol: VolumeId, stable: Version, durable: bool) {
        let v = self.vols.entry(vol).or_default();
        v.stable = v.stable.max(stable);
        if durable {
            v.durable = v.durable.max(stable);
        }
        self.remember_passed(vol);
        let Some(v) = self.vols.get_mut(&vol) else { return };
        let durable = v.durable;
        let mut settled = Vec::new();
        while v.versions.first().is_some_and(|(version, _)| *version <= durable) {
            settled.extend(v.versions.pop_first());
        }
        for (_, key) in settled {
            if let Some(o) = self.objects.get_mut(&key) {
                o.versions.retain(|r| r.value > durable);
            }
            self.retire(key);
        }
    }
    /// Versions that became stable go to the list of their PG, newest last.
    fn remember_passed(&mut self, vol: VolumeId) {
        let Some(v) = self.vols.get_mut(&vol) else { return };
        let (from, to) = (v.passed, v.stable);
        v.passed = to;
        // From the old value on, not from the first: this runs with every write, the set below it is long.
        let last = ObjKey { layer: LayerId(u64::MAX), chunk: u64::MAX };
        let above = v.versions.range((Bound::Excluded((from, last)), Bound::Unbounded));
        let newly = above.take_while(|(version, _)| *version <= to);
        for (version, key) in newly {
            let Some(o) = self.objects.get(key) else { continue };
            let Some(run) = o.versions.iter().find(|r| r.value == *version) else { continue };
            let list = self.recent.entry(o.pg).or_default();
            if list.len() >= RECENT_MAX {
                list.pop_front();
            }
            list.push_back((vol, *key, run.first, *version));
        }
    }
    /// Newest stable versions of a PG, newest first.
    pub fn recent(&self, pg: PgId, max: usize) -> Vec<Recent> {
        self.recent.get(&pg).into_iter().flat_map(|l| l.iter().rev()).take(max).copied().collect()
    }
    /// All remembered stable versions, oldest first, for a checkpoint.
    pub fn all_recent(&self) -> impl Iterator<Item = (PgId, &Recent)> {
        self.recent.iter().flat_map(|(pg, l)| l.iter().map(move |r| (*pg, r)))
    }
    /// Puts back what a checkpoint held.
    pub fn load_recent(&mut self, pg: PgId, recent: Recent) {
        let list = self.recent.entry(pg).or_default();
        if list.len() < RECENT_MAX {
            list.push_back(recent);
        }
    }
    /// Durable runs above the stable value: object, first block, blocks, version.
    pub fn unstable(&self, vol: VolumeId) -> Vec<(ObjKey, u16, u16, Version)> {
        let Some(v) = self.vols.get(&vol) else { return Vec::new() };
        let above = v.versions.iter().rev().take_while(|(version, _)| *version > v.stable);
        let mut out = Vec::new();
        for (version, key) in above {
            let Some(o) = self.objects.get(key) else { continue };
            let runs = o.versions.iter().filter(|r| r.value == *version);
            out.extend(runs.map(|r| (*key, r.first, r.count, *version)));
        }
        out.sort_unstable();
        out
    }
    /// Objects of a PG with a durable or admitted entry above stable.
    pub fn unstable_objects(&self, pg: PgId) -> Vec<ObjKey> {
        let first = ObjKey::default();
        let of_pg = self.by_pg.range((pg, first)..).take_while(|(p, _)| *p == pg).map(|(_, k)| *k);
        let above = |key: &ObjKey| {
            let Some(o) = self.objects.get(key) else { return false };
            let stable = self.stable(o.vol).0;
            let admitted = o.admitted.iter().any(|a| !a.forget && a.applied < a.count && a.version > stable);
            admitted || o.versions.iter().any(|r| r.value > stable)
        };
        of_pg.filter(above).collect()
    }
    /// Join mark of a block, admitted records included.
    pub fn since_join(&self, key: ObjKey, block: u16) -> Option<Epoch> {
        let list = self.objects.get(&key).map(|o| &o.admitted);
        let admitted = list.into_iter().flat_map(|l| l.iter().rev());
        let marks = admitted.filter(|a| a.covers(block) && !a.forget).filter_map(|a| a.since_join);
        marks.chain(self.durable_join(key, block)).max()
    }
    /// Join mark of a durable block.
    pub fn durable_join(&self, key: ObjKey, block: u16) -> Option<Epoch> {
        self.joins.get(&key).and_then(|(_, m)| m.get(block))
    }
    /// Forgets the marks of a PG.
    pub fn clear_join(&mut self, pg: PgId) {
        self.joins.retain(|_, (p, _)| *p != pg);
        let of_pg = self.objects.values_mut().filter(|o| o.pg == pg);
        of_pg.flat_map(|o| &mut o.admitted).for_each(|a| a.since_join = None);
    }
    /// Forgets all marks (mutation tests).
    pub fn forget_joins(&mut self) {
        self.joins.clear();
    }
    /// Join marks of an object, for a checkpoint.
    pub fn joins_of(&self, key: ObjKey) -> Option<&RangeMap<Epoch>> {
        self.joins.get(&key).map(|(_, m)| m)
    }
    /// Versions of an object that must survive a restart.
    pub fn versions_of(&self, key: ObjKey) -> Option<&RangeMap<Version>> {
        self.objects.get(&key).map(|o| &o.versions)
    }
    /// Puts back a join mark that a checkpoint held.
    pub fn load_join(&mut self, key: ObjKey, pg: PgId, first: u16, count: u16, epoch: Epoch) {
        let marks = self.joins.entry(key).or_insert_with(|| (pg, RangeMap::default()));
        marks.1.set(first, count, epoch);
    }
    /// Puts back a version that a checkpoint held.
    pub fn load_version(&mut self, key: ObjKey, vol: VolumeId, pg: PgId, run: (u16, u16), version: Version) {
        self.vols.entry(vol).or_default().versions.insert((version, key));
        self.object(key, vol, pg).versions.set(run.0, run.1, version);
    }
    /// An object of a freed layer: its durable part goes, admitted records stay until they land.
    pub fn forget_object(&mut self, key: ObjKey) {
        self.joins.remove(&key);
        if let Some(o) = self.objects.get_mut(&key) {
            o.versions = RangeMap::default();
        }
        self.retire(key);
    }
    /// Marks of a freed layer whose objects had none in the index.
    pub fn forget_layer(&mut self, layer: LayerId) {
        let range = ObjKey { layer, chunk: 0 }..=ObjKey { layer, chunk: u64::MAX };
        let keys: Vec<ObjKey> = self.joins.range(range).map(|(k, _)| *k).collect();
        keys.into_iter().for_each(|k| self.forget_object(k));
    }
}
