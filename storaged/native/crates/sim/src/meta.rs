//! Model of the metadata store: one revision counter, compare-and-swap transactions, quorum reads.
//! It asserts what the store itself must hold: I1 (`insync` never empty), I2 and I19.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drystone_membership::{drop_drive, join, promote, renew, DropReason, Suspect};
use drystone_types::{
    ClusterMap, DriveId, DriveInfo, Epoch, Gen, LayerId, MapShard, PgId, PgRecord, PoolId, PoolMap, Rev, Rule, Rules,
    Uuid, Version, VolumeId,
};

/// A volume's record.
#[derive(Clone, Debug, Default)]
pub struct VolumeRecord {
    /// Generation.
    pub gen: Gen,
    /// Revision of the last change of the generation.
    pub gen_rev: Rev,
    /// Owner's attachment nonce.
    pub owner: u64,
    /// Whether the owner's generation is active.
    pub active: bool,
    /// Attachments: (client, nonce).
    pub attachments: Vec<(Uuid, u64)>,
    /// Layers from the head down, each frozen one with its cut.
    pub chain: Vec<(LayerId, Version)>,
    /// A head that is being switched to (S1 to S4).
    pub next_head: Option<LayerId>,
    /// Serial of the newest ticket.
    pub serial: u32,
}

/// A drive's record.
#[derive(Clone, Debug, Default)]
pub struct DriveRecord {
    /// Open nonce.
    pub nonce: u64,
    /// Nonce that is known to be on the device; 0 = it was never open.
    pub proven: u64,
    /// Nonces granted since that may be on the device all the same.
    pub granted: Vec<u64>,
    /// Device serial as of the last open.
    pub serial: u64,
    /// Its node.
    pub node: Uuid,
}

/// One change of a PG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Drop of a drive.
    Drop(DriveId),
    /// Join.
    Join(DriveId),
    /// Promotion of a joiner whose copy was completed in this epoch.
    Promote(DriveId, Epoch),
    /// A place goes from the first drive to the second; members change later.
    Retarget(DriveId, DriveId),
    /// Drop of a drive whose place went to another one: it is forgotten at once.
    Retire(DriveId, Epoch),
    /// A drive that is out and has no place is forgotten.
    Forget(DriveId),
    /// A new epoch with the same members: an in-sync drive promised something for this one.
    Renew(DriveId, Epoch),
}

/// Conditions of a map transaction beside the shard's revision.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Revision that created the leader key.
    pub leader: Rev,
    /// A suspect key that must still be there.
    pub suspect: Option<Suspect>,
    /// Open nonces that must be unchanged.
    pub nonces: Vec<(DriveId, u64)>,
}

/// Why a transaction did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnError {
    /// A comparison failed.
    Compare,
    /// The rules of membership refuse the change.
    Refused,
}

/// The store.
#[derive(Clone, Debug)]
pub struct Meta {
    /// Rules in force.
    pub rules: Rules,
    /// Revision of the last transaction.
    pub rev: Rev,
    map_rev: Rev,
    shard_rev: Rev,
    pool: PoolMap,
    cluster: Uuid,
    /// Drives by id.
    pub drives: BTreeMap<DriveId, DriveRecord>,
    /// Volumes.
    pub volumes: BTreeMap<VolumeId, VolumeRecord>,
    /// Expected voters.
    pub voters: Vec<Uuid>,
    /// Version of their list.
    pub voters_version: u64,
    /// Suspect keys.
    pub suspects: BTreeMap<Uuid, Rev>,
    /// Leader: manager and the revision that created its key.
    pub leader: Option<(usize, Rev)>,
    /// Every record a PG ever had, by epoch.
    pub history: BTreeMap<(u32, Epoch), PgRecord>,
    /// Copies that were completed: (PG, drive, epoch).
    pub copied: BTreeSet<(u32, DriveId, Epoch)>,
    /// Revisions at which a map transaction succeeded (I19).
    swapped: BTreeSet<Rev>,
    cached: Option<Arc<ClusterMap>>,
}

/// The only pool of the simulation.
pub const POOL: PoolId = PoolId(1);

impl Meta {
    /// A store with one pool whose PGs are in sync on their targets.
    pub fn new(cluster: Uuid, copies: u8, min_insync: u8, placement: Vec<Vec<DriveId>>) -> Meta {
        let pgs: Vec<PgRecord> = placement
            .into_iter()
            .map(|t| PgRecord {
                epoch: Epoch(1),
                insync: t.iter().copied().collect(),
                target: t.into_iter().collect(),
                ..PgRecord::default()
            })
            .collect();
        let history = pgs.iter().enumerate().map(|(i, pg)| ((i as u32, pg.epoch), pg.clone())).collect();
        let pg_count = pgs.len() as u32;
        let pool = PoolMap { pool: POOL, copies, min_insync, pg_count, shards: vec![MapShard { pgs }] };
        Meta {
            rules: Rules::ALL,
            rev: Rev(1),
            map_rev: Rev(1),
            shard_rev: Rev(1),
            pool,
            cluster,
            drives: BTreeMap::new(),
            volumes: BTreeMap::new(),
            voters: Vec::new(),
            voters_version: 1,
            suspects: BTreeMap::new(),
            leader: None,
            history,
            copied: BTreeSet::new(),
            swapped: BTreeSet::new(),
            cached: None,
        }
    }
    fn bump(&mut self) -> Rev {
        self.rev = Rev(self.rev.0 + 1);
        self.rev
    }
    pub(crate) fn map_changed(&mut self) {
        self.map_rev = self.bump();
        self.cached = None;
    }
    /// A quorum read of the map.
    pub fn map(&mut self) -> Arc<ClusterMap> {
        if let Some(map) = &self.cached {
            return map.clone();
        }
        let drive = |(id, d): (&DriveId, &DriveRecord)| DriveInfo {
            id: *id,
            node: d.node,
            nonce: d.nonce,
            ..DriveInfo::default()
        };
        let map = Arc::new(ClusterMap {
            cluster: self.cluster,
            incarnation: 1,
            feature_level: 1,
            revision: self.map_rev,
            drives: self.drives.iter().map(drive).collect(),
            pools: vec![self.pool.clone()],
        });
        self.cached = Some(map.clone());
        map
    }
    /// Records and revision of the only shard.
    pub fn shard(&self) -> (Rev, Vec<PgRecord>) {
        (self.shard_rev, self.pool.shards.first().map(|s| s.pgs.clone()).unwrap_or_default())
    }
    /// Record of a PG.
    pub fn pg(&self, pg: u32) -> Option<&PgRecord> {
        self.pool.pg(pg)
    }
    /// PGs.
    pub fn pg_count(&self) -> u32 {
        self.pool.pg_count
    }
    /// PG of a chunk of a lineage.
    pub fn pg_of(&self, hash: u64) -> PgId {
        PgId { pool: POOL, pg: self.pool.pg_of_hash(hash) }
    }
    /// Generations changed since a revision, and the revision of the read.
    pub fn generations(&self, since: Rev) -> (Rev, Vec<(VolumeId, Gen, u64)>) {
        let changed = self.volumes.iter().filter(|(_, v)| v.gen_rev > since && v.gen.0 > 0);
        (self.rev, changed.map(|(id, v)| (*id, v.gen, v.owner)).collect())
    }
    /// A1: the attachment of (client, nonce) takes the next generation. Repeating it changes nothing.
    pub fn attach(&mut self, vol: VolumeId, client: Uuid, nonce: u64) -> Gen {
        let rev = self.bump();
        let record = self.volumes.entry(vol).or_default();
        if record.chain.is_empty() {
            (record.serial, record.chain) = (1, vec![(LayerId(vol.0 * 10), Version::ZERO)]);
        }
        if record.owner == nonce && record.attachments.contains(&(client, nonce)) {
            return record.gen;
        }
        record.gen = Gen(record.gen.0 + 1);
        (record.gen_rev, record.owner, record.active) = (rev, nonce, false);
        record.attachments = vec![(client, nonce)];
        record.gen
    }
    /// A5. Repeating it changes nothing.
    pub fn activate(&mut self, vol: VolumeId, gen: Gen, compare: bool) -> bool {
        self.bump();
        let Some(record) = self.volumes.get_mut(&vol) else { return false };
        if compare && record.gen != gen {
            return false;
        }
        record.active = true;
        true
    }
    /// Fence without attach: the generation rises and the attachment goes.
    pub fn fence(&mut self, vol: VolumeId, nonce: u64) -> Option<Gen> {
        let rev = self.bump();
        let record = self.volumes.get_mut(&vol)?;
        if record.owner != nonce {
            return None;
        }
        record.gen = Gen(record.gen.0 + 1);
        (record.gen_rev, record.owner, record.active) = (rev, 0, false);
        record.attachments.clear();
        Some(record.gen)
    }
    /// Another copy of the store takes this one's place: what the oracles know goes along.
    pub fn keep_for_oracles(&self, other: &mut Meta) {
        other.history.clone_from(&self.history);
        other.copied.clone_from(&self.copied);
        other.swapped.clone_from(&self.swapped);
    }
    /// Takes the leader key when it is free.
    pub fn elect(&mut self, manager: usize) -> Option<Rev> {
        match self.leader {
            Some((m, rev)) => (m == manager).then_some(rev),
            None => {
                let rev = self.bump();
                self.leader = Some((manager, rev));
                Some(rev)
            }
        }
    }
    /// Whether the leader key is the one created at this revision.
    pub fn leads(&self, leader: Rev) -> bool {
        self.leader.is_some_and(|(_, rev)| rev == leader)
    }
    /// Writes a suspect key; its round is the revision.
    pub fn suspect(&mut self, leader: Rev, node: Uuid) -> Option<Suspect> {
        if !self.leads(leader) {
            return None;
        }
        let round = match self.suspects.get(&node) {
            Some(round) => *round,
            None => self.bump(),
        };
        self.suspects.insert(node, round);
        Some(Suspect { node, round })
    }
    /// Deletes a suspect key.
    pub fn unsuspect(&mut self, leader: Rev, suspect: Suspect) -> bool {
        if !self.leads(leader) || self.suspects.get(&suspect.node) != Some(&suspect.round) {
            return false;
        }
        self.bump();
        self.suspects.remove(&suspect.node);
        true
    }
    /// All suspect keys and the revision of the read.
    pub fn suspects(&self) -> (Rev, Vec<Suspect>) {
        (self.rev, self.suspects.iter().map(|(node, round)| Suspect { node: *node, round: *round }).collect())
    }
    fn holds(&self, base: Rev, conditions: &Conditions) -> bool {
        let gone = |s: Suspect| self.suspects.get(&s.node) != Some(&s.round) && self.rules.on(Rule::SuspectKey);
        let suspect = !conditions.suspect.is_some_and(gone);
        let leads = self.leads(conditions.leader) || !self.rules.on(Rule::LeaderKey);
        let nonces = conditions.nonces.iter().all(|(d, n)| self.drives.get(d).is_some_and(|r| r.nonce == *n));
        base == self.shard_rev && leads && suspect && nonces
    }
    /// One transaction over PGs, on the shard as it was at revision `base`. Changes that the rules
    /// refuse for their PG are left out; the number made is returned, or what broke (an oracle's name).
    pub fn swap(
        &mut self,
        base: Rev,
        conditions: &Conditions,
        changes: &[(u32, Change)],
    ) -> Result<Result<usize, TxnError>, String> {
        if !self.holds(base, conditions) {
            return Ok(Err(TxnError::Compare));
        }
        let mut made = 0;
        for (pg, change) in changes {
            made += usize::from(self.change(*pg, *change)?);
        }
        if made == 0 {
            return Ok(Err(TxnError::Refused));
        }
        if let Some(suspect) = conditions.suspect {
            self.suspects.remove(&suspect.node);
        }
        self.map_changed();
        if !self.swapped.insert(base) {
            return Err(format!("I19: two map transactions succeeded on revision {base}"));
        }
        self.shard_rev = self.map_rev;
        Ok(Ok(made))
    }
    fn change(&mut self, pg: u32, change: Change) -> Result<bool, String> {
        let Some(old) = self.pool.pg(pg).cloned() else { return Ok(false) };
        let next = match change {
            Change::Drop(d) => drop_drive(&old, d, 0),
            Change::Join(d) => join(&old, d),
            Change::Promote(d, _) if !self.rules.on(Rule::PromoteEpoch) => promote(&old, d, old.epoch),
            Change::Promote(d, copied) => promote(&old, d, copied),
            Change::Renew(d, asked) => renew(&old, d, asked),
            Change::Retire(d, asked) if asked == old.epoch => drop_drive(&old, d, 0).map(|next| without(next, d)),
            Change::Forget(d) if !old.is_member(d) && !old.target.contains(&d) => Ok(without(old.clone(), d)),
            Change::Retarget(from, to) if old.target.contains(&from) && !old.target.contains(&to) => {
                let mut next = old.clone();
                next.target.iter_mut().filter(|d| **d == from).for_each(|d| *d = to);
                Ok(next)
            }
            Change::Retire(..) | Change::Forget(_) | Change::Retarget(..) => return Ok(false),
        };
        let Ok(next) = next else { return Ok(false) };
        if next.insync.is_empty() {
            return Err(format!("I1: PG {pg} has no in-sync drive"));
        }
        for d in next.insync.iter().filter(|d| !old.is_insync(**d)) {
            if !self.copied.contains(&(pg, *d, old.epoch)) {
                return Err(format!(
                    "I2: drive {d} became in-sync in PG {pg} without a copy completed in epoch {}",
                    old.epoch
                ));
            }
        }
        self.history.insert((pg, next.epoch), next.clone());
        if let Some(slot) = self.pool.pg_mut(pg) {
            *slot = next;
        }
        Ok(true)
    }
    /// One change by a script, as if a manager had done everything before it.
    pub fn force(&mut self, pg: u32, change: Change) -> Result<(), String> {
        if !self.change(pg, change)? {
            return Err(format!("the rules of membership refuse {change:?}"));
        }
        self.map_changed();
        self.shard_rev = self.map_rev;
        Ok(())
    }
    /// An operator takes a dead drive out for good.
    pub fn remove_drive(&mut self, drive: DriveId) -> Result<(), String> {
        for pg in 0..self.pool.pg_count {
            self.change(pg, Change::Drop(drive))?;
        }
        self.map_changed();
        self.shard_rev = self.map_rev;
        Ok(())
    }
    /// Nobody waits any more for a drive that is out: it will never come back. The epoch stays.
    pub fn give_up(&mut self, pg: u32, drive: DriveId) {
        let Some(record) = self.pool.pg_mut(pg) else { return };
        record.out.retain(|out| out.drive != drive);
        let record = record.clone();
        self.history.insert((pg, record.epoch), record);
        self.map_changed();
        self.shard_rev = self.map_rev;
    }
    /// What a drive holds that is out gets no credit any more: it returns as a blank one.
    pub fn forget_content(&mut self, drive: DriveId) {
        for pg in 0..self.pool.pg_count {
            let out = self.pool.pg_mut(pg).map(|r| r.out.iter_mut()).into_iter().flatten();
            out.filter(|o| o.drive == drive).for_each(|o| o.e0 = Epoch(0));
        }
        self.map_changed();
        self.shard_rev = self.map_rev;
    }
    /// Lifts the revision, as somebody does who puts an old copy back and wants nobody to notice.
    pub fn lift(&mut self, rev: Rev) {
        self.rev = self.rev.max(rev);
        self.map_changed();
        self.shard_rev = self.map_rev;
    }
    /// An old record of a PG in the place of its newest one, with the newest epoch: a store that went back unnoticed
    /// and grew since.
    pub fn go_back(&mut self, pg: u32, old: &PgRecord) {
        let Some(record) = self.pool.pg_mut(pg) else { return };
        *record = PgRecord { epoch: Epoch(record.epoch.0 + 1), ..old.clone() };
        let record = record.clone();
        self.history.insert((pg, record.epoch), record);
        self.map_changed();
        self.shard_rev = self.map_rev;
    }
    /// Changes for a decided drop: every PG of the victim's drives.
    pub fn drop_changes(records: &[PgRecord], drives: &[DriveId]) -> Vec<(u32, Change)> {
        let member = |pg: &PgRecord, d: &DriveId| pg.is_member(*d);
        records
            .iter()
            .enumerate()
            .flat_map(|(i, pg)| drives.iter().filter(|d| member(pg, d)).map(move |d| (i as u32, Change::Drop(*d))))
            .collect()
    }
    /// Suspect key a drop compares.
    pub fn suspect_of(reason: DropReason) -> Option<Suspect> {
        match reason {
            DropReason::LeaseOver(s) => Some(s),
            DropReason::Dead(_) | DropReason::Quiesced(_) => None,
        }
    }
}

fn without(mut record: PgRecord, drive: DriveId) -> PgRecord {
    record.out.retain(|out| out.drive != drive);
    record
}
