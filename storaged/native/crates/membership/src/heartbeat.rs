//! The authenticated UDP heartbeat: who speaks, what it knows, and which heartbeats it heard.
//!
//! Little-endian: magic u32, format u8, key epoch u32, sender 16, boot u64, seq u64, sent_at u64,
//! map revision u64, voters version u64, count u16 × {node 16, boot u64, seq u64}, HMAC-SHA-256.
//! The key is the sender's own (`role_key(master, "beacon", sender)`), so no node speaks for another.

use drystone_types::trust::{equal, hmac_sha256, role_key, Key};
use drystone_types::{CodecError, Reader, Rev, Uuid, Writer};

const MAGIC: u32 = 0x4244_5344;
const FORMAT: u8 = 1;
/// Most echoes in one heartbeat: four times the nodes of the largest cluster, and still one
/// datagram below 64 KiB.
pub const ECHOES_MAX: usize = 256;
/// Bytes of the MAC.
const MAC_LEN: usize = 32;

/// The newest heartbeat heard of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Echo {
    /// Peer.
    pub node: Uuid,
    /// Its boot number.
    pub boot: u64,
    /// Its sequence number.
    pub seq: u64,
}

/// One heartbeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// Sender.
    pub node: Uuid,
    /// Random number of the sender's start: an echo of an earlier life proves nothing.
    pub boot: u64,
    /// Rises with every heartbeat of the boot.
    pub seq: u64,
    /// The sender's monotonic microseconds, to notice that the receiver was paused.
    pub sent_at: u64,
    /// Map revision of the sender's server.
    pub map_rev: Rev,
    /// Version of the voters list the sender uses.
    pub voters_version: u64,
    /// What the sender heard.
    pub echoes: Vec<Echo>,
}

/// Why a datagram was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeartbeatError {
    /// Not a heartbeat.
    Codec(CodecError),
    /// The MAC does not match the sender's key.
    BadMac,
}

impl From<CodecError> for HeartbeatError {
    fn from(e: CodecError) -> Self {
        HeartbeatError::Codec(e)
    }
}

impl Heartbeat {
    /// Authenticated binary form.
    pub fn seal(&self, master: &Key, key_epoch: u32) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(MAGIC).u8(FORMAT).u32(key_epoch).bytes(&self.node.0).u64(self.boot).u64(self.seq);
        w.u64(self.sent_at).u64(self.map_rev.0).u64(self.voters_version);
        let echoes = self.echoes.get(..self.echoes.len().min(ECHOES_MAX)).unwrap_or(&[]);
        w.u16(u16::try_from(echoes.len()).unwrap_or(0));
        for e in echoes {
            w.bytes(&e.node.0).u64(e.boot).u64(e.seq);
        }
        let mut out = w.finish();
        let mac = hmac_sha256(&role_key(master, "beacon", &self.node.0, key_epoch), &[&out]);
        out.extend_from_slice(&mac);
        out
    }

    /// Verifies and decodes. `master_of(key epoch)` is `None` for an epoch that is not valid.
    pub fn open(bytes: &[u8], master_of: impl Fn(u32) -> Option<Key>) -> Result<Heartbeat, HeartbeatError> {
        let body_len = bytes.len().checked_sub(MAC_LEN).ok_or(CodecError::Truncated)?;
        let (body, mac) = bytes.split_at_checked(body_len).ok_or(CodecError::Truncated)?;
        let mut r = Reader::new(body);
        if r.u32()? != MAGIC || r.u8()? != FORMAT {
            return Err(CodecError::Invalid.into());
        }
        let key_epoch = r.u32()?;
        let node = Uuid(r.array()?);
        let master = master_of(key_epoch).ok_or(HeartbeatError::BadMac)?;
        if !equal(&hmac_sha256(&role_key(&master, "beacon", &node.0, key_epoch), &[body]), mac) {
            return Err(HeartbeatError::BadMac);
        }
        let mut beat = Heartbeat {
            node,
            boot: r.u64()?,
            seq: r.u64()?,
            sent_at: r.u64()?,
            map_rev: Rev(r.u64()?),
            voters_version: r.u64()?,
            echoes: Vec::new(),
        };
        let count = usize::from(r.u16()?);
        if count > ECHOES_MAX {
            return Err(CodecError::TooLarge.into());
        }
        for _ in 0..count {
            beat.echoes.push(Echo { node: Uuid(r.array()?), boot: r.u64()?, seq: r.u64()? });
        }
        r.finish()?;
        Ok(beat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn beat() -> Heartbeat {
        Heartbeat {
            node: Uuid([1; 16]),
            boot: 2,
            seq: 3,
            sent_at: 4,
            map_rev: Rev(5),
            voters_version: 6,
            echoes: vec![Echo { node: Uuid([7; 16]), boot: 8, seq: 9 }],
        }
    }

    #[test]
    fn a_heartbeat_opens_with_its_key_and_with_no_other() {
        let bytes = beat().seal(&[1; 32], 4);
        assert_eq!(Heartbeat::open(&bytes, |e| (e == 4).then_some([1; 32])), Ok(beat()));
        assert_eq!(Heartbeat::open(&bytes, |_| Some([2; 32])), Err(HeartbeatError::BadMac));
        assert_eq!(Heartbeat::open(&bytes, |_| None), Err(HeartbeatError::BadMac));
    }

    #[test]
    fn a_node_cannot_speak_for_another() {
        let mut bytes = beat().seal(&[1; 32], 4);
        bytes[9] ^= 1;
        assert_eq!(Heartbeat::open(&bytes, |_| Some([1; 32])), Err(HeartbeatError::BadMac));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Heartbeat::open(&bytes, |_| Some([1; 32]));
        }
    }
}
