//! How fast the device answers: histograms since the open, and the 99th percentile of the last seconds, by which a slow
//! drive is told from its peers. Plain numbers of the drive's thread: an operation costs two searches of a bin; the
//! clock is that of the turn.

use drystone_types::consts::Micros;
use drystone_types::Latency;

use super::onset::Onset;

/// Length of a slot of the window, and how many there are: 5 s, the period of a server's status.
const SLOT: Micros = 1_000_000;
const SLOTS: usize = 5;
/// Length of the window.
pub const WINDOW: Micros = SLOT * SLOTS as u64;
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
    /// Worst of the 99th percentiles of reads, writes and flushes that ended in the last 5 s, or since the device became
    /// slow by any measure ([`Onset`]) where that is less long ago; 0 = none did.
    pub p99_us: u64,
    /// Operations that ended in the last 5 s.
    pub ops: u64,
    /// The device was slow by any measure in the last 5 s.
    pub slow: bool,
    /// Operations running now.
    pub queue_depth: u64,
    /// Reads since the open.
    pub read: Latency,
    /// Writes since the open.
    pub write: Latency,
    /// Flushes since the open.
    pub flush: Latency,
}

/// How many operations took how long.
#[derive(Clone)]
pub struct Bins([u32; BINS]);

impl Default for Bins {
    fn default() -> Self {
        Bins([0; BINS])
    }
}

impl Bins {
    pub fn add(&mut self, us: u64) {
        if let Some(count) = self.0.get_mut(bin_of(us)) {
            *count = count.saturating_add(1);
        }
    }
    pub fn count(&self, bin: usize) -> u64 {
        self.0.get(bin).map_or(0, |n| u64::from(*n))
    }
}

/// Samples, and the time that 99 of 100 of them did not exceed.
pub fn percentile(count_of: impl Fn(usize) -> u64) -> (u64, u64) {
    let all: u64 = (0..BINS).map(&count_of).sum();
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

/// The last seconds of one kind.
#[derive(Clone, Default)]
struct Window {
    slots: [Bins; SLOTS],
    /// Number of the newest slot's second.
    second: u64,
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
                *slot = Bins::default();
            }
        }
        self.second = self.second.max(second);
    }
    fn add(&mut self, now: Micros, us: u64) {
        self.turn(now);
        if let Some(slot) = self.slots.get_mut((self.second % SLOTS as u64) as usize) {
            slot.add(us);
        }
    }
    /// Samples, and the time that 99 of 100 of them did not exceed.
    fn p99(&mut self, now: Micros) -> (u64, u64) {
        self.turn(now);
        percentile(|bin| self.slots.iter().map(|s| s.count(bin)).sum())
    }
}

/// Counts the operations of one device.
#[derive(Clone, Default)]
pub struct Meter {
    read: Latency,
    write: Latency,
    flush: Latency,
    windows: [Window; 3],
    onsets: [Onset; 3],
    /// When the device was slow by any measure, the last time.
    slow_at: Option<Micros>,
    /// When that was news. One that pauses again and again is judged by all that it does.
    news_at: Option<Micros>,
}

impl Meter {
    /// An operation ended; gives whether the device has just become slow: once, until it was not for a whole window.
    pub fn ended(&mut self, now: Micros, kind: OpKind, us: u64) -> bool {
        let (latency, n) = match kind {
            OpKind::Read => (&mut self.read, 0),
            OpKind::Write => (&mut self.write, 1),
            OpKind::Flush => (&mut self.flush, 2),
            OpKind::Discard => return false,
        };
        latency.add(us);
        if let Some(window) = self.windows.get_mut(n) {
            window.add(now, us);
        }
        let slow = self.onsets.get_mut(n).is_some_and(|o| o.ended(now, us));
        let news = slow && !self.was_slow(now);
        if slow {
            self.slow_at = Some(now);
        }
        if news {
            self.news_at = Some(now);
        }
        news
    }
    fn was_slow(&self, now: Micros) -> bool {
        self.slow_at.is_some_and(|at| now.saturating_sub(at) < WINDOW)
    }
    /// Figures of now.
    pub fn stats(&mut self, now: Micros, queue_depth: usize) -> DeviceStats {
        let (mut ops, mut p99_us) = (0, 0);
        for (window, onset) in self.windows.iter_mut().zip(&self.onsets) {
            let (n, p99) = window.p99(now);
            ops += n;
            let since =
                if self.news_at.is_some_and(|at| now.saturating_sub(at) < WINDOW) { onset.p99(now) } else { None };
            p99_us = p99_us.max(since.unwrap_or(p99));
        }
        let (read, write, flush) = (self.read, self.write, self.flush);
        DeviceStats { p99_us, ops, slow: self.was_slow(now), queue_depth: queue_depth as u64, read, write, flush }
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

    /// One operation after the other for so long; gives when it was news that the device is slow.
    fn work(meter: &mut Meter, from: Micros, lasts: Micros, us: u64) -> Vec<Micros> {
        let ends = (from + us..=from + lasts).step_by(us as usize);
        ends.filter(|at| meter.ended(*at, OpKind::Write, us)).collect()
    }

    #[test]
    fn a_busy_device_that_becomes_slow_is_news_within_a_second_and_the_percentile_shows_it() {
        let mut meter = Meter::default();
        assert!(work(&mut meter, 0, 10_000_000, 200).is_empty());
        let before = meter.stats(10_000_000, 0);
        assert!(before.p99_us < 300 && !before.slow, "{before:?}");
        let news = work(&mut meter, 10_000_000, 1_000_000, 200_000);
        assert_eq!(news, [11_000_000]);
        // Five operations of more than 15 000: by all of them no percentile would show it for seconds.
        let now = meter.stats(11_000_000, 1);
        assert!(now.p99_us >= 200_000 && now.slow, "{now:?}");
        assert!(now.ops > 15_000, "of the whole window: {}", now.ops);
    }

    #[test]
    fn a_device_that_stays_slow_is_news_once_and_again_after_a_window_in_which_it_was_not() {
        let mut meter = Meter::default();
        assert_eq!(work(&mut meter, 0, 600_000_000, 50_000).len(), 1);
        assert!(meter.stats(600_000_000, 0).p99_us >= 50_000);
        assert!(work(&mut meter, 600_000_000, WINDOW - SLOT, 200).is_empty());
        assert!(work(&mut meter, 604_000_000, 2_000_000, 50_000).is_empty(), "it goes on");
        assert!(work(&mut meter, 606_000_000, WINDOW, 200).is_empty());
        assert!(!meter.stats(606_000_000 + WINDOW, 0).slow);
        assert_eq!(work(&mut meter, 606_000_000 + WINDOW, 20_000_000, 50_000).len(), 1);
    }

    #[test]
    fn a_device_that_pauses_each_window_is_judged_by_all_it_does() {
        let mut meter = Meter::default();
        let mut slow = Vec::new();
        for n in 0..10 {
            let from = n * WINDOW;
            work(&mut meter, from, 700_000, 25_000);
            slow.push(meter.stats(from + 700_000, 0).p99_us >= 20_000);
            work(&mut meter, from + 700_000, WINDOW - 700_000, 200);
        }
        assert_eq!(slow.iter().filter(|s| **s).count(), 1, "{slow:?}: the first, which was news");
    }

    #[test]
    fn a_device_that_is_slow_now_and_then_is_news_at_most_once_in_a_window() {
        let mut meter = Meter::default();
        let mut news = Vec::new();
        for second in (0..120u64).step_by(2) {
            news.extend(work(&mut meter, second * SLOT, SLOT, 30_000));
            news.extend(work(&mut meter, (second + 1) * SLOT, SLOT, 200));
        }
        assert_eq!(news.len(), 1, "it was never well for a whole window");
        assert!(!meter.ended(300 * SLOT, OpKind::Discard, 900_000), "nobody waits for it");
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
