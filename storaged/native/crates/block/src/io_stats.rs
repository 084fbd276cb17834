//! What a volume's consumer sees of it: requests, bytes, errors and latency.
//!
//! Plain numbers of the block thread: a request costs two additions when it comes, a search among
//! 17 bounds and some additions when it is answered, and the clock is the turn's.

use drystone_types::Latency;

/// Requests as they are told apart. Writing zeros is a trim: neither carries data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoKind {
    /// Data out.
    Read,
    /// Data in.
    Write,
    /// Barrier.
    Flush,
    /// Range that shall read as zeros.
    Trim,
    /// Question where data is.
    Status,
}

/// A request under way, as far as it is counted; kept with its tag.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    kind: IoKind,
    bytes: u32,
    at_us: u64,
}

/// Ended requests of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpStats {
    /// Ended well.
    pub completed: u64,
    /// Ended with an error.
    pub failed: u64,
    /// Bytes of those that ended well; 0 for kinds without a range.
    pub bytes: u64,
}

/// Counters of one attachment, all since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoStats {
    /// Taken from the consumer and not answered.
    pub in_flight: u64,
    /// Reads.
    pub read: OpStats,
    /// Writes.
    pub write: OpStats,
    /// Flushes.
    pub flush: OpStats,
    /// Trims and written zeros.
    pub trim: OpStats,
    /// Questions where data is.
    pub status: OpStats,
    /// Time from the request to its answer of reads that ended well: a fenced volume answers errors at once, and that
    /// is not its speed.
    pub read_latency: Latency,
    /// The same of writes.
    pub write_latency: Latency,
}

impl IoStats {
    /// A request came.
    pub fn begin(&mut self, now_us: u64, kind: IoKind, bytes: u32) -> Started {
        self.in_flight += 1;
        Started { kind, bytes, at_us: now_us }
    }

    /// It is answered.
    pub fn end(&mut self, now_us: u64, started: Started, ok: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let (op, latency) = match started.kind {
            IoKind::Read => (&mut self.read, Some(&mut self.read_latency)),
            IoKind::Write => (&mut self.write, Some(&mut self.write_latency)),
            IoKind::Flush => (&mut self.flush, None),
            IoKind::Trim => (&mut self.trim, None),
            IoKind::Status => (&mut self.status, None),
        };
        if !ok {
            op.failed += 1;
            return;
        }
        op.completed += 1;
        op.bytes += u64::from(started.bytes);
        if let Some(latency) = latency {
            latency.add(now_us.saturating_sub(started.at_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_types::LATENCY_BOUNDS_US;

    fn ended(stats: &mut IoStats, kind: IoKind, bytes: u32, took_us: u64, ok: bool) {
        let started = stats.begin(1_000, kind, bytes);
        stats.end(1_000 + took_us, started, ok);
    }

    #[test]
    fn a_read_counts_itself_its_bytes_and_its_time() {
        let mut stats = IoStats::default();
        ended(&mut stats, IoKind::Read, 4096, 120, true);
        assert_eq!(stats.read, OpStats { completed: 1, failed: 0, bytes: 4096 });
        assert_eq!((stats.read_latency.count(), stats.read_latency.sum_us()), (1, 120));
        assert_eq!(stats.write_latency, Latency::default());
        assert_eq!(stats.write, OpStats::default());
    }

    #[test]
    fn a_failed_write_is_an_error_and_neither_bytes_nor_speed() {
        let mut stats = IoStats::default();
        ended(&mut stats, IoKind::Write, 512, 3, false);
        assert_eq!(stats.write, OpStats { completed: 0, failed: 1, bytes: 0 });
        assert_eq!(stats.write_latency, Latency::default());
        assert_eq!(stats.in_flight, 0);
    }

    #[test]
    fn trims_flushes_and_questions_have_no_histogram() {
        let mut stats = IoStats::default();
        ended(&mut stats, IoKind::Trim, u32::MAX, 7, true);
        ended(&mut stats, IoKind::Flush, 0, 7, true);
        ended(&mut stats, IoKind::Status, 0, 7, true);
        assert_eq!(stats.trim, OpStats { completed: 1, failed: 0, bytes: u64::from(u32::MAX) });
        assert_eq!((stats.flush.completed, stats.flush.bytes, stats.status.completed), (1, 0, 1));
        assert_eq!((stats.read_latency.count(), stats.write_latency.count()), (0, 0));
    }

    #[test]
    fn requests_in_flight_return_to_none() {
        let mut stats = IoStats::default();
        let open: Vec<Started> = (0..3).map(|n| stats.begin(n, IoKind::Write, 512)).collect();
        assert_eq!(stats.in_flight, 3);
        for (n, started) in open.into_iter().enumerate() {
            stats.end(10, started, n > 0);
        }
        assert_eq!((stats.in_flight, stats.write.completed, stats.write.failed), (0, 2, 1));
    }

    #[test]
    fn buckets_hold_what_took_at_most_their_bound_and_the_slowest_is_only_in_the_count() {
        let mut latency = Latency::default();
        for us in [0, 50, 51, 10_000_000, 10_000_001] {
            latency.add(us);
        }
        let found: Vec<(u64, u64)> = latency.cumulative().collect();
        assert_eq!(found.len(), LATENCY_BOUNDS_US.len());
        assert_eq!(found[..2], [(50, 2), (100, 3)]);
        assert_eq!(found[15..], [(5_000_000, 3), (10_000_000, 4)]);
        assert_eq!((latency.count(), latency.sum_us()), (5, 20_000_102));
    }

    #[test]
    fn bounds_rise_and_every_one_of_them_is_its_own_bucket() {
        for (n, bound) in LATENCY_BOUNDS_US.into_iter().enumerate() {
            let mut latency = Latency::default();
            latency.add(bound);
            assert_eq!(latency.cumulative().take_while(|(_, sum)| *sum == 0).count(), n);
        }
    }
}
