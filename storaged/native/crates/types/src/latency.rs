//! Histograms of latencies with the bounds of every latency of Drystone's metrics. Plain numbers of one thread: a sample
//! costs a search among 17 bounds and three additions.

/// Upper bounds of the buckets: from the best a loopback round trip can do to the time after which a guest complains.
pub const LATENCY_BOUNDS_US: [u64; 17] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000,
];

/// Times of one kind of operation since the histogram was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    /// One bin per bound.
    bins: [u64; LATENCY_BOUNDS_US.len()],
    count: u64,
    sum_us: u64,
}

impl Latency {
    /// Takes a sample.
    pub fn add(&mut self, us: u64) {
        let bin = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        // Slower than the last bound: only the count knows it.
        if let Some(bin) = self.bins.get_mut(bin) {
            *bin += 1;
        }
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Each bound in microseconds with the samples that took at most that long.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let sums = self.bins.iter().scan(0, |sum, bin| {
            *sum += bin;
            Some(*sum)
        });
        LATENCY_BOUNDS_US.into_iter().zip(sums)
    }

    /// All samples, those slower than the last bound too.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of their times.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }
}
