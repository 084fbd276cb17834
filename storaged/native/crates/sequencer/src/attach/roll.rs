//! A4: per (layer, block) the highest version of all replies goes, with its original version, to
//! the members that lack it. Allowed below `min_insync`: nothing new is written.

use core::cmp::Ordering;
use std::collections::BTreeMap;

use drystone_csum::block_csum;
use drystone_types::{Buf, Flags, LayerId, MsgType, Rule, Version};
use smallvec::SmallVec;

use crate::attach::unread::Looks;
use crate::attach::Phase;
use crate::drive::Dx;
use crate::engine::Sequencer;
use crate::pg::{DxList, PgIx};
use crate::read::{Owner as ReadOwner, What};
use crate::write::{Mapped, Owner, WriteOp};

/// Blocks rolled at once: bounds the memory of an attach to a few MiB, and keeps drives busy.
const ROLLS_MAX: usize = 256;

/// Kinds of an entry as SEAL and READ+ROLL name them.
const DATA: u8 = 1;
const HOLE: u8 = 2;
const ZERO: u8 = 3;
pub(crate) const BAD: u8 = 4;

/// One block to be rolled forward.
#[derive(Debug)]
pub(crate) struct Roll {
    pub(super) pg: PgIx,
    pub(super) layer: LayerId,
    pub(super) block: u64,
    pub(super) version: Version,
    kind: u8,
    pub(super) holders: DxList,
    /// They have it as BAD: nothing to read, and nothing that a drop would save.
    pub(super) gave_up: DxList,
    pub(super) lacking: DxList,
    /// Set while its holders could not read it: tried again in this round. Such a roll is not among the running.
    pub(super) retry: Option<u32>,
    /// What was found so far where the bytes should be.
    pub(super) looks: Looks,
}

/// The highest version that the replies name for a block.
struct Best {
    version: Version,
    kind: u8,
    holders: DxList,
    gave_up: DxList,
}

impl Default for Best {
    fn default() -> Best {
        Best { version: Version::ZERO, kind: BAD, holders: DxList::new(), gave_up: DxList::new() }
    }
}

impl Best {
    /// At equal versions a readable copy wins over one that was given up as bad: who has it as BAD lacks what
    /// another one can still give.
    fn add(&mut self, dx: Dx, version: Version, kind: u8) {
        match (version, kind != BAD).cmp(&(self.version, self.kind != BAD)) {
            Ordering::Greater => {
                let bad = core::mem::take(&mut self.holders);
                self.gave_up = if version == self.version { bad } else { DxList::new() };
                (self.version, self.kind) = (version, kind);
                self.holders.push(dx);
            }
            Ordering::Equal => self.holders.push(dx),
            Ordering::Less if version == self.version => self.gave_up.push(dx),
            Ordering::Less => {}
        }
    }
}

impl Sequencer {
    /// Whether it waits for this round.
    pub(crate) fn roll_waits(&self, r: u32, round: u32) -> bool {
        self.attach.as_ref().and_then(|a| a.rolls.get(r)).is_some_and(|roll| roll.retry == Some(round))
    }

    /// All members of the PG were sealed in one epoch.
    pub(super) fn roll_pg(&mut self, ix: PgIx) {
        let rolls = if self.on(Rule::A4) { self.plan_rolls(ix) } else { Vec::new() };
        let Some(attach) = self.attach.as_mut() else { return };
        attach.unsealed = attach.unsealed.saturating_sub(1);
        let count = rolls.len();
        for roll in rolls {
            let r = attach.rolls.insert(roll);
            attach.queue.push_back(r);
        }
        if let Some(work) = attach.pg(ix) {
            work.phase = Phase::Rolling;
            work.rolls_open = count;
            // The entries are in the plan now.
            work.replies = work.replies.iter().map(|r| (r.0, Vec::new())).collect();
        }
        if count == 0 {
            return self.pg_rolled(ix);
        }
        self.run_rolls();
    }

    fn plan_rolls(&mut self, ix: PgIx) -> Vec<Roll> {
        let Some(work) = self.attach.as_mut().and_then(|a| a.pg(ix)) else { return Vec::new() };
        let members: DxList = work.replies.iter().map(|r| r.0).collect();
        let mut best: BTreeMap<(LayerId, u64), Best> = BTreeMap::new();
        for (dx, entries) in &work.replies {
            for e in entries {
                best.entry((e.layer, e.block)).or_default().add(*dx, e.version, e.kind);
            }
        }
        let lacking = |holders: &DxList| members.iter().copied().filter(|m| !holders.contains(m)).collect::<DxList>();
        best.into_iter()
            .map(|((layer, block), Best { version, kind, holders, gave_up })| Roll {
                pg: ix,
                layer,
                block,
                version,
                kind,
                lacking: lacking(&holders),
                holders,
                gave_up,
                retry: None,
                looks: Looks::default(),
            })
            .filter(|roll| !roll.lacking.is_empty())
            .collect()
    }

    pub(super) fn run_rolls(&mut self) {
        while let Some(attach) = self.attach.as_mut().filter(|a| a.running < ROLLS_MAX) {
            let Some(r) = attach.queue.pop_front() else { return };
            if attach.rolls.get(r).is_some() {
                attach.running += 1;
                self.start_roll(r);
            }
        }
    }

    /// Fetches the data if there is any, else rolls at once.
    fn start_roll(&mut self, r: u32) {
        let Some(roll) = self.attach.as_mut().and_then(|a| a.rolls.get_mut(r)) else { return };
        if roll.kind != DATA {
            let kind = roll.kind;
            return self.roll_fetched(r, kind, Buf::empty());
        }
        let (pg, block) = (roll.pg, roll.block);
        let (layer, version) = (roll.layer, roll.version);
        let what = What::Exact(layer, version, self.roll_sources(r));
        self.new_read(ReadOwner::Roll(r), what, pg, block, 1);
    }

    /// The exact version is at hand: to every member that lacks it.
    pub(crate) fn roll_fetched(&mut self, r: u32, kind: u8, data: Buf) {
        let Some(attach) = self.attach.as_mut() else { return };
        let Some(roll) = attach.rolls.get(r) else { return };
        attach.unread_since.remove(&(roll.layer, roll.block, roll.version));
        let lacking = roll.lacking.clone();
        let (msg, flags) = match kind {
            HOLE => (MsgType::Trim, Flags::ROLL),
            ZERO => (MsgType::Zero, Flags::ROLL),
            BAD => (MsgType::Write, Flags::ROLL.with(Flags::BAD)),
            _ => (MsgType::Write, Flags::ROLL),
        };
        self.stats.rolls += 1;
        self.stats.rolls_bad += u64::from(kind == BAD);
        self.send_roll(r, (msg, flags), data, &lacking);
    }

    /// Writes the version, or what is said of it, to some members; the roll ends when all of them answered OK.
    pub(super) fn send_roll(&mut self, r: u32, (msg, flags): (MsgType, Flags), data: Buf, members: &[Dx]) {
        let Some(roll) = self.attach.as_ref().and_then(|a| a.rolls.get(r)) else { return };
        let csums =
            if data.is_empty() { Vec::new() } else { vec![block_csum(self.ticket.vol, roll.block, data.as_slice())] };
        let Some(epoch) = self.pg(roll.pg).map(|pg| pg.epoch) else { return };
        let op = WriteOp {
            owner: Owner::Roll(r),
            round: 0,
            pg: roll.pg,
            epoch,
            msg,
            flags,
            layer: roll.layer,
            block: roll.block,
            count: 1,
            seq: roll.version.seq,
            origin: roll.version.gen,
            data,
            csums,
            members: SmallVec::new(),
            charged: DxList::new(),
            mapped: Mapped::Unasked,
            parked: false,
            late: false,
            sent_at: 0,
        };
        let w = self.writes.insert(op);
        self.launch(w, epoch, members);
    }

    /// Every member that lacked the block has it.
    pub(crate) fn roll_written(&mut self, r: u32) {
        let Some(attach) = self.attach.as_mut() else { return };
        let Some(roll) = attach.rolls.remove(r) else { return };
        attach.running = attach.running.saturating_sub(1);
        let Some(work) = attach.pg(roll.pg) else { return };
        work.rolls_open = work.rolls_open.saturating_sub(1);
        if work.rolls_open == 0 {
            self.pg_rolled(roll.pg);
        }
        self.run_rolls();
    }

    fn pg_rolled(&mut self, ix: PgIx) {
        let Some(attach) = self.attach.as_mut() else { return };
        attach.unrolled = attach.unrolled.saturating_sub(1);
        if let Some(work) = attach.pg(ix) {
            work.phase = Phase::Rolled;
        }
        self.phase_changed();
    }

    /// The PG begins again: its rolls, and what they have in flight, are void.
    pub(super) fn cancel_rolls(&mut self, ix: PgIx) {
        self.end_rolls(|roll_pg| roll_pg == ix);
        self.run_rolls();
    }

    pub(super) fn end_rolls(&mut self, which: impl Fn(PgIx) -> bool) {
        let Some(attach) = self.attach.as_mut() else { return };
        if attach.rolls.len() == 0 {
            return;
        }
        let ended: Vec<u32> = attach.rolls.iter().filter(|(_, roll)| which(roll.pg)).map(|(r, _)| r).collect();
        for r in &ended {
            let waits = attach.rolls.remove(*r).is_some_and(|roll| roll.retry.is_some());
            let before = attach.queue.len();
            attach.queue.retain(|q| q != r);
            if attach.queue.len() == before && !waits {
                attach.running = attach.running.saturating_sub(1);
            }
        }
        let dead = |r: &u32| ended.contains(r);
        for w in self.writes.keys() {
            if self.writes.get(w).is_some_and(|op| matches!(op.owner, Owner::Roll(r) if dead(&r))) {
                let late = self.writes.remove(w).is_some_and(|op| op.late);
                self.stall.late -= usize::from(late);
            }
        }
        for r in self.reads.keys() {
            if self.reads.get(r).is_some_and(|op| matches!(op.owner, ReadOwner::Roll(x) if dead(&x))) {
                self.take_read(r);
            }
        }
    }
}
