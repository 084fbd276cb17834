//! Reads: which slots to fetch for which blocks, and what the fetched slots prove.

use crate::api::*;
use crate::csums::CsumCache;
use crate::entry::{BlockEntry, Entry};
use crate::group::{Expect, GroupHeader};
use crate::index::Index;
use crate::layout::Layout;
use crate::loc::{Loc, SLOT};
use crate::rescue;
use crate::segment::SummaryGroup;
use crate::segs::Segs;
use drystone_csum::block_csum;
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{Buf, Epoch, LayerId, ObjKey, Version, VolumeId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};

/// A header at most this many slots before the data is read in the same operation.
const ADJACENT_MAX: u64 = 3;

/// A range of slots to fetch.
#[derive(Debug)]
pub struct Part {
    /// First slot.
    pub slot: u64,
    /// Slots.
    pub slots: u64,
    /// The bytes when they are here; empty after a failed read.
    pub buf: Option<Buf>,
}

/// A block that needs the device.
#[derive(Clone, Copy, Debug)]
struct Want {
    key: ObjKey,
    block: u16,
    loc: Loc,
    csum: Option<u64>,
}

#[derive(Debug)]
enum Plan {
    Answer(BlockRead),
    Data(Want),
}

#[derive(Debug)]
struct DigestPlan {
    key: ObjKey,
    last_mod: Epoch,
    blocks: Vec<(u16, Loc, Option<Version>)>,
}

#[derive(Debug)]
enum Kind {
    Read(VolumeId, Vec<Plan>),
    Exact(VolumeId, Want, Version),
    Digest(Vec<DigestPlan>),
}

/// A read until every part is here.
#[derive(Debug)]
pub struct ReadJob {
    token: Token,
    kind: Kind,
    /// What to fetch.
    pub parts: Vec<Part>,
    /// Parts not here yet.
    pub missing: usize,
    /// Segments that must not be reused meanwhile (I14).
    pub pins: SmallVec<[u32; 4]>,
    /// Group headers of a digest, decoded; `None` = it does not decode.
    headers: BTreeMap<u64, Option<GroupHeader>>,
}

/// What planning needs of the store.
pub struct View<'a> {
    /// Index.
    pub index: &'a Index,
    /// Segments.
    pub segs: &'a Segs,
    /// Layout.
    pub layout: &'a Layout,
    /// Cache.
    pub csums: &'a mut CsumCache,
}

impl View<'_> {
    fn seq_of(&self, slot: u64) -> Option<(u32, u64)> {
        let seg = self.layout.seg_of(slot)?;
        self.segs.get(seg).map(|s| (seg, s.seq))
    }
    fn want(&mut self, key: ObjKey, block: u16, loc: Loc) -> Want {
        let seq = self.seq_of(loc.slot()).map_or(0, |s| s.1);
        Want { key, block, loc, csum: self.csums.get(loc.slot(), seq) }
    }
    fn plan_block(&mut self, chain: &[LayerId], chunk: u64, block: u16) -> Plan {
        for layer in chain {
            let key = ObjKey { layer: *layer, chunk };
            let Some(loc) = self.index.loc(key, block) else { continue };
            match loc.kind() {
                BlockKind::Hole => continue,
                BlockKind::Zero => return Plan::Answer(BlockRead::Masked),
                BlockKind::Bad => return Plan::Answer(BlockRead::Bad),
                BlockKind::Data => return Plan::Data(self.want(key, block, loc)),
            }
        }
        Plan::Answer(BlockRead::Absent)
    }
    /// Plans a read through a chain.
    pub fn plan_read(
        &mut self,
        vol: VolumeId,
        chain: &[LayerId],
        chunk: u64,
        range: (u16, u16),
        token: Token,
    ) -> ReadJob {
        let end = range.0.saturating_add(range.1).min(CHUNK_BLOCKS as u16);
        let plans: Vec<Plan> = (range.0..end).map(|b| self.plan_block(chain, chunk, b)).collect();
        let parts = runs_of(&plans);
        self.job(token, Kind::Read(vol, plans), parts)
    }
    /// Plans a read of blocks where they lie now, with their headers: for a look at what is stored, so that
    /// nothing that is cached stands in for it.
    pub fn plan_located(&self, vol: VolumeId, key: ObjKey, blocks: &[(u16, Loc)]) -> ReadJob {
        let plan = |(block, loc): &(u16, Loc)| match loc.kind() {
            BlockKind::Data => Plan::Data(Want { key, block: *block, loc: *loc, csum: None }),
            _ => Plan::Answer(BlockRead::Bad),
        };
        let plans: Vec<Plan> = blocks.iter().map(plan).collect();
        let parts = runs_of(&plans);
        self.job(0, Kind::Read(vol, plans), parts)
    }
    /// Plans a read of one version; `None` if the block is absent.
    pub fn plan_exact(
        &mut self,
        vol: VolumeId,
        key: ObjKey,
        block: u16,
        version: Version,
        token: Token,
    ) -> Option<ReadJob> {
        let loc = self.index.loc(key, block)?;
        let want = Want { key, block, loc, csum: None };
        let mut parts = Vec::new();
        if loc.is_data() {
            add_run(&mut parts, (want, 1, true));
        } else {
            parts.push(Part { slot: loc.slot(), slots: 1, buf: None });
        }
        Some(self.job(token, Kind::Exact(vol, want, version), parts))
    }
    /// Plans a digest of runs of blocks of some objects; `version` gives versions that are in memory.
    pub fn plan_digest(
        &self,
        vol: VolumeId,
        keys: &[ObjKey],
        runs: &[(u16, u16)],
        version: impl Fn(ObjKey, u16) -> Option<Version>,
        token: Token,
    ) -> ReadJob {
        let mut headers = BTreeSet::new();
        let mut objects = Vec::new();
        for key in keys.iter().copied() {
            let Some(o) = self.index.get(key).filter(|o| o.vol == vol) else { continue };
            let mut blocks = Vec::new();
            for (first, count) in runs.iter().copied() {
                o.leaf.visit(first, count, |x| {
                    headers.insert(x.loc.header());
                    blocks.extend((0..x.count).map(|i| (x.first + i, x.loc.advance(i), version(key, x.first + i))));
                });
            }
            objects.push(DigestPlan { key, last_mod: o.last_mod, blocks });
        }
        let parts = headers.into_iter().map(|slot| Part { slot, slots: 1, buf: None }).collect();
        self.job(token, Kind::Digest(objects), parts)
    }
    fn job(&self, token: Token, kind: Kind, parts: Vec<Part>) -> ReadJob {
        let mut pins: SmallVec<[u32; 4]> = parts.iter().filter_map(|p| self.layout.seg_of(p.slot)).collect();
        pins.sort_unstable();
        pins.dedup();
        ReadJob { token, kind, missing: parts.len(), parts, pins, headers: BTreeMap::new() }
    }
}

/// What to fetch for planned blocks: runs that lie one after the other.
fn runs_of(plans: &[Plan]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut run: Option<(Want, u64, bool)> = None;
    for plan in plans {
        let Plan::Data(w) = plan else { continue };
        match &mut run {
            Some((first, n, cold)) if first.loc.slot() + *n == w.loc.slot() && first.loc.header() == w.loc.header() => {
                *n += 1;
                *cold |= w.csum.is_none();
            }
            _ => run.replace((*w, 1, w.csum.is_none())).into_iter().for_each(|r| add_run(&mut parts, r)),
        }
    }
    run.into_iter().for_each(|r| add_run(&mut parts, r));
    parts
}

fn add_run(parts: &mut Vec<Part>, (first, n, cold): (Want, u64, bool)) {
    let (slot, dist) = (first.loc.slot(), first.loc.dist());
    if cold && dist <= ADJACENT_MAX {
        parts.push(Part { slot: slot - dist, slots: n + dist, buf: None });
        return;
    }
    parts.push(Part { slot, slots: n, buf: None });
    let header = first.loc.header();
    if cold && !parts.iter().any(|p| p.slot == header) {
        parts.push(Part { slot: header, slots: 1, buf: None });
    }
}

/// The entry of a header that holds a block at `loc`, and the checksum of the block.
pub fn find_entry(header: &GroupHeader, key: ObjKey, block: u16, loc: Loc) -> Option<(&BlockEntry, Option<u64>)> {
    let mut found = None;
    for (entry, slot, csums) in header.walk() {
        let Entry::Blocks(b) = entry else { continue };
        let covers = b.key == key && !b.forget && (b.first..b.first + b.count).contains(&block);
        if !covers || b.kind != loc.kind() {
            continue;
        }
        let skip = block - b.first;
        if !b.has_data() {
            found = Some((b, None));
        } else if slot + u64::from(skip) == loc.slot() {
            return csums.get(usize::from(skip)).map(|c| (b, Some(*c)));
        }
    }
    found
}

fn decode(layout: &Layout, segs: &Segs, part: &Part) -> Option<GroupHeader> {
    let seg_seq = segs.get(layout.seg_of(part.slot)?)?.seq;
    let bytes = part.buf.as_ref()?.as_slice();
    GroupHeader::decode(bytes, Expect { seg_seq, slot: part.slot }).ok().map(|h| h.0)
}

/// Resolves finished jobs.
struct Proof<'a> {
    view: View<'a>,
    parts: &'a [Part],
    headers: BTreeMap<u64, Option<GroupHeader>>,
    summaries: BTreeMap<u32, Vec<SummaryGroup>>,
}

impl Proof<'_> {
    fn slot(&self, slot: u64) -> Option<Buf> {
        let part = self.parts.iter().find(|p| (p.slot..p.slot + p.slots).contains(&slot))?;
        let at = (slot - part.slot) as usize * SLOT;
        part.buf.as_ref().map(|b| b.slice(at..at + SLOT)).filter(|b| b.len() == SLOT)
    }
    /// Whether the device refused to read a slot.
    fn unread(&self, slot: u64) -> bool {
        let part = self.parts.iter().find(|p| (p.slot..p.slot + p.slots).contains(&slot));
        part.is_some_and(|p| p.buf.as_ref().is_none_or(|b| b.as_slice().is_empty()))
    }
    fn header(&mut self, slot: u64) -> Option<&GroupHeader> {
        if !self.headers.contains_key(&slot) {
            let seq = self.view.seq_of(slot).map_or(0, |s| s.1);
            let parsed =
                self.slot(slot).and_then(|b| GroupHeader::decode(b.as_slice(), Expect { seg_seq: seq, slot }).ok());
            self.headers.insert(slot, parsed.map(|p| p.0));
        }
        self.headers.get(&slot)?.as_ref()
    }
    fn cached(&mut self, loc: Loc) -> Option<u64> {
        let seq = self.view.seq_of(loc.slot())?.1;
        self.view.csums.get(loc.slot(), seq).filter(|_| loc.is_data())
    }
    fn block(&mut self, vol: VolumeId, w: &Want) -> BlockRead {
        let known = w.csum.or_else(|| {
            let header = self.header(w.loc.header())?;
            find_entry(header, w.key, w.block, w.loc)?.1
        });
        if self.unread(w.loc.slot()) || (known.is_none() && self.unread(w.loc.header())) {
            return BlockRead::Failed;
        }
        let (Some(csum), Some(data)) = (known, self.slot(w.loc.slot())) else { return BlockRead::Corrupt };
        let number = w.key.chunk.wrapping_mul(u64::from(CHUNK_BLOCKS)).wrapping_add(u64::from(w.block));
        if block_csum(vol, number, data.as_slice()) != csum {
            return BlockRead::Corrupt;
        }
        if w.csum.is_none() {
            let seq = self.view.seq_of(w.loc.slot()).map_or(0, |s| s.1);
            self.view.csums.put(w.loc.slot(), seq, csum);
        }
        BlockRead::Data(data, csum)
    }
    fn exact(&mut self, vol: VolumeId, w: &Want, version: Version) -> Option<(BlockKind, BlockRead)> {
        if self.header(w.loc.header()).is_none() {
            // Which version lies here cannot be told, so it is not proven that this one does not: whoever has it must
            // not be taken for somebody without it.
            let unread = self.unread(w.loc.header());
            return Some((w.loc.kind(), if unread { BlockRead::Failed } else { BlockRead::Corrupt }));
        }
        let header = self.header(w.loc.header())?;
        let (entry, csum) = find_entry(header, w.key, w.block, w.loc)?;
        if entry.version != version {
            return None;
        }
        let kind = entry.kind;
        let answer = match kind {
            BlockKind::Data => self.block(vol, &Want { csum, ..*w }),
            BlockKind::Hole => BlockRead::Absent,
            BlockKind::Zero => BlockRead::Masked,
            BlockKind::Bad => BlockRead::Bad,
        };
        Some((kind, answer))
    }
    /// The version that the segment's summary has for a block whose header is rotten.
    fn summarised(&mut self, key: ObjKey, block: u16, loc: Loc) -> Option<Version> {
        let (layout, segs) = (self.view.layout, self.view.segs);
        let seg = layout.seg_of(loc.header())?;
        let parts = self.parts;
        let groups =
            self.summaries.entry(seg).or_insert_with(|| rescue::groups(layout, segs, parts, seg).unwrap_or_default());
        let rel = loc.header() - layout.seg_start(seg);
        let group = groups.iter().find(|g| u64::from(g.rel) == rel)?;
        rescue::version_in(group, key, block, loc)
    }
    /// A block whose header is rotten appears with a checksum that matches nothing, so that a
    /// comparison with another copy finds it.
    fn digest(&mut self, plan: DigestPlan) -> ObjectDigest {
        let mut runs: Vec<DigestRun> = Vec::new();
        for (block, loc, known) in plan.blocks {
            let found = self.header(loc.header()).and_then(|h| find_entry(h, plan.key, block, loc));
            let found = found.map(|(entry, csum)| (entry.version, csum));
            let version = found.map(|f| f.0).or(known).or_else(|| self.summarised(plan.key, block, loc));
            let version = version.unwrap_or(Version::ZERO);
            // What a read would compare with, or a reader of both would never see them agree.
            let csum = found.and_then(|f| f.1).or_else(|| self.cached(loc)).unwrap_or(0);
            let kind = loc.kind();
            let same = |r: &&mut DigestRun| r.first + r.count == block && r.kind == kind && r.version == version;
            let csums = (kind == BlockKind::Data).then_some(csum);
            match runs.last_mut().filter(same) {
                Some(r) => {
                    r.count += 1;
                    r.csums.extend(csums);
                }
                None => {
                    runs.push(DigestRun { first: block, count: 1, kind, version, csums: csums.into_iter().collect() })
                }
            }
        }
        ObjectDigest { layer: plan.key.layer, last_mod_epoch: plan.last_mod, runs }
    }
}

impl ReadJob {
    /// Adds what else is to be read now that every part is here: for a digest, the summaries of closed segments with
    /// a header that does not decode. Tells whether there is anything.
    pub fn more(&mut self, layout: &Layout, segs: &Segs) -> bool {
        if !matches!(self.kind, Kind::Digest(_)) {
            return false;
        }
        if self.headers.is_empty() {
            self.headers = self.parts.iter().map(|p| (p.slot, decode(layout, segs, p))).collect();
        }
        let rotten = self.headers.iter().filter(|(_, h)| h.is_none());
        let damaged: BTreeSet<u32> = rotten.filter_map(|(slot, _)| layout.seg_of(*slot)).collect();
        let new = damaged.into_iter().filter_map(|seg| rescue::next_part(layout, segs, &self.parts, seg));
        let new: Vec<Part> = new.collect();
        self.missing = new.len();
        self.parts.extend(new);
        self.missing > 0
    }
    /// The answer, once no part is missing.
    pub fn resolve(self, view: View<'_>) -> StoreEvent {
        let mut proof = Proof { view, parts: &self.parts, headers: self.headers, summaries: BTreeMap::new() };
        match self.kind {
            Kind::Read(vol, plans) => {
                let blocks = plans.into_iter().map(|p| match p {
                    Plan::Answer(a) => a,
                    Plan::Data(w) => proof.block(vol, &w),
                });
                StoreEvent::Read(self.token, blocks.collect())
            }
            Kind::Exact(vol, want, version) => StoreEvent::ReadExact(self.token, proof.exact(vol, &want, version)),
            Kind::Digest(objects) => {
                StoreEvent::Digest(self.token, objects.into_iter().map(|o| proof.digest(o)).collect())
            }
        }
    }
}
