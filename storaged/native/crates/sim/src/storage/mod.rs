//! The store under the simulated drives, and what a restart finds of it.

use drystone_store::api::{DevOp, ObjectDigest, ObjectStore, StoreEvent};
use drystone_types::{DriveId, Rules, VolumeId};

use crate::device::Device;

#[cfg(not(feature = "naive"))]
mod log;
#[cfg(feature = "naive")]
mod naive;

#[cfg(not(feature = "naive"))]
pub use log::{blank_device, counters, flip, image, last_nonce, open, refuse_reads, rot, unreadable_for_good, Store};
#[cfg(not(feature = "naive"))]
pub(crate) use log::{FOOTER, GROUP};
#[cfg(feature = "naive")]
pub use naive::{blank_device, counters, flip, image, last_nonce, open, refuse_reads, rot, unreadable_for_good, Store};

/// What is known when a drive is opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Drive.
    pub drive: DriveId,
    /// Nonce of this open.
    pub nonce: u64,
    /// Slots for data.
    pub slots: u64,
    /// It is in no in-sync set, so a suspicion is over.
    pub clear_suspect: bool,
    /// Its device has not kept what was written, so it may begin anew.
    pub doubtful: bool,
    /// Rules in force.
    pub rules: Rules,
}

/// What a log is made of, beside data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    /// Headers of groups.
    Header,
    /// Footers of closed segments, and what is before them.
    Summary,
    /// The newest checkpoint.
    Checkpoint,
    /// Superblocks.
    Superblock,
}

impl Structure {
    /// All of them.
    pub const ALL: [Structure; 4] =
        [Structure::Header, Structure::Summary, Structure::Checkpoint, Structure::Superblock];
    /// Name of the counter of its damaged sectors.
    pub fn counter(self) -> &'static str {
        match self {
            Structure::Header => "rot.header",
            Structure::Summary => "rot.summary",
            Structure::Checkpoint => "rot.checkpoint",
            Structure::Superblock => "rot.superblock",
        }
    }
}

/// Carries out a device operation at once.
pub fn run_now(dev: &mut Device, op: DevOp, store: &mut Store, events: &mut Vec<StoreEvent>) {
    let (DevOp::Write { id, .. } | DevOp::Read { id, .. } | DevOp::Flush { id } | DevOp::Discard { id, .. }) = op;
    dev.submit(id, op);
    if let Some(result) = dev.finish(id) {
        store.complete(id, result, events);
    }
}

/// Everything a store holds of a chunk, fetched at once. Ends with nothing when the log does not answer.
pub fn digest_now(dev: &mut Device, store: &mut Store, vol: VolumeId, chunk: u64) -> Vec<ObjectDigest> {
    store.digest(vol, chunk, u64::MAX);
    let mut events = Vec::new();
    let mut ops: Vec<DevOp> = Vec::new();
    // A digest may need reads of the log; each round starts what the one before made possible.
    for _ in 0..1_000 {
        store.take_events(&mut events);
        if events.iter().any(|e| matches!(e, StoreEvent::Digest(..))) {
            break;
        }
        store.poll(&mut ops);
        for op in ops.drain(..) {
            run_now(dev, op, store, &mut events);
        }
    }
    let digest = |e| if let StoreEvent::Digest(_, objects) = e { Some(objects) } else { None };
    events.into_iter().find_map(digest).unwrap_or_default()
}
