//! A5: ACTIVE only when every PG was sealed and rolled in one of its own epochs, and the
//! generation still stands in the store.

use drystone_types::consts::STABLE_IDLE;
use drystone_types::Rule;

use crate::api::{Action, ActivateError, FenceReason, State};
use crate::drive::{RECOVERED, SEAL};
use crate::engine::Sequencer;
use crate::timers::Timer;

impl Sequencer {
    pub(crate) fn want_activate(&mut self) {
        self.out.push(Action::WantActivate { gen: self.ticket.gen });
        if !self.on(Rule::A5) {
            self.activate();
        }
    }

    pub(crate) fn on_activated(&mut self, result: Result<(), ActivateError>) {
        if matches!(self.state, State::Fenced | State::Detached) || self.activated {
            return;
        }
        match result {
            // Committed: from here on a changed PG is like any later join, which adopts the
            // generation from the store (A5 needs each PG rolled in *one* epoch of its own).
            Ok(()) => self.activate(),
            Err(ActivateError::Superseded) => self.fence(FenceReason::Manager),
            Err(ActivateError::Retry) if self.state == State::Activating => {
                self.timers.rare(self.now + STABLE_IDLE, Timer::Activate);
            }
            Err(ActivateError::Retry) => {}
        }
    }

    fn activate(&mut self) {
        self.end_rolls(|_| true);
        let recovered = self.attach.take().is_some();
        self.presence.clear();
        self.activated = true;
        for i in 0..self.drives.len() {
            if let Some(ctl) = self.drives.get_mut(i).and_then(|d| d.ctl_mut(SEAL)) {
                ctl.want = false;
                ctl.open = false;
            }
        }
        self.set_state(State::Active);
        if recovered {
            for dx in self.own_members() {
                self.ctl_want(dx, RECOVERED);
            }
        }
        self.pump_due = true;
        self.start_held();
        self.offer_ticket();
    }
}
