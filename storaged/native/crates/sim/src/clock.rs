//! The clock of each machine: it runs a little fast or slow, and a guest's stands still with the guest.

use drystone_membership::beacon::Event as BeaconEvent;

use crate::event::Proc;
use crate::world::{Place, Time, World};

/// Microseconds of a million.
const MILLION: u128 = 1_000_000;

/// How long a guest stood still.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stops {
    /// Before the last time.
    lost: Time,
    /// The last time, by the world's clock.
    last: (Time, Time),
}

impl Stops {
    /// World time at which the guest ran.
    fn running(&self, at: Time) -> Time {
        let (from, until) = self.last;
        at - self.lost - (at.clamp(from, until) - from)
    }
    /// The inverse: the last moment at which it had run for so long.
    fn world(&self, running: Time) -> Time {
        let (from, until) = self.last;
        let at = running + self.lost;
        at + if at > from { until - from } else { 0 }
    }
}

impl World {
    /// Clocks run by so many millionths too fast (above a million) or too slow.
    fn rate(&self, place: Place) -> u128 {
        let number = match place {
            Place::Node(n) => 1 + n as u64,
            Place::Manager(m) => 500 + m as u64,
            Place::Client(c) => 1_000 + c as u64,
            Place::Store => return MILLION,
        };
        let mixed = (self.seed ^ number << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        MILLION - u128::from(self.plan.drift) + u128::from(mixed % (2 * self.plan.drift + 1))
    }

    /// What a machine's clock shows.
    pub fn local(&self, place: Place) -> Time {
        self.local_at(place, self.now)
    }

    fn local_at(&self, place: Place, at: Time) -> Time {
        let running = self.stops.get(&place).map_or(at, |s| s.running(at));
        (u128::from(running) * self.rate(place) / MILLION) as Time
    }

    /// When a machine's clock shows this.
    pub fn global(&self, place: Place, local: Time) -> Time {
        if local == Time::MAX {
            return local;
        }
        let running = (u128::from(local) * MILLION).div_ceil(self.rate(place)) as Time;
        self.stops.get(&place).map_or(running, |s| s.world(running))
    }

    /// A node is a guest that is not run for a while; its clock does not know.
    pub fn stop_clock(&mut self, n: usize, time: Time) {
        let (now, place) = (self.now, Place::Node(n));
        let old = self.stops.get(&place).copied().unwrap_or_default();
        let lost = now - old.running(now);
        self.stops.insert(place, Stops { lost, last: (now, now + time) });
        for proc in [Proc::Server(n), Proc::Beacon(n)] {
            self.frozen.insert(proc, now + time);
        }
        self.counts.hit("clock.stopped");
    }

    /// Whether a guest went on just now: what waited in its sockets while it was not run is taken in order, a request
    /// before the heartbeat that shows the pause.
    pub fn wakes_now(&self, n: usize) -> bool {
        self.stops.get(&Place::Node(n)).is_some_and(|s| s.last.1 == self.now)
    }

    /// Fault: a guest stands still with its clock. Its peers' heartbeats wait for it: one that hears none of them when
    /// it goes on cannot know (see limitations).
    pub fn stop_guest(&mut self, n: usize) -> bool {
        let now = self.now;
        let free = |p: Proc| self.frozen.get(&p).is_none_or(|t| *t <= now);
        let calm = free(Proc::Server(n)) && free(Proc::Beacon(n)) && !self.cuts.values().any(|t| *t > now);
        let again = self.stops.get(&Place::Node(n)).is_some_and(|s| s.last.1 >= now);
        if !calm || again || !self.nodes[n].up {
            return false;
        }
        let time = self.rng.range(200_000, 5_000_000);
        self.stop_clock(n, time);
        true
    }

    /// Whether some guest stands still, or did until lately.
    pub fn guest_stopped(&self) -> bool {
        const LATELY: Time = 2_000_000;
        self.stops.values().any(|s| s.last.1 + LATELY > self.now)
    }

    /// What a beacon just started is told first.
    pub fn first_voters(&self, n: usize) -> (Time, BeaconEvent) {
        (self.local(Place::Node(n)), self.voters_event())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_stood_still_goes_on_where_it_was() {
        let once = Stops { lost: 0, last: (100, 150) };
        assert_eq!([99, 100, 120, 150, 151].map(|t| once.running(t)), [99, 100, 100, 100, 101]);
        let twice = Stops { lost: 50, last: (300, 310) };
        assert_eq!([250, 305, 320].map(|t| twice.running(t)), [200, 250, 260]);
        for at in [160, 299, 311, 400] {
            assert_eq!(twice.world(twice.running(at)), at);
        }
    }
}
