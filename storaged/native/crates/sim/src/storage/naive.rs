//! The naive store under the simulated drives: only maps, what is admitted and not durable is lost.

use drystone_store::api::ObjectStore;
use drystone_store::testing::NaiveStore;
use drystone_types::{DriveId, Epoch, LayerId, ObjKey, PgId};

use crate::device::Device;
use crate::rng::Rng;

/// Store of every drive.
pub type Store = NaiveStore;

/// Opens a drive's store after a start: the store, and whether its log prefix is not provable.
pub fn open(_dev: &mut Device, image: Option<Store>, opening: &super::Opening) -> Result<(Store, bool), String> {
    let store = match image {
        Some(mut old) => {
            old.restart();
            old
        }
        None => NaiveStore::new(opening.slots),
    };
    Ok((store, false))
}

/// Nonce of the last open, as the medium shows it: this one shows nothing by itself.
pub fn last_nonce(_dev: &mut Device, _drive: DriveId, known: u64) -> u64 {
    known
}

/// What stays of a store when its process ends.
pub fn image(store: &mut Store) -> Option<Store> {
    Some(store.clone())
}

/// Counters of the store, in debug form.
pub fn counters(_store: &Store) -> String {
    String::new()
}

/// A blank medium for a drive of so many slots.
pub fn blank_device(slots: u64) -> Device {
    Device::new(slots * 4096)
}

/// Bad blocks of one fault: a handful, as of a failing sector; a drive with thousands would be replaced.
const FLIPS_MAX: u64 = 12;

/// The device cannot read what is stored now, until it is told that it can again.
pub fn refuse_reads(store: &mut Store, _dev: &mut Device, on: bool) {
    for (key, block) in stored(store) {
        store.unreadable(key, block, on);
    }
}

/// The naive store has no structures that could rot.
pub fn rot(_store: &Store, _dev: &mut Device, _what: super::Structure, _rng: &mut Rng) -> u64 {
    0
}

/// Its device holds nothing that could be unreadable.
pub fn unreadable_for_good(_dev: &mut Device, _rng: &mut Rng) -> u64 {
    0
}

/// Every block that holds data in the heads of all volumes.
fn stored(store: &Store) -> Vec<(ObjKey, u16)> {
    let mut all = Vec::new();
    for pg in 0..8 {
        let pg = PgId { pool: crate::meta::POOL, pg };
        for (vol, chunk) in store.changed_chunks(pg, Epoch(0), None, 64) {
            let key = ObjKey { layer: LayerId(vol.0 * 10), chunk };
            let map = store.chunk_map(key);
            all.extend((0..1024u16).filter(|b| map[usize::from(b / 8)] >> (b % 8) & 1 == 1).map(|b| (key, b)));
        }
    }
    all
}

/// Corrupts a few stored blocks. Returns how many.
pub fn flip(store: &mut Store, _dev: &mut Device, rng: &mut Rng) -> u64 {
    let mut flipped = 0;
    for (key, block) in stored(store) {
        if flipped < FLIPS_MAX && rng.chance(60) {
            store.corrupt(key, block);
            flipped += 1;
        }
    }
    flipped
}
