//! The beacon's thread: datagrams and the clock around the beacon core. It runs inside the server
//! process on a thread of its own, so that neither a manager's loss nor a busy drive costs a lease.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use drystone_membership::beacon::{Action, BeaconConfig, BeaconCore, Event};
use drystone_membership::Suspect;
use drystone_reactor::{spawn, Config, Ctx, FdId, Handler, OpResult, Remote, Running, SetupError, TimerId, UserToken};
use drystone_types::consts::Micros;
use drystone_types::{Buf, BufMut, Rev, Uuid};

use crate::events::{EventSink, ServerEvent};
use crate::lease::LeasePage;

const CLASS_RECV: u32 = 1;
const CLASS_SEND: u32 = 2;
const CLASS_TICK: u32 = 3;
/// A heartbeat with 256 echoes fits; longer datagrams are cut and then fail their MAC.
const DATAGRAM_MAX: usize = 16 << 10;
/// After a failed receive (an ICMP error of a dead peer, mostly) the next one waits this long, so
/// that a broken socket cannot spin.
const RECV_AGAIN: Micros = 10_000;

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
    socket: FdId,
    addrs: BTreeMap<Uuid, SocketAddr>,
    page: LeasePage,
    events: EventSink,
    actions: Vec<Action>,
    silent: Vec<Uuid>,
    tick: Option<(Micros, TimerId)>,
}

/// Starts the beacon on an already bound UDP socket.
pub fn spawn_beacon(
    config: BeaconConfig,
    socket: std::os::fd::OwnedFd,
    page: LeasePage,
    events: EventSink,
) -> Result<(Remote<BeaconCommand>, Running), SetupError> {
    spawn("beacon", Config::default(), move |cx| {
        let socket = cx.adopt(socket);
        cx.recv_from(socket, UserToken::new(CLASS_RECV, 0), BufMut::with_len(DATAGRAM_MAX));
        let core = BeaconCore::new(config, cx.now_us());
        BeaconHandler {
            core,
            socket,
            addrs: BTreeMap::new(),
            page,
            events,
            actions: Vec::new(),
            silent: Vec::new(),
            tick: None,
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

    fn on_completion(&mut self, cx: &mut Ctx, _: UserToken, result: OpResult) {
        if let OpResult::ReceivedFrom { result, buf } = result {
            match result {
                Ok((n, _)) => {
                    let bytes = buf.as_slice().get(..n).unwrap_or(&[]).to_vec();
                    cx.recv_from(self.socket, UserToken::new(CLASS_RECV, 0), buf);
                    self.step(cx, Event::Datagram(bytes));
                }
                Err(_) => {
                    cx.timer(RECV_AGAIN, UserToken::new(CLASS_RECV, 0));
                }
            }
        }
    }

    fn on_timer(&mut self, cx: &mut Ctx, timer: TimerId, token: UserToken) {
        if token.class == CLASS_RECV {
            cx.recv_from(self.socket, token, BufMut::with_len(DATAGRAM_MAX));
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
    }
}

impl BeaconHandler {
    fn step(&mut self, cx: &mut Ctx, event: Event) {
        let mut actions = core::mem::take(&mut self.actions);
        self.core.step(cx.now_us(), event, &mut actions);
        for action in actions.drain(..) {
            self.act(cx, action);
        }
        self.actions = actions;
    }

    fn act(&mut self, cx: &mut Ctx, action: Action) {
        match action {
            Action::Send { to, bytes } => {
                if let Some(addr) = self.addrs.get(&to) {
                    cx.send_to(self.socket, UserToken::new(CLASS_SEND, 0), Buf::copy_from(&bytes), *addr);
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
