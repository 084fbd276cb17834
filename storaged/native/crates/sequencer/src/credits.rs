//! W0: slots are taken from every member before a write that allocates is sent, so that no
//! member refuses what another has applied (P5), and ENOSPC is decided before anything is sent.

use drystone_types::consts::{STABLE_IDLE, STALL};
use drystone_types::{Flags, Header, Rule, Status};

use crate::api::IoError;
use crate::drive::{Drive, Dx, STABLE};
use crate::engine::Sequencer;
use crate::timers::Timer;
use crate::write::{Mapped, MemberState, WriteOp};

/// Bits set by any message of a full drive.
fn is_ahead(new: u32, old: u32) -> bool {
    let diff = new.wrapping_sub(old);
    diff != 0 && diff < 1 << 31
}

impl Sequencer {
    /// Every answer carries the cumulative grant; answers may overtake each other, so only a
    /// higher one counts. 0 is "not stated": error answers carry no grant.
    pub(crate) fn note_credits(&mut self, dx: Dx, direct: bool, round: u32, hdr: &Header) {
        if hdr.gen != self.ticket.gen || hdr.vol != self.ticket.vol {
            return;
        }
        let Some(d) = self.drive_mut(dx) else { return };
        // Through a relay an answer of an earlier open nonce could arrive late, and that process promised other
        // slots. What was asked since this one is known cannot be of an earlier one; a later one counts from 0 and
        // only ever says less than it has granted.
        if !direct && !is_ahead(round, d.nonce_round) {
            return;
        }
        if hdr.credits != 0 && is_ahead(hdr.credits, d.granted) {
            d.granted = hdr.credits;
            d.full = false;
            let wake = d.starved || !d.waiters.is_empty();
            self.arm_spare(dx);
            if wake {
                self.pump_due = true;
                self.wake(dx);
            }
        }
    }

    pub(crate) fn take_credits(&mut self, w: u32, drives: &[Dx], need: u32) {
        if need == 0 {
            return;
        }
        self.credit_used_at = self.now;
        for dx in drives {
            if let Some(d) = self.drive_mut(*dx) {
                d.used = d.used.wrapping_add(need);
            }
            if let Some(op) = self.writes.get_mut(w) {
                op.charged.push(*dx);
            }
        }
    }

    /// Writes that waited for this drive's ticket or credit try again.
    pub(crate) fn wake(&mut self, dx: Dx) {
        let waiters = self.drive_mut(dx).map(|d| core::mem::take(&mut d.waiters)).unwrap_or_default();
        for (w, round, m) in waiters {
            if self.writes.get(w).is_some_and(|op| op.round == round) {
                self.send_write(w, m);
            }
        }
    }

    /// A write waits for credits. True when it need not wait in the queue any more: whether it
    /// overwrites is being asked, because some in-sync member is full and grants nothing.
    pub(crate) fn no_credit(&mut self, w: u32) -> bool {
        let Some(op) = self.writes.get(w) else { return true };
        let (need, mapped) = (op.slots(), op.mapped);
        let Some(pg) = self.pg(op.pg).cloned() else { return false };
        let (mut full, any) = (false, !self.on(Rule::FullInSync));
        for dx in pg.members() {
            let Some(d) = self.drive_mut(dx) else { continue };
            let short = d.free() < need || d.free() > u32::MAX / 2;
            if short {
                d.starved = true;
                // Its last word may be old: it is asked again before a write fails.
                d.full = d.full && d.polling;
                full = full || d.full && (pg.insync.contains(&dx) || any);
                self.poll(dx);
            }
        }
        if full && mapped == Mapped::Unasked {
            if let Some(op) = self.writes.get_mut(w) {
                op.mapped = Mapped::Asked;
            }
            self.ask_mapped(w);
        }
        full
    }

    /// CHUNK_MAP's answer for a write that met a full drive.
    pub(crate) fn mapped_known(&mut self, w: u32, result: Result<bool, IoError>) {
        match result {
            Ok(true) => {
                let Some(op) = self.writes.get_mut(w) else { return };
                op.mapped = Mapped::Yes;
                op.flags = op.flags.with(Flags::OVERWRITE);
                self.stats.overwrites += 1;
                self.waiting.push_back(w);
                self.pump_due = true;
            }
            Ok(false) => self.drop_write(w, IoError::NoSpace),
            Err(e) => self.drop_write(w, e),
        }
    }

    /// Asks for credits now and every 50 ms while somebody waits.
    pub(crate) fn poll(&mut self, dx: Dx) {
        let Some(d) = self.drive_mut(dx) else { return };
        if !d.polling {
            d.polling = true;
            self.ctl_want(dx, STABLE);
            // One that it did not answer may be open from before anybody waited.
            let asked = self.now.saturating_sub(STALL);
            let silent = |d: &Drive| !d.direct() || d.ctl(STABLE).open && d.ctl(STABLE).since <= asked;
            if self.drive(dx).is_some_and(silent) {
                self.poll_around(dx);
            }
            self.timers.rare(self.now + STABLE_IDLE, Timer::Poll(dx));
        }
    }

    pub(crate) fn poll_again(&mut self, dx: Dx) {
        let Some(d) = self.drive_mut(dx) else { return };
        d.polling = false;
        if d.starved || !d.waiters.is_empty() {
            let stale = d.starved && self.waiting.is_empty();
            if stale {
                // Nobody is left who waits; the next pump would find the same.
                if let Some(d) = self.drive_mut(dx) {
                    d.starved = false;
                }
            }
            self.pump_due = true;
            let waits = self.drive(dx).is_some_and(|d| d.starved || !d.waiters.is_empty());
            if waits {
                self.poll(dx);
            }
        }
    }

    /// The answer to STABLE: whether the drive is full, and what it wants back.
    pub(crate) fn note_space(&mut self, dx: Dx, status: Status, meta: &[u8]) {
        let Some(d) = self.drive_mut(dx) else { return };
        let full = status == Status::Full;
        if full != d.full && full {
            d.full = true;
            self.pump_due = true;
        } else {
            d.full = full;
        }
        let recall = meta.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        if recall > 0 {
            self.give_back(dx, recall);
        }
    }

    /// Unissued slots go back: used from now on, and told with the next STABLE.
    pub(crate) fn give_back(&mut self, dx: Dx, wanted: u32) {
        let Some(d) = self.drive_mut(dx) else { return };
        let free = d.free();
        if d.give_back > 0 || free > u32::MAX / 2 {
            return;
        }
        let back = free.min(wanted);
        d.used = d.used.wrapping_add(back);
        d.give_back = back;
    }

    /// All slots that were used or given back (cumulative, wrapping) but for those of writes that may still arrive. What
    /// is used here and never arrives there, because the drive was dropped meanwhile or had the block already, would
    /// count as unused there for ever, and no more be granted. Too low a number only keeps more reserved.
    pub(crate) fn settled_slots(&self, dx: Dx) -> u32 {
        let acked = |op: &WriteOp| op.members.iter().any(|m| m.drive == dx && m.state == MemberState::Acked);
        let open = self.writes.iter().filter(|(_, op)| op.charged.contains(&dx) && !acked(op));
        let open = open.map(|(_, op)| op.slots()).fold(0, u32::wrapping_add);
        self.drive(dx).map_or(0, |d| d.used.wrapping_sub(open))
    }

    /// Slots of issued writes this drive has not acknowledged: what SESSION restates after a
    /// reconnect, so that the drive keeps them reserved.
    pub fn issued_slots(&self, drive: drystone_types::DriveId) -> u32 {
        let Some(dx) = self.drive_ix.get(&drive) else { return 0 };
        let open = self.writes.iter().filter(|(_, op)| {
            op.charged.contains(dx) && op.members.iter().any(|m| m.drive == *dx && m.state != MemberState::Acked)
        });
        open.map(|(_, op)| op.slots()).fold(0, u32::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w0_a_late_answer_never_lowers_the_grant_and_the_count_may_wrap() {
        assert!(is_ahead(5, 3) && !is_ahead(3, 5) && !is_ahead(4, 4));
        assert!(is_ahead(2, u32::MAX - 2) && !is_ahead(u32::MAX - 2, 2));
    }
}
