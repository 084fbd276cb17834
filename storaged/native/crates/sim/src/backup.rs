//! An old backup of the metadata store is put back (engine §4.9, B10): nobody acts on it until the newest is there.

use drystone_types::Rule;

use crate::meta::Meta;
use crate::world::{Time, World};

/// How long an operator takes to see the alert and to put the newest store back.
const NOTICED: (Time, Time) = (200_000, 3_000_000);

impl World {
    /// Puts a copy of the store in place of the present one. What the oracles know stays.
    pub fn put_back(&mut self, mut old: Meta) -> Meta {
        self.trace(|| format!("the store goes back to revision {}", old.rev));
        self.counts.hit("store.put_back");
        self.meta.keep_for_oracles(&mut old);
        std::mem::replace(&mut self.meta, old)
    }

    /// The store as everybody has to see it: the newest, also while an old one is in its place.
    pub fn truth(&self) -> &Meta {
        self.newest.as_ref().unwrap_or(&self.meta)
    }

    /// Managers and drives know the highest revision that they have seen, and refuse a store below it.
    pub fn store_is_refused(&mut self) -> bool {
        if self.meta.rev < self.store_seen && self.rules.on(Rule::StoreRev) {
            self.counts.hit("store.old_refused");
            return true;
        }
        self.store_seen = self.store_seen.max(self.meta.rev);
        false
    }

    /// Fault: a backup is made, or the one made before is put back for a while.
    pub fn old_backup(&mut self) -> bool {
        if self.newest.is_some() {
            return false;
        }
        let Some(old) = self.backup.take() else {
            self.backup = Some(self.meta.clone());
            return false;
        };
        // A store is refused by whoever has seen more (B10): of one that nobody has seen past, as when only the reply to
        // the last change is lost, nothing can tell that it is old.
        if old.rev >= self.store_seen {
            self.backup = Some(old);
            return false;
        }
        self.newest = Some(self.put_back(old));
        let pause = self.rng.range(NOTICED.0, NOTICED.1);
        self.after(pause, crate::event::Ev::NewestStore);
        true
    }

    /// The newest store is back.
    pub fn newest_store(&mut self) {
        if let Some(mut newest) = self.newest.take() {
            // What was seen meanwhile was seen.
            self.meta.keep_for_oracles(&mut newest);
            self.trace(|| format!("the store is at revision {} again", newest.rev));
            self.meta = newest;
        }
    }
}
