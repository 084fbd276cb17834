//! Server nodes: drives with their real replica cores, and the beacon thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use drystone_membership::beacon::{Action as BeaconAction, BeaconConfig, BeaconCore, Event as BeaconEvent};
use drystone_replica::{Action, Config, Control, ControlResult, Event, LeaveWhy, Replica, Report};
use drystone_store::api::DevOp;
use drystone_types::consts::BEACON_PERIOD;
use drystone_types::{ClusterMap, DriveId, Frame, Uuid};

use crate::device::Device;
use crate::event::{Answer, End, Ev, Life, News, Proc, Request};
use crate::net::node_uuid;
use crate::storage::{self, Store};
use crate::world::{Time, World, KEY_EPOCH, MASTER};

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
    /// The lease page: until when each drive's thread may answer reads.
    pub page: Vec<Time>,
    /// Newest map of the process.
    pub map: Option<Arc<ClusterMap>>,
    /// A ReadMap is under way, and whether another is wanted after it.
    pub reading: Option<bool>,
    /// Drives whose open the store has not answered.
    pub opening: usize,
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
    /// Last lease told to the core.
    pub lease: Time,
    /// Its log prefix is not provable: it waits to be dropped, then starts anew.
    pub suspect: bool,
    /// PGs whose QUIESCE is not answered yet.
    pub quiescing: usize,
    /// PGs and epochs of the newest QUIESCE.
    pub quiesced: BTreeMap<u32, drystone_types::Epoch>,
}

/// Scrubs after which every bad block of a member has been repaired.
const SCRUB_ROUNDS: u32 = 5;
/// Control ids of QUIESCE, to tell them from others.
const QUIESCE_ID: u64 = 1 << 40;

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
        let config = BeaconConfig { node: node_uuid(n), boot, master: MASTER, key_epoch: KEY_EPOCH, slots: mine.len() };
        let mut beacon = BeaconCore::new(config, self.now);
        let nodes: Vec<Uuid> = (0..self.nodes.len()).map(node_uuid).collect();
        beacon.step(self.now, BeaconEvent::Voters { version: 1, voters: nodes.clone(), nodes }, &mut Vec::new());
        let life = self.nodes[n].life;
        self.nodes[n].beacon = Some(beacon);
        self.nodes[n].page = vec![0; mine.len()];
        self.nodes[n].opening = mine.len();
        for d in mine {
            self.open_drive(d);
        }
        self.after(BEACON_PERIOD / 3, Ev::BeaconTick(n, life));
    }

    fn open_drive(&mut self, d: usize) {
        let nonce = self.fresh();
        let id = self.drives[d].id;
        let clear_suspect = !self.meta.shard().1.iter().any(|r| r.is_insync(id));
        let opening = storage::Opening { drive: id, nonce, slots: self.plan.drive_slots, clear_suspect };
        let drive = &mut self.drives[d];
        drive.life += 1;
        drive.lease = 0;
        drive.outbox.clear();
        match storage::open(&mut drive.dev, drive.image.take(), &opening) {
            Ok((_, true)) if !drive.dev.lies && !self.flipped.contains(&d) => {
                self.fail("SUSPECT", format!("drive{} is suspect after a crash of an honest device", d + 1));
                return;
            }
            Ok(store) => {
                drive.suspect = store.1;
                drive.opening = Some(store);
            }
            Err(why) => {
                self.fail("STORE", format!("drive{} cannot be opened after a crash: {why}", d + 1));
                return;
            }
        }
        let node = self.drives[d].node;
        self.call(Proc::Server(node), Request::Open(d, nonce));
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
        (node.up, node.beacon, node.map) = (false, None, None);
        node.power = !power_cut;
        node.life += 1;
        node.page.clear();
        self.frozen.remove(&Proc::Server(n));
        self.frozen.remove(&Proc::Beacon(n));
        self.break_server_conns(n, power_cut);
    }

    /// A drive may serve: its core starts.
    fn drive_opened(&mut self, d: usize, nonce: u64, allowed: bool) {
        let Some((store, suspect)) = self.drives[d].opening.take() else { return };
        let n = self.drives[d].node;
        if !allowed {
            self.counts.hit("drive.open_refused");
            self.nodes[n].opening = self.nodes[n].opening.saturating_sub(1);
            return;
        }
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
                return;
            }
        };
        let drive = &mut self.drives[d];
        drive.replica = Some(replica);
        drive.nonce = nonce;
        drive.tick_at = Time::MAX;
        drive.flushing = false;
        self.replica_event(d, life, Event::Tick);
        // A map or a lease that rests on a read from before the open could be of before a drop that
        // compared the old nonce: only reads begun after every open count.
        self.nodes[n].opening = self.nodes[n].opening.saturating_sub(1);
        self.read_map_server(n);
        if self.scrubbing == Some(d) {
            // The one under way ended with the process.
            self.after(500_000, Ev::Scrub(d, life));
        }
    }

    /// One ReadMap per process at a time.
    pub fn read_map_server(&mut self, n: usize) {
        if self.nodes[n].opening > 0 {
            return;
        }
        match self.nodes[n].reading {
            Some(_) => self.nodes[n].reading = Some(true),
            None => {
                self.nodes[n].reading = Some(false);
                self.call(Proc::Server(n), Request::ReadMap(self.now));
            }
        }
    }

    /// An answer of the store for a server process.
    pub fn server_reply(&mut self, n: usize, answer: Answer) {
        match answer {
            Answer::Map { read_at, map, as_of, suspects } => {
                let again = self.nodes[n].reading.take() == Some(true);
                self.server_map(n, map, Some(read_at));
                let life = self.nodes[n].life;
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
        let life = self.nodes[n].life;
        self.beacon_event(n, life, BeaconEvent::Map { rev, read_at });
    }

    /// Steps a drive's core.
    pub fn replica_event(&mut self, d: usize, life: Life, event: Event) {
        let Some(drive) = self.drives.get_mut(d) else { return };
        if drive.life != life {
            return;
        }
        let Some(replica) = drive.replica.as_mut() else { return };
        let page = self.nodes.get(drive.node).map(|n| n.page.as_slice()).unwrap_or(&[]);
        let slot = d % self.plan.drives_per_node.max(1);
        let lease = page.get(slot).copied().unwrap_or(0);
        let mut out = Vec::new();
        if lease != drive.lease {
            drive.lease = lease;
            replica.step(self.now, Event::Lease { valid_until: lease }, &mut out);
        }
        replica.step(self.now, event, &mut out);
        if !drive.flushing {
            // A turn of the reactor: what arrives until then is flushed together.
            drive.flushing = true;
            let turn = if self.plan.turn == 0 { 0 } else { self.rng.below(self.plan.turn) };
            self.after(turn, Ev::Flush(d, life));
        }
        for action in out {
            self.replica_action(d, life, action);
        }
    }

    /// The end of a turn.
    pub fn replica_flush(&mut self, d: usize, life: Life) {
        let Some(drive) = self.drives.get_mut(d) else { return };
        if drive.life != life {
            return;
        }
        drive.flushing = false;
        let Some(replica) = drive.replica.as_mut() else { return };
        let mut out = Vec::new();
        // Reads that were waiting in the store are answered now: by the lease of now.
        let page = self.nodes.get(drive.node).map(|n| n.page.as_slice()).unwrap_or(&[]);
        let lease = page.get(d % self.plan.drives_per_node.max(1)).copied().unwrap_or(0);
        if lease != drive.lease {
            drive.lease = lease;
            replica.step(self.now, Event::Lease { valid_until: lease }, &mut out);
        }
        replica.flush(self.now, &mut out);
        if let Some(at) = replica.next_deadline() {
            let at = at.max(self.now);
            if at < drive.tick_at {
                drive.tick_at = at;
                self.at(at, Ev::ReplicaTick(d, life, at));
            }
        }
        for action in out {
            self.replica_action(d, life, action);
        }
    }

    /// A drive's timer.
    pub fn replica_tick(&mut self, d: usize, life: Life, at: Time) {
        let Some(drive) = self.drives.get_mut(d) else { return };
        if drive.life != life || drive.tick_at != at {
            return;
        }
        drive.tick_at = Time::MAX;
        self.replica_event(d, life, Event::Tick);
    }

    fn replica_action(&mut self, d: usize, life: Life, action: Action) {
        let (id, n) = (self.drives[d].id, self.drives[d].node);
        match action {
            Action::Send { peer, frame } => {
                self.check_server_sends(d, peer.0 as usize, &frame);
                self.travel(peer.0 as usize, false, frame);
            }
            Action::SendDrive { drive, frame } => self.send_drive(d, drive, frame),
            Action::Dev(op) => self.device_submit(d, life, op),
            Action::NeedMap { .. } => self.read_map_server(n),
            Action::NeedGenerations { since, .. } => self.call(Proc::Server(n), Request::Generations(d, since)),
            Action::CopyComplete { pg, epoch } => {
                self.trace(|| format!("drive{} copy of pg{} complete in e{}", d + 1, pg.pg, epoch));
                self.meta.copied.insert((pg.pg, id, epoch));
                self.tell_managers(News::CopyComplete { pg: pg.pg, drive: id, epoch });
            }
            Action::LeavePg { pg, why } => {
                self.trace(|| format!("drive{} leaves pg{}: {why:?}", d + 1, pg.pg));
                self.counts.hit(match why {
                    LeaveWhy::Suspect => "leave.suspect",
                    LeaveWhy::PeerCheck => "leave.peer_check",
                    LeaveWhy::NoSpace => "leave.no_space",
                    LeaveWhy::DriveFailed => "leave.drive_failed",
                });
                let nonce = self.drives[d].nonce;
                self.tell_managers(News::Leave { pg: pg.pg, drive: id, nonce });
            }
            Action::ControlDone { id: control, result } => self.control_done(d, control, result),
            Action::Report(report) => self.replica_report(d, report),
            Action::Invariant(what) => self.fail("INVARIANT", format!("drive{}: {what}", d + 1)),
        }
    }

    fn replica_report(&mut self, d: usize, report: Report) {
        self.trace(|| format!("drive{} reports {report:?}", d + 1));
        match report {
            Report::ScrubDone { bad, .. } => {
                self.counts.hit("scrub.done");
                self.scrub_rounds += 1;
                // What stays bad after a few rounds is of a PG the drive has left: nobody reads it.
                if self.scrubbing == Some(d) && (bad == 0 || self.scrub_rounds >= SCRUB_ROUNDS) {
                    self.scrubbing = None;
                } else if self.scrubbing == Some(d) {
                    // Repairs run after the scrub; the next one shows whether they succeeded.
                    let life = self.drives[d].life;
                    self.after(1_000_000, Ev::Scrub(d, life));
                }
            }
            Report::Healed { .. } => self.counts.hit("scrub.healed"),
            Report::Unrepaired { .. } => self.counts.hit("scrub.unrepaired"),
            Report::DriveFailed(_) => self.counts.hit("drive.failed"),
            Report::Usage(_) | Report::Resync { .. } | Report::MapRefused(_) => {}
        }
    }

    fn control_done(&mut self, d: usize, control: u64, result: ControlResult) {
        if control == QUIESCE_ID && result == ControlResult::Done {
            let drive = &mut self.drives[d];
            drive.quiescing = drive.quiescing.saturating_sub(1);
            if drive.quiescing == 0 {
                let id = drive.id;
                self.tell_managers(News::Quiesced(id));
            }
        }
    }

    /// Asks a live drive to answer no reads any more in its PGs.
    pub fn quiesce_drive(&mut self, d: usize) {
        let (id, life) = (self.drives[d].id, self.drives[d].life);
        let (_, records) = self.meta.shard();
        let pgs: Vec<(u32, drystone_types::Epoch)> =
            records.iter().enumerate().filter(|(_, r)| r.is_member(id)).map(|(i, r)| (i as u32, r.epoch)).collect();
        self.drives[d].quiescing = pgs.len();
        self.drives[d].quiesced = pgs.iter().copied().collect();
        for (pg, epoch) in pgs {
            let pg = drystone_types::PgId { pool: crate::meta::POOL, pg };
            let req = Control::Quiesce { pg, epoch };
            let delay = self.latency();
            self.after(delay, Ev::Replica(d, life, Box::new(Event::Control { id: QUIESCE_ID, req })));
        }
    }

    fn device_submit(&mut self, d: usize, life: Life, op: DevOp) {
        let (DevOp::Write { id, .. } | DevOp::Read { id, .. } | DevOp::Flush { id } | DevOp::Discard { id, .. }) = op;
        let base = if matches!(op, DevOp::Read { .. }) { 60 } else { 40 };
        let (extra, until) = self.drives[d].slow;
        let extra = if until > self.now { self.rng.below(extra) } else { 0 };
        let delay = base + self.rng.below(120) + extra + self.drives[d].slow_least;
        self.drives[d].dev.submit(id, op);
        self.after(delay, Ev::DevDone(d, life, id));
    }

    /// A device operation ends. The device works on while its server stands still; the core hears later.
    pub fn device_done(&mut self, d: usize, life: Life, id: u64) {
        if self.drives[d].life != life {
            return;
        }
        let Some(result) = self.drives[d].dev.finish(id) else { return };
        self.after(0, Ev::Replica(d, life, Box::new(Event::Dev { id, result })));
    }

    fn send_drive(&mut self, d: usize, to: DriveId, frame: Frame) {
        let life = self.drives[d].life;
        let Some(target) = self.drives.iter().position(|x| x.id == to) else {
            self.after(1_000, Ev::Replica(d, life, Box::new(Event::DriveDown { drive: to })));
            return;
        };
        match self.conn_up(End::Drive(d), target) {
            Some(conn) => self.travel(conn, true, frame),
            None => {
                self.drives[d].outbox.entry(target).or_default().push(frame);
                self.dial(End::Drive(d), target);
            }
        }
    }

    /// A connection between drives is up: what waited for it leaves.
    pub fn flush_drive_queue(&mut self, d: usize, target: usize, conn: usize) {
        for frame in self.drives[d].outbox.remove(&target).unwrap_or_default() {
            self.travel(conn, true, frame);
        }
    }

    /// A drive cannot be reached by another.
    pub fn drive_unreachable(&mut self, d: usize, target: usize) {
        self.drives[d].outbox.remove(&target);
        let (life, id) = (self.drives[d].life, self.drives[target].id);
        self.replica_event(d, life, Event::DriveDown { drive: id });
    }

    /// Steps a beacon.
    pub fn beacon_event(&mut self, n: usize, life: Life, event: BeaconEvent) {
        let Some(node) = self.nodes.get_mut(n) else { return };
        if node.life != life {
            return;
        }
        let Some(beacon) = node.beacon.as_mut() else { return };
        let mut out = Vec::new();
        beacon.step(self.now, event, &mut out);
        for action in out {
            match action {
                BeaconAction::Send { to, bytes } => {
                    let to = usize::from(to.0[0]).saturating_sub(1);
                    self.datagram(n, to, bytes);
                }
                BeaconAction::Lease(page) => {
                    let (had, has) =
                        (self.nodes[n].page.iter().any(|u| *u > self.now), page.iter().any(|u| *u > self.now));
                    if had && !has {
                        self.counts.hit("lease.lost");
                        self.trace(|| format!("node{n} lost its lease"));
                    }
                    self.nodes[n].page = page;
                }
                BeaconAction::NeedMap => self.read_map_server(n),
                BeaconAction::Revoked { rev } => self.tell_managers(News::Revoked(n, rev)),
                BeaconAction::Vote { suspect, granted } => self.tell_managers(News::Vote(n, suspect, granted)),
                BeaconAction::Quorum(_) => {}
            }
        }
    }

    /// The beacon's period: it reads the counters of the lease page and sends.
    pub fn beacon_tick(&mut self, n: usize, life: Life) {
        let Some(node) = self.nodes.get(n) else { return };
        if node.life != life || node.beacon.is_none() {
            return;
        }
        // Threads move their counters every 100 ms when idle; a frozen or hung process does not.
        let still = self.frozen.get(&Proc::Server(n)).is_some_and(|t| *t > self.now);
        let slots = node.page.len();
        if !still {
            let counters = vec![self.now / 100_000; slots];
            self.beacon_event(n, life, BeaconEvent::Slots(counters));
        }
        self.beacon_event(n, life, BeaconEvent::Tick);
        self.after(BEACON_PERIOD / 3, Ev::BeaconTick(n, life));
    }

    /// Starts a scrub.
    pub fn scrub(&mut self, d: usize, life: Life) {
        self.replica_event(d, life, Event::Control { id: 1, req: Control::Scrub });
    }

    /// Adds a replica's counters to the run's before it goes.
    pub fn collect_replica(&mut self, d: usize) {
        let Some(replica) = self.drives[d].replica.as_ref() else { return };
        let (stats, store) = (format!("{:?}", replica.stats()), storage::counters(replica.store()));
        self.counts.add_fields("replica", &stats);
        self.counts.add_fields("store", &store);
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
            lease: 0,
            suspect: false,
            quiescing: 0,
            quiesced: BTreeMap::new(),
        }
    }
}
