//! Beacons whose lease page is a file, with servers beside them that freeze, die and restart.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use drystone_link::mailbox;
use drystone_membership::BeaconConfig;
use drystone_reactor::{spawn, Config, Ctx, Handler, OpResult, Remote, Running, TimerId, UserToken};
use drystone_server::beacon::{spawn_beacon_process, BeaconCommand};
use drystone_server::lease::SLOTS;
use drystone_server::lease_file::{attach_beacon, attach_server};
use drystone_server::lease_watch::{spawn_watch, WatchCommand};
use drystone_server::{EventSource, LeasePage, ServerEvent};
use drystone_types::consts::{Micros, BEACON_SILENCE, READ_LEASE};
use drystone_types::{Rev, Rules, Uuid};

const MASTER: [u8; 32] = [6; 32];
const REV: Rev = Rev(5);
const ROUND: Rev = Rev(7);
/// A test that waits this long hangs.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// The clock of the reactors, which nobody else can read.
struct Clock(Remote<mpsc::Sender<Micros>>);

struct Teller;

impl Handler for Teller {
    type Command = mpsc::Sender<Micros>;
    fn on_command(&mut self, cx: &mut Ctx, answer: mpsc::Sender<Micros>) {
        let _ = answer.send(cx.now_us());
    }
    fn on_completion(&mut self, _: &mut Ctx, _: UserToken, _: OpResult) {}
    fn on_timer(&mut self, _: &mut Ctx, _: TimerId, _: UserToken) {}
    fn on_turn_end(&mut self, _: &mut Ctx) {}
}

impl Clock {
    fn now(&self) -> Micros {
        let (answer, now) = mpsc::channel();
        assert!(self.0.send(answer).is_ok());
        now.recv().unwrap()
    }
}

/// What a server process does at the page.
struct Server {
    page: LeasePage,
    watch: Remote<WatchCommand>,
    running: Option<Running>,
    events: EventSource,
    frozen: bool,
}

impl Server {
    fn start(folder: &Path, instance: u64) -> Server {
        let (page, seat) = attach_server(folder, instance).unwrap();
        let (sink, events) = mailbox().unwrap();
        let (watch, running) = spawn_watch(page.clone(), seat, sink).unwrap();
        Server { page, watch, running: Some(running), events, frozen: false }
    }
    fn serve(&mut self, now: Micros) {
        if self.frozen {
            return;
        }
        self.page.bump(0);
        for event in self.events.take() {
            if matches!(event, ServerEvent::NeedMap { .. }) {
                self.page.publish_map(REV, Some(now));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.watch.send(WatchCommand::Stop);
        self.running.take().unwrap().join().unwrap().unwrap();
    }
}

/// The process dies: it says nothing, and its lock is free.
fn stops(node: &mut Node) {
    let server = node.server.take().unwrap();
    // What a killed process leaves in the page, and a clean end does not.
    let instance = server.page.observe().unwrap().instance;
    drop(server);
    let page = std::fs::File::options().write(true).open(node.folder.join("lease.page")).unwrap();
    page.write_all_at(&instance.to_le_bytes(), 8 * 8).unwrap();
}

struct Node {
    id: Uuid,
    addr: SocketAddr,
    folder: PathBuf,
    beacon: Option<(Remote<BeaconCommand>, Running)>,
    events: Option<EventSource>,
    server: Option<Server>,
    silent: Vec<Uuid>,
    revoked: Vec<(Rev, bool)>,
}

impl Node {
    fn start(name: &str, n: u8) -> Node {
        let folder = std::env::temp_dir().join(format!("drystone-beacon-{name}-{n}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let (addr, id) = ("127.0.0.1:0".parse().unwrap(), Uuid([n; 16]));
        let (silent, revoked) = (Vec::new(), Vec::new());
        let mut node = Node { id, addr, folder, beacon: None, events: None, server: None, silent, revoked };
        node.start_beacon(1);
        node.server = Some(Server::start(&node.folder, 1));
        node
    }
    fn start_beacon(&mut self, boot: u64) {
        let place = attach_beacon(&self.folder, boot).unwrap();
        let socket = UdpSocket::bind(self.addr).unwrap();
        self.addr = socket.local_addr().unwrap();
        let (sink, events) = mailbox().unwrap();
        let config =
            BeaconConfig { node: self.id, boot, master: MASTER, key_epoch: 1, slots: SLOTS, rules: Rules::ALL };
        self.beacon = Some(spawn_beacon_process(config, socket.into(), place, sink).unwrap());
        self.events = Some(events);
    }
    fn tell(&self, command: BeaconCommand) {
        assert!(self.beacon.as_ref().unwrap().0.send(command).is_ok());
    }
    fn stop_beacon(&mut self) {
        let (remote, running) = self.beacon.take().unwrap();
        assert!(remote.send(BeaconCommand::Stop).is_ok());
        running.join().unwrap().unwrap();
        self.events = None;
    }
    fn lease(&self, now: Micros) -> Micros {
        self.server.as_ref().map_or(0, |s| s.page.valid_until(0, now))
    }
    fn serve(&mut self, now: Micros) {
        if let Some(server) = &mut self.server {
            server.serve(now);
        }
        for event in self.events.iter().flat_map(EventSource::take) {
            match event {
                ServerEvent::Silent(nodes) => self.silent = nodes,
                ServerEvent::Revoked { round, granted } => self.revoked.push((round, granted)),
                _ => {}
            }
        }
    }
}

struct Cluster {
    clock: Clock,
    nodes: Vec<Node>,
}

impl Cluster {
    fn start(name: &str) -> Cluster {
        let clock = Clock(spawn("clock", Config::default(), |_| Teller).unwrap().0);
        let cluster = Cluster { clock, nodes: (1..=3).map(|n| Node::start(name, n)).collect() };
        cluster.nodes.iter().for_each(|node| cluster.introduce(node));
        cluster
    }
    fn introduce(&self, to: &Node) {
        let nodes: Vec<_> = self.nodes.iter().map(|n| (n.id, n.addr)).collect();
        let voters = self.nodes.iter().map(|n| n.id).collect();
        to.tell(BeaconCommand::Voters { version: 1, voters, nodes });
        to.tell(BeaconCommand::Suspects { as_of: Rev(1), keys: Vec::new() });
    }
    fn until(&mut self, what: &str, mut holds: impl FnMut(Micros, &[Node]) -> bool) {
        let started = Instant::now();
        loop {
            let now = self.clock.now();
            self.nodes.iter_mut().for_each(|node| node.serve(now));
            if holds(now, &self.nodes) {
                return;
            }
            let state: Vec<_> = self.nodes.iter().map(|n| (n.lease(now), &n.silent, &n.revoked)).collect();
            assert!(started.elapsed() < DEADLINE, "waited in vain: {what}; at {now}: {state:?}");
            std::thread::sleep(LOOK);
        }
    }
    fn until_all_answer(&mut self) {
        self.until("all have a lease", |now, nodes| nodes.iter().all(|n| n.lease(now) > now));
    }
    /// Asks a beacon until it says what is expected.
    fn until_revoked(&mut self, n: usize, round: Rev, granted: bool) {
        let instance = 1;
        let clock = Instant::now();
        while self.nodes[n].revoked.last() != Some(&(round, granted)) {
            assert!(clock.elapsed() < DEADLINE);
            self.nodes[n].revoked.clear();
            self.nodes[n].tell(BeaconCommand::Revoke { round, instance });
            self.until("the beacon answers", |_, nodes| !nodes[n].revoked.is_empty());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if node.beacon.is_some() {
                node.stop_beacon();
            }
            node.server = None;
            let _ = std::fs::remove_dir_all(&node.folder);
        }
    }
}

#[test]
fn a_dead_server_leaves_its_beacon_a_voter_so_that_the_last_server_reads_on() {
    let mut cluster = Cluster::start("voter");
    cluster.until_all_answer();
    cluster.nodes[1].server = None;
    cluster.nodes[2].server = None;
    let died = cluster.clock.now();
    cluster
        .until("several leases later the first is lent on", |now, nodes| nodes[0].lease(now) > died + 2 * READ_LEASE);
    assert!(cluster.nodes.iter().all(|n| n.silent.is_empty()));
}

#[test]
fn a_frozen_servers_lease_ends_under_a_living_beacon() {
    let mut cluster = Cluster::start("frozen");
    cluster.until_all_answer();
    cluster.nodes[1].server.as_mut().unwrap().frozen = true;
    cluster.until("its lease ends", |now, nodes| nodes[1].lease(now) == 0);
    assert!(cluster.nodes[0].silent.is_empty(), "nobody misses the node");
    cluster.nodes[1].server.as_mut().unwrap().frozen = false;
    cluster.until_all_answer();
}

#[test]
fn a_restarted_server_gets_a_lease_of_its_own_and_never_the_one_before() {
    let mut cluster = Cluster::start("restart");
    cluster.until_all_answer();
    cluster.nodes[1].server = None;
    let started = cluster.clock.now();
    let server = Server::start(&cluster.nodes[1].folder, 2);
    assert_eq!(server.page.valid_until(0, started), 0);
    cluster.nodes[1].server = Some(server);
    cluster.until_all_answer();
}

#[test]
fn a_restarted_beacon_lends_again_once_it_knows_whom_it_promised() {
    let mut cluster = Cluster::start("beacon");
    cluster.until_all_answer();
    cluster.nodes[1].stop_beacon();
    assert_eq!(cluster.nodes[1].lease(cluster.clock.now()), 0, "it took its leases along");
    let gone = cluster.clock.now();
    cluster.until("the others notice", |now, _| now > gone + BEACON_SILENCE);
    cluster.nodes[1].start_beacon(2);
    cluster.until("it lends nothing", |now, nodes| {
        assert_eq!(nodes[1].lease(now), 0);
        now > gone + 2 * BEACON_SILENCE
    });
    cluster.introduce(&cluster.nodes[1]);
    cluster.until_all_answer();
}

#[test]
fn a_frozen_servers_lease_is_taken_on_demand_and_a_moving_ones_is_not() {
    let mut cluster = Cluster::start("revoke");
    cluster.until_all_answer();
    let started = cluster.clock.now();
    cluster.until("the beacons are old enough", |now, _| now > started + 2 * READ_LEASE);
    cluster.until_revoked(1, Rev(0), false);
    cluster.until_revoked(1, ROUND, false);
    cluster.until_all_answer();

    cluster.nodes[1].server.as_mut().unwrap().frozen = true;
    cluster.until_revoked(1, Rev(0), true);
    cluster.until_revoked(1, ROUND, true);
    assert_eq!(cluster.nodes[1].lease(cluster.clock.now()), 0);
    cluster.nodes[1].server.as_mut().unwrap().frozen = false;
    let thawed = cluster.clock.now();
    cluster.until("it stays without", |now, nodes| {
        assert_eq!(nodes[1].lease(now), 0);
        now > thawed + READ_LEASE
    });
    cluster.nodes[1].tell(BeaconCommand::Suspects { as_of: ROUND, keys: Vec::new() });
    cluster.until_all_answer();
}

#[test]
fn a_dead_server_needs_no_wait_and_its_successor_waits_for_the_end_of_the_suspicion() {
    let mut cluster = Cluster::start("dead");
    cluster.until_all_answer();
    let started = cluster.clock.now();
    cluster.until("the beacons are old enough", |now, _| now > started + 2 * READ_LEASE);
    stops(&mut cluster.nodes[1]);
    for instance in [0, 2] {
        cluster.nodes[1].tell(BeaconCommand::Revoke { round: ROUND, instance });
        cluster.until("the beacon answers", |_, nodes| !nodes[1].revoked.is_empty());
        assert_eq!(cluster.nodes[1].revoked.pop(), Some((ROUND, false)), "it never met that process");
    }
    cluster.nodes[1].tell(BeaconCommand::Revoke { round: ROUND, instance: 1 });
    cluster.until("the beacon answers", |_, nodes| !nodes[1].revoked.is_empty());
    assert_eq!(cluster.nodes[1].revoked, [(ROUND, true)], "at the first try");

    cluster.nodes[1].server = Some(Server::start(&cluster.nodes[1].folder, 2));
    let again = cluster.clock.now();
    cluster.until("it gets none yet", |now, nodes| {
        assert_eq!(nodes[1].lease(now), 0);
        now > again + READ_LEASE
    });
    cluster.nodes[1].tell(BeaconCommand::Suspects { as_of: ROUND, keys: Vec::new() });
    cluster.until_all_answer();
}

#[test]
fn a_page_that_was_removed_ends_the_beacon_and_the_server() {
    let mut cluster = Cluster::start("removed");
    cluster.until_all_answer();
    std::fs::remove_file(cluster.nodes[0].folder.join("lease.page")).unwrap();
    let (mut beacon, mut server) = (false, false);
    let started = Instant::now();
    while !(beacon && server) {
        assert!(started.elapsed() < DEADLINE);
        let lost = |e: ServerEvent| matches!(e, ServerEvent::LeasePageLost);
        beacon |= cluster.nodes[0].events.as_ref().unwrap().take().into_iter().any(lost);
        server |= cluster.nodes[0].server.as_ref().unwrap().events.take().into_iter().any(lost);
        std::thread::sleep(LOOK);
    }
}
