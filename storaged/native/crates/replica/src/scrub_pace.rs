//! How fast a scrub reads: one read after the other while nobody else wants the device, with pauses beside clients.

use drystone_store::api::ObjectStore;
use drystone_types::consts::Micros;

use crate::api::Report;
use crate::limits::{SCRUB_NEWS, SCRUB_PAUSE_BUSY};
use crate::replica::Replica;

/// What is remembered of a running scrub.
#[derive(Default)]
pub(crate) struct ScrubPace {
    /// Reads begun when it was looked at last.
    steps: u64,
    /// With clients about it begins no other one before this.
    next: Micros,
    waits: bool,
    told: Option<Micros>,
}

impl ScrubPace {
    pub(crate) fn deadline(&self) -> Option<Micros> {
        self.waits.then_some(self.next)
    }
}

impl<S: ObjectStore> Replica<S> {
    /// Looks at the scrub, before the device is given more to do.
    pub(crate) fn pace_scrub(&mut self) {
        let Some(seen) = self.store.scrub_progress() else {
            self.scrub_pace = ScrubPace::default();
            return;
        };
        let pace = &mut self.scrub_pace;
        if pace.steps != seen.steps {
            pace.steps = seen.steps;
            pace.next = self.now + SCRUB_PAUSE_BUSY;
        }
        let tells = pace.told.is_none_or(|at| self.now.saturating_sub(at) >= SCRUB_NEWS);
        if tells {
            pace.told = Some(self.now);
        }
        self.scrub_pace.waits = self.clients_active() && self.now < self.scrub_pace.next;
        self.hold_scrub();
        if tells {
            self.report(Report::ScrubProgress { blocks: seen.blocks, of: seen.of.max(seen.blocks) });
        }
    }

    /// A scrub waits for clients, and until what it found is healed or tried.
    pub(crate) fn hold_scrub(&mut self) {
        self.store.hold_scrub(self.scrub_pace.waits || self.repairs.scrub_waits());
    }
}
