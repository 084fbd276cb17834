//! The struct, its construction, and the step that dispatches events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;

use drystone_types::consts::{Micros, BLOCK_SIZE, FRAME_BLOCKS_MAX};
use drystone_types::{AttachMode, Buf, BufMut, DriveId, Gen, Header, MsgType, Rev, Rule, Ticket, Version, VolumeId};

use crate::api::{Action, Config, Event, NewError, State};
use crate::attach::Attach;
use crate::detach::Drain;
use crate::drive::{Drive, Dx};
use crate::hash::IntMap;
use crate::job::Job;
use crate::latency::Latency;
use crate::lock::RangeLock;
use crate::parent::ParentGroup;
use crate::pg::{Pg, PgIx, Pool};
use crate::presence::Presence;
use crate::read::ReadOp;
use crate::slab::Slab;
use crate::stats::Stats;
use crate::ticket::{chain_meta, Freezing};
use crate::timers::{Timer, Timers};
use crate::warm::Warm;
use crate::window::Window;
use crate::write::WriteOp;

/// One frame of zeros for all volumes of the process: what was never written is answered from it.
fn zeros() -> Buf {
    static ZEROS: OnceLock<Buf> = OnceLock::new();
    ZEROS.get_or_init(|| BufMut::zeroed(FRAME_BLOCKS_MAX as usize * BLOCK_SIZE).freeze()).clone()
}

/// The sequencer of one attached volume.
pub struct Sequencer {
    pub(crate) cfg: Config,
    pub(crate) ticket: Ticket,
    /// Newest signed ticket: what SEAL and LAYER carry.
    pub(crate) ticket_bytes: Vec<u8>,
    /// A newer ticket that is not in force before every member has it.
    pub(crate) next_ticket: Option<Ticket>,
    pub(crate) freezing: Option<Freezing>,
    pub(crate) chain_meta: Vec<u8>,
    pub(crate) parents: Vec<ParentGroup>,
    pub(crate) state: State,
    /// A5 was committed: frames carry `stable`.
    pub(crate) activated: bool,
    pub(crate) now: Micros,
    pub(crate) out: Vec<Action>,
    /// Highest revision of the map or of a record adopted from a NACK (R7 compares it).
    pub(crate) map_rev: Rev,
    /// Revision of the last full map.
    pub(crate) full_map_rev: Option<Rev>,
    pub(crate) map_want: Option<Rev>,
    pub(crate) map_asked_at: Option<Micros>,
    pub(crate) drives: Vec<Drive>,
    pub(crate) drive_ix: BTreeMap<DriveId, Dx>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) attach: Option<Attach>,
    pub(crate) jobs: Slab<Job>,
    pub(crate) tags: IntMap<u64, u32>,
    pub(crate) lock: RangeLock,
    /// Jobs that hold their lock and wait for ACTIVE.
    pub(crate) held: Vec<u32>,
    pub(crate) writes: Slab<WriteOp>,
    /// Writes not issued, in order of arrival.
    pub(crate) waiting: VecDeque<u32>,
    pub(crate) pump_due: bool,
    /// A waiting write was found below `min_insync`.
    pub(crate) insync_blocked: bool,
    /// Issued writes that wait for `min_insync`.
    pub(crate) parked: usize,
    pub(crate) stall: crate::stall::Stall,
    pub(crate) reads: Slab<ReadOp>,
    pub(crate) window: Window,
    pub(crate) round: u32,
    pub(crate) jitter: u64,
    pub(crate) timers: Timers,
    pub(crate) presence: Presence,
    pub(crate) latency: Latency,
    pub(crate) warm: Warm,
    pub(crate) drain: Option<Drain>,
    pub(crate) stable_armed: bool,
    pub(crate) last_write_at: Micros,
    pub(crate) spare_armed: bool,
    /// When credits were last used.
    pub(crate) credit_used_at: Micros,
    pub(crate) stats: Stats,
    pub(crate) zeros: Buf,
}

impl Sequencer {
    /// Made from the signed ticket of A1's transaction. Nothing happens before the first event;
    /// the first `Map` must have been read after that transaction (A1).
    pub fn new(cfg: Config, ticket: &[u8]) -> Result<Sequencer, NewError> {
        let parsed = Ticket::peek(ticket).map_err(NewError::Ticket)?;
        if parsed.chain.is_empty() {
            return Err(NewError::NoLayer);
        }
        Ok(Sequencer {
            jitter: cfg.seed,
            cfg,
            chain_meta: chain_meta(&parsed),
            parents: crate::parent::groups(&parsed),
            ticket: parsed,
            ticket_bytes: ticket.to_vec(),
            next_ticket: None,
            freezing: None,
            state: State::Detached,
            activated: false,
            now: 0,
            out: Vec::new(),
            map_rev: Rev(0),
            full_map_rev: None,
            map_want: None,
            map_asked_at: None,
            drives: Vec::new(),
            drive_ix: BTreeMap::new(),
            pools: Vec::new(),
            attach: None,
            jobs: Slab::new(),
            tags: IntMap::default(),
            lock: RangeLock::new(),
            held: Vec::new(),
            writes: Slab::new(),
            waiting: VecDeque::new(),
            pump_due: false,
            insync_blocked: false,
            parked: 0,
            stall: Default::default(),
            reads: Slab::new(),
            window: Window::new(),
            round: 0,
            timers: Timers::default(),
            presence: Presence::new(),
            latency: Latency::new(),
            drain: None,
            stable_armed: false,
            last_write_at: 0,
            spare_armed: false,
            credit_used_at: 0,
            warm: Warm::default(),
            stats: Stats::default(),
            zeros: zeros(),
        })
    }

    /// Takes one event at time `now` and appends what is to be done.
    pub fn step(&mut self, now: Micros, event: Event, out: &mut Vec<Action>) {
        self.now = self.now.max(now);
        core::mem::swap(&mut self.out, out);
        if self.state == State::Detached && self.drain.is_none() {
            self.set_state(State::Attaching);
        }
        self.dispatch(event);
        self.fire();
        self.settle();
        core::mem::swap(&mut self.out, out);
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Io { tag, io } => self.submit(tag, io),
            Event::Answered { tag } => self.answered(tag),
            Event::Frame { drive, frame } => self.on_frame(drive, frame),
            Event::DriveUp { drive, nonce } => self.drive_up(drive, nonce),
            Event::DriveDown { drive, refused } => self.drive_down(drive, refused),
            Event::Map(map) => self.on_map(&map),
            Event::Activated(result) => self.on_activated(result),
            Event::Ticket(bytes) => self.on_ticket(bytes),
            Event::Detach { tag } => self.begin_detach(tag),
            Event::Yield => self.begin_yield(),
            Event::FencedByManager => self.fence(crate::api::FenceReason::Manager),
            Event::Tick => {}
        }
    }

    fn fire(&mut self) {
        while let Some(timer) = self.timers.due(self.now) {
            if self.void(&timer) {
                continue;
            }
            match timer {
                Timer::Write(i, _) => self.write_silent(i),
                Timer::WriteAgain(i, _, m) => self.write_again_due(i, m),
                Timer::Read(i, _) => self.read_silent(i),
                Timer::ReadAgain(i, _) => self.ask_refused(i),
                Timer::Ctl(dx, kind, _) => self.ctl_silent(dx, kind),
                Timer::CtlAgain(dx, kind, _) => self.ctl_send(dx, kind),
                Timer::Poll(dx) => self.poll_again(dx),
                Timer::Roll(r, _) => self.roll_again(r),
                Timer::Activate => self.want_activate(),
                Timer::Map => self.ask_map_again(),
                Timer::Drain => self.drain_over(),
                Timer::Stable => self.stable_due(),
                Timer::Spare => self.spare_due(),
            }
        }
    }

    /// What has to hold after every event: waiting writes issued where possible, STALLED shown,
    /// drains noticed, void deadlines gone.
    fn settle(&mut self) {
        if self.state == State::Attaching && self.full_map_rev.is_none() {
            self.need_map(Rev(0));
        }
        self.pump();
        self.count_stall();
        self.show_stalled();
        self.check_drained();
        let mut timers = core::mem::take(&mut self.timers);
        timers.prune(|t| self.void(t));
        self.timers = timers;
    }

    fn void(&self, timer: &Timer) -> bool {
        match *timer {
            Timer::Write(i, round) | Timer::WriteAgain(i, round, _) => {
                self.writes.get(i).is_none_or(|w| w.round != round)
            }
            Timer::Read(i, round) | Timer::ReadAgain(i, round) => self.reads.get(i).is_none_or(|r| r.round != round),
            Timer::Ctl(dx, kind, round) | Timer::CtlAgain(dx, kind, round) => {
                self.drive(dx).is_none_or(|d| !d.ctl(kind).want || d.ctl(kind).round != round)
            }
            Timer::Poll(dx) => self.drive(dx).is_none_or(|d| !d.polling),
            Timer::Roll(r, round) => !self.roll_waits(r, round),
            Timer::Activate => self.state != State::Activating,
            Timer::Map => self.map_asked_at.is_none(),
            Timer::Drain => self.drain.is_none(),
            Timer::Stable => !self.stable_armed,
            Timer::Spare => !self.spare_armed,
        }
    }

    /// When `step` has to be called again without an event; none on an idle volume.
    pub fn next_deadline(&self) -> Option<Micros> {
        self.timers.next()
    }

    /// State.
    pub fn state(&self) -> State {
        self.state
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Attached volume.
    pub fn volume(&self) -> VolumeId {
        self.ticket.vol
    }

    /// Generation.
    pub fn generation(&self) -> Gen {
        self.ticket.gen
    }

    /// Effective size in bytes.
    pub fn size(&self) -> u64 {
        self.ticket.size
    }

    /// `stable` of this generation, and the last version issued.
    pub fn versions(&self) -> (Version, Version) {
        let gen = self.ticket.gen;
        (Version { gen, seq: self.window.stable() }, Version { gen, seq: self.window.last() })
    }

    /// Requests not answered yet, and writes issued and not complete.
    pub fn open(&self) -> (usize, usize) {
        (self.jobs.iter().filter(|(_, j)| !j.done).count(), self.window.open())
    }

    /// Drives this volume needs connections to, in order of id.
    pub fn wanted_drives(&self) -> Vec<DriveId> {
        let set = self.member_set(self.pools.len());
        self.drive_ix.iter().filter(|(_, dx)| set.get(usize::from(**dx)) == Some(&true)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn set_state(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            self.out.push(Action::State(state));
        }
    }

    pub(crate) fn running(&self) -> bool {
        matches!(self.state, State::Active | State::Stalled)
    }

    fn show_stalled(&mut self) {
        if self.running() {
            let stalled = self.insync_blocked || self.parked > 0;
            self.set_state(if stalled { State::Stalled } else { State::Active });
        }
    }

    pub(crate) fn on(&self, rule: Rule) -> bool {
        self.cfg.rules.on(rule)
    }

    pub(crate) fn writable(&self) -> bool {
        matches!(self.ticket.mode, AttachMode::ReadWrite | AttachMode::Service)
    }

    pub(crate) fn recovers(&self) -> bool {
        self.cfg.recover && self.ticket.mode != AttachMode::Snapshot
    }

    #[inline]
    pub(crate) fn drive(&self, dx: Dx) -> Option<&Drive> {
        self.drives.get(usize::from(dx))
    }

    #[inline]
    pub(crate) fn drive_mut(&mut self, dx: Dx) -> Option<&mut Drive> {
        self.drives.get_mut(usize::from(dx))
    }

    /// Index of a drive, made at first sight.
    pub(crate) fn dx_of(&mut self, id: DriveId) -> Dx {
        if let Some(dx) = self.drive_ix.get(&id) {
            return *dx;
        }
        let dx = Dx::try_from(self.drives.len()).unwrap_or(Dx::MAX);
        let rank = self.cfg.near.iter().position(|d| *d == id).unwrap_or(usize::from(u16::MAX));
        self.drives.push(Drive::new(id, u16::try_from(rank).unwrap_or(u16::MAX)));
        self.drive_ix.insert(id, dx);
        dx
    }

    #[inline]
    pub(crate) fn pg(&self, ix: PgIx) -> Option<&Pg> {
        self.pools.get(usize::from(ix.pool))?.pgs.get(ix.pg as usize)
    }

    pub(crate) fn next_round(&mut self) -> u32 {
        self.round = self.round.wrapping_add(1);
        self.round
    }

    /// `stable` as frames carry it: (0, 0) before A5 (B3), and from attachments that do not write.
    pub(crate) fn stable(&self) -> Version {
        if (self.activated || !self.on(Rule::StableZero)) && self.writable() {
            Version { gen: self.ticket.gen, seq: self.window.stable() }
        } else {
            Version::ZERO
        }
    }

    pub(crate) fn header(&self, kind: MsgType, request: u64, dx: Dx) -> Header {
        Header {
            kind,
            request,
            vol: self.ticket.vol,
            gen: self.ticket.gen,
            map_rev: self.map_rev,
            stable: self.stable(),
            origin_gen: self.ticket.gen,
            drive: self.drive(dx).map_or(DriveId(0), |d| d.id),
            ..Header::default()
        }
    }

    /// Back-off number `tries`: 1, 2, 4 … 50 ms, with a quarter of jitter.
    pub(crate) fn backoff(&mut self, tries: u8) -> Micros {
        if !self.on(Rule::Backoff) {
            return 1;
        }
        self.jitter = self.jitter.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let base = (1000u64 << tries.min(6)).min(50_000);
        base - base / 4 * (self.jitter >> 33 & 1023) / 1024
    }
}
