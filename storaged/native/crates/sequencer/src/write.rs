//! W0–W3: a write waits until it may be issued, gets its version, goes to every member of its
//! PG, and completes when all have answered OK in one epoch.

use drystone_csum::block_csum;
use drystone_types::consts::{BLOCK_SIZE, STALL};
use drystone_types::{Buf, Epoch, Flags, Frame, Gen, LayerId, MsgType, Rule};
use smallvec::SmallVec;

use crate::api::{Action, IoError, ReportKind};
use crate::drive::{Dx, LAYER};
use crate::engine::Sequencer;
use crate::job::{Part, CHUNK};
use crate::pg::{DxList, PgIx};
use crate::request::{Kind, ReqId};
use crate::timers::Timer;

/// Whose write it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// A part of a consumer's request.
    Job(u32),
    /// A block rolled forward (A4).
    Roll(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MemberState {
    /// Not sent in this round: no connection, no ticket or no credit yet.
    Unsent,
    Sent,
    Acked,
    /// EIO or FULL: waits for the drop.
    Failed,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) drive: Dx,
    pub(crate) state: MemberState,
    pub(crate) tries: u8,
    /// A back-off is under way: further refusals, of repeated or relayed requests, start no other one.
    pub(crate) again: bool,
    /// Position in the list of members that were asked to relay.
    pub(crate) relays: u8,
}

/// Whether the blocks of a write are known to be mapped (only asked when a drive is full).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mapped {
    Unasked,
    Asked,
    Yes,
}

/// One version on its way.
#[derive(Debug)]
pub(crate) struct WriteOp {
    pub(crate) owner: Owner,
    pub(crate) round: u32,
    pub(crate) pg: PgIx,
    pub(crate) epoch: Epoch,
    pub(crate) msg: MsgType,
    pub(crate) flags: Flags,
    pub(crate) layer: LayerId,
    pub(crate) block: u64,
    pub(crate) count: u32,
    /// 0 until issued.
    pub(crate) seq: u64,
    pub(crate) origin: Gen,
    pub(crate) data: Buf,
    pub(crate) csums: Vec<u64>,
    pub(crate) members: SmallVec<[Member; 4]>,
    /// Drives whose credit was taken: once per (drive, version), however often it is sent.
    pub(crate) charged: DxList,
    pub(crate) mapped: Mapped,
    /// Issued, and its PG fell below `min_insync`.
    pub(crate) parked: bool,
    /// A member did not answer for 250 ms, in this round or an earlier one.
    pub(crate) late: bool,
    pub(crate) sent_at: u64,
}

/// Why a write cannot be issued now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Blocked {
    Insync,
    Window,
    Ticket(Dx),
    Credit(Dx),
}

impl Sequencer {
    pub(crate) fn pg_of(&self, pool: u16, seed: u64, block: u64) -> PgIx {
        let hash = drystone_placement::chunk_hash(seed, block / CHUNK);
        let pg = self.pools.get(usize::from(pool)).map_or(0, |p| p.pg_of_hash(hash));
        PgIx { pool, pg }
    }

    pub(crate) fn new_write(&mut self, j: u32, part: Part) {
        let vol = self.ticket.vol;
        let blocks = part.data.as_slice().chunks_exact(BLOCK_SIZE);
        let csums = blocks.zip(part.block..).map(|(data, b)| block_csum(vol, b, data)).collect();
        let op = WriteOp {
            owner: Owner::Job(j),
            round: self.next_round(),
            pg: self.pg_of(0, self.ticket.seed, part.block),
            epoch: Epoch(0),
            msg: part.msg,
            flags: Flags::default(),
            layer: LayerId(0),
            block: part.block,
            count: part.count,
            seq: 0,
            origin: self.ticket.gen,
            data: part.data,
            csums,
            members: SmallVec::new(),
            charged: DxList::new(),
            mapped: Mapped::Unasked,
            parked: false,
            late: false,
            sent_at: 0,
        };
        let w = self.writes.insert(op);
        let blocked = self.try_issue(w);
        if let Some(why) = blocked {
            self.count_wait(why);
            self.waiting.push_back(w);
            match why {
                Blocked::Insync => self.insync_blocked = true,
                Blocked::Window => {}
                // The pump asks for what is missing; once a drive is starved it is being polled.
                Blocked::Ticket(_) => self.pump_due = true,
                Blocked::Credit(dx) => self.pump_due = self.pump_due || self.drive(dx).is_some_and(|d| !d.starved),
            }
        }
    }

    fn count_wait(&mut self, why: Blocked) {
        match why {
            Blocked::Insync => self.stats.insync_waits += 1,
            Blocked::Window => self.stats.window_waits += 1,
            Blocked::Credit(_) => self.stats.credit_waits += 1,
            Blocked::Ticket(_) => {}
        }
    }

    /// Issues a write, or says what it waits for. Nothing is taken unless everything is there.
    pub(crate) fn try_issue(&mut self, w: u32) -> Option<Blocked> {
        let op = self.writes.get(w)?;
        let need = op.slots();
        let bytes = u32::try_from(op.data.len()).unwrap_or(u32::MAX);
        let (pgix, owner) = (op.pg, op.owner);
        let pool = self.pools.get(usize::from(pgix.pool))?;
        let pg = pool.pgs.get(pgix.pg as usize)?;
        if pg.insync.len() < pool.min_insync {
            return Some(Blocked::Insync);
        }
        if !self.window.has_room(bytes) && self.on(Rule::W3) {
            return Some(Blocked::Window);
        }
        for dx in pg.members() {
            let Some(d) = self.drive(dx) else { continue };
            if d.ticket.is_none() {
                return Some(Blocked::Ticket(dx));
            }
            if need > 0 && self.on(Rule::W0) && (d.starved || d.free() < need || d.free() > u32::MAX / 2) {
                return Some(Blocked::Credit(dx));
            }
        }
        let members: DxList = pg.members().collect();
        let epoch = pg.epoch;
        self.take_credits(w, &members, need);
        let seq = self.window.issue(bytes);
        self.stats.writes += 1;
        self.last_write_at = self.now;
        if let Owner::Job(j) = owner {
            if let Some(job) = self.jobs.get_mut(j) {
                job.issued = true;
            }
        }
        let layer = self.ticket.head().unwrap_or_default();
        // A hole in the head lets older layers and parents show through; freed blocks must read
        // as zeros, so where there is anything below, a trim masks it.
        let mask = self.ticket.chain.len() > 1 || !self.parents.is_empty();
        self.note_present(w);
        if let Some(op) = self.writes.get_mut(w) {
            if mask && op.msg == MsgType::Trim {
                op.msg = MsgType::Zero;
            }
            op.seq = seq;
            op.layer = layer;
        }
        self.launch(w, epoch, &members);
        None
    }

    /// Begins a round: sends to every member of one epoch.
    pub(crate) fn launch(&mut self, w: u32, epoch: Epoch, members: &[Dx]) {
        let round = self.next_round();
        let now = self.now;
        let keep_old_acks = !self.on(Rule::W2);
        let Some(op) = self.writes.get_mut(w) else { return };
        let old = core::mem::take(&mut op.members);
        // A drive that was out of the PG in the last round has joined since: its copy of the block is void, so what it
        // is sent now uses its slots once more. Those of before count as settled.
        let back = |dx: Dx| !old.is_empty() && members.contains(&dx) && !old.iter().any(|m| m.drive == dx);
        op.charged.retain(|dx| !back(*dx));
        let acked = |dx: Dx| keep_old_acks && old.iter().any(|m| m.drive == dx && m.state == MemberState::Acked);
        op.round = round;
        op.epoch = epoch;
        op.sent_at = now;
        op.members = members
            .iter()
            .map(|dx| Member {
                drive: *dx,
                state: if acked(*dx) { MemberState::Acked } else { MemberState::Unsent },
                tries: 0,
                again: false,
                relays: 0,
            })
            .collect();
        for m in 0..members.len() {
            self.send_write(w, m as u8);
        }
        self.timers.write(now + STALL, Timer::Write(w, round));
        self.check_complete(w);
    }

    /// Sends to one member that did not answer, if its ticket, credit and connection allow.
    pub(crate) fn send_write(&mut self, w: u32, m: u8) {
        let Some(op) = self.writes.get(w) else { return };
        let Some(member) = op.members.get(usize::from(m)).copied() else { return };
        if op.parked || member.state == MemberState::Acked {
            return;
        }
        let (need, round, charged) = (op.slots(), op.round, op.charged.contains(&member.drive) || !self.on(Rule::W0));
        let Some(d) = self.drive_mut(member.drive) else { return };
        let no_ticket = d.ticket.is_none();
        let no_credit = need > 0 && !charged && (d.free() < need || d.free() > u32::MAX / 2);
        if no_ticket || no_credit {
            d.waiters.push((w, round, m));
            return if no_ticket { self.ctl_want(member.drive, LAYER) } else { self.poll(member.drive) };
        }
        if need > 0 && !charged {
            self.take_credits(w, &[member.drive], need);
        }
        let frame = self.write_frame(w, m, member.drive);
        let Some(frame) = frame else { return };
        let (up, mute) = self.drive(member.drive).map_or((false, false), |d| (d.up, d.mute));
        if mute {
            self.report(member.drive, ReportKind::Stall);
        }
        if (mute || !up) && self.relay_write(w, m, &frame) {
            return self.note_sent(w, m);
        }
        if up {
            self.out.push(Action::Send { drive: frame.hdr.drive, via: None, frame });
            self.note_sent(w, m);
        }
    }

    fn note_sent(&mut self, w: u32, m: u8) {
        let Some(op) = self.writes.get_mut(w) else { return };
        let (seq, is_roll) = (op.seq, op.flags.has(Flags::ROLL));
        let Some(member) = op.members.get_mut(usize::from(m)) else { return };
        member.state = MemberState::Sent;
        let dx = member.drive;
        if let (Some(d), false) = (self.drive_mut(dx), is_roll) {
            d.max_seq = d.max_seq.max(seq);
        }
    }

    pub(crate) fn write_frame(&self, w: u32, m: u8, dx: Dx) -> Option<Frame> {
        let op = self.writes.get(w)?;
        let mut hdr = self.header(op.msg, ReqId::new(Kind::Write, w, m, op.round).encode(), dx);
        hdr.flags = op.flags;
        hdr.pg_epoch = op.epoch;
        hdr.pg = self.pools.get(usize::from(op.pg.pool))?.pg_id(op.pg.pg);
        hdr.layer = op.layer;
        hdr.block = op.block;
        hdr.count = op.count;
        hdr.seq = op.seq;
        hdr.origin_gen = op.origin;
        Some(Frame { hdr, csums: op.csums.clone(), meta: Vec::new(), data: op.data.clone() })
    }

    /// W2: all members of one epoch.
    pub(crate) fn check_complete(&mut self, w: u32) {
        let Some(op) = self.writes.get(w) else { return };
        if op.parked || !op.members.iter().all(|m| self.counts(op, m)) {
            return;
        }
        let broken = self.pg(op.pg).is_some_and(|pg| {
            pg.epoch != op.epoch
                || !pg.members().all(|dx| op.members.iter().any(|m| m.drive == dx && m.state == MemberState::Acked))
        });
        if broken && matches!(op.owner, Owner::Job(_)) {
            self.out.push(Action::Invariant("I5: a write completed without an OK of every member of one epoch"));
        }
        let Some(op) = self.writes.remove(w) else { return };
        self.stall.late -= usize::from(op.late);
        match op.owner {
            Owner::Roll(r) => self.roll_written(r),
            Owner::Job(j) => {
                if self.window.complete(op.seq) {
                    self.pump_due = self.pump_due || !self.waiting.is_empty();
                    self.arm_stable();
                    self.check_freeze();
                }
                self.part_done(j, None);
            }
        }
    }

    /// Whether a member needs no further answer. The switches are those of the mutation tests.
    fn counts(&self, op: &WriteOp, m: &Member) -> bool {
        if m.state == MemberState::Acked {
            return true;
        }
        let joining = self.pg(op.pg).is_some_and(|pg| pg.joining.contains(&m.drive));
        let silent =
            self.now.saturating_sub(op.sent_at) >= STALL && op.members.iter().any(|o| o.state == MemberState::Acked);
        (!self.on(Rule::W2) && joining) || (!self.on(Rule::StoreCasBeforeAck) && silent)
    }

    /// Issues what can be issued, in order of arrival; a write that waits for a drive's credits
    /// lets no later one overtake it there.
    pub(crate) fn pump(&mut self) {
        if !core::mem::take(&mut self.pump_due) || !self.running() {
            return;
        }
        self.insync_blocked = false;
        self.stall.credit = false;
        for d in &mut self.drives {
            d.starved = false;
        }
        for w in core::mem::take(&mut self.waiting) {
            match self.try_issue(w) {
                None => continue,
                Some(Blocked::Insync) => self.insync_blocked = true,
                Some(Blocked::Window) => {}
                Some(Blocked::Ticket(dx)) => self.ctl_want(dx, LAYER),
                Some(Blocked::Credit(_)) if self.no_credit(w) => continue,
                Some(Blocked::Credit(_)) => self.stall.credit = true,
            }
            self.waiting.push_back(w);
        }
    }

    /// After an epoch change: the same version again, to the new members (W2).
    pub(crate) fn reissue_writes(&mut self) {
        for w in self.writes.keys() {
            let Some(op) = self.writes.get(w) else { continue };
            if op.seq == 0 || matches!(op.owner, Owner::Roll(_)) {
                continue;
            }
            let pgix = self.pg_of(0, self.ticket.seed, op.block);
            let (Some(pg), Some(pool)) = (self.pg(pgix), self.pools.first()) else { continue };
            let park = pg.insync.len() < pool.min_insync;
            if pg.epoch == op.epoch && pgix == op.pg && park == op.parked {
                continue;
            }
            let (epoch, members) = (pg.epoch, pg.members().collect::<DxList>());
            let Some(op) = self.writes.get_mut(w) else { continue };
            op.pg = pgix;
            self.parked = self.parked + usize::from(park) - usize::from(op.parked);
            op.parked = park;
            self.stats.resends += 1;
            self.launch(w, epoch, &members);
        }
    }

    /// A part that was never issued ends with an error.
    pub(crate) fn drop_write(&mut self, w: u32, error: IoError) {
        let Some(op) = self.writes.remove(w) else { return };
        self.stall.late -= usize::from(op.late);
        if let Owner::Job(j) = op.owner {
            self.part_done(j, Some(error));
        }
    }
}

impl WriteOp {
    /// Slots it uses of a drive's credits: its blocks and the headers; holes, rolls and
    /// overwrites on a full drive live from the reserve.
    pub(crate) fn slots(&self) -> u32 {
        let free = self.msg != MsgType::Write || self.flags.has(Flags::ROLL) || self.flags.has(Flags::OVERWRITE);
        if free {
            0
        } else {
            self.count + 1
        }
    }
}
