//! A drive's thread with a client on a real socket, over a real file, and a device that can be held up.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../../../link/tests/common/mod.rs"]
mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use drystone_link::mailbox;
use drystone_reactor::{listen_tcp, spawn, Config, Running};
use drystone_replica::PeerId;
use drystone_store::{format, FormatParams, OpenParams, OpenReport};
use drystone_types::Uuid;

use super::*;
use crate::events::EventSource;
use crate::openfile::OpenDrive;
use common::{keys, me, ping, Peer, CLUSTER, MASTER, SERVER};

const DRIVE: DriveId = DriveId(3);
const SEGMENT: u64 = 1 << 20;
const BYTES: u64 = 40 * SEGMENT;
/// A test that waits this long hangs.
const DEADLINE: Duration = Duration::from_secs(60);

enum Order {
    Drive(DriveCommand),
    /// Actions for the first peer, as if one step of the core had made them.
    Act(fn(PeerId) -> Vec<Action>),
    /// Whether the device's answers are kept back: a device that hangs.
    Hold(bool),
    /// Whether the reads of exercises are kept back.
    HoldReads(bool),
    /// The reads of an exercise that were kept back first are answered.
    AnswerReads(usize),
    /// The time of an exercise is over.
    Late(u64),
    /// Of the exercise that runs: reads begun and kept back, records durable, whether one is on its way.
    Exercise(mpsc::Sender<(u32, usize, u32, bool)>),
    /// Longest time for closing.
    CloseMax(Micros),
    /// Answered when everything before it was done.
    Sync(mpsc::Sender<()>),
}

/// The handler under test, with a hand on its device.
struct Probe {
    drive: DriveHandler,
    hold: bool,
    held: Vec<(UserToken, OpResult)>,
    hold_reads: bool,
    held_reads: Vec<(UserToken, OpResult)>,
    /// Counts what arrived from clients and was looked at.
    arrived: Arc<AtomicU64>,
    arriving: u64,
}

impl Handler for Probe {
    type Command = Order;
    fn on_command(&mut self, cx: &mut Ctx, order: Order) {
        match order {
            Order::Drive(command) => self.drive.on_command(cx, command),
            Order::Act(make) => {
                let peer = self.drive.peers.first().unwrap();
                self.drive.actions.extend(make(peer));
                self.drive.perform(cx);
            }
            Order::Hold(hold) => {
                self.hold = hold;
                for (token, result) in std::mem::take(&mut self.held) {
                    self.drive.on_completion(cx, token, result);
                }
            }
            Order::HoldReads(hold) => {
                self.hold_reads = hold;
                self.answer_reads(cx, usize::MAX);
            }
            Order::AnswerReads(count) => self.answer_reads(cx, count),
            Order::Late(id) => self.drive.exercise_late(id),
            Order::Exercise(answer) => {
                let e = self.drive.exercise.as_ref();
                let (begun, written, writes) = e.map_or((0, 0, false), Exercise::progress);
                answer.send((begun, self.held_reads.len(), written, writes)).unwrap();
            }
            Order::CloseMax(max) => self.drive.close_max = max,
            Order::Sync(answer) => answer.send(()).unwrap(),
        }
    }
    fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) {
        if self.hold && token.class == CLASS_DEV {
            return self.held.push((token, result));
        }
        if self.hold_reads && token.class == CLASS_EXERCISE {
            return self.held_reads.push((token, result));
        }
        if token.class == peers::CLASS_CONN && matches!(result, OpResult::Received { result: Ok(1..), .. }) {
            self.arriving += 1;
        }
        self.drive.on_completion(cx, token, result);
    }
    fn on_timer(&mut self, cx: &mut Ctx, timer: TimerId, token: UserToken) {
        self.drive.on_timer(cx, timer, token);
    }
    fn on_turn_end(&mut self, cx: &mut Ctx) {
        self.drive.on_turn_end(cx);
        self.arrived.fetch_add(std::mem::take(&mut self.arriving), Ordering::SeqCst);
    }
}

impl Probe {
    fn answer_reads(&mut self, cx: &mut Ctx, count: usize) {
        let held = self.held_reads.len();
        for (token, result) in self.held_reads.drain(..count.min(held)) {
            self.drive.on_completion(cx, token, result);
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A drive that serves, and a client of it.
struct Served {
    path: PathBuf,
    remote: Remote<Order>,
    running: Running,
    arrived: Arc<AtomicU64>,
    source: EventSource,
    client: Peer,
}

impl Served {
    fn start(name: &str) -> Served {
        let path = std::env::temp_dir().join(format!("drystone-{}-{name}", std::process::id()));
        let mut dev = OpenDrive::open(&path, Some(BYTES)).unwrap();
        let drive = Uuid([3; 16]);
        let params =
            FormatParams { drive, drive_id: DRIVE, cluster: CLUSTER, segment_bytes: SEGMENT, feature_level: 1 };
        format(&mut dev, &params).unwrap();
        drop(dev);
        let (listener, addr) = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let (sink, source) = mailbox().unwrap();
        let arrived = Arc::new(AtomicU64::new(0));
        let (config, count) = (config_of(path.clone()), Arc::clone(&arrived));
        let build = move |cx: &mut Ctx| {
            let drive = config::open(config, listener, sink).unwrap()(cx);
            let (held, held_reads) = (Vec::new(), Vec::new());
            Probe { drive, hold: false, held, hold_reads: false, held_reads, arrived: count, arriving: 0 }
        };
        let (remote, running) = spawn("drive", Config::default(), build).unwrap();
        let mut client = Peer::connect(addr);
        assert_eq!(client.introduce(&me(MASTER)), Ok(SERVER));
        let served = Served { path, remote, running, arrived, source, client };
        served.expect_event(|e| matches!(e, ServerEvent::DriveReady { suspect: None, .. }));
        served
    }
    fn order(&self, order: Order) {
        assert!(self.remote.send(order).is_ok());
    }
    fn tell(&self, command: DriveCommand) {
        self.order(Order::Drive(command));
    }
    fn sync(&self) {
        let (answer, done) = mpsc::channel();
        self.order(Order::Sync(answer));
        done.recv_timeout(DEADLINE).unwrap();
    }
    fn fence(&self, id: u64) {
        self.tell(DriveCommand::Control { id, req: Control::Fence { vol: VolumeId(9), gen: Gen(1), nonce: 5 } });
    }
    fn expect_event(&self, wanted: impl Fn(&ServerEvent) -> bool) {
        until("an event", || self.source.take().iter().any(&wanted));
    }
    /// Asks, and waits until the drive has looked at it; whether it answers is another matter.
    fn ask(&mut self, number: u64) {
        let before = self.arrived.load(Ordering::SeqCst);
        self.client.send(&[to_drive(number)]);
        until("the drive looks at the request", || self.arrived.load(Ordering::SeqCst) > before);
    }
    fn is_answered(&mut self, number: u64) {
        self.client.send(&[to_drive(number)]);
        let answers: Vec<u64> = self.client.frames().iter().map(|f| f.hdr.request).collect();
        assert_eq!(answers, [number]);
    }
    /// Waits for the end of the thread; returns what the client still heard, the last events, and what the
    /// next open finds.
    fn ended(mut self) -> (Vec<u64>, Vec<ServerEvent>, OpenReport) {
        until("the thread ends", || self.running.is_finished());
        self.running.join().unwrap().unwrap();
        let heard = self.client.numbers_to_the_end();
        let mut dev = OpenDrive::open(&self.path, None).unwrap();
        let params =
            OpenParams { nonce: 2, cluster: Some(CLUSTER), store: (1, 1), clear_suspect: false, drive_id: Some(DRIVE) };
        let (_, report) = LogStore::open(&mut dev, drystone_store::Config::default(), params).unwrap();
        std::fs::remove_file(&self.path).unwrap();
        (heard, self.source.take().into(), report)
    }
}

fn config_of(path: PathBuf) -> DriveConfig {
    DriveConfig {
        drive: DRIVE,
        path,
        nonce: 1,
        revision: Rev(1),
        listen: "127.0.0.1:0".parse().unwrap(),
        slot: 0,
        power_loss_protected: false,
        clear_suspect: false,
        peer_check: false,
        cluster: CLUSTER,
        node: SERVER,
        incarnation: 1,
        feature_level: 1,
        keys: keys(MASTER),
        key_epoch: 3,
        page: LeasePage::default(),
    }
}

fn to_drive(number: u64) -> Frame {
    let mut frame = ping(number);
    frame.hdr.drive = DRIVE;
    frame
}

fn closed(events: &[ServerEvent]) -> bool {
    events.iter().any(|e| matches!(e, ServerEvent::DriveClosed { drive: DRIVE }))
}

#[test]
fn what_is_decided_after_a_broken_invariant_never_leaves_and_the_thread_ends() {
    let mut served = Served::start("invariant");
    served.is_answered(1);
    served.order(Order::Act(|peer| {
        let frame = to_drive(2);
        vec![Action::Invariant("a test"), Action::Send { peer, frame: frame.clone() }, Action::Send { peer, frame }]
    }));
    let (heard, events, _) = served.ended();
    assert_eq!(heard, []);
    assert!(events.iter().any(|e| matches!(e, ServerEvent::Invariant { drive: DRIVE, what: "a test" })));
    assert!(!closed(&events), "nobody may take it for an orderly end");
}

#[test]
fn a_drive_that_stops_answers_nothing_while_its_device_drains_and_ends_with_a_checkpoint() {
    let mut served = Served::start("drain");
    served.is_answered(1);
    served.order(Order::Hold(true));
    served.fence(7);
    served.sync();
    served.is_answered(2);
    served.tell(DriveCommand::Stop);
    served.sync();
    served.ask(3);
    served.ask(4);
    assert!(!closed(&Vec::from(served.source.take())), "the fence is not durable yet");
    served.order(Order::Hold(false));
    let (heard, events, report) = served.ended();
    assert_eq!(heard, []);
    assert!(closed(&events));
    assert!(events
        .iter()
        .any(|e| matches!(e, ServerEvent::ControlDone { id: 7, result: ControlResult::Fenced(Gen(1)), .. })));
    assert!(report.clean && report.suspect.is_none(), "{report:?}");
}

#[test]
fn a_closed_drive_hears_nothing_more_and_its_checkpoint_is_written_behind_the_news() {
    let mut served = Served::start("close");
    served.is_answered(1);
    served.order(Order::Hold(true));
    served.tell(DriveCommand::Stop);
    served.expect_event(|e| matches!(e, ServerEvent::DriveClosed { drive: DRIVE }));
    // The checkpoint hangs in the device.
    assert!(!served.running.is_finished());
    served.ask(2);
    served.fence(8);
    // Decided in the turn of the closing, carried out after it.
    served.order(Order::Act(|_| vec![Action::NeedMap { at_least: Rev(9) }]));
    served.sync();
    served.order(Order::Hold(false));
    let (heard, events, report) = served.ended();
    assert_eq!(heard, []);
    assert!(events.is_empty(), "{events:?}");
    assert!(report.clean && report.suspect.is_none(), "{report:?}");
    assert_eq!(report.entries, 0, "the checkpoint holds everything");
}

#[test]
fn a_device_that_hangs_while_closing_does_not_keep_the_thread() {
    let mut served = Served::start("hang");
    served.is_answered(1);
    served.order(Order::CloseMax(10_000));
    served.order(Order::Hold(true));
    served.tell(DriveCommand::Stop);
    let (heard, events, report) = served.ended();
    assert_eq!(heard, []);
    assert!(closed(&events));
    assert!(!report.clean && report.suspect.is_none(), "the next open reads the log instead: {report:?}");
}

impl Served {
    fn stats(&self) -> DriveStats {
        let (reply, answer) = mpsc::channel();
        self.tell(DriveCommand::Stats(reply));
        answer.recv_timeout(DEADLINE).unwrap()
    }
    fn exercised(&self, wanted: u64) -> (u64, u64) {
        let mut found = None;
        until("an exercise", || {
            for event in self.source.take() {
                if let ServerEvent::Exercised { id, result, .. } = event {
                    assert_eq!(id, wanted);
                    found = Some(result.unwrap());
                }
            }
            found.is_some()
        });
        found.unwrap()
    }
}

#[test]
fn an_exercise_reads_and_writes_answers_once_and_leaves_the_drive_as_it_was() {
    let mut served = Served::start("exercise");
    served.is_answered(1);
    for id in 1..3 {
        served.tell(DriveCommand::Exercise { id });
        let (p99_us, errors) = served.exercised(id);
        assert_eq!(errors, 0);
        assert!(p99_us > 0);
    }
    let figures = served.stats();
    assert!(figures.device.write.count() >= 128, "each record is durable before the next");
    assert!(figures.device.ops > 0 && figures.device.p99_us > 0);
    assert_eq!(figures.device.queue_depth, 0);
    let log = figures.log;
    let all = log.free + log.open + log.closed + log.emptied + log.discarding + log.checkpoint + log.stuck;
    assert!(all > 0 && log.open > 0, "{log:?}");
    served.is_answered(2);
    served.tell(DriveCommand::Stop);
    let (_, _, report) = served.ended();
    assert!(report.clean && report.suspect.is_none(), "{report:?}");
}

impl Served {
    fn exercise(&self) -> (u32, usize, u32, bool) {
        let (answer, told) = mpsc::channel();
        self.order(Order::Exercise(answer));
        told.recv_timeout(DEADLINE).unwrap()
    }
}

#[test]
fn an_exercise_counts_no_read_of_the_one_before() {
    let served = Served::start("exercise-reads");
    served.order(Order::HoldReads(true));
    served.tell(DriveCommand::Exercise { id: 1 });
    until("reads that hang", || served.exercise().1 == 4);
    served.order(Order::Late(1));
    assert_eq!(served.exercised(1).1, 320, "nothing came back");
    served.tell(DriveCommand::Exercise { id: 2 });
    until("reads that hang", || served.exercise().1 == 8);
    served.order(Order::AnswerReads(4));
    assert_eq!(served.exercise().0, 4, "its own four are still out");
    served.order(Order::HoldReads(false));
    assert_eq!(served.exercised(2).1, 0);
    served.tell(DriveCommand::Stop);
    served.ended();
}

#[test]
fn an_exercise_counts_no_record_of_the_one_before() {
    let served = Served::start("exercise-records");
    served.order(Order::Hold(true));
    served.tell(DriveCommand::Exercise { id: 1 });
    until("a record that hangs", || served.exercise().3);
    served.order(Order::Late(1));
    assert_eq!(served.exercised(1).1, 64, "all reads ended, no record did");
    served.tell(DriveCommand::Exercise { id: 2 });
    until("a record that hangs", || served.exercise().3);
    served.order(Order::Act(|_| {
        vec![Action::ControlDone { id: exercise::record_of(1, 0), result: ControlResult::Done }]
    }));
    assert_eq!(served.exercise().2, 0, "its own is still out");
    served.order(Order::Hold(false));
    assert_eq!(served.exercised(2).1, 0);
    served.tell(DriveCommand::Stop);
    served.ended();
}

#[test]
fn a_device_that_becomes_slow_is_news_at_once_and_shows_in_the_figures() {
    let served = Served::start("slow");
    assert!(!served.stats().device.slow);
    let (mut id, mut news) = (0, false);
    until("the news and the figures", || {
        id += 1;
        // Refused while the one before runs, which is as good: there is something to write.
        served.tell(DriveCommand::Exercise { id });
        // What was held is let go, what follows from it is held in its turn.
        served.order(Order::Hold(false));
        served.order(Order::Hold(true));
        std::thread::sleep(Duration::from_micros(2 * onset::SLOW));
        let known =
            |e: &ServerEvent| matches!(e, ServerEvent::DeviceSlow { drive: DRIVE, p99_us } if *p99_us >= onset::SLOW);
        news |= served.source.take().iter().any(known);
        let device = served.stats().device;
        news && device.slow && device.p99_us >= onset::SLOW
    });
    served.order(Order::Hold(false));
    served.tell(DriveCommand::Stop);
    served.ended();
}

#[test]
fn strangers_are_refused_by_reason() {
    let served = Served::start("strangers");
    let addr = served.client.peer();
    let mut stranger = me(MASTER);
    stranger.who.cluster = Uuid([8; 16]);
    let _ = Peer::connect(addr).introduce(&stranger);
    let mut noise = Peer::connect(addr);
    noise.raw(&[0; 512]);
    until("both are refused", || served.stats().refused.iter().map(|(_, n)| n).sum::<u64>() == 2);
    let refused: BTreeMap<&str, u64> = served.stats().refused.into_iter().collect();
    assert_eq!((refused["wrong_cluster"], refused["malformed"]), (1, 1), "{refused:?}");
    served.tell(DriveCommand::Stop);
    served.ended();
}

#[test]
fn the_newest_revision_of_the_store_is_on_the_device_soon_after_its_map() {
    let served = Served::start("revision");
    let map = ClusterMap { cluster: CLUSTER, incarnation: 1, revision: Rev(77), ..ClusterMap::default() };
    served.tell(DriveCommand::Map(Arc::new(map)));
    // The thread is killed, so to say: what the device holds at that moment is what counts.
    until("the superblock has it", || {
        let copy = served.path.with_extension("copy");
        std::fs::copy(&served.path, &copy).unwrap();
        let found = drystone_store::inspect(&mut OpenDrive::open(&copy, None).unwrap());
        std::fs::remove_file(&copy).unwrap();
        found.is_ok_and(|sb| sb.store_rev == 77)
    });
    served.tell(DriveCommand::Stop);
    served.ended();
}
