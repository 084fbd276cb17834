//! A group: one header slot and its data slots, the unit that is valid or not after a crash.

use crate::entry::Entry;
use crate::loc::SLOT;
use drystone_csum::{block_csum, crc64};
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{CodecError, Reader};

const MAGIC: u64 = 0x3150_5552_4759_5244; // "DRYGRUP1"
const FIXED: usize = 128;
/// Bytes of a header that entries and their checksums may use.
pub const BODY_MAX: usize = SLOT - FIXED;

/// A group header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupHeader {
    /// Nonce of the open that wrote it.
    pub nonce: u64,
    /// Sequence number of its segment.
    pub seg_seq: u64,
    /// Slot it was written to.
    pub slot: u64,
    /// Number of the group within its stream.
    pub gseq: u64,
    /// Per stream: every group below this number was durable when this one was composed.
    pub durable: [u64; 3],
    /// CRC of the header before it in the stream, 0 for the first one of an open.
    pub prev_crc: u64,
    /// Stream.
    pub stream: u8,
    /// Entries.
    pub entries: Vec<Entry>,
    /// Checksums of data blocks, in the order of the entries.
    pub csums: Vec<u64>,
}

/// What a reader demands of a header before it believes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expect {
    /// Segment sequence number.
    pub seg_seq: u64,
    /// Slot.
    pub slot: u64,
}

impl GroupHeader {
    /// Encodes the header slot into `out` (4096 bytes) and returns its CRC. `entries` and `csums`
    /// must fit; the composer counted them.
    pub fn encode(&self, entry_bytes: &[u8], out: &mut [u8]) -> u64 {
        let mut head = Vec::with_capacity(SLOT);
        head.extend_from_slice(&[0; 8]);
        let words = [MAGIC, self.nonce, self.seg_seq, self.slot, self.gseq];
        words
            .iter()
            .chain(&self.durable)
            .chain([&self.prev_crc])
            .for_each(|w| head.extend_from_slice(&w.to_le_bytes()));
        let small = [self.entries.len(), entry_bytes.len(), self.csums.len(), usize::from(self.stream)];
        small.iter().for_each(|n| head.extend_from_slice(&u16::try_from(*n).unwrap_or(u16::MAX).to_le_bytes()));
        head.resize(FIXED, 0);
        head.extend_from_slice(entry_bytes);
        self.csums.iter().for_each(|c| head.extend_from_slice(&c.to_le_bytes()));
        head.resize(SLOT, 0);
        let crc = crc64(head.get(8..).unwrap_or(&[]));
        if let Some(field) = head.get_mut(..8) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        out.copy_from_slice(&head);
        crc
    }
    /// Decodes a header slot; returns it with its CRC.
    pub fn decode(bytes: &[u8], expect: Expect) -> Result<(GroupHeader, u64), CodecError> {
        let bytes = bytes.get(..SLOT).ok_or(CodecError::Truncated)?;
        let mut r = Reader::new(bytes);
        let crc = r.u64()?;
        if r.u64()? != MAGIC || crc64(bytes.get(8..).unwrap_or(&[])) != crc {
            return Err(CodecError::Invalid);
        }
        let (nonce, seg_seq, slot, gseq) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        if seg_seq != expect.seg_seq || slot != expect.slot {
            return Err(CodecError::Invalid);
        }
        let (durable, prev_crc) = ([r.u64()?, r.u64()?, r.u64()?], r.u64()?);
        let (n, entry_len, csum_n, stream) = (r.u16()?, r.u16()?, r.u16()?, r.u16()?);
        let stream = u8::try_from(stream).ok().filter(|s| *s < 3).ok_or(CodecError::Invalid)?;
        let mut body = Reader::new(bytes.get(FIXED..).unwrap_or(&[]));
        let entries = decode_entries(body.bytes(usize::from(entry_len))?, n)?;
        let want: usize = entries.iter().map(Entry::csums).sum();
        if want != usize::from(csum_n) {
            return Err(CodecError::Invalid);
        }
        let csums = (0..csum_n).map(|_| body.u64()).collect::<Result<Vec<_>, _>>()?;
        Ok((GroupHeader { nonce, seg_seq, slot, gseq, durable, prev_crc, stream, entries, csums }, crc))
    }
    /// Data slots after the header.
    pub fn data_slots(&self) -> u64 {
        self.entries.iter().map(Entry::data_slots).sum()
    }
    /// Entries with the slot of their first data block (the header's slot if they have none) and
    /// their checksums.
    pub fn walk(&self) -> impl Iterator<Item = (&Entry, u64, &[u64])> {
        let mut slot = self.slot + 1;
        let mut rest = self.csums.as_slice();
        self.entries.iter().map(move |e| {
            let (mine, others) = rest.split_at(e.csums().min(rest.len()));
            rest = others;
            let at = if e.data_slots() > 0 { slot } else { self.slot };
            slot += e.data_slots();
            (e, at, mine)
        })
    }
    /// Whether every data slot of the group matches; `data` starts after the header.
    pub fn data_is_whole(&self, data: &[u8]) -> bool {
        self.walk().all(|(entry, slot, csums)| {
            let from = (slot - self.slot).saturating_sub(1) as usize * SLOT;
            let bytes = data.get(from..from + entry.data_slots() as usize * SLOT);
            bytes.is_some_and(|b| entry_is_whole(entry, csums, b))
        })
    }
}

fn entry_is_whole(entry: &Entry, csums: &[u64], data: &[u8]) -> bool {
    use crate::entry::MetaValue::Slots;
    match entry {
        Entry::Blocks(b) if b.has_data() && !b.rotten => {
            let base = b.key.chunk.wrapping_mul(u64::from(CHUNK_BLOCKS)).wrapping_add(u64::from(b.first));
            let numbered = (base..).zip(csums).zip(data.chunks_exact(SLOT));
            numbered.into_iter().all(|((number, csum), bytes)| block_csum(b.vol, number, bytes) == *csum)
        }
        Entry::Meta { value: Slots { len, crc }, .. } => data.get(..*len as usize).is_some_and(|v| crc64(v) == *crc),
        _ => true,
    }
}

/// Decodes exactly `n` entries that fill `bytes`.
pub fn decode_entries(bytes: &[u8], n: u16) -> Result<Vec<Entry>, CodecError> {
    let mut r = Reader::new(bytes);
    // 24 bytes is the smallest entry: a count that lies allocates nothing.
    if usize::from(n) * 24 > bytes.len() {
        return Err(CodecError::TooLarge);
    }
    let entries = (0..n).map(|_| Entry::decode(&mut r)).collect::<Result<Vec<_>, _>>()?;
    r.finish()?;
    Ok(entries)
}
