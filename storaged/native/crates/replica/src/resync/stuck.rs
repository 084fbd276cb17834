//! Copies that do not go on by themselves: the operator hears of it, and of their end.

use drystone_store::api::ObjectStore;
use drystone_types::{DriveId, PgId};

use super::Resync;
use crate::api::{Report, StuckWhy};
use crate::limits::{HELD_AGAIN, STUCK_TRIES};
use crate::replica::Replica;

impl<S: ObjectStore> Replica<S> {
    /// Says that a copy is stuck, at most once a minute.
    pub(super) fn tell_stuck(&mut self, id: PgId, rs: &mut Resync, blocks: u64, why: StuckWhy) {
        if rs.stuck_again.is_some_and(|at| at > self.now) {
            return;
        }
        rs.stuck_again = Some(self.now + HELD_AGAIN);
        let me = self.cfg.drive;
        let insync = self.pgs.get(&id).map(|pg| pg.rec.insync.iter().copied()).into_iter().flatten();
        let sources = insync.filter(|d| *d != me).collect();
        self.report(Report::CopyStuck { pg: id, sources, blocks, why });
    }

    /// Blocks that every in-sync drive was asked for again and again: what the copy waits for.
    pub(super) fn note_unreadable(&mut self, id: PgId, rs: &mut Resync, insync: &[DriveId]) {
        let unread = rs.jobs.values().flat_map(|job| job.unread.values());
        let blocks = unread.filter(|u| u.asked(insync) >= STUCK_TRIES).count() as u64;
        if blocks > 0 {
            self.tell_stuck(id, rs, blocks, StuckWhy::Unreadable);
        }
    }

    /// It goes on, or it ended.
    pub(super) fn tell_freed(&mut self, id: PgId, rs: &mut Resync) {
        if rs.stuck_again.take().is_some() {
            self.report(Report::CopyFreed { pg: id });
        }
    }
}
