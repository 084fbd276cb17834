//! Media that are not what the cluster knows of a drive: wiped ones, and old images put back (engine §5, P14).

use drystone_types::DriveId;

use crate::device::Device;
use crate::event::{Ev, Life};
use crate::meta::DriveRecord;
use crate::net::node_uuid;
use crate::storage;
use crate::world::{Phase, World};

impl World {
    /// A drive with a new id takes the place of another.
    pub fn new_drive(&mut self, d: usize, dev: Device) -> DriveId {
        let id = DriveId(self.meta.drives.keys().map(|id| id.0).max().unwrap_or(0) + 1);
        let (serial, n) = (self.fresh(), self.drives[d].node);
        let drive = &mut self.drives[d];
        (drive.id, drive.serial, drive.image, drive.dev) = (id, serial, None, dev);
        (drive.nonce, drive.older, drive.newest) = (0, None, None);
        self.flipped.remove(&d);
        self.meta.drives.insert(id, DriveRecord { serial, node: node_uuid(n), ..DriveRecord::default() });
        id
    }

    /// Whether every PG keeps another in-sync drive when this one is gone.
    pub fn may_lose(&self, d: usize) -> bool {
        // Nobody changes an old store that is in the newest one's place.
        self.newest.is_none() && self.others_hold(d)
    }

    /// Fault: a drive comes back empty under its old id, after an operator gave its content up. It may not be opened,
    /// because the store remembers what it once held.
    pub fn wipe_drive(&mut self, d: usize) -> bool {
        let (n, old) = (self.drives[d].node, self.drives[d].id);
        if !self.may_lose(d) || !self.nodes[n].up || self.drives[d].replica.is_none() {
            return false;
        }
        self.stop_server(n, true);
        if let Err(why) = self.meta.remove_drive(old) {
            self.fail("STORE", why);
        }
        self.drives[d].dev = storage::blank_device(self.plan.drive_slots);
        self.drives[d].older = None;
        let back = self.rng.range(20_000, 3_000_000);
        self.after(back, Ev::StartServer(n));
        true
    }

    /// Fault: an image of a drive is made, or the one made before its last open is put in its place.
    pub fn older_image(&mut self, d: usize) -> bool {
        let (n, id) = (self.drives[d].node, self.drives[d].id);
        if !self.nodes[n].up || self.drives[d].replica.is_none() || !self.others_hold(d) {
            return false;
        }
        let record = self.truth().drives.get(&id).cloned().unwrap_or_default();
        let Some((nonce, mut image)) = self.drives[d].older.take() else {
            let drive = &mut self.drives[d];
            drive.older = Some((drive.nonce, drive.dev.copy()));
            return false;
        };
        if [record.nonce, record.proven].contains(&nonce) {
            self.drives[d].older = Some((nonce, image));
            return false;
        }
        self.stop_server(n, false);
        // Nothing is known of this medium.
        image.lies = true;
        image.shadow.distrust();
        let drive = &mut self.drives[d];
        drive.newest = Some(std::mem::replace(&mut drive.dev, image));
        let back = self.rng.range(20_000, 1_000_000);
        self.after(back, Ev::StartServer(n));
        true
    }

    /// A drive was refused: an operator looks, and puts the right one in.
    pub fn medium_refused(&mut self, d: usize) {
        if !self.scripted {
            let (life, pause) = (self.drives[d].life, self.rng.range(100_000, 1_000_000));
            self.after(pause, Ev::OtherMedium(d, life));
        }
    }

    /// Whether a drive that was refused is what the newest store knows of it: then it is the store that was wrong, and
    /// nobody throws a copy away for what an old one says.
    fn is_right_medium(&mut self, d: usize) -> bool {
        let drive = &mut self.drives[d];
        let (id, serial) = (drive.id, drive.serial);
        let last = storage::last_nonce(&mut drive.dev, id, drive.nonce);
        let newest = |r: &DriveRecord| r.serial == serial && (last == r.proven || (last != 0 && last == r.nonce));
        self.newest.is_some() || self.meta.drives.get(&id).is_some_and(newest)
    }

    /// The newest medium is back, or a blank drive with a new id.
    pub fn other_medium(&mut self, d: usize, life: Life) {
        let n = self.drives[d].node;
        let refused = self.drives[d].life == life && self.drives[d].replica.is_none();
        if !refused || !self.nodes[n].up {
            // The next start refuses it once more.
            return;
        }
        self.stop_server(n, false);
        match self.drives[d].newest.take() {
            Some(newest) => self.drives[d].dev = newest,
            None if self.is_right_medium(d) => {}
            None => {
                self.new_drive(d, storage::blank_device(self.plan.drive_slots));
            }
        }
        let back = if self.phase == Phase::Healing { 1_000 } else { self.rng.range(20_000, 1_000_000) };
        self.after(back, Ev::StartServer(n));
    }
}
