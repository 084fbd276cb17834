//! One attached volume.

use std::path::PathBuf;

use drystone_reactor::{FdId, TimerId};
use drystone_sequencer::{Sequencer, State};
use drystone_types::consts::Micros;
use drystone_types::Gen;

use crate::io_stats::IoStats;

/// A sequencer and what belongs to it.
pub struct Volume {
    pub seq: Sequencer,
    pub gen: Gen,
    pub state: State,
    pub size: u64,
    pub read_only: bool,
    pub export: String,
    pub socket: PathBuf,
    pub listener: Option<FdId>,
    /// When the sequencer's tick is due and its timer.
    pub tick: Option<(Micros, TimerId)>,
    /// NBD connections of this volume.
    pub conns: usize,
    /// Touched in this turn: its timer is looked at once at the end.
    pub dirty: bool,
    /// Of the consumer's requests.
    pub io: IoStats,
}
