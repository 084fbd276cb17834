//! What goes into the core of one drive and what comes out.

use std::sync::Arc;

use drystone_store::api::{BlockKind, DevOp, DevResult};
use drystone_types::consts::Micros;
use drystone_types::trust::Key;
use drystone_types::{
    ClusterMap, DriveId, Epoch, Frame, Gen, LayerId, ObjKey, PgId, PoolId, Rev, Rules, Uuid, Version, VolumeId,
};

/// A connection of the shell; never reused for another peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PeerId(pub u64);

/// What a peer proved to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerRole {
    /// A consumer's block daemon or a gateway: only volumes of its own tickets.
    Client,
    /// A server: resync, relayed requests, service sequencers.
    Server,
    /// A manager.
    Manager,
}

/// An authenticated peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Role.
    pub role: PeerRole,
    /// Its uuid; for a client the one its tickets name.
    pub uuid: Uuid,
}

/// Derives the ticket key of a key epoch; `None` for an epoch that is not valid (any more).
pub type TicketKeys = Arc<dyn Fn(u32) -> Option<Key> + Send + Sync>;

/// What does not change while a drive is open.
#[derive(Clone)]
pub struct Config {
    /// This drive.
    pub drive: DriveId,
    /// Nonce of this open.
    pub open_nonce: u64,
    /// Cluster the drive belongs to.
    pub cluster: Uuid,
    /// Lowest store incarnation that is believed (persisted in the superblock).
    pub incarnation: u32,
    /// Feature level told in SESSION.
    pub feature_level: u32,
    /// Keys of tickets.
    pub ticket_keys: TicketKeys,
    /// The log prefix could not be proven: refuse everything and ask to be dropped.
    pub suspect: bool,
    /// Ask one peer per PG for its last stable versions before serving.
    pub peer_check: bool,
    /// Rules in force.
    pub rules: Rules,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A peer authenticated; precedes its first frame.
    PeerUp {
        /// Connection.
        peer: PeerId,
        /// Who.
        info: PeerInfo,
    },
    /// A connection ended.
    PeerGone(PeerId),
    /// A request of a peer.
    Frame {
        /// Connection.
        peer: PeerId,
        /// Request.
        frame: Frame,
    },
    /// An answer to a request of ours (`Action::SendDrive`).
    DriveReply {
        /// Who answered.
        drive: DriveId,
        /// Answer.
        frame: Frame,
    },
    /// A drive cannot be reached: everything asked of it is unanswered.
    DriveDown {
        /// Which.
        drive: DriveId,
    },
    /// A device operation ended.
    Dev {
        /// Its id.
        id: u64,
        /// Its result.
        result: DevResult,
    },
    /// A map.
    Map(Arc<ClusterMap>),
    /// Answer to `Action::NeedGenerations`.
    Generations {
        /// Pool.
        pool: PoolId,
        /// Store revision of the quorum read.
        revision: Rev,
        /// Volumes whose generation changed since, with the owner's attachment nonce (0 = none).
        list: Vec<(VolumeId, Gen, u64)>,
    },
    /// The read lease as this thread's slot shows it.
    Lease {
        /// Reads may be answered before this time; 0 = none.
        valid_until: Micros,
    },
    /// A request of the manager or the process.
    Control {
        /// Echoed in `Action::ControlDone`.
        id: u64,
        /// What.
        req: Control,
    },
    /// Time passed.
    Tick,
}

/// Requests that do not come as frames.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// Fence a volume.
    Fence {
        /// Volume.
        vol: VolumeId,
        /// New generation.
        gen: Gen,
        /// Attachment that is fenced.
        nonce: u64,
    },
    /// Answer no reads of the PG until an epoch later than this one.
    Quiesce {
        /// PG.
        pg: PgId,
        /// Epoch.
        epoch: Epoch,
    },
    /// An order: free a deleted layer.
    FreeLayer {
        /// Layer.
        layer: LayerId,
    },
    /// Read everything and compare it with its checksums.
    Scrub,
    /// Compare what the other in-sync drives hold of a PG with what is here.
    Compare {
        /// PG.
        pg: PgId,
    },
    /// Fetch one block from a peer at equal version.
    Repair {
        /// Lineage.
        vol: VolumeId,
        /// Object.
        key: ObjKey,
        /// Block of the chunk.
        block: u16,
    },
    /// Log a small record that means nothing, to see how long that takes.
    Exercise,
    /// Write clean stable values and wait until all is durable.
    Shutdown,
}

/// What became of a control request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlResult {
    /// Done, durable where it asks for it.
    Done,
    /// FENCE: this generation is sealed, durably (it may be higher than asked).
    Fenced(Gen),
    /// COMPARE: every chunk was compared, in one epoch.
    Compared(Compared),
    /// Not done; the text says why and what to do.
    Failed(&'static str),
}

/// What a comparison of copies found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Compared {
    /// Chunks compared with every other in-sync drive.
    pub chunks: u64,
    /// Blocks of them that were stable.
    pub blocks: u64,
    /// Blocks that were not: a write may be on its way.
    pub unstable: u64,
    /// Blocks that cannot be read here: they are being healed.
    pub bad_here: u64,
    /// Blocks that another drive cannot read: it heals them.
    pub bad_there: u64,
    /// Blocks of which two drives hold different stable content.
    pub divergent: u64,
}

impl Compared {
    pub(crate) fn add(&mut self, more: Compared) {
        self.chunks += more.chunks;
        self.blocks += more.blocks;
        self.unstable += more.unstable;
        self.bad_here += more.bad_here;
        self.bad_there += more.bad_there;
        self.divergent += more.divergent;
    }
}

/// Why a drive asks to be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaveWhy {
    /// The log prefix is not provable.
    Suspect,
    /// A stable version that a peer holds is missing here (peer check at open).
    PeerCheck,
    /// A joiner has no space for the copy.
    NoSpace,
    /// The device failed.
    DriveFailed,
    /// A joiner holds an older version of a block than the in-sync copies, which cannot read theirs: only a new join
    /// makes it void.
    Behind,
    /// What it held was freed after a move: a map that counts on it is an old one.
    Freed,
}

/// Why a copy does not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StuckWhy {
    /// More blocks do not match their checksums at any in-sync drive than a copy gives up by itself.
    Lost,
    /// No in-sync drive's device can read them, or answers; they are asked for again and again.
    Unreadable,
}

/// News for the process, metrics and the manager.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// Changes of live slots per layer and PG since the last report.
    Usage(Vec<(LayerId, PgId, i64)>),
    /// A bad block was healed from a peer.
    Healed {
        /// Lineage.
        vol: VolumeId,
        /// Object.
        key: ObjKey,
        /// Block.
        block: u16,
    },
    /// A bad block that no in-sync peer could give.
    Unrepaired {
        /// Lineage.
        vol: VolumeId,
        /// Object.
        key: ObjKey,
        /// Block.
        block: u16,
    },
    /// A scrub of the whole drive ended, and every bad block of it was healed or tried.
    ScrubDone {
        /// Blocks read.
        blocks: u64,
        /// Bad ones.
        bad: u64,
        /// Of these, healed, or written anew meanwhile.
        healed: u64,
    },
    /// A scrub goes on.
    ScrubProgress {
        /// Blocks read so far.
        blocks: u64,
        /// Blocks that the drive holds now.
        of: u64,
    },
    /// Two in-sync drives hold different stable content of a block (I6): nothing says which is right.
    Divergent {
        /// PG.
        pg: PgId,
        /// Lineage.
        vol: VolumeId,
        /// Object.
        key: ObjKey,
        /// Block.
        block: u16,
        /// The other drive.
        drive: DriveId,
        /// What is here; `None` = nothing.
        ours: Option<(BlockKind, Version)>,
        /// What is there.
        theirs: Option<(BlockKind, Version)>,
    },
    /// Resync of a PG moved on.
    Resync {
        /// PG.
        pg: PgId,
        /// Chunks compared so far.
        chunks: u64,
        /// Bytes copied so far.
        bytes: u64,
    },
    /// A copy of a PG to this drive does not go on by itself: the operator must act, or a device recover.
    CopyStuck {
        /// PG.
        pg: PgId,
        /// In-sync drives from which it is copied.
        sources: Vec<DriveId>,
        /// Blocks whose bytes none of them can give.
        blocks: u64,
        /// Why.
        why: StuckWhy,
    },
    /// That copy goes on: it was promoted, dropped, or the blocks can be read again.
    CopyFreed {
        /// PG.
        pg: PgId,
    },
    /// Objects of a PG that left this drive are freed.
    Freeing {
        /// PG.
        pg: PgId,
    },
    /// Nothing is left here of a PG that moved away.
    Freed {
        /// PG.
        pg: PgId,
    },
    /// The device failed.
    DriveFailed(&'static str),
    /// A map was refused: another cluster, or an older incarnation of the store.
    MapRefused(&'static str),
}

/// What the shell must do.
#[derive(Debug)]
pub enum Action {
    /// Answer a peer.
    Send {
        /// Connection.
        peer: PeerId,
        /// Answer.
        frame: Frame,
    },
    /// Ask another drive; its answer comes as `Event::DriveReply` with the same request id.
    SendDrive {
        /// Drive.
        drive: DriveId,
        /// Request.
        frame: Frame,
    },
    /// A device operation.
    Dev(DevOp),
    /// Fetch the map (quorum read); this revision has been seen by others.
    NeedMap {
        /// Revision.
        at_least: Rev,
    },
    /// Fetch the generations changed since a revision (quorum read made after this action).
    NeedGenerations {
        /// Pool.
        pool: PoolId,
        /// Revision of the last list that was applied here; 0 = all.
        since: Rev,
    },
    /// This joiner holds everything, durably: ask the manager to promote it in this epoch.
    CopyComplete {
        /// PG.
        pg: PgId,
        /// Epoch in which the copy completed.
        epoch: Epoch,
    },
    /// Ask the manager to drop this drive from the PG.
    LeavePg {
        /// PG.
        pg: PgId,
        /// Why.
        why: LeaveWhy,
    },
    /// This in-sync drive promised long ago to answer no reads of a PG, and no drop came of it: ask the manager for a
    /// new epoch with the same members.
    StillQuiet {
        /// PG.
        pg: PgId,
        /// The promise covers the epochs up to this one.
        epoch: Epoch,
    },
    /// A control request ended.
    ControlDone {
        /// Its id.
        id: u64,
        /// Its result.
        result: ControlResult,
    },
    /// News.
    Report(Report),
    /// An invariant of engine §4.6 does not hold: stop the drive.
    Invariant(&'static str),
}
