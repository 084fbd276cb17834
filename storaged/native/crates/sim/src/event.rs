//! Everything that can be scheduled.

use std::sync::Arc;

use drystone_membership::{beacon, Suspect};
use drystone_replica as replica;
use drystone_sequencer as sequencer;
use drystone_types::{ClusterMap, DriveId, Epoch, Frame, Gen, LayerId, PgRecord, Rev, Uuid, Version, VolumeId};

use crate::meta::{Change, Conditions, TxnError};
use crate::world::Time;

/// A process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Proc {
    /// Server process of a node.
    Server(usize),
    /// Its beacon thread.
    Beacon(usize),
    /// A client's block daemon.
    Client(usize),
    /// A manager.
    Manager(usize),
    /// The store and the world itself: never stands still.
    Nobody,
}

/// Which life of a process an event is for; an older one is void.
pub type Life = u32;

/// The asking end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// A client.
    Client(usize),
    /// A drive.
    Drive(usize),
}

/// A call of the metadata store.
#[derive(Clone, Debug)]
pub enum Request {
    /// Quorum read of the map, begun at this time.
    ReadMap(Time),
    /// Generations since a revision, for a drive.
    Generations(usize, Rev),
    /// Open of a drive under a nonce; the device shows the nonce of its last open.
    Open {
        /// Drive.
        drive: usize,
        /// Nonce of this open.
        nonce: u64,
        /// Nonce on the device; 0 = none.
        last: u64,
    },
    /// The nonce is on the device.
    Proven(usize, u64),
    /// A1 of a client.
    Attach,
    /// A1 of a restarted client, with the nonces of its earlier lives.
    ReAdopt(Vec<u64>),
    /// A5 of a client.
    Activate(Gen),
    /// S1 of a client's volume: a new head layer is wanted.
    NewHead(VolumeId, Gen),
    /// S4: the old head is frozen at its cut.
    HeadFrozen(VolumeId, Gen, LayerId, Version),
    /// Leader election.
    Elect,
    /// Shard and suspects.
    ReadShard,
    /// Map transaction; the number names the manager's plan.
    Swap(Rev, Box<Conditions>, Vec<(u32, Change)>),
    /// `/suspect` written.
    Suspect(Rev, Uuid),
    /// `/suspect` deleted.
    Unsuspect(Rev, Suspect),
}

/// Its answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Map and suspects.
    Map {
        /// When the read began.
        read_at: Time,
        /// The map.
        map: Arc<ClusterMap>,
        /// Store revision of the read.
        as_of: Rev,
        /// Suspect keys.
        suspects: Vec<Suspect>,
    },
    /// Generations for a drive.
    Generations(usize, Rev, Vec<(VolumeId, Gen, u64)>),
    /// Whether a drive may serve under its nonce.
    Opened(usize, u64, bool),
    /// Generation of an attachment, and the map read after the bump.
    Attached(Gen, Arc<ClusterMap>, u32, Vec<(LayerId, Version)>),
    /// The volume has another owner by now.
    NotYours,
    /// S1: serial and chain of the ticket to give out.
    NewHead(Gen, u32, Vec<(LayerId, Version)>),
    /// A5.
    Activated(bool),
    /// Leader key.
    Elected(Option<Rev>),
    /// Shard, and suspects as of a revision.
    Shard(Rev, Vec<PgRecord>, (Rev, Vec<Suspect>)),
    /// Map transaction.
    Swapped(Result<usize, TxnError>),
    /// `/suspect` written.
    Suspected(Option<Suspect>),
    /// `/suspect` deleted.
    Unsuspected(Suspect, bool),
}

/// News for the managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A joiner holds everything.
    CopyComplete {
        /// PG.
        pg: u32,
        /// Joiner.
        drive: DriveId,
        /// Epoch.
        epoch: Epoch,
    },
    /// A drive asks to be dropped from a PG; it serves nothing there.
    Leave {
        /// PG.
        pg: u32,
        /// Drive.
        drive: DriveId,
        /// Its open nonce.
        nonce: u64,
    },
    /// A client waits for a drive.
    Stall(DriveId),
    /// A client's connection was refused.
    Refused(DriveId),
    /// A drive fails requests.
    DriveError(DriveId),
    /// A drive answered QUIESCE.
    Quiesced(DriveId),
    /// A drive without a place promised to answer no reads of a PG in an epoch.
    MayRetire {
        /// PG.
        pg: u32,
        /// Drive.
        drive: DriveId,
        /// Epoch.
        epoch: Epoch,
        /// Its open nonce.
        nonce: u64,
    },
    /// A drive in sync promised to answer no reads of a PG until an epoch ends, and no drop came of it.
    StillQuiet {
        /// PG.
        pg: u32,
        /// Drive.
        drive: DriveId,
        /// Epoch.
        epoch: Epoch,
    },
    /// Whether a beacon keeps its server's lease away until the suspicion ends.
    Held(usize, Suspect, bool),
    /// Nodes a beacon does not hear.
    Silent(usize, [bool; 8]),
    /// A beacon's vote.
    Vote(usize, Suspect, bool),
}

/// An event.
#[derive(Debug)]
pub enum Ev {
    /// For a drive's core.
    Replica(usize, Life, Box<replica::Event>),
    /// A drive's timer.
    ReplicaTick(usize, Life, Time),
    /// A turn of a drive's reactor ends.
    Flush(usize, Life),
    /// A device operation ends.
    DevDone(usize, Life, u64),
    /// For a beacon.
    Beacon(usize, Life, Box<beacon::Event>),
    /// A beacon's timer and the look at its lease page.
    BeaconTick(usize, Life),
    /// A manager asks a beacon whom it does not hear.
    AskSilent(usize, usize),
    /// For a sequencer.
    Sequencer(usize, Life, Box<sequencer::Event>),
    /// A sequencer's timer.
    SequencerTick(usize, Life, Time),
    /// A frame arrives; `true` = at the server.
    Arrive(usize, bool, Box<Frame>),
    /// A connection attempt reaches the server.
    Knock(usize),
    /// Its outcome reaches the asker.
    Opened(usize, Opened),
    /// An end learns that the connection is gone; `true` = the server.
    Gone(usize, bool),
    /// A client tries again to connect.
    Redial(End, usize),
    /// A call reaches the store.
    Call(Proc, Life, Request),
    /// An answer of the store arrives.
    Reply(Proc, Life, Answer),
    /// A manager's timer.
    ManagerTick(usize),
    /// News for a manager.
    News(usize, News),
    /// A server process starts.
    StartServer(usize),
    /// A node stops for a while; `true` = it loses its power.
    Stop(usize, Life, bool),
    /// The owner of a volume is given a new head layer.
    NewHead(VolumeId),
    /// A client attaches its volume.
    StartClient(usize),
    /// A client's next request is due.
    Work(usize, Life),
    /// A fault is due, by its place in the schedule.
    Fault(usize),
    /// A client asks again for the map.
    MapAgain(usize, Life),
    /// A client asks again for its attachment or activation when no reply came.
    CallAgain(usize, Life, u32),
    /// Scrub of a drive after its bits were flipped.
    Scrub(usize, Life),
    /// The next step of a drive that is spoilt.
    Spoilt(usize),
    /// An operator puts the right medium in for one that was refused.
    OtherMedium(usize, Life),
    /// The newest metadata store is put back.
    NewestStore,
    /// The next PG's copies are compared.
    Compare(u32),
    /// Orders are given again.
    Orders,
    /// A drive is away for too long: its places go to others.
    Recreate(DriveId),
}

/// Outcome of a connection attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// Established.
    Yes,
    /// The kernel refuses: no process.
    Refused,
    /// Nothing answers.
    Timeout,
}
