//! The store under the simulated drives, and what a restart finds of it.

use drystone_store::api::{DevOp, ObjectStore, StoreEvent};
use drystone_types::DriveId;

use crate::device::Device;

#[cfg(not(feature = "naive"))]
mod log;
#[cfg(feature = "naive")]
mod naive;

#[cfg(not(feature = "naive"))]
pub use log::{blank_device, counters, flip, image, open, Store};
#[cfg(feature = "naive")]
pub use naive::{blank_device, counters, flip, image, open, Store};

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
}

/// Carries out a device operation at once.
pub fn run_now(dev: &mut Device, op: DevOp, store: &mut Store, events: &mut Vec<StoreEvent>) {
    let (DevOp::Write { id, .. } | DevOp::Read { id, .. } | DevOp::Flush { id } | DevOp::Discard { id, .. }) = op;
    dev.submit(id, op);
    if let Some(result) = dev.finish(id) {
        store.complete(id, result, events);
    }
}
