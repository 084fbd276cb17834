//! Connections to drives: dialled, authenticated, redialled with back-off.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use drystone_reactor::{Addr, CloseReason, ConnConfig, ConnId, Conns, Ctx, Event, FdId, OpResult, TimerId, UserToken};
use drystone_types::consts::Micros;
use drystone_types::{DriveId, Frame, Header, MsgType, Uuid};

use crate::decoder::{Item, LinkDecoder, PeerUp};
use crate::keys::MyIdentity;
use crate::pulse::{Beat, Pulse, BEAT};
use crate::queue_frame;

/// First wait after a failed try; doubled up to the longest.
const BACKOFF_MIN: Micros = 20_000;
/// Longest wait: a server that comes back is found within this time.
const BACKOFF_MAX: Micros = 1_000_000;
/// A connect or handshake without an answer for this long is given up: a dead peer's packets
/// vanish, and nobody may wait for the kernel's minutes.
const OPEN_MAX: Micros = 2_000_000;
/// Frames kept while a connection is being made; more are unanswered, as on a broken connection.
const PENDING_MAX: usize = 1024;
/// Timer of the beats; those of drives have 32 bits.
const BEATS: u64 = u64::MAX;
/// Request id of our own PINGs: no caller uses it for one.
const PING: u64 = u64::MAX - 1;

/// Classes of the completion tokens a dialer uses; all three belong to it alone.
#[derive(Clone, Copy, Debug)]
pub struct DialClasses {
    /// Connections.
    pub conn: u32,
    /// Connects.
    pub connect: u32,
    /// Timers.
    pub timer: u32,
}

/// News of a dialer.
#[derive(Debug)]
pub enum DialEvent {
    /// Frames may be sent.
    Up {
        /// Drive.
        drive: DriveId,
        /// Node that proved itself.
        node: Uuid,
    },
    /// The connection is gone or could not be made; what was sent is unanswered.
    Down {
        /// Drive.
        drive: DriveId,
        /// A live kernel refused or reset it: the process is dead.
        refused: bool,
    },
    /// A frame arrived.
    Frame {
        /// Whose connection.
        drive: DriveId,
        /// Frame.
        frame: Frame,
    },
}

enum State {
    Idle,
    Waiting,
    Connecting(FdId),
    Hello(ConnId),
    /// Since when.
    Up(ConnId, Micros),
}

struct Target {
    addr: SocketAddr,
    state: State,
    /// Counts connects, so that the answer to one that was given up is not taken for the next one's.
    attempt: u32,
    backoff: Micros,
    timer: Option<TimerId>,
    /// Dial again by ourselves whenever it is down.
    keep: bool,
    pending: VecDeque<Frame>,
    pulse: Pulse,
}

/// All outgoing connections of one reactor.
pub struct Dialer {
    me: MyIdentity,
    classes: DialClasses,
    conns: Conns<LinkDecoder>,
    targets: BTreeMap<DriveId, Target>,
    by_conn: BTreeMap<ConnId, DriveId>,
    news: VecDeque<DialEvent>,
    scratch: Vec<u8>,
    /// Time between two beats, and whether they run.
    beat: Micros,
    beating: bool,
}

impl Dialer {
    /// A dialer that knows no drive.
    pub fn new(me: MyIdentity, classes: DialClasses) -> Dialer {
        Dialer {
            me,
            classes,
            conns: Conns::new(classes.conn, ConnConfig::default()),
            targets: BTreeMap::new(),
            by_conn: BTreeMap::new(),
            news: VecDeque::new(),
            scratch: Vec::new(),
            beat: BEAT,
            beating: false,
        }
    }

    /// Another time between the looks whether a connection lives, so that a test need not wait for seconds.
    pub fn set_beat(&mut self, beat: Micros) {
        self.beat = beat;
    }

    /// Whether a completion or timer with this token is for the dialer.
    pub fn owns(&self, token: UserToken) -> bool {
        let c = &self.classes;
        token.class == c.conn || token.class == c.connect || token.class == c.timer
    }

    /// Makes a drive known, or moves it to another address. With `keep` the connection is made now
    /// and made again whenever it breaks.
    pub fn set_target(&mut self, cx: &mut Ctx, drive: DriveId, addr: SocketAddr, keep: bool) {
        let moved = self.targets.get(&drive).is_some_and(|t| t.addr != addr);
        if moved {
            self.drop_target(cx, drive);
        }
        let target = self.targets.entry(drive).or_insert_with(|| Target {
            addr,
            state: State::Idle,
            attempt: 0,
            backoff: BACKOFF_MIN,
            timer: None,
            keep,
            pending: VecDeque::new(),
            pulse: Pulse::default(),
        });
        target.keep = keep;
        if keep && matches!(target.state, State::Idle) {
            self.dial(cx, drive);
        }
    }

    /// Forgets a drive.
    pub fn drop_target(&mut self, cx: &mut Ctx, drive: DriveId) {
        let Some(target) = self.targets.remove(&drive) else { return };
        if let Some(timer) = target.timer {
            cx.cancel_timer(timer);
        }
        match target.state {
            State::Connecting(fd) => cx.close(fd, UserToken::new(self.classes.connect, u64::MAX)),
            State::Hello(conn) | State::Up(conn, _) => {
                self.by_conn.remove(&conn);
                self.conns.close(cx, conn);
                self.news.push_back(DialEvent::Down { drive, refused: false });
            }
            State::Idle | State::Waiting => {}
        }
    }

    /// Gives the connection up and makes it again later: for a session that was refused. The wait grows while
    /// connections do not last, so that a drive that refuses for good is not asked in a tight loop.
    pub fn reset(&mut self, cx: &mut Ctx, drive: DriveId) {
        let Some(State::Up(conn, _)) = self.targets.get(&drive).map(|t| &t.state) else { return };
        let conn = *conn;
        self.by_conn.remove(&conn);
        self.conns.close(cx, conn);
        self.failed(cx, drive, false);
    }

    /// Whether frames go out at once.
    pub fn is_up(&self, drive: DriveId) -> bool {
        self.targets.get(&drive).is_some_and(|t| matches!(t.state, State::Up(..)))
    }

    /// Sends a frame, dialling first when there is no connection. `false`: the drive is not known or
    /// cannot be reached now; the frame counts as unanswered.
    pub fn send(&mut self, cx: &mut Ctx, drive: DriveId, frame: Frame) -> bool {
        let Some(target) = self.targets.get_mut(&drive) else { return false };
        match target.state {
            State::Up(conn, _) => {
                let Some((_, queue)) = self.conns.parts(conn) else { return false };
                target.pulse.sent();
                if !core::mem::replace(&mut self.beating, true) {
                    cx.timer(self.beat, UserToken::new(self.classes.timer, BEATS));
                }
                queue_frame(&frame, &mut self.scratch, queue).is_ok()
            }
            State::Waiting => false,
            State::Idle | State::Connecting(_) | State::Hello(_) => {
                if target.pending.len() >= PENDING_MAX {
                    return false;
                }
                target.pending.push_back(frame);
                if matches!(target.state, State::Idle) {
                    self.dial(cx, drive);
                }
                true
            }
        }
    }

    fn dial(&mut self, cx: &mut Ctx, drive: DriveId) {
        let Some(target) = self.targets.get_mut(&drive) else { return };
        target.attempt = target.attempt.wrapping_add(1);
        let token = UserToken::new(self.classes.connect, connect_id(drive, target.attempt));
        match cx.connect(&Addr::Inet(target.addr), token) {
            Ok(fd) => {
                target.state = State::Connecting(fd);
                self.set_timer(cx, drive, OPEN_MAX);
            }
            Err(_) => self.failed(cx, drive, false),
        }
    }

    fn set_timer(&mut self, cx: &mut Ctx, drive: DriveId, after: Micros) {
        let token = UserToken::new(self.classes.timer, u64::from(drive.0));
        if let Some(target) = self.targets.get_mut(&drive) {
            if let Some(old) = target.timer.replace(cx.timer(after, token)) {
                cx.cancel_timer(old);
            }
        }
    }

    /// The try or the connection failed: tell it, wait, try again.
    fn failed(&mut self, cx: &mut Ctx, drive: DriveId, refused: bool) {
        let Some(target) = self.targets.get_mut(&drive) else { return };
        let up_for = match target.state {
            State::Up(_, since) => cx.now_us().saturating_sub(since),
            _ => 0,
        };
        target.pending.clear();
        target.state = State::Waiting;
        let (wait, next) = waits(target.backoff, up_for);
        target.backoff = next;
        self.set_timer(cx, drive, wait);
        self.news.push_back(DialEvent::Down { drive, refused });
    }

    /// A timer of the dialer's class.
    pub fn on_timer(&mut self, cx: &mut Ctx, token: UserToken) {
        if token.id == BEATS {
            return self.beat_all(cx);
        }
        let Some(drive) = u32::try_from(token.id).ok().map(DriveId) else { return };
        let Some(target) = self.targets.get_mut(&drive) else { return };
        target.timer = None;
        match target.state {
            State::Waiting if target.keep => self.dial(cx, drive),
            State::Waiting => target.state = State::Idle,
            State::Connecting(fd) => {
                // Its completion comes as an error, but the descriptor is ours to close.
                cx.close(fd, UserToken::new(self.classes.connect, u64::MAX));
                self.failed(cx, drive, false);
            }
            State::Hello(conn) => {
                self.by_conn.remove(&conn);
                self.conns.close(cx, conn);
                self.failed(cx, drive, false);
            }
            State::Idle | State::Up(..) => {}
        }
    }

    /// Looks at every connection with something unanswered; the beats end when there is none.
    fn beat_all(&mut self, cx: &mut Ctx) {
        self.beating = false;
        let (mut more, mut silent, mut dead) = (false, Vec::new(), Vec::new());
        for (drive, target) in self.targets.iter_mut().filter(|(_, t)| matches!(t.state, State::Up(..))) {
            match target.pulse.beat() {
                Beat::Calm => continue,
                Beat::Wait => {}
                Beat::Ping => silent.push(*drive),
                Beat::Dead => dead.push(*drive),
            }
            more = true;
        }
        for drive in silent {
            let hdr = Header { kind: MsgType::Ping, request: PING, drive, ..Header::default() };
            self.send(cx, drive, Frame::bare(hdr));
        }
        // What was sent is unanswered, not failed: it goes out again by the next connection.
        dead.into_iter().for_each(|drive| self.reset(cx, drive));
        if more && !core::mem::replace(&mut self.beating, true) {
            cx.timer(self.beat, UserToken::new(self.classes.timer, BEATS));
        }
    }

    /// A completion of one of the dialer's classes.
    pub fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) {
        if token.class == self.classes.conn {
            return self.conns.on_completion(cx, token, result);
        }
        let OpResult::Connected(result) = result else { return };
        let Some(drive) = u32::try_from(token.id & 0xffff_ffff).ok().map(DriveId) else { return };
        let Some(target) = self.targets.get(&drive) else { return };
        if token.id != connect_id(drive, target.attempt) {
            return;
        }
        let State::Connecting(fd) = target.state else { return };
        match result {
            Ok(()) => {
                let me = &self.me;
                let conn = self.conns.insert(fd, |queue| LinkDecoder::connect(me, crate::fresh_nonce(), queue));
                self.by_conn.insert(conn, drive);
                if let Some(target) = self.targets.get_mut(&drive) {
                    target.state = State::Hello(conn);
                }
            }
            Err(e) => {
                cx.close(fd, UserToken::new(self.classes.connect, u64::MAX));
                self.failed(cx, drive, is_refusal(&e));
            }
        }
    }

    /// The next event; call until `None`, then [`Dialer::flush`].
    pub fn next(&mut self, cx: &mut Ctx) -> Option<DialEvent> {
        loop {
            if let Some(event) = self.news.pop_front() {
                return Some(event);
            }
            let (conn, event) = self.conns.next(cx)?;
            let Some(drive) = self.by_conn.get(&conn).copied() else { continue };
            match event {
                Event::Item(Item::Frame(frame)) => {
                    if let Some(target) = self.targets.get_mut(&drive) {
                        target.pulse.heard();
                    }
                    if frame.hdr.request != PING || frame.hdr.kind != MsgType::Ping {
                        return Some(DialEvent::Frame { drive, frame });
                    }
                }
                Event::Item(Item::Up(up)) => self.came_up(cx, drive, conn, up),
                Event::Closed(reason) => {
                    self.by_conn.remove(&conn);
                    let refused = matches!(&reason, CloseReason::Io(e) if is_refusal(e));
                    self.failed(cx, drive, refused);
                }
            }
        }
    }

    fn came_up(&mut self, cx: &mut Ctx, drive: DriveId, conn: ConnId, up: PeerUp) {
        let PeerUp::Connected { node, .. } = up else { return };
        let Some(target) = self.targets.get_mut(&drive) else { return };
        if let Some(timer) = target.timer.take() {
            cx.cancel_timer(timer);
        }
        target.state = State::Up(conn, cx.now_us());
        target.pulse.heard();
        let pending = core::mem::take(&mut target.pending);
        self.news.push_back(DialEvent::Up { drive, node });
        for frame in pending {
            self.send(cx, drive, frame);
        }
    }

    /// Hands everything queued to the kernel.
    pub fn flush(&mut self, cx: &mut Ctx) {
        self.conns.flush(cx);
    }
}

/// Token id of one connect.
fn connect_id(drive: DriveId, attempt: u32) -> u64 {
    u64::from(attempt) << 32 | u64::from(drive.0)
}

/// The wait now and the one after the next failure: doubled each time, and short again after a
/// connection that lasted longer than the longest wait.
fn waits(backoff: Micros, up_for: Micros) -> (Micros, Micros) {
    let wait = if up_for > BACKOFF_MAX { BACKOFF_MIN } else { backoff };
    (wait, (wait * 2).min(BACKOFF_MAX))
}

fn is_refusal(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_to_its_limit_while_connections_do_not_last_and_is_short_after_one_that_did() {
        let mut backoff = BACKOFF_MIN;
        for _ in 0..10 {
            // Up for a moment each time: a drive that accepts and then refuses the session.
            let (wait, next) = waits(backoff, 1_000);
            assert!(wait <= BACKOFF_MAX && next >= wait);
            backoff = next;
        }
        assert_eq!(backoff, BACKOFF_MAX);
        assert_eq!(waits(backoff, BACKOFF_MAX + 1), (BACKOFF_MIN, 2 * BACKOFF_MIN));
    }

    #[test]
    fn the_answer_of_a_connect_that_was_given_up_is_not_the_next_ones() {
        assert_ne!(connect_id(DriveId(7), 1), connect_id(DriveId(7), 2));
        assert_ne!(connect_id(DriveId(7), 1), u64::MAX);
    }
}
