//! Silence: 250 ms without an answer are reported and tried through another member; no member
//! is ever left out on the sequencer's own authority.

use drystone_types::{DriveId, Flags, Frame};

use crate::api::{Action, ReportKind};
use crate::ctl::REPEAT;
use crate::drive::Dx;
use crate::engine::Sequencer;
use crate::pg::PgIx;
use crate::timers::Timer;
use crate::write::MemberState;

impl Sequencer {
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
        let drive = d.id;
        self.stats.reports += 1;
        self.out.push(Action::Report { drive, kind });
    }

    /// A write's members that did not answer in time.
    pub(crate) fn write_silent(&mut self, w: u32) {
        let Some(op) = self.writes.get(w) else { return };
        let round = op.round;
        if !op.parked {
            for m in 0..op.members.len() {
                self.member_silent(w, m as u8);
            }
        }
        self.timers.rare(self.now + REPEAT, Timer::Write(w, round));
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
                    self.relay_write(w, m, frame);
                }
            }
        }
    }

    /// Sends through another member of the PG whose connection is up, each time the next one.
    pub(crate) fn relay_write(&mut self, w: u32, m: u8, mut frame: Frame) -> bool {
        let Some(op) = self.writes.get(w) else { return false };
        let Some(member) = op.members.get(usize::from(m)) else { return false };
        let turn = usize::from(member.relays);
        let Some(via) = self.relay_for(op.pg, member.drive, turn) else { return false };
        frame.hdr.flags = frame.hdr.flags.with(Flags::RELAY);
        let drive = frame.hdr.drive;
        if let Some(member) = self.writes.get_mut(w).and_then(|op| op.members.get_mut(usize::from(m))) {
            member.relays = member.relays.wrapping_add(1);
        }
        self.stats.relays += 1;
        self.out.push(Action::Send { drive, via: Some(via), frame });
        true
    }

    /// The `turn`-th member of the PG, other than `target`, that has a connection.
    pub(crate) fn relay_for(&self, pg: crate::pg::PgIx, target: Dx, turn: usize) -> Option<DriveId> {
        let pg = self.pg(pg)?;
        let up = |dx: &Dx| *dx != target && self.drive(*dx).is_some_and(|d| d.up);
        let count = pg.members().filter(up).count();
        let pick = pg.members().filter(up).nth(turn % count.max(1))?;
        self.drive(pick).map(|d| d.id)
    }

    pub(crate) fn drive_up(&mut self, id: DriveId, nonce: u64) {
        let dx = self.dx_of(id);
        let Some(d) = self.drive_mut(dx) else { return };
        d.up = true;
        d.refused = false;
        let restarted = d.nonce != nonce && d.nonce != 0;
        if d.nonce != nonce {
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
        self.remind_stable(dx);
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
            // A lost frame with slots in it is not repeated: a leak until the next nonce, never a double.
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
