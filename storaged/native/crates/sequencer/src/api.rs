//! What a shell (block daemon, service task, simulator) says to the sequencer and hears from it.

use std::sync::Arc;

use drystone_types::consts::Micros;
use drystone_types::{Buf, ClusterMap, DriveId, Frame, Gen, LayerId, PgId, Rev, Rules, TicketError, Version};
use smallvec::SmallVec;

/// Settings of one attachment.
#[derive(Clone, Debug)]
pub struct Config {
    /// Rules in force (mutation testing).
    pub rules: Rules,
    /// Drives by nearness for reads, nearest first; drives not named are all equally far.
    pub near: Vec<DriveId>,
    /// Whether A2–A5 run. Off only for a further read-only attachment that shares its generation;
    /// attachments of snapshots never run them.
    pub recover: bool,
    /// How long a detach or a yield may drain before it is answered "not clean" (L8: an attach
    /// elsewhere must not wait for ever for an owner that cannot drain).
    pub drain_max: Micros,
    /// Seed of the jitter of back-offs.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { rules: Rules::ALL, near: Vec::new(), recover: true, drain_max: 10_000_000, seed: 1 }
    }
}

/// One request of the consumer, in bytes; offset and length are multiples of 512.
#[derive(Clone, Debug)]
pub enum Io {
    /// Read.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Write; the buffer must not change from here on.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes to write.
        data: Buf,
    },
    /// Everything answered is durable: answered at once.
    Flush,
    /// Discard; ragged edges are ignored.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Zeros; ragged edges are read-modify-write.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Which ranges hold data. The answer may end before the range does.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// A run of the volume that holds data or reads as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// Whether something is stored there.
    pub data: bool,
}

/// Buffers in order; together exactly the bytes asked for.
pub type Pieces = SmallVec<[Buf; 1]>;

/// A successful answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IoOk {
    /// Nothing to hand over.
    Done,
    /// What was read.
    Data(Pieces),
    /// Answer to `BlockStatus`, from the first byte asked on.
    Extents(Vec<Extent>),
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoError {
    /// No copy can be read, or the volume can no longer be written: EIO.
    Eio,
    /// A full pool: ENOSPC. Nothing was written by the part that met it.
    NoSpace,
    /// Offset or length out of bounds, not a multiple of 512, or over 64 MiB: EINVAL.
    Invalid,
    /// The attachment may not write: EPERM.
    ReadOnly,
    /// More requests open than the sequencer holds: the front end bounds its queue.
    Busy,
    /// Fenced with the request issued: EIO, never to be issued again (B15).
    Fenced,
    /// Fenced or detached before anything of it was issued, or a read: may be given to a new
    /// sequencer of the same attachment; where there is none, it is EIO.
    Unissued,
}

/// Answer to a request.
pub type IoResult = Result<IoOk, IoError>;

/// Why the manager refused to activate (A5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActivateError {
    /// The volume's generation is no longer ours.
    Superseded,
    /// No manager answered or the transaction lost a race: asked again.
    Retry,
}

/// Input.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request of the consumer; `tag` is unique among those not yet `Answered`.
    Io {
        /// Chosen by the front end.
        tag: u64,
        /// The request.
        io: Io,
    },
    /// The answer to `tag` is in the consumer's socket (or the consumer is gone): W1's lock ends.
    Answered {
        /// Tag of a completed request.
        tag: u64,
    },
    /// A frame arrived from `drive`'s connection (a relayed answer names its drive in the header).
    Frame {
        /// Whose connection.
        drive: DriveId,
        /// The answer.
        frame: Frame,
    },
    /// A connection to the drive is authenticated and its session opened.
    DriveUp {
        /// Drive.
        drive: DriveId,
        /// Open nonce in its SESSION answer.
        nonce: u64,
    },
    /// The connection is gone, or could not be made.
    DriveDown {
        /// Drive.
        drive: DriveId,
        /// Refused or reset by a live kernel: the process is dead, reported at once.
        refused: bool,
    },
    /// A newer map.
    Map(Arc<ClusterMap>),
    /// Answer to `WantActivate`.
    Activated(Result<(), ActivateError>),
    /// A newer ticket: resize, or a new head (snapshot).
    Ticket(Vec<u8>),
    /// Drain, make `stable` known, then `Detached`.
    Detach {
        /// Echoed.
        tag: u64,
    },
    /// The manager asks the owner to give the volume up (§4.10): drain, then `Yielded`.
    Yield,
    /// The manager says that this attachment was fenced.
    FencedByManager,
    /// Time passed.
    Tick,
}

/// States of §4.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub enum State {
    /// Not attached (before the first step, and after a detach).
    Detached,
    /// Ticket at hand, no usable map yet.
    Attaching,
    /// A2, A3.
    Sealing,
    /// A4.
    Rolling,
    /// A5 asked for.
    Activating,
    /// Reads and writes.
    Active,
    /// A write waits because its PG is below `min_insync`; everything else goes on.
    Stalled,
    /// Everything answers EIO.
    Fenced,
}

/// Why the sequencer ended in `Fenced`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FenceReason {
    /// A member has sealed a higher generation; the attachment may still be in the record.
    NewerGeneration(Gen),
    /// The manager said so, or refused A5.
    Manager,
    /// The last in-sync copy of a PG failed an issued write: the generation ends.
    LastCopyFailed(PgId),
}

/// What is reported of a drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportKind {
    /// No answer, or only RETRY, for 250 ms or more; repeated each second.
    Stall,
    /// Connection refused or reset by a live kernel.
    Refused,
    /// EIO or an impossible refusal of an issued write or of the fetch of a roll.
    DriveError,
    /// FULL for a write that was issued against a credit.
    Full,
    /// A block did not match its checksum, or could not be read; another copy was asked.
    BadBlock {
        /// PG.
        pg: PgId,
        /// Layer asked first.
        layer: LayerId,
        /// First block of the request.
        block: u64,
    },
}

/// Output.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Send a frame to `drive`, through `via`'s connection when given (RELAY is set then).
    Send {
        /// Target.
        drive: DriveId,
        /// Connection to use instead of the target's own.
        via: Option<DriveId>,
        /// Request.
        frame: Frame,
    },
    /// Answer to a request; `Event::Answered` must follow.
    Complete {
        /// Tag.
        tag: u64,
        /// Result.
        result: IoResult,
    },
    /// For the manager.
    Report {
        /// Drive.
        drive: DriveId,
        /// What.
        kind: ReportKind,
    },
    /// `ReadMap` until a map of at least this revision is there; one such call in flight.
    NeedMap {
        /// Revision.
        at_least: Rev,
    },
    /// A5: `If generation == gen Then state = active`; answered by `Activated`.
    WantActivate {
        /// Generation.
        gen: Gen,
    },
    /// State changed.
    State(State),
    /// The new state is `Fenced`, and why.
    Fenced(FenceReason),
    /// Every member drive has a ticket of this serial; a new size is effective.
    TicketInForce {
        /// Serial.
        serial: u32,
    },
    /// A new head is in use; `cut` is the last version of the old one (S3).
    Cut {
        /// Old head.
        layer: LayerId,
        /// Cut.
        cut: Version,
    },
    /// Every member drive has frozen the old head at its cut (S4 may commit).
    Frozen {
        /// Old head.
        layer: LayerId,
        /// Cut.
        cut: Version,
    },
    /// Answer to `Detach`.
    Detached {
        /// Tag.
        tag: u64,
        /// Nothing outstanding and `stable` acknowledged by every drive concerned.
        clean: bool,
    },
    /// Answer to `Yield`: drained, or BUSY.
    Yielded {
        /// Whether nothing is outstanding any more.
        drained: bool,
    },
    /// A broken invariant of §4.6: a bug; the shell logs it and the simulator fails.
    Invariant(&'static str),
}

/// Why a sequencer could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewError {
    /// The bytes are not a ticket.
    Ticket(TicketError),
    /// The ticket names no layer.
    NoLayer,
}

impl core::fmt::Display for NewError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            NewError::Ticket(e) => write!(f, "the attach ticket cannot be read ({e:?}): attach again"),
            NewError::NoLayer => f.write_str("the attach ticket names no layer: attach again"),
        }
    }
}

impl std::error::Error for NewError {}
