//! Several drives with what they ask of each other delivered.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::rig::*;
use drystone_replica::{Action, Event};
use drystone_store::api::{ObjectDigest, ObjectStore, StoreEvent};
use drystone_types::*;

/// Looks at a message between drives and may change or drop it.
pub type Tap = Box<dyn FnMut(u32, u32, &mut Frame) -> bool>;

pub struct World {
    pub drives: BTreeMap<u32, Rig>,
    /// Messages between drives: (from, to, frame, is an answer).
    pub wire: Vec<(u32, u32, Frame, bool)>,
    pub completes: Vec<(u32, u32)>,
    pub actions: Vec<(u32, Action)>,
    pub tap: Option<Tap>,
}

impl World {
    /// Drives 1 to 3 in sync in epoch 1, generation 1 sealed.
    pub fn new() -> World {
        World::with((1..=3).map(|d| (d, Rig::active(d))).collect())
    }
    /// A drive's process ends and begins anew; what was on the wire is lost.
    pub fn restart(&mut self, drive: u32, nonce: u64) {
        let rig = self.drives.remove(&drive).unwrap();
        self.drives.insert(drive, rig.restart(nonce));
        self.wire.clear();
    }
    pub fn with(drives: BTreeMap<u32, Rig>) -> World {
        World { drives, wire: Vec::new(), completes: Vec::new(), actions: Vec::new(), tap: None }
    }
    pub fn drive(&mut self, d: u32) -> &mut Rig {
        self.drives.get_mut(&d).unwrap()
    }
    pub fn map(&mut self, map: Arc<ClusterMap>) {
        for d in self.drives.values_mut() {
            d.map(map.clone());
        }
    }
    /// A write to these drives; all must take it.
    pub fn write(&mut self, to: &[u32], gen: u32, seq: u64, block: u64, fill: u8) {
        for d in to {
            assert_eq!(self.drive(*d).write(gen, seq, block, fill), Status::Ok, "drive {d}");
        }
    }
    pub fn stable(&mut self, to: &[u32], gen: u32, stable: Version) {
        for d in to {
            assert_eq!(self.drive(*d).stable(gen, stable).hdr.status, Status::Ok);
        }
    }
    /// Moves what drives say to each other onto the wire.
    pub fn collect(&mut self) {
        for (id, rig) in &mut self.drives {
            for action in std::mem::take(&mut rig.out) {
                match action {
                    Action::SendDrive { drive, frame } => self.wire.push((*id, drive.0, frame, false)),
                    Action::Send { peer, frame } if peer.0 > 100 => {
                        let to = u32::try_from(peer.0 - 100).unwrap();
                        self.wire.push((*id, to, frame, true));
                    }
                    Action::CopyComplete { epoch, .. } => self.completes.push((*id, epoch.0)),
                    other => self.actions.push((*id, other)),
                }
            }
        }
    }
    /// Delivers one message; `false` when there is none.
    pub fn deliver(&mut self) -> bool {
        self.collect();
        if self.wire.is_empty() {
            return false;
        }
        let (from, to, mut frame, answer) = self.wire.remove(0);
        if self.tap.as_mut().is_some_and(|tap| !tap(from, to, &mut frame)) {
            return true;
        }
        let Some(rig) = self.drives.get_mut(&to) else {
            let down = Event::DriveDown { drive: DriveId(to) };
            self.drive(from).event(down);
            return true;
        };
        if answer {
            rig.event(Event::DriveReply { drive: DriveId(from), frame });
        } else {
            rig.send_from(drive_peer(from), frame);
        }
        true
    }
    pub fn run_devices(&mut self) {
        self.drives.values_mut().for_each(Rig::run);
    }
    /// Until nothing moves; time passes a little when drives back off.
    pub fn settle(&mut self) {
        self.settle_for(200);
    }
    /// No drive has heard a client for longer than counts: copies take all there is.
    pub fn silent(&mut self) {
        self.drives.values_mut().for_each(|d| d.advance(200_000));
    }
    /// The same for so many pauses at most.
    pub fn settle_for(&mut self, pauses: u32) {
        for _ in 0..pauses {
            let mut delivered = 0;
            loop {
                self.run_devices();
                if !self.deliver() {
                    break;
                }
                delivered += 1;
                assert!(delivered < 20_000, "drives ask each other for ever");
            }
            if !self.completes.is_empty() {
                return;
            }
            self.drives.values_mut().for_each(|d| d.advance(30_000));
        }
    }
    /// Content of one chunk of a drive, without its stamps.
    pub fn chunk(&self, d: u32, chunk: u64) -> Vec<ObjectDigest> {
        let mut store = self.drives[&d].r.store().clone();
        store.digest(VOL, chunk, 1);
        let mut events = Vec::new();
        store.settle(&mut events);
        let found = events.into_iter().find_map(|e| match e {
            StoreEvent::Digest(1, objects) => Some(objects),
            _ => None,
        });
        let mut objects = found.unwrap();
        objects.retain(|o| !o.runs.is_empty());
        objects.iter_mut().for_each(|o| o.last_mod_epoch = Epoch(0));
        objects
    }
    pub fn assert_equal(&self, a: u32, b: u32, chunks: std::ops::Range<u64>) {
        for chunk in chunks {
            assert_eq!(self.chunk(a, chunk), self.chunk(b, chunk), "chunk {chunk}");
        }
    }
    /// Drive 3 is dropped in `rev` and joins again in `rev + 1`.
    pub fn rejoin(&mut self, rev: u64, e0: u32) {
        let epoch = u32::try_from(rev).unwrap();
        self.map(map(rev + 1, epoch + 1, &[1, 2], &[joiner(3, epoch + 1, e0)]));
        self.drive(3).generations(rev + 1, &[]);
    }
}
