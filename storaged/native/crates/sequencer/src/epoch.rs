//! Maps and PG records: which members a PG has, and what a change of them means for what is
//! open. A record is taken from the map or from a NACK, whichever is newer.

use drystone_types::consts::PG_MEMBERS_MAX;
use drystone_types::{ClusterMap, Frame, PgRecord, PoolId, Reader, Rev};

use crate::api::{Action, State};
use crate::engine::Sequencer;
use crate::pg::{Pg, PgIx, Pool};
use crate::timers::Timer;

/// An unanswered `NeedMap` is repeated after this: longer than a ReadMap's usual time, so one
/// call is in flight; a shell that still runs the first may ignore the second.
const MAP_REPEAT: u64 = 1_000_000;

impl Sequencer {
    pub(crate) fn on_map(&mut self, map: &ClusterMap) {
        if self.state == State::Fenced || self.full_map_rev.is_some_and(|r| map.revision <= r) {
            return;
        }
        self.full_map_rev = Some(map.revision);
        self.map_rev = self.map_rev.max(map.revision);
        if self.map_want.is_some_and(|r| map.revision >= r) {
            self.map_want = None;
            self.map_asked_at = None;
        }
        let ids = self.pool_ids();
        if ids.iter().any(|id| map.pool(*id).is_none()) {
            self.need_map(Rev(map.revision.0 + 1));
            return;
        }
        let limits = |s: &Sequencer| s.pools.iter().map(|p| p.min_insync).collect::<Vec<_>>();
        let before = limits(self);
        let mut changed = Vec::new();
        for (i, id) in ids.iter().enumerate() {
            let Some(pool) = map.pool(*id) else { continue };
            self.take_pool(u16::try_from(i).unwrap_or(u16::MAX), pool, &mut changed);
        }
        if self.state == State::Attaching {
            self.begin_attach();
        } else {
            self.after_change(&changed);
            if before != limits(self) {
                // An operator changed `min_insync`: what waits for it looks again.
                self.pump_due = true;
                self.reissue_writes();
            }
        }
    }

    /// Own pool first, then those of the parents.
    fn pool_ids(&self) -> Vec<PoolId> {
        let mut ids = vec![self.ticket.pool];
        for p in &self.ticket.parents {
            if !ids.contains(&p.pool) {
                ids.push(p.pool);
            }
        }
        ids
    }

    fn take_pool(&mut self, i: u16, map: &drystone_types::PoolMap, changed: &mut Vec<PgIx>) {
        let min_insync = usize::from(map.min_insync).max(1);
        match self.pools.get_mut(usize::from(i)) {
            Some(pool) => {
                // A split raises the count; the new PGs start with epoch 0 and take their records below.
                pool.pgs.resize_with(map.pg_count as usize, Pg::default);
                pool.min_insync = min_insync;
            }
            None => self.pools.push(Pool { id: map.pool, min_insync, pgs: vec![Pg::default(); map.pg_count as usize] }),
        }
        for pg in 0..map.pg_count {
            let ix = PgIx { pool: i, pg };
            if map.pg(pg).is_some_and(|rec| self.adopt(ix, rec)) {
                changed.push(ix);
            }
        }
    }

    /// Takes a record if it is newer.
    fn adopt(&mut self, ix: PgIx, rec: &PgRecord) -> bool {
        if self.pg(ix).is_none_or(|pg| rec.epoch <= pg.epoch) || rec.members().count() > PG_MEMBERS_MAX {
            return false;
        }
        let insync = rec.insync.iter().map(|d| self.dx_of(*d)).collect();
        let joining = rec.joining.iter().map(|j| self.dx_of(j.drive)).collect();
        let pg = self.pools.get_mut(usize::from(ix.pool)).and_then(|p| p.pgs.get_mut(ix.pg as usize));
        if let Some(pg) = pg {
            *pg = Pg { epoch: rec.epoch, insync, joining };
        }
        true
    }

    /// A NACK carries this PG's record; whether it taught anything. If it is older than ours the
    /// drive is behind and the caller backs off (P19).
    pub(crate) fn adopt_nack(&mut self, frame: &Frame) -> bool {
        self.stats.nack_epoch += 1;
        let mut r = Reader::new(&frame.meta);
        let (Ok(rev), Ok(rec)) = (r.u64(), PgRecord::decode(&mut r)) else { return false };
        let pg = frame.hdr.pg;
        let pool = self.pools.iter().position(|p| p.id == pg.pool).and_then(|i| u16::try_from(i).ok());
        let Some(pool) = pool else { return false };
        let ix = PgIx { pool, pg: pg.pg };
        let known = self.drive_ix.len();
        if !self.adopt(ix, &rec) {
            return false;
        }
        self.map_rev = self.map_rev.max(Rev(rev));
        if self.drive_ix.len() > known {
            self.need_map(Rev(rev));
        }
        self.after_change(&[ix]);
        true
    }

    /// Everything open of these PGs goes by the new members.
    fn after_change(&mut self, changed: &[PgIx]) {
        if changed.is_empty() {
            return;
        }
        self.pump_due = true;
        if self.attach.is_some() {
            self.redo_pgs(changed);
        }
        self.reissue_writes();
        self.redirect_reads();
        self.members_changed();
    }

    /// Tickets and cuts in progress also wait for new members; dropped drives are forgotten.
    fn members_changed(&mut self) {
        let all = usize::from(u16::MAX);
        for (dx, member) in self.member_set(all).into_iter().enumerate() {
            if let (false, Ok(dx)) = (member, u16::try_from(dx)) {
                self.ctl_forget(dx);
            }
        }
        self.ticket_members_changed();
    }

    /// By drive index: whether it is a member of some PG of the first `pools` pools.
    pub(crate) fn member_set(&self, pools: usize) -> Vec<bool> {
        let mut set = vec![false; self.drives.len()];
        for dx in self.pools.iter().take(pools).flat_map(|p| &p.pgs).flat_map(Pg::members) {
            if let Some(m) = set.get_mut(usize::from(dx)) {
                *m = true;
            }
        }
        set
    }

    /// Drives with a copy of the own lineage.
    pub(crate) fn own_members(&self) -> Vec<u16> {
        let set = self.member_set(1).into_iter().enumerate();
        set.filter(|(_, m)| *m).filter_map(|(i, _)| u16::try_from(i).ok()).collect()
    }

    pub(crate) fn need_map(&mut self, at_least: Rev) {
        let want = self.map_want.map_or(at_least, |w| w.max(at_least));
        self.map_want = Some(want);
        if self.map_asked_at.is_none() {
            self.map_asked_at = Some(self.now);
            self.out.push(Action::NeedMap { at_least: want });
            self.timers.rare(self.now + MAP_REPEAT, Timer::Map);
        }
    }

    pub(crate) fn ask_map_again(&mut self) {
        self.map_asked_at = None;
        if let Some(want) = self.map_want {
            self.need_map(want);
        }
    }
}
