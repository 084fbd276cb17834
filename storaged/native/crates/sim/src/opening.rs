//! How a drive is opened (engine §5): the store compares what the device shows with what it knows of it, and only then
//! is the device touched.

use std::sync::Arc;

use drystone_replica::{Config, Event, Replica};
use drystone_types::{DriveId, Rule, Uuid};

use crate::event::{Ev, Proc, Request};
use crate::meta::Meta;
use crate::storage;
use crate::world::{Time, World, KEY_EPOCH};

impl Meta {
    /// Opening a drive: the nonce changes only for the same device, and for the newest state of it.
    pub fn open_drive(&mut self, drive: DriveId, serial: u64, nonce: u64, last: u64) -> bool {
        let compare = self.rules.on(Rule::OpenNonce);
        let Some(record) = self.drives.get_mut(&drive) else { return false };
        // An open that ended before its nonce was on the device leaves the one before there; one that came late, after
        // that of the next process, has taken the place of a nonce that is there.
        let shown = last != 0 && (last == record.nonce || record.granted.contains(&last));
        if record.serial != serial || (compare && !shown && last != record.proven) {
            return false;
        }
        if shown {
            record.proven = last;
            record.granted.clear();
        } else if record.nonce != record.proven && record.nonce != nonce {
            record.granted.push(record.nonce);
        }
        record.nonce = nonce;
        self.map_changed();
        true
    }
    /// The nonce is on the device: what shows an older one is an old image of it.
    pub fn prove_drive(&mut self, drive: DriveId, nonce: u64) {
        if let Some(record) = self.drives.get_mut(&drive).filter(|r| r.nonce == nonce) {
            record.proven = nonce;
            record.granted.clear();
        }
    }
}

impl World {
    /// A server asks whether it may open a drive.
    pub fn open_drive(&mut self, d: usize) {
        self.caught_lying(d);
        let nonce = self.fresh();
        let drive = &mut self.drives[d];
        drive.life += 1;
        drive.lease = 0;
        drive.outbox.clear();
        let last = storage::last_nonce(&mut drive.dev, drive.id, drive.nonce);
        let node = drive.node;
        self.call(Proc::Server(node), Request::Open { drive: d, nonce, last });
    }

    /// Whether a drive may be opened. Returns whether it serves now.
    pub fn drive_opened(&mut self, d: usize, nonce: u64, allowed: bool) {
        let n = self.drives[d].node;
        if !allowed {
            self.counts.hit("drive.open_refused");
            self.trace(|| format!("drive{} is refused", d + 1));
            self.nodes[n].opening = self.nodes[n].opening.saturating_sub(1);
            self.medium_refused(d);
            return;
        }
        if !self.open_store(d, nonce) || !self.start_core(d, nonce) {
            return;
        }
        self.call(Proc::Server(n), Request::Proven(d, nonce));
        // A map or a lease that rests on a read from before the open could be of before a drop that
        // compared the old nonce: only reads begun after every open count.
        self.nodes[n].opening = self.nodes[n].opening.saturating_sub(1);
        self.read_map_server(n);
        if self.atlas.reopen == Some(d) {
            self.atlas.reopen = None;
        }
        if self.scrubbing == Some(d) {
            // The one under way ended with the process.
            let life = self.drives[d].life;
            self.after(500_000, Ev::Scrub(d, life));
        }
    }

    /// Reads the device and puts the nonce on it.
    fn open_store(&mut self, d: usize, nonce: u64) -> bool {
        let id = self.drives[d].id;
        let counts = |r: &drystone_types::PgRecord| {
            let credit = r.joiner(id).map(|j| j.e0).or(r.out.iter().find(|o| o.drive == id).map(|o| o.e0));
            r.is_insync(id) || credit.is_some_and(|e0| e0.0 > 0)
        };
        let clear_suspect = !self.truth().shard().1.iter().any(counts);
        let (doubtful, slots, rules) = (self.doubtful(d), self.plan.drive_slots, self.rules);
        let opening = storage::Opening { drive: id, nonce, slots, clear_suspect, doubtful, rules };
        let drive = &mut self.drives[d];
        match storage::open(&mut drive.dev, drive.image.take(), &opening) {
            Ok((_, true)) if !doubtful => {
                self.fail("SUSPECT", format!("drive{} is suspect after a crash of an honest device", d + 1));
                false
            }
            Ok(store) => {
                drive.suspect = store.1;
                drive.opening = Some(store);
                // It may have begun anew, or none of the damage is left.
                self.trust_again(d);
                self.check_reopened(d);
                self.forget_suspect(d);
                true
            }
            Err(why) => {
                self.fail("STORE", format!("drive{} cannot be opened after a crash: {why}", d + 1));
                false
            }
        }
    }

    /// A drive may serve: its core starts.
    fn start_core(&mut self, d: usize, nonce: u64) -> bool {
        let Some((store, suspect)) = self.drives[d].opening.take() else { return false };
        let (id, life) = (self.drives[d].id, self.drives[d].life);
        if suspect {
            self.counts.hit("drive.suspect");
        }
        let key = self.ticket_key();
        let config = Config {
            drive: id,
            open_nonce: nonce,
            cluster: Uuid([9; 16]),
            incarnation: 1,
            feature_level: 1,
            ticket_keys: Arc::new(move |epoch| (epoch == KEY_EPOCH).then_some(key)),
            suspect,
            peer_check: true,
            rules: self.rules,
        };
        let replica = match Replica::open(config, store) {
            Ok(replica) => replica,
            Err(e) => {
                self.fail("STORE", format!("drive{}: {e}", d + 1));
                return false;
            }
        };
        let drive = &mut self.drives[d];
        drive.replica = Some(replica);
        drive.nonce = nonce;
        drive.tick_at = Time::MAX;
        drive.flushing = false;
        self.replica_event(d, life, Event::Tick);
        true
    }
}
