//! ADOPT: taking a newer map, PG by PG.

use std::sync::Arc;

use drystone_store::api::{MetaKey, ObjectStore, Record, SpaceClass, Stream};
use drystone_types::consts::Micros;
use drystone_types::{Buf, ClusterMap, DriveId, Epoch, PgId, PgRecord, Rule};

use crate::api::Report;
use crate::limits::STABLE_LOG_DELAY;
use crate::replica::Replica;
use crate::startup::{StoredPg, StoredRole};
use crate::state::{Pg, Role};
use crate::tables::sorted_keys;

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn on_map(&mut self, map: Arc<ClusterMap>) {
        if let Some(why) = self.refuse_map(&map) {
            self.report(Report::MapRefused(why));
            return;
        }
        self.need_map = None;
        if map.revision <= self.map.revision {
            return;
        }
        self.map = map.clone();
        if self.cfg.suspect || self.failed {
            return self.ask_to_leave();
        }
        let joins = self.adopt_all(&map);
        self.ask_to_leave();
        if joins.is_empty() {
            self.map_adopted();
        } else {
            self.begin_joins(joins);
        }
        self.replay_parked();
    }

    fn refuse_map(&self, map: &ClusterMap) -> Option<&'static str> {
        if map.cluster != self.cfg.cluster {
            return Some("the map is of another cluster: this drive belongs elsewhere");
        }
        if map.incarnation < self.cfg.incarnation.max(self.map.incarnation) {
            return Some("the store's incarnation went back: it is an old backup, put the newest store back");
        }
        None
    }

    /// Adopts every PG that needs no draining; gives those that do.
    fn adopt_all(&mut self, map: &ClusterMap) -> Vec<PgId> {
        let mut joins = Vec::new();
        for (id, rec) in records(map) {
            let mine = rec.is_member(self.cfg.drive);
            if !mine && !self.pgs.contains_key(&id) {
                if self.adopted_rev.0 == 0 {
                    // It may have left before this open: see `restamp`.
                    self.restamp(id, rec.epoch);
                    self.note_left(id, rec.epoch);
                }
                continue;
            }
            let old = self.pgs.get(&id).map(|pg| (pg.epoch(), pg.role, pg.draining));
            let role = role_of(rec, self.cfg.drive);
            if role == Role::Out && !self.cfg.rules.on(Rule::R3) {
                continue;
            }
            let begun = old.is_some_and(|(_, old, draining)| old == role && !draining);
            let resumed = self.resumes_join(id, role, old.is_some());
            if matches!(role, Role::Joining(_)) && !begun && !resumed {
                joins.push(id);
                self.mark_draining(id, rec, role);
            } else if old.is_none_or(|(epoch, old, _)| epoch != rec.epoch || old != role) {
                self.adopt(id, rec, role);
            } else {
                self.refresh(id, rec);
            }
        }
        self.drop_vanished(map);
        joins
    }

    /// Nothing changed for us; who is out may have.
    fn refresh(&mut self, id: PgId, rec: &PgRecord) {
        let Some(pg) = self.pgs.get_mut(&id) else { return };
        if pg.rec != *rec {
            pg.rec = rec.clone();
            self.store.set_oldest_out(id, rec.oldest_out());
        }
    }

    fn drop_vanished(&mut self, map: &ClusterMap) {
        for id in sorted_keys(&self.pgs) {
            if map.pg(id).is_none() {
                self.pgs.remove(&id);
            }
        }
    }

    /// Adopts one PG's record. Whoever reads the old epoch afterwards is answered NACK_EPOCH.
    pub(crate) fn adopt(&mut self, id: PgId, rec: &PgRecord, role: Role) {
        self.stats.adopted += 1;
        let first = !self.pgs.contains_key(&id);
        let before = self.pgs.get(&id).map_or(Role::Out, |pg| pg.role);
        let stored = self.stored_pgs.get(&id).map_or(Epoch(0), |s| s.quiesced);
        let pg = self.pgs.entry(id).or_insert_with(|| new_pg(rec));
        let quiesced = if first { stored } else { pg.quiesced };
        pg.quiesced = quiesced;
        pg.rec = rec.clone();
        pg.role = role;
        pg.draining = false;
        if role != Role::Out {
            self.freeing.member_in(id, rec.epoch);
        }
        if rec.epoch > quiesced {
            pg.quiesced = Epoch(0);
        }
        self.watch_quiet(id);
        self.close_freed(id);
        self.store.set_oldest_out(id, rec.oldest_out());
        match (before, role) {
            (_, Role::Out) => {
                self.stats.drops += 1;
                self.restamp(id, rec.epoch);
                self.log_pg(id);
                self.noted.insert(id, (rec.epoch, StoredRole::Out));
                self.leave(id);
                return;
            }
            (Role::Joining(_), Role::InSync) => self.promoted(id),
            _ => {}
        }
        self.restamp(id, rec.epoch);
        self.mark_dirty(id);
        if first {
            self.close_distrusted(id);
            self.first_sight(id, role);
        }
        self.resync_new_epoch(id);
    }

    fn promoted(&mut self, id: PgId) {
        self.stats.promotions += 1;
        self.trust(id);
        let bad = self.left_bad(id);
        self.end_resync(id);
        self.heal_later(id, bad);
        self.store.clear_join(id);
        self.log_pg(id);
    }

    fn leave(&mut self, id: PgId) {
        self.end_resync(id);
        self.forget_check(id);
        self.pgs.remove(&id);
    }

    /// It was dropped while it was away: its log says so too, or a recovery would take it for a member that is in sync.
    /// Refused for space, the next open notes it.
    fn note_left(&mut self, id: PgId, epoch: Epoch) {
        let Some(noted) = self.noted.get_mut(&id) else { return };
        // An older copy of the map proves nothing.
        if noted.0 < epoch && matches!(noted.1, StoredRole::InSync | StoredRole::Joining) {
            *noted = (epoch, StoredRole::Out);
            let _ = self.append_meta(StoredRole::key(id), StoredRole::Out.encode(epoch));
        }
    }

    /// Every object with an entry above stable gets this epoch, durably before the first OK, SEAL
    /// answer or DIGEST in it (B2). A drive that leaves does it too: it still serves the volume for other PGs, and
    /// what becomes stable there meanwhile would hide a dead write of its own from the delta of its next join.
    fn restamp(&mut self, id: PgId, epoch: Epoch) {
        if !self.cfg.rules.on(Rule::AdoptRestamps) {
            return;
        }
        let mut gate = None;
        for key in self.store.unstable_objects(id) {
            self.stats.restamped += 1;
            match self.append(Stream::Small, SpaceClass::Reserve, Record::Touch(key, epoch), Buf::empty()) {
                Ok(token) => gate = Some(token),
                // Without the stamp a delta copy would skip the object: the drive must not go on.
                Err(_) => self.fail("the reserve has no room for the stamps of a new epoch"),
            }
        }
        if let (Some(token), Some(pg)) = (gate, self.pgs.get_mut(&id)) {
            // The last of one stream is durable after all of them.
            pg.gate = Some(token);
        }
    }

    /// The first map of this open shows this PG.
    fn first_sight(&mut self, id: PgId, role: Role) {
        match role {
            // A check could pass where nobody answers.
            Role::InSync if self.is_closed(id) => {}
            // A PG made while this drive is open has nothing to compare.
            // Closed for good: a check that passed would open it.
            Role::InSync if self.is_freed(id) => {}
            Role::InSync if self.adopted_rev.0 == 0 => self.start_peer_check(id),
            Role::InSync => {}
            Role::Joining(join) => self.resume_join(id, join),
            Role::Out => {}
        }
    }

    /// All PGs of the newest map are adopted: stable values of its senders count (R7).
    pub(crate) fn map_adopted(&mut self) {
        if self.pgs.values().all(|pg| !pg.draining) {
            self.adopted_rev = self.map.revision;
            self.freeing.look_at(self.now);
        }
    }

    /// Epochs are persisted lazily: at start the map is read again anyway.
    fn mark_dirty(&mut self, id: PgId) {
        let Some(pg) = self.pgs.get_mut(&id) else { return };
        if !pg.dirty {
            pg.dirty = true;
            self.dirty_pgs.push_back((self.now + STABLE_LOG_DELAY, id));
        }
    }

    pub(crate) fn log_due_pgs(&mut self, until: Micros) {
        while self.dirty_pgs.front().is_some_and(|(at, _)| *at <= until) {
            let Some((_, id)) = self.dirty_pgs.pop_front() else { break };
            self.log_pg(id);
        }
    }

    /// Logs the adopted epoch and, for a joiner whose generations are applied, its join epoch.
    pub(crate) fn log_pg(&mut self, id: PgId) -> Option<u64> {
        let pg = self.pgs.get_mut(&id)?;
        pg.dirty = false;
        let join = match pg.role {
            Role::Joining(join) if pg.need_generations.is_none() && !pg.draining => join,
            _ => Epoch(0),
        };
        let role = match pg.role {
            _ if self.freeing.is_marked(id) => StoredRole::Freed,
            Role::InSync => StoredRole::InSync,
            Role::Joining(_) => StoredRole::Joining,
            Role::Out => StoredRole::Out,
        };
        let leaves = pg.role == Role::Out;
        let stored = StoredPg { epoch: pg.epoch(), join, quiesced: pg.quiesced };
        // Told for a recovery only: what the token stands for does not depend on it, and is durable after it.
        let noted = self.append_meta(StoredRole::key(id), role.encode(stored.epoch)).ok()?;
        if leaves {
            // What was adopted last stays the last epoch in which it was a member.
            return Some(noted);
        }
        self.append_meta(MetaKey::Adopt(id), stored.encode()).ok()
    }

    pub(crate) fn mark_draining(&mut self, id: PgId, rec: &PgRecord, role: Role) {
        self.end_resync(id);
        self.forget_check(id);
        let pg = self.pgs.entry(id).or_insert_with(|| new_pg(rec));
        pg.rec = rec.clone();
        pg.role = role;
        pg.draining = true;
        pg.checking = false;
    }
}

pub(crate) fn role_of(rec: &PgRecord, drive: DriveId) -> Role {
    if rec.is_insync(drive) {
        Role::InSync
    } else {
        rec.joiner(drive).map_or(Role::Out, |j| Role::Joining(j.join_epoch))
    }
}

/// Whether the next join would copy only what changed since the drive was last in sync.
pub(crate) fn is_remembered(rec: &PgRecord, drive: DriveId) -> bool {
    rec.out.iter().any(|o| o.drive == drive && o.e0.0 > 0)
}

fn new_pg(rec: &PgRecord) -> Pg {
    Pg {
        rec: rec.clone(),
        role: Role::Out,
        draining: false,
        need_generations: None,
        checking: false,
        gate: None,
        quiesced: Epoch(0),
        resync: None,
        dirty: false,
    }
}

/// Every PG of a map, in order.
pub(crate) fn records(map: &ClusterMap) -> impl Iterator<Item = (PgId, &PgRecord)> {
    map.pools.iter().flat_map(|pool| {
        let all = pool.shards.iter().flat_map(|s| s.pgs.iter());
        (0u32..).zip(all).map(|(pg, rec)| (PgId { pool: pool.pool, pg }, rec))
    })
}
