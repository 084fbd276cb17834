//! What consumers do: reads, writes, trims and zeros of few blocks, so that requests collide.

use drystone_sequencer::{Event, Io};
use drystone_types::{Rule, VolumeId};

use crate::event::{Ev, Life};
use crate::history::{pattern, Op, What, SECTOR};
use crate::world::{Phase, Time, World};

/// Operations open on one sector at most: keeps the oracle's sets small.
const CROWD_MAX: usize = 4;

impl World {
    /// A client's next request is due.
    pub fn work(&mut self, c: usize, life: Life) {
        let client = &self.clients[c];
        if client.life != life || !client.alive || client.draining || client.fenced {
            return;
        }
        // A consumer of a frozen daemon waits with it; requests queue at most to its depth.
        if self.history.open_of(c) < self.plan.depth {
            let op = self.random_op(c);
            if let Some(op) = op {
                self.issue(op);
            }
        }
        let think = self.work_rng.range(1, 2 * self.plan.think);
        let zombie = self.owner_of(self.clients[c].vol) != Some(c);
        let pause: Time = if zombie { think * 8 } else { think };
        self.after(pause, Ev::Work(c, life));
    }

    fn random_op(&mut self, c: usize) -> Option<Op> {
        let vol = self.clients[c].vol;
        let hot = self.plan.hot_blocks;
        let chunk = self.work_rng.below(self.plan.chunks);
        let block = chunk * 1024 + self.work_rng.below(hot);
        let r = self.work_rng.below(1000);
        let (what, sectors) = match r {
            0..=399 => (What::Read, self.span()),
            400..=849 => (What::Write(0), self.span()),
            850..=919 => (What::Trim, self.span().max(8)),
            _ => (What::Zero, self.span()),
        };
        let first = block * 8 + if sectors < 8 { self.work_rng.below(8) } else { self.ragged() };
        let end = ((chunk + 2) * 8192).min(self.plan.chunks * 8192);
        let count = sectors.min(end - first);
        if self.history.crowded(vol, first, count, CROWD_MAX) {
            return None;
        }
        self.make_op(c, what, first, count)
    }

    fn ragged(&mut self) -> u64 {
        if self.work_rng.chance(150) {
            self.work_rng.below(8)
        } else {
            0
        }
    }

    /// Length of a request in sectors: one sector, one block, a few blocks, now and then a large one.
    fn span(&mut self) -> u64 {
        match self.work_rng.below(if self.plan.small { 70 } else { 100 }) {
            0..=19 => self.work_rng.range(1, 7),
            20..=69 => 8,
            70..=94 => 8 * self.work_rng.range(2, 8),
            95..=98 => 8 * self.work_rng.range(8, 40),
            _ => 8 * self.work_rng.range(1000, 1100),
        }
    }

    /// An operation with a fresh number.
    pub fn make_op(&mut self, c: usize, what: What, first: u64, count: u64) -> Option<Op> {
        let id = self.history.next_id();
        let (vol, gen) = (self.clients[c].vol, self.clients[c].gen);
        let what = if let What::Write(_) = what { What::Write(id) } else { what };
        (count > 0).then_some(Op { id, client: c, vol, gen, what, first, count })
    }

    fn io_of(&self, op: &Op) -> Io {
        let (offset, len) = (op.first * SECTOR, op.count * SECTOR);
        match op.what {
            What::Read => Io::Read { offset, len },
            What::Write(tag) => Io::Write { offset, data: pattern(op.vol, op.first, op.count, tag) },
            What::Zero => Io::WriteZeroes { offset, len },
            What::Trim => Io::Trim { offset, len },
        }
    }

    /// Gives an operation to the client's sequencer.
    pub fn issue(&mut self, op: Op) {
        let io = self.io_of(&op);
        self.counts.hit(match op.what {
            What::Read => "op.read",
            What::Write(_) => "op.write",
            What::Zero => "op.zero",
            What::Trim => "op.trim",
        });
        self.trace(|| {
            format!(
                "client{} op{} {:?} sectors {}+{} (block {})",
                op.client,
                op.id,
                op.what,
                op.first,
                op.count,
                op.first / 8
            )
        });
        let (tag, c, life) = (op.id, op.client, self.clients[op.client].life);
        self.history.invoke(op);
        self.gaps.issued(tag, c, self.now);
        // Through the queue, because a daemon that stands still takes nothing from its socket.
        self.after(1, Ev::Sequencer(c, life, Box::new(Event::Io { tag, io })));
    }

    /// What the shell of a consumer must not do: give a write that a fence ended to the next owner. The old one may
    /// have taken effect, and later ones too. Returns whether it did, which is never with the rule in force.
    pub fn requeue(&mut self, tag: u64) -> bool {
        let Some(op) = self.history.op(tag).filter(|o| o.what != What::Read).cloned() else { return false };
        let next = self.owner_of(op.vol).filter(|c| *c != op.client && self.clients[*c].was_active);
        let Some(c) = next.filter(|_| !self.rules.on(Rule::Requeue)) else { return false };
        let io = self.io_of(&op);
        let life = self.clients[c].life;
        self.after(1, Ev::Sequencer(c, life, Box::new(Event::Io { tag, io })));
        true
    }

    /// Reads everything ever written, at the end.
    pub fn read_all(&mut self, vol: VolumeId) {
        let Some(c) = self.owner_of(vol) else { return };
        let mut run: Option<(u64, u64)> = None;
        let mut runs = Vec::new();
        for block in self.history.blocks(vol) {
            run = match run {
                Some((first, n)) if first + n == block && n < 64 => Some((first, n + 1)),
                other => {
                    runs.extend(other);
                    Some((block, 1))
                }
            };
        }
        runs.extend(run);
        for (first, n) in runs {
            if let Some(op) = self.make_op(c, What::Read, first * 8, n * 8) {
                self.issue(op);
            }
        }
    }

    /// Whether the faulty phase has done what it must.
    pub fn worked_enough(&self) -> bool {
        self.operations >= self.plan.operations && self.phase == Phase::Faulty && self.faults_done >= 5
    }
}
