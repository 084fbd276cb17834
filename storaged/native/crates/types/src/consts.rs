//! Sizes and limits of the engine, each with its reason.

/// Bytes of one block: the unit of checksums, versions and the index.
pub const BLOCK_SIZE: usize = 4096;
/// Blocks of one chunk (4 MiB): the unit of placement and of an object.
pub const CHUNK_BLOCKS: u32 = 1024;
/// Bytes of one chunk.
pub const CHUNK_SIZE: u64 = 4 << 20;
/// Most blocks one data frame carries (1 MiB): bounds the receive buffer of a connection
/// and the time a large request can hold a stream before a small one.
pub const FRAME_BLOCKS_MAX: u32 = 256;
/// Most bytes of inline metadata in one frame: a digest of one chunk with 32 layers fits.
pub const FRAME_META_MAX: usize = 1 << 20;
/// Bytes of a segment of a drive's log.
pub const SEGMENT_SIZE: u64 = 64 << 20;
/// Most versions above stable a volume may have in flight (W3): bounds the unstable lists
/// of the replicas and the length of a roll-forward.
pub const UNSTABLE_VERSIONS_MAX: usize = 16_384;
/// Most bytes above stable a volume may have in flight (W3).
pub const UNSTABLE_BYTES_MAX: u64 = 1 << 30;
/// PG records in one map shard: one shard is one key of the metadata store.
pub const SHARD_PGS: usize = 256;
/// Most PGs of a pool (§7 of the architecture).
pub const PGS_MAX: u32 = 8192;
/// Most drives in one PG, in-sync and joining together: 3 copies plus one joiner each.
pub const PG_MEMBERS_MAX: usize = 8;
/// Most layers in one chain before background merges are due; a ticket with more is refused.
pub const CHAIN_MAX: usize = 64;
/// Largest volume: 64 TiB keeps block numbers of a volume within 34 bits.
pub const VOLUME_SIZE_MAX: u64 = 64 << 40;

/// Virtual or monotonic time in microseconds; only differences have a meaning.
pub type Micros = u64;
/// A server that sees a newer epoch parks the request at most this long (§4.2), below STALL.
pub const PARK_MAX: Micros = 150_000;
/// No answer for this long is reported to the manager and tried through RELAY (§4.4).
pub const STALL: Micros = 250_000;
/// RETRY for longer than this counts as silence (§4.2).
pub const RETRY_SILENCE: Micros = 1_000_000;
/// A STABLE alone is sent when a volume was idle this long (§4.2); also the poll of credits.
pub const STABLE_IDLE: Micros = 50_000;
/// Read lease (§4.5).
pub const READ_LEASE: Micros = 1_500_000;
/// Beacon heartbeat period (§4.5).
pub const BEACON_PERIOD: Micros = 150_000;
/// A slot of the lease page that did not move for this long is not extended (§4.5).
pub const LEASE_SLOT_FRESH: Micros = 300_000;
/// Majority of beacons silent to a node for this long starts a drop (§4.5).
pub const BEACON_SILENCE: Micros = 750_000;
/// Evidence older than this is void (§4.1).
pub const EVIDENCE_TTL: Micros = 5_000_000;
