//! Credits that a volume does not use go back after a second, so that they can come to others: a recall travels in
//! answers only, and an idle volume gets none. Once, and then there is no deadline: an idle volume costs nothing.

use drystone_types::consts::{Micros, FRAME_BLOCKS_MAX};

use crate::api::State;
use crate::drive::{Dx, STABLE};
use crate::engine::Sequencer;
use crate::timers::Timer;

/// Without use for this long credits are spare. Shorter, and every small pause of a consumer would cost it a round
/// trip; longer, and others on a full drive would wait longer.
const SPARE_AFTER: Micros = 1_000_000;
/// Slots kept of each drive: the next write of any size goes out at once.
const SPARE_KEEP: u32 = FRAME_BLOCKS_MAX + 1;

impl Sequencer {
    /// A drive has granted something.
    pub(crate) fn arm_spare(&mut self, dx: Dx) {
        if !self.spare_armed && self.spare(dx) > 0 {
            self.spare_armed = true;
            self.timers.rare(self.now + SPARE_AFTER, Timer::Spare);
        }
    }

    /// Slots of a drive that a volume at rest does not need.
    fn spare(&self, dx: Dx) -> u32 {
        let free = self.drive(dx).map_or(0, |d| d.free());
        // More used than granted (grants of a new process) is a negative number.
        if free > u32::MAX / 2 {
            0
        } else {
            free.saturating_sub(SPARE_KEEP)
        }
    }

    pub(crate) fn spare_due(&mut self) {
        self.spare_armed = false;
        if matches!(self.state, State::Fenced | State::Detached) {
            return;
        }
        // An attach ends first; it has deadlines of its own.
        let idle_at = if self.running() { self.credit_used_at + SPARE_AFTER } else { self.now + SPARE_AFTER };
        if idle_at > self.now {
            self.spare_armed = true;
            return self.timers.rare(idle_at, Timer::Spare);
        }
        self.give_spare();
    }

    /// Gives back what is spare, to every drive that can be told.
    pub(crate) fn give_spare(&mut self) {
        for i in 0..self.drives.len() {
            let Ok(dx) = Dx::try_from(i) else { continue };
            let spare = self.spare(dx);
            if spare > 0 && self.drive(dx).is_some_and(|d| d.up && d.ticket.is_some()) {
                self.give_back(dx, spare);
                self.ctl_want(dx, STABLE);
            }
        }
    }
}
