//! The reactor's handler: events of sockets and commands become events of sequencers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::Arc;

use drystone_fe_nbd::{Export, Limits, Request, Session};
use drystone_link::{DialClasses, DialEvent, Dialer, MyIdentity};
use drystone_reactor::{
    spawn, Config as ReactorConfig, ConnConfig, ConnId, Conns, Ctx, Event as ConnEvent, FdId, Handler, OpResult,
    Remote, Running, SetupError, TimerId, UserToken,
};
use drystone_sequencer::{Action, ActivateError, Config, Event, FenceReason, IoError, Sequencer, State};
use drystone_types::{AttachMode, ClusterMap, DriveId, Gen, MsgType, Rev, Ticket, Uuid, VolumeId};

use crate::events::{BlockEvent, EventSink};
use crate::front::{counted, io_of, reply};
use crate::io_stats::IoStats;
use crate::session;
use crate::tags::{Origin, Tags};
use crate::volume::Volume;

const CLASS_LISTEN: u32 = 1;
const CLASS_NBD: u32 = 2;
const CLASS_TICK: u32 = 3;
const CLASS_CLOSE: u32 = 4;
const DIAL: DialClasses = DialClasses { conn: 20, connect: 21, timer: 22 };
/// NBD connections of one volume: a kernel uses one per CPU at most, fio one per job.
const CONNS_MAX: usize = 64;
/// Wait before accepting again after an error of the listener.
const ACCEPT_AGAIN_US: u64 = 10_000;

/// Settings of the daemon.
pub struct BlockConfig {
    /// This client as a connecting side.
    pub me: MyIdentity,
    /// How long the reactor looks for work before it sleeps.
    pub spin_us: u32,
}

/// What the process tells the daemon's thread.
pub enum BlockCommand {
    /// A newer map.
    Map(Arc<ClusterMap>),
    /// Starts a sequencer.
    Attach {
        /// Signed ticket.
        ticket: Vec<u8>,
        /// NBD socket.
        socket: PathBuf,
        /// Export name.
        export: String,
        /// Whether A2–A5 run.
        recover: bool,
        /// Node whose drives are preferred for reads.
        near_node: Option<Uuid>,
    },
    /// Outcome of A5's transaction.
    Activated {
        /// Volume.
        vol: VolumeId,
        /// Generation it was for.
        gen: Gen,
        /// Outcome.
        result: Result<(), ActivateError>,
    },
    /// A newer ticket.
    Ticket {
        /// Volume.
        vol: VolumeId,
        /// Signed ticket.
        ticket: Vec<u8>,
    },
    /// Drain and end.
    Detach(VolumeId),
    /// The attachment is gone from the record.
    Revoked(VolumeId),
    /// Counters.
    Stats(Sender<BlockStats>),
    /// End without detaching.
    Stop,
}

/// Counters of the daemon.
#[derive(Clone, Debug, Default)]
pub struct BlockStats {
    /// Per volume.
    pub volumes: Vec<VolumeStats>,
    /// Drives with a connection.
    pub drives_up: Vec<DriveId>,
}

/// Counters of one volume.
#[derive(Clone, Debug)]
pub struct VolumeStats {
    /// Volume.
    pub vol: VolumeId,
    /// State.
    pub state: State,
    /// Generation.
    pub gen: Gen,
    /// Bytes.
    pub size: u64,
    /// NBD connections.
    pub connections: usize,
    /// Counters of the sequencer by name.
    pub counters: Vec<(&'static str, u64)>,
    /// Counters of the consumer's requests.
    pub io: IoStats,
}

/// How the process reaches the thread.
pub type BlockRemote = Remote<BlockCommand>;

/// The handler of the daemon's thread.
pub struct BlockHandler {
    pub(crate) volumes: BTreeMap<VolumeId, Volume>,
    pub(crate) dialer: Dialer,
    pub(crate) nbd: Conns<Session>,
    pub(crate) conn_volume: BTreeMap<ConnId, VolumeId>,
    pub(crate) tags: Tags,
    pub(crate) events: EventSink,
    pub(crate) answered: Vec<(ConnId, VolumeId, u64)>,
    pub(crate) dirty: Vec<VolumeId>,
    pub(crate) revoke_later: Vec<VolumeId>,
    pub(crate) spare_actions: Vec<Vec<Action>>,
    map: Option<Arc<ClusterMap>>,
    /// Open nonce of each drive whose session is open.
    sessions: BTreeMap<DriveId, u64>,
    listeners: BTreeMap<FdId, VolumeId>,
}

/// Starts the daemon's thread.
pub fn spawn_block(config: BlockConfig, events: EventSink) -> Result<(BlockRemote, Running), SetupError> {
    let reactor = ReactorConfig { spin_us: config.spin_us, ..ReactorConfig::default() };
    spawn("block", reactor, move |_| BlockHandler {
        volumes: BTreeMap::new(),
        dialer: Dialer::new(config.me, DIAL),
        nbd: Conns::new(CLASS_NBD, ConnConfig::default()),
        conn_volume: BTreeMap::new(),
        tags: Tags::default(),
        events,
        answered: Vec::new(),
        dirty: Vec::new(),
        revoke_later: Vec::new(),
        spare_actions: Vec::new(),
        map: None,
        sessions: BTreeMap::new(),
        listeners: BTreeMap::new(),
    })
}

impl Handler for BlockHandler {
    type Command = BlockCommand;

    fn on_command(&mut self, cx: &mut Ctx, command: BlockCommand) {
        match command {
            BlockCommand::Map(map) => self.new_map(cx, map),
            BlockCommand::Attach { ticket, socket, export, recover, near_node } => {
                let vol = Ticket::peek(&ticket).map(|t| t.vol).unwrap_or_default();
                if let Err(reason) = self.attach(cx, &ticket, socket, export, recover, near_node) {
                    self.events.put(BlockEvent::AttachFailed { vol, reason });
                }
            }
            BlockCommand::Activated { vol, gen, result } => {
                if self.volumes.get(&vol).is_some_and(|v| v.gen == gen) {
                    self.step(cx, vol, Event::Activated(result));
                }
            }
            BlockCommand::Ticket { vol, ticket } => self.step(cx, vol, Event::Ticket(ticket)),
            BlockCommand::Detach(vol) => self.detach(cx, vol),
            BlockCommand::Revoked(vol) => self.step(cx, vol, Event::FencedByManager),
            BlockCommand::Stats(reply) => {
                let _ = reply.send(self.stats());
            }
            BlockCommand::Stop => cx.stop(),
        }
    }

    fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) {
        match (token.class, result) {
            (CLASS_NBD, result) => self.nbd.on_completion(cx, token, result),
            (CLASS_LISTEN, OpResult::Accepted(result)) => self.accepted(cx, VolumeId(token.id), result.ok()),
            (_, result) if self.dialer.owns(token) => self.dialer.on_completion(cx, token, result),
            _ => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Ctx, timer: TimerId, token: UserToken) {
        match token.class {
            CLASS_TICK => {
                let vol = VolumeId(token.id);
                if let Some(volume) = self.volumes.get_mut(&vol) {
                    volume.tick = volume.tick.filter(|(_, id)| *id != timer);
                }
                self.step(cx, vol, Event::Tick);
            }
            CLASS_LISTEN => {
                if let Some(fd) = self.volumes.get(&VolumeId(token.id)).and_then(|v| v.listener) {
                    cx.accept(fd, token);
                }
            }
            _ => self.dialer.on_timer(cx, token),
        }
    }

    fn depth(&self) -> usize {
        self.tags.open()
    }

    fn on_turn_end(&mut self, cx: &mut Ctx) {
        self.take_dialled(cx);
        self.take_requests(cx);
        self.nbd.flush(cx);
        self.release_answered(cx);
        for vol in core::mem::take(&mut self.revoke_later) {
            self.step(cx, vol, Event::FencedByManager);
        }
        self.nbd.flush(cx);
        self.dialer.flush(cx);
        self.arm_ticks(cx);
    }
}

impl BlockHandler {
    fn new_map(&mut self, cx: &mut Ctx, map: Arc<ClusterMap>) {
        if self.map.as_ref().is_some_and(|old| old.revision >= map.revision) {
            return;
        }
        self.map = Some(Arc::clone(&map));
        self.dial_drives(cx);
        let vols: Vec<VolumeId> = self.volumes.keys().copied().collect();
        for vol in vols {
            self.step(cx, vol, Event::Map(Arc::clone(&map)));
        }
    }

    /// Connections stand while something is attached: an attach must not wait for them.
    fn dial_drives(&mut self, cx: &mut Ctx) {
        let Some(map) = self.map.clone() else { return };
        let keep = !self.volumes.is_empty();
        for info in &map.drives {
            match info.addr.parse::<SocketAddr>() {
                Ok(addr) if keep && info.state != 2 => self.dialer.set_target(cx, info.id, addr, true),
                _ => self.dialer.drop_target(cx, info.id),
            }
        }
    }

    fn attach(
        &mut self,
        cx: &mut Ctx,
        ticket: &[u8],
        socket: PathBuf,
        export: String,
        recover: bool,
        near_node: Option<Uuid>,
    ) -> Result<(), String> {
        let parsed = Ticket::peek(ticket).map_err(|e| format!("the ticket cannot be read: {e:?}"))?;
        let vol = parsed.vol;
        if self.volumes.contains_key(&vol) {
            return Err("the volume is attached here already".to_owned());
        }
        session::may_start(parsed.mode, recover).map_err(str::to_owned)?;
        let config = Config { near: self.near(near_node), recover, seed: parsed.nonce | 1, ..Config::default() };
        let seq = Sequencer::new(config, ticket).map_err(|e| e.to_string())?;
        let listener = drystone_reactor::listen_unix(&socket).map_err(|e| format!("{}: {e}", socket.display()))?;
        let listener = cx.adopt(listener);
        cx.accept(listener, UserToken::new(CLASS_LISTEN, vol.0));
        self.listeners.insert(listener, vol);
        let volume = Volume {
            seq,
            gen: parsed.gen,
            state: State::Detached,
            size: parsed.size,
            read_only: parsed.mode != AttachMode::ReadWrite,
            export,
            socket,
            listener: Some(listener),
            tick: None,
            conns: 0,
            dirty: false,
            io: IoStats::default(),
        };
        self.volumes.insert(vol, volume);
        self.dial_drives(cx);
        self.start(cx, vol);
        Ok(())
    }

    /// What a new sequencer must know of: the map and the connections that stand.
    fn start(&mut self, cx: &mut Ctx, vol: VolumeId) {
        let Some(map) = self.map.clone() else { return };
        let up: Vec<(DriveId, u64)> = self.sessions.iter().map(|(d, n)| (*d, *n)).collect();
        for (drive, nonce) in up {
            self.step(cx, vol, Event::DriveUp { drive, nonce });
        }
        self.step(cx, vol, Event::Map(map));
    }

    /// SESSION: what is issued and unanswered is restated, so that the drive keeps its slots (W0).
    fn open_session(&mut self, cx: &mut Ctx, drive: DriveId) {
        let restated = self.volumes.iter().map(|(vol, v)| (*vol, v.gen, v.seq.issued_slots(drive)));
        let incarnation = self.map.as_ref().map_or((0, 0, Rev(0)), |m| (m.feature_level, m.incarnation, m.revision));
        let frame = session::request(drive, incarnation, restated);
        self.dialer.send(cx, drive, frame);
    }

    fn near(&self, node: Option<Uuid>) -> Vec<DriveId> {
        let (Some(map), Some(node)) = (&self.map, node) else { return Vec::new() };
        map.drives.iter().filter(|d| d.node == node).map(|d| d.id).collect()
    }

    fn detach(&mut self, cx: &mut Ctx, vol: VolumeId) {
        match self.volumes.get(&vol).map(|v| v.state) {
            None => self.events.put(BlockEvent::Detached { vol, clean: false }),
            Some(State::Fenced) => self.detached(cx, vol, false),
            Some(_) => self.step(cx, vol, Event::Detach { tag: 0 }),
        }
    }

    pub(crate) fn detached(&mut self, cx: &mut Ctx, vol: VolumeId, clean: bool) {
        let Some(volume) = self.volumes.remove(&vol) else { return };
        if let Some((_, timer)) = volume.tick {
            cx.cancel_timer(timer);
        }
        if let Some(listener) = volume.listener {
            self.listeners.remove(&listener);
            cx.close(listener, UserToken::new(CLASS_CLOSE, vol.0));
            let _ = std::fs::remove_file(&volume.socket);
        }
        let conns: Vec<ConnId> = self.conn_volume.iter().filter(|(_, v)| **v == vol).map(|(c, _)| *c).collect();
        for conn in conns {
            self.nbd.finish(cx, conn);
        }
        if self.volumes.is_empty() {
            self.dial_drives(cx);
        }
        self.events.put(BlockEvent::Detached { vol, clean });
    }

    fn accepted(&mut self, cx: &mut Ctx, vol: VolumeId, fd: Option<FdId>) {
        let Some(fd) = fd else {
            cx.timer(ACCEPT_AGAIN_US, UserToken::new(CLASS_LISTEN, vol.0));
            return;
        };
        let Some(volume) = self.volumes.get_mut(&vol).filter(|v| v.conns < CONNS_MAX) else {
            cx.close(fd, UserToken::new(CLASS_CLOSE, vol.0));
            return;
        };
        let mut export = Export::new(&volume.export, volume.size);
        export.read_only = volume.read_only;
        volume.conns += 1;
        let conn = self.nbd.insert(fd, |out| Session::new(export, Limits::default(), out));
        self.conn_volume.insert(conn, vol);
    }

    fn take_dialled(&mut self, cx: &mut Ctx) {
        while let Some(event) = self.dialer.next(cx) {
            match event {
                DialEvent::Frame { drive, frame } if frame.hdr.kind == MsgType::Session => {
                    match session::answered(&frame) {
                        Some(nonce) => {
                            self.sessions.insert(drive, nonce);
                            self.tell_all(cx, &Event::DriveUp { drive, nonce });
                        }
                        // Not now, or not with us: asked again on a new connection.
                        None => self.dialer.reset(cx, drive),
                    }
                }
                DialEvent::Frame { drive, frame } => {
                    let vol = frame.hdr.vol;
                    self.step(cx, vol, Event::Frame { drive, frame });
                }
                DialEvent::Up { drive, .. } => self.open_session(cx, drive),
                DialEvent::Down { drive, refused } => {
                    self.sessions.remove(&drive);
                    self.tell_all(cx, &Event::DriveDown { drive, refused });
                }
            }
        }
    }

    fn tell_all(&mut self, cx: &mut Ctx, event: &Event) {
        let vols: Vec<VolumeId> = self.volumes.keys().copied().collect();
        for vol in vols {
            self.step(cx, vol, event.clone());
        }
    }

    fn take_requests(&mut self, cx: &mut Ctx) {
        while let Some((conn, event)) = self.nbd.next(cx) {
            let Some(vol) = self.conn_volume.get(&conn).copied() else { continue };
            match event {
                ConnEvent::Item(request) => self.request(cx, conn, vol, request),
                ConnEvent::Closed(_) => {
                    self.conn_volume.remove(&conn);
                    if let Some(volume) = self.volumes.get_mut(&vol) {
                        volume.conns = volume.conns.saturating_sub(1);
                    }
                }
            }
        }
    }

    fn request(&mut self, cx: &mut Ctx, conn: ConnId, vol: VolumeId, Request { to, op }: Request) {
        let Some(volume) = self.volumes.get_mut(&vol) else {
            // Detached in this turn: nobody would ever answer it.
            if let Some((session, out)) = self.nbd.parts(conn) {
                reply(session, out, to, Err(IoError::Eio));
            }
            return;
        };
        let (kind, bytes) = counted(&op);
        let started = volume.io.begin(cx.now_us(), kind, bytes);
        let tag = self.tags.insert(Origin { vol, conn, to, started });
        self.step(cx, vol, Event::Io { tag, io: io_of(op) });
    }

    /// W1: a range is free again when its answer is in the consumer's socket, or the consumer is
    /// gone. Answers behind a send that still runs wait for the next turn.
    fn release_answered(&mut self, cx: &mut Ctx) {
        let waiting = core::mem::take(&mut self.answered);
        for (conn, vol, tag) in waiting {
            if self.nbd.get(conn).is_some_and(|c| c.queued() > 0 && c.is_open()) {
                self.answered.push((conn, vol, tag));
            } else {
                self.step(cx, vol, Event::Answered { tag });
            }
        }
    }

    fn arm_ticks(&mut self, cx: &mut Ctx) {
        for vol in core::mem::take(&mut self.dirty) {
            let Some(volume) = self.volumes.get_mut(&vol) else { continue };
            volume.dirty = false;
            let wanted = volume.seq.next_deadline();
            if volume.tick.map(|(at, _)| at) == wanted {
                continue;
            }
            if let Some((_, old)) = volume.tick.take() {
                cx.cancel_timer(old);
            }
            volume.tick = wanted.map(|at| (at, cx.timer_at(at, UserToken::new(CLASS_TICK, vol.0))));
        }
    }

    fn stats(&self) -> BlockStats {
        let volumes = self.volumes.iter().map(|(vol, v)| VolumeStats {
            vol: *vol,
            state: v.state,
            gen: v.gen,
            size: v.size,
            connections: v.conns,
            counters: v.seq.stats().list(),
            io: v.io,
        });
        let drives = self.map.iter().flat_map(|m| m.drives.iter()).map(|d| d.id);
        BlockStats { volumes: volumes.collect(), drives_up: drives.filter(|d| self.sessions.contains_key(d)).collect() }
    }
}

/// For messages: why a volume is fenced.
pub fn fence_text(reason: FenceReason) -> String {
    match reason {
        FenceReason::NewerGeneration(gen) => format!("another attachment owns the volume (generation {gen})"),
        FenceReason::Manager => "the manager has taken the attachment away".to_owned(),
        FenceReason::LastCopyFailed(pg) => format!("the last in-sync copy of placement group {pg} failed a write"),
    }
}
