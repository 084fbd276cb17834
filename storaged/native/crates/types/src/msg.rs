//! Logical frames between sequencers and servers (§4.2, §10). The byte layout is the `frame`
//! crate's; `docs/wire-protocol.md` gives the meaning of every field for every message.

use crate::buf::Buf;
use crate::ids::{DriveId, Epoch, Gen, LayerId, PgId, Rev, Version, VolumeId};

/// Message type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum MsgType {
    /// Liveness of a connection; answered OK by whoever receives it.
    #[default]
    Ping = 1,
    /// Session parameters after authentication: feature level, node, drives with nonces, incarnation, grants.
    Session = 2,
    /// Data blocks.
    Write = 16,
    /// Versioned hole; ragged edges never arrive here.
    Trim = 17,
    /// Versioned hole that reads as zeros also over a parent.
    Zero = 18,
    /// Read through the own chain; with ROLL an exact (layer, block, version).
    Read = 19,
    /// Fence and list what is above stable.
    Seal = 20,
    /// Fence without roll-forward.
    Fence = 21,
    /// Recovery of a generation is complete.
    Recovered = 22,
    /// Stable watermark alone; also poll and restatement of credits.
    Stable = 23,
    /// New ticket.
    Layer = 24,
    /// Freeze a layer at a cut.
    Freeze = 25,
    /// Stop answering reads of a PG until a later epoch.
    Quiesce = 26,
    /// Joiner asks an in-sync source what changed.
    Digest = 27,
    /// Joiner asks an in-sync source for blocks.
    Copy = 28,
    /// Presence bitmap of a chunk of a layer.
    ChunkMap = 29,
    /// (version, checksum) list for the cross-replica scrub.
    Scrub = 30,
    /// Last stable versions, asked of a peer at every open (§6).
    PeerCheck = 31,
}

impl MsgType {
    /// From the wire.
    pub fn from_u8(raw: u8) -> Option<MsgType> {
        use MsgType::*;
        [
            Ping, Session, Write, Trim, Zero, Read, Seal, Fence, Recovered, Stable, Layer, Freeze, Quiesce, Digest,
            Copy, ChunkMap, Scrub, PeerCheck,
        ]
        .into_iter()
        .find(|t| *t as u8 == raw)
    }
}

/// Frame flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// An answer.
    pub const RESP: Flags = Flags(1);
    /// Forward to the target drive unchanged.
    pub const RELAY: Flags = Flags(2);
    /// Roll-forward with the original version.
    pub const ROLL: Flags = Flags(4);
    /// Resync.
    pub const COPY: Flags = Flags(8);
    /// Last part of an answer in parts.
    pub const LAST: Flags = Flags(16);
    /// Overwrites mapped blocks only: served from the GC reserve, uses no credit.
    pub const OVERWRITE: Flags = Flags(32);
    /// The block is lost: EIO until overwritten.
    pub const BAD: Flags = Flags(64);
    /// With ROLL: a version that no holder could read now; nothing is declared, a joiner's copy must bring it.
    pub const UNREAD: Flags = Flags(128);
    /// In an answer to DIGEST, COPY or SCRUB: clients work with the drive that answers.
    pub const CLIENTS: Flags = Flags(256);

    /// Whether every bit of `other` is set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
    /// Both.
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// Status of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Status {
    /// Done, durable where the message asks for it.
    #[default]
    Ok = 0,
    /// Another generation is sealed: header `generation` carries it.
    NackGen = 1,
    /// Another epoch or not a member: meta carries this PG's record, header `map_rev` its revision.
    NackEpoch = 2,
    /// The ticket, the layer or the size is not known here.
    NeedTicket = 3,
    /// Not now; try again (park limit, checksum of a torn receive, generations not applied yet).
    Retry = 4,
    /// No space for new blocks.
    Full = 5,
    /// The drive cannot do it, or the block is BAD.
    Eio = 6,
    /// The request contradicts the protocol; never retried.
    Invalid = 7,
    /// Not allowed with this ticket, role or lease.
    Denied = 8,
    /// A read met a checksum mismatch here; another copy is asked.
    BadChecksum = 9,
}

impl Status {
    /// From the wire.
    pub fn from_u16(raw: u16) -> Option<Status> {
        use Status::*;
        [Ok, NackGen, NackEpoch, NeedTicket, Retry, Full, Eio, Invalid, Denied, BadChecksum]
            .into_iter()
            .find(|s| *s as u16 == raw)
    }
}

/// Every field of the 128-byte header except magic, version and the lengths and checksums that
/// encoding derives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// Type.
    pub kind: MsgType,
    /// Flags.
    pub flags: Flags,
    /// Chosen by the asker, unique among its open requests on a connection; echoed in the answer.
    pub request: u64,
    /// Attached volume.
    pub vol: VolumeId,
    /// Generation of the sender (in NACK_GEN: the sealed one).
    pub gen: Gen,
    /// PG epoch of the sender; in answers the replica's adopted epoch.
    pub pg_epoch: Epoch,
    /// PG.
    pub pg: PgId,
    /// Target drive; in answers the answering drive.
    pub drive: DriveId,
    /// Layer.
    pub layer: LayerId,
    /// Map revision known to the sender.
    pub map_rev: Rev,
    /// First block, counted from the start of the volume.
    pub block: u64,
    /// Blocks.
    pub count: u32,
    /// Sequence number.
    pub seq: u64,
    /// Stable watermark (generation and sequence).
    pub stable: Version,
    /// Generation that made the version (ROLL, COPY); else equal to `gen`.
    pub origin_gen: Gen,
    /// Status (answers).
    pub status: Status,
    /// Answers: cumulative slots granted to (drive nonce, volume, generation), wrapping.
    /// Requests: deadline in milliseconds, 0 = none.
    pub credits: u32,
    /// Trace id.
    pub trace: u64,
}

impl Header {
    /// Version of the blocks this frame carries.
    pub fn version(&self) -> Version {
        Version { gen: self.origin_gen, seq: self.seq }
    }
    /// Whether it is an answer.
    pub fn is_resp(&self) -> bool {
        self.flags.has(Flags::RESP)
    }
    /// Header of an answer to this request.
    pub fn reply(&self, status: Status) -> Header {
        Header { flags: self.flags.with(Flags::RESP), status, credits: 0, ..*self }
    }
}

/// One frame: header, one checksum per 4 KiB of `data`, inline metadata, data.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frame {
    /// Header.
    pub hdr: Header,
    /// One CRC-64 per block of `data`.
    pub csums: Vec<u64>,
    /// Inline metadata, by message type.
    pub meta: Vec<u8>,
    /// Blocks; `data.len() == csums.len() * 4096`.
    pub data: Buf,
}

impl Frame {
    /// A frame with a header only.
    pub fn bare(hdr: Header) -> Frame {
        Frame { hdr, ..Frame::default() }
    }
    /// A frame with metadata.
    pub fn with_meta(hdr: Header, meta: Vec<u8>) -> Frame {
        Frame { hdr, meta, ..Frame::default() }
    }
}
