//! Silence: 250 ms without an answer are reported and tried through another member; no member
//! is ever left out on the sequencer's own authority.

use drystone_types::consts::{Micros, STALL};
use drystone_types::{DriveId, Flags, Frame, MsgType, Rule};

use crate::api::{Action, ReportKind};
use crate::ctl::REPEAT;
use crate::drive::{Drive, Dx};
use crate::engine::Sequencer;
use crate::pg::PgIx;
use crate::request::{Kind, ReqId};
use crate::timers::Timer;
use crate::write::MemberState;

/// What makes writes wait, for the figure of the time in which they did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stall {
    /// Issued writes with a member that is silent.
    pub(crate) late: usize,
    /// A write waits for credits.
    pub(crate) credit: bool,
    /// Up to when the time is counted; `None` = nothing waits.
    counted: Option<Micros>,
}

impl Sequencer {
    /// Counts the time since the last event if writes waited then, with the clock that the event brought.
    pub(crate) fn count_stall(&mut self) {
        if let Some(from) = self.stall.counted.take() {
            self.stats.stall_us += self.now.saturating_sub(from);
        }
        let credit = self.stall.credit && !self.waiting.is_empty();
        let waits = self.stall.late > 0 || credit || self.insync_blocked || self.parked > 0;
        self.stall.counted = waits.then_some(self.now);
    }

    /// At most one report a drive and second.
    pub(crate) fn report(&mut self, dx: Dx, kind: ReportKind) {
        let now = self.now;
        let Some(d) = self.drive_mut(dx) else { return };
        let urgent = matches!(kind, ReportKind::Refused | ReportKind::BadBlock { .. });
        if now < d.report_at && !urgent {
            return;
        }
        if !urgent {
            d.report_at = now + REPEAT;
        }
        let (drive, up) = (d.id, d.up);
        self.stats.reports += 1;
        self.out.push(Action::Report { drive, kind });
        if kind == ReportKind::Stall && up {
            self.ping(dx);
        }
    }

    /// Asks a silent drive over its own connection: the answer ends the way around, and that there is none makes
    /// whoever holds the connection give it up. As often as it is reported, once a second.
    fn ping(&mut self, dx: Dx) {
        let mut hdr = self.header(MsgType::Ping, ReqId::new(Kind::Ping, u32::from(dx), 0, 0).encode(), dx);
        // It may be answered by a drive that knows nothing newer than the cluster.
        hdr.map_rev = drystone_types::Rev(0);
        self.out.push(Action::Send { drive: hdr.drive, via: None, frame: Frame::bare(hdr) });
    }

    /// Which way an answer of a drive came. One that comes around while the drive has a connection was silent on it
    /// for 250 ms: the next request does not wait for that again.
    pub(crate) fn note_way(&mut self, dx: Dx, from: DriveId) {
        let now = self.now;
        let Some(d) = self.drive_mut(dx) else { return };
        let (was, direct) = (d.mute, from == d.id);
        if direct {
            d.direct_at = now;
            d.mute = false;
        } else {
            d.around = Some(from);
            // Late answers of both ways may come mixed: one over its own connection counts for a while.
            d.mute = d.mute || d.up && now.saturating_sub(d.direct_at) >= STALL;
        }
        if was && direct {
            self.resend_silent(dx);
        }
    }

    /// Writes that waited for the drive longer than an answer takes go to it once more, over the way that works.
    fn resend_silent(&mut self, dx: Dx) {
        let before = self.now.saturating_sub(STALL);
        for w in self.writes.keys() {
            let Some(op) = self.writes.get(w).filter(|op| op.seq > 0 && op.sent_at <= before) else { continue };
            let at = op.members.iter().position(|m| m.drive == dx && m.state == MemberState::Sent);
            if let Some(m) = at {
                self.send_write(w, m as u8);
            }
        }
    }

    /// A write's members that did not answer in time.
    pub(crate) fn write_silent(&mut self, w: u32) {
        let now = self.now;
        let Some(op) = self.writes.get_mut(w) else { return };
        let round = op.round;
        let first = !core::mem::replace(&mut op.late, true);
        if first {
            self.stall.late += 1;
            if self.stall.counted.is_none() {
                // What passed until it was noticed.
                self.stats.stall_us += now.saturating_sub(op.sent_at);
            }
        }
        if !op.parked {
            for m in 0..op.members.len() {
                self.member_silent(w, m as u8);
            }
        }
        // The first way around may be cut off as well, so the second one is not kept waiting.
        self.timers.rare(self.now + if first { STALL } else { REPEAT }, Timer::Write(w, round));
        self.check_complete(w);
    }

    fn member_silent(&mut self, w: u32, m: u8) {
        let Some(member) = self.writes.get(w).and_then(|op| op.members.get(usize::from(m))).copied() else { return };
        let waits_for_credit = self.drive(member.drive).is_some_and(|d| d.waiters.iter().any(|x| x.0 == w && x.2 == m));
        match member.state {
            MemberState::Acked => {}
            MemberState::Failed => {
                self.report(member.drive, ReportKind::DriveError);
                self.send_write(w, m);
            }
            // Waiting for a ticket or credits is not silence: those requests have their own deadline.
            MemberState::Unsent if waits_for_credit => {}
            MemberState::Unsent | MemberState::Sent => {
                self.report(member.drive, ReportKind::Stall);
                if let Some(frame) = self.write_frame(w, m, member.drive) {
                    self.relay_write(w, m, &frame);
                }
            }
        }
    }

    /// Sends through another member of the PG whose connection is up, each time the next one.
    pub(crate) fn relay_write(&mut self, w: u32, m: u8, frame: &Frame) -> bool {
        let Some(op) = self.writes.get(w) else { return false };
        let Some(member) = op.members.get(usize::from(m)) else { return false };
        let turn = usize::from(member.relays);
        let Some(via) = self.relay_for(op.pg, member.drive, turn) else { return false };
        let mut frame = frame.clone();
        frame.hdr.flags = frame.hdr.flags.with(Flags::RELAY);
        let drive = frame.hdr.drive;
        if let Some(member) = self.writes.get_mut(w).and_then(|op| op.members.get_mut(usize::from(m))) {
            member.relays = member.relays.wrapping_add(1);
        }
        self.stats.relays += 1;
        self.out.push(Action::Send { drive, via: Some(via), frame });
        true
    }

    /// The `turn`-th member of the PG, other than `target`, that has a connection, from the one on that reached it last.
    pub(crate) fn relay_for(&self, pg: crate::pg::PgIx, target: Dx, turn: usize) -> Option<DriveId> {
        let pg = self.pg(pg)?;
        let other = |dx: &Dx, good: fn(&Drive) -> bool| *dx != target && self.drive(*dx).is_some_and(good);
        let any_direct = pg.members().any(|dx| other(&dx, Drive::direct));
        let good: fn(&Drive) -> bool = if any_direct { Drive::direct } else { |d| d.up };
        let up = |dx: &Dx| other(dx, good);
        let known = self.drive(target).and_then(|d| d.around).and_then(|id| self.drive_ix.get(&id).copied());
        let first = pg.members().filter(up).position(|dx| Some(dx) == known).unwrap_or(0);
        let count = pg.members().filter(up).count();
        let pick = pg.members().filter(up).nth((first + turn) % count.max(1))?;
        self.drive(pick).map(|d| d.id)
    }

    pub(crate) fn drive_up(&mut self, id: DriveId, nonce: u64) {
        let dx = self.dx_of(id);
        let round = self.next_round();
        let now = self.now;
        let Some(d) = self.drive_mut(dx) else { return };
        d.up = true;
        d.mute = false;
        d.direct_at = now;
        d.refused = false;
        let restarted = d.nonce != nonce && d.nonce != 0;
        if d.nonce != nonce {
            d.nonce_round = round;
            // A new process: its grants start again, and it may have lost nothing but those.
            d.nonce = nonce;
            d.granted = 0;
            d.used = 0;
            d.full = false;
            d.give_back = 0;
        }
        if restarted {
            self.joiner_restarted(dx);
        }
        self.ctl_reconnect(dx);
        if self.on(Rule::StableAgain) {
            self.remind_stable(dx);
        }
        self.resend_to(dx);
        self.pump_due = true;
    }

    /// A joiner's copy begins anew with its process (B6): what it said at SEAL that it had copied counts no more.
    fn joiner_restarted(&mut self, dx: Dx) {
        if self.attach.is_none() {
            return;
        }
        let mut again = Vec::new();
        for (pool, p) in (0..).zip(&self.pools) {
            let joins = (0..).zip(&p.pgs).filter(|(_, pg)| pg.joining.contains(&dx));
            again.extend(joins.map(|(pg, _)| PgIx { pool, pg }));
        }
        self.redo_pgs(&again);
    }

    /// Open writes and reads of a drive whose connection is new: what the old one carried is
    /// unanswered, not failed.
    fn resend_to(&mut self, dx: Dx) {
        for w in self.writes.keys() {
            let Some(op) = self.writes.get(w) else { continue };
            let at = op.members.iter().position(|m| m.drive == dx && m.state != MemberState::Acked);
            if let (Some(m), true) = (at, op.seq > 0) {
                self.send_write(w, m as u8);
            }
        }
        self.reads_drive_up(dx);
    }

    pub(crate) fn drive_down(&mut self, id: DriveId, refused: bool) {
        let dx = self.dx_of(id);
        let was_up = self.drive(dx).is_some_and(|d| d.up);
        if let Some(d) = self.drive_mut(dx) {
            d.up = false;
            d.mute = false;
            // Whatever the next STABLE is, it says what was given back in all.
            d.give_back = 0;
            d.give_sent = 0;
            let first = refused && (was_up || !d.refused);
            d.refused = refused;
            if first {
                self.report(dx, ReportKind::Refused);
            }
        }
        self.ctl_disconnect(dx);
        self.reads_drive_down(dx);
    }
}
