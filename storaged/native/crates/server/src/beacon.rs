//! The beacon's thread: datagrams and the clock around the beacon core. It runs inside the server
//! process on a thread of its own, so that neither a manager's loss nor a busy drive costs a lease.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use drystone_membership::beacon::{Action, BeaconConfig, BeaconCore, Event};
use drystone_membership::Suspect;
use drystone_reactor::{spawn, Config, Ctx, Handler, OpResult, Remote, Running, SetupError, TimerId, UserToken};
use drystone_types::consts::{Micros, BEACON_PERIOD};
use drystone_types::{Rev, Uuid};

use crate::events::{EventSink, ServerEvent};
use crate::lease::LeasePage;

const CLASS_TICK: u32 = 1;
const CLASS_DRAIN: u32 = 2;
/// A heartbeat with 256 echoes fits; longer datagrams are cut and then fail their MAC.
const DATAGRAM_MAX: usize = 16 << 10;
/// Heartbeats that may wait in the socket for each look at it: what the smallest usual receive buffer
/// (208 KiB) holds of the largest ones.
const PER_LOOK: usize = 8;
/// Datagrams taken in one turn: a flood cannot keep the thread from its own heartbeat.
const DRAIN_MAX: usize = 1024;

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
    /// End.
    Stop,
}

/// The thread's handler.
pub struct BeaconHandler {
    core: BeaconCore,
    socket: UdpSocket,
    buf: Vec<u8>,
    addrs: BTreeMap<Uuid, SocketAddr>,
    page: LeasePage,
    events: EventSink,
    actions: Vec<Action>,
    silent: Vec<Uuid>,
    tick: Option<(Micros, TimerId)>,
    drain: Option<TimerId>,
}

/// Starts the beacon on an already bound UDP socket.
pub fn spawn_beacon(
    config: BeaconConfig,
    socket: std::os::fd::OwnedFd,
    page: LeasePage,
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
            events,
            actions: Vec::new(),
            silent: Vec::new(),
            tick: None,
            drain: None,
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
            BeaconCommand::AskVote { node, round } => Event::AskVote(Suspect { node, round }),
            BeaconCommand::Stop => {
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
        let counters = self.page.counters();
        self.step(cx, Event::Slots(counters));
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
            self.drain = looks_between(self.addrs.len()).map(|every| cx.timer(every, UserToken::new(CLASS_DRAIN, 0)));
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

impl BeaconHandler {
    /// Takes every datagram that waits. An error other than "nothing there" is an ICMP answer of a
    /// dead peer: it says nothing that silence does not say, and the next datagram may be good.
    fn drain(&mut self, cx: &mut Ctx) {
        for _ in 0..DRAIN_MAX {
            match self.socket.recv(&mut self.buf) {
                Ok(n) => {
                    let bytes = self.buf.get(..n).unwrap_or(&[]).to_vec();
                    self.step(cx, Event::Datagram(bytes));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
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
            Action::NeedMap => self.events.put(ServerEvent::NeedMap { at_least: Rev(0) }),
            // The page is zero by the Lease action before it; nobody asks for proof in one process.
            Action::Revoked { .. } => {}
            Action::Vote { suspect, granted } => {
                self.events.put(ServerEvent::Vote { node: suspect.node, round: suspect.round, granted });
            }
            Action::Quorum(inside) => self.events.put(ServerEvent::Quorum(inside)),
        }
    }
}
