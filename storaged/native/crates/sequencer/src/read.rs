//! Reads of one copy: choice of the member, hedging, other copies on errors, and the same
//! machinery for CHUNK_MAP and for the fetches of a roll.

use drystone_types::consts::STALL;
use drystone_types::{Flags, Frame, LayerId, MsgType, Status, Version};
use smallvec::SmallVec;

use crate::api::{Action, FenceReason, IoError, ReportKind};
use crate::attach::BAD;
use crate::ctl::REPEAT;
use crate::drive::Dx;
use crate::engine::Sequencer;
use crate::parent::BlockState;
use crate::pg::{DxList, PgIx};
use crate::request::{Kind, ReqId};
use crate::timers::Timer;

/// Who gets the result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// Part of a consumer's read.
    Part(u32, u32),
    /// Ragged block of a write.
    Edge(u32, u32),
    /// Blocks of a parent, for another read (its index and birth).
    Child(u32, u32),
    /// Fetch for a roll.
    Roll(u32),
    /// CHUNK_MAP for `BlockStatus`: job, layer position.
    Status(u32, u32),
    /// CHUNK_MAP for a write that met a full drive.
    Mapped(u32),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Blocks through the chain of a lineage: 0 = own, else parent group + 1.
    Blocks(u8),
    /// Presence bitmap of a layer's chunk.
    Map(LayerId),
    /// One exact version, from whoever reported it.
    Exact(LayerId, Version, DxList),
}

/// One member that was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) drive: Dx,
    pub(crate) open: bool,
    /// EIO, a bad checksum or a refusal that another attempt will not cure.
    pub(crate) failed: bool,
    /// It failed because the member proved that what it holds is lost.
    pub(crate) rotten: bool,
    /// It has what was asked for, and could not give it.
    pub(crate) holds: bool,
    pub(crate) sent_at: u64,
}

/// Why a copy gave nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The member read it and the checksum does not match, or it has it recorded as BAD.
    Rotten,
    /// The device could not read it, or the bytes were spoilt on their way: says nothing about the next attempt.
    Device,
    /// The member does not hold what was asked for.
    Refused,
}

/// Most asks of one round: answers name their ask in four bits.
const ASKS_MAX: usize = 16;

/// One read of a range within a chunk.
#[derive(Debug)]
pub(crate) struct ReadOp {
    pub(crate) owner: Owner,
    pub(crate) what: What,
    pub(crate) round: u32,
    /// First round: tells the operation from a later one in the same slot.
    pub(crate) birth: u32,
    pub(crate) pg: PgIx,
    pub(crate) block: u64,
    pub(crate) count: u32,
    pub(crate) asks: SmallVec<[Ask; 2]>,
    pub(crate) tries: u8,
    pub(crate) started: u64,
    /// Parents: open reads for this one, and what is known of each block.
    pub(crate) children: u32,
    pub(crate) own_done: bool,
    pub(crate) blocks: Vec<BlockState>,
}

impl Sequencer {
    pub(crate) fn new_read(&mut self, owner: Owner, what: What, pg: PgIx, block: u64, count: u32) -> u32 {
        let round = self.next_round();
        let started = self.now;
        let op = ReadOp {
            owner,
            what,
            round,
            birth: round,
            pg,
            block,
            count,
            asks: SmallVec::new(),
            tries: 0,
            started,
            children: 0,
            own_done: false,
            blocks: Vec::new(),
        };
        let r = self.reads.insert(op);
        self.timers.read(self.now + self.latency.hedge(), Timer::Read(r, round));
        self.ask_next(r);
        r
    }

    /// A range of the own lineage.
    pub(crate) fn read_part(&mut self, owner: Owner, block: u64, count: u32) {
        let pg = self.pg_of(0, self.ticket.seed, block);
        let r = self.new_read(owner, What::Blocks(0), pg, block, count);
        self.start_parallel_parent(r);
    }

    /// Asks the best member not asked yet in this round; false when there is none.
    pub(crate) fn ask_next(&mut self, r: u32) -> bool {
        let Some(op) = self.reads.get(r) else { return false };
        if op.asks.len() >= ASKS_MAX {
            return false;
        }
        let Some(dx) = self.pick(op) else { return false };
        self.ask(r, dx)
    }

    /// Nearest, then least loaded, then the one asked last; one without a connection only through
    /// a relay.
    fn pick(&self, op: &ReadOp) -> Option<Dx> {
        let pg = self.pg(op.pg)?;
        let list: &[Dx] = match &op.what {
            What::Exact(_, _, holders) => holders,
            _ => &pg.insync,
        };
        let fresh = list.iter().copied().filter(|dx| !op.asks.iter().any(|a| a.drive == *dx));
        fresh.min_by_key(|dx| self.drive(*dx).map(|d| (!d.up, d.mute, d.rank, d.reads_open, self.warm.order(*dx))))
    }

    fn ask(&mut self, r: u32, dx: Dx) -> bool {
        let fresh = self.reads.get(r).map_or(0, |op| op.asks.len());
        self.ask_at(r, fresh, dx)
    }

    /// A copy that refused for now is asked once more beside those that are silent: it may be the only one that
    /// answers at all, and nobody ends the others' silence where the manager reaches them.
    pub(crate) fn ask_refused(&mut self, r: u32) {
        let Some(op) = self.reads.get(r).filter(|op| !op.own_done) else { return };
        if !op.asks.iter().any(|a| a.open) {
            return self.ask_again(r);
        }
        let refused = op.asks.iter().position(|a| !a.open && !a.failed);
        let Some((at, dx)) = refused.and_then(|at| op.asks.get(at).map(|a| (at, a.drive))) else { return };
        if !self.ask_at(r, at, dx) {
            self.ask_later(r);
        }
    }

    fn ask_at(&mut self, r: u32, m: usize, dx: Dx) -> bool {
        let Some(op) = self.reads.get(r) else { return false };
        let (up, mute) = self.drive(dx).map_or((false, false), |d| (d.up, d.mute));
        let via = if up && !mute { None } else { self.relay_for(op.pg, dx, usize::from(op.tries)) };
        if via.is_none() && !up {
            return false;
        }
        if mute {
            self.report(dx, ReportKind::Stall);
        }
        let frame = self.read_frame(r, m as u8, dx);
        let (Some(mut frame), Some(op)) = (frame, self.reads.get_mut(r)) else { return false };
        let ask = Ask { drive: dx, open: true, failed: false, rotten: false, holds: false, sent_at: self.now };
        match op.asks.get_mut(m) {
            Some(slot) => *slot = ask,
            None => op.asks.push(ask),
        }
        if op.what != What::Blocks(0) && matches!(op.what, What::Blocks(_)) {
            self.stats.parent_reads += 1;
        }
        if let Some(d) = self.drive_mut(dx) {
            d.reads_open += 1;
        }
        self.warm.asked(dx);
        if via.is_some() {
            frame.hdr.flags = frame.hdr.flags.with(Flags::RELAY);
            self.stats.relays += 1;
        }
        self.stats.reads += 1;
        self.out.push(Action::Send { drive: frame.hdr.drive, via, frame });
        true
    }

    fn read_frame(&self, r: u32, m: u8, dx: Dx) -> Option<Frame> {
        let op = self.reads.get(r)?;
        let pg = self.pg(op.pg)?;
        let mut hdr = self.header(MsgType::Read, ReqId::new(Kind::Read, r, m, op.round).encode(), dx);
        hdr.pg_epoch = pg.epoch;
        hdr.pg = self.pools.get(usize::from(op.pg.pool))?.pg_id(op.pg.pg);
        hdr.block = op.block;
        hdr.count = op.count;
        let meta = match &op.what {
            What::Blocks(level) => {
                let (layer, meta) = self.lineage_layers(*level)?;
                hdr.layer = layer;
                meta
            }
            What::Map(layer) => {
                hdr.kind = MsgType::ChunkMap;
                hdr.layer = *layer;
                Vec::new()
            }
            What::Exact(layer, version, _) => {
                hdr.flags = Flags::ROLL;
                hdr.layer = *layer;
                hdr.origin_gen = version.gen;
                hdr.seq = version.seq;
                Vec::new()
            }
        };
        Some(Frame::with_meta(hdr, meta))
    }

    pub(crate) fn on_read_answer(&mut self, id: ReqId, dx: Dx, frame: Frame) {
        let r = id.index;
        let now = self.now;
        let Some(op) = self.reads.get_mut(r).filter(|op| op.round == id.round) else { return };
        let Some(ask) = op.asks.get_mut(usize::from(id.member)).filter(|a| a.drive == dx && a.open) else { return };
        ask.open = false;
        let took = now.saturating_sub(ask.sent_at);
        if let Some(d) = self.drive_mut(dx) {
            d.reads_open = d.reads_open.saturating_sub(1);
        }
        match frame.hdr.status {
            Status::Ok => {
                self.latency.sample(took);
                let gave_up = self.gave_up(r, &frame);
                if gave_up {
                    self.copy_failed(r, id.member, dx, Fault::Rotten);
                } else if !self.read_ok(r, frame) {
                    self.stats.csum_errors += 1;
                    self.copy_failed(r, id.member, dx, Fault::Device);
                }
            }
            Status::NackGen if frame.hdr.gen > self.ticket.gen => {
                self.stats.nack_gen += 1;
                self.fence(FenceReason::NewerGeneration(frame.hdr.gen));
            }
            Status::NackEpoch => {
                self.adopt_nack(&frame);
                self.ask_later(r);
            }
            Status::NeedTicket => {
                self.need_ticket(dx);
                self.ask_later(r);
            }
            Status::Eio | Status::BadChecksum | Status::Invalid => {
                self.stats.read_errors += 1;
                let fault = match frame.hdr.status {
                    Status::BadChecksum => Fault::Rotten,
                    Status::Invalid => Fault::Refused,
                    _ => Fault::Device,
                };
                self.copy_failed(r, id.member, dx, fault);
            }
            Status::Retry | Status::NackGen | Status::Denied | Status::Full => {
                self.stats.retries += 1;
                self.ask_later(r);
            }
        }
    }

    /// This copy cannot be read: report it, ask another; when every copy failed, it is EIO.
    fn copy_failed(&mut self, r: u32, m: u8, dx: Dx, fault: Fault) {
        let Some(op) = self.reads.get_mut(r) else { return };
        if let Some(ask) = op.asks.get_mut(usize::from(m)) {
            ask.failed = true;
            ask.rotten = fault == Fault::Rotten;
            ask.holds = fault != Fault::Refused;
        }
        let (pgix, block, what) = (op.pg, op.block, op.what.clone());
        let exact = matches!(what, What::Exact(..));
        let layer = match what {
            What::Map(layer) | What::Exact(layer, ..) => layer,
            What::Blocks(level) => self.lineage_layers(level).map_or(LayerId(0), |l| l.0),
        };
        // Who never said that it has an exact version is not to be blamed for lacking it.
        let blamed = fault != Fault::Refused || !exact;
        if let Some(pg) = self.pools.get(usize::from(pgix.pool)).map(|p| p.pg_id(pgix.pg)).filter(|_| blamed) {
            self.report(dx, ReportKind::BadBlock { pg, layer, block });
        }
        if self.ask_next(r) {
            return;
        }
        let Some(op) = self.reads.get(r) else { return };
        if op.asks.iter().any(|a| a.open) {
            return;
        }
        if self.all_failed(op) {
            self.read_failed(r, IoError::Eio);
        } else {
            self.ask_later(r);
        }
    }

    /// An exact version that is recorded as BAD where it was said to be data: nothing to roll, and no bytes either.
    fn gave_up(&self, r: u32, frame: &Frame) -> bool {
        let exact = self.reads.get(r).is_some_and(|op| matches!(op.what, What::Exact(..)));
        exact && frame.meta.first() == Some(&BAD)
    }

    /// Whether every copy that could be asked has failed for good in this round.
    fn all_failed(&self, op: &ReadOp) -> bool {
        let failed = |dx: &Dx| op.asks.iter().any(|a| a.drive == *dx && a.failed);
        match &op.what {
            What::Exact(_, _, holders) => holders.iter().all(failed),
            _ => self.pg(op.pg).is_some_and(|pg| !pg.insync.is_empty() && pg.insync.iter().all(failed)),
        }
    }

    /// Another member now if there is one, else those that refused again after a back-off.
    pub(crate) fn ask_later(&mut self, r: u32) {
        if self.ask_next(r) {
            return;
        }
        let Some(op) = self.reads.get_mut(r) else { return };
        if !op.asks.is_empty() && op.asks.iter().all(|a| a.open || a.failed) && op.asks.iter().any(|a| a.open) {
            return;
        }
        op.tries = op.tries.saturating_add(1);
        let (tries, round) = (op.tries, op.round);
        let wait = self.backoff(tries);
        self.timers.rare(self.now + wait, Timer::ReadAgain(r, round));
    }

    /// A new round: everybody may be asked again, except those that failed for good.
    pub(crate) fn ask_again(&mut self, r: u32) {
        let Some(op) = self.reads.get_mut(r) else { return };
        if op.asks.iter().any(|a| a.open) || op.own_done {
            return;
        }
        op.asks.retain(|a| a.failed);
        self.new_round(r);
        if !self.ask_next(r) && self.reads.get(r).is_some_and(|op| self.all_failed(op)) {
            self.read_failed(r, IoError::Eio);
        }
    }

    fn new_round(&mut self, r: u32) {
        let round = self.next_round();
        let Some(op) = self.reads.get_mut(r) else { return };
        let open: DxList = op.asks.iter().filter(|a| a.open).map(|a| a.drive).collect();
        op.asks.retain(|a| !a.open);
        op.round = round;
        let first = op.started + STALL;
        let silent_at = if self.now >= first { self.now + REPEAT } else { first };
        self.timers.rare(silent_at, Timer::Read(r, round));
        for dx in open {
            if let Some(d) = self.drive_mut(dx) {
                d.reads_open = d.reads_open.saturating_sub(1);
            }
        }
    }

    /// No answer: first another copy, after 250 ms a report and a relay.
    pub(crate) fn read_silent(&mut self, r: u32) {
        let Some(op) = self.reads.get(r) else { return };
        if op.own_done {
            return;
        }
        let (round, started, pgix) = (op.round, op.started, op.pg);
        let open: SmallVec<[(u8, Dx); 4]> =
            op.asks.iter().enumerate().filter(|(_, a)| a.open).map(|(m, a)| (m as u8, a.drive)).collect();
        if self.ask_next(r) && !open.is_empty() {
            self.stats.hedges += 1;
        }
        let stalled = self.now >= started + STALL;
        if stalled {
            for (m, dx) in &open {
                self.report(*dx, ReportKind::Stall);
                self.relay_read(r, *m, *dx);
            }
            if open.is_empty() {
                self.report_unreachable(pgix);
                self.ask_again(r);
            } else {
                self.ask_refused(r);
            }
        }
        let next = if stalled { self.now + REPEAT } else { started + STALL };
        let still = self.reads.get(r).is_some_and(|op| op.round == round);
        if still {
            self.timers.rare(next, Timer::Read(r, round));
        }
    }

    /// Nobody could even be asked: the members without a connection are what is wrong.
    fn report_unreachable(&mut self, pgix: PgIx) {
        let down: DxList = self.pg(pgix).map(|pg| pg.insync.clone()).unwrap_or_default();
        for dx in down {
            if self.drive(dx).is_some_and(|d| !d.up) {
                self.report(dx, ReportKind::Stall);
            }
        }
    }

    fn relay_read(&mut self, r: u32, m: u8, dx: Dx) {
        let Some(op) = self.reads.get_mut(r) else { return };
        op.tries = op.tries.saturating_add(1);
        let (pg, turn) = (op.pg, usize::from(op.tries));
        let (Some(via), Some(mut frame)) = (self.relay_for(pg, dx, turn), self.read_frame(r, m, dx)) else { return };
        frame.hdr.flags = frame.hdr.flags.with(Flags::RELAY);
        self.stats.relays += 1;
        self.out.push(Action::Send { drive: frame.hdr.drive, via: Some(via), frame });
    }

    /// Reads that wait for a member which is no longer in sync ask another.
    pub(crate) fn redirect_reads(&mut self) {
        for r in self.reads.keys() {
            let Some(op) = self.reads.get(r) else { continue };
            let Some(pg) = self.pg(op.pg) else { continue };
            let gone = |a: &Ask| a.open && !pg.insync.contains(&a.drive);
            let exact = matches!(op.what, What::Exact(..));
            if !op.own_done && !exact && (op.asks.is_empty() || op.asks.iter().any(gone)) {
                self.restart_read(r);
            }
        }
    }

    fn restart_read(&mut self, r: u32) {
        self.new_round(r);
        if let Some(op) = self.reads.get_mut(r) {
            op.asks.clear();
        }
        if !self.ask_next(r) {
            self.ask_later(r);
        }
    }

    pub(crate) fn reads_drive_down(&mut self, dx: Dx) {
        for r in self.reads.keys() {
            let hit =
                self.reads.get(r).is_some_and(|op| !op.own_done && op.asks.iter().any(|a| a.open && a.drive == dx));
            if hit {
                self.restart_read(r);
            }
        }
    }

    /// A drive can be asked that could not: reads without an open ask try.
    pub(crate) fn reads_drive_up(&mut self, dx: Dx) {
        for r in self.reads.keys() {
            let Some(op) = self.reads.get(r) else { continue };
            let idle = !op.own_done && !op.asks.iter().any(|a| a.open);
            let member = self.pg(op.pg).is_some_and(|pg| pg.is_member(dx));
            if idle && member {
                self.ask_again(r);
            }
        }
    }
}
