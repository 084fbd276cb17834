//! Attach tickets (§4.2): what a server checks layer, bounds and mode of every request against.
//!
//! Binary form: format 1, key epoch u32, body, HMAC-SHA-256 (32 bytes) over everything before it.

use crate::codec::{CodecError, Reader, Writer};
use crate::consts::{CHAIN_MAX, VOLUME_SIZE_MAX};
use crate::ids::{Gen, LayerId, PoolId, Uuid, Version, VolumeId};
use crate::trust::{equal, hmac_sha256, Key};

/// What the attachment may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttachMode {
    /// Owner: reads and writes.
    #[default]
    ReadWrite,
    /// Reads only; shares its generation with other read-only attachments.
    ReadOnly,
    /// A snapshot: reads of frozen layers, R2 does not apply.
    Snapshot,
    /// Internal client of a manager's task.
    Service,
}

/// A parent lineage, read where the own lineage has nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ParentRef {
    /// The parent volume's id, which seeds its checksums.
    pub lineage: VolumeId,
    /// Frozen layer of the parent.
    pub layer: LayerId,
    /// Highest version of that layer that belongs to the snapshot.
    pub cut: Version,
    /// Bytes of the parent that are visible.
    pub size: u64,
    /// Placement seed of the parent's lineage.
    pub seed: u64,
    /// Pool of the parent.
    pub pool: PoolId,
}

/// The ticket. `vol` is also the lineage of the own chain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ticket {
    /// Rises with every new ticket of the generation; a lower one never replaces a higher.
    pub serial: u32,
    /// Attached volume.
    pub vol: VolumeId,
    /// Its generation as A1's transaction wrote it.
    pub gen: Gen,
    /// Attachment nonce (owner).
    pub nonce: u64,
    /// Client.
    pub client: Uuid,
    /// Mode.
    pub mode: AttachMode,
    /// Pool of the own lineage.
    pub pool: PoolId,
    /// Placement seed of the own lineage.
    pub seed: u64,
    /// Size in bytes.
    pub size: u64,
    /// Own chain, head first; each with its cut (`Version::ZERO` = not frozen).
    pub chain: Vec<(LayerId, Version)>,
    /// Parent chain, nearest first.
    pub parents: Vec<ParentRef>,
}

/// Why a ticket was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TicketError {
    /// Bytes are not a ticket.
    Codec(CodecError),
    /// The MAC does not match any valid key.
    BadMac,
}

impl From<CodecError> for TicketError {
    fn from(e: CodecError) -> Self {
        TicketError::Codec(e)
    }
}

impl Ticket {
    /// The layer writes go to.
    pub fn head(&self) -> Option<LayerId> {
        self.chain.first().map(|(layer, _)| *layer)
    }
    /// Whether `layer` is in the own chain.
    pub fn has_layer(&self, layer: LayerId) -> bool {
        self.chain.iter().any(|(l, _)| *l == layer)
    }
    /// Blocks of the volume, the last one possibly partial.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(crate::consts::BLOCK_SIZE as u64)
    }
    /// Signed binary form.
    pub fn seal(&self, key: &Key, key_epoch: u32) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(1).u32(key_epoch).u32(self.serial).u64(self.vol.0).u32(self.gen.0).u64(self.nonce);
        w.bytes(&self.client.0).u8(mode_to_u8(self.mode)).u16(self.pool.0).u64(self.seed).u64(self.size);
        w.count(self.chain.len());
        for (layer, cut) in &self.chain {
            w.u64(layer.0).u32(cut.gen.0).u64(cut.seq);
        }
        w.count(self.parents.len());
        for p in &self.parents {
            w.u64(p.lineage.0).u64(p.layer.0).u32(p.cut.gen.0).u64(p.cut.seq).u64(p.size).u64(p.seed).u16(p.pool.0);
        }
        let mut out = w.finish();
        let mac = hmac_sha256(key, &[&out]);
        out.extend_from_slice(&mac);
        out
    }
    /// Verifies against the key that `key_of(key epoch)` gives, and decodes.
    pub fn open(bytes: &[u8], key_of: impl Fn(u32) -> Option<Key>) -> Result<Ticket, TicketError> {
        let body_len = bytes.len().checked_sub(32).ok_or(CodecError::Truncated)?;
        let (body, mac) = bytes.split_at_checked(body_len).ok_or(CodecError::Truncated)?;
        let mut r = Reader::new(body);
        if r.u8()? != 1 {
            return Err(CodecError::Invalid.into());
        }
        let key = key_of(r.u32()?).ok_or(TicketError::BadMac)?;
        if !equal(&hmac_sha256(&key, &[body]), mac) {
            return Err(TicketError::BadMac);
        }
        let ticket = decode_body(&mut r)?;
        r.finish()?;
        Ok(ticket)
    }
    /// Decodes **without** verifying: for the sequencer, which trusts its manager's channel.
    pub fn peek(bytes: &[u8]) -> Result<Ticket, TicketError> {
        let body_len = bytes.len().checked_sub(32).ok_or(CodecError::Truncated)?;
        let mut r = Reader::new(bytes.get(..body_len).unwrap_or(&[]));
        if r.u8()? != 1 {
            return Err(CodecError::Invalid.into());
        }
        r.u32()?;
        Ok(decode_body(&mut r)?)
    }
}

fn mode_to_u8(mode: AttachMode) -> u8 {
    match mode {
        AttachMode::ReadWrite => 0,
        AttachMode::ReadOnly => 1,
        AttachMode::Snapshot => 2,
        AttachMode::Service => 3,
    }
}

fn mode_from_u8(raw: u8) -> Result<AttachMode, CodecError> {
    match raw {
        0 => Ok(AttachMode::ReadWrite),
        1 => Ok(AttachMode::ReadOnly),
        2 => Ok(AttachMode::Snapshot),
        3 => Ok(AttachMode::Service),
        _ => Err(CodecError::Invalid),
    }
}

fn decode_body(r: &mut Reader<'_>) -> Result<Ticket, CodecError> {
    let mut t = Ticket {
        serial: r.u32()?,
        vol: VolumeId(r.u64()?),
        gen: Gen(r.u32()?),
        nonce: r.u64()?,
        client: Uuid(r.array()?),
        mode: mode_from_u8(r.u8()?)?,
        pool: PoolId(r.u16()?),
        seed: r.u64()?,
        size: r.u64()?,
        ..Ticket::default()
    };
    if t.size > VOLUME_SIZE_MAX {
        return Err(CodecError::TooLarge);
    }
    for _ in 0..r.count(CHAIN_MAX)? {
        let layer = LayerId(r.u64()?);
        t.chain.push((layer, Version { gen: Gen(r.u32()?), seq: r.u64()? }));
    }
    for _ in 0..r.count(CHAIN_MAX)? {
        t.parents.push(ParentRef {
            lineage: VolumeId(r.u64()?),
            layer: LayerId(r.u64()?),
            cut: Version { gen: Gen(r.u32()?), seq: r.u64()? },
            size: r.u64()?,
            seed: r.u64()?,
            pool: PoolId(r.u16()?),
        });
    }
    Ok(t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_ticket_opens_with_its_key_and_with_no_other() {
        let t = Ticket {
            vol: VolumeId(7),
            gen: Gen(3),
            size: 1 << 30,
            chain: vec![(LayerId(9), Version::ZERO)],
            parents: vec![ParentRef::default()],
            ..Ticket::default()
        };
        let bytes = t.seal(&[1; 32], 5);
        assert_eq!(Ticket::open(&bytes, |e| (e == 5).then_some([1; 32])), Ok(t.clone()));
        assert_eq!(Ticket::open(&bytes, |_| Some([2; 32])), Err(TicketError::BadMac));
        let mut bad = bytes.clone();
        bad[20] ^= 1;
        assert!(Ticket::open(&bad, |_| Some([1; 32])).is_err());
        assert_eq!(Ticket::peek(&bytes), Ok(t));
    }
}
