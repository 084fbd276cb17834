//! A drive whose device does not answer while its server lives: found by the age of its oldest operation
//! (engine §4.5), asked to stop its reads, dropped, and left alone for a while.

use drystone_membership::Evidence;
use drystone_types::DriveId;

use crate::event::Proc;
use crate::world::{Place, Time, World};

/// An operation this old means that the device hangs.
const HUNG: Time = 1_000_000;
/// A dropped drive joins again no sooner.
const REST: Time = 30_000_000;

impl World {
    /// A client waits for a drive: how old is the oldest operation of its device?
    pub fn probe_hung(&mut self, m: usize, drive: DriveId) {
        let Some(d) = self.drives.iter().position(|d| d.id == drive && d.replica.is_some()) else { return };
        if self.scripted && !self.managed {
            // A script that drops by itself slows devices for as long as it needs.
            return;
        }
        let n = self.drives[d].node;
        let frozen = self.frozen.get(&Proc::Server(n)).is_some_and(|t| *t > self.now);
        let cut = self.cut_until(Place::Manager(m), Place::Node(n)).is_some();
        let oldest = self.drives[d].dev.began.values().min().map_or(0, |at| self.now - at);
        if frozen || cut || oldest < HUNG {
            return;
        }
        self.counts.hit("drop.drive_hangs");
        let until = self.now + REST;
        for manager in &mut self.managers {
            manager.rest.insert(drive, until);
        }
        self.learn(m, Evidence::DriveFailed(drive));
    }
}
