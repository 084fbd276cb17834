//! STABLE alone: when the volume was idle for 50 ms, repeated until every drive concerned has
//! acknowledged it and after a reconnect; then nothing, for an idle volume costs nothing.

use drystone_types::consts::STABLE_IDLE;
use drystone_types::{Frame, Header, Writer};

use crate::drive::{Dx, STABLE};
use crate::engine::Sequencer;
use crate::timers::Timer;

impl Sequencer {
    /// `stable` rose.
    pub(crate) fn arm_stable(&mut self) {
        if !self.stable_armed {
            self.stable_armed = true;
            self.timers.rare(self.now + STABLE_IDLE, Timer::Stable);
        }
    }

    pub(crate) fn stable_due(&mut self) {
        self.stable_armed = false;
        let idle_at = self.last_write_at + STABLE_IDLE;
        if idle_at > self.now {
            self.stable_armed = true;
            return self.timers.rare(idle_at, Timer::Stable);
        }
        self.tell_stable();
    }

    /// Sends `stable` to every drive that holds something above what it acknowledged.
    pub(crate) fn tell_stable(&mut self) {
        for i in 0..self.drives.len() {
            if let Ok(dx) = Dx::try_from(i) {
                self.remind_stable(dx);
            }
        }
    }

    pub(crate) fn remind_stable(&mut self, dx: Dx) {
        if self.owes_stable(dx) {
            self.ctl_want(dx, STABLE);
        }
    }

    /// Whether the drive has versions at or below `stable` that it does not know to be stable.
    fn owes_stable(&self, dx: Dx) -> bool {
        let stable = self.stable().seq;
        self.drive(dx).is_some_and(|d| d.stable_acked < d.max_seq.min(stable))
    }

    /// Whether some member would still have to be told (a clean detach waits for it).
    pub(crate) fn stable_unknown(&self) -> bool {
        self.own_members().into_iter().any(|dx| self.owes_stable(dx))
    }

    pub(crate) fn stable_frame(&mut self, dx: Dx, hdr: Header) -> Frame {
        self.stats.stables += 1;
        let Some(d) = self.drive_mut(dx) else { return Frame::bare(hdr) };
        d.stable_sent = hdr.stable.seq;
        d.give_sent = core::mem::take(&mut d.give_back);
        let give = d.give_sent;
        Frame::with_meta(hdr, self.stable_meta(dx, give))
    }

    /// Slots given back since the last one, slots that no write will use any more (these and all earlier ones
    /// included), and which process of the drive they are counted for.
    pub(crate) fn stable_meta(&self, dx: Dx, give: u32) -> Vec<u8> {
        let nonce = self.drive(dx).map_or(0, |d| d.nonce);
        let mut meta = Writer::new();
        meta.u32(give).u32(self.settled_slots(dx)).u64(nonce);
        meta.finish()
    }

    /// A refused STABLE had no effect: the next one says it again.
    pub(crate) fn stable_refused(&mut self, dx: Dx) {
        if let Some(d) = self.drive_mut(dx) {
            d.give_back = core::mem::take(&mut d.give_sent).saturating_add(d.give_back);
        }
    }

    pub(crate) fn stable_done(&mut self, dx: Dx) {
        let Some(d) = self.drive_mut(dx) else { return };
        d.stable_acked = d.stable_acked.max(d.stable_sent);
        let waits = d.starved || !d.waiters.is_empty();
        if d.give_back > 0 {
            self.ctl_want(dx, STABLE);
        }
        if self.owes_stable(dx) {
            self.arm_stable();
        }
        if waits {
            self.poll(dx);
        }
    }
}
