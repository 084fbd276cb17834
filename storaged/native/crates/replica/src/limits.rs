//! Limits of one drive, each with its reason.

use drystone_types::consts::Micros;

/// Most volumes a drive keeps a seal for: 24 bytes each in the design, about 300 with its
/// ticket, so 30 MB at the limit; a cluster is designed for 100 000 volumes.
pub const VOLUMES_MAX: usize = 100_000;
/// Most tickets of read-only and snapshot attachments: RAM only, the oldest go first
/// (the client is then asked for its ticket again).
pub const GUEST_TICKETS_MAX: usize = 100_000;
/// Most bytes of a ticket: 64 layers and 64 parents need under 6 KiB.
pub const TICKET_BYTES_MAX: usize = 8192;
/// Most requests parked for a newer map: what the deepest queue of a few clients holds.
pub const PARKED_MAX: usize = 4096;
/// Most data bytes parked: bounds memory while the manager is slow.
pub const PARKED_BYTES_MAX: usize = 256 << 20;
/// A map that was asked for and did not come is asked for again after this long.
pub const NEED_MAP_AGAIN: Micros = 100_000;
/// A generations list that did not come is asked for again after this long.
pub const NEED_GENERATIONS_AGAIN: Micros = 500_000;
/// A stable value is logged this long after it first rose ("at most 1 s late", with room
/// for the write itself).
pub const STABLE_LOG_DELAY: Micros = 800_000;
/// Space deltas are reported this often (§7).
pub const USAGE_PERIOD: Micros = 5_000_000;
/// Most requests in flight on this drive; past it the drive answers RETRY: 64 connections
/// with a full queue each.
pub const OPS_MAX: usize = 65_536;
/// Most requests relayed for others at a time.
pub const RELAYS_MAX: usize = 4096;
/// A relayed request without an answer is forgotten after this long: the asker's own
/// stall handling started long before.
pub const RELAY_TTL: Micros = 5_000_000;
/// Entries of one part of a SEAL answer: 29 bytes each, within the metadata limit.
pub const SEAL_ENTRIES_MAX: usize = 30_000;
/// What a move left stays for this long after the map showed that nobody wants it: another copy that is dying shows
/// in the map within five seconds (engine §4.8), and stops it.
pub const FREE_AFTER: Micros = 10_000_000;
/// How often what is left by moves is looked at: an index look per PG, and who wants it may change by the lease alone.
pub const FREE_LOOK: Micros = 1_000_000;
/// Objects freed at a time: two groups of the log, durable before the next ones.
pub const FREE_BATCH: usize = 96;
/// Between two looks at as many of them, before the first one goes.
pub const FREE_STEP: Micros = 1_000;
/// Pause after each while clients are active: a thousand objects (4 GiB at most) take half a second, and a client
/// waits behind two slots of the log at most.
pub const FREE_PAUSE_BUSY: Micros = 50_000;
/// Most blocks of one TRIM or ZERO: one chunk.
pub const HOLE_BLOCKS_MAX: u32 = 1024;
/// Requests up to this many blocks use the small stream (64 KiB).
pub const SMALL_BLOCKS_MAX: u32 = 16;
/// Chunks in one page of a digest list.
pub const DIGEST_LIST_MAX: usize = 4096;
/// Resync requests of one joiner while clients are active: so many at a time, and then a rest
/// ("1 local, 2 remote requests" at StorPool).
pub const RESYNC_BUSY: usize = 2;
/// Most blocks of one of them: 128 KiB, about what a client's write is. A device that is given a mebibyte at once makes
/// what is behind it wait for all of it, and so do the source's reads and both processors.
pub const RESYNC_BLOCKS_BUSY: u32 = 32;
/// The rest, in times of what these requests took from the first question to durable: a copy takes a quarter of what
/// disks, network and processors can do beside clients, whatever that is. Where they are short of it, requests take
/// longer, and so does the rest.
pub const RESYNC_REST: u64 = 3;
/// And no longer: where everything is slow a copy must end all the same, for until then one copy is missing.
pub const RESYNC_REST_MAX: Micros = 100_000;
/// Resync requests in flight while no client was heard for `RESYNC_IDLE_AFTER`, nor of one for `RESYNC_TOLD_AFTER`.
pub const RESYNC_IDLE: usize = 16;
/// Silence of clients after which resync speeds up.
pub const RESYNC_IDLE_AFTER: Micros = 100_000;
/// How long a source's word counts that clients work with it: until its next answer, which may be a rest and a slow
/// request away. A drive that has just joined hears no client itself until they know the new map, and one that only takes writes hears no read
/// that its source serves.
pub const RESYNC_TOLD_AFTER: Micros = RESYNC_TIMEOUT + 5 * RESYNC_REST_MAX;
/// A resync request without an answer for this long moves to another source.
pub const RESYNC_TIMEOUT: Micros = 2_000_000;
/// Chunks of one page that are worked on at a time: those that wait for a second look at a bad block must not
/// hold up the rest, and what is remembered of them stays small.
pub const RESYNC_JOBS_MAX: usize = 64;
/// Bytes of a copy that may be admitted and not yet durable while clients are active: one frame, so that a write
/// waits behind a mebibyte at most and not behind all that a source could send.
pub const RESYNC_LOG_BUSY: u64 = 1;
/// The same without clients: what keeps two device writes of a stream running.
pub const RESYNC_LOG_IDLE: u64 = 4 << 20;
/// DIGEST, COPY and SCRUB requests worked on at a time while clients are active: one digest may be a
/// thousand reads, which the device would do before a client's write.
pub const SOURCE_BUSY: usize = 2;
/// The same without clients.
pub const SOURCE_IDLE: usize = 16;
/// Reads of a block that must fail at every in-sync member before it counts as lost: once may be the moment.
pub const UNREADABLE_TRIES: u32 = 2;
/// Time between the first and the last of them at least: a device that recovers from a reset is back by then.
pub const UNREADABLE_SPREAD: Micros = 5_000_000;
/// Pause before a member is asked again whose device could not read, or that gave no answer; it doubles.
pub const UNREADABLE_PAUSE: Micros = 250_000;
/// And is this long at most: one request per chunk, and the member may be back any moment.
pub const UNREADABLE_PAUSE_MAX: Micros = 5_000_000;
/// Most blocks that one copy of a PG gives up as lost by itself: rot is rare, so more of it is a sick device or a
/// defect, and a copy of it would only hide that.
pub const LOST_MAX: usize = 64;
/// A copy that was held for that begins again after this long.
pub const HELD_AGAIN: Micros = 60_000_000;
/// Times every in-sync drive is asked in vain for a block before the operator hears that the copy waits for it: some
/// half a minute, so that a device that recovers from a reset wakes nobody.
pub const STUCK_TRIES: u32 = 10;
/// Pause before a source that refused is asked again.
pub const RESYNC_BACKOFF: Micros = 20_000;
/// Pause at most before a source that fails again and again is asked: it doubles up to here.
pub const RESYNC_BACKOFF_MAX: Micros = 1_280_000;
/// A finished copy is told again while the promotion has not come.
pub const COMPLETE_AGAIN: Micros = 1_000_000;
/// A drive that cannot serve asks again to be dropped: the call may have met no leader, or one that ended before it acted.
pub const LEAVE_AGAIN: Micros = 3_000_000;
/// A promise to answer no reads that stands this long leads to no drop any more: what speaks for a drop is void after
/// 5 s (`EVIDENCE_TTL`), and one that is on its way then compares the epoch.
pub const QUIET_MAX: Micros = 10_000_000;
/// Such a promise is told again while no later epoch has come: the call may have met no leader.
pub const QUIET_AGAIN: Micros = 3_000_000;
/// DIGEST and COPY requests served at a time: bounds the reads a joiner can queue before clients'.
pub const SOURCE_JOBS_MAX: usize = 64;
/// Block repairs at a time: a rotten segment must not become a resync of its own.
pub const REPAIRS_MAX: usize = 64;
/// Of these, for blocks that nobody reads now: what a client's read met finds a free place.
pub const REPAIRS_BACKGROUND: usize = 48;
/// Blocks of a scrub that may be without an end before it waits: what failed once rests a second, and must not be
/// forgotten because many others do.
pub const SCRUB_PENDING_MAX: usize = 1024;
/// Most blocks that wait for their turn, about 200 bytes each; a scrub waits while any does, so that only garbage
/// collection can get there.
pub const REPAIR_QUEUE_MAX: usize = 16_384;
/// A block that no peer could give is tried again after this long at first: the peer may be back.
pub const REPAIR_AGAIN_MIN: Micros = 1_000_000;
/// And after this long at most: where all copies are bad it costs next to nothing.
pub const REPAIR_AGAIN_MAX: Micros = 60_000_000;
/// Most such blocks remembered; past it they are only counted, and tried at every read and every scrub.
pub const HOPELESS_MAX: usize = 4096;
/// While clients are active a scrub begins to read this often at most: 1 MiB each time is 20 MiB/s, a fifth of a
/// slow disk's time, and still a drive of 20 TB in 12 days.
pub const SCRUB_PAUSE_BUSY: Micros = 50_000;
/// How often a scrub tells how far it is.
pub const SCRUB_NEWS: Micros = 1_000_000;
/// While clients are active a comparison of copies takes its next chunk this long after the last one at the earliest:
/// a digest may be a thousand reads on each member, and 20 chunks are 80 MiB of data a second still.
pub const COMPARE_PAUSE_BUSY: Micros = 50_000;
/// How often in a row a member may not answer a comparison before it is given up: over ten seconds of pauses, so one
/// that restarts is back, or was dropped by then.
pub const COMPARE_TRIES: u32 = 14;
/// How often a comparison begins again because the members changed: whoever asked knows better when to come back.
pub const COMPARE_RESTARTS: u32 = 16;
/// How often one comparison looks at a chunk again because a header could not be read, with growing pauses: six
/// seconds, in which a device that resets is back. In all, not for each chunk: a segment whose headers are lost for good
/// may have blocks of thousands of them, and what is found there is healed block by block.
pub const COMPARE_UNKNOWN_LOOKS: u32 = 10;
/// Most different blocks that one comparison tells one by one; more are only counted.
pub const COMPARE_TOLD_MAX: u64 = 64;
/// Versions exchanged in one peer check.
pub const PEER_CHECK_MAX: usize = 64;
/// A peer that does not answer the check for this long is passed over; dead members are
/// not waited for, so that a cold start of everything goes through.
pub const PEER_CHECK_TIMEOUT: Micros = 500_000;
/// Slots granted to a volume at first: three writes of 1 MiB.
pub const GRANT_FIRST: u64 = 1024;
/// Most slots granted and unused per volume: 64 MiB, what fills a fast link for a
/// round trip of a busy drive.
pub const GRANT_MAX: u64 = 16_384;
/// Smallest useful grant: one write of 1 MiB with its header slot.
pub const GRANT_MIN: u64 = 257;
/// A grant used up faster than this doubles.
pub const GRANT_FAST: Micros = 100_000;
