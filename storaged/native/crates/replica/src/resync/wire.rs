//! Metadata of DIGEST and COPY, bounded on both sides (docs/wire-protocol.md).

use drystone_store::api::{BlockKind, DigestRun, ObjectDigest};
use drystone_types::consts::{CHAIN_MAX, CHUNK_BLOCKS, FRAME_BLOCKS_MAX};
use drystone_types::{CodecError, Epoch, Gen, LayerId, Reader, Version, VolumeId, Writer};

use super::ChunkId;
use crate::limits::DIGEST_LIST_MAX;

/// A DIGEST request.
pub(crate) enum DigestAsk {
    List { e0: Epoch, after: Option<ChunkId> },
    Chunk(ChunkId),
}

pub(crate) fn encode_list_ask(e0: Epoch, after: Option<ChunkId>) -> Vec<u8> {
    let mut w = Writer::new();
    let (vol, chunk) = after.unwrap_or_default();
    w.u8(0).u32(e0.0).u64(vol.0).u64(chunk).u8(u8::from(after.is_some()));
    w.finish()
}

pub(crate) fn encode_chunk_ask(chunk: ChunkId) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(1).u64(chunk.0 .0).u64(chunk.1);
    w.finish()
}

pub(crate) fn decode_digest_ask(meta: &[u8]) -> Result<DigestAsk, CodecError> {
    let mut r = Reader::new(meta);
    let ask = match r.u8()? {
        0 => {
            let e0 = Epoch(r.u32()?);
            let after = (VolumeId(r.u64()?), r.u64()?);
            let any = r.u8()? != 0;
            DigestAsk::List { e0, after: any.then_some(after) }
        }
        1 => DigestAsk::Chunk((VolumeId(r.u64()?), r.u64()?)),
        _ => return Err(CodecError::Invalid),
    };
    r.finish()?;
    Ok(ask)
}

pub(crate) fn encode_scrub_ask(chunk: ChunkId) -> Vec<u8> {
    let mut w = Writer::new();
    w.u64(chunk.0 .0).u64(chunk.1);
    w.finish()
}

pub(crate) fn decode_scrub_ask(meta: &[u8]) -> Result<ChunkId, CodecError> {
    let mut r = Reader::new(meta);
    let chunk = (VolumeId(r.u64()?), r.u64()?);
    r.finish()?;
    Ok(chunk)
}

pub(crate) fn encode_list(more: bool, list: &[ChunkId]) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(u8::from(more)).count(list.len());
    for (vol, chunk) in list {
        w.u64(vol.0).u64(*chunk);
    }
    w.finish()
}

/// An ascending list after `after`; anything else would make the cursor lie.
pub(crate) fn decode_list(meta: &[u8], after: Option<ChunkId>) -> Result<(bool, Vec<ChunkId>), CodecError> {
    let mut r = Reader::new(meta);
    let more = r.u8()? != 0;
    let n = r.count(DIGEST_LIST_MAX)?;
    let mut list = Vec::with_capacity(n);
    let mut last = after;
    for _ in 0..n {
        let chunk = (VolumeId(r.u64()?), r.u64()?);
        if last.is_some_and(|last| chunk <= last) {
            return Err(CodecError::Invalid);
        }
        last = Some(chunk);
        list.push(chunk);
    }
    r.finish()?;
    if more && list.is_empty() {
        Err(CodecError::Invalid)
    } else {
        Ok((more, list))
    }
}

pub(crate) fn encode_digest(objects: &[ObjectDigest]) -> Vec<u8> {
    let mut w = Writer::new();
    w.count(objects.len());
    for object in objects {
        w.u64(object.layer.0).u32(object.last_mod_epoch.0).count(object.runs.len());
        for run in &object.runs {
            w.u16(run.first).u16(run.count).u8(run.kind as u8).u32(run.version.gen.0).u64(run.version.seq);
            run.csums.iter().for_each(|c| {
                w.u64(*c);
            });
        }
    }
    w.finish()
}

pub(crate) fn decode_digest(meta: &[u8]) -> Result<Vec<ObjectDigest>, CodecError> {
    let mut r = Reader::new(meta);
    let n = r.count(CHAIN_MAX)?;
    let mut objects = Vec::with_capacity(n);
    for _ in 0..n {
        let layer = LayerId(r.u64()?);
        let last_mod_epoch = Epoch(r.u32()?);
        let count = r.count(CHUNK_BLOCKS as usize)?;
        let mut runs = Vec::new();
        for _ in 0..count {
            runs.push(decode_run(&mut r)?);
        }
        objects.push(ObjectDigest { layer, last_mod_epoch, runs });
    }
    r.finish()?;
    Ok(objects)
}

fn decode_run(r: &mut Reader<'_>) -> Result<DigestRun, CodecError> {
    let (first, count) = (r.u16()?, r.u16()?);
    if u32::from(first) + u32::from(count) > CHUNK_BLOCKS {
        return Err(CodecError::TooLarge);
    }
    let kind = kind_of(r.u8()?)?.ok_or(CodecError::Invalid)?;
    let version = decode_version(r)?;
    let mut csums = Vec::new();
    if kind == BlockKind::Data {
        for _ in 0..count {
            csums.push(r.u64()?);
        }
    }
    Ok(DigestRun { first, count, kind, version, csums })
}

pub(crate) fn decode_version(r: &mut Reader<'_>) -> Result<Version, CodecError> {
    Ok(Version { gen: Gen(r.u32()?), seq: r.u64()? })
}

fn kind_of(raw: u8) -> Result<Option<BlockKind>, CodecError> {
    match raw {
        0 => Ok(None),
        1 => Ok(Some(BlockKind::Data)),
        2 => Ok(Some(BlockKind::Hole)),
        3 => Ok(Some(BlockKind::Zero)),
        4 => Ok(Some(BlockKind::Bad)),
        _ => Err(CodecError::Invalid),
    }
}

pub(crate) fn encode_runs(runs: &[(u16, u16)]) -> Vec<u8> {
    let mut w = Writer::new();
    w.count(runs.len());
    for (first, count) in runs {
        w.u16(*first).u16(*count);
    }
    w.finish()
}

/// Runs within a chunk, ascending, 256 blocks at most.
pub(crate) fn decode_runs(meta: &[u8]) -> Result<Vec<(u16, u16)>, CodecError> {
    let mut r = Reader::new(meta);
    let n = r.count(FRAME_BLOCKS_MAX as usize)?;
    let mut runs = Vec::with_capacity(n);
    let (mut end, mut total) = (0u32, 0u32);
    for _ in 0..n {
        let (first, count) = (r.u16()?, r.u16()?);
        let after = u32::from(first) + u32::from(count);
        total += u32::from(count);
        if count == 0 || u32::from(first) < end || after > CHUNK_BLOCKS || total > FRAME_BLOCKS_MAX {
            return Err(CodecError::Invalid);
        }
        end = after;
        runs.push((first, count));
    }
    r.finish()?;
    if runs.is_empty() {
        Err(CodecError::Invalid)
    } else {
        Ok(runs)
    }
}

/// One block of a COPY answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CopyCell {
    /// The source holds nothing there now.
    Absent,
    /// What it holds; BAD also stands for bytes that do not match their checksum.
    Held(BlockKind, Version),
    /// Its device could not read the bytes this time: nothing is known of them.
    Failed(Version),
}

/// Kind of a block that the device could not read, in a COPY answer.
const FAILED: u8 = 5;

pub(crate) fn encode_cells(cells: &[CopyCell]) -> Vec<u8> {
    let mut w = Writer::new();
    w.count(cells.len());
    for cell in cells {
        let (kind, version) = match *cell {
            CopyCell::Absent => (0, Version::ZERO),
            CopyCell::Held(kind, version) => (kind as u8, version),
            CopyCell::Failed(version) => (FAILED, version),
        };
        w.u8(kind).u32(version.gen.0).u64(version.seq);
    }
    w.finish()
}

pub(crate) fn decode_cells(meta: &[u8]) -> Result<Vec<CopyCell>, CodecError> {
    let mut r = Reader::new(meta);
    let n = r.count(FRAME_BLOCKS_MAX as usize)?;
    let mut cells = Vec::with_capacity(n);
    for _ in 0..n {
        let raw = r.u8()?;
        let kind = if raw == FAILED { None } else { kind_of(raw)? };
        let version = decode_version(&mut r)?;
        cells.push(match kind {
            Some(kind) => CopyCell::Held(kind, version),
            None if raw == FAILED => CopyCell::Failed(version),
            None => CopyCell::Absent,
        });
    }
    r.finish()?;
    Ok(cells)
}
