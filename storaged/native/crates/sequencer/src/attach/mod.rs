//! A2–A5: seal every member of every PG, roll forward what is on some copies only, activate.
//!
//! Each PG goes through it alone: when its epoch changes before A5 its replies are void and it
//! begins again (A3), without the others (P15: no retry for ever under map churn).

mod activate;
mod roll;
mod seal;
mod unread;

use std::collections::{BTreeMap, VecDeque};

use drystone_types::consts::Micros;
use drystone_types::{LayerId, Rule, Version};
use smallvec::SmallVec;

use crate::api::State;
use crate::attach::roll::Roll;
pub(crate) use crate::attach::roll::BAD;
use crate::attach::seal::{SealEntry, SealPart};
use crate::drive::{Dx, SEAL};
use crate::engine::Sequencer;
use crate::pg::{DxList, Pg, PgIx};
use crate::slab::Slab;

/// How far one PG is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Sealing,
    Rolling,
    Rolled,
}

/// Work on one PG.
#[derive(Debug)]
struct PgWork {
    phase: Phase,
    replies: SmallVec<[(Dx, Vec<SealEntry>); 4]>,
    rolls_open: usize,
}

impl PgWork {
    fn new() -> Self {
        PgWork { phase: Phase::Sealing, replies: SmallVec::new(), rolls_open: 0 }
    }
}

/// An attach in progress.
#[derive(Debug)]
pub(crate) struct Attach {
    work: Vec<Vec<PgWork>>,
    /// PGs not sealed, and PGs not rolled.
    unsealed: usize,
    unrolled: usize,
    /// Parts of seal replies that came before their last one.
    parts: BTreeMap<Dx, Vec<SealPart>>,
    rolls: Slab<Roll>,
    queue: VecDeque<u32>,
    running: usize,
    /// Since when the bytes of a version are looked for in vain, over every change of its PG.
    unread_since: BTreeMap<(LayerId, u64, Version), Micros>,
}

impl Attach {
    fn pg(&mut self, ix: PgIx) -> Option<&mut PgWork> {
        self.work.get_mut(usize::from(ix.pool))?.get_mut(ix.pg as usize)
    }
}

impl Sequencer {
    /// The first usable map is there.
    pub(crate) fn begin_attach(&mut self) {
        if !self.recovers() {
            self.set_state(State::Activating);
            return self.want_activate();
        }
        let work: Vec<Vec<PgWork>> = self.pools.iter().map(|p| p.pgs.iter().map(|_| PgWork::new()).collect()).collect();
        let pgs = work.iter().map(Vec::len).sum();
        self.attach = Some(Attach {
            work,
            unsealed: pgs,
            unrolled: pgs,
            parts: BTreeMap::new(),
            rolls: Slab::new(),
            queue: VecDeque::new(),
            running: 0,
            unread_since: BTreeMap::new(),
        });
        self.set_state(State::Sealing);
        self.seal_missing();
    }

    /// A3: these PGs changed their epoch.
    pub(crate) fn redo_pgs(&mut self, changed: &[PgIx]) {
        if !self.on(Rule::A3) {
            self.check_sealed_all(changed);
            return self.seal_missing();
        }
        for ix in changed {
            self.redo_pg(*ix);
        }
        if self.state != State::Sealing && self.attach.as_ref().is_some_and(|a| a.unsealed > 0) {
            self.set_state(State::Sealing);
        }
        self.seal_missing();
    }

    fn redo_pg(&mut self, ix: PgIx) {
        self.cancel_rolls(ix);
        let Some(attach) = self.attach.as_mut() else { return };
        let Some(list) = attach.work.get_mut(usize::from(ix.pool)) else { return };
        // A split made new PGs.
        while list.len() <= ix.pg as usize {
            list.push(PgWork::new());
            attach.unsealed += 1;
            attach.unrolled += 1;
        }
        let Some(work) = attach.pg(ix) else { return };
        let phase = work.phase;
        let discarded = work.replies.len() as u64;
        *work = PgWork::new();
        attach.unsealed += usize::from(phase != Phase::Sealing);
        attach.unrolled += usize::from(phase == Phase::Rolled);
        self.stats.seals_discarded += discarded;
    }

    /// Sends SEAL to every drive that some unsealed PG still misses.
    fn seal_missing(&mut self) {
        let Some(attach) = self.attach.as_ref() else { return };
        let mut missing = vec![false; self.drives.len()];
        for (pool, list) in self.pools.iter().zip(&attach.work) {
            for (pg, work) in pool.pgs.iter().zip(list) {
                if work.phase != Phase::Sealing {
                    continue;
                }
                for dx in self.sealed_members(pg).into_iter().filter(|dx| !work.replies.iter().any(|r| r.0 == *dx)) {
                    if let Some(m) = missing.get_mut(usize::from(dx)) {
                        *m = true;
                    }
                }
            }
        }
        for (dx, _) in missing.into_iter().enumerate().filter(|(_, m)| *m) {
            if let Ok(dx) = Dx::try_from(dx) {
                self.ctl_want(dx, SEAL);
            }
        }
    }

    /// PGs whose every member has answered go on to A4.
    fn check_sealed_all(&mut self, pgs: &[PgIx]) {
        for ix in pgs {
            let Some(pg) = self.pg(*ix) else { continue };
            let members = self.sealed_members(pg);
            // A PG without an in-sync member can only be waited for, never skipped.
            let lost = pg.insync.is_empty();
            let some = !self.on(Rule::A2Majority);
            let Some(work) = self.attach.as_mut().and_then(|a| a.pg(*ix)) else { continue };
            let replied = members.iter().filter(|dx| work.replies.iter().any(|r| r.0 == **dx)).count();
            let all = replied == members.len() || (some && replied > members.len() / 2);
            if work.phase == Phase::Sealing && all && !lost {
                self.roll_pg(*ix);
            }
        }
        self.phase_changed();
    }

    /// Whom an attach seals: joiners too.
    fn sealed_members(&self, pg: &Pg) -> DxList {
        pg.members().filter(|dx| self.on(Rule::A2Joiners) || pg.insync.contains(dx)).collect()
    }

    fn phase_changed(&mut self) {
        let Some(attach) = self.attach.as_ref() else { return };
        let (unsealed, unrolled) = (attach.unsealed, attach.unrolled);
        if unsealed > 0 || !matches!(self.state, State::Sealing | State::Rolling) {
            return;
        }
        if unrolled > 0 {
            self.set_state(State::Rolling);
        }
        if unrolled == 0 || !self.on(Rule::A5) {
            self.set_state(State::Activating);
            self.want_activate();
        }
    }
}
