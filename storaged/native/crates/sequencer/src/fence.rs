//! The end of a generation: everything open ends at once, and nothing is issued again (B15).

use crate::api::{Action, FenceReason, IoError, State};
use crate::engine::Sequencer;
use crate::job::JobKind;

impl Sequencer {
    pub(crate) fn fence(&mut self, reason: FenceReason) {
        if self.state == State::Fenced {
            return;
        }
        self.end_all();
        self.set_state(State::Fenced);
        self.out.push(Action::Fenced(reason));
        self.end_drain(false);
    }

    /// Answers every open request; answers of drives that come later find nothing.
    pub(crate) fn end_all(&mut self) {
        self.activated = false;
        self.attach = None;
        self.timers.clear();
        self.stable_armed = false;
        self.waiting.clear();
        self.held.clear();
        self.presence.clear();
        self.freezing = None;
        self.next_ticket = None;
        self.parked = 0;
        self.insync_blocked = false;
        self.stall.late = 0;
        self.stall.credit = false;
        for w in self.writes.keys() {
            self.writes.remove(w);
        }
        for r in self.reads.keys() {
            self.reads.remove(r);
        }
        for dx in 0..self.drives.len() {
            let Ok(dx) = u16::try_from(dx) else { continue };
            self.ctl_forget(dx);
            if let Some(d) = self.drive_mut(dx) {
                d.waiters.clear();
                d.reads_open = 0;
                d.polling = false;
            }
        }
        self.end_jobs();
    }

    fn end_jobs(&mut self) {
        for j in self.jobs.keys() {
            let Some(job) = self.jobs.get(j).filter(|job| !job.done) else { continue };
            let read = matches!(job.kind, JobKind::Read | JobKind::Status);
            let error = if job.issued && !read { IoError::Fenced } else { IoError::Unissued };
            self.complete_job(j, Err(error));
        }
    }
}
