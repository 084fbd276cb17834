//! Bytes of a checkpoint: chunks of items, and a root that says where they are.

use crate::api::{MetaKey, META_VALUE_MAX};
use crate::entry::{decode_key, encode_key};
use crate::hot::Recent;
use crate::index::Object;
use crate::leaf::Extent;
use crate::loc::{Loc, SLOT};
use crate::ranges::RangeMap;
use drystone_csum::crc64;
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{CodecError, Epoch, Gen, LayerId, ObjKey, PgId, Reader, Version, VolumeId, Writer};

const CHUNK_MAGIC: u64 = 0x314b_4843_5952_4453; // "SDRYCHK1"
const CHUNK_HEAD: usize = 40;
const ITEM_META: u8 = 1;
const ITEM_VOL: u8 = 2;
const ITEM_OBJECT: u8 = 3;
const ITEM_RECENT: u8 = 4;
/// Most segments a root may name: the largest drive.
const SEGMENTS_MAX: usize = 1 << 24;

/// One item of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A small value (empty = deleted) with the log sequence number of its record.
    Meta(MetaKey, u64, Vec<u8>),
    /// Highest generation seen in the data of a volume.
    Vol(VolumeId, Gen),
    /// An object.
    Object(ObjectItem),
    /// A recent stable version, oldest first.
    Recent(PgId, Recent),
}

/// An object in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectItem {
    /// Key.
    pub key: ObjKey,
    /// Volume.
    pub vol: VolumeId,
    /// PG.
    pub pg: PgId,
    /// Epoch of its newest change.
    pub last_mod: Epoch,
    /// Blocks.
    pub extents: Vec<Extent>,
    /// Versions above the durable stable value.
    pub versions: Vec<(u16, u16, Version)>,
    /// Join marks.
    pub joins: Vec<(u16, u16, Epoch)>,
}

/// Appends a small value.
pub fn put_meta(w: &mut Writer, key: MetaKey, lsn: u64, value: &[u8]) {
    let (kind, number) = encode_key(key);
    w.u8(ITEM_META).u8(kind).u64(number).u64(lsn).blob(value);
}

/// Appends the generation of a volume.
pub fn put_vol(w: &mut Writer, vol: VolumeId, gen: Gen) {
    w.u8(ITEM_VOL).u64(vol.0).u32(gen.0);
}

/// Appends a recent version.
pub fn put_recent(w: &mut Writer, pg: PgId, (vol, key, block, version): &Recent) {
    w.u8(ITEM_RECENT).u32(pg.to_wire()).u64(vol.0).u64(key.layer.0).u64(key.chunk).u16(*block);
    w.u32(version.gen.0).u64(version.seq);
}

/// Appends an object.
pub fn put_object(
    w: &mut Writer,
    key: ObjKey,
    o: &Object,
    versions: Option<&RangeMap<Version>>,
    joins: Option<&RangeMap<Epoch>>,
) {
    w.u8(ITEM_OBJECT).u64(key.layer.0).u64(key.chunk).u64(o.vol.0).u32(o.pg.to_wire()).u32(o.last_mod.0);
    let mut n = 0u16;
    let mut body = Writer::new();
    // One word an extent while it is one block: the 48 bits of the location need a shape of their own.
    o.leaf.visit(0, CHUNK_BLOCKS as u16, |x| {
        n += 1;
        let loc = x.loc.0.to_le_bytes();
        body.u16(x.first | u16::from(x.count > 1) << 15).bytes(loc.get(..6).unwrap_or(&[]));
        if x.count > 1 {
            body.u16(x.count);
        }
    });
    w.u16(n).bytes(&body.finish());
    let runs = versions.map_or(0, |v| v.iter().count());
    w.u16(runs as u16);
    for r in versions.into_iter().flat_map(RangeMap::iter) {
        w.u16(r.first).u16(r.count).u32(r.value.gen.0).u64(r.value.seq);
    }
    let runs = joins.map_or(0, |v| v.iter().count());
    w.u16(runs as u16);
    for r in joins.into_iter().flat_map(RangeMap::iter) {
        w.u16(r.first).u16(r.count).u32(r.value.0);
    }
}

fn run(r: &mut Reader<'_>) -> Result<(u16, u16), CodecError> {
    check_run(r.u16()?, r.u16()?)
}

fn check_run(first: u16, count: u16) -> Result<(u16, u16), CodecError> {
    let fits = count > 0 && u32::from(first) + u32::from(count) <= CHUNK_BLOCKS;
    if fits {
        Ok((first, count))
    } else {
        Err(CodecError::Invalid)
    }
}

fn extent(r: &mut Reader<'_>) -> Result<Extent, CodecError> {
    let head = r.u16()?;
    let [a, b, c, d, e, f] = r.array()?;
    let loc = Loc::from_raw(u64::from_le_bytes([a, b, c, d, e, f, 0, 0])).ok_or(CodecError::Invalid)?;
    let count = if head >> 15 == 1 { r.u16()? } else { 1 };
    let (first, count) = check_run(head & 0x7fff, count)?;
    Ok(Extent { loc, first, count })
}

fn version(r: &mut Reader<'_>) -> Result<Version, CodecError> {
    Ok(Version { gen: Gen(r.u32()?), seq: r.u64()? })
}

fn object(r: &mut Reader<'_>) -> Result<ObjectItem, CodecError> {
    let key = ObjKey { layer: LayerId(r.u64()?), chunk: r.u64()? };
    let (vol, pg, last_mod) = (VolumeId(r.u64()?), PgId::from_wire(r.u32()?), Epoch(r.u32()?));
    let (mut extents, mut versions, mut joins) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..short(r)? {
        extents.push(extent(r)?);
    }
    for _ in 0..short(r)? {
        let (first, count) = run(r)?;
        versions.push((first, count, version(r)?));
    }
    for _ in 0..short(r)? {
        let (first, count) = run(r)?;
        joins.push((first, count, Epoch(r.u32()?)));
    }
    Ok(ObjectItem { key, vol, pg, last_mod, extents, versions, joins })
}

fn short(r: &mut Reader<'_>) -> Result<u16, CodecError> {
    let n = r.u16()?;
    if u32::from(n) <= CHUNK_BLOCKS {
        Ok(n)
    } else {
        Err(CodecError::TooLarge)
    }
}

/// Decodes the next item.
pub fn take_item(r: &mut Reader<'_>) -> Result<Item, CodecError> {
    match r.u8()? {
        ITEM_META => {
            let key = decode_key(r.u8()?, r.u64()?)?;
            Ok(Item::Meta(key, r.u64()?, r.blob(META_VALUE_MAX)?.to_vec()))
        }
        ITEM_VOL => Ok(Item::Vol(VolumeId(r.u64()?), Gen(r.u32()?))),
        ITEM_OBJECT => object(r).map(Item::Object),
        ITEM_RECENT => {
            let (pg, vol) = (PgId::from_wire(r.u32()?), VolumeId(r.u64()?));
            let key = ObjKey { layer: LayerId(r.u64()?), chunk: r.u64()? };
            Ok(Item::Recent(pg, (vol, key, r.u16()?, version(r)?)))
        }
        _ => Err(CodecError::Invalid),
    }
}

/// Wraps the payload of a chunk; the result is a whole number of slots.
pub fn seal_chunk(number: u64, index: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = Writer::new();
    body.u64(CHUNK_MAGIC).u64(number).u32(index).u32(payload.len() as u32).u64(0).bytes(payload);
    let body = body.finish();
    let mut out = crc64(&body).to_le_bytes().to_vec();
    out.extend_from_slice(&body);
    out.resize(out.len().next_multiple_of(SLOT), 0);
    out
}

/// Bytes on disk of the chunk that starts with this slot; `None` if it does not start one.
pub fn chunk_bytes(first_slot: &[u8], number: u64, index: u32) -> Option<usize> {
    let mut r = Reader::new(first_slot);
    let (_, magic, n, i, len) = (r.u64().ok()?, r.u64().ok()?, r.u64().ok()?, r.u32().ok()?, r.u32().ok()?);
    let ours = magic == CHUNK_MAGIC && n == number && i == index;
    ours.then(|| (CHUNK_HEAD + len as usize).next_multiple_of(SLOT))
}

/// Payload of a chunk.
pub fn open_chunk(bytes: &[u8], number: u64, index: u32) -> Result<&[u8], CodecError> {
    let mut r = Reader::new(bytes);
    let (crc, magic, n, i, len) = (r.u64()?, r.u64()?, r.u64()?, r.u32()?, r.u32()?);
    r.u64()?;
    let payload = r.bytes(len as usize)?;
    let covered = bytes.get(8..CHUNK_HEAD + len as usize).ok_or(CodecError::Truncated)?;
    let good = magic == CHUNK_MAGIC && n == number && i == index && crc64(covered) == crc;
    if good {
        Ok(payload)
    } else {
        Err(CodecError::Invalid)
    }
}

/// A segment as the root of a checkpoint tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegItem {
    /// Segment.
    pub seg: u32,
    /// Sequence number.
    pub seq: u64,
    /// Number of the group after its last one.
    pub end_gseq: u64,
    /// Stream.
    pub stream: u8,
    /// Its summary was durable.
    pub closed: bool,
    /// Nothing in the index points into it since this point of the log; 0 = something does.
    pub emptied: u64,
}

/// Root of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Root {
    /// Point of the log at which the checkpoint began.
    pub began: u64,
    /// Per stream: every group below was applied when the checkpoint began, none from here on was.
    pub gseq: [u64; 3],
    /// Layers freed while records of them were still on their way: layer, log sequence number.
    pub freed: Vec<(LayerId, u64)>,
    /// Blocks of records on their way that a later record had set already: log sequence number,
    /// first block, blocks.
    pub overtaken: Vec<(u64, u16, u16)>,
    /// Chunks.
    pub chunks: u32,
    /// Segments with the chunks, in order; the root is in the last one.
    pub own: Vec<u32>,
    /// Every other segment in use.
    pub segs: Vec<SegItem>,
}

impl Root {
    /// Encodes the payload of the root chunk.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.began);
        self.gseq.iter().for_each(|g| {
            w.u64(*g);
        });
        w.count(self.freed.len());
        self.freed.iter().for_each(|(layer, lsn)| {
            w.u64(layer.0).u64(*lsn);
        });
        w.count(self.overtaken.len());
        self.overtaken.iter().for_each(|(lsn, first, count)| {
            w.u64(*lsn).u16(*first).u16(*count);
        });
        w.u32(self.chunks).count(self.own.len());
        self.own.iter().for_each(|s| {
            w.u32(*s);
        });
        w.count(self.segs.len());
        for s in &self.segs {
            w.u32(s.seg).u64(s.seq).u64(s.end_gseq).u8(s.stream).u8(u8::from(s.closed)).u64(s.emptied);
        }
        w.finish()
    }
    /// Decodes the payload of the root chunk.
    pub fn decode(bytes: &[u8]) -> Result<Root, CodecError> {
        let mut r = Reader::new(bytes);
        let (began, gseq) = (r.u64()?, [r.u64()?, r.u64()?, r.u64()?]);
        let mut root = Root { began, gseq, ..Root::default() };
        for _ in 0..r.count(SEGMENTS_MAX)? {
            root.freed.push((LayerId(r.u64()?), r.u64()?));
        }
        for _ in 0..r.count(SEGMENTS_MAX)? {
            let lsn = r.u64()?;
            let (first, count) = run(&mut r)?;
            root.overtaken.push((lsn, first, count));
        }
        root.chunks = r.u32()?;
        for _ in 0..r.count(SEGMENTS_MAX)? {
            root.own.push(r.u32()?);
        }
        for _ in 0..r.count(SEGMENTS_MAX)? {
            let (seg, seq, end_gseq) = (r.u32()?, r.u64()?, r.u64()?);
            let (stream, closed, emptied) = (r.u8()?, r.u8()? != 0, r.u64()?);
            root.segs.push(SegItem { seg, seq, end_gseq, stream, closed, emptied });
        }
        r.finish()?;
        Ok(root)
    }
}
