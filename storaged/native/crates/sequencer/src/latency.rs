//! When silence of a read is unusual: an estimate of the 99th percentile of READ answers.

use drystone_types::consts::{Micros, STALL};

/// No hedge before this: below it a second read costs more than it saves.
const HEDGE_MIN: Micros = 5_000;

/// A quantile tracker: each sample moves the estimate up by 99 steps or down by 1, a step
/// being a fixed part of the estimate, so it settles where 1 % of the samples lie above.
#[derive(Debug)]
pub(crate) struct Latency {
    p99_ns: u64,
}

impl Latency {
    pub(crate) fn new() -> Self {
        Latency { p99_ns: 2_500_000 }
    }

    pub(crate) fn sample(&mut self, took: Micros) {
        let step = self.p99_ns / 1024 + 1;
        if took.saturating_mul(1000) > self.p99_ns {
            self.p99_ns = (self.p99_ns + step * 99).min(STALL * 1000);
        } else {
            self.p99_ns = self.p99_ns.saturating_sub(step).max(1000);
        }
    }

    /// 2 × p99, at least 5 ms, at most the stall.
    pub(crate) fn hedge(&self) -> Micros {
        (2 * self.p99_ns / 1000).clamp(HEDGE_MIN, STALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hedge_follows_slow_answers_and_never_falls_below_five_ms() {
        let mut l = Latency::new();
        for i in 0..20_000u64 {
            l.sample(if i % 50 == 0 { 40_000 } else { 200 });
        }
        assert!(l.hedge() > 30_000, "{}", l.hedge());
        for _ in 0..200_000 {
            l.sample(100);
        }
        assert_eq!(l.hedge(), HEDGE_MIN);
    }
}
