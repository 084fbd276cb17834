//! Beacon threads and the lease pages they write.

use drystone_membership::beacon::{Action as BeaconAction, Event as BeaconEvent};
use drystone_membership::Suspect;
use drystone_types::consts::{BEACON_PERIOD, LEASE_SLOT_FRESH, READ_LEASE};

use crate::event::{Ev, Life, News, Proc};
use crate::net::node_uuid;
use crate::world::{Place, World};

impl World {
    /// Steps a beacon.
    pub fn beacon_event(&mut self, n: usize, life: Life, event: BeaconEvent) {
        let now = self.local(Place::Node(n));
        let Some(node) = self.nodes.get_mut(n) else { return };
        if node.beacon_life != life {
            return;
        }
        let Some(beacon) = node.beacon.as_mut() else { return };
        let mut out = Vec::new();
        beacon.step(now, event, &mut out);
        for action in out {
            match action {
                BeaconAction::Send { to, bytes } => {
                    let to = usize::from(to.0[0]).saturating_sub(1);
                    self.datagram(n, to, bytes);
                }
                BeaconAction::Lease(page) => {
                    let (had, has) = (self.nodes[n].page.iter().any(|u| *u > now), page.iter().any(|u| *u > now));
                    if had && !has {
                        self.counts.hit("lease.lost");
                        self.trace(|| format!("node{n} lost its lease"));
                    }
                    self.nodes[n].ends = page.iter().map(|u| self.global(Place::Node(n), *u)).collect();
                    self.nodes[n].page = page;
                    self.check_lease_moves(n);
                }
                BeaconAction::NeedMap => self.read_map_server(n),
                BeaconAction::Held { round, granted } => {
                    let suspect = Suspect { node: node_uuid(n), round };
                    self.tell_managers(News::Held(n, suspect, granted));
                }
                BeaconAction::Vote { suspect, granted } => self.tell_managers(News::Vote(n, suspect, granted)),
                BeaconAction::Quorum(_) => {}
            }
        }
    }

    /// No lease outlasts the last move of a thread by more than a slot stays fresh.
    fn check_lease_moves(&mut self, n: usize) {
        let (now, node) = (self.local(Place::Node(n)), &self.nodes[n]);
        let most = node.moved_at + LEASE_SLOT_FRESH + READ_LEASE;
        let late = node.page.iter().copied().find(|until| *until > most.max(now));
        if let Some(until) = late {
            let text =
                format!("node{n} has a lease until {until} though no thread of it moved since {}", node.moved_at);
            self.fail("LEASE", text);
        }
    }

    /// The beacon's period: it reads the counters of the lease page and sends.
    pub fn beacon_tick(&mut self, n: usize, life: Life) {
        let Some(node) = self.nodes.get(n) else { return };
        if node.beacon_life != life || node.beacon.is_none() {
            return;
        }
        // Threads move their counters every 100 ms when idle; a frozen, hung or dead process does not.
        let still = !node.up || self.frozen.get(&Proc::Server(n)).is_some_and(|t| *t > self.now);
        let slots = node.page.len();
        if !still {
            self.nodes[n].moved_at = self.local(Place::Node(n));
            let counters = vec![self.now / 100_000; slots];
            self.beacon_event(n, life, BeaconEvent::Slots(counters));
        }
        self.beacon_event(n, life, BeaconEvent::Tick);
        self.after(BEACON_PERIOD / 3, Ev::BeaconTick(n, life));
    }
}
