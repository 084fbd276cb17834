//! A drive that cannot serve asks to be dropped: again and again, until the map agrees. Nobody else may know that it
//! has to be, and one call may be lost with the leader that took it.

use drystone_store::api::ObjectStore;
use drystone_types::PgId;

use crate::adopt::{is_remembered, records};
use crate::api::{Action, LeaveWhy};
use crate::limits::LEAVE_AGAIN;
use crate::replica::Replica;

impl<S: ObjectStore> Replica<S> {
    /// Asks for what is to be asked for by the map that is known, now and a while later.
    pub(crate) fn ask_to_leave(&mut self) {
        let before = self.out.len();
        if self.failed || self.cfg.suspect {
            self.leave_all();
        } else {
            self.disclaim();
        }
        self.leave_again = (self.out.len() > before).then_some(self.now + LEAVE_AGAIN);
    }

    fn leave_all(&mut self) {
        let (map, me) = (self.map.clone(), self.cfg.drive);
        let why = if self.failed { LeaveWhy::DriveFailed } else { LeaveWhy::Suspect };
        for (pg, rec) in records(&map) {
            // A delta copy must not rest on content that proves nothing, also where the drive is out already.
            if rec.is_member(me) || !self.failed && is_remembered(rec, me) {
                self.out.push(Action::LeavePg { pg, why });
            }
        }
    }

    /// What this drive missed at its peer check it still misses. When it was dropped for another reason, the map gives
    /// its content credit: the drive asks to be taken for blank. It is dropped at once, so it must serve no more: a
    /// client with an older map would read here what the others have changed since (I10).
    fn disclaim(&mut self) {
        let me = self.cfg.drive;
        let counted = |id: PgId| {
            let closed = self.is_closed(id) || !self.pgs.contains_key(&id);
            self.map.pg(id).is_some_and(|rec| rec.is_insync(me) && closed || is_remembered(rec, me))
        };
        let distrusted = self.checks.distrusted().into_iter().map(|id| (id, LeaveWhy::PeerCheck));
        let freed = self.freeing.marked().into_iter().filter(|id| self.is_freed(*id)).map(|id| (id, LeaveWhy::Freed));
        let asked: Vec<_> = distrusted.chain(freed).filter(|(id, _)| counted(*id)).collect();
        self.out.extend(asked.into_iter().map(|(pg, why)| Action::LeavePg { pg, why }));
    }
}
