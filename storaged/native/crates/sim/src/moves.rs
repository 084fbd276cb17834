//! Places that change (engine §5): moves, re-creation after a long absence, and the end of the copy that lost its
//! place. What the manager does of it is in `cluster/moves.py` and `cluster/outs.py`.

use drystone_replica::{Control, Event as ReplicaEvent};
use drystone_store::api::ObjectStore;
use drystone_types::{DriveId, Epoch, PgId, PgRecord};

use crate::event::{Ev, News, Proc};
use crate::meta::{Change, POOL};
use crate::world::{Time, World};

/// Control ids of QUIESCE for one PG start here.
pub const RETIRE_ID: u64 = 1 << 43;
/// PGs on their way at a time.
const MOVING_MAX: usize = 3;
/// How long a place waits for a drive that is away.
const OUT_TIME: (Time, Time) = (3_000_000, 5_000_000);
/// What is freed needs a lease. A node may stay without one for good here: of a suspicion of a node that is in sync
/// nowhere the model's managers may lose sight, and nobody waits for it but this.
const LEASE_MAX: Time = 60_000_000;
/// How long such a drive is away.
const AWAY: (Time, Time) = (6_000_000, 20_000_000);

/// Changes of PGs, and the open nonces that they rest on.
type Ending = (Vec<(u32, Change)>, Vec<(DriveId, u64)>);

impl World {
    fn at_of(&self, id: DriveId) -> Option<usize> {
        self.drives.iter().position(|d| d.id == id)
    }

    /// Whether a drive serves as far as a manager can see.
    fn serves(&self, id: DriveId) -> bool {
        let drive = self.at_of(id).and_then(|d| self.drives.get(d));
        drive.is_some_and(|d| d.replica.is_some() && !d.suspect)
    }

    /// Whether every place has a copy in sync that serves: only then does anything leave.
    fn settled(&self, record: &PgRecord) -> bool {
        let copies = self.plan.copies.min(self.plan.nodes);
        record.target.len() >= copies && record.target.iter().all(|d| record.is_insync(*d) && self.serves(*d))
    }

    /// A drive that could take the place of another one: on a node that no other place of the PG is on.
    fn fits(&self, record: &PgRecord, old: DriveId, new: &crate::server::Drive) -> bool {
        let node = |id: &DriveId| self.at_of(*id).map(|d| self.drives[d].node);
        let rest = record.target.iter().filter(|d| **d != old);
        !record.target.contains(&new.id) && rest.map(node).all(|n| n != Some(new.node))
    }

    /// A place whose drive is no member: the drive joins, or another one gets the place of one that is gone.
    pub(crate) fn takes_place(&mut self, m: usize, record: &PgRecord, now: Time) -> Option<Change> {
        if self.plan.moves.is_empty() || record.joining.len() > 1 || !self.rng.chance(400) {
            return None;
        }
        let missing: Vec<DriveId> = record.target.iter().copied().filter(|d| !record.is_member(*d)).collect();
        for id in missing {
            let Some(d) = self.at_of(id) else {
                let new = self.drives.iter().find(|d| d.replica.is_some() && self.fits(record, id, d));
                return new.map(|new| Change::Retarget(id, new.id));
            };
            let rests = self.managers[m].rest.get(&id).is_some_and(|until| *until > now);
            let stands = self.frozen.get(&Proc::Server(self.drives[d].node)).is_some_and(|t| *t > now);
            if self.serves(id) && !rests && !stands {
                return Some(Change::Join(id));
            }
        }
        None
    }

    /// What ends a move: who has no place leaves when all places are filled, and is forgotten. Gives the changes and
    /// the open nonces that they rest on.
    pub(crate) fn end_moves(&mut self, m: usize, records: &[PgRecord]) -> Ending {
        for (pg, record) in (0u32..).zip(records) {
            if !self.settled(record) {
                continue;
            }
            if let Some(out) = record.out.iter().find(|o| !record.target.contains(&o.drive)) {
                return (vec![(pg, Change::Forget(out.drive))], Vec::new());
            }
            let Some(spare) = record.members().find(|d| !record.target.contains(d)) else { continue };
            if record.joiner(spare).is_some() {
                return (vec![(pg, Change::Drop(spare))], Vec::new());
            }
            match self.managers[m].retires.remove(&(pg, spare)) {
                Some((epoch, nonce)) if epoch == record.epoch => {
                    return (vec![(pg, Change::Retire(spare, epoch))], vec![(spare, nonce)]);
                }
                _ => self.ask_retire(pg, spare, record.epoch),
            }
        }
        (Vec::new(), Vec::new())
    }

    fn ask_retire(&mut self, pg: u32, id: DriveId, epoch: Epoch) {
        let Some(d) = self.at_of(id) else { return };
        let (life, delay) = (self.drives[d].life, self.latency());
        let req = Control::Quiesce { pg: PgId { pool: POOL, pg }, epoch };
        let id = RETIRE_ID + (u64::from(pg) << 32) + u64::from(epoch.0);
        self.after(delay, Ev::Replica(d, life, Box::new(ReplicaEvent::Control { id, req })));
    }

    /// A drive promised to answer no reads of a PG in an epoch.
    pub(crate) fn may_retire(&mut self, d: usize, control: u64) {
        let asked = control - RETIRE_ID;
        let (pg, epoch) = ((asked >> 32) as u32 & 0x3ff, Epoch(asked as u32));
        let (drive, nonce) = (self.drives[d].id, self.drives[d].nonce);
        self.drives[d].quiesced.insert(pg, epoch);
        self.tell_managers(News::MayRetire { pg, drive, epoch, nonce });
    }

    fn retarget(&mut self, pg: u32, old: DriveId, new: DriveId) {
        self.trace(|| format!("pg{pg}: the place of drive {old} goes to drive {new}"));
        if let Err(why) = self.meta.force(pg, Change::Retarget(old, new)) {
            self.fail("STORE", why);
        }
        self.push_maps();
    }

    /// Fault: a place goes to another drive. Often to one that has just lost it, and frees what it had.
    pub(crate) fn move_place(&mut self) -> bool {
        let records = self.meta.shard().1;
        let moving = records.iter().filter(|r| r.target.iter().any(|d| !r.is_insync(*d))).count();
        let pg = self.rng.index(records.len());
        let Some(record) = records.get(pg) else { return false };
        if self.newest.is_some() || moving >= MOVING_MAX || record.target.is_empty() {
            return false;
        }
        let old = record.target[self.rng.index(record.target.len())];
        // A move never waits for a repair.
        if record.target.iter().any(|d| *d != old && !(record.is_insync(*d) && self.serves(*d))) {
            return false;
        }
        let news: Vec<usize> = (0..self.drives.len())
            .filter(|d| self.drives[*d].replica.is_some() && self.fits(record, old, &self.drives[*d]))
            .collect();
        let back = news.iter().copied().find(|d| self.has_left(*d, pg as u32, record));
        let Some(new) = back.filter(|_| self.rng.chance(400)).or_else(|| self.rng.pick(&news).copied()) else {
            return false;
        };
        if self.has_left(new, pg as u32, record) {
            self.counts.hit("freed.again");
        }
        let new = self.drives[new].id;
        self.retarget(pg as u32, old, new);
        true
    }

    /// Whether a drive that is no member holds something of a PG.
    fn has_left(&self, d: usize, pg: u32, record: &PgRecord) -> bool {
        let pg = PgId { pool: POOL, pg };
        let store = self.drives[d].replica.as_ref().map(|r| r.store());
        !record.is_member(self.drives[d].id) && store.is_some_and(|s| !s.objects_of(pg, None, 1).is_empty())
    }

    /// Fault: a drive is away for longer than its places wait for it.
    pub(crate) fn lose_for_long(&mut self, d: usize) -> bool {
        let (n, id) = (self.drives[d].node, self.drives[d].id);
        let records = self.meta.shard().1;
        let spare =
            |r: &PgRecord| r.target.contains(&id) && self.drives.iter().any(|x| x.node != n && self.fits(r, id, x));
        if self.newest.is_some() || !self.nodes[n].up || !records.iter().any(spare) {
            return false;
        }
        let power = self.rng.chance(500);
        self.stop_server(n, power);
        let (late, back) = (self.rng.range(OUT_TIME.0, OUT_TIME.1), self.rng.range(AWAY.0, AWAY.1));
        self.after(late, Ev::Recreate(id));
        self.after(back, Ev::StartServer(n));
        true
    }

    /// The places of a drive that is still away go to others. It stays remembered until its PGs are whole.
    pub(crate) fn recreate(&mut self, id: DriveId) {
        if self.newest.is_some() || self.serves(id) {
            return;
        }
        for (pg, record) in (0u32..).zip(self.meta.shard().1) {
            let away = record.target.contains(&id) && !record.is_member(id);
            let fits = |d: &&crate::server::Drive| d.replica.is_some() && self.fits(&record, id, d);
            let Some(new) = self.drives.iter().find(fits).map(|d| d.id).filter(|_| away) else { continue };
            self.counts.hit("pg.recreated");
            self.retarget(pg, id, new);
        }
    }

    /// FREED: a drive frees only what nobody counts on, now or when it comes back.
    pub(crate) fn check_freeing(&mut self, d: usize, pg: PgId) {
        self.counts.hit("freed.steps");
        let id = self.drives[d].id;
        let Some(record) = self.truth().pg(pg.pg).cloned() else { return };
        let credit = record.out.iter().any(|o| o.drive == id && o.e0 > Epoch(0));
        let credit = credit || record.joiner(id).is_some_and(|j| j.e0 > Epoch(0));
        if record.is_insync(id) || credit {
            self.fail("FREED", format!("drive {id} frees pg{}, though the store counts on it: {record:?}", pg.pg));
        }
    }

    /// What is left of moves, in words; `None` when every drive holds only what it has a place for or is remembered
    /// with.
    pub(crate) fn left_by_moves(&self) -> Option<String> {
        let (_, records) = self.truth().shard();
        for drive in &self.drives {
            let groups = drive.replica.as_ref().map(|r| r.store().groups()).unwrap_or_default();
            for (pg, record) in groups.into_iter().filter_map(|g| records.get(g.pg as usize).map(|r| (g.pg, r))) {
                let remembered = record.out.iter().any(|o| o.drive == drive.id);
                if !(record.is_member(drive.id) || record.target.contains(&drive.id) || remembered) {
                    let node = &self.nodes[drive.node];
                    let late = self.now > self.healed_at.saturating_add(LEASE_MAX);
                    if late && node.page.iter().all(|until| *until <= self.now) {
                        continue;
                    }
                    let (lease, beacon) = (node.page.clone(), node.beacon.is_some());
                    return Some(format!(
                        "drive {} of node{} (leases {lease:?} at {}, a beacon {beacon}, opening {}, reads a map {:?}, \
                         suspects {:?}) still holds pg{pg}, which moved away: {record:?}",
                        drive.id,
                        drive.node,
                        self.now,
                        node.opening,
                        node.reading,
                        self.truth().suspects
                    ));
                }
            }
        }
        None
    }

    /// Whether every move is over, and what it left freed.
    pub(crate) fn moves_over(&self) -> bool {
        self.plan.moves.is_empty()
            || (self.truth().shard().1.iter().all(|r| r.insync.len() == r.target.len() && self.settled(r))
                && self.left_by_moves().is_none())
    }
}
