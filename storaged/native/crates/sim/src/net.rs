//! The network: ordered connections that break, stall and deliver late; calls of the store; datagrams.

use drystone_replica::{Event as ReplicaEvent, PeerId, PeerInfo, PeerRole};
use drystone_sequencer::Event as SequencerEvent;
use drystone_types::{Frame, Header, MsgType, Uuid, Writer};

use crate::event::{End, Ev, Life, Opened, Proc, Request};
use crate::world::{FrameFacts, HookVerdict, Place, Time, World};

/// Bytes of a frame beside its data, about.
const HEADER: u64 = 200;

/// A connection. Its index is the `PeerId` at the server.
#[derive(Debug)]
pub struct Conn {
    /// Asking end.
    pub from: End,
    /// Life of the asker.
    pub from_life: Life,
    /// Drive at the other end.
    pub drive: usize,
    /// Life of the server it was accepted by.
    pub server_life: Life,
    /// The asker may send.
    pub up: bool,
    /// The server was told of the peer.
    pub accepted: bool,
    /// No frame enters it any more.
    pub broken: bool,
    /// Which ends (asker, server) know that it is gone: no frame of it reaches them any more.
    pub told: [bool; 2],
    /// Latest arrival per direction, for the order.
    last: [Time; 2],
}

impl World {
    /// Place of an asking end.
    pub fn place_of(&self, end: End) -> Place {
        match end {
            End::Client(c) => Place::Client(c),
            End::Drive(d) => Place::Node(self.drives.get(d).map_or(0, |d| d.node)),
        }
    }
    fn drive_place(&self, drive: usize) -> Place {
        Place::Node(self.drives.get(drive).map_or(0, |d| d.node))
    }
    /// Until when a direction is cut.
    pub fn cut_until(&self, from: Place, to: Place) -> Option<Time> {
        self.cuts.get(&(from, to)).copied().filter(|until| *until > self.now)
    }
    /// Ordinary latency of one message, with the seed's rare long delays.
    pub fn latency(&mut self) -> Time {
        let base = self.rng.range(30, 200);
        if self.rng.chance(self.plan.delays) {
            self.counts.hit("net.delayed");
            return base + self.rng.below(self.plan.late);
        }
        base
    }

    /// Connection of an asker to a drive that can be used now.
    pub fn conn_up(&self, from: End, drive: usize) -> Option<usize> {
        let id = *self.conn_of.get(&(from, drive))?;
        self.conns.get(id).is_some_and(|c| c.up && !c.broken).then_some(id)
    }

    /// Starts a connection attempt unless one is open or under way.
    pub fn dial(&mut self, from: End, drive: usize) {
        if self.conn_of.get(&(from, drive)).is_some_and(|id| self.conns.get(*id).is_some_and(|c| !c.broken)) {
            return;
        }
        let from_life = self.end_life(from);
        let id = self.conns.len();
        self.conns.push(Conn {
            from,
            from_life,
            drive,
            server_life: 0,
            up: false,
            accepted: false,
            broken: false,
            told: [false; 2],
            last: [0; 2],
        });
        self.conn_of.insert((from, drive), id);
        let (a, b) = (self.place_of(from), self.drive_place(drive));
        if self.cut_until(a, b).is_some() || self.cut_until(b, a).is_some() {
            self.after(1_000_000, Ev::Opened(id, Opened::Timeout));
            return;
        }
        let delay = self.latency();
        self.after(delay, Ev::Knock(id));
    }

    /// Life of an asking end's process.
    pub fn end_life(&self, end: End) -> Life {
        match end {
            End::Client(c) => self.life_of(Proc::Client(c)),
            End::Drive(d) => self.drives.get(d).map_or(0, |d| d.life),
        }
    }

    fn alive(&self, end: End, life: Life) -> bool {
        life == self.end_life(end)
            && match end {
                End::Client(c) => self.clients.get(c).is_some_and(|c| c.alive),
                End::Drive(d) => self.drives.get(d).is_some_and(|d| d.replica.is_some()),
            }
    }

    /// A connection attempt reaches the server's kernel.
    pub fn knock(&mut self, id: usize) {
        let Some(conn) = self.conns.get(id) else { return };
        let (from, drive, from_life) = (conn.from, conn.drive, conn.from_life);
        let Some(d) = self.drives.get(drive) else { return };
        let power = self.nodes.get(d.node).is_some_and(|n| n.power);
        let (serving, life) = (d.replica.is_some(), d.life);
        let delay = self.latency();
        let how = match (power, serving) {
            (false, _) => Opened::Timeout,
            (true, false) => Opened::Refused,
            (true, true) => Opened::Yes,
        };
        if how == Opened::Timeout {
            self.after(1_000_000, Ev::Opened(id, how));
            return;
        }
        if how == Opened::Yes {
            let uuid = self.peer_uuid(from);
            let role = if matches!(from, End::Client(_)) { PeerRole::Client } else { PeerRole::Server };
            if let Some(conn) = self.conns.get_mut(id) {
                (conn.accepted, conn.server_life) = (true, life);
            }
            let info = PeerInfo { role, uuid };
            self.after(1, Ev::Replica(drive, life, Box::new(ReplicaEvent::PeerUp { peer: PeerId(id as u64), info })));
            if let End::Client(c) = from {
                self.open_session(id, c, from_life);
                return;
            }
        }
        self.after(delay, Ev::Opened(id, how));
    }

    /// The client's SESSION request; its answer completes the connection.
    fn open_session(&mut self, id: usize, client: usize, life: Life) {
        if !self.alive(End::Client(client), life) {
            return;
        }
        let Some(drive) = self.conns.get(id).map(|c| c.drive) else { return };
        let drive_id = self.drives.get(drive).map(|d| d.id).unwrap_or_default();
        let meta = self.session_meta(client, drive_id);
        let hdr = Header { kind: MsgType::Session, request: u64::MAX, drive: drive_id, ..Header::default() };
        self.travel(id, true, Frame::with_meta(hdr, meta));
    }

    fn session_meta(&self, client: usize, drive: drystone_types::DriveId) -> Vec<u8> {
        let mut w = Writer::new();
        let seq = self.clients.get(client).and_then(|c| c.seq.as_ref());
        w.u32(1).u32(1).u64(0).u32(seq.map_or(0, |_| 1));
        if let Some(seq) = seq {
            w.u64(seq.volume().0).u32(seq.generation().0).u32(seq.issued_slots(drive));
        }
        w.finish()
    }

    fn peer_uuid(&self, from: End) -> Uuid {
        match from {
            End::Client(c) => self.clients.get(c).map(|c| c.uuid).unwrap_or_default(),
            End::Drive(d) => self.drives.get(d).map(|d| node_uuid(d.node)).unwrap_or_default(),
        }
    }

    /// The outcome of an attempt reaches the asker (for clients that were accepted: by the SESSION answer).
    pub fn opened(&mut self, id: usize, how: Opened) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let (from, drive, life) = (conn.from, conn.drive, conn.from_life);
        if conn.broken || conn.up {
            return;
        }
        if how == Opened::Yes {
            conn.up = true;
        } else {
            conn.broken = true;
        }
        if !self.alive(from, life) {
            return;
        }
        match (from, how) {
            (End::Drive(d), Opened::Yes) => self.flush_drive_queue(d, drive, id),
            (End::Drive(d), _) => self.drive_unreachable(d, drive),
            (End::Client(_), Opened::Yes) => {}
            (End::Client(c), how) => self.client_conn_down(c, drive, how == Opened::Refused),
        }
    }

    /// Sends a frame into a connection.
    pub fn travel(&mut self, id: usize, to_server: bool, frame: Frame) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.broken {
            return;
        }
        let (from, drive) = (conn.from, conn.drive);
        let facts = FrameFacts { now: self.now, from, drive, to_server, hdr: frame.hdr };
        let mut hook = self.hook.take();
        let verdict = hook.as_mut().map_or(HookVerdict::Pass, |h| h(&facts));
        self.hook = hook;
        self.trace(|| {
            format!("{from:?} {} drive{} {}", if to_server { "->" } else { "<-" }, drive + 1, describe(&frame))
        });
        match verdict {
            HookVerdict::Pass => {}
            HookVerdict::Keep => self.held.push((id, to_server, frame.clone())),
            HookVerdict::Late(by) => {
                self.after(by, Ev::Arrive(id, to_server, Box::new(frame)));
                return;
            }
            HookVerdict::Hold => {
                self.held.push((id, to_server, frame));
                return;
            }
            HookVerdict::Lose => return,
        }
        self.send_ordinary(id, to_server, frame);
    }

    fn send_ordinary(&mut self, id: usize, to_server: bool, frame: Frame) {
        let Some(conn) = self.conns.get(id) else { return };
        let (a, b) = (self.place_of(conn.from), self.drive_place(conn.drive));
        let (src, dst) = if to_server { (a, b) } else { (b, a) };
        let last = conn.last[usize::from(to_server)];
        let mut at = self.now + self.latency();
        if let Some(until) = self.cut_until(src, dst) {
            // The kernel repeats it until the way is free, or the connection dies first.
            at = until + self.rng.range(1_000, 200_000);
        }
        at = self.through((src, dst), frame.data.len() as u64 + HEADER, at);
        let overtakes = self.rng.chance(self.plan.reorder);
        if overtakes {
            self.counts.hit("net.reordered");
        } else {
            at = at.max(last + 1);
            if let Some(conn) = self.conns.get_mut(id) {
                conn.last[usize::from(to_server)] = at;
            }
        }
        if self.rng.chance(self.plan.duplicates) && frame.hdr.kind != MsgType::Session {
            self.counts.hit("net.duplicated");
            let later = at + self.rng.below(self.plan.late.max(1_000));
            self.at(later, Ev::Arrive(id, to_server, Box::new(frame.clone())));
        }
        self.at(at, Ev::Arrive(id, to_server, Box::new(frame)));
    }

    /// A frame arrives. Frames sent before a break still arrive, as from a socket's buffer, while the
    /// receiving process is the one that had the connection.
    pub fn arrive(&mut self, id: usize, to_server: bool, frame: Frame) {
        let Some(conn) = self.conns.get(id) else { return };
        let (from, drive, from_life, server_life) = (conn.from, conn.drive, conn.from_life, conn.server_life);
        if conn.told[usize::from(to_server)] {
            return;
        }
        if to_server {
            let peer = PeerId(id as u64);
            if conn.accepted {
                self.check_server_receives(id, &frame);
                self.replica_event(drive, server_life, ReplicaEvent::Frame { peer, frame });
            }
            return;
        }
        if !self.alive(from, from_life) {
            return;
        }
        let drive_id = self.drives.get(drive).map(|d| d.id).unwrap_or_default();
        match from {
            End::Client(c) if frame.hdr.kind == MsgType::Session && frame.hdr.request == u64::MAX => {
                self.session_answer(id, c, &frame)
            }
            End::Client(c) => {
                self.check_client_receives(c, drive, &frame);
                self.sequencer_event(c, from_life, SequencerEvent::Frame { drive: drive_id, frame });
            }
            End::Drive(d) => self.replica_event(d, from_life, ReplicaEvent::DriveReply { drive: drive_id, frame }),
        }
    }

    fn session_answer(&mut self, id: usize, client: usize, frame: &Frame) {
        let nonce = frame.meta.get(12..20).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.broken || conn.up {
            return;
        }
        conn.up = true;
        let (life, drive) = (conn.from_life, conn.drive);
        let drive = self.drives.get(drive).map(|d| d.id).unwrap_or_default();
        self.sequencer_event(client, life, SequencerEvent::DriveUp { drive, nonce });
    }

    /// Breaks a connection. Each end learns it in its own time; frames under way may still arrive.
    pub fn break_conn(&mut self, id: usize, slow: bool) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.broken {
            return;
        }
        conn.broken = true;
        self.counts.hit("net.connections_broken");
        let client_side = self.rng.range(50, 1_000);
        let server_side = if slow { self.rng.range(1_000, 3_000_000) } else { self.rng.range(50, 2_000) };
        self.after(client_side, Ev::Gone(id, false));
        self.after(server_side, Ev::Gone(id, true));
    }

    /// An end learns that its connection is gone.
    pub fn gone(&mut self, id: usize, server: bool) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.told[usize::from(server)] = true;
        let (from, drive, from_life, server_life, accepted) =
            (conn.from, conn.drive, conn.from_life, conn.server_life, conn.accepted);
        if server {
            if accepted {
                self.replica_event(drive, server_life, ReplicaEvent::PeerGone(PeerId(id as u64)));
            }
            return;
        }
        if !self.alive(from, from_life) {
            return;
        }
        match from {
            End::Client(c) => {
                let refused = self
                    .drives
                    .get(drive)
                    .is_some_and(|d| d.replica.is_none() && self.nodes.get(d.node).is_some_and(|n| n.power));
                self.client_conn_down(c, drive, refused);
            }
            End::Drive(d) => self.drive_unreachable(d, drive),
        }
    }

    fn client_conn_down(&mut self, client: usize, drive: usize, refused: bool) {
        let id = self.drives.get(drive).map(|d| d.id).unwrap_or_default();
        let life = self.life_of(Proc::Client(client));
        self.sequencer_event(client, life, SequencerEvent::DriveDown { drive: id, refused });
        let pause = self.rng.range(5_000, 100_000);
        self.after(pause, Ev::Redial(End::Client(client), drive));
    }

    /// Time to try again.
    pub fn redial(&mut self, end: End, drive: usize) {
        let wanted = match end {
            End::Client(c) => self.client_wants(c, drive),
            End::Drive(_) => false,
        };
        if wanted {
            self.dial(end, drive);
        } else {
            // Wanted again later (under another id, too), it is dialled anew.
            self.conn_of.remove(&(end, drive));
        }
    }

    /// Breaks every connection of a server's drives (its process died); the kernel resets at once
    /// unless the power is gone too.
    pub fn break_server_conns(&mut self, node: usize, slow: bool) {
        for id in 0..self.conns.len() {
            let Some(conn) = self.conns.get(id) else { continue };
            let to = self.drive_place(conn.drive) == Place::Node(node);
            let from = matches!(conn.from, End::Drive(d) if self.drives.get(d).is_some_and(|d| d.node == node));
            if !conn.broken && (to || from) {
                if let Some(conn) = self.conns.get_mut(id) {
                    conn.broken = true;
                }
                let delay = if slow { self.rng.range(200_000, 2_000_000) } else { self.rng.range(50, 1_000) };
                self.after(delay, Ev::Gone(id, false));
                self.after(delay, Ev::Gone(id, true));
            }
        }
    }

    /// Breaks every connection of a client that died; the servers learn it in their own time.
    pub fn break_client_conns(&mut self, client: usize) {
        for id in 0..self.conns.len() {
            if self.conns.get(id).is_some_and(|c| c.from == End::Client(client) && !c.broken) {
                self.break_conn(id, true);
            }
        }
    }

    /// Calls the store.
    pub fn call(&mut self, from: Proc, request: Request) {
        let life = self.life_of(from);
        let place = place_of_proc(from);
        let mut delay = self.latency() + self.rng.range(100, 2_000);
        if self.rng.chance(self.plan.slow_store) {
            self.counts.hit("store.slow");
            delay += self.rng.below(1_000_000);
        }
        if let Some(until) = self.cut_until(place, Place::Store) {
            delay += until - self.now;
        }
        self.after(delay, Ev::Call(from, life, request));
    }

    /// Sends an answer of the store back.
    pub fn reply(&mut self, to: Proc, life: Life, answer: crate::event::Answer, may_lose: bool) {
        if may_lose && self.rng.chance(self.plan.lost_replies) {
            self.counts.hit("store.reply_lost");
            self.trace(|| format!("store reply to {to:?} lost"));
            return;
        }
        let mut delay = self.latency() + self.rng.range(100, 2_000);
        if let Some(until) = self.cut_until(Place::Store, place_of_proc(to)) {
            delay += until - self.now;
        }
        self.after(delay, Ev::Reply(to, life, answer));
    }

    /// A datagram: lost by chance or by a cut, else late by its latency.
    pub fn datagram(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        let lost = self.rng.chance(self.plan.datagram_loss);
        if lost || self.cut_until(Place::Node(from), Place::Node(to)).is_some() {
            self.counts.hit("net.datagrams_lost");
            return;
        }
        let delay = self.latency();
        let life = self.life_of(Proc::Beacon(to));
        self.after(delay, Ev::Beacon(to, life, Box::new(drystone_membership::beacon::Event::Datagram(bytes))));
    }

    /// Lets a script's held frames go, in order.
    pub fn release_held(&mut self, which: impl Fn(&Frame) -> bool) {
        let held = std::mem::take(&mut self.held);
        for (id, to_server, frame) in held {
            if which(&frame) {
                self.after(10, Ev::Arrive(id, to_server, Box::new(frame)));
            } else {
                self.held.push((id, to_server, frame));
            }
        }
    }
}

impl World {
    /// Delivers held requests over the newest connection of their asker, as a relay would that kept them.
    pub fn redeliver_held(&mut self) {
        for (id, to_server, frame) in std::mem::take(&mut self.held) {
            let (from, drive) = (self.conns[id].from, self.conns[id].drive);
            if let (true, Some(conn)) = (to_server, self.conn_up(from, drive)) {
                self.after(10, Ev::Arrive(conn, true, Box::new(frame)));
            }
        }
    }
}

fn place_of_proc(proc: Proc) -> Place {
    match proc {
        Proc::Server(n) | Proc::Beacon(n) => Place::Node(n),
        Proc::Client(c) => Place::Client(c),
        Proc::Manager(m) => Place::Manager(m),
        Proc::Nobody => Place::Store,
    }
}

/// UUID of a node.
pub fn node_uuid(node: usize) -> Uuid {
    Uuid([node as u8 + 1; 16])
}

/// One line about a frame.
pub fn describe(frame: &Frame) -> String {
    let h = &frame.hdr;
    let answer = if h.is_resp() { format!(" => {:?} credits {}", h.status, h.credits) } else { String::new() };
    format!(
        "{:?}{} v{} g{} pg{} e{} b{}+{} {} stable {} rev{} req{:x}{}{}",
        h.kind,
        if h.flags.has(drystone_types::Flags::RELAY) { "(relay)" } else { "" },
        h.vol,
        h.gen,
        h.pg.pg,
        h.pg_epoch,
        h.block,
        h.count,
        h.version(),
        h.stable,
        h.map_rev,
        h.request,
        if h.flags.has(drystone_types::Flags::ROLL) { " ROLL" } else { "" },
        answer
    )
}
