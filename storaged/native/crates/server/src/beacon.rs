//! The beacon's thread: datagrams and the clock around the beacon core. It has a thread of its own in a process
//! of its own, or in the server's, so that neither a manager's loss nor a busy drive costs a lease.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};

use drystone_membership::beacon::{Action, BeaconConfig, BeaconCore, Event};
use drystone_membership::Suspect;
use drystone_reactor::{spawn, Config, Ctx, Handler, OpResult, Remote, Running, SetupError, TimerId, UserToken};
use drystone_types::consts::{Micros, BEACON_PERIOD};
use drystone_types::{Rev, Uuid};

use crate::events::{EventSink, ServerEvent};
use crate::lease::{LeasePage, Seen};
use crate::lease_file::Seat;

const CLASS_TICK: u32 = 1;
const CLASS_DRAIN: u32 = 2;
/// A heartbeat with 256 echoes fits; longer datagrams are cut and then fail their MAC.
const DATAGRAM_MAX: usize = 16 << 10;
/// The smallest usual receive buffer of a socket.
const ROOM: usize = 208 << 10;
/// What the kernel adds to each datagram, about.
const OVERHEAD: usize = 1 << 10;
/// A datagram that was cut may have been as long as this.
const LARGEST: usize = 64 << 10;
/// Heartbeats that may wait in the socket for each look at it: half of [`ROOM`] holds as many of the largest ones.
const PER_LOOK: usize = 8;
/// Datagrams taken in one turn: a flood cannot keep the thread from its own heartbeat.
const DRAIN_MAX: usize = 1024;
/// Until the next look when the last one found the socket half full: a flood. What does not fit is lost, so
/// heartbeats would drown in 2 000 small datagrams a second; now it takes about 50 000.
const FLOOD_LOOK: Micros = 5_000;
/// A flood counts as over when no look has found the socket half full for this long: looks that come often
/// find little, and at the end of it at most one heartbeat in seven is lost.
const FLOOD_LASTS: Micros = 7 * BEACON_PERIOD;

/// How often the beacon of a process of its own looks whether its page still has its name.
const SEAT_LOOK: Micros = 1_000_000;

/// What the process tells the beacon.
pub enum BeaconCommand {
    /// Who votes, who has a beacon, and where.
    Voters {
        /// Version of the list.
        version: u64,
        /// Voters.
        voters: Vec<Uuid>,
        /// Every node with a beacon and its address.
        nodes: Vec<(Uuid, SocketAddr)>,
    },
    /// The server's map; `read_at` = local monotonic microseconds when the quorum read began.
    Map {
        /// Revision.
        rev: Rev,
        /// Start of the read; `None` for a pushed map.
        read_at: Option<Micros>,
    },
    /// All suspicions that stand.
    Suspects {
        /// Revision of the list.
        as_of: Rev,
        /// (node, round).
        keys: Vec<(Uuid, Rev)>,
    },
    /// A vote of silence is asked for.
    AskVote {
        /// Node.
        node: Uuid,
        /// Round.
        round: Rev,
    },
    /// Take the lease of this node's server away, if its process is gone or none of its threads moves.
    Revoke {
        /// Round of the suspicion; 0 = only say whether it would be done.
        round: Rev,
        /// The server process that is meant: of another one this beacon can prove nothing.
        instance: u64,
    },
    /// Figures.
    Stats(std::sync::mpsc::Sender<BeaconStats>),
    /// End.
    Stop,
}

/// Figures of a beacon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BeaconStats {
    /// Datagrams refused since the start, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Time that the shortest lease of the server still has; `None` = it has none.
    pub lease_margin_us: Option<Micros>,
}

/// The thread's handler.
pub struct BeaconHandler {
    core: BeaconCore,
    socket: UdpSocket,
    buf: Vec<u8>,
    addrs: BTreeMap<Uuid, SocketAddr>,
    page: LeasePage,
    /// The place at a page that is a file; `None` within the server process.
    seat: Option<Seat>,
    /// When the seat was last found to be good.
    seat_seen: Micros,
    /// Map of the server as the core knows it, of a page that is a file.
    map: (Rev, Option<Micros>),
    events: EventSink,
    actions: Vec<Action>,
    silent: Vec<Uuid>,
    tick: Option<(Micros, TimerId)>,
    drain: Option<TimerId>,
    /// Until when the socket is looked at often.
    flood_until: Micros,
}

/// Starts the beacon on an already bound UDP socket, within the server process.
pub fn spawn_beacon(
    config: BeaconConfig,
    socket: std::os::fd::OwnedFd,
    page: LeasePage,
    events: EventSink,
) -> Result<(Remote<BeaconCommand>, Running), SetupError> {
    spawn_at(config, socket, (page, None), events)
}

/// Starts the beacon of a process of its own; page and seat are those of [`crate::lease_file::attach_beacon`].
pub fn spawn_beacon_process(
    config: BeaconConfig,
    socket: std::os::fd::OwnedFd,
    place: (LeasePage, Seat),
    events: EventSink,
) -> Result<(Remote<BeaconCommand>, Running), SetupError> {
    spawn_at(config, socket, (place.0, Some(place.1)), events)
}

fn spawn_at(
    config: BeaconConfig,
    socket: std::os::fd::OwnedFd,
    (page, seat): (LeasePage, Option<Seat>),
    events: EventSink,
) -> Result<(Remote<BeaconCommand>, Running), SetupError> {
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    spawn("beacon", Config::default(), move |cx| {
        let core = BeaconCore::new(config, cx.now_us());
        BeaconHandler {
            core,
            socket,
            buf: vec![0; DATAGRAM_MAX],
            addrs: BTreeMap::new(),
            page,
            seat,
            seat_seen: cx.now_us(),
            map: (Rev(0), None),
            events,
            actions: Vec::new(),
            silent: Vec::new(),
            tick: None,
            drain: None,
            flood_until: 0,
        }
    })
}

impl Handler for BeaconHandler {
    type Command = BeaconCommand;

    fn on_command(&mut self, cx: &mut Ctx, command: BeaconCommand) {
        let event = match command {
            BeaconCommand::Voters { version, voters, nodes } => {
                self.addrs = nodes.iter().copied().collect();
                Event::Voters { version, voters, nodes: nodes.into_iter().map(|(n, _)| n).collect() }
            }
            BeaconCommand::Map { rev, read_at } => Event::Map { rev, read_at },
            BeaconCommand::Suspects { as_of, keys } => {
                let keys = keys.into_iter().map(|(node, round)| Suspect { node, round }).collect();
                Event::Suspects { as_of, keys }
            }
            BeaconCommand::AskVote { node, round } => {
                // What waits in the socket may say that the node lives.
                self.drain(cx);
                Event::AskVote(Suspect { node, round })
            }
            BeaconCommand::Revoke { round, instance } => return self.revoke(cx, round, instance),
            BeaconCommand::Stats(reply) => {
                let refused = self.core.refused().list().to_vec();
                let lease_margin_us = self.core.lease_margin(cx.now_us());
                let _ = reply.send(BeaconStats { refused, lease_margin_us });
                return;
            }
            BeaconCommand::Stop => {
                if self.seat.is_some() {
                    // What comes next must not find leases of nobody.
                    self.page.withdraw();
                }
                cx.stop();
                return;
            }
        };
        self.step(cx, event);
    }

    fn on_completion(&mut self, _: &mut Ctx, _: UserToken, _: OpResult) {}

    fn on_timer(&mut self, cx: &mut Ctx, timer: TimerId, token: UserToken) {
        self.drain(cx);
        if token.class == CLASS_DRAIN {
            self.drain = None;
            return;
        }
        self.tick = self.tick.filter(|(_, id)| *id != timer);
        self.look(cx);
        self.check_seat(cx);
        self.step(cx, Event::Tick);
    }

    fn on_turn_end(&mut self, cx: &mut Ctx) {
        let silent = self.core.silent(cx.now_us());
        if silent != self.silent {
            self.silent.clone_from(&silent);
            self.events.put(ServerEvent::Silent(silent));
        }
        let wanted = self.core.next_deadline();
        if self.tick.map(|(at, _)| at) != wanted {
            if let Some((_, old)) = self.tick.take() {
                cx.cancel_timer(old);
            }
            self.tick = wanted.map(|at| (at, cx.timer_at(at, UserToken::new(CLASS_TICK, 0))));
        }
        if self.drain.is_none() {
            let flooded = cx.now_us() < self.flood_until;
            let every = if flooded { Some(FLOOD_LOOK) } else { looks_between(self.addrs.len()) };
            self.drain = every.map(|every| cx.timer(every, UserToken::new(CLASS_DRAIN, 0)));
        }
    }
}

/// How often to look for heartbeats between the own ones; `None` = not at all. What a heartbeat says
/// is passed on with the next own one, so a wake-up for each would buy nothing: an idle node wakes
/// once a period. Only a large cluster needs more looks, as a socket buffer holds only so many.
fn looks_between(nodes: usize) -> Option<Micros> {
    let looks = nodes.div_ceil(PER_LOOK);
    (looks > 1).then(|| BEACON_PERIOD / looks as Micros)
}

/// Calls `one`, which takes one datagram, while there are some. Returns how much room they took in the socket.
/// An error other than "nothing there" is an ICMP answer of a dead peer: it says nothing that silence does
/// not say, and the next datagram may be good.
fn take_waiting(mut one: impl FnMut() -> io::Result<usize>) -> usize {
    let mut room = 0;
    for _ in 0..DRAIN_MAX {
        match one() {
            Ok(n) if n >= DATAGRAM_MAX => room += LARGEST,
            Ok(n) => room += n + OVERHEAD,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(_) => {}
        }
    }
    room
}

impl BeaconHandler {
    /// Takes every datagram that waits.
    fn drain(&mut self, cx: &mut Ctx) {
        if take_waiting(|| self.take_one(cx)) > ROOM / 2 {
            self.flood_until = cx.now_us() + FLOOD_LASTS;
        }
    }

    /// Takes one; returns its bytes.
    fn take_one(&mut self, cx: &mut Ctx) -> io::Result<usize> {
        let n = self.socket.recv(&mut self.buf)?;
        let bytes = self.buf.get(..n).unwrap_or(&[]).to_vec();
        self.step(cx, Event::Datagram(bytes));
        Ok(n)
    }

    /// Reads what the server says in the page.
    fn look(&mut self, cx: &mut Ctx) {
        let Some(seen) = self.page.observe() else { return };
        if seen.instance != self.page.acknowledged() {
            self.meet(cx, &seen);
        }
        if self.page.is_shared() && seen.map != self.map {
            self.map = seen.map;
            self.step(cx, Event::Map { rev: seen.map.0, read_at: seen.map.1 });
        }
        self.step(cx, Event::Slots(seen.counters));
    }

    /// Another server process: nothing that its predecessor said or was lent counts for it. The core takes every
    /// lease away, so the page is zero before the new instance is told that leases are for it.
    fn meet(&mut self, cx: &mut Ctx, seen: &Seen) {
        self.step(cx, Event::Server { counters: seen.counters.clone() });
        self.map = (Rev(0), None);
        self.page.acknowledge(seen.instance);
    }

    fn check_seat(&mut self, cx: &mut Ctx) {
        let Some(seat) = &self.seat else { return };
        if cx.now_us().saturating_sub(self.seat_seen) < SEAT_LOOK {
            return;
        }
        self.seat_seen = cx.now_us();
        if !seat.is_current() {
            self.events.put(ServerEvent::LeasePageLost);
        }
    }

    fn revoke(&mut self, cx: &mut Ctx, round: Rev, instance: u64) {
        self.look(cx);
        // A process that was never met here may have its leases from somebody else.
        let known = instance != 0 && self.page.acknowledged() == instance;
        let Some(seat) = self.seat.as_ref().filter(|_| known) else {
            self.events.put(ServerEvent::Revoked { round, granted: false });
            return;
        };
        let gone = seat.server_is_gone();
        if round == Rev(0) {
            let granted = gone || self.core.server_stands_still(cx.now_us());
            self.events.put(ServerEvent::Revoked { round, granted });
        } else {
            self.step(cx, Event::Hold { round, gone });
        }
    }

    fn step(&mut self, cx: &mut Ctx, event: Event) {
        let mut actions = core::mem::take(&mut self.actions);
        self.core.step(cx.now_us(), event, &mut actions);
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { to, bytes } => {
                if let Some(addr) = self.addrs.get(&to) {
                    // A heartbeat that cannot leave is a lost one; the next follows within a period.
                    let _ = self.socket.send_to(&bytes, addr);
                }
            }
            Action::Lease(page) => self.page.set(&page),
            Action::NeedMap if self.page.is_shared() => self.page.want_map(),
            Action::NeedMap => self.events.put(ServerEvent::NeedMap { at_least: Rev(0) }),
            // The page is zero by the Lease action before it.
            Action::Held { round, granted } => self.events.put(ServerEvent::Revoked { round, granted }),
            Action::Vote { suspect, granted } => {
                self.events.put(ServerEvent::Vote { node: suspect.node, round: suspect.round, granted });
            }
            Action::Quorum(inside) => {
                self.page.set_quorum(inside);
                self.events.put(ServerEvent::Quorum(inside));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cluster_is_looked_at_once_a_period_and_a_large_one_before_the_socket_is_full() {
        assert_eq!([0, 1, 8].map(looks_between), [None; 3]);
        assert_eq!(looks_between(9), Some(BEACON_PERIOD / 2));
        assert_eq!(looks_between(252), Some(BEACON_PERIOD / 32));
        // All nodes send once a period; the largest heartbeat has 256 echoes.
        let largest = 8300 + OVERHEAD;
        for nodes in 1..=256 {
            let looks = looks_between(nodes).map_or(1, |every| BEACON_PERIOD / every) as usize;
            assert!(nodes.div_ceil(looks) * largest <= ROOM / 2, "{nodes} nodes");
        }
    }

    #[test]
    fn an_endless_flood_ends_the_look_and_is_noticed() {
        let mut taken = 0;
        let room = take_waiting(|| {
            taken += 1;
            Ok(1)
        });
        assert_eq!(taken, DRAIN_MAX);
        assert!(room > ROOM / 2);
        // Two that fill a small socket are a flood too.
        let mut cut = [Ok(DATAGRAM_MAX), Ok(DATAGRAM_MAX)].into_iter();
        assert!(take_waiting(|| cut.next().unwrap_or(Err(ErrorKind::WouldBlock.into()))) > ROOM / 2);
    }

    #[test]
    fn errors_of_dead_peers_are_passed_over_and_do_not_hold_the_thread() {
        let refused = || Err(ErrorKind::ConnectionRefused.into());
        let mut waiting = [refused(), Ok(100), refused(), Ok(200)].into_iter();
        let room = take_waiting(|| waiting.next().unwrap_or(Err(ErrorKind::WouldBlock.into())));
        assert_eq!(room, 300 + 2 * OVERHEAD);
        let mut tries = 0;
        take_waiting(|| {
            tries += 1;
            refused()
        });
        assert_eq!(tries, DRAIN_MAX);
    }
}
