//! The main oracle: every 512-byte sector of every volume is a strictly linearizable register.
//!
//! A sector keeps the set of configurations (value, which open operations took effect) that explain
//! everything seen so far. A write of a fenced generation takes effect before the next generation is
//! active, or never. When no configuration is left, the history cannot be explained: a violation.

use smallvec::SmallVec;

/// A value: the number of the write that made it; 0 reads as zeros.
pub type Tag = u64;
/// Number of an operation.
pub type OpId = u64;

/// What an open operation does to the sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Write(Tag),
    Read,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    op: OpId,
    kind: Kind,
    /// Its generation was succeeded: it can no longer take effect.
    closed: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Config {
    value: Tag,
    /// Slots that took effect.
    done: u32,
    /// What reads that took effect saw.
    seen: SmallVec<[(u8, Tag); 2]>,
}

/// Most operations open on one sector; the workload keeps far below it.
const SLOTS_MAX: usize = 30;

/// One sector.
#[derive(Clone, Debug)]
pub struct Register {
    configs: Vec<Config>,
    slots: SmallVec<[Option<Slot>; 4]>,
}

impl Default for Register {
    fn default() -> Self {
        Register { configs: vec![Config { value: 0, done: 0, seen: SmallVec::new() }], slots: SmallVec::new() }
    }
}

/// No explanation is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Values the sector could have had.
    pub possible: Vec<Tag>,
}

impl Register {
    fn open(&mut self, op: OpId, kind: Kind) {
        let slot = Some(Slot { op, kind, closed: false });
        match self.slots.iter_mut().find(|s| s.is_none()) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        assert!(self.slots.len() <= SLOTS_MAX, "too many operations open on one sector");
    }
    /// A write starts.
    pub fn invoke_write(&mut self, op: OpId, value: Tag) {
        self.open(op, Kind::Write(value));
    }
    /// A read starts.
    pub fn invoke_read(&mut self, op: OpId) {
        self.open(op, Kind::Read);
    }
    fn index(&self, op: OpId) -> Option<usize> {
        self.slots.iter().position(|s| s.is_some_and(|s| s.op == op))
    }
    /// Every configuration reachable by letting open operations take effect.
    fn close_over(&mut self) {
        let mut next = 0;
        while let Some(config) = self.configs.get(next).cloned() {
            next += 1;
            for (i, slot) in self.slots.iter().enumerate() {
                let Some(slot) = slot else { continue };
                if slot.closed || config.done >> i & 1 == 1 {
                    continue;
                }
                let mut reached = config.clone();
                reached.done |= 1 << i;
                match slot.kind {
                    Kind::Write(value) => reached.value = value,
                    Kind::Read => {
                        reached.seen.push((i as u8, config.value));
                        reached.seen.sort_unstable();
                    }
                }
                if !self.configs.contains(&reached) {
                    self.configs.push(reached);
                }
            }
        }
    }
    fn retire(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = None;
        }
        let mut kept: Vec<Config> = Vec::with_capacity(self.configs.len());
        for mut config in self.configs.drain(..) {
            config.done &= !(1 << index);
            config.seen.retain(|(i, _)| usize::from(*i) != index);
            if !kept.contains(&config) {
                kept.push(config);
            }
        }
        self.configs = kept;
    }
    fn finish(&mut self, op: OpId, keep: impl Fn(&Config, usize) -> bool) -> Result<(), Violation> {
        let Some(index) = self.index(op) else { return Ok(()) };
        self.close_over();
        let possible = self.possible();
        self.configs.retain(|c| keep(c, index));
        if self.configs.is_empty() {
            return Err(Violation { possible });
        }
        self.retire(index);
        Ok(())
    }
    /// A write was acknowledged.
    pub fn write_done(&mut self, op: OpId) -> Result<(), Violation> {
        self.finish(op, |c, i| c.done >> i & 1 == 1)
    }
    /// A read returned a value.
    pub fn read_done(&mut self, op: OpId, value: Tag) -> Result<(), Violation> {
        self.finish(op, |c, i| c.seen.contains(&(i as u8, value)))
    }
    /// The outcome of a read is unknown and does not matter.
    pub fn read_gone(&mut self, op: OpId) {
        if let Some(index) = self.index(op) {
            self.retire(index);
        }
    }
    /// A write failed in a living generation: it took effect before now, or never.
    pub fn write_failed(&mut self, op: OpId) {
        if let Some(index) = self.index(op) {
            self.close_over();
            self.retire(index);
        }
    }
    /// The next generation is active: writes of `old` take effect before now, or never.
    pub fn fence(&mut self, old: impl Fn(OpId) -> bool) {
        if self.slots.iter().flatten().any(|s| old(s.op) && !s.closed) {
            self.close_over();
            for slot in self.slots.iter_mut().flatten().filter(|s| old(s.op)) {
                if matches!(slot.kind, Kind::Write(_)) {
                    slot.closed = true;
                }
            }
        }
    }
    /// Forgets writes that were closed by a fence and whose client can say nothing more.
    pub fn forget(&mut self, gone: impl Fn(OpId) -> bool) {
        for index in 0..self.slots.len() {
            let slot = self.slots.get(index).copied().flatten();
            if slot.is_some_and(|s| s.closed && gone(s.op)) {
                self.retire(index);
            }
        }
    }
    /// Values the sector may have now.
    pub fn possible(&self) -> Vec<Tag> {
        let mut values: Vec<Tag> = self.configs.iter().map(|c| c.value).collect();
        values.sort_unstable();
        values.dedup();
        values
    }
    /// Whether an operation is open.
    pub fn busy(&self) -> bool {
        self.slots.iter().any(Option::is_some)
    }
    /// Operations open.
    pub fn open_count(&self) -> usize {
        self.slots.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_may_not_return_a_value_older_than_an_acknowledged_write() {
        let mut r = Register::default();
        r.invoke_write(1, 10);
        r.write_done(1).unwrap();
        r.invoke_read(2);
        assert_eq!(r.read_done(2, 0), Err(Violation { possible: vec![10] }));
    }

    #[test]
    fn reads_may_not_flip_from_new_to_old() {
        let mut r = Register::default();
        r.invoke_write(1, 10);
        r.invoke_read(2);
        r.read_done(2, 10).unwrap();
        r.invoke_read(3);
        assert!(r.read_done(3, 0).is_err());
    }

    #[test]
    fn a_write_of_a_fenced_client_takes_effect_before_the_next_is_active_or_never() {
        let mut r = Register::default();
        r.invoke_write(1, 10);
        r.fence(|op| op == 1);
        r.forget(|op| op == 1);
        r.invoke_read(2);
        r.read_done(2, 0).unwrap();
        r.invoke_read(3);
        assert!(r.read_done(3, 10).is_err());
    }

    #[test]
    fn a_fenced_write_that_was_seen_absent_cannot_be_acknowledged() {
        let mut r = Register::default();
        r.invoke_write(1, 10);
        r.fence(|op| op == 1);
        r.invoke_read(2);
        r.read_done(2, 0).unwrap();
        assert!(r.write_done(1).is_err());
    }

    #[test]
    fn concurrent_writes_may_take_effect_in_either_order_but_then_stay() {
        let mut r = Register::default();
        r.invoke_write(1, 10);
        r.invoke_write(2, 20);
        r.write_done(1).unwrap();
        r.write_done(2).unwrap();
        assert_eq!(r.possible(), vec![10, 20]);
        r.invoke_read(3);
        r.read_done(3, 10).unwrap();
        r.invoke_read(4);
        assert!(r.read_done(4, 20).is_err());
    }
}
