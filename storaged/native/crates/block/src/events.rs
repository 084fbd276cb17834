//! What the process around the block daemon hears from its reactor thread.

use drystone_sequencer::{FenceReason, ReportKind, State};
use drystone_types::{DriveId, Gen, Rev, VolumeId};

/// What the process around the block daemon must know or do.
#[derive(Debug)]
pub enum BlockEvent {
    /// The volume's state changed.
    State {
        /// Volume.
        vol: VolumeId,
        /// Generation.
        gen: Gen,
        /// State.
        state: State,
    },
    /// The volume is fenced, and why.
    Fenced {
        /// Volume.
        vol: VolumeId,
        /// Generation that was fenced.
        gen: Gen,
        /// Why.
        reason: FenceReason,
    },
    /// Run A5's transaction and answer with `BlockCommand::Activated`.
    WantActivate {
        /// Volume.
        vol: VolumeId,
        /// Generation.
        gen: Gen,
    },
    /// Fetch the map with a quorum read made after this event.
    NeedMap {
        /// Revision.
        at_least: Rev,
    },
    /// A drive does not answer or answers wrongly.
    Report {
        /// Volume that noticed.
        vol: VolumeId,
        /// Drive.
        drive: DriveId,
        /// What.
        kind: ReportKind,
    },
    /// A newer ticket is in force.
    TicketInForce {
        /// Volume.
        vol: VolumeId,
        /// Serial.
        serial: u32,
    },
    /// The detach is done.
    Detached {
        /// Volume.
        vol: VolumeId,
        /// Nothing outstanding and stable acknowledged.
        clean: bool,
    },
    /// An attach could not start.
    AttachFailed {
        /// Volume.
        vol: VolumeId,
        /// Reason for people.
        reason: String,
    },
    /// An invariant does not hold in this volume's sequencer; it answers EIO from here on.
    Invariant {
        /// Volume.
        vol: VolumeId,
        /// Which.
        what: &'static str,
    },
}

/// Where native threads put them.
pub type EventSink = drystone_link::EventSink<BlockEvent>;
/// Where the process takes them.
pub type EventSource = drystone_link::EventSource<BlockEvent>;
