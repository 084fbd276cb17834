//! Suspicions that nobody is at: an answer of the store was lost, so a manager does not know that its key was written,
//! or is gone. A node gets no lease while it is suspected, so they end. The product does the same (`SilenceLoop.tidy`).

use drystone_membership::beacon::Event as BeaconEvent;
use drystone_membership::{Evidence, Suspect};
use drystone_types::Rev;

use crate::event::{Proc, Request};
use crate::world::World;

impl World {
    /// Compares what a manager knows of suspicions with the keys as of a revision.
    pub(crate) fn tidy_suspicions(&mut self, m: usize, as_of: Rev, standing: &[Suspect]) {
        let Some(leader) = self.managers[m].leader else { return };
        let gone = |s: &Suspect| s.round <= as_of && !standing.contains(s);
        let (over, known): (Vec<_>, Vec<_>) = self.managers[m].known.iter().partition(|s| gone(s));
        self.managers[m].known = known;
        over.into_iter().for_each(|s| self.suspicion_ended(m, s));
        for suspect in standing {
            if self.managers[m].known.contains(suspect) && !self.managers[m].is_at(suspect) {
                self.counts.hit("suspect.tidied");
                self.call(Proc::Manager(m), Request::Unsuspect(leader, *suspect));
            }
        }
    }

    /// A key is gone, and maybe nobody was told. A later suspicion of the same node is another one.
    fn suspicion_ended(&mut self, m: usize, suspect: Suspect) {
        if self.managers[m].may_be_about(suspect) {
            self.learn(m, Evidence::SuspectGone(suspect.node));
        }
        for n in 0..self.nodes.len() {
            self.tell_beacon(m, n, BeaconEvent::Release(suspect));
        }
    }
}
