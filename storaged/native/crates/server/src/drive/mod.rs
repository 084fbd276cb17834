//! One drive: a reactor thread around the replica core.
//!
//! A turn: completions and commands become events of the core; its actions become frames, device
//! operations and news; at the end everything is handed to the kernel at once, so that what
//! arrived together is written in one group.

mod ahead;
mod config;
mod dev;
mod exercise;
#[cfg(feature = "fault-hooks")]
mod faults;
mod meter;
mod onset;
mod peers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use drystone_link::{DialClasses, DialEvent, Dialer, Item, PeerUp};
use drystone_reactor::{Ctx, Event as ConnEvent, Handler, OpResult, Remote, TimerId, UserToken};
use drystone_replica::{Action, Control, ControlResult, Event, Replica};
use drystone_store::api::{DevResult, ObjectStore};
use drystone_store::{LogStats, LogStore};
use drystone_types::consts::Micros;
use drystone_types::{ClusterMap, DriveId, Frame, Gen, PoolId, Rev, VolumeId};

pub use config::{spawn_drive, DriveConfig, DriveHandle};
pub use meter::DeviceStats;

use crate::events::{EventSink, ServerEvent};
use crate::lease::{LeasePage, LeaseView};
use dev::Device;
use exercise::Exercise;
use peers::Peers;

const CLASS_DEV: u32 = 10;
const CLASS_AHEAD: u32 = 13;
const CLASS_TICK: u32 = 11;
const CLASS_SLOT: u32 = 12;
const CLASS_CLOSE: u32 = 14;
const CLASS_EXERCISE: u32 = 15;
const CLASS_EXERCISE_END: u32 = 16;
#[cfg(feature = "fault-hooks")]
const CLASS_FAULT: u32 = 17;
const DIAL: DialClasses = DialClasses { conn: 20, connect: 21, timer: 22 };
/// The thread's slot in the lease page moves at least this often when nothing happens (§4.5).
const SLOT_PERIOD: Micros = 100_000;
/// The last checkpoint may take this long: the process that stops us waits 10 s.
/// After it the thread ends without one, and the next open replays more of the log.
const CLOSE_MAX: Micros = 8_000_000;
/// The store's revision goes to the superblock at most this often: a restored backup that is older than what this drive
/// saw is refused, but for the last minute, and maps come many times a second when much changes.
const NOTE_PERIOD: Micros = 60_000_000;
/// Internal id of the shutdown request; the process's own ids start above it.
const SHUTDOWN: u64 = 0;

/// What the process tells a drive.
pub enum DriveCommand {
    /// A newer map.
    Map(Arc<ClusterMap>),
    /// Answer to [`ServerEvent::NeedGenerations`].
    Generations {
        /// Pool.
        pool: PoolId,
        /// Revision of the quorum read.
        revision: Rev,
        /// (volume, generation, owner nonce).
        list: Vec<(VolumeId, Gen, u64)>,
    },
    /// A control request; ids from 1.
    Control {
        /// Echoed in [`ServerEvent::ControlDone`].
        id: u64,
        /// What.
        req: Control,
    },
    /// Reads and writes that show how well the device does; [`ServerEvent::Exercised`] follows.
    Exercise {
        /// Echoed; ids from 1.
        id: u64,
    },
    /// Counters and space.
    Stats(std::sync::mpsc::Sender<DriveStats>),
    /// Write clean state and end.
    Stop,
}

/// Counters and space of a drive.
#[derive(Clone, Debug, Default)]
pub struct DriveStats {
    /// Counters of the replica core by name.
    pub counters: Vec<(&'static str, u64)>,
    /// Slots: total, live, grantable, granted, reserve.
    pub space: [u64; 5],
    /// Age of the oldest device operation in microseconds.
    pub oldest_io_us: u64,
    /// Connected peers.
    pub peers: u64,
    /// How fast the device answers.
    pub device: DeviceStats,
    /// The least time that the read lease still had at the end of a turn since these figures were last asked for; 0 =
    /// there was a turn without a lease.
    pub lease_margin_us: u64,
    /// Bytes that this drive's copies still lack, estimated.
    pub resync_bytes_left: u64,
    /// What garbage collection and checkpoints did, and segments by state.
    pub log: LogStats,
    /// Connections that were refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// How the process reaches a drive's thread.
pub type DriveRemote = Remote<DriveCommand>;

pub(crate) struct DriveHandler {
    drive: DriveId,
    slot: usize,
    page: LeasePage,
    lease: LeaseView,
    replica: Replica<LogStore>,
    device: Device,
    peers: Peers,
    dialer: Dialer,
    known: BTreeMap<DriveId, SocketAddr>,
    events: EventSink,
    actions: Vec<Action>,
    tick: Option<(Micros, TimerId)>,
    lease_margin: Micros,
    exercise: Option<Exercise>,
    /// A record of it is durable: the next one begins when the core is not busy with this one.
    exercise_due: bool,
    /// When the store's revision was last given to the superblock.
    noted_at: Option<Micros>,
    stopping: bool,
    /// The log is being closed: only the device is listened to.
    closing: bool,
    /// [`CLOSE_MAX`], but in tests.
    close_max: Micros,
    /// Slots that an ordered fullness has taken.
    #[cfg(feature = "fault-hooks")]
    faults_took: u64,
}

impl Handler for DriveHandler {
    type Command = DriveCommand;

    fn on_command(&mut self, cx: &mut Ctx, command: DriveCommand) {
        match command {
            DriveCommand::Map(map) => {
                self.learn_drives(cx, &map);
                self.step(cx, Event::Map(map));
                self.note_store(cx);
            }
            DriveCommand::Generations { pool, revision, list } => {
                self.step(cx, Event::Generations { pool, revision, list });
            }
            DriveCommand::Control { id, req } => self.step(cx, Event::Control { id, req }),
            DriveCommand::Exercise { id } => self.exercise(cx, id),
            DriveCommand::Stats(reply) => {
                let _ = reply.send(self.stats(cx));
            }
            DriveCommand::Stop => {
                self.stopping = true;
                self.step(cx, Event::Control { id: SHUTDOWN, req: Control::Shutdown });
            }
        }
    }

    fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) {
        if token.class == CLASS_DEV {
            if let Some((id, result)) = self.device.completed(cx, token, result) {
                self.dev_done(cx, id, result);
            }
        } else if token.class == CLASS_AHEAD {
            self.device.filled(cx);
        } else if token.class == CLASS_EXERCISE {
            self.exercise_read(cx, token, &result);
        } else if self.dialer.owns(token) {
            self.dialer.on_completion(cx, token, result);
        } else {
            self.peers.on_completion(cx, token, result);
        }
    }

    fn on_timer(&mut self, cx: &mut Ctx, timer: TimerId, token: UserToken) {
        match token.class {
            CLASS_TICK => {
                self.tick = self.tick.filter(|(_, id)| *id != timer);
                self.step(cx, Event::Tick);
            }
            CLASS_CLOSE => cx.stop(),
            CLASS_EXERCISE_END => self.exercise_late(token.id),
            CLASS_SLOT => {
                cx.timer(SLOT_PERIOD, UserToken::new(CLASS_SLOT, 0));
                #[cfg(feature = "fault-hooks")]
                self.look_for_faults(cx);
            }
            #[cfg(feature = "fault-hooks")]
            CLASS_FAULT => self.fault_due(cx, token.id),
            _ if self.dialer.owns(token) => self.dialer.on_timer(cx, token),
            _ => self.peers.on_timer(cx, token),
        }
    }

    /// One device write carries many requests, one request may wait for no device.
    fn depth(&self) -> usize {
        self.device.depth().max(self.replica.open_ops())
    }

    fn on_turn_end(&mut self, cx: &mut Ctx) {
        self.page.bump(self.slot);
        if self.closing {
            return self.close_log(cx);
        }
        if self.device.take_slowed() {
            let p99_us = self.device.stats(cx.now_us()).p99_us;
            self.events.put(ServerEvent::DeviceSlow { drive: self.drive, p99_us });
        }
        self.take_lease(cx);
        self.take_frames(cx);
        self.take_dialled(cx);
        // Before the flush, which hands the next record to the device.
        while core::mem::take(&mut self.exercise_due) {
            self.exercise_on(cx);
        }
        let mut actions = core::mem::take(&mut self.actions);
        self.replica.flush(cx.now_us(), &mut actions);
        self.actions = actions;
        self.perform(cx);
        self.peers.flush(cx);
        self.dialer.flush(cx);
        self.arm_tick(cx);
    }
}

impl DriveHandler {
    fn step(&mut self, cx: &mut Ctx, event: Event) {
        if self.closing {
            return;
        }
        self.lower_lease(cx);
        let mut actions = core::mem::take(&mut self.actions);
        self.replica.step(cx.now_us(), event, &mut actions);
        self.actions = actions;
        self.perform(cx);
    }

    fn dev_done(&mut self, cx: &mut Ctx, id: u64, result: DevResult) {
        if self.closing {
            // Nobody hears about it any more; the log alone still needs it.
            self.replica.store_mut().complete(id, result, &mut Vec::new());
        } else {
            self.step(cx, Event::Dev { id, result });
        }
    }

    fn take_lease(&mut self, cx: &mut Ctx) {
        let until = self.page.valid_until(self.slot, cx.now_us());
        self.lease_margin = self.lease_margin.min(until.saturating_sub(cx.now_us()));
        if let Some(until) = self.lease.end_turn(until) {
            self.tell_lease(cx, until);
        }
    }

    fn lower_lease(&mut self, cx: &mut Ctx) {
        if let Some(until) = self.lease.lower(self.page.valid_until(self.slot, cx.now_us())) {
            self.tell_lease(cx, until);
        }
    }

    fn tell_lease(&mut self, cx: &mut Ctx, valid_until: Micros) {
        let mut actions = core::mem::take(&mut self.actions);
        self.replica.step(cx.now_us(), Event::Lease { valid_until }, &mut actions);
        self.actions = actions;
    }

    fn take_frames(&mut self, cx: &mut Ctx) {
        while let Some((peer, event)) = self.peers.next(cx) {
            match event {
                ConnEvent::Item(Item::Frame(frame)) => self.step(cx, Event::Frame { peer, frame }),
                ConnEvent::Item(Item::Up(PeerUp::Accepted(who))) => {
                    self.step(cx, Event::PeerUp { peer, info: peers::info(&who) });
                }
                ConnEvent::Item(Item::Up(PeerUp::Connected { .. })) => {}
                ConnEvent::Closed(_) => self.step(cx, Event::PeerGone(peer)),
            }
        }
    }

    fn take_dialled(&mut self, cx: &mut Ctx) {
        while let Some(event) = self.dialer.next(cx) {
            match event {
                DialEvent::Up { .. } => {}
                DialEvent::Down { drive, .. } => self.step(cx, Event::DriveDown { drive }),
                DialEvent::Frame { drive, frame } => self.step(cx, Event::DriveReply { drive, frame }),
            }
        }
    }

    fn perform(&mut self, cx: &mut Ctx) {
        // Actions may make actions (a frame that cannot be sent is a drive that is down).
        while !self.actions.is_empty() {
            let mut actions = core::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                self.act(cx, action);
            }
            if self.actions.is_empty() {
                self.actions = actions;
            }
        }
    }

    fn act(&mut self, cx: &mut Ctx, action: Action) {
        let drive = self.drive;
        match action {
            // "Closed" promises that nothing is answered any more, also while a slow device drains.
            Action::Send { .. } | Action::SendDrive { .. } if self.stopping => {}
            Action::Dev(op) => self.device.start(cx, op),
            // What the core decided in the turn in which its log was closed is not to happen any more.
            _ if self.closing && !matches!(action, Action::Invariant(_)) => {}
            Action::Send { peer, frame } => self.peers.send(peer, &frame),
            Action::SendDrive { drive, frame } => self.send_drive(cx, drive, frame),
            Action::NeedMap { at_least } => self.events.put(ServerEvent::NeedMap { at_least }),
            Action::NeedGenerations { pool, since } => {
                self.events.put(ServerEvent::NeedGenerations { drive, pool, since })
            }
            Action::CopyComplete { pg, epoch } => self.events.put(ServerEvent::CopyComplete { drive, pg, epoch }),
            Action::StillQuiet { pg, epoch } => self.events.put(ServerEvent::StillQuiet { drive, pg, epoch }),
            Action::LeavePg { pg, why } => self.events.put(ServerEvent::LeavePg { drive, pg, why }),
            Action::ControlDone { id, result } => self.control_done(cx, id, result),
            Action::Report(report) => self.events.put(ServerEvent::Report { drive, report }),
            Action::Invariant(what) => {
                // A drive whose rules are broken must not answer anything any more, also not what this
                // very step has decided after the break: the thread ends only with the turn.
                self.stopping = true;
                self.events.put(ServerEvent::Invariant { drive, what });
                cx.stop();
            }
        }
    }

    #[cfg(feature = "fault-hooks")]
    fn look_for_faults(&mut self, cx: &mut Ctx) {
        if let Some(full) = self.device.faults.look(cx) {
            let slots = if full { self.replica.store().space().grantable } else { self.faults_took };
            self.faults_took = slots;
            let slots = i64::try_from(slots).unwrap_or(i64::MAX);
            self.replica.store_mut().grant(if full { slots } else { -slots });
        }
    }

    #[cfg(feature = "fault-hooks")]
    fn fault_due(&mut self, cx: &mut Ctx, id: u64) {
        match self.device.faults.due(id) {
            faults::Due::Nothing => {}
            faults::Due::Start(op) => self.device.start_now(cx, op),
            faults::Due::StartRaw(token, buf, offset) => self.device.read_raw_now(cx, token, buf, offset),
            faults::Due::DoneRaw(token, result) => self.on_completion(cx, token, result),
            faults::Due::Done(id, result) => {
                self.device.ended(cx, id);
                self.dev_done(cx, id, result);
            }
        }
    }

    fn send_drive(&mut self, cx: &mut Ctx, drive: DriveId, frame: Frame) {
        if !self.dialer.send(cx, drive, frame) {
            let mut actions = core::mem::take(&mut self.actions);
            self.replica.step(cx.now_us(), Event::DriveDown { drive }, &mut actions);
            self.actions = actions;
        }
    }

    fn control_done(&mut self, cx: &mut Ctx, id: u64, result: ControlResult) {
        if id >= exercise::RECORDS {
            return self.exercise_written(cx, id, result == ControlResult::Done);
        }
        if id == SHUTDOWN && self.stopping {
            // Everything is durable and nothing is answered: that is news for others. A checkpoint now
            // makes the next open short.
            self.events.put(ServerEvent::DriveClosed { drive: self.drive });
            self.closing = true;
            self.replica.store_mut().stop();
            cx.timer(self.close_max, UserToken::new(CLASS_CLOSE, 0));
        } else {
            self.events.put(ServerEvent::ControlDone { drive: self.drive, id, result });
        }
    }

    /// Writes the last checkpoint: the log alone, without the core above it.
    fn close_log(&mut self, cx: &mut Ctx) {
        let store = self.replica.store_mut();
        let (mut ops, mut nobody) = (Vec::new(), Vec::new());
        store.poll(&mut ops);
        store.take_events(&mut nobody);
        if store.is_stopped() {
            cx.stop();
        }
        ops.into_iter().for_each(|op| self.device.start(cx, op));
    }

    fn learn_drives(&mut self, cx: &mut Ctx, map: &ClusterMap) {
        for info in map.drives.iter().filter(|d| d.id != self.drive) {
            let Ok(addr) = info.addr.parse::<SocketAddr>() else { continue };
            if self.known.insert(info.id, addr) != Some(addr) {
                self.dialer.set_target(cx, info.id, addr, false);
            }
        }
    }

    /// What this drive has seen of the metadata store: an older store is refused at the next open.
    fn note_store(&mut self, cx: &Ctx) {
        let now = cx.now_us();
        if self.closing || self.noted_at.is_some_and(|at| now.saturating_sub(at) < NOTE_PERIOD) {
            return;
        }
        self.noted_at = Some(now);
        let (incarnation, revision) = self.replica.store_seen();
        self.replica.store_mut().note_store(incarnation, revision);
    }

    fn arm_tick(&mut self, cx: &mut Ctx) {
        let wanted = self.replica.next_deadline();
        if self.tick.map(|(at, _)| at) == wanted {
            return;
        }
        if let Some((_, old)) = self.tick.take() {
            cx.cancel_timer(old);
        }
        self.tick = wanted.map(|at| (at, cx.timer_at(at, UserToken::new(CLASS_TICK, 0))));
    }

    fn stats(&mut self, cx: &Ctx) -> DriveStats {
        let s = self.replica.store().space();
        DriveStats {
            device: self.device.stats(cx.now_us()),
            lease_margin_us: core::mem::replace(&mut self.lease_margin, Micros::MAX),
            resync_bytes_left: self.replica.resync_bytes_left(),
            log: self.replica.store().log_stats(),
            refused: self.peers.refused(),
            counters: self.replica.stats().list(),
            space: [s.total, s.live, s.grantable, s.granted, s.reserve],
            oldest_io_us: self.device.oldest_us(cx.now_us()),
            peers: self.peers.len() as u64,
        }
    }
}
