//! Segment header, and the summary that a full segment ends with.

use crate::entry::Entry;
use crate::group::decode_entries;
use crate::loc::SLOT;
use drystone_csum::crc64;
use drystone_types::{CodecError, Reader, Uuid, Writer};

const HEADER_MAGIC: u64 = 0x3147_4553_5952_4453; // "SDRYSEG1"
const FOOTER_MAGIC: u64 = 0x314d_5553_5952_4453; // "SDRYSUM1"
/// Bytes before the entries of one group in a summary.
pub const GROUP_PREFIX: usize = 24;

/// First slot of a segment in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegHeader {
    /// Drive.
    pub drive: Uuid,
    /// Nonce of the open that wrote it.
    pub nonce: u64,
    /// Sequence number, drive-wide.
    pub seq: u64,
    /// Segment number.
    pub seg: u32,
    /// Stream.
    pub stream: u8,
}

/// Last slot of a closed segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Footer {
    /// Sequence number of the segment.
    pub seq: u64,
    /// Segment number.
    pub seg: u32,
    /// Stream.
    pub stream: u8,
    /// First slot of the body, counted from the segment's start.
    pub body_slot: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// CRC-64 of the body.
    pub body_crc: u64,
    /// Groups in the body.
    pub groups: u32,
    /// Number of the first group.
    pub first_gseq: u64,
    /// Slots in use from the segment's start, the segment header included.
    pub used: u32,
    /// Highest log sequence number in it.
    pub last_lsn: u64,
    /// Per stream: every group below was durable at the close.
    pub durable: [u64; 3],
}

/// One group as a summary tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SummaryGroup {
    /// Header slot, counted from the segment's start.
    pub rel: u32,
    /// Number within the stream.
    pub gseq: u64,
    /// Entries.
    pub entries: Vec<Entry>,
}

fn seal(mut body: Vec<u8>) -> Vec<u8> {
    body.resize(SLOT - 8, 0);
    let mut out = crc64(&body).to_le_bytes().to_vec();
    out.append(&mut body);
    out
}

fn unseal(bytes: &[u8]) -> Result<Reader<'_>, CodecError> {
    let mut r = Reader::new(bytes.get(..SLOT).ok_or(CodecError::Truncated)?);
    let crc = r.u64()?;
    let body = r.bytes(SLOT - 8)?;
    if crc64(body) == crc {
        Ok(Reader::new(body))
    } else {
        Err(CodecError::Invalid)
    }
}

impl SegHeader {
    /// Encodes the slot.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(HEADER_MAGIC).bytes(&self.drive.0).u64(self.nonce).u64(self.seq).u32(self.seg).u8(self.stream);
        seal(w.finish())
    }
    /// Decodes the slot.
    pub fn decode(bytes: &[u8]) -> Result<SegHeader, CodecError> {
        let mut r = unseal(bytes)?;
        if r.u64()? != HEADER_MAGIC {
            return Err(CodecError::Invalid);
        }
        let (drive, nonce, seq, seg, stream) = (Uuid(r.array()?), r.u64()?, r.u64()?, r.u32()?, r.u8()?);
        if stream > 2 {
            return Err(CodecError::Invalid);
        }
        Ok(SegHeader { drive, nonce, seq, seg, stream })
    }
}

impl Footer {
    /// Encodes the slot.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(FOOTER_MAGIC).u64(self.seq).u32(self.seg).u8(self.stream);
        w.u32(self.body_slot).u32(self.body_len).u64(self.body_crc).u32(self.groups).u64(self.first_gseq);
        w.u32(self.used).u64(self.last_lsn);
        self.durable.iter().for_each(|d| {
            w.u64(*d);
        });
        seal(w.finish())
    }
    /// Decodes the slot; it must belong to segment `seg` with sequence number `seq`.
    pub fn decode(bytes: &[u8], seg: u32, seq: u64, seg_slots: u64) -> Result<Footer, CodecError> {
        let mut r = unseal(bytes)?;
        if r.u64()? != FOOTER_MAGIC {
            return Err(CodecError::Invalid);
        }
        let mut f = Footer { seq: r.u64()?, seg: r.u32()?, stream: r.u8()?, ..Footer::default() };
        (f.body_slot, f.body_len, f.body_crc) = (r.u32()?, r.u32()?, r.u64()?);
        (f.groups, f.first_gseq, f.used, f.last_lsn) = (r.u32()?, r.u64()?, r.u32()?, r.u64()?);
        f.durable = [r.u64()?, r.u64()?, r.u64()?];
        let body_end = u64::from(f.body_slot) + u64::from(f.body_len).div_ceil(SLOT as u64);
        let fits = body_end < seg_slots && u64::from(f.used) <= seg_slots && f.stream < 3;
        if f.seg == seg && f.seq == seq && fits {
            Ok(f)
        } else {
            Err(CodecError::Invalid)
        }
    }
    /// Number of the group after the last one.
    pub fn end_gseq(&self) -> u64 {
        self.first_gseq.saturating_add(u64::from(self.groups))
    }
}

/// Appends a group to the body of a summary.
pub fn push_group(body: &mut Vec<u8>, rel: u32, gseq: u64, n: usize, entry_bytes: &[u8]) {
    body.extend_from_slice(&rel.to_le_bytes());
    body.extend_from_slice(&u32::try_from(entry_bytes.len()).unwrap_or(0).to_le_bytes());
    body.extend_from_slice(&gseq.to_le_bytes());
    body.extend_from_slice(&(n as u64).to_le_bytes());
    body.extend_from_slice(entry_bytes);
}

/// Parses the body of a summary.
pub fn decode_summary(body: &[u8], footer: &Footer) -> Result<Vec<SummaryGroup>, CodecError> {
    if crc64(body) != footer.body_crc || body.len() / GROUP_PREFIX < footer.groups as usize {
        return Err(CodecError::Invalid);
    }
    let mut r = Reader::new(body);
    let mut groups = Vec::with_capacity(footer.groups as usize);
    for _ in 0..footer.groups {
        let (rel, len, gseq) = (r.u32()?, r.u32()?, r.u64()?);
        let n = u16::try_from(r.u64()?).map_err(|_| CodecError::TooLarge)?;
        groups.push(SummaryGroup { rel, gseq, entries: decode_entries(r.bytes(len as usize)?, n)? });
    }
    r.finish()?;
    Ok(groups)
}
