//! How long requests of clients waited: what a fault costs who uses a volume.

use std::collections::BTreeMap;

use crate::register::OpId;
use crate::world::Time;

/// The longest a request may wait for one lost node (engine §4.8), for 999 of 1000.
pub const WAIT_MAX: Time = 5_000_000;

/// Open requests and the longest wait.
#[derive(Debug, Default)]
pub struct Gaps {
    open: BTreeMap<OpId, (usize, Time)>,
    /// Longest wait of a request since the last `restart`, one still open counted as far as it is.
    worst: Time,
    /// Requests that ended well, and how many of them waited longer than `WAIT_MAX`.
    pub ended: (u64, u64),
}

impl Gaps {
    /// A request is given to a client.
    pub fn issued(&mut self, op: OpId, client: usize, now: Time) {
        self.open.insert(op, (client, now));
    }
    /// It was answered.
    pub fn ended(&mut self, op: OpId, now: Time, well: bool) {
        let Some((_, since)) = self.open.remove(&op) else { return };
        let wait = now - since;
        self.worst = self.worst.max(wait);
        if well {
            self.ended = (self.ended.0 + 1, self.ended.1 + u64::from(wait > WAIT_MAX));
        }
    }
    /// A client died: nobody waits for its requests any more.
    pub fn client_gone(&mut self, client: usize) {
        self.open.retain(|_, (c, _)| *c != client);
    }
    /// Looks only at what ends from now on.
    pub fn restart(&mut self) {
        self.worst = 0;
    }
    /// Longest wait of one client's requests.
    pub fn worst(&self, client: usize, now: Time) -> Time {
        let waits = self.open.values().filter(|(c, _)| *c == client).map(|(_, since)| now - since);
        waits.max().unwrap_or(0).max(self.worst)
    }
}
