//! How a copy yields to clients: a few requests, and then a rest that is longer the longer they took.
//!
//! What a request takes grows with everything that clients wait for too: the queue of the device, the source's, the
//! network's and the processors'. So the rest follows the load of all of them, without a limit that would have to be
//! right for every machine.

use drystone_types::consts::Micros;

use crate::limits::{RESYNC_BUSY, RESYNC_REST, RESYNC_REST_MAX};

/// Bursts of requests of one joiner.
#[derive(Default)]
pub(crate) struct Pace {
    /// Requests of this burst, and when its first one began.
    started: usize,
    began: Micros,
    rest_until: Micros,
}

impl Pace {
    /// Whether one more may begin.
    pub(crate) fn may_start(&self, now: Micros) -> bool {
        self.started < RESYNC_BUSY && now >= self.rest_until
    }

    /// One began.
    pub(crate) fn start(&mut self, now: Micros) {
        if self.started == 0 {
            self.began = now;
        }
        self.started += 1;
    }

    /// Nothing of a copy is under way; gives the end of the rest if that ended a burst.
    pub(crate) fn quiet(&mut self, now: Micros) -> Option<Micros> {
        if self.started == 0 {
            return None;
        }
        self.started = 0;
        let took = now.saturating_sub(self.began);
        self.rest_until = now + took.saturating_mul(RESYNC_REST).min(RESYNC_REST_MAX);
        Some(self.rest_until)
    }

    /// There are no clients: what was asked for counts for nothing.
    pub(crate) fn free(&mut self) {
        *self = Pace::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_few_requests_a_copy_rests_three_times_as_long_as_they_took() {
        let mut pace = Pace::default();
        for _ in 0..RESYNC_BUSY {
            assert!(pace.may_start(1000));
            pace.start(1000);
        }
        assert!(!pace.may_start(1500), "the others have not ended");
        assert_eq!(pace.quiet(5000), Some(5000 + 3 * 4000));
        assert_eq!(pace.quiet(6000), None, "one end for one burst");
        assert!(!pace.may_start(16_999));
        assert!(pace.may_start(17_000));
    }

    #[test]
    fn the_rest_is_bounded_so_that_a_copy_ends_where_everything_is_slow() {
        let mut pace = Pace::default();
        pace.start(0);
        assert_eq!(pace.quiet(2_000_000), Some(2_000_000 + RESYNC_REST_MAX));
    }

    #[test]
    fn without_clients_nothing_is_held_back() {
        let mut pace = Pace::default();
        pace.start(0);
        pace.quiet(50_000);
        assert!(!pace.may_start(60_000));
        pace.free();
        assert!(pace.may_start(60_000));
        assert_eq!(pace.quiet(60_000), None);
    }
}
