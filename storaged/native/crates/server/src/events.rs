//! What the process around the server hears from its native threads.

use drystone_replica::{ControlResult, LeaveWhy, Report};
use drystone_types::{DriveId, Epoch, PgId, PoolId, Rev, Uuid};

/// What the process around the server must know or do.
#[derive(Debug)]
pub enum ServerEvent {
    /// The drive serves. Replay figures for people.
    DriveReady {
        /// Drive.
        drive: DriveId,
        /// Bytes of log read at open.
        replayed_bytes: u64,
        /// Microseconds the open took.
        open_us: u64,
        /// Why the log prefix cannot be proven, if so.
        suspect: Option<String>,
    },
    /// The drive cannot be opened or has failed; it answers nothing any more.
    DriveFailed {
        /// Drive.
        drive: DriveId,
        /// Reason for people.
        reason: String,
    },
    /// The drive's thread ended as asked, with everything durable.
    DriveClosed {
        /// Drive.
        drive: DriveId,
    },
    /// Fetch the map with a quorum read made after this event.
    NeedMap {
        /// Revision that others have seen.
        at_least: Rev,
    },
    /// Fetch generations with a quorum read made after this event.
    NeedGenerations {
        /// Drive that asks.
        drive: DriveId,
        /// Pool.
        pool: PoolId,
        /// Since.
        since: Rev,
    },
    /// Ask for promotion.
    CopyComplete {
        /// Drive.
        drive: DriveId,
        /// PG.
        pg: PgId,
        /// Epoch of the copy.
        epoch: Epoch,
    },
    /// Ask for a new epoch: a promise to answer no reads led to no drop.
    StillQuiet {
        /// Drive.
        drive: DriveId,
        /// PG.
        pg: PgId,
        /// The promise covers the epochs up to this one.
        epoch: Epoch,
    },
    /// Ask to be dropped.
    LeavePg {
        /// Drive.
        drive: DriveId,
        /// PG.
        pg: PgId,
        /// Why.
        why: LeaveWhy,
    },
    /// A control request ended.
    ControlDone {
        /// Drive.
        drive: DriveId,
        /// Id of the request.
        id: u64,
        /// Result.
        result: ControlResult,
    },
    /// An exercise ended.
    Exercised {
        /// Drive.
        drive: DriveId,
        /// Id of the request.
        id: u64,
        /// 99th percentile in microseconds and errors, or why there was none.
        result: Result<(u64, u64), String>,
    },
    /// News for metrics and people.
    Report {
        /// Drive.
        drive: DriveId,
        /// News.
        report: Report,
    },
    /// The drive's device has become slow by any measure: its figures are worth a status of their own. At most once in
    /// the window of those figures.
    DeviceSlow {
        /// Drive.
        drive: DriveId,
        /// 99 of 100 of the operations since then took at most this.
        p99_us: u64,
    },
    /// An invariant does not hold; the drive was stopped.
    Invariant {
        /// Drive.
        drive: DriveId,
        /// Which.
        what: &'static str,
    },
    /// This node entered or left the beacon quorum.
    Quorum(bool),
    /// Answer to a request for a vote of silence.
    Vote {
        /// Node.
        node: Uuid,
        /// Round.
        round: Rev,
        /// Whether it was promised.
        granted: bool,
    },
    /// Nodes silent for the limit; complete, sent on change.
    Silent(Vec<Uuid>),
    /// Answer to REVOKE.
    Revoked {
        /// Round of the suspicion; 0 = it was only asked.
        round: Rev,
        /// Whether the page is zero and stays so until the suspicion ends.
        granted: bool,
    },
    /// The file of the lease page was removed or replaced: this process must end.
    LeasePageLost,
}

/// Where native threads put them.
pub type EventSink = drystone_link::EventSink<ServerEvent>;
/// Where the process takes them.
pub type EventSource = drystone_link::EventSource<ServerEvent>;
