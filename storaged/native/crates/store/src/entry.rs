//! One entry of the log: a record, or a part of one, as headers and summaries hold it.

use crate::api::{BlockKind, MetaKey, META_VALUE_MAX};
use crate::loc::{Loc, SLOT};
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{CodecError, Epoch, Gen, LayerId, ObjKey, PgId, Reader, Version, VolumeId};

const TYPE_BLOCKS: u8 = 1;
const TYPE_FORGET: u8 = 2;
const TYPE_META: u8 = 3;
const TYPE_TOUCH: u8 = 4;
const TYPE_FREE: u8 = 5;
const FLAG_MOVE: u8 = 1;
const FLAG_ROTTEN: u8 = 2;
const FLAG_COPY: u8 = 4;
const FLAG_JOIN: u8 = 8;
/// Values up to this size lie in the header itself; larger ones take data slots.
pub const INLINE_MAX: usize = 1024;
/// Bytes of a block entry.
pub const BLOCK_ENTRY: usize = 80;
/// Bytes of a value entry without an inline value.
const META_ENTRY: usize = 32;

/// A run of blocks in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockEntry {
    /// The blocks become absent; `kind` and `version` mean nothing.
    pub forget: bool,
    /// Kind.
    pub kind: BlockKind,
    /// Rewritten by GC although the data does not match its checksum: it stays corrupt.
    pub rotten: bool,
    /// Made by resync.
    pub copy: bool,
    /// First block within the chunk.
    pub first: u16,
    /// Blocks.
    pub count: u16,
    /// Order of admission, drive-wide.
    pub lsn: u64,
    /// Order of the record that GC moved here; else equal to `lsn`.
    pub orig_lsn: u64,
    /// Volume.
    pub vol: VolumeId,
    /// Object.
    pub key: ObjKey,
    /// PG.
    pub pg: PgId,
    /// Epoch.
    pub pg_epoch: Epoch,
    /// Version.
    pub version: Version,
    /// Written by a sequencer while the drive was joining in this epoch.
    pub since_join: Option<Epoch>,
    /// Where GC took the first block from: the entry applies only to blocks still found there.
    pub source: Option<Loc>,
}

impl BlockEntry {
    /// Data slots of the entry.
    pub fn data_slots(&self) -> u64 {
        if self.has_data() {
            u64::from(self.count)
        } else {
            0
        }
    }
    /// Whether blocks have data slots.
    pub fn has_data(&self) -> bool {
        self.kind == BlockKind::Data && !self.forget
    }
}

/// An entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Blocks.
    Blocks(BlockEntry),
    /// A small value.
    Meta {
        /// Order.
        lsn: u64,
        /// Key.
        key: MetaKey,
        /// The value when it is inline, else its length and CRC-64; it lies in data slots.
        value: MetaValue,
    },
    /// Raises `last_mod_epoch`.
    Touch {
        /// Order.
        lsn: u64,
        /// Object.
        key: ObjKey,
        /// Its volume.
        vol: VolumeId,
        /// Its PG.
        pg: PgId,
        /// Epoch.
        epoch: Epoch,
    },
    /// Frees a layer.
    FreeLayer {
        /// Order.
        lsn: u64,
        /// Layer.
        layer: LayerId,
    },
}

/// A small value in a header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetaValue {
    /// In the header.
    Inline(Vec<u8>),
    /// In data slots.
    Slots {
        /// Bytes.
        len: u32,
        /// CRC-64 of them.
        crc: u64,
    },
}

impl Entry {
    /// Order of admission.
    pub fn lsn(&self) -> u64 {
        match self {
            Entry::Blocks(b) => b.lsn,
            Entry::Meta { lsn, .. } | Entry::Touch { lsn, .. } | Entry::FreeLayer { lsn, .. } => *lsn,
        }
    }
    /// Data slots that belong to the entry.
    pub fn data_slots(&self) -> u64 {
        match self {
            Entry::Blocks(b) => b.data_slots(),
            Entry::Meta { value: MetaValue::Slots { len, .. }, .. } => u64::from(*len).div_ceil(SLOT as u64),
            _ => 0,
        }
    }
    /// Checksums of the entry in the table of the header.
    pub fn csums(&self) -> usize {
        match self {
            Entry::Blocks(b) if b.has_data() => usize::from(b.count),
            _ => 0,
        }
    }
    /// Bytes of the entry in a header.
    pub fn encoded_len(&self) -> usize {
        match self {
            Entry::Blocks(_) => BLOCK_ENTRY,
            Entry::Meta { value: MetaValue::Inline(v), .. } => META_ENTRY + v.len().next_multiple_of(8),
            Entry::Meta { .. } => META_ENTRY,
            Entry::Touch { .. } => 48,
            Entry::FreeLayer { .. } => 24,
        }
    }
    /// Appends the entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Blocks(b) => encode_blocks(b, out),
            Entry::Meta { lsn, key, value } => encode_meta(*lsn, *key, value, out),
            Entry::Touch { lsn, key, vol, pg, epoch } => {
                out.extend_from_slice(&[TYPE_TOUCH, 0, 0, 0]);
                put(out, &[&epoch.0.to_le_bytes(), &lsn.to_le_bytes(), &key.layer.0.to_le_bytes()]);
                put(out, &[&key.chunk.to_le_bytes(), &vol.0.to_le_bytes(), &pg.to_wire().to_le_bytes(), &[0; 4]]);
            }
            Entry::FreeLayer { lsn, layer } => {
                out.extend_from_slice(&[TYPE_FREE, 0, 0, 0, 0, 0, 0, 0]);
                put(out, &[&lsn.to_le_bytes(), &layer.0.to_le_bytes()]);
            }
        }
    }
    /// Decodes the next entry.
    pub fn decode(r: &mut Reader<'_>) -> Result<Entry, CodecError> {
        let [kind, a, flags, _] = r.array()?;
        match kind {
            TYPE_BLOCKS | TYPE_FORGET => decode_blocks(kind == TYPE_FORGET, a, flags, r).map(Entry::Blocks),
            TYPE_META => decode_meta(a, flags, r),
            TYPE_TOUCH => {
                let (epoch, lsn) = (Epoch(r.u32()?), r.u64()?);
                let key = ObjKey { layer: LayerId(r.u64()?), chunk: r.u64()? };
                let (vol, pg) = (VolumeId(r.u64()?), PgId::from_wire(r.u32()?));
                r.u32()?;
                Ok(Entry::Touch { lsn, key, vol, pg, epoch })
            }
            TYPE_FREE => {
                r.u32()?;
                Ok(Entry::FreeLayer { lsn: r.u64()?, layer: LayerId(r.u64()?) })
            }
            _ => Err(CodecError::Invalid),
        }
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|p| out.extend_from_slice(p));
}

fn encode_blocks(b: &BlockEntry, out: &mut Vec<u8>) {
    let flags = u8::from(b.source.is_some()) * FLAG_MOVE
        + u8::from(b.rotten) * FLAG_ROTTEN
        + u8::from(b.copy) * FLAG_COPY
        + u8::from(b.since_join.is_some()) * FLAG_JOIN;
    out.extend_from_slice(&[if b.forget { TYPE_FORGET } else { TYPE_BLOCKS }, b.kind as u8, flags, 0]);
    put(out, &[&b.first.to_le_bytes(), &b.count.to_le_bytes(), &b.lsn.to_le_bytes(), &b.vol.0.to_le_bytes()]);
    put(out, &[&b.key.layer.0.to_le_bytes(), &b.key.chunk.to_le_bytes(), &b.pg.to_wire().to_le_bytes()]);
    put(out, &[&b.pg_epoch.0.to_le_bytes(), &b.version.gen.0.to_le_bytes()]);
    put(out, &[&b.since_join.unwrap_or_default().0.to_le_bytes(), &b.version.seq.to_le_bytes()]);
    put(out, &[&b.source.unwrap_or_default().0.to_le_bytes(), &b.orig_lsn.to_le_bytes()]);
}

fn decode_blocks(forget: bool, kind: u8, flags: u8, r: &mut Reader<'_>) -> Result<BlockEntry, CodecError> {
    let kind = decode_kind(kind)?;
    let (first, count, lsn, vol) = (r.u16()?, r.u16()?, r.u64()?, VolumeId(r.u64()?));
    let key = ObjKey { layer: LayerId(r.u64()?), chunk: r.u64()? };
    let (pg, pg_epoch) = (PgId::from_wire(r.u32()?), Epoch(r.u32()?));
    let (gen, join) = (Gen(r.u32()?), Epoch(r.u32()?));
    let version = Version { gen, seq: r.u64()? };
    let (source, orig_lsn) = (r.u64()?, r.u64()?);
    let source = if flags & FLAG_MOVE != 0 { Some(Loc::from_raw(source).ok_or(CodecError::Invalid)?) } else { None };
    if count == 0 || u32::from(first) + u32::from(count) > CHUNK_BLOCKS {
        return Err(CodecError::Invalid);
    }
    Ok(BlockEntry {
        forget,
        kind,
        rotten: flags & FLAG_ROTTEN != 0,
        copy: flags & FLAG_COPY != 0,
        first,
        count,
        lsn,
        orig_lsn,
        vol,
        key,
        pg,
        pg_epoch,
        version,
        since_join: (flags & FLAG_JOIN != 0).then_some(join),
        source,
    })
}

/// Kind of a block from its number on disk.
pub fn decode_kind(raw: u8) -> Result<BlockKind, CodecError> {
    use BlockKind::*;
    [Data, Hole, Zero, Bad].into_iter().find(|k| *k as u8 == raw).ok_or(CodecError::Invalid)
}

/// Kind and number of a key, as on disk.
pub fn encode_key(key: MetaKey) -> (u8, u64) {
    match key {
        MetaKey::Seal(v) => (1, v.0),
        MetaKey::Stable(v) => (2, v.0),
        MetaKey::Freeze(l) => (3, l.0),
        MetaKey::Adopt(pg) => (4, u64::from(pg.to_wire())),
        MetaKey::Grant(v) => (5, v.0),
        MetaKey::Drive(n) => (6, n),
    }
}

/// Inverse of `encode_key`.
pub fn decode_key(kind: u8, number: u64) -> Result<MetaKey, CodecError> {
    Ok(match kind {
        1 => MetaKey::Seal(VolumeId(number)),
        2 => MetaKey::Stable(VolumeId(number)),
        3 => MetaKey::Freeze(LayerId(number)),
        4 => MetaKey::Adopt(PgId::from_wire(u32::try_from(number).map_err(|_| CodecError::Invalid)?)),
        5 => MetaKey::Grant(VolumeId(number)),
        6 => MetaKey::Drive(number),
        _ => return Err(CodecError::Invalid),
    })
}

fn encode_meta(lsn: u64, key: MetaKey, value: &MetaValue, out: &mut Vec<u8>) {
    let (kind, number) = encode_key(key);
    let (inline, len, crc) = match value {
        MetaValue::Inline(v) => (1, u32::try_from(v.len()).unwrap_or(0), 0),
        MetaValue::Slots { len, crc } => (0, *len, *crc),
    };
    out.extend_from_slice(&[TYPE_META, kind, inline, 0]);
    put(out, &[&len.to_le_bytes(), &lsn.to_le_bytes(), &number.to_le_bytes(), &crc.to_le_bytes()]);
    if let MetaValue::Inline(v) = value {
        out.extend_from_slice(v);
        out.resize(out.len().next_multiple_of(8), 0);
    }
}

fn decode_meta(kind: u8, inline: u8, r: &mut Reader<'_>) -> Result<Entry, CodecError> {
    let (len, lsn, number, crc) = (r.u32()?, r.u64()?, r.u64()?, r.u64()?);
    let key = decode_key(kind, number)?;
    let limit = if inline == 1 { INLINE_MAX } else { META_VALUE_MAX };
    if len as usize > limit {
        return Err(CodecError::TooLarge);
    }
    let value = if inline == 1 {
        let value = r.bytes(len as usize)?.to_vec();
        r.bytes((8 - len as usize % 8) % 8)?;
        MetaValue::Inline(value)
    } else {
        MetaValue::Slots { len, crc }
    };
    Ok(Entry::Meta { lsn, key, value })
}
