//! What a member's answer to a write means, and what its refusals lead to.

use drystone_types::consts::RETRY_SILENCE;
use drystone_types::{Frame, Status};

use crate::api::{FenceReason, ReportKind};
use crate::drive::{Dx, LAYER};
use crate::engine::Sequencer;
use crate::timers::Timer;
use crate::write::MemberState;

impl Sequencer {
    pub(crate) fn on_write_answer(&mut self, w: u32, m: u8, frame: &Frame) {
        let hdr = &frame.hdr;
        let Some(op) = self.writes.get_mut(w) else { return };
        let epoch = op.epoch;
        let Some(member) = op.members.get_mut(usize::from(m)) else { return };
        let dx = member.drive;
        match hdr.status {
            // R6c makes an OK one of its epoch; the comparison here is W2's own.
            Status::Ok if hdr.pg_epoch == epoch => {
                member.state = MemberState::Acked;
                self.check_complete(w);
            }
            Status::NackGen if hdr.gen > self.ticket.gen => {
                self.stats.nack_gen += 1;
                self.fence(FenceReason::NewerGeneration(hdr.gen));
            }
            Status::NackEpoch => {
                let round = op.round;
                self.adopt_nack(frame);
                // A newer record has issued the write anew; otherwise the drive is behind.
                if self.writes.get(w).is_some_and(|op| op.round == round) {
                    self.write_again(w, m);
                }
            }
            Status::NeedTicket => {
                // The first time the write follows the ticket; a drive that still lacks it is
                // not asked faster than by back-off.
                let again = member.tries > 0;
                member.state = MemberState::Unsent;
                member.tries = member.tries.saturating_add(1);
                let round = op.round;
                self.need_ticket(dx);
                if again {
                    self.write_again(w, m);
                } else if let Some(d) = self.drive_mut(dx) {
                    d.waiters.push((w, round, m));
                }
            }
            Status::Ok | Status::Retry | Status::NackGen | Status::BadChecksum => {
                self.stats.retries += 1;
                self.write_again(w, m);
            }
            Status::Full => self.member_failed(w, m, ReportKind::Full),
            Status::Eio | Status::Invalid | Status::Denied => self.member_failed(w, m, ReportKind::DriveError),
        }
    }

    /// Back off, then the same version to the same member.
    fn write_again(&mut self, w: u32, m: u8) {
        let now = self.now;
        let Some(op) = self.writes.get_mut(w) else { return };
        let (round, since) = (op.round, op.sent_at);
        let Some(member) = op.members.get_mut(usize::from(m)) else { return };
        member.state = MemberState::Unsent;
        if core::mem::replace(&mut member.again, true) {
            return;
        }
        member.tries = member.tries.saturating_add(1);
        let (dx, tries) = (member.drive, member.tries);
        if now.saturating_sub(since) > RETRY_SILENCE {
            self.report(dx, ReportKind::Stall);
        }
        let wait = self.backoff(tries);
        self.timers.rare(now + wait, Timer::WriteAgain(w, round, m));
    }

    /// The back-off is over.
    pub(crate) fn write_again_due(&mut self, w: u32, m: u8) {
        if let Some(member) = self.writes.get_mut(w).and_then(|op| op.members.get_mut(usize::from(m))) {
            member.again = false;
        }
        self.send_write(w, m);
    }

    /// EIO or FULL for an issued write: the drive is reported and the write waits for its drop.
    /// If the drop would leave no copy, the generation ends.
    fn member_failed(&mut self, w: u32, m: u8, kind: ReportKind) {
        let Some(op) = self.writes.get_mut(w) else { return };
        let pgix = op.pg;
        let Some(member) = op.members.get_mut(usize::from(m)) else { return };
        member.state = MemberState::Failed;
        let dx = member.drive;
        self.report(dx, kind);
        let last = self.pg(pgix).is_some_and(|pg| pg.insync.as_slice() == [dx]);
        let id = self.pools.get(usize::from(pgix.pool)).map(|p| p.pg_id(pgix.pg));
        if let (true, Some(id)) = (last, id) {
            self.fence(FenceReason::LastCopyFailed(id));
        }
    }

    /// The drive knows no ticket, or too old a one.
    pub(crate) fn need_ticket(&mut self, dx: Dx) {
        self.stats.need_ticket += 1;
        if let Some(d) = self.drive_mut(dx) {
            d.ticket = None;
        }
        self.ctl_want(dx, LAYER);
    }
}
