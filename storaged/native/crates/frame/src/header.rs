//! Encoding and decoding of the header, and the bounds of what follows it.

use drystone_csum::crc64;
use drystone_types::codec::{CodecError, Reader};
use drystone_types::consts::{BLOCK_SIZE, FRAME_BLOCKS_MAX, FRAME_META_MAX};
use drystone_types::{
    DriveId, Epoch, Flags, Frame, Gen, Header, LayerId, MsgType, PgId, Rev, Status, Version, VolumeId,
};

/// Bytes of a header.
pub const HEADER_LEN: usize = 128;
/// First four bytes: `DRYF`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"DRYF");
/// Version of the header layout.
pub const VERSION: u8 = 1;
/// Bytes covered by the header's own CRC.
const CRC_AT: usize = 120;

/// Why bytes are not a frame. Every one ends the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// Wrong magic: not this protocol, or the stream lost its boundary.
    BadMagic,
    /// A header version this build does not speak.
    BadVersion(u8),
    /// The header's CRC does not match.
    BadHeaderCrc,
    /// The CRC of checksum table and metadata does not match.
    BadMetaCrc,
    /// A message type that is not defined.
    UnknownType(u8),
    /// A status that is not defined.
    UnknownStatus(u16),
    /// More blocks or metadata than a frame may carry, or lengths that contradict each other.
    BadLength,
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            FrameError::BadMagic => f.write_str("not a Drystone frame: wrong magic"),
            FrameError::BadVersion(v) => write!(f, "frame version {v} is not spoken here"),
            FrameError::BadHeaderCrc => f.write_str("the frame header's checksum does not match"),
            FrameError::BadMetaCrc => f.write_str("the checksum of the frame's metadata does not match"),
            FrameError::UnknownType(t) => write!(f, "unknown message type {t}"),
            FrameError::UnknownStatus(s) => write!(f, "unknown status {s}"),
            FrameError::BadLength => f.write_str("a length in the frame is over its limit"),
        }
    }
}

impl std::error::Error for FrameError {}

impl From<CodecError> for FrameError {
    fn from(_: CodecError) -> Self {
        FrameError::BadLength
    }
}

/// What follows a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lengths {
    /// Checksums, and so blocks of data.
    pub csums: usize,
    /// Bytes of inline metadata.
    pub meta: usize,
    /// CRC-64 of checksum table and metadata.
    pub meta_crc: u64,
}

impl Lengths {
    /// Bytes between the header and the data.
    pub fn table_and_meta(&self) -> usize {
        self.csums * 8 + self.meta
    }
    /// Bytes of data.
    pub fn data(&self) -> usize {
        self.csums * BLOCK_SIZE
    }
}

/// Appends header, checksum table and metadata to `out`; `frame.data` follows them on the wire.
///
/// The caller keeps the frame within the bounds of the protocol; a frame over them is refused
/// here too, because the other side would drop the connection.
pub fn encode_head(frame: &Frame, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let data_len = frame.csums.len() * BLOCK_SIZE;
    if frame.csums.len() > FRAME_BLOCKS_MAX as usize
        || frame.meta.len() > FRAME_META_MAX
        || frame.data.len() != data_len
    {
        return Err(FrameError::BadLength);
    }
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    for csum in &frame.csums {
        out.extend_from_slice(&csum.to_le_bytes());
    }
    out.extend_from_slice(&frame.meta);
    let meta_crc = crc64(out.get(start + HEADER_LEN..).unwrap_or(&[]));
    let header = header_bytes(&frame.hdr, frame.csums.len(), frame.meta.len() + data_len, meta_crc);
    if let Some(slot) = out.get_mut(start..start + HEADER_LEN) {
        slot.copy_from_slice(&header);
    }
    Ok(())
}

fn header_bytes(h: &Header, csums: usize, payload: usize, meta_crc: u64) -> [u8; HEADER_LEN] {
    let mut raw = [0u8; HEADER_LEN];
    let mut at = 0usize;
    let mut put = |bytes: &[u8]| {
        if let Some(slot) = raw.get_mut(at..at + bytes.len()) {
            slot.copy_from_slice(bytes);
        }
        at += bytes.len();
    };
    put(&MAGIC.to_le_bytes());
    put(&[VERSION, h.kind as u8]);
    put(&h.flags.0.to_le_bytes());
    put(&h.request.to_le_bytes());
    put(&h.vol.0.to_le_bytes());
    put(&h.gen.0.to_le_bytes());
    put(&h.pg_epoch.0.to_le_bytes());
    put(&h.pg.to_wire().to_le_bytes());
    put(&h.drive.0.to_le_bytes());
    put(&h.layer.0.to_le_bytes());
    put(&h.map_rev.0.to_le_bytes());
    put(&h.block.to_le_bytes());
    put(&h.count.to_le_bytes());
    put(&u32::try_from(payload).unwrap_or(u32::MAX).to_le_bytes());
    put(&h.seq.to_le_bytes());
    put(&h.stable.seq.to_le_bytes());
    put(&h.stable.gen.0.to_le_bytes());
    put(&h.origin_gen.0.to_le_bytes());
    put(&u16::try_from(csums).unwrap_or(u16::MAX).to_le_bytes());
    put(&(h.status as u16).to_le_bytes());
    put(&h.credits.to_le_bytes());
    put(&meta_crc.to_le_bytes());
    put(&h.trace.to_le_bytes());
    let crc = crc64(raw.get(..CRC_AT).unwrap_or(&[]));
    if let Some(slot) = raw.get_mut(CRC_AT..) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
    raw
}

/// Decodes a header and checks every length it announces.
pub fn decode_header(raw: &[u8; HEADER_LEN]) -> Result<(Header, Lengths), FrameError> {
    let mut r = Reader::new(raw);
    if r.u32()? != MAGIC {
        return Err(FrameError::BadMagic);
    }
    let (version, kind) = (r.u8()?, r.u8()?);
    if version != VERSION {
        return Err(FrameError::BadVersion(version));
    }
    let (body, crc) = raw.split_at(CRC_AT);
    if crc64(body).to_le_bytes() != crc {
        return Err(FrameError::BadHeaderCrc);
    }
    let mut h = Header {
        kind: MsgType::from_u8(kind).ok_or(FrameError::UnknownType(kind))?,
        flags: Flags(r.u16()?),
        request: r.u64()?,
        vol: VolumeId(r.u64()?),
        gen: Gen(r.u32()?),
        pg_epoch: Epoch(r.u32()?),
        pg: PgId::from_wire(r.u32()?),
        drive: DriveId(r.u32()?),
        layer: LayerId(r.u64()?),
        map_rev: Rev(r.u64()?),
        block: r.u64()?,
        count: r.u32()?,
        ..Header::default()
    };
    let payload = r.u32()? as usize;
    h.seq = r.u64()?;
    let stable_seq = r.u64()?;
    h.stable = Version { gen: Gen(r.u32()?), seq: stable_seq };
    h.origin_gen = Gen(r.u32()?);
    let csums = usize::from(r.u16()?);
    let status = r.u16()?;
    h.status = Status::from_u16(status).ok_or(FrameError::UnknownStatus(status))?;
    h.credits = r.u32()?;
    let meta_crc = r.u64()?;
    h.trace = r.u64()?;
    let lengths = bounded_lengths(csums, payload, meta_crc)?;
    Ok((h, lengths))
}

fn bounded_lengths(csums: usize, payload: usize, meta_crc: u64) -> Result<Lengths, FrameError> {
    if csums > FRAME_BLOCKS_MAX as usize {
        return Err(FrameError::BadLength);
    }
    let meta = payload.checked_sub(csums * BLOCK_SIZE).ok_or(FrameError::BadLength)?;
    if meta > FRAME_META_MAX {
        return Err(FrameError::BadLength);
    }
    Ok(Lengths { csums, meta, meta_crc })
}

/// Splits checksum table and metadata after checking their CRC.
pub fn decode_table(lengths: &Lengths, bytes: &[u8]) -> Result<(Vec<u64>, Vec<u8>), FrameError> {
    if bytes.len() != lengths.table_and_meta() {
        return Err(FrameError::BadLength);
    }
    if crc64(bytes) != lengths.meta_crc {
        return Err(FrameError::BadMetaCrc);
    }
    let (table, meta) = bytes.split_at(lengths.csums * 8);
    let csums = table.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default())).collect();
    Ok((csums, meta.to_vec()))
}
