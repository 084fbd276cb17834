//! Opening: what the small values of the log say.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use drystone_store::api::{MetaKey, ObjectStore};
use drystone_types::{ClusterMap, Epoch, LayerId, PgId, PoolId, Reader, Rev, Rule, Writer};

use crate::api::Config;
use crate::credits::{decode_grant, Grant};
use crate::join::Generations;
use crate::limits::USAGE_PERIOD;
use crate::replica::Replica;
use crate::requests::Requests;
use crate::slab::Slab;
use crate::stable::decode_version;
use crate::stats::Stats;
use crate::tables::{sorted_keys, Table};
use crate::ticket::decode_seal;

/// What the log keeps of a PG.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct StoredPg {
    /// Adopted epoch.
    pub epoch: Epoch,
    /// Join epoch whose generations are applied; 0 when not joining.
    pub join: Epoch,
    /// QUIESCE that was answered.
    pub quiesced: Epoch,
}

/// Role as the log keeps it, for putting lost metadata together: a value of its own beside [`StoredPg`], which an older
/// version reads too and would not take with a byte more. It counts with the epoch it was logged in only: an older
/// version leaves it as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum StoredRole {
    /// Not told, or told of another epoch.
    #[default]
    Unknown = 0,
    /// In sync.
    InSync = 1,
    /// Joining: what it holds of the PG is not all of it.
    Joining = 2,
    /// What it held was freed, or is being freed, and no whole copy was made since.
    Freed = 3,
    /// Out since this epoch: it was in sync or joining before.
    Out = 4,
}

impl StoredPg {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(self.epoch.0).u32(self.join.0).u32(self.quiesced.0);
        w.finish()
    }
    pub(crate) fn decode(value: &[u8]) -> Option<StoredPg> {
        let mut r = Reader::new(value);
        let stored =
            StoredPg { epoch: Epoch(r.u32().ok()?), join: Epoch(r.u32().ok()?), quiesced: Epoch(r.u32().ok()?) };
        r.finish().ok()?;
        Some(stored)
    }
}

impl StoredRole {
    /// The key of a PG's role.
    pub(crate) fn key(pg: PgId) -> MetaKey {
        MetaKey::Drive(ROLES << 32 | u64::from(pg.to_wire()))
    }
    pub(crate) fn encode(self, epoch: Epoch) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(epoch.0).u8(self as u8);
        w.finish()
    }
    /// Whether it tells of a drive that adopted this epoch last: what is adopted last is from before the drive left. An
    /// older version goes on adopting epochs and leaves the role as it was.
    pub(crate) fn counts(self, epoch: Epoch, adopted: Epoch) -> bool {
        epoch == adopted || matches!(self, StoredRole::Out | StoredRole::Freed) && epoch > adopted
    }
    /// PG, epoch and role, if this is the key of one.
    pub(crate) fn decode(key: u64, value: &[u8]) -> Option<(PgId, Epoch, StoredRole)> {
        let pg = u32::try_from(key & 0xffff_ffff).ok().filter(|_| key >> 32 == ROLES)?;
        let mut r = Reader::new(value);
        let epoch = Epoch(r.u32().ok()?);
        let role = match r.u8().ok()? {
            1 => StoredRole::InSync,
            2 => StoredRole::Joining,
            3 => StoredRole::Freed,
            4 => StoredRole::Out,
            _ => StoredRole::Unknown,
        };
        Some((PgId::from_wire(pg), epoch, role))
    }
}

/// Key of the revision of the generations applied for a pool. The high bits keep it apart from
/// other values of the drive.
pub(crate) fn generations_key(pool: PoolId) -> u64 {
    GENERATIONS << 32 | u64::from(pool.0)
}

/// Key of the list of layers freed lately.
pub(crate) const FREED_KEY: u64 = 0x4652_4545 << 32;
/// Freed layers remembered for peer checks: more than are freed while a node restarts.
pub(crate) const FREED_MAX: usize = 256;

/// Key of a value that means nothing: an exercise of the drive writes it.
pub(crate) const EXERCISE_KEY: u64 = 0x4558_4552 << 32;

/// Key of the PGs whose content failed a peer check here and was not copied anew since.
pub(crate) const DISTRUSTED_KEY: u64 = 0x4449_5354 << 32;

const GENERATIONS: u64 = 0x4745_4e53;
const ROLES: u64 = 0x524f_4c45;

/// Why a drive cannot be opened by its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// A value of the log does not decode: the drive must be treated as SUSPECT.
    BadValue(MetaKey),
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let OpenError::BadValue(key) = self;
        write!(f, "the value {key:?} in the drive's log does not decode: drop the drive and re-add it as blank")
    }
}

impl std::error::Error for OpenError {}

impl<S: ObjectStore> Replica<S> {
    /// A drive whose log is replayed. It serves once a map came.
    pub fn open(cfg: Config, store: S) -> Result<Replica<S>, OpenError> {
        let metas = store.metas();
        let mut replica = Replica::empty(cfg, store);
        for (key, value) in metas {
            if !value.is_empty() {
                replica.load(key, &value).ok_or(OpenError::BadValue(key))?;
            }
        }
        for vol_id in sorted_keys(&replica.vols) {
            let Some(vol) = replica.vols.get_mut(&vol_id) else { continue };
            if vol.grant.is_of_older(vol.sealed) {
                // Sealed by a generation list, and the process ended before the next LAYER: the grant in
                // the log is of a generation that can write nothing more.
                vol.grant = Grant::fresh(vol.sealed);
            }
            let (stable, reserved) = (vol.stable, vol.grant.reserved_at_open());
            replica.store.set_stable(vol_id, stable, true);
            replica.store.grant(i64::try_from(reserved).unwrap_or(i64::MAX));
        }
        Ok(replica)
    }

    fn empty(cfg: Config, store: S) -> Replica<S> {
        let requests = Requests::new(cfg.open_nonce);
        Replica {
            cfg,
            store,
            now: 0,
            out: Vec::new(),
            vols: Table::default(),
            pgs: Table::default(),
            map: Arc::new(ClusterMap::default()),
            adopted_rev: Rev(0),
            peers: Table::default(),
            ops: Slab::new(),
            recs: Slab::new(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            no_park: false,
            park_deadline: None,
            need_map: None,
            lease_until: 0,
            guests: Default::default(),
            freezes: Table::default(),
            stable_queue: VecDeque::new(),
            generations: BTreeMap::new(),
            relays: Default::default(),
            requests,
            repairs: Default::default(),
            compare: None,
            scrub_pace: Default::default(),
            checks: Default::default(),
            copy_jobs: Default::default(),
            bulk: Default::default(),
            digest_jobs: 0,
            resyncing: Default::default(),
            resync_wake: None,
            freed: VecDeque::new(),
            freeing: Default::default(),
            stored_pgs: Table::default(),
            noted: BTreeMap::new(),
            dirty_pgs: VecDeque::new(),
            last_client: 0,
            told_clients: None,
            leave_again: None,
            quiet: Default::default(),
            usage_at: USAGE_PERIOD,
            failed: false,
            stopping: false,
            stats: Stats::default(),
            dev: Vec::new(),
        }
    }

    fn load(&mut self, key: MetaKey, value: &[u8]) -> Option<()> {
        match key {
            MetaKey::Seal(vol) => {
                let seal = decode_seal(value)?;
                let known = self.vols.entry(vol).or_default();
                known.sealed = seal.sealed;
                known.nonce = seal.nonce;
                known.ticket = seal.ticket;
                known.ticket_bytes = seal.ticket_bytes;
            }
            MetaKey::Stable(vol) => {
                let stable = decode_version(value)?;
                let known = self.vols.entry(vol).or_default();
                known.stable = stable;
                known.stable_logged = stable;
            }
            MetaKey::Freeze(layer) => {
                self.freezes.insert(layer, decode_version(value)?);
            }
            MetaKey::Adopt(pg) => {
                self.stored_pgs.insert(pg, StoredPg::decode(value)?);
            }
            MetaKey::Grant(vol) => {
                let (gen, bound) = decode_grant(value)?;
                let bound = if self.cfg.rules.on(Rule::GrantBound) { bound } else { 0 };
                self.vols.entry(vol).or_default().grant = Grant::reopened(gen, bound);
            }
            MetaKey::Drive(id) if id >> 32 == GENERATIONS => {
                let applied = Rev(Reader::new(value).u64().ok()?);
                let pool = PoolId(u16::try_from(id & 0xffff).ok()?);
                self.generations.insert(pool, Generations { applied, again_at: None });
            }
            MetaKey::Drive(FREED_KEY) => {
                let mut r = Reader::new(value);
                while r.remaining() > 0 && self.freed.len() < FREED_MAX {
                    self.freed.push_back(LayerId(r.u64().ok()?));
                }
            }
            MetaKey::Drive(DISTRUSTED_KEY) => {
                let mut r = Reader::new(value);
                while r.remaining() > 0 {
                    self.checks.distrust(PgId::from_wire(r.u32().ok()?));
                }
            }
            MetaKey::Drive(id) => {
                // Values come in the order of their keys: what was adopted is here already.
                if let Some((pg, epoch, role)) = StoredRole::decode(id, value) {
                    let adopted = self.stored_pgs.get(&pg).map_or(Epoch(0), |stored| stored.epoch);
                    if role.counts(epoch, adopted) {
                        self.noted.insert(pg, (epoch, role));
                        if role == StoredRole::Freed {
                            self.freeing.mark(pg, epoch);
                        }
                    }
                }
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_back_with_its_group_and_epoch_and_no_other_value_is_one() {
        let pg = PgId { pool: PoolId(3), pg: 77 };
        let MetaKey::Drive(key) = StoredRole::key(pg) else { return };
        let roles = [StoredRole::Unknown, StoredRole::InSync, StoredRole::Joining, StoredRole::Freed, StoredRole::Out];
        for role in roles {
            assert_eq!(StoredRole::decode(key, &role.encode(Epoch(9))), Some((pg, Epoch(9), role)));
        }
        assert_eq!(StoredRole::decode(FREED_KEY, &StoredRole::InSync.encode(Epoch(9))), None);
        assert_eq!(StoredRole::decode(key, &[1, 2]), None);
    }
}
