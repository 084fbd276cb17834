//! How long to look for work before sleeping: as long as that has paid of late.
//!
//! A sleeping virtual CPU costs about 30 µs to wake, which at queue depth 1 is most of a request.
//! So a thread whose next event tends to come soon looks for it, and lets every other runnable
//! thread of the CPU go first; one whose events come far apart sleeps at once.

/// The first window after sleeps that were short enough to be worth it, in microseconds.
const FIRST_US: u64 = 20;

/// The window, learned from how long sleeps lasted. Pure: the times come from outside.
#[derive(Debug)]
pub(crate) struct Spin {
    max_us: u64,
    window_us: u64,
}

impl Spin {
    /// Never longer than `max_us`; 0 never spins.
    pub fn new(max_us: u32) -> Spin {
        Spin { max_us: u64::from(max_us), window_us: 0 }
    }
    /// Microseconds to look for work now.
    pub fn window_us(&self) -> u64 {
        self.window_us
    }
    /// A sleep ended by itself after `slept_us`, in which an event (not a timer) was waited for.
    pub fn slept(&mut self, slept_us: u64) {
        if slept_us > self.max_us {
            // Halved, not dropped: one pause in a burst does not end the burst's speed.
            self.window_us = if self.window_us <= FIRST_US { 0 } else { self.window_us / 2 };
        } else {
            self.window_us = (self.window_us * 2).max(FIRST_US).min(self.max_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_while_sleeps_are_short_and_ends_when_they_are_long() {
        let mut spin = Spin::new(100);
        assert_eq!(spin.window_us(), 0);
        for _ in 0..5 {
            spin.slept(60);
        }
        assert_eq!(spin.window_us(), 100);
        for _ in 0..5 {
            spin.slept(100_000);
        }
        assert_eq!(spin.window_us(), 0);
    }

    #[test]
    fn a_limit_of_zero_never_spins() {
        let mut spin = Spin::new(0);
        for slept in [0, 1, 50, 1_000_000] {
            spin.slept(slept);
            assert_eq!(spin.window_us(), 0);
        }
    }
}
