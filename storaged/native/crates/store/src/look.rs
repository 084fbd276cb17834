//! A look at a drive that changes nothing: the log is replayed as an open does it, into memory.

use crate::api::{BlockKind, MetaKey};
use crate::dev::SyncDev;
use crate::format::{inspect, OpenError};
use crate::group::{Expect, GroupHeader};
use crate::leaf::Extent;
use crate::loc::SLOT;
use crate::open::{OpenParams, OpenReport};
use crate::overlay::Overlay;
use crate::reader::find_entry;
use crate::rescue::version_in;
use crate::segment::{decode_summary, Footer, SummaryGroup};
use crate::store::{Config, LogStore};
use crate::superblock::Superblock;
use drystone_csum::block_csum;
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{Epoch, Gen, LayerId, ObjKey, PgId, Version, VolumeId};
use std::collections::{BTreeMap, HashMap};

/// Decoded headers kept at once (a few KiB each); a chunk of random blocks has at most 1024.
const HEADERS_MAX: usize = 4096;

/// What the bytes of a block are worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Worth {
    /// The checksum fits; or there are no bytes (hole, zero, bad).
    Whole,
    /// The bytes do not fit their checksum.
    Rotten,
    /// The header that holds checksum and version is damaged.
    Unproven,
    /// The device refused to read it.
    Unread,
}

/// One block as it lies on the drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockLook {
    /// PG.
    pub pg: PgId,
    /// Volume that owns the layer.
    pub vol: VolumeId,
    /// Object.
    pub key: ObjKey,
    /// Block within the chunk.
    pub block: u16,
    /// Kind.
    pub kind: BlockKind,
    /// Version; `None` = neither header, summary nor memory knows it.
    pub version: Option<Version>,
    /// Stored checksum (kind data).
    pub csum: Option<u64>,
    /// What the bytes are worth.
    pub worth: Worth,
}

/// What the index says of a PG.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PgLook {
    /// Objects.
    pub objects: u64,
    /// Blocks, those without data included.
    pub blocks: u64,
    /// Highest epoch of a change that an object carries.
    pub last_mod: Epoch,
}

/// What the index says of a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LayerLook {
    /// Blocks with data.
    pub data: u64,
    /// Number after the last block that is there, from the start of the volume.
    pub end: u64,
}

/// What the log says of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolLook {
    /// Highest generation in its block records, forgotten ones too: too high is safe.
    pub max_gen: Gen,
    /// Its layers that hold something.
    pub layers: BTreeMap<LayerId, LayerLook>,
}

/// A drive, open for looking.
pub struct Look<'d> {
    dev: Overlay<'d>,
    store: LogStore,
    found: Superblock,
    report: OpenReport,
    headers: HashMap<u64, Option<GroupHeader>>,
    summaries: HashMap<u32, Vec<SummaryGroup>>,
}

impl<'d> Look<'d> {
    /// Replays the log in memory; not one byte of the device changes.
    pub fn open(dev: &'d mut dyn SyncDev) -> Result<Look<'d>, OpenError> {
        let mut dev = Overlay::new(dev);
        let found = inspect(&mut dev)?;
        // The least that a cache may be: every block is read once, and never from it.
        let cfg = Config { csum_cache_bytes: 64 << 10, ..Config::default() };
        let params = OpenParams { nonce: found.nonce, ..OpenParams::default() };
        let (store, report) = LogStore::open(&mut dev, cfg, params)?;
        // It shows nothing, which is not what it holds.
        if store.hollow {
            return Err(OpenError::CheckpointDamaged);
        }
        Ok(Look { dev, store, found, report, headers: HashMap::new(), summaries: HashMap::new() })
    }
    /// The superblock as it stands on the device.
    pub fn superblock(&self) -> &Superblock {
        &self.found
    }
    /// What the replay found.
    pub fn report(&self) -> &OpenReport {
        &self.report
    }
    /// All small values.
    pub fn metas(&self) -> impl Iterator<Item = (MetaKey, &[u8])> {
        self.store.metas.iter().map(|(k, v)| (*k, v.as_slice()))
    }
    /// Every PG with an object.
    pub fn pgs(&self) -> BTreeMap<PgId, PgLook> {
        let mut out: BTreeMap<PgId, PgLook> = BTreeMap::new();
        for (_, o) in self.store.index.after(None) {
            let pg = out.entry(o.pg).or_default();
            pg.objects += 1;
            pg.last_mod = pg.last_mod.max(o.last_mod);
            o.leaf.visit(0, CHUNK_BLOCKS as u16, |x| pg.blocks += u64::from(x.count));
        }
        out
    }
    /// Every volume that the log knows of.
    pub fn vols(&self) -> BTreeMap<VolumeId, VolLook> {
        let index = &self.store.index;
        let known = index.vols().iter().map(|(v, s)| (*v, VolLook { max_gen: s.max_gen, ..VolLook::default() }));
        let mut out: BTreeMap<VolumeId, VolLook> = known.collect();
        for (key, o) in index.after(None) {
            let layer = out.entry(o.vol).or_default().layers.entry(key.layer).or_default();
            let base = key.chunk.saturating_mul(u64::from(CHUNK_BLOCKS));
            o.leaf.visit(0, CHUNK_BLOCKS as u16, |x| {
                layer.data += if x.loc.is_data() { u64::from(x.count) } else { 0 };
                layer.end = layer.end.max(base.saturating_add(u64::from(x.first + x.count)));
            });
        }
        out
    }

    /// Every block in the order of (pool, pg, layer, chunk, block), its bytes read and verified; `each` gets
    /// them too (4096 for data that could be read, else none).
    pub fn blocks(&mut self, mut each: impl FnMut(&BlockLook, &[u8])) {
        let mut keys: Vec<(PgId, ObjKey)> = self.store.index.after(None).map(|(k, o)| (o.pg, *k)).collect();
        keys.sort_unstable();
        for (pg, key) in keys {
            let Some(o) = self.store.index.get(key) else { continue };
            let (vol, mut extents) = (o.vol, Vec::new());
            o.leaf.visit(0, CHUNK_BLOCKS as u16, |x| extents.push(x));
            for x in extents {
                self.extent((pg, vol, key), x, &mut each);
            }
        }
    }

    fn extent(&mut self, of: (PgId, VolumeId, ObjKey), x: Extent, each: &mut impl FnMut(&BlockLook, &[u8])) {
        let mut bytes = vec![0u8; if x.loc.is_data() { usize::from(x.count) * SLOT } else { 0 }];
        let unread = self.dev.read_at(x.loc.slot() * SLOT as u64, &mut bytes).is_err();
        if unread {
            bytes.clear();
        }
        let mut slots = bytes.chunks_exact(SLOT);
        for i in 0..x.count {
            let part = Extent { loc: x.loc.advance(i), first: x.first + i, count: 1 };
            let data = slots.next();
            let seen = self.block(of, part, data, unread);
            each(&seen, data.unwrap_or(&[]));
        }
    }

    fn block(&mut self, of: (PgId, VolumeId, ObjKey), x: Extent, data: Option<&[u8]>, unread: bool) -> BlockLook {
        let (pg, vol, key) = of;
        let found = self.header(x.loc.header()).and_then(|h| find_entry(h, key, x.first, x.loc));
        let found = found.map(|(entry, csum)| (entry.version, csum));
        let csum = found.and_then(|f| f.1);
        let number = key.chunk.wrapping_mul(u64::from(CHUNK_BLOCKS)).wrapping_add(u64::from(x.first));
        let worth = match (x.loc.kind(), found, data) {
            (BlockKind::Data, _, None) if unread => Worth::Unread,
            (_, None, _) => Worth::Unproven,
            (BlockKind::Data, _, Some(bytes)) if csum == Some(block_csum(vol, number, bytes)) => Worth::Whole,
            (BlockKind::Data, _, _) => Worth::Rotten,
            _ => Worth::Whole,
        };
        let known = found.map(|f| f.0).or_else(|| self.store.hot.version(key, x.first));
        let version = known.or_else(|| self.summarised(key, x));
        BlockLook { pg, vol, key, block: x.first, kind: x.loc.kind(), version, csum, worth }
    }

    fn seq_of(&self, slot: u64) -> Option<(u32, u64)> {
        let seg = self.store.layout.seg_of(slot)?;
        self.store.segs.get(seg).map(|s| (seg, s.seq))
    }

    fn header(&mut self, slot: u64) -> Option<&GroupHeader> {
        if !self.headers.contains_key(&slot) {
            if self.headers.len() >= HEADERS_MAX {
                self.headers.clear();
            }
            let mut bytes = vec![0u8; SLOT];
            let read = self.dev.read_at(slot * SLOT as u64, &mut bytes);
            let expect = self.seq_of(slot).filter(|_| read.is_ok()).map(|(_, seg_seq)| Expect { seg_seq, slot });
            let header = expect.and_then(|e| GroupHeader::decode(&bytes, e).ok()).map(|h| h.0);
            self.headers.insert(slot, header);
        }
        self.headers.get(&slot)?.as_ref()
    }

    /// The version that the summary of the segment has for a block whose header is damaged.
    fn summarised(&mut self, key: ObjKey, x: Extent) -> Option<Version> {
        let (seg, seq) = self.seq_of(x.loc.header())?;
        if !self.summaries.contains_key(&seg) {
            let groups = self.summary(seg, seq).unwrap_or_default();
            self.summaries.insert(seg, groups);
        }
        let rel = x.loc.header() - self.store.layout.seg_start(seg);
        let group = self.summaries.get(&seg)?.iter().find(|g| u64::from(g.rel) == rel)?;
        version_in(group, key, x.first, x.loc)
    }

    fn summary(&mut self, seg: u32, seq: u64) -> Option<Vec<SummaryGroup>> {
        let layout = self.store.layout;
        let start = layout.seg_start(seg);
        let mut last = vec![0u8; SLOT];
        self.dev.read_at((start + layout.seg_slots - 1) * SLOT as u64, &mut last).ok()?;
        let footer = Footer::decode(&last, seg, seq, layout.seg_slots).ok()?;
        let mut body = vec![0u8; (footer.body_len as usize).div_ceil(SLOT) * SLOT];
        self.dev.read_at((start + u64::from(footer.body_slot)) * SLOT as u64, &mut body).ok()?;
        decode_summary(body.get(..footer.body_len as usize)?, &footer).ok()
    }
}
