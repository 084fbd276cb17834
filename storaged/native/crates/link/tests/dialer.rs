//! The dialer against real sockets, with peers that come, go, refuse and lie.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod common;

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread::JoinHandle;

use common::*;
use drystone_link::{DialClasses, DialEvent, Dialer, MyIdentity};
use drystone_reactor::{spawn, Config, Ctx, Handler, OpResult, Remote, Running, TimerId, UserToken};
use drystone_types::DriveId;

const DIAL: DialClasses = DialClasses { conn: 1, connect: 2, timer: 3 };
const CLASS_PAUSE: u32 = 9;
const DRIVE: DriveId = DriveId(4);
/// A test that waits this long hangs.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// What a test sees, in the order in which it happened on the dialer's thread.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Up,
    Down {
        refused: bool,
    },
    Frame(u64),
    /// Answer to [`Order::Send`].
    Taken(bool),
    /// The pause set by [`On::pause`] is over.
    Paused,
}

enum Order {
    Target(SocketAddr, bool),
    Send(u64),
    Reset,
    Stop,
}

/// What happens at once on the dialer's thread, in the same turn as its cause.
#[derive(Clone, Copy, Default)]
struct On {
    /// The session is refused with its first frame.
    reset_at_frame: bool,
    /// The session is refused as soon as it stands.
    reset_at_up: bool,
    /// A frame with this number is sent while there is no connection.
    send_at_down: Option<u64>,
    /// Looks whether the connection lives come this often (microseconds).
    beat: Option<u64>,
    /// A timer of so many microseconds is set at the n-th `Down`, counted from 0.
    pause: Option<fn(u32) -> u64>,
}

struct Shell {
    dialer: Dialer,
    seen: mpsc::Sender<Seen>,
    on: On,
    downs: u32,
}

impl Handler for Shell {
    type Command = Order;
    fn on_command(&mut self, cx: &mut Ctx, order: Order) {
        match order {
            Order::Target(addr, keep) => self.dialer.set_target(cx, DRIVE, addr, keep),
            Order::Send(number) => self.send(cx, number),
            Order::Reset => self.dialer.reset(cx, DRIVE),
            Order::Stop => cx.stop(),
        }
    }
    fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) {
        if self.dialer.owns(token) {
            self.dialer.on_completion(cx, token, result);
        }
    }
    fn on_timer(&mut self, cx: &mut Ctx, _: TimerId, token: UserToken) {
        match token.class {
            CLASS_PAUSE => self.tell(Seen::Paused),
            _ => self.dialer.on_timer(cx, token),
        }
    }
    fn on_turn_end(&mut self, cx: &mut Ctx) {
        while let Some(event) = self.dialer.next(cx) {
            self.event(cx, event);
        }
        self.dialer.flush(cx);
    }
}

impl Shell {
    fn tell(&self, seen: Seen) {
        let _ = self.seen.send(seen);
    }
    fn send(&mut self, cx: &mut Ctx, number: u64) {
        let taken = self.dialer.send(cx, DRIVE, ping(number));
        self.tell(Seen::Taken(taken));
    }
    fn event(&mut self, cx: &mut Ctx, event: DialEvent) {
        match event {
            DialEvent::Up { drive, node } => {
                assert_eq!((drive, node), (DRIVE, SERVER));
                self.tell(Seen::Up);
                if self.on.reset_at_up {
                    self.dialer.reset(cx, DRIVE);
                }
            }
            DialEvent::Down { drive, refused } => {
                assert_eq!(drive, DRIVE);
                self.tell(Seen::Down { refused });
                if let Some(pause) = self.on.pause {
                    cx.timer(pause(self.downs), UserToken::new(CLASS_PAUSE, 0));
                }
                self.downs += 1;
                if let Some(number) = self.on.send_at_down {
                    self.send(cx, number);
                }
            }
            DialEvent::Frame { drive, frame } => {
                assert_eq!(drive, DRIVE);
                self.tell(Seen::Frame(frame.hdr.request));
                if self.on.reset_at_frame {
                    self.dialer.reset(cx, DRIVE);
                }
            }
        }
    }
}

/// A dialer on a thread of its own.
struct Under {
    remote: Remote<Order>,
    running: Running,
    seen: mpsc::Receiver<Seen>,
}

impl Under {
    fn start(me: MyIdentity, on: On) -> Under {
        let (tell, seen) = mpsc::channel();
        let build = move |_: &mut Ctx| {
            let mut dialer = Dialer::new(me, DIAL);
            on.beat.into_iter().for_each(|beat| dialer.set_beat(beat));
            Shell { dialer, seen: tell, on, downs: 0 }
        };
        let (remote, running) = spawn("dialer", Config::default(), build).unwrap();
        Under { remote, running, seen }
    }
    fn order(&self, order: Order) {
        assert!(self.remote.send(order).is_ok());
    }
    fn next(&self) -> Seen {
        self.seen.recv_timeout(DEADLINE).unwrap()
    }
    fn expect(&self, expected: &[Seen]) {
        for seen in expected {
            assert_eq!(self.next(), *seen);
        }
    }
    /// Ends the dialer; returns what was not looked at yet.
    fn stop(self) -> Vec<Seen> {
        self.order(Order::Stop);
        self.running.join().unwrap().unwrap();
        self.seen.try_iter().collect()
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A server that treats its n-th connection (from 0) as told, until told that it is the last.
fn serve(listener: TcpListener, mut each: impl FnMut(u32, Peer) -> bool + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut n = 0;
        while each(n, Peer::accept(&listener)) {
            n += 1;
        }
    })
}

const DOWN: Seen = Seen::Down { refused: false };

#[test]
fn a_frame_to_a_known_drive_dials_proves_itself_and_is_answered() {
    let (listener, addr) = listen();
    let server = serve(listener, |_, mut peer| {
        assert_eq!(peer.welcome(MASTER).unwrap(), me(MASTER).who);
        let asked = peer.frames();
        peer.send(&asked);
        assert_eq!(peer.numbers_to_the_end(), []);
        false
    });
    let under = Under::start(me(MASTER), On::default());
    under.order(Order::Send(1));
    under.expect(&[Seen::Taken(false)]);
    under.order(Order::Target(addr, false));
    under.order(Order::Send(2));
    under.expect(&[Seen::Taken(true), Seen::Up, Seen::Frame(2)]);
    assert_eq!(under.stop(), []);
    server.join().unwrap();
}

#[test]
fn a_drive_that_went_away_is_dialled_again_and_what_was_sent_meanwhile_stays_unanswered() {
    let (listener, addr) = listen();
    let server = serve(listener, |n, mut peer| match n {
        // Gone before the handshake: what waited for it was reported as unanswered.
        0 => true,
        1 => {
            peer.welcome(MASTER).unwrap();
            peer.send(&[ping(11)]);
            assert_eq!(peer.frames(), [ping(5)], "what was sent to the connection before is not repeated");
            true
        }
        _ => {
            peer.welcome(MASTER).unwrap();
            peer.send(&[ping(12)]);
            assert_eq!(peer.numbers_to_the_end(), [3]);
            false
        }
    });
    let under = Under::start(me(MASTER), On { send_at_down: Some(2), ..On::default() });
    under.order(Order::Target(addr, false));
    under.order(Order::Send(1));
    under.expect(&[Seen::Taken(true)]);
    assert!(matches!(under.next(), Seen::Down { .. }));
    under.expect(&[Seen::Taken(false)]);
    // From here by itself, after the pause that runs.
    under.order(Order::Target(addr, true));
    under.expect(&[Seen::Up, Seen::Frame(11)]);
    under.order(Order::Send(5));
    under.expect(&[Seen::Taken(true)]);
    assert!(matches!(under.next(), Seen::Down { .. }));
    under.expect(&[Seen::Taken(false), Seen::Up, Seen::Frame(12)]);
    under.order(Order::Send(3));
    under.expect(&[Seen::Taken(true)]);
    assert_eq!(under.stop(), []);
    server.join().unwrap();
}

/// Less than the pause after the n-th failure in a row, more than the one before it.
fn most_of_the_pause(n: u32) -> u64 {
    (20_000 << n) * 3 / 4
}

/// The first `downs` failures follow each other only after pauses that grow.
fn expect_growing_pauses(under: &Under, before_down: &[Seen], downs: u32) {
    for n in 0..downs {
        under.expect(before_down);
        assert!(matches!(under.next(), Seen::Down { .. }), "after {n} pauses");
        under.expect(&[Seen::Paused]);
    }
}

#[test]
fn nobody_listening_is_a_refusal_and_is_asked_again_after_growing_pauses() {
    let (listener, addr) = listen();
    drop(listener);
    let under = Under::start(me(MASTER), On { pause: Some(most_of_the_pause), ..On::default() });
    under.order(Order::Target(addr, true));
    for _ in 0..5 {
        under.expect(&[Seen::Down { refused: true }, Seen::Paused]);
    }
    under.stop();
}

#[test]
fn a_peer_that_hangs_up_at_once_is_dialled_after_growing_pauses() {
    let (listener, addr) = listen();
    let server = serve(listener, |n, _| n < 4);
    let under = Under::start(me(MASTER), On { pause: Some(most_of_the_pause), ..On::default() });
    under.order(Order::Target(addr, true));
    expect_growing_pauses(&under, &[], 5);
    under.stop();
    server.join().unwrap();
}

#[test]
fn a_peer_that_takes_the_connection_and_refuses_the_session_is_not_dialled_in_a_tight_loop() {
    let (listener, addr) = listen();
    let server = serve(listener, |n, mut peer| {
        peer.welcome(MASTER).unwrap();
        assert_eq!(peer.numbers_to_the_end(), []);
        n < 4
    });
    let on = On { reset_at_up: true, pause: Some(most_of_the_pause), ..On::default() };
    let under = Under::start(me(MASTER), on);
    under.order(Order::Target(addr, true));
    expect_growing_pauses(&under, &[Seen::Up], 5);
    under.stop();
    server.join().unwrap();
}

#[test]
fn frames_of_an_old_session_never_surface_after_it_was_given_up() {
    let (listener, addr) = listen();
    let server = serve(listener, |n, mut peer| {
        peer.welcome(MASTER).unwrap();
        let first = u64::from(n) * 100;
        peer.send(&(first..first + 50).map(ping).collect::<Vec<_>>());
        assert_eq!(peer.numbers_to_the_end(), []);
        n < 3
    });
    let under = Under::start(me(MASTER), On { reset_at_frame: true, ..On::default() });
    under.order(Order::Target(addr, true));
    for n in 0..4 {
        // The other 49 arrived with it.
        under.expect(&[Seen::Up, Seen::Frame(n * 100), DOWN]);
    }
    under.stop();
    server.join().unwrap();
}

#[test]
fn a_drive_that_moved_is_reached_at_its_new_address_only() {
    let ((old, old_addr), (new, new_addr)) = (listen(), listen());
    let at_old = serve(old, |_, mut peer| {
        peer.welcome(MASTER).unwrap();
        assert_eq!(peer.numbers_to_the_end(), [1]);
        false
    });
    let at_new = serve(new, |_, mut peer| {
        peer.welcome(MASTER).unwrap();
        assert_eq!(peer.numbers_to_the_end(), [2]);
        false
    });
    let under = Under::start(me(MASTER), On::default());
    under.order(Order::Target(old_addr, true));
    under.expect(&[Seen::Up]);
    under.order(Order::Send(1));
    under.expect(&[Seen::Taken(true)]);
    under.order(Order::Target(new_addr, true));
    under.expect(&[DOWN, Seen::Up]);
    under.order(Order::Send(2));
    under.expect(&[Seen::Taken(true)]);
    at_old.join().unwrap();
    // The peer sees the end of the stream when the dialer is gone.
    under.stop();
    at_new.join().unwrap();
}

#[test]
fn a_session_given_up_from_outside_is_made_again() {
    let (listener, addr) = listen();
    let server = serve(listener, |n, mut peer| {
        peer.welcome(MASTER).unwrap();
        assert_eq!(peer.numbers_to_the_end(), []);
        n < 1
    });
    let under = Under::start(me(MASTER), On::default());
    under.order(Order::Target(addr, true));
    under.expect(&[Seen::Up]);
    under.order(Order::Reset);
    under.expect(&[DOWN, Seen::Up]);
    under.stop();
    server.join().unwrap();
}

#[test]
fn a_server_without_the_right_key_hears_nothing_and_is_never_up() {
    let (listener, addr) = listen();
    let (half, is_half) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let server = serve(listener, move |_, mut peer| {
        let first = peer.hello().unwrap();
        half.send(()).unwrap();
        may_go.recv_timeout(DEADLINE).unwrap();
        // It answers the challenge as well as it can, and gets no proof in return.
        let (_, reply) = challenge(&first, OTHER_MASTER).unwrap();
        peer.raw(&reply);
        assert_eq!(peer.hello(), None);
        false
    });
    let under = Under::start(me(MASTER), On::default());
    under.order(Order::Target(addr, false));
    under.order(Order::Send(1));
    under.expect(&[Seen::Taken(true)]);
    is_half.recv_timeout(DEADLINE).unwrap();
    under.order(Order::Send(2));
    under.expect(&[Seen::Taken(true)]);
    go.send(()).unwrap();
    under.expect(&[DOWN]);
    server.join().unwrap();
    assert_eq!(under.stop(), []);
}

#[test]
fn a_peer_that_falls_silent_is_asked_once_and_then_dialled_anew() {
    let (listener, addr) = listen();
    let server = serve(listener, |n, mut peer| {
        peer.welcome(MASTER).unwrap();
        if n == 0 {
            // Takes everything and says nothing, as behind a cut that nobody tells of.
            let heard = peer.numbers_to_the_end();
            assert_eq!(heard, [1, u64::MAX - 1], "the request, and one PING of the dialer");
            return true;
        }
        let asked = peer.frames();
        peer.send(&asked);
        assert_eq!(peer.numbers_to_the_end(), []);
        false
    });
    let under = Under::start(me(MASTER), On { beat: Some(5_000), ..On::default() });
    under.order(Order::Target(addr, true));
    under.expect(&[Seen::Up]);
    under.order(Order::Send(1));
    under.expect(&[Seen::Taken(true), DOWN, Seen::Up]);
    under.order(Order::Send(2));
    under.expect(&[Seen::Taken(true), Seen::Frame(2)]);
    assert_eq!(under.stop(), []);
    server.join().unwrap();
}

#[test]
fn a_peer_that_answers_the_ping_keeps_its_connection_and_nobody_else_hears_of_it() {
    let (listener, addr) = listen();
    let server = serve(listener, |_, mut peer| {
        peer.welcome(MASTER).unwrap();
        let request = peer.frames();
        // Busy with the request for long, but alive.
        let asked = peer.frames();
        assert_eq!(asked.iter().map(|f| f.hdr.request).collect::<Vec<_>>(), [u64::MAX - 1]);
        peer.send(&asked);
        peer.send(&request);
        assert_eq!(peer.numbers_to_the_end(), []);
        false
    });
    let under = Under::start(me(MASTER), On { beat: Some(20_000), ..On::default() });
    under.order(Order::Target(addr, true));
    under.expect(&[Seen::Up]);
    under.order(Order::Send(1));
    under.expect(&[Seen::Taken(true), Seen::Frame(1)]);
    assert_eq!(under.stop(), []);
    server.join().unwrap();
}
