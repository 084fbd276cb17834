//! Becoming a joiner: drain, take the generations from the store, then serve writes.

use drystone_store::api::{MetaKey, ObjectStore};
use drystone_types::consts::Micros;
use drystone_types::{Epoch, Gen, PgId, PoolId, Rev, Rule, VolumeId, Writer};

use crate::adopt::role_of;
use crate::api::Action;
use crate::limits::{NEED_GENERATIONS_AGAIN, VOLUMES_MAX};
use crate::replica::Replica;
use crate::startup::generations_key;
use crate::state::{Op, Role, Then};
use crate::tables::sorted_keys;

/// What is known of one pool's generations.
#[derive(Default)]
pub(crate) struct Generations {
    /// Revision of the last list that was applied here, durably.
    pub applied: Rev,
    /// A list is asked for; asked again then.
    pub again_at: Option<Micros>,
}

impl<S: ObjectStore> Replica<S> {
    /// First everything that was admitted becomes durable: a queued group must not survive the join
    /// and overwrite the copy (B7).
    pub(crate) fn begin_joins(&mut self, joins: Vec<PgId>) {
        let op = self.ops.insert(Op { left: 0, then: Then::JoinDrained(joins) });
        if self.cfg.rules.on(Rule::JoinDrains) {
            self.store.barrier(op);
        } else {
            self.settle(op);
        }
    }

    pub(crate) fn join_drained(&mut self, joins: &[PgId]) {
        let map = self.map.clone();
        for id in joins {
            let (Some(pg), Some(rec)) = (self.pgs.get(id), map.pg(*id)) else { continue };
            if !pg.draining {
                continue;
            }
            let role = role_of(rec, self.cfg.drive);
            self.adopt_join(*id, rec, role);
        }
        self.map_adopted();
        self.replay_parked();
    }

    fn adopt_join(&mut self, id: PgId, rec: &drystone_types::PgRecord, role: Role) {
        if let Role::Joining(_) = role {
            self.stats.joins += 1;
            // Marks of an earlier join say nothing about this one.
            self.store.clear_join(id);
            if let Some(pg) = self.pgs.get_mut(&id).filter(|_| self.cfg.rules.on(Rule::JoinGens)) {
                // The list must be read after the join: its revision is at least this map's.
                pg.need_generations = Some(self.map.revision.0);
            }
        }
        self.adopt(id, rec, role);
        if matches!(role, Role::Joining(_)) {
            self.ask_generations(id.pool);
            if !self.cfg.rules.on(Rule::JoinGens) {
                self.start_resync(id);
            }
        }
    }

    /// Restart of a joiner in the same join: nothing is admitted, so there is nothing to drain, and the
    /// marks in the log are of this join.
    pub(crate) fn resumes_join(&self, id: PgId, role: Role, known: bool) -> bool {
        let Role::Joining(join) = role else { return false };
        !known && self.stored_pgs.get(&id).is_some_and(|s| s.join == join)
    }

    /// The join epoch was logged only after the generations were applied, so they need not be
    /// asked again: every later SEAL had to be answered by this member.
    pub(crate) fn resume_join(&mut self, id: PgId, join: Epoch) {
        if self.stored_pgs.get(&id).is_some_and(|s| s.join == join) {
            self.start_resync(id);
        }
    }

    fn ask_generations(&mut self, pool: PoolId) {
        let state = self.generations.entry(pool).or_default();
        state.again_at = Some(self.now + NEED_GENERATIONS_AGAIN);
        let since = if self.cfg.rules.on(Rule::GensSince) { state.applied } else { self.map.revision };
        self.out.push(Action::NeedGenerations { pool, since });
    }

    pub(crate) fn ask_generations_again(&mut self) {
        let due: Vec<PoolId> = self
            .generations
            .iter()
            .filter(|(_, g)| g.again_at.is_some_and(|at| at <= self.now))
            .map(|(pool, _)| *pool)
            .collect();
        for pool in due {
            self.ask_generations(pool);
        }
    }

    /// The list since the last one that was applied here (B9): seals what this drive missed.
    pub(crate) fn on_generations(&mut self, pool: PoolId, revision: Rev, list: &[(VolumeId, Gen, u64)]) {
        for (vol, gen, nonce) in list {
            self.adopt_generation(*vol, *gen, *nonce);
        }
        let state = self.generations.entry(pool).or_default();
        state.applied = state.applied.max(revision);
        let mut w = Writer::new();
        w.u64(state.applied.0);
        let logged = self.append_meta(MetaKey::Drive(generations_key(pool)), w.finish());
        let mut waiting = false;
        for id in sorted_keys(&self.pgs) {
            let Some(pg) = self.pgs.get_mut(&id).filter(|_| id.pool == pool) else { continue };
            let Some(needed) = pg.need_generations else { continue };
            if revision.0 < needed || logged.is_err() {
                waiting = true;
                continue;
            }
            pg.need_generations = None;
            self.stats.generations_applied += 1;
            // The join is served from here on: what it rests on is in the log before any answer,
            // because answers wait for this record like for a re-stamping.
            let token = self.log_pg(id);
            if let Some(pg) = self.pgs.get_mut(&id) {
                pg.gate = token.or(pg.gate);
            }
            self.start_resync(id);
        }
        if let Some(state) = self.generations.get_mut(&pool) {
            state.again_at = if waiting { state.again_at } else { None };
        }
        self.replay_parked();
    }

    fn adopt_generation(&mut self, vol_id: VolumeId, gen: Gen, nonce: u64) {
        if self.vols.len() >= VOLUMES_MAX && !self.vols.contains_key(&vol_id) {
            return;
        }
        let vol = self.vols.entry(vol_id).or_default();
        if gen > vol.sealed {
            vol.sealed = gen;
            vol.nonce = nonce;
            vol.ticket = None;
            vol.ticket_bytes = Vec::new();
            self.new_grant(vol_id, gen);
            self.must_log_seal(vol_id);
        } else if gen == vol.sealed && vol.nonce == 0 && nonce != 0 {
            vol.nonce = nonce;
            self.must_log_seal(vol_id);
        }
    }

    /// A generation that is not in the log is forgotten by a restart, while the list it came from counts as
    /// applied and is never asked for again: an old writer would be admitted (I7). So the drive fails instead.
    fn must_log_seal(&mut self, vol_id: VolumeId) {
        if self.log_seal(vol_id).is_err() {
            self.fail("a generation of the store cannot be logged");
        }
    }
}
