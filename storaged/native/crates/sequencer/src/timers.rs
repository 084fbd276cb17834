//! Deadlines. The two frequent ones (a write's stall, a read's hedge) are queues in order of
//! issue, so a request costs no heap operation; everything rare is in a heap.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use drystone_types::consts::Micros;

/// What a deadline is for. Each names the round of its operation: one that was answered, or
/// issued anew, leaves its old deadlines void.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// A write has members that did not answer.
    Write(u32, u32),
    /// Send a write to one member again.
    WriteAgain(u32, u32, u8),
    /// A read was not answered.
    Read(u32, u32),
    /// Ask for a read again.
    ReadAgain(u32, u32),
    /// A control request of a drive was not answered.
    Ctl(u16, u8, u32),
    /// Send a control request again.
    CtlAgain(u16, u8, u32),
    /// Poll the credits of a drive.
    Poll(u16),
    /// A roll whose holders failed is tried again.
    Roll(u32, u32),
    /// A5 again.
    Activate,
    /// The map asked for did not come.
    Map,
    /// End of the time to drain.
    Drain,
    /// Idle: STABLE alone.
    Stable,
    /// Credits unused for a while: they go back.
    Spare,
}

/// All deadlines of one sequencer.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    writes: VecDeque<(Micros, Timer)>,
    reads: VecDeque<(Micros, Timer)>,
    rare: BinaryHeap<Reverse<(Micros, u64, Timer)>>,
    order: u64,
}

impl Timers {
    pub(crate) fn write(&mut self, at: Micros, timer: Timer) {
        self.writes.push_back((at, timer));
    }

    /// The delay of a hedge varies a little; an entry behind a later one fires with that one.
    pub(crate) fn read(&mut self, at: Micros, timer: Timer) {
        self.reads.push_back((at, timer));
    }

    pub(crate) fn rare(&mut self, at: Micros, timer: Timer) {
        self.order += 1;
        self.rare.push(Reverse((at, self.order, timer)));
    }

    /// Removes and gives one deadline that is due.
    pub(crate) fn due(&mut self, now: Micros) -> Option<Timer> {
        for queue in [&mut self.writes, &mut self.reads] {
            if queue.front().is_some_and(|t| t.0 <= now) {
                return queue.pop_front().map(|t| t.1);
            }
        }
        if self.rare.peek().is_some_and(|t| t.0 .0 <= now) {
            return self.rare.pop().map(|t| t.0 .2);
        }
        None
    }

    /// Removes what is void from the heads, so that an idle volume has no deadline.
    pub(crate) fn prune(&mut self, void: impl Fn(&Timer) -> bool) {
        for queue in [&mut self.writes, &mut self.reads] {
            while queue.front().is_some_and(|t| void(&t.1)) {
                queue.pop_front();
            }
        }
        while self.rare.peek().is_some_and(|t| void(&t.0 .2)) {
            self.rare.pop();
        }
    }

    pub(crate) fn next(&self) -> Option<Micros> {
        let heads =
            [self.writes.front().map(|t| t.0), self.reads.front().map(|t| t.0), self.rare.peek().map(|t| t.0 .0)];
        heads.into_iter().flatten().min()
    }

    pub(crate) fn clear(&mut self) {
        *self = Timers::default();
    }
}
