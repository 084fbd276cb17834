//! The superblock: who the drive is, how it is laid out, and where its newest checkpoint lies.

use crate::layout::Layout;
use crate::loc::SLOT;
use drystone_csum::crc64;
use drystone_types::{CodecError, DriveId, Reader, Uuid, Writer};

/// First bytes of every copy.
pub const MAGIC: [u8; 8] = *b"DRYSTONE";
/// Format version written by this code.
pub const FORMAT_VERSION: u32 = 1;
/// Oldest format version this code reads.
pub const FORMAT_OLDEST: u32 = 1;

/// Root of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RootPtr {
    /// Slot of the root chunk; 0 = there is no checkpoint yet.
    pub slot: u64,
    /// Bytes of the root chunk on disk.
    pub bytes: u32,
    /// Number of the checkpoint.
    pub number: u64,
}

/// Contents of a superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Format version.
    pub format: u32,
    /// Feature level of the cluster.
    pub feature_level: u32,
    /// Counts the writes of the superblock.
    pub seq: u64,
    /// The drive.
    pub drive: Uuid,
    /// Its id in the cluster.
    pub drive_id: DriveId,
    /// Its cluster.
    pub cluster: Uuid,
    /// Nonce of the newest open.
    pub nonce: u64,
    /// Highest incarnation of the metadata store seen.
    pub incarnation: u64,
    /// Highest revision of the metadata store seen.
    pub store_rev: u64,
    /// Geometry.
    pub layout: Layout,
    /// The log ended with a clean stop.
    pub clean: bool,
    /// Acked records are known to be lost: the contents may not be trusted until the drive was
    /// dropped and copied again (0 = no, else the code of the reason).
    pub suspect: u8,
    /// Per stream: every group below this number was durable.
    pub durable: [u64; 3],
    /// A log sequence number above all in use.
    pub next_lsn: u64,
    /// A segment sequence number above all in use.
    pub next_seq: u64,
    /// Newest checkpoint.
    pub root: RootPtr,
}

/// Why a superblock copy is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SuperblockError {
    /// All zero.
    Blank,
    /// Another magic.
    Foreign,
    /// Our magic and a wrong checksum or an impossible field.
    Damaged,
    /// A format this code does not know, with its number.
    Newer(u32),
    /// A format this code does not know any more, with its number.
    TooOld(u32),
}

impl Superblock {
    /// Encodes one copy.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(self.format).u32(self.feature_level).u64(self.seq).bytes(&self.drive.0).u32(self.drive_id.0);
        w.bytes(&self.cluster.0).u64(self.nonce).u64(self.incarnation).u64(self.store_rev);
        w.u64(self.layout.slots).u64(self.layout.seg_slots).u32(self.layout.segments);
        w.u8(u8::from(self.clean)).u8(self.suspect);
        self.durable.iter().for_each(|d| {
            w.u64(*d);
        });
        w.u64(self.next_lsn).u64(self.next_seq).u64(self.root.slot).u32(self.root.bytes).u64(self.root.number);
        let mut body = w.finish();
        body.resize(SLOT - 16, 0);
        let mut out = Vec::with_capacity(SLOT);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&crc64(&body).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }
    /// Decodes one copy.
    pub fn decode(bytes: &[u8]) -> Result<Superblock, SuperblockError> {
        let mut r = Reader::new(bytes);
        let magic: [u8; 8] = r.array().map_err(|_| SuperblockError::Damaged)?;
        if bytes.iter().all(|b| *b == 0) {
            return Err(SuperblockError::Blank);
        }
        if magic != MAGIC {
            return Err(SuperblockError::Foreign);
        }
        let crc = r.u64().map_err(|_| SuperblockError::Damaged)?;
        let body = r.bytes(SLOT - 16).map_err(|_| SuperblockError::Damaged)?;
        if crc64(body) != crc {
            return Err(SuperblockError::Damaged);
        }
        match Reader::new(body).u32() {
            Ok(v) if v > FORMAT_VERSION => Err(SuperblockError::Newer(v)),
            Ok(v) if v < FORMAT_OLDEST => Err(SuperblockError::TooOld(v)),
            _ => Self::fields(body).map_err(|_| SuperblockError::Damaged),
        }
    }

    fn fields(body: &[u8]) -> Result<Superblock, CodecError> {
        let mut r = Reader::new(body);
        let (format, feature_level, seq) = (r.u32()?, r.u32()?, r.u64()?);
        let (drive, drive_id, cluster) = (Uuid(r.array()?), DriveId(r.u32()?), Uuid(r.array()?));
        let (nonce, incarnation, store_rev) = (r.u64()?, r.u64()?, r.u64()?);
        let (slots, seg_slots, segments) = (r.u64()?, r.u64()?, r.u32()?);
        let slot = SLOT as u64;
        let bytes = slots.checked_mul(slot).zip(seg_slots.checked_mul(slot));
        let layout = bytes.and_then(|(all, seg)| Layout::new(all, seg)).filter(|l| l.segments == segments);
        let layout = layout.ok_or(CodecError::Invalid)?;
        let (clean, suspect) = (r.u8()? != 0, r.u8()?);
        let durable = [r.u64()?, r.u64()?, r.u64()?];
        let (next_lsn, next_seq) = (r.u64()?, r.u64()?);
        let root = RootPtr { slot: r.u64()?, bytes: r.u32()?, number: r.u64()? };
        Ok(Superblock {
            format,
            feature_level,
            seq,
            drive,
            drive_id,
            cluster,
            nonce,
            incarnation,
            store_rev,
            layout,
            clean,
            suspect,
            durable,
            next_lsn,
            next_seq,
            root,
        })
    }
}

#[cfg(test)]
pub(crate) fn sample() -> Superblock {
    Superblock {
        format: FORMAT_VERSION,
        feature_level: 1,
        seq: 9,
        drive: Uuid([1; 16]),
        drive_id: DriveId(4),
        cluster: Uuid([2; 16]),
        nonce: 77,
        incarnation: 1,
        store_rev: 5,
        layout: Layout::new(64 << 20, 256 << 10).unwrap(),
        clean: true,
        suspect: 0,
        durable: [1, 2, 3],
        next_lsn: 10,
        next_seq: 11,
        root: RootPtr { slot: 20, bytes: 4096, number: 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_superblock_survives_encoding_and_refuses_every_flipped_bit() {
        let bytes = sample().encode();
        assert_eq!(Superblock::decode(&bytes), Ok(sample()));
        for at in (0..SLOT).step_by(7) {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Superblock::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_newer_format_is_named_and_not_called_damage() {
        let newer = Superblock { format: FORMAT_VERSION + 1, ..sample() };
        assert_eq!(Superblock::decode(&newer.encode()), Err(SuperblockError::Newer(FORMAT_VERSION + 1)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..SLOT + 9), seal in any::<bool>()) {
            if seal && bytes.len() >= SLOT {
                bytes[..8].copy_from_slice(&MAGIC);
                let crc = crc64(&bytes[16..SLOT]).to_le_bytes();
                bytes[8..16].copy_from_slice(&crc);
            }
            let _ = Superblock::decode(&bytes);
        }
    }
}
