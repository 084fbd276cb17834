//! How fast the device answers: histograms since the open, and the 99th percentile of the last seconds, by which a slow
//! drive is told from its peers. Plain numbers of the drive's thread: an operation costs two searches of a bin; the
//! clock is that of the turn.

use drystone_types::consts::Micros;
use drystone_types::Latency;

/// Length of a slot of the window, and how many there are: 5 s, the period of a server's status.
const SLOT: Micros = 1_000_000;
const SLOTS: usize = 5;
/// Four bins for each power of two up to 2^27 µs (134 s), so that a percentile is off by a quarter at most.
const BINS: usize = 27 * 4;

/// What an operation of the device was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpKind {
    /// Read.
    Read,
    /// Write, durable or not.
    Write,
    /// Flush.
    Flush,
    /// Space given back; not counted, nobody waits for it.
    Discard,
}

/// Figures of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Worst of the 99th percentiles of reads, writes and flushes that ended in the last 5 s; 0 = none did.
    pub p99_us: u64,
    /// Operations that ended in the last 5 s.
    pub ops: u64,
    /// Operations running now.
    pub queue_depth: u64,
    /// Reads since the open.
    pub read: Latency,
    /// Writes since the open.
    pub write: Latency,
    /// Flushes since the open.
    pub flush: Latency,
}

/// The last seconds of one kind.
#[derive(Clone)]
struct Window {
    slots: [[u32; BINS]; SLOTS],
    /// Number of the newest slot's second.
    second: u64,
}

impl Default for Window {
    fn default() -> Self {
        Window { slots: [[0; BINS]; SLOTS], second: 0 }
    }
}

fn bin_of(us: u64) -> usize {
    if us < 4 {
        return us as usize;
    }
    let octave = 63 - us.leading_zeros() as usize;
    let quarter = (us >> (octave - 2) & 3) as usize;
    ((octave - 1) * 4 + quarter).min(BINS - 1)
}

/// The largest time in a bin.
fn top_of(bin: usize) -> u64 {
    if bin < 4 {
        return bin as u64;
    }
    let (octave, quarter) = (bin / 4 + 1, (bin % 4) as u64);
    ((4 + quarter + 1) << (octave - 2)) - 1
}

impl Window {
    /// Empties the slots whose time is over.
    fn turn(&mut self, now: Micros) {
        let second = now / SLOT;
        let passed = second.saturating_sub(self.second).min(SLOTS as u64);
        for back in 0..passed {
            if let Some(slot) = self.slots.get_mut(((second - back) % SLOTS as u64) as usize) {
                *slot = [0; BINS];
            }
        }
        self.second = self.second.max(second);
    }
    fn add(&mut self, now: Micros, us: u64) {
        self.turn(now);
        let slot = self.slots.get_mut((self.second % SLOTS as u64) as usize);
        if let Some(count) = slot.and_then(|s| s.get_mut(bin_of(us))) {
            *count += 1;
        }
    }
    /// Samples, and the time that 99 of 100 of them did not exceed.
    fn p99(&mut self, now: Micros) -> (u64, u64) {
        self.turn(now);
        let count_of = |bin: usize| self.slots.iter().filter_map(|s| s.get(bin)).map(|n| u64::from(*n)).sum::<u64>();
        let all: u64 = (0..BINS).map(count_of).sum();
        let rank = (all * 99).div_ceil(100);
        let mut seen = 0;
        for bin in 0..BINS {
            seen += count_of(bin);
            if seen >= rank && seen > 0 {
                return (all, top_of(bin));
            }
        }
        (all, 0)
    }
}

/// Counts the operations of one device.
#[derive(Clone, Default)]
pub struct Meter {
    read: Latency,
    write: Latency,
    flush: Latency,
    windows: [Window; 3],
}

impl Meter {
    /// An operation ended.
    pub fn ended(&mut self, now: Micros, kind: OpKind, us: u64) {
        let (latency, n) = match kind {
            OpKind::Read => (&mut self.read, 0),
            OpKind::Write => (&mut self.write, 1),
            OpKind::Flush => (&mut self.flush, 2),
            OpKind::Discard => return,
        };
        latency.add(us);
        if let Some(window) = self.windows.get_mut(n) {
            window.add(now, us);
        }
    }
    /// Figures of now.
    pub fn stats(&mut self, now: Micros, queue_depth: usize) -> DeviceStats {
        let (mut ops, mut p99_us) = (0, 0);
        for (n, p99) in self.windows.iter_mut().map(|w| w.p99(now)) {
            ops += n;
            p99_us = p99_us.max(p99);
        }
        let (read, write, flush) = (self.read, self.write, self.flush);
        DeviceStats { p99_us, ops, queue_depth: queue_depth as u64, read, write, flush }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_the_bin_that_ends_at_most_a_quarter_above_it() {
        for us in (0..5_000u64).chain((13..27).flat_map(|o| [(1 << o) - 1, 1 << o, (1 << o) + 77])) {
            let top = top_of(bin_of(us));
            assert!(top >= us && top <= us + us / 4, "{us}: {top}");
        }
        assert_eq!(bin_of(u64::MAX), BINS - 1);
    }

    #[test]
    fn the_percentile_is_that_of_the_last_seconds_and_of_the_worst_kind() {
        let mut meter = Meter::default();
        for i in 0..1000u64 {
            meter.ended(10_000_000 + i, OpKind::Write, if i % 50 == 0 { 40_000 } else { 100 });
            meter.ended(10_000_000 + i, OpKind::Read, 80);
        }
        let now = meter.stats(10_500_000, 3);
        assert!((40_000..=50_000).contains(&now.p99_us), "{}", now.p99_us);
        assert_eq!((now.ops, now.queue_depth, now.write.count()), (2000, 3, 1000));
        meter.ended(13_000_000, OpKind::Read, 90);
        assert_eq!(meter.stats(14_900_000, 0).ops, 2001);
        let later = meter.stats(15_000_000, 0);
        assert!((90..=112).contains(&later.p99_us), "{}", later.p99_us);
        assert_eq!(later.ops, 1);
        assert_eq!(meter.stats(1_000_000_000, 0).ops, 0);
        assert_eq!(meter.stats(1_000_000_000, 0).p99_us, 0);
    }

    #[test]
    fn a_pause_longer_than_the_window_leaves_nothing_of_it() {
        let mut window = Window::default();
        for second in 0..SLOTS as u64 {
            window.add(second * SLOT, 100);
        }
        assert_eq!(window.p99(4 * SLOT).0, 5);
        for gap in 1..12 {
            let mut after = window.clone();
            assert_eq!(after.p99((4 + gap) * SLOT).0, 5u64.saturating_sub(gap));
        }
    }
}
