//! Server nodes: machines, processes, and how their drives are opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use drystone_membership::beacon::{BeaconConfig, BeaconCore, Event as BeaconEvent};
use drystone_replica::{Event, Replica};
use drystone_types::consts::BEACON_PERIOD;
use drystone_types::{ClusterMap, DriveId, Frame, Rule};

use crate::device::Device;
use crate::event::{Answer, Ev, Life, Proc, Request};
use crate::net::node_uuid;
use crate::storage::{self, Store};
use crate::world::{Place, Time, World, KEY_EPOCH, MASTER};

/// A storage node.
pub struct Node {
    /// Its machine has power.
    pub power: bool,
    /// Its server process runs.
    pub up: bool,
    /// Which life of the process.
    pub life: Life,
    /// Its beacon.
    pub beacon: Option<BeaconCore>,
    /// Which life of the beacon.
    pub beacon_life: Life,
    /// The lease page: until when each drive's thread may answer reads.
    pub page: Vec<Time>,
    /// The same by the world's clock.
    pub ends: Vec<Time>,
    /// When its threads last moved their counters.
    pub moved_at: Time,
    /// Newest map of the process.
    pub map: Option<Arc<ClusterMap>>,
    /// A ReadMap is under way, and whether another is wanted after it.
    pub reading: Option<bool>,
    /// Drives whose open the store has not answered.
    pub opening: usize,
    /// It stops when a device write is under way next; `true` = with its power.
    pub armed: Option<bool>,
}

/// A drive.
pub struct Drive {
    /// Id.
    pub id: DriveId,
    /// Node.
    pub node: usize,
    /// Serial of the device.
    pub serial: u64,
    /// Medium.
    pub dev: Device,
    /// What a restart finds (naive store only).
    pub image: Option<Store>,
    /// Core while it serves.
    pub replica: Option<Replica<Store>>,
    /// Store between its open and the permission to serve.
    pub opening: Option<(Store, bool)>,
    /// Life: changes with every start of the process.
    pub life: Life,
    /// Open nonce.
    pub nonce: u64,
    /// When its timer is set to.
    pub tick_at: Time,
    /// A flush of its core is scheduled.
    pub flushing: bool,
    /// Frames that wait for a connection to another drive.
    pub outbox: BTreeMap<usize, Vec<Frame>>,
    /// Added to every device operation until then.
    pub slow: (Time, Time),
    /// Added to every device operation (scripts).
    pub slow_least: Time,
    /// Added to every device read (scripts).
    pub slow_reads: Time,
    /// An image of it, and the nonce that it shows.
    pub older: Option<(u64, Device)>,
    /// Its medium, while another one is in its place.
    pub newest: Option<Device>,
    /// Last lease told to the core.
    pub lease: Time,
    /// Its log prefix is not provable: it waits to be dropped, then starts anew.
    pub suspect: bool,
    /// PGs whose QUIESCE is not answered yet.
    pub quiescing: usize,
    /// PGs and epochs of the newest QUIESCE.
    pub quiesced: BTreeMap<u32, drystone_types::Epoch>,
    /// Open nonce of the process that was asked.
    pub quiesced_nonce: u64,
}

impl World {
    /// Starts a server process.
    pub fn start_server(&mut self, n: usize) {
        let Some(node) = self.nodes.get_mut(n) else { return };
        if node.up {
            return;
        }
        node.life += 1;
        (node.up, node.power, node.map, node.reading) = (true, true, None, None);
        self.trace(|| format!("node{n} starts"));
        self.counts.hit("server.starts");
        let boot = self.fresh();
        let mine: Vec<usize> = (0..self.drives.len()).filter(|d| self.drives[*d].node == n).collect();
        if self.nodes[n].beacon.is_some() {
            // It met another server before this one: no lease of that stays in the page.
            self.counts.hit("beacon.meets_another_server");
            if self.rules.on(Rule::MeetServer) {
                let counters = vec![self.now / 100_000; mine.len()];
                self.beacon_event(n, self.nodes[n].beacon_life, BeaconEvent::Server { counters });
            }
        } else {
            self.start_beacon(n, boot, mine.len());
        }
        self.nodes[n].opening = mine.len();
        for d in mine {
            self.open_drive(d);
        }
    }

    fn start_beacon(&mut self, n: usize, boot: u64, slots: usize) {
        let config =
            BeaconConfig { node: node_uuid(n), boot, master: MASTER, key_epoch: KEY_EPOCH, slots, rules: self.rules };
        let (now, voters) = self.first_voters(n);
        let mut beacon = BeaconCore::new(config, now);
        beacon.step(now, voters, &mut Vec::new());
        let node = &mut self.nodes[n];
        (node.beacon, node.page, node.ends) = (Some(beacon), vec![0; slots], vec![0; slots]);
        node.beacon_life += 1;
        let life = node.beacon_life;
        self.after(BEACON_PERIOD / 3, Ev::BeaconTick(n, life));
    }

    /// Stops a node now and starts it again a while later.
    pub fn stop_for_a_while(&mut self, n: usize, life: Life, power: bool) {
        if self.nodes[n].life != life || !self.nodes[n].up {
            return;
        }
        self.stop_server(n, power);
        let back = self.rng.range(20_000, if power { 8_000_000 } else { 4_000_000 });
        self.after(back, Ev::StartServer(n));
    }

    /// Stops a server process; what was in flight to its devices is settled by `power_cut` or not.
    pub fn stop_server(&mut self, n: usize, power_cut: bool) {
        if !self.nodes[n].up {
            return;
        }
        self.trace(|| format!("node{n} {}", if power_cut { "POWER CUT" } else { "killed" }));
        for d in 0..self.drives.len() {
            if self.drives[d].node != n {
                continue;
            }
            self.collect_replica(d);
            let drive = &mut self.drives[d];
            let replica = drive.replica.take();
            let opening = drive.opening.take();
            drive.image = replica
                .and_then(|mut r| storage::image(r.store_mut()))
                .or(opening.map(|(s, _)| s))
                .or(drive.image.take());
            drive.life += 1;
            let mut rng = self.rng.fork(self.now ^ d as u64);
            if power_cut {
                drive.dev.power_cut(&mut rng);
            } else {
                drive.dev.process_gone(&mut rng);
            }
        }
        let node = &mut self.nodes[n];
        (node.up, node.map, node.armed) = (false, None, None);
        node.power = !power_cut;
        node.life += 1;
        self.frozen.remove(&Proc::Server(n));
        if power_cut || !self.plan.beacon_process {
            node.beacon = None;
            node.beacon_life += 1;
            node.page.clear();
            node.ends.clear();
            self.frozen.remove(&Proc::Beacon(n));
        }
        self.break_server_conns(n, power_cut);
    }

    /// One ReadMap per process at a time.
    pub fn read_map_server(&mut self, n: usize) {
        if self.nodes[n].opening > 0 || !self.nodes[n].up {
            return;
        }
        match self.nodes[n].reading {
            Some(_) => self.nodes[n].reading = Some(true),
            None => {
                self.nodes[n].reading = Some(false);
                let begun = self.local(Place::Node(n));
                self.call(Proc::Server(n), Request::ReadMap(begun));
            }
        }
    }

    /// An answer of the store for a server process.
    pub fn server_reply(&mut self, n: usize, answer: Answer) {
        match answer {
            Answer::Map { read_at, map, as_of, suspects } => {
                let again = self.nodes[n].reading.take() == Some(true);
                self.server_map(n, map, Some(read_at));
                let life = self.nodes[n].beacon_life;
                self.beacon_event(n, life, BeaconEvent::Suspects { as_of, keys: suspects });
                if again {
                    self.read_map_server(n);
                }
            }
            Answer::Generations(d, revision, list) => {
                let life = self.drives[d].life;
                let pool = crate::meta::POOL;
                self.replica_event(d, life, Event::Generations { pool, revision, list });
            }
            Answer::Opened(d, nonce, allowed) => self.drive_opened(d, nonce, allowed),
            _ => {}
        }
    }

    /// A map for a server process: the cores first, then the beacon, so that no lease rests on a map
    /// the cores have not adopted.
    pub fn server_map(&mut self, n: usize, map: Arc<ClusterMap>, read_at: Option<Time>) {
        if self.nodes[n].map.as_ref().is_none_or(|old| old.revision < map.revision) {
            self.nodes[n].map = Some(map.clone());
        }
        for d in 0..self.drives.len() {
            if self.drives[d].node == n {
                let life = self.drives[d].life;
                self.replica_event(d, life, Event::Map(map.clone()));
            }
        }
        let rev = self.nodes[n].map.as_ref().map(|m| m.revision).unwrap_or_default();
        let life = self.nodes[n].beacon_life;
        self.beacon_event(n, life, BeaconEvent::Map { rev, read_at });
    }
}

impl Drive {
    /// A drive whose process does not run yet.
    pub fn new(id: DriveId, node: usize, serial: u64, dev: Device) -> Drive {
        Drive {
            id,
            node,
            serial,
            dev,
            image: None,
            replica: None,
            opening: None,
            life: 0,
            nonce: 0,
            tick_at: Time::MAX,
            flushing: false,
            outbox: BTreeMap::new(),
            slow: (0, 0),
            slow_least: 0,
            slow_reads: 0,
            older: None,
            newest: None,
            lease: 0,
            suspect: false,
            quiescing: 0,
            quiesced: BTreeMap::new(),
            quiesced_nonce: 0,
        }
    }
}
