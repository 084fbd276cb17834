//! Detach and yield: drain, make `stable` known to every member, and say whether that succeeded.

use drystone_types::consts::Micros;

use crate::api::{Action, State};
use crate::engine::Sequencer;
use crate::timers::Timer;

/// A drain in progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    pub(crate) detach: bool,
    pub(crate) tag: u64,
    pub(crate) until: Micros,
    pub(crate) told: bool,
    /// A yield that was answered "drained": nothing is started any more.
    pub(crate) over: bool,
}

impl Sequencer {
    pub(crate) fn begin_detach(&mut self, tag: u64) {
        // A detach overrides a yield, which is answered by it.
        self.begin_drain(Drain { detach: true, tag, until: self.now + self.cfg.drain_max, told: false, over: false });
    }

    pub(crate) fn begin_yield(&mut self) {
        if self.drain.is_none() {
            self.begin_drain(Drain {
                detach: false,
                tag: 0,
                until: self.now + self.cfg.drain_max,
                told: false,
                over: false,
            });
        }
    }

    fn begin_drain(&mut self, drain: Drain) {
        if self.drain.is_some_and(|d| !d.detach && !d.over) {
            self.out.push(Action::Yielded { drained: false });
        }
        self.drain = Some(drain);
        if matches!(self.state, State::Fenced | State::Detached) {
            return self.end_drain(false);
        }
        self.timers.rare(drain.until, Timer::Drain);
    }

    /// Requests that were started have ended and every version is stable.
    fn drained(&self) -> bool {
        let open = self.jobs.iter().filter(|(_, j)| !j.done && (j.inflight > 0 || j.edges_left > 0)).count();
        open == 0 && self.window.open() == 0 && self.waiting.is_empty()
    }

    pub(crate) fn check_drained(&mut self) {
        if self.drain.is_none_or(|d| d.over) || self.state == State::Detached {
            return;
        }
        if !self.running() {
            // This generation has acknowledged nothing, but the crash of the last one may not be
            // recovered yet: not clean.
            return self.end_drain(false);
        }
        if !self.drained() {
            return;
        }
        if let Some(d) = self.drain.as_mut().filter(|d| !d.told) {
            d.told = true;
            self.give_spare();
            self.tell_stable();
        }
        if !self.stable_unknown() {
            self.end_drain(true);
        }
    }

    pub(crate) fn drain_over(&mut self) {
        if self.drain.is_some_and(|d| self.now >= d.until && !d.over) {
            self.end_drain(false);
        }
    }

    pub(crate) fn end_drain(&mut self, clean: bool) {
        let Some(drain) = self.drain.take() else { return };
        if !drain.detach {
            return self.end_yield(drain, clean);
        }
        // Kept, so that nothing is taken in any more.
        self.drain = Some(drain);
        if self.state != State::Fenced {
            self.end_all();
            self.set_state(State::Detached);
        }
        self.out.push(Action::Detached { tag: drain.tag, clean });
    }

    fn end_yield(&mut self, drain: Drain, drained: bool) {
        if drain.over {
            return;
        }
        self.out.push(Action::Yielded { drained });
        if drained {
            // Quiet until the successor's SEAL fences it.
            self.drain = Some(Drain { over: true, ..drain });
        } else {
            // BUSY: the owner goes on.
            self.start_held();
        }
    }
}
