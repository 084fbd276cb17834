//! Timers: a heap of deadlines; cancelled ones are dropped when they surface.

use crate::op::UserToken;
use crate::slab::Slab;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Names one timer until it has fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(u64);

pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    live: Slab<UserToken>,
}

impl Timers {
    pub fn new() -> Timers {
        Timers { heap: BinaryHeap::new(), live: Slab::new() }
    }
    pub fn add(&mut self, deadline_us: u64, token: UserToken) -> TimerId {
        let key = self.live.insert(token);
        self.heap.push(Reverse((deadline_us, key)));
        TimerId(key)
    }
    /// Says whether the timer was still to fire.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        let was_live = self.live.remove(id.0).is_some();
        // A heap of mostly dead entries (a timeout per request, cancelled by its answer) is
        // rebuilt, so it stays proportional to the live timers.
        if self.heap.len() > 64 && self.heap.len() / 4 > self.live.len() {
            let live = &self.live;
            self.heap.retain(|Reverse((_, key))| live.get(*key).is_some());
        }
        was_live
    }
    /// The next timer due at `now_us`.
    pub fn pop(&mut self, now_us: u64) -> Option<(TimerId, UserToken)> {
        while self.next_deadline()? <= now_us {
            let Reverse((_, key)) = self.heap.pop()?;
            if let Some(token) = self.live.remove(key) {
                return Some((TimerId(key), token));
            }
        }
        None
    }
    /// When the next live timer is due.
    pub fn next_deadline(&mut self) -> Option<u64> {
        while let Some(Reverse((deadline, key))) = self.heap.peek() {
            if self.live.get(*key).is_some() {
                return Some(*deadline);
            }
            self.heap.pop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_of_their_deadline_and_cancelled_ones_never() {
        let mut timers = Timers::new();
        let token = |id| UserToken::new(1, id);
        timers.add(30, token(3));
        let dead = timers.add(10, token(1));
        timers.add(20, token(2));
        assert!(timers.cancel(dead));
        assert!(!timers.cancel(dead));
        assert_eq!(timers.next_deadline(), Some(20));
        assert_eq!(timers.pop(15), None);
        assert_eq!(timers.pop(35).map(|t| t.1.id), Some(2));
        assert_eq!(timers.pop(35).map(|t| t.1.id), Some(3));
        assert_eq!(timers.pop(99), None);
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn cancelled_timers_do_not_pile_up() {
        let mut timers = Timers::new();
        for i in 0..10_000 {
            let id = timers.add(1_000_000 + i, UserToken::new(0, i));
            timers.cancel(id);
        }
        assert!(timers.heap.len() <= 65);
    }
}
