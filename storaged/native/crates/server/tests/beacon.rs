//! Beacons on loopback sockets: quorum, leases, silence, and a flood of garbage.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

use drystone_link::mailbox;
use drystone_membership::{BeaconConfig, Heartbeat};
use drystone_reactor::{spawn, Config, Ctx, Handler, OpResult, Remote, Running, TimerId, UserToken};
use drystone_server::beacon::{spawn_beacon, BeaconCommand};
use drystone_server::lease::SLOTS;
use drystone_server::{EventSource, LeasePage, ServerEvent};
use drystone_types::consts::{Micros, BEACON_PERIOD, BEACON_SILENCE, READ_LEASE};
use drystone_types::{Rev, Rules, Uuid};

const MASTER: [u8; 32] = [6; 32];
const REV: Rev = Rev(5);
/// A test that waits this long hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at a condition; also how often the answering threads of the test move.
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
    fn start() -> Clock {
        Clock(spawn("clock", Config::default(), |_| Teller).unwrap().0)
    }
    fn now(&self) -> Micros {
        let (answer, now) = mpsc::channel();
        assert!(self.0.send(answer).is_ok());
        now.recv().unwrap()
    }
}

struct Node {
    id: Uuid,
    addr: SocketAddr,
    remote: Remote<BeaconCommand>,
    running: Option<Running>,
    page: LeasePage,
    events: EventSource,
    /// Its answering thread (slot 0) is alive.
    moves: bool,
    quorum: bool,
    silent: Vec<Uuid>,
}

impl Node {
    fn start(n: u8, addr: &str, boot: u64) -> Node {
        let socket = UdpSocket::bind(addr).unwrap();
        let addr = socket.local_addr().unwrap();
        let (sink, events) = mailbox().unwrap();
        let page = LeasePage::default();
        let id = Uuid([n; 16]);
        let config = BeaconConfig { node: id, boot, master: MASTER, key_epoch: 1, slots: SLOTS, rules: Rules::ALL };
        let (remote, running) = spawn_beacon(config, socket.into(), page.clone(), sink).unwrap();
        let (quorum, silent) = (false, Vec::new());
        Node { id, addr, remote, running: Some(running), page, events, moves: true, quorum, silent }
    }
    fn tell(&self, command: BeaconCommand) {
        assert!(self.remote.send(command).is_ok());
    }
    fn stop(&mut self) {
        self.tell(BeaconCommand::Stop);
        self.running.take().unwrap().join().unwrap().unwrap();
    }
    fn lease(&self) -> Micros {
        self.page.valid_until(0, 0)
    }
    /// What the process around a beacon does.
    fn serve(&mut self, now: Micros) {
        if self.moves {
            self.page.bump(0);
        }
        for event in self.events.take() {
            match event {
                ServerEvent::NeedMap { .. } if self.running.is_some() => {
                    self.tell(BeaconCommand::Map { rev: REV, read_at: Some(now) });
                }
                ServerEvent::Quorum(inside) => self.quorum = inside,
                ServerEvent::Silent(nodes) => self.silent = nodes,
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
    fn start() -> Cluster {
        let mut cluster = Cluster { clock: Clock::start(), nodes: Vec::new() };
        for n in 1..=3 {
            // Their heartbeats are spread over the period, as those of machines are.
            let next = cluster.clock.now() + BEACON_PERIOD / 3;
            cluster.nodes.push(Node::start(n, "127.0.0.1:0", 1));
            cluster.until("the next one's turn", |now, _| now >= next);
        }
        cluster.nodes.iter().for_each(|node| cluster.introduce(node));
        cluster
    }
    fn introduce(&self, to: &Node) {
        let nodes: Vec<_> = self.nodes.iter().map(|n| (n.id, n.addr)).collect();
        let voters = self.nodes.iter().map(|n| n.id).collect();
        to.tell(BeaconCommand::Voters { version: 1, voters, nodes });
        // Until it knows whom it promised not to echo, a beacon echoes nobody.
        to.tell(BeaconCommand::Suspects { as_of: Rev(1), keys: Vec::new() });
    }
    /// Runs the processes around the beacons until the condition holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut(Micros, &[Node]) -> bool) {
        let started = Instant::now();
        loop {
            let now = self.clock.now();
            self.nodes.iter_mut().for_each(|node| node.serve(now));
            if holds(now, &self.nodes) {
                return;
            }
            let state: Vec<_> = self.nodes.iter().map(|n| (n.quorum, n.lease(), &n.silent)).collect();
            assert!(started.elapsed() < DEADLINE, "waited in vain: {what}; at {now}: {state:?}");
            std::thread::sleep(LOOK);
        }
    }
    fn until_all_answer(&mut self) {
        self.until("all in quorum with a lease", |now, nodes| {
            nodes.iter().all(|n| n.quorum && n.silent.is_empty() && n.lease() > now)
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().filter(|n| n.running.is_some()).for_each(Node::stop);
    }
}

#[test]
fn three_beacons_reach_quorum_and_lend_leases_only_to_threads_that_move() {
    let mut cluster = Cluster::start();
    cluster.until_all_answer();
    assert!(cluster.nodes.iter().all(|n| n.page.valid_until(1, 0) == 0), "nobody moves the other slots");

    cluster.nodes[0].moves = false;
    cluster.until("the lease of the thread that stands still ends", |_, nodes| nodes[0].lease() == 0);
    assert!(cluster.nodes[0].quorum, "its node is as well as before");
    let over = cluster.clock.now();
    cluster.until("the others are lent on", |_, nodes| nodes[1..].iter().all(|n| n.lease() > over + READ_LEASE));
    assert_eq!(cluster.nodes[0].lease(), 0);

    cluster.nodes[0].moves = true;
    cluster.until_all_answer();
}

#[test]
fn a_stopped_beacon_is_reported_silent_and_only_the_loss_of_the_majority_costs_the_others_their_leases() {
    let mut cluster = Cluster::start();
    cluster.until_all_answer();
    let (second, third) = (cluster.nodes[1].id, cluster.nodes[2].id);
    let addr = cluster.nodes[2].addr.to_string();

    cluster.nodes[2].stop();
    cluster.until("the others notice", |_, nodes| nodes[..2].iter().all(|n| n.silent == [third]));
    let noticed = cluster.clock.now();
    cluster.until("their leases go on", |_, nodes| {
        nodes[..2].iter().all(|n| n.quorum && n.lease() > noticed + READ_LEASE)
    });

    cluster.nodes[1].stop();
    cluster.until("the last one is alone", |_, nodes| {
        nodes[0].silent == [second, third] && !nodes[0].quorum && nodes[0].lease() == 0
    });

    // One of them is enough.
    cluster.nodes[2] = Node::start(3, &addr, 2);
    cluster.introduce(&cluster.nodes[2]);
    cluster.until("two are a majority again", |now, nodes| {
        [0, 2].iter().all(|n| nodes[*n].quorum && nodes[*n].silent == [second] && nodes[*n].lease() > now)
    });
}

/// Sends garbage until told to stop: noise, and heartbeats of a node that does not know the key.
fn flood(to: SocketAddr, forger: Uuid, over: Arc<AtomicBool>) {
    const EACH_MS: usize = 30;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let beat = Heartbeat {
        node: forger,
        boot: 1,
        seq: u64::MAX,
        sent_at: 1,
        map_rev: Rev(u64::MAX),
        voters_version: 9,
        echoes: Vec::new(),
    };
    let forged = beat.seal(&[0; 32], 1);
    while !over.load(Ordering::Relaxed) {
        for i in 0..EACH_MS {
            let bytes = if i == 0 { forged.as_slice() } else { &[i as u8; 32] };
            let _ = socket.send_to(bytes, to);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_flood_of_garbage_neither_stops_a_beacon_nor_makes_it_deaf() {
    let mut cluster = Cluster::start();
    cluster.until_all_answer();
    let over = Arc::new(AtomicBool::new(false));
    let (to, forger, told) = (cluster.nodes[0].addr, cluster.nodes[1].id, Arc::clone(&over));
    let flooding = std::thread::spawn(move || flood(to, forger, told));
    // Several times as long as silence takes to be noticed, everybody hears everybody.
    let mut well_since = None;
    cluster.until("nobody is missed", |now, nodes| {
        let well = nodes.iter().all(|n| n.quorum && n.silent.is_empty());
        well_since = well.then(|| well_since.unwrap_or(now));
        well_since.is_some_and(|since: Micros| now.saturating_sub(since) > 3 * BEACON_SILENCE)
    });
    cluster.until_all_answer();
    over.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
}
