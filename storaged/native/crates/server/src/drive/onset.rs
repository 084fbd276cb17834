//! Notices that a device has become slow by any measure, so that this is told at once and not with the next status.
//!
//! Whether a drive is too slow is for the manager to say, which compares it with others. This only makes the first report
//! of it early.

use drystone_types::consts::Micros;

use super::meter::{percentile, Bins, WINDOW};

/// No device that is well takes so long for most of what it does one at a time: a seek and a turn of a disk are 15 ms, a
/// flush of a cheap SSD less. A disk at which many wait does: then a status goes early, and the manager's comparison
/// finds nothing. And ten times the least that the manager calls slow (`SLOW_FACTOR` × `MEDIAN_FLOOR_US` of
/// `manager/slow.py`, 2 ms), so that it says nothing of noise.
pub const SLOW: Micros = 20_000;
/// So many more slow operations than others: what the manager needs at least to judge a report (its `OPS_MIN`).
const OPS: u32 = 5;
/// They end over so long: what waits behind one pause of the device ends together.
const SPAN: Micros = 500_000;
/// After so long without a slow operation the ones before say nothing: the device had nothing to do, or each takes
/// longer than this, which is a hang and is found by its age.
const GAP: Micros = 1_000_000;

/// Operations of one kind since most of them are slow.
#[derive(Clone, Default)]
pub struct Onset {
    /// Slow operations more than others, up to [`OPS`]: as many that are well end it.
    ahead: u32,
    /// End of the first and of the last slow one.
    began: Micros,
    last: Micros,
    /// Enough were slow for long enough.
    sure: bool,
    times: Bins,
}

impl Onset {
    /// An operation ended; gives whether the device is slow now.
    pub fn ended(&mut self, now: Micros, us: u64) -> bool {
        if us < SLOW {
            self.well(us);
            return false;
        }
        if self.ahead == 0 || now.saturating_sub(self.last) > GAP {
            *self = Onset { began: now, ..Onset::default() };
        }
        self.last = now;
        self.ahead = (self.ahead + 1).min(OPS);
        self.times.add(us);
        self.sure |= self.ahead == OPS && now.saturating_sub(self.began) >= SPAN;
        self.sure
    }

    fn well(&mut self, us: u64) {
        self.ahead = self.ahead.saturating_sub(1);
        if self.ahead > 0 {
            self.times.add(us);
        } else {
            self.sure = false;
        }
    }

    /// The 99th percentile since the device is slow, where that is sooner than the window's begin: what was fast before
    /// says nothing about it any more.
    pub fn p99(&self, now: Micros) -> Option<u64> {
        let young = now.saturating_sub(self.began) < WINDOW;
        (self.sure && young).then(|| percentile(|bin| self.times.count(bin)).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operations one after the other from a time on; gives when it was known that the device is slow.
    fn run(onset: &mut Onset, from: Micros, times: impl IntoIterator<Item = u64>) -> Option<Micros> {
        let mut now = from;
        let mut known = None;
        for us in times {
            now += us;
            if onset.ended(now, us) {
                known = known.or(Some(now - from));
            }
        }
        known
    }

    #[test]
    fn a_device_that_becomes_slow_is_known_within_a_second_or_five_operations() {
        for us in [SLOW, 50_000, 100_000, 200_000, 900_000] {
            let mut onset = Onset::default();
            assert_eq!(run(&mut onset, 0, vec![300; 10_000]), None);
            let known = run(&mut onset, 3_000_000, vec![us; 60]).unwrap();
            assert!(known <= (SPAN + 2 * us).max(5 * us), "{us}: {known}");
            assert!(onset.p99(3_000_000 + known).unwrap() >= us);
        }
    }

    #[test]
    fn a_few_that_are_well_do_not_hide_it() {
        let mut onset = Onset::default();
        let mixed = (0..60).map(|n| if n % 5 == 4 { 100 } else { 100_000 });
        assert!(run(&mut onset, 0, mixed).unwrap() <= 1_000_000);
    }

    #[test]
    fn what_is_faster_is_never_slow() {
        let mut onset = Onset::default();
        assert_eq!(run(&mut onset, 0, vec![SLOW - 1; 10_000]), None);
        let third = (0..10_000).map(|n| if n % 3 == 0 { 500_000 } else { 100 });
        assert_eq!(run(&mut onset, 0, third), None);
        assert_eq!(onset.p99(0), None);
    }

    #[test]
    fn what_waited_for_one_pause_of_the_device_is_not_a_slow_device() {
        let mut onset = Onset::default();
        for pause in 0..20u64 {
            let now = pause * 800_000;
            assert!((0..64).all(|n| !onset.ended(now + n, 90_000)), "{pause}");
            assert_eq!(run(&mut onset, now + 100, vec![200; 100]), None);
        }
    }

    #[test]
    fn single_slow_ones_far_apart_are_not_enough() {
        let mut onset = Onset::default();
        assert!((1..100u64).all(|n| !onset.ended(n * (GAP + 1), 30_000)));
    }

    #[test]
    fn a_device_that_is_well_again_is_so_after_as_few_operations() {
        let mut onset = Onset::default();
        assert!(run(&mut onset, 0, vec![100_000; 30]).is_some());
        assert!(onset.p99(3_000_000).is_some());
        assert_eq!(run(&mut onset, 3_000_000, vec![100; 5]), None);
        assert_eq!(onset.p99(3_000_600), None);
    }

    #[test]
    fn after_the_window_it_is_the_window_that_says_it() {
        let mut onset = Onset::default();
        run(&mut onset, 0, vec![100_000; 60]);
        assert!(onset.p99(100_000 + WINDOW - 1).is_some());
        assert_eq!(onset.p99(100_000 + WINDOW), None);
    }
}
