//! Counters by name, for metrics and for the simulator's "not empty" test.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters since the open of the drive; they only rise, except for `unhealed`, which tells of now.
        #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
        pub struct Stats { $($(#[$doc])* pub $name: u64),* }
        impl Stats {
            /// Every counter by name.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counters! {
    /// WRITE, TRIM, ZERO and ROLL requests received.
    writes,
    /// Blocks appended for them.
    blocks_written,
    /// Blocks a duplicate or stable request did not append again.
    blocks_skipped,
    /// Void blocks of a joiner that a direct write filled.
    void_writes,
    /// ROLL requests.
    rolls,
    /// READ requests answered with data.
    reads,
    /// READ+ROLL requests answered.
    exact_reads,
    /// NACK_EPOCH answers.
    nack_epoch,
    /// NACK_GEN answers.
    nack_gen,
    /// NEED_TICKET answers.
    need_ticket,
    /// RETRY answers.
    retries,
    /// FULL answers.
    full,
    /// EIO answers.
    eio,
    /// INVALID answers.
    invalid,
    /// DENIED answers.
    denied,
    /// Requests parked for a newer map.
    parked,
    /// Parked requests whose map did not come in time.
    park_expired,
    /// Answers that turned into a NACK at the moment of sending (R6c).
    late_nacks,
    /// SEAL requests answered.
    seals,
    /// FENCE requests answered.
    fences,
    /// RECOVERED requests taken.
    recovered,
    /// Stable values logged.
    stables_logged,
    /// Epochs adopted.
    adopted,
    /// Objects re-stamped on adoption.
    restamped,
    /// Joins begun.
    joins,
    /// PGs of which everything was freed after a move.
    groups_freed,
    /// Objects freed so.
    objects_freed,
    /// PGs that were not freed because the map is older than what the drive holds of them.
    free_refused,
    /// Promotions seen.
    promotions,
    /// Drops seen.
    drops,
    /// Generation lists applied.
    generations_applied,
    /// DIGEST requests answered as source.
    digests_served,
    /// COPY requests answered as source.
    copies_served,
    /// Chunks compared as joiner.
    resync_chunks,
    /// Blocks copied as joiner.
    resync_blocks,
    /// Bytes copied as joiner.
    resync_bytes,
    /// Blocks forgotten because the source has nothing.
    resync_forgotten,
    /// Blocks kept because they were written since the join.
    resync_kept,
    /// Blocks that no in-sync copy could read, recorded as bad by this joiner.
    resync_bad_blocks,
    /// Copies held because more was lost than a copy gives up by itself.
    copies_held,
    /// Answers of resync that waited for clients' requests.
    resync_held,
    /// Source changes.
    resync_source_changes,
    /// Copies completed.
    copies_completed,
    /// Checksum mismatches met by reads.
    bad_blocks,
    /// Blocks found bad by reads, scrubs, garbage collection and copies, each once while it is known to be bad.
    bad_found,
    /// Of these, bad still.
    unhealed,
    /// Blocks healed from a peer.
    healed,
    /// Peer checks passed.
    peer_checks,
    /// Peer checks that found a version missing.
    peer_checks_failed,
    /// PGs whose copies were compared from here.
    compares,
    /// Chunks compared for that.
    compared_chunks,
    /// Looks at a chunk that were put off because a header could not be read.
    compare_waits,
    /// Blocks of which two in-sync copies were found to differ.
    divergent_blocks,
    /// Requests relayed to another drive.
    relayed,
    /// Slots granted.
    slots_granted,
    /// Slots asked back.
    slots_recalled,
    /// Invariants broken.
    invariants,
}
