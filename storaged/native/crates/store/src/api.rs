//! What the replica rules need of a drive's log, as one trait: the real store implements it,
//! and a naive map in the tests implements it too, which is the oracle of the store.
//!
//! Life of a record: `append` *admits* it (it has a place in the order of its stream); the
//! store groups admitted records, writes them, and reports `StoreEvent::Durable` in order
//! per stream (R6). The index, and so `read`, sees a record only once it is durable.

use drystone_types::consts::{BLOCK_SIZE, CHUNK_BLOCKS};
use drystone_types::{Buf, Epoch, Gen, LayerId, ObjKey, PgId, Version, VolumeId};

/// Most bytes of one small value: the largest ticket (two chains of 64 entries) fits twice, and
/// a value stays within one group.
pub const META_VALUE_MAX: usize = 64 << 10;

/// What a block is on this drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum BlockKind {
    /// Data with a checksum.
    Data = 1,
    /// Trimmed (versioned).
    Hole = 2,
    /// Trimmed, and masks parents.
    Zero = 3,
    /// Lost; EIO until overwritten.
    Bad = 4,
}

/// Names the caller's admission; reported back when durable. The caller chooses it.
pub type Token = u64;

/// Where a record goes: two client streams, so that a large write does not delay a small
/// ack, and the cold one of GC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stream {
    /// Requests up to 64 KiB and all metadata.
    Small = 0,
    /// Larger requests and resync.
    Large = 1,
    /// GC only.
    Cold = 2,
}

/// A run of blocks of one object with one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockRecord {
    /// Volume that owns the layer: the lineage of the checksums.
    pub vol: VolumeId,
    /// Object.
    pub key: ObjKey,
    /// PG of the chunk.
    pub pg: PgId,
    /// Epoch adopted when the record was admitted; becomes the object's `last_mod_epoch`.
    pub pg_epoch: Epoch,
    /// First block within the chunk.
    pub first: u16,
    /// Blocks.
    pub count: u16,
    /// Kind.
    pub kind: BlockKind,
    /// Version.
    pub version: Version,
    /// Written directly by a sequencer while this drive is joining: sets the object's
    /// "written since join" bits, tagged with this join epoch. `None` otherwise.
    pub since_join: Option<Epoch>,
    /// The record was made by resync: it may lower a version (I8) and removes nothing newer that
    /// was written since the join; the replica has decided that already.
    pub copy: bool,
    /// One seeded checksum per block (kind Data), else empty.
    pub csums: Vec<u64>,
}

/// Small durable values of the replica: last write wins, all of them survive checkpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum MetaKey {
    /// Sealed generation, nonce and ticket of a volume.
    Seal(VolumeId),
    /// Stable watermark of a volume.
    Stable(VolumeId),
    /// Freeze of a layer.
    Freeze(LayerId),
    /// Adopted epoch, join epoch, generations revision of a PG.
    Adopt(PgId),
    /// Upper bound of the credits granted to a volume.
    Grant(VolumeId),
    /// Anything else of the drive: identity, orders applied.
    Drive(u64),
}

/// What the log can hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Data, hole, zero or bad blocks.
    Blocks(BlockRecord),
    /// Resync: the source has nothing for these blocks, forget them here (they become absent).
    Forget(BlockRecord),
    /// A small value; an empty one deletes the key.
    Meta(MetaKey, Vec<u8>),
    /// Raises `last_mod_epoch` of an object.
    Touch(ObjKey, Epoch),
    /// Frees a whole layer (an order): every object of it goes.
    FreeLayer(LayerId),
}

impl Record {
    /// Checks that the record agrees with itself and with `data`; returns the slots it needs,
    /// the group header included.
    pub fn check(&self, data: &Buf) -> Result<u64, AppendError> {
        let (blocks, is_data) = match self {
            Record::Blocks(b) => (Some(b), b.kind == BlockKind::Data),
            Record::Forget(b) => (Some(b), false),
            Record::Meta(_, value) if value.len() > META_VALUE_MAX => return Err(AppendError::Invalid),
            Record::Meta(..) | Record::Touch(..) | Record::FreeLayer(_) => (None, false),
        };
        let want = blocks.filter(|_| is_data).map_or(0, |b| usize::from(b.count));
        let csums = blocks.map_or(0, |b| b.csums.len());
        let in_chunk = blocks.is_none_or(|b| b.count > 0 && u32::from(b.first) + u32::from(b.count) <= CHUNK_BLOCKS);
        if in_chunk && csums == want && data.len() == want * BLOCK_SIZE {
            Ok(want as u64 + 1)
        } else {
            Err(AppendError::Invalid)
        }
    }
}

/// Why a record was not admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendError {
    /// No space outside the reserves that this record may not use.
    Full,
    /// The drive has failed; nothing more will become durable.
    Failed,
    /// The record contradicts itself (counts, lengths).
    Invalid,
}

/// Which space a record may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpaceClass {
    /// Slots promised by a credit: never refused for space.
    Granted,
    /// The GC reserve (SEAL, STABLE, ROLL, HOLE, overwrites of mapped blocks).
    Reserve,
    /// Only what is free above reserve and grants (COPY).
    Free,
}

/// A scrub that runs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ScrubProgress {
    /// Reads of scrubs begun since the open.
    pub steps: u64,
    /// Blocks read and compared so far.
    pub blocks: u64,
    /// Blocks of data that the drive holds now.
    pub of: u64,
}

/// A block's state as far as R5 needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// Nothing indexed and nothing admitted that is not durable yet.
    Absent,
    /// Indexed and not above the volume's stable value: its exact version needs a read of the log.
    Old,
    /// Version known. `durable` is false while the newest admitted record is not durable.
    Known {
        /// Version of the newest admitted record.
        version: Version,
        /// Kind of it.
        kind: BlockKind,
        /// Whether it is durable.
        durable: bool,
        /// Admission to wait for when not durable.
        token: Token,
    },
}

/// A durable block above stable, for SEAL replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unstable {
    /// PG.
    pub pg: PgId,
    /// Object.
    pub key: ObjKey,
    /// Block within the chunk.
    pub block: u16,
    /// Version.
    pub version: Version,
    /// Kind.
    pub kind: BlockKind,
    /// Whether it was written by a sequencer since this join epoch (joiners).
    pub since_join: Option<Epoch>,
}

/// What one block of a read resolved to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlockRead {
    /// Absent in every layer asked for. A hole counts as absent in its layer, so that a copy that has
    /// dropped the hole already answers the same.
    Absent,
    /// Reads as zeros and hides parents.
    Masked,
    /// Data and its stored checksum; verified by the store.
    Data(Buf, u64),
    /// The stored bytes do not match their checksum.
    Corrupt,
    /// The device could not be read this time: nothing is known of the stored bytes.
    Failed,
    /// A BAD record.
    Bad,
}

/// A run of equal-versioned blocks, for digests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DigestRun {
    /// First block within the chunk.
    pub first: u16,
    /// Blocks.
    pub count: u16,
    /// Kind.
    pub kind: BlockKind,
    /// Version.
    pub version: Version,
    /// Checksums of kind Data.
    pub csums: Vec<u64>,
}

/// One object as a digest shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectDigest {
    /// Layer.
    pub layer: LayerId,
    /// Last epoch of a change.
    pub last_mod_epoch: Epoch,
    /// Durable runs in block order.
    pub runs: Vec<DigestRun>,
}

/// What became of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreEvent {
    /// The record admitted with this token, and every earlier one of its stream, is durable and indexed.
    Durable(Token),
    /// Everything admitted to any stream before `barrier(token)` is durable.
    Barrier(Token),
    /// A read by `read`: one entry per block asked for.
    Read(Token, Vec<BlockRead>),
    /// A read by `read_exact`; `None` when that version is not held.
    ReadExact(Token, Option<(BlockKind, BlockRead)>),
    /// A digest of every object of (vol, chunk), or of the one asked for.
    Digest(Token, Vec<ObjectDigest>),
    /// The device failed: the drive must leave.
    Failed(&'static str),
    /// A scrub step found bad blocks (vol, key, block) that want repair.
    Rotten(Vec<(VolumeId, ObjKey, u16)>),
    /// Garbage collection found such blocks.
    RottenMoved(Vec<(VolumeId, ObjKey, u16)>),
    /// Scrub of the whole drive is complete: (blocks read, blocks bad).
    ScrubDone(u64, u64),
}

/// Space in slots of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// All data slots of the drive.
    pub total: u64,
    /// Slots indexed.
    pub live: u64,
    /// Slots that can be granted now: free (GC can free them) − reserve − granted.
    pub grantable: u64,
    /// Slots granted and not used.
    pub granted: u64,
    /// The hard reserve.
    pub reserve: u64,
}

/// One device operation the shell must run and complete. Offsets and lengths are multiples of 4096.
#[derive(Clone, Debug)]
pub enum DevOp {
    /// Write the buffers back to back; `durable` = acked only when on stable media (FUA).
    Write {
        /// Operation id.
        id: u64,
        /// Byte offset.
        offset: u64,
        /// Buffers, each page aligned.
        bufs: Vec<Buf>,
        /// FUA.
        durable: bool,
    },
    /// Read.
    Read {
        /// Operation id.
        id: u64,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Flush everything written before.
    Flush {
        /// Operation id.
        id: u64,
    },
    /// The range holds nothing any more.
    Discard {
        /// Operation id.
        id: u64,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// Result of a device operation.
#[derive(Clone, Debug)]
pub enum DevResult {
    /// Done; the bytes of a read, else empty.
    Ok(Buf),
    /// The device refused.
    Failed(&'static str),
}

/// The log of one drive.
pub trait ObjectStore {
    /// Admits a record, in the order of calls within a stream. `data` holds `count × 4096` bytes for kind Data.
    fn append(
        &mut self,
        stream: Stream,
        space: SpaceClass,
        rec: Record,
        data: Buf,
        token: Token,
    ) -> Result<(), AppendError>;
    /// Asks for `StoreEvent::Barrier(token)` when everything admitted so far, in every stream, is durable.
    fn barrier(&mut self, token: Token);
    /// State of one block for R5, admitted records included.
    fn held(&self, key: ObjKey, block: u16) -> Held;
    /// Join epoch of the block's "written since join" mark, admitted records included.
    fn since_join(&self, key: ObjKey, block: u16) -> Option<Epoch>;
    /// Raises the volume's stable value: versions at or below it become `Old`, holes at or below the
    /// *durable* stable value may be dropped (see `Record::Meta(Stable)`).
    fn set_stable(&mut self, vol: VolumeId, stable: Version, durable: bool);
    /// Tells which epoch deletions must be remembered from, per PG (I17); `None` = no drive is out.
    fn set_oldest_out(&mut self, pg: PgId, oldest: Option<Epoch>);
    /// Forgets all "written since join" marks of a PG (promotion, or a new join).
    fn clear_join(&mut self, pg: PgId);
    /// Durable blocks of a volume above its stable value.
    fn unstable(&self, vol: VolumeId) -> Vec<Unstable>;
    /// Whether any object of the lineage exists.
    fn lineage_exists(&self, vol: VolumeId) -> bool;
    /// Objects of a PG with an entry, durable or admitted, above stable (ADOPT re-stamps them).
    fn unstable_objects(&self, pg: PgId) -> Vec<ObjKey>;
    /// (vol, chunk) of a PG with an object whose `last_mod_epoch ≥ e0`, ascending after `after`, at most `max`.
    fn changed_chunks(&self, pg: PgId, e0: Epoch, after: Option<(VolumeId, u64)>, max: usize) -> Vec<(VolumeId, u64)>;
    /// PGs of which the index has an object, in order.
    fn groups(&self) -> Vec<PgId>;
    /// Objects of a PG in the index with their `last_mod_epoch`, ascending after `after`, at most `max`.
    fn objects_of(&self, pg: PgId, after: Option<(VolumeId, ObjKey)>, max: usize) -> Vec<(VolumeId, ObjKey, Epoch)>;
    /// Reads blocks through a chain of layers of one lineage; answers with `StoreEvent::Read`.
    fn read(&mut self, vol: VolumeId, chain: &[LayerId], chunk: u64, first: u16, count: u16, token: Token);
    /// Reads one block at exactly one version; answers with `StoreEvent::ReadExact`.
    fn read_exact(&mut self, vol: VolumeId, key: ObjKey, block: u16, version: Version, token: Token);
    /// Digest of every object of (vol, chunk), durable entries only; answers with `StoreEvent::Digest`.
    fn digest(&mut self, vol: VolumeId, chunk: u64, token: Token);
    /// Digest of these runs (first block, blocks) of one object, none if there is no such object; answers with
    /// `StoreEvent::Digest`. It reads the headers of these blocks only: whoever asks for one block after the other of
    /// a chunk must not pay for the whole chunk each time.
    fn digest_blocks(&mut self, vol: VolumeId, key: ObjKey, runs: &[(u16, u16)], token: Token);
    /// Bitmap (128 bytes) of the blocks of an object that are indexed as data.
    fn chunk_map(&self, key: ObjKey) -> [u8; 128];
    /// A stored small value (durable or admitted).
    fn meta(&self, key: MetaKey) -> Option<&[u8]>;
    /// All small values, for start-up.
    fn metas(&self) -> Vec<(MetaKey, Vec<u8>)>;
    /// Space now.
    fn space(&self) -> Space;
    /// Reserves (positive) or returns (negative) granted slots. An `append` with `SpaceClass::Granted`
    /// uses `count + 1` of them by itself.
    fn grant(&mut self, slots: i64);
    /// Changes of live data slots per layer and PG since the last call, for space reports.
    fn take_usage(&mut self) -> Vec<(LayerId, PgId, i64)>;
    /// Last `max` durable stable versions, newest first, for the peer check at open.
    fn recent_stable(&self, pg: PgId, max: usize) -> Vec<(VolumeId, ObjKey, u16, Version)>;
    /// Starts a scrub of the whole drive in small steps.
    fn start_scrub(&mut self);
    /// Makes the scrub wait after the step that is running, or lets it go on: what it found is to be healed first.
    fn hold_scrub(&mut self, hold: bool);
    /// How far the running scrub is; `None` = none runs.
    fn scrub_progress(&self) -> Option<ScrubProgress>;
    /// PG of an object; `None` if there is none.
    fn pg_of(&self, key: ObjKey) -> Option<PgId>;
    /// Background work due (GC, checkpoint, summaries), then every device operation to start now.
    fn poll(&mut self, out: &mut Vec<DevOp>);
    /// Events that became ready without a device operation: a read that met nothing stored, a barrier
    /// with nothing before it. Call it after every batch of calls, beside `poll`.
    fn take_events(&mut self, out: &mut Vec<StoreEvent>);
    /// A device operation ended; what it completed is appended to `out`.
    fn complete(&mut self, id: u64, result: DevResult, out: &mut Vec<StoreEvent>);
    /// Highest generation known for a volume from its block records alone, forgotten ones too
    /// (for a recovery of lost metadata): too high is safe, too low is not.
    fn max_gen(&self, vol: VolumeId) -> Gen;
}
