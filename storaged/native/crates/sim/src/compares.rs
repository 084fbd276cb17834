//! Comparing copies while everything goes wrong: no honest history may make them differ, so what a comparison tells
//! is a failure, here or of the pass itself. Every seed ends with one of each PG.

use drystone_replica::{Control, ControlResult, Event as ReplicaEvent};
use drystone_types::{DriveId, LayerId, PgId};

use crate::event::Ev;
use crate::final_check::HEAL_MAX;
use crate::meta::POOL;
use crate::world::{Phase, Time, World};

/// Control requests above this are comparisons; the rest of the number is the PG.
pub const COMPARE_ID: u64 = 1 << 42;
/// A comparison begins this often, of one PG after the other.
pub const EVERY: Time = 2_000_000;
/// How often one is asked for when nothing goes wrong any more.
const ROUNDS: usize = 5;

impl World {
    /// The next PG's turn.
    pub fn compare_next(&mut self, turn: u32) {
        if self.phase == Phase::Healing {
            return;
        }
        self.compare_pg(turn % self.meta.pg_count().max(1));
        self.after(EVERY, Ev::Compare(turn.wrapping_add(1)));
    }

    /// The first in-sync drive of a PG compares it; tells whether there is one that runs.
    pub fn compare_pg(&mut self, pg: u32) -> bool {
        let first = self.truth().pg(pg).and_then(|r| r.insync.first().copied());
        let d = self.drives.iter().position(|d| Some(d.id) == first && d.replica.is_some());
        if let Some(d) = d {
            let life = self.drives[d].life;
            let req = Control::Compare { pg: PgId { pool: POOL, pg } };
            self.replica_event(d, life, ReplicaEvent::Control { id: COMPARE_ID + u64::from(pg), req });
        }
        d.is_some()
    }

    /// A comparison ended.
    pub fn compare_done(&mut self, pg: u32, result: ControlResult) {
        let ControlResult::Compared(seen) = result else { return self.counts.hit("compare.failed") };
        self.counts.hit("compare.done");
        self.counts.add("compare.chunks", seen.chunks);
        self.counts.add("compare.blocks", seen.blocks);
        self.counts.add("compare.unstable", seen.unstable);
        self.counts.add("compare.bad", seen.bad_here + seen.bad_there);
        self.compared.insert(pg, seen);
    }

    /// Two in-sync drives hold different stable content. Only a script plants that, and only a device that lies.
    pub fn compare_told(&mut self, d: usize, other: DriveId, layer: LayerId, what: &str) {
        self.counts.hit("compare.divergent");
        let freed = self.orders.iter().any(|o| o.layer == layer);
        let doubtful = self.scripted || freed || self.drives.iter().any(|d| d.dev.lies);
        if !doubtful {
            self.fail("COMPARE", format!("drive{} says of drive {other}: {what}", d + 1));
        }
    }

    /// Compares every PG, now that all is whole.
    pub fn compare_all(&mut self) {
        for pg in 0..self.meta.pg_count() {
            self.compared.remove(&pg);
            for _ in 0..ROUNDS {
                let (asked, began) = (self.compare_pg(pg), self.now);
                let failed = self.counts.get("compare.failed");
                let ended = |w: &World| w.compared.contains_key(&pg) || w.counts.get("compare.failed") > failed;
                if asked && !ended(self) {
                    self.run_until(began + HEAL_MAX, &mut |w| ended(w));
                }
                if self.compared.contains_key(&pg) || self.failure.is_some() {
                    break;
                }
                let pause = self.now + 1_000_000;
                self.run_until(pause, &mut |_| false);
            }
            if self.failure.is_none() && !self.compared.contains_key(&pg) {
                self.fail("LIVENESS", format!("the copies of pg{pg} cannot be compared"));
            }
        }
    }
}
