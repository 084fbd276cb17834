//! Faults of single drives: operations that fail or go astray, a cache that lies, rot in what a log is made of.

use drystone_store::api::DevResult;

use crate::device::Wrong;
use crate::event::Ev;
use crate::plan::Fault;
use crate::rng::Rng;
use crate::storage::{self, Structure};
use crate::world::{Time, World};

/// How long a drive waits for the write that goes wrong.
const WRONG_FOR: Time = 500_000;

impl World {
    /// Reads of a drive fail for a while; or some sectors of it cannot be read until they are written again.
    pub(super) fn read_errors(&mut self, d: usize) -> bool {
        if self.drives[d].replica.is_none() {
            return false;
        }
        if self.rng.chance(500) {
            let until = self.now + self.rng.range(100_000, 3_000_000);
            self.drives[d].dev.read_errors = ([100, 400, 1000][self.rng.index(3)], until);
            return true;
        }
        if !self.may_spoil(d) {
            return false;
        }
        let mut rng = self.rng.fork(self.now);
        let sectors = storage::unreadable_for_good(&mut self.drives[d].dev, &mut rng);
        if sectors == 0 {
            return false;
        }
        self.counts.add("device.sectors_unreadable", sectors);
        self.spoilt(d);
        true
    }

    /// The next write of a drive goes wrong.
    pub(super) fn write_goes_wrong(&mut self, d: usize, fault: Fault) -> bool {
        let wrong = match fault {
            Fault::WriteError => Wrong::Fails,
            Fault::StaleBlock => Wrong::Stale,
            _ => Wrong::Elsewhere,
        };
        let possible = self.drives[d].replica.is_some() && (wrong == Wrong::Fails || self.may_spoil(d));
        if possible {
            self.drives[d].dev.wrong = Some((wrong, self.now + WRONG_FOR));
        }
        possible
    }

    /// A device operation ends, rightly or not.
    pub fn device_result(&mut self, d: usize, id: u64) -> Option<DevResult> {
        let now = self.now;
        let dev = &mut self.drives[d].dev;
        if dev.read_errors.1 > now && dev.is_read(id) {
            let fails = self.rng.chance(dev.read_errors.0);
            let result = dev.finish(id);
            if !fails {
                return result;
            }
            self.counts.hit("device.read_errors");
            return result.map(|_| DevResult::Failed("the device could not read"));
        }
        let Some((wrong, until)) = dev.wrong else { return dev.finish(id) };
        if until <= now {
            dev.wrong = None;
            return dev.finish(id);
        }
        if !dev.fits(id, wrong) {
            return dev.finish(id);
        }
        self.ends_wrong(d, id, wrong)
    }

    fn ends_wrong(&mut self, d: usize, id: u64, wrong: Wrong) -> Option<DevResult> {
        let mut rng = self.rng.fork(self.now);
        self.drives[d].dev.wrong = None;
        if wrong == Wrong::Fails {
            self.counts.hit("device.write_errors");
            return self.drives[d].dev.fail(id, &mut rng);
        }
        // Asked again: others may have gone since the fault was due.
        if !self.may_spoil(d) {
            return self.drives[d].dev.finish(id);
        }
        let Some((result, hit)) = self.drives[d].dev.mislead(id, wrong, &mut rng) else {
            return self.drives[d].dev.finish(id);
        };
        self.counts.hit(if wrong == Wrong::Stale { "device.stale" } else { "device.misdirected" });
        self.trace(|| format!("drive{} {wrong:?}: sectors {hit:?}", d + 1));
        self.log_spoilt(d);
        Some(result)
    }

    /// A failed write ended a drive's service; its server is started again a while later.
    pub fn drive_failed(&mut self, d: usize) {
        self.counts.hit("drive.failed");
        if !self.scripted {
            let n = self.drives[d].node;
            let (life, pause) = (self.nodes[n].life, self.rng.range(100_000, 3_000_000));
            self.after(pause, Ev::Stop(n, life, false));
        }
    }

    /// A cache begins to lie. What it promised from now on may be gone at the next power cut, which comes soon.
    pub(super) fn cache_lies(&mut self, d: usize) -> bool {
        if self.atlas.lied || !self.may_spoil(d) {
            return false;
        }
        self.drives[d].dev.lies = true;
        self.atlas.lied = true;
        self.atlas.lying = Some(d);
        let soon = self.rng.range(50_000, 3_000_000);
        self.after(soon, Ev::Spoilt(d));
        true
    }

    /// What a log is made of rots in some places.
    pub(super) fn rot_metadata(&mut self, d: usize) -> bool {
        if !self.may_spoil(d) {
            return false;
        }
        let what = Structure::ALL[self.rng.index(4)];
        let mut rng = Rng::new(self.rng.bits());
        let drive = &mut self.drives[d];
        let Some(replica) = drive.replica.as_ref() else { return false };
        let sectors = storage::rot(replica.store(), &mut drive.dev, what, &mut rng);
        if sectors == 0 {
            return false;
        }
        self.trace(|| format!("drive{}: {sectors} sectors of {what:?} rot", d + 1));
        self.counts.add(what.counter(), sectors);
        self.log_spoilt(d);
        true
    }
}
