//! Counters, for metrics and for the simulator's check that a run was not empty.

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one sequencer, all since it was made.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Names and values, in the order of the fields.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

stats! {
    /// Requests completed without error.
    completed,
    /// Requests completed with an error.
    failed,
    /// Versions issued.
    writes,
    /// READ frames sent.
    reads,
    /// Reads asked of another copy because of silence.
    hedges,
    /// Answers whose data did not match a checksum.
    csum_errors,
    /// Members that answered a read with EIO or BAD_CHECKSUM.
    read_errors,
    /// Writes sent again with the same version after an epoch change.
    resends,
    /// Frames sent through another member.
    relays,
    /// Reports made.
    reports,
    /// NACK_EPOCH received.
    nack_epoch,
    /// NACK_GEN received.
    nack_gen,
    /// RETRY received.
    retries,
    /// NEED_TICKET received.
    need_ticket,
    /// SEAL replies of a PG discarded because of their epoch (A3).
    seals_discarded,
    /// Blocks rolled forward.
    rolls,
    /// Blocks rolled forward as BAD.
    rolls_bad,
    /// Blocks left as they are on disk because no device could read them during the attach.
    rolls_left,
    /// Writes that waited for credits.
    credit_waits,
    /// Writes that waited for the W3 window.
    window_waits,
    /// Writes that waited for `min_insync`.
    insync_waits,
    /// Requests that waited for an overlapping one (W1).
    lock_waits,
    /// Writes sent as OVERWRITE on a full drive.
    overwrites,
    /// Requests answered ENOSPC.
    no_space,
    /// READs sent to a parent's PG.
    parent_reads,
    /// Read-modify-writes of partial blocks.
    rmw,
    /// STABLE sent alone.
    stables,
    /// FREEZE acknowledged.
    freezes,
    /// Microseconds in which a write waited for `min_insync`, for credits, or for a member that had not answered for
    /// 250 ms.
    stall_us,
}
