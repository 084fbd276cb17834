//! A promise to answer no reads of a PG ends by a later epoch, never by a clock: a drop may rest on it that is slow.
//! When no drop comes, nobody else has a reason to make that epoch, and where every copy has promised, reads would
//! never end. So the drive says that it stands quiet, again and again until the map shows a later epoch.

use std::collections::BTreeMap;

use drystone_store::api::ObjectStore;
use drystone_types::consts::Micros;
use drystone_types::{Epoch, PgId, Rule};

use crate::api::Action;
use crate::limits::{QUIET_AGAIN, QUIET_MAX};
use crate::replica::Replica;
use crate::state::Role;

/// A promise that stands.
#[derive(Clone, Copy)]
struct Promise {
    /// Newest epoch that it covers.
    epoch: Epoch,
    /// It is told then.
    tell_at: Micros,
}

/// The promises that stand; empty but for the moment of a drop.
#[derive(Default)]
pub(crate) struct Quiet {
    promises: BTreeMap<PgId, Promise>,
}

impl Quiet {
    pub(crate) fn deadline(&self) -> Option<Micros> {
        self.promises.values().map(|p| p.tell_at).min()
    }
}

impl<S: ObjectStore> Replica<S> {
    /// The epoch until whose end a promise keeps this drive from answering reads that it would answer else.
    fn quiet_in(&self, id: PgId) -> Option<Epoch> {
        let pg = self.pgs.get(&id).filter(|pg| pg.role == Role::InSync)?;
        (pg.quiesced.0 > 0 && pg.quiesced >= pg.epoch()).then_some(pg.quiesced)
    }

    /// A promise was given, or the epoch or role changed. One that is given once more in the same epoch is as old as
    /// before: somebody who asks again and again, and never drops, must not keep it up.
    pub(crate) fn watch_quiet(&mut self, id: PgId) {
        match self.quiet_in(id).filter(|_| self.cfg.rules.on(Rule::QuietTold)) {
            Some(epoch) if self.quiet.promises.get(&id).is_none_or(|p| p.epoch != epoch) => {
                self.quiet.promises.insert(id, Promise { epoch, tell_at: self.now + QUIET_MAX });
            }
            Some(_) => {}
            None => {
                self.quiet.promises.remove(&id);
            }
        }
    }

    pub(crate) fn tell_quiet(&mut self) {
        let now = self.now;
        if self.quiet.deadline().is_none_or(|at| at > now) {
            return;
        }
        for (id, promise) in core::mem::take(&mut self.quiet.promises) {
            // It is no member any more, or the PG is gone.
            if self.quiet_in(id) != Some(promise.epoch) {
                continue;
            }
            let mut kept = promise;
            if promise.tell_at <= now {
                kept.tell_at = now + QUIET_AGAIN;
                self.out.push(Action::StillQuiet { pg: id, epoch: promise.epoch });
            }
            self.quiet.promises.insert(id, kept);
        }
    }
}
