//! The store under the simulated drives, and what a restart finds of it.

use drystone_store::testing::NaiveStore;
use drystone_store::api::{DevOp, ObjectStore, StoreEvent};
use drystone_types::{DriveId, Epoch, LayerId, ObjKey, PgId, Rules};

use crate::device::Device;
use crate::rng::Rng;

/// Store of every drive.
pub type Store = NaiveStore;

/// Opens a drive's store after a start: the store, and whether its log prefix is not provable.
pub fn open(
    _dev: &mut Device,
    image: Option<Store>,
    _drive: DriveId,
    _nonce: u64,
    slots: u64,
    _rules: Rules,
) -> Result<(Store, bool), String> {
    let store = match image {
        Some(mut old) => {
            old.restart();
            old
        }
        None => NaiveStore::new(slots),
    };
    Ok((store, false))
}

/// What stays of a store when its process ends.
pub fn image(store: &mut Store) -> Store {
    store.clone()
}

/// Counters of the store, in debug form.
pub fn counters(_store: &Store) -> String {
    String::new()
}

/// A blank medium for a drive of so many slots.
pub fn blank_device(slots: u64) -> Device {
    Device::new(slots * 4096)
}

/// Corrupts a few stored blocks. Returns how many.
pub fn flip(store: &mut Store, _dev: &mut Device, rng: &mut Rng) -> u64 {
    let mut flipped = 0;
    for pg in 0..8 {
        let pg = PgId { pool: crate::meta::POOL, pg };
        for (vol, chunk) in store.changed_chunks(pg, Epoch(0), None, 64) {
            let key = ObjKey { layer: LayerId(vol.0 * 10), chunk };
            let map = store.chunk_map(key);
            for block in 0..1024u16 {
                let held = map[usize::from(block / 8)] >> (block % 8) & 1 == 1;
                if held && rng.chance(60) {
                    store.corrupt(key, block);
                    flipped += 1;
                }
            }
        }
    }
    flipped
}

/// Carries out a device operation at once.
pub fn run_now(dev: &mut Device, op: DevOp, store: &mut Store, events: &mut Vec<StoreEvent>) {
    let (DevOp::Write { id, .. } | DevOp::Read { id, .. } | DevOp::Flush { id } | DevOp::Discard { id, .. }) = op;
    dev.submit(id, op);
    if let Some(result) = dev.finish(id) {
        store.complete(id, result, events);
    }
}
