//! Faults of many links at once: a network split in two, and links that become thin.

use crate::world::{Place, Time, World};

/// A link that carries little.
#[derive(Clone, Copy, Debug)]
pub struct Clog {
    /// Bytes in a millisecond.
    rate: u64,
    /// Until when.
    until: Time,
    /// When what was sent so far is through.
    free_at: Time,
}

impl World {
    fn places(&self) -> Vec<Place> {
        let nodes = (0..self.nodes.len()).map(Place::Node);
        let clients = (0..self.clients.len()).filter(|c| self.clients[*c].alive).map(Place::Client);
        nodes.chain(clients).chain((0..self.managers.len()).map(Place::Manager)).chain([Place::Store]).collect()
    }

    /// Fault: two groups of machines do not hear each other.
    pub fn partition(&mut self) -> bool {
        if self.guest_stopped() {
            return false;
        }
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for place in self.places() {
            if self.rng.chance(500) {
                one.push(place);
            } else {
                other.push(place);
            }
        }
        let until = self.now + self.rng.range(200_000, 8_000_000);
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            self.cuts.insert((a, b), until);
            self.cuts.insert((b, a), until);
            self.break_cut_conns(a, b);
        }
        !one.is_empty() && !other.is_empty()
    }

    /// Fault: the links of a machine carry little for a while.
    pub fn clog(&mut self) -> bool {
        let places = self.places();
        let Some(thin) = self.rng.pick(&places).copied() else { return false };
        // From a bad radio link to a tenth of what a drive writes.
        let (rate, until) = (self.rng.range(100, 20_000), self.now + self.rng.range(500_000, 6_000_000));
        let clog = Clog { rate, until, free_at: self.now };
        for place in places.into_iter().filter(|p| *p != thin) {
            self.clogs.insert((place, thin), clog);
            self.clogs.insert((thin, place), clog);
        }
        true
    }

    /// When a frame that would arrive at a time is through a link.
    pub fn through(&mut self, link: (Place, Place), bytes: u64, at: Time) -> Time {
        let now = self.now;
        let Some(clog) = self.clogs.get_mut(&link).filter(|c| c.until > now) else { return at };
        clog.free_at = clog.free_at.max(at) + bytes * 1_000 / clog.rate.max(1);
        self.counts.hit("net.clogged");
        clog.free_at
    }
}
