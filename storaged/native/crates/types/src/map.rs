//! The cluster map: which drives hold which PG, in which epoch (§4.1, §5).
//!
//! Binary forms are little-endian. `PgRecord` and `MapShard` are values of the metadata store;
//! `ClusterMap` is what the manager's stream carries to servers and block daemons.
//! The Python side has its own encoder; a test compares both.

use smallvec::SmallVec;

use crate::codec::{CodecError, Reader, Writer};
use crate::consts::{PGS_MAX, PG_MEMBERS_MAX, SHARD_PGS};
use crate::ids::{DriveId, Epoch, PgId, PoolId, Rev, Uuid};

/// A drive list of one PG.
pub type Members = SmallVec<[DriveId; 4]>;

/// What a dropped drive is remembered by: `e0` is the last epoch in which it was in sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutSince {
    /// Drive.
    pub drive: DriveId,
    /// Last epoch in which the drive was in sync; 0 = treat as blank.
    pub e0: Epoch,
    /// Wall-clock seconds of the drop, for `out_time` only, never for safety.
    pub since_s: u64,
}

/// The record of one PG (§4.1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PgRecord {
    /// Bumped whenever the member sets change.
    pub epoch: Epoch,
    /// Drives that hold every acked write. Never empty in a created PG (I1).
    pub insync: Members,
    /// Drives being filled, each with the epoch in which it joined and the epoch `e0` since which it needs changes.
    pub joining: SmallVec<[Joiner; 2]>,
    /// Drives out but remembered.
    pub out: SmallVec<[OutSince; 2]>,
    /// Where the placement wants the PG.
    pub target: Members,
}

/// A joining member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joiner {
    /// Drive.
    pub drive: DriveId,
    /// Epoch created by the join.
    pub join_epoch: Epoch,
    /// Resync is needed for objects with `last_mod_epoch >= e0`; 0 = blank, everything.
    pub e0: Epoch,
}

impl PgRecord {
    /// Whether `drive` is in sync.
    pub fn is_insync(&self, drive: DriveId) -> bool {
        self.insync.contains(&drive)
    }
    /// The joiner entry of `drive`.
    pub fn joiner(&self, drive: DriveId) -> Option<&Joiner> {
        self.joining.iter().find(|j| j.drive == drive)
    }
    /// insync ∪ joining: who must answer a write (W2).
    pub fn members(&self) -> impl Iterator<Item = DriveId> + '_ {
        self.insync.iter().copied().chain(self.joining.iter().map(|j| j.drive))
    }
    /// Whether `drive` is in sync or joining (R3).
    pub fn is_member(&self, drive: DriveId) -> bool {
        self.members().any(|d| d == drive)
    }
    /// Smallest e0 of the drives that are out or joining: deletions newer than it are remembered (I17).
    pub fn oldest_out(&self) -> Option<Epoch> {
        self.out.iter().map(|o| o.e0).chain(self.joining.iter().map(|j| j.e0)).min()
    }
    /// Appends the binary form.
    pub fn encode(&self, w: &mut Writer) {
        w.u32(self.epoch.0).u8(len8(self.insync.len())).u8(len8(self.joining.len()));
        w.u8(len8(self.out.len())).u8(len8(self.target.len()));
        for d in &self.insync {
            w.u32(d.0);
        }
        for j in &self.joining {
            w.u32(j.drive.0).u32(j.join_epoch.0).u32(j.e0.0);
        }
        for o in &self.out {
            w.u32(o.drive.0).u32(o.e0.0).u64(o.since_s);
        }
        for d in &self.target {
            w.u32(d.0);
        }
    }
    /// Reads one record.
    pub fn decode(r: &mut Reader<'_>) -> Result<PgRecord, CodecError> {
        let epoch = Epoch(r.u32()?);
        let counts: [u8; 4] = r.array()?;
        if counts.iter().any(|c| usize::from(*c) > PG_MEMBERS_MAX) {
            return Err(CodecError::TooLarge);
        }
        let [insync, joining, out, target] = counts;
        let mut rec = PgRecord { epoch, ..PgRecord::default() };
        for _ in 0..insync {
            rec.insync.push(DriveId(r.u32()?));
        }
        for _ in 0..joining {
            rec.joining.push(Joiner { drive: DriveId(r.u32()?), join_epoch: Epoch(r.u32()?), e0: Epoch(r.u32()?) });
        }
        for _ in 0..out {
            rec.out.push(OutSince { drive: DriveId(r.u32()?), e0: Epoch(r.u32()?), since_s: r.u64()? });
        }
        for _ in 0..target {
            rec.target.push(DriveId(r.u32()?));
        }
        Ok(rec)
    }
}

fn len8(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

/// Up to 256 PG records: the value of `/pool/{p}/map/{shard}`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MapShard {
    /// Records in PG order.
    pub pgs: Vec<PgRecord>,
}

impl MapShard {
    /// Appends the binary form: format byte 1, count, records.
    pub fn encode(&self, w: &mut Writer) {
        w.u8(1).count(self.pgs.len());
        for pg in &self.pgs {
            pg.encode(w);
        }
    }
    /// Reads a shard.
    pub fn decode(r: &mut Reader<'_>) -> Result<MapShard, CodecError> {
        if r.u8()? != 1 {
            return Err(CodecError::Invalid);
        }
        let n = r.count(SHARD_PGS)?;
        let mut pgs = Vec::with_capacity(n);
        for _ in 0..n {
            pgs.push(PgRecord::decode(r)?);
        }
        Ok(MapShard { pgs })
    }
}

/// One pool as servers and sequencers see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolMap {
    /// Pool.
    pub pool: PoolId,
    /// Copies wanted.
    pub copies: u8,
    /// Effective `min_insync`: min(pool's value, width).
    pub min_insync: u8,
    /// PGs; a power of two.
    pub pg_count: u32,
    /// Shards in order; shard `i` holds PGs `i*256 ..`.
    pub shards: Vec<MapShard>,
}

impl PoolMap {
    /// Record of one PG.
    pub fn pg(&self, pg: u32) -> Option<&PgRecord> {
        let pg = pg as usize;
        self.shards.get(pg / SHARD_PGS)?.pgs.get(pg % SHARD_PGS)
    }
    /// Record of one PG, to be changed (simulator and tests).
    pub fn pg_mut(&mut self, pg: u32) -> Option<&mut PgRecord> {
        let pg = pg as usize;
        self.shards.get_mut(pg / SHARD_PGS)?.pgs.get_mut(pg % SHARD_PGS)
    }
    /// PG of a chunk given its lineage's placement hash (masked, so a PG splits in place, §5).
    pub fn pg_of_hash(&self, hash: u64) -> u32 {
        let mask = u64::from(self.pg_count.max(1) - 1);
        u32::try_from(hash & mask).unwrap_or(0)
    }
}

/// A drive and the way to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DriveInfo {
    /// Drive.
    pub id: DriveId,
    /// UUID in its superblock.
    pub uuid: Uuid,
    /// UUID of its node.
    pub node: Uuid,
    /// Node name, for messages to people.
    pub node_name: String,
    /// `host:port` of the drive's reactor.
    pub addr: String,
    /// Open nonce as of the last open.
    pub nonce: u64,
    /// 0 = up, 1 = down, 2 = gone for good.
    pub state: u8,
}

/// Everything a server or block daemon needs to know of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterMap {
    /// Cluster id of the store.
    pub cluster: Uuid,
    /// Store incarnation.
    pub incarnation: u32,
    /// Feature level of the cluster.
    pub feature_level: u32,
    /// Revision of this map. A map with a lower revision never replaces one with a higher.
    pub revision: Rev,
    /// Drives sorted by id.
    pub drives: Vec<DriveInfo>,
    /// Pools sorted by id.
    pub pools: Vec<PoolMap>,
}

/// Why a map update was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Bytes are not a map.
    Codec(CodecError),
    /// Another cluster.
    WrongCluster,
    /// The store's incarnation went back: an old backup (§3).
    OldIncarnation,
}

impl From<CodecError> for MapError {
    fn from(e: CodecError) -> Self {
        MapError::Codec(e)
    }
}

/// Most drives in a map: 63 nodes × 12 with room for the dead (§7 of the architecture).
const DRIVES_MAX: usize = 8192;
/// Most pools: the wire has 10 bits.
const POOLS_MAX: usize = 1024;
/// Most bytes of a name or an address in the map.
const TEXT_MAX: usize = 256;

impl ClusterMap {
    /// One drive.
    pub fn drive(&self, id: DriveId) -> Option<&DriveInfo> {
        self.drives.binary_search_by_key(&id, |d| d.id).ok().and_then(|i| self.drives.get(i))
    }
    /// One pool.
    pub fn pool(&self, id: PoolId) -> Option<&PoolMap> {
        self.pools.binary_search_by_key(&id, |p| p.pool).ok().and_then(|i| self.pools.get(i))
    }
    /// One pool, to be changed (simulator and tests).
    pub fn pool_mut(&mut self, id: PoolId) -> Option<&mut PoolMap> {
        let i = self.pools.binary_search_by_key(&id, |p| p.pool).ok()?;
        self.pools.get_mut(i)
    }
    /// Record of one PG.
    pub fn pg(&self, id: PgId) -> Option<&PgRecord> {
        self.pool(id.pool)?.pg(id.pg)
    }
    /// Binary form (format byte 1 first).
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(1).bytes(&self.cluster.0).u32(self.incarnation).u32(self.feature_level).u64(self.revision.0);
        w.count(self.drives.len());
        for d in &self.drives {
            w.u32(d.id.0).bytes(&d.uuid.0).bytes(&d.node.0);
            w.blob(d.node_name.as_bytes()).blob(d.addr.as_bytes()).u64(d.nonce).u8(d.state);
        }
        w.count(self.pools.len());
        for p in &self.pools {
            w.u16(p.pool.0).u8(p.copies).u8(p.min_insync).u32(p.pg_count).count(p.shards.len());
            for s in &p.shards {
                s.encode(&mut w);
            }
        }
        w.finish()
    }
    /// Reads the binary form.
    pub fn decode(bytes: &[u8]) -> Result<ClusterMap, MapError> {
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(CodecError::Invalid.into());
        }
        let mut map = ClusterMap {
            cluster: Uuid(r.array()?),
            incarnation: r.u32()?,
            feature_level: r.u32()?,
            revision: Rev(r.u64()?),
            ..ClusterMap::default()
        };
        for _ in 0..r.count(DRIVES_MAX)? {
            map.drives.push(decode_drive(&mut r)?);
        }
        for _ in 0..r.count(POOLS_MAX)? {
            map.pools.push(decode_pool(&mut r)?);
        }
        r.finish()?;
        map.drives.sort_by_key(|d| d.id);
        map.pools.sort_by_key(|p| p.pool);
        Ok(map)
    }
}

fn decode_drive(r: &mut Reader<'_>) -> Result<DriveInfo, CodecError> {
    Ok(DriveInfo {
        id: DriveId(r.u32()?),
        uuid: Uuid(r.array()?),
        node: Uuid(r.array()?),
        node_name: text(r)?,
        addr: text(r)?,
        nonce: r.u64()?,
        state: r.u8()?,
    })
}

fn text(r: &mut Reader<'_>) -> Result<String, CodecError> {
    core::str::from_utf8(r.blob(TEXT_MAX)?).map(str::to_owned).map_err(|_| CodecError::Invalid)
}

fn decode_pool(r: &mut Reader<'_>) -> Result<PoolMap, CodecError> {
    let mut p = PoolMap { pool: PoolId(r.u16()?), copies: r.u8()?, min_insync: r.u8()?, ..PoolMap::default() };
    p.pg_count = r.u32()?;
    if !p.pg_count.is_power_of_two() || p.pg_count > PGS_MAX {
        return Err(CodecError::Invalid);
    }
    let shards = r.count(PGS_MAX as usize / SHARD_PGS)?;
    for _ in 0..shards {
        p.shards.push(MapShard::decode(r)?);
    }
    let held: usize = p.shards.iter().map(|s| s.pgs.len()).sum();
    if held == p.pg_count as usize {
        Ok(p)
    } else {
        Err(CodecError::Invalid)
    }
}
