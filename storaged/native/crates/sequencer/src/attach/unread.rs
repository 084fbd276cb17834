//! A4 where no holder of the highest version gives its bytes.
//!
//! Only rot that every holder proves, seen twice and some seconds apart, makes a block BAD: a device that cannot read
//! now may read later. Where a drop would leave a copy that never had the version, the holders are dropped (it was
//! not acknowledged); at the last copies the block stays as it is on disk, unreadable for now, and the attach goes on.

use drystone_types::consts::Micros;
use drystone_types::{Buf, Flags, MsgType, Rule};

use crate::api::ReportKind;
use crate::attach::roll::BAD;
use crate::ctl::REPEAT;
use crate::drive::Dx;
use crate::engine::Sequencer;
use crate::pg::DxList;
use crate::timers::Timer;

/// Between two looks that must both find rot before it counts: a device that recovers from a reset is back by then
/// (a joiner's copy waits as long).
const SPREAD: Micros = 5_000_000;
/// Pause before holders whose device could not read are asked again; it doubles, four times at most.
const PAUSE: Micros = 250_000;
/// How long an attach waits for a device that cannot read: longer than a reset of a controller or of a link takes.
const PATIENCE: Micros = 10_000_000;

/// What was found where the bytes of a roll should be.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Looks {
    count: u32,
    /// Of the whole attach: a PG that changes again and again must not hold it up for ever (P15).
    first: Micros,
    /// Since when every look found rot at every holder.
    rotten: Option<Micros>,
}

impl Looks {
    fn note(&mut self, rotten: bool, (first, now): (Micros, Micros)) {
        self.first = first;
        self.count = self.count.saturating_add(1);
        self.rotten = if rotten { self.rotten.or(Some(now)) } else { None };
    }

    /// Two looks, far enough apart, and nothing but rot.
    fn proven(&self, now: Micros) -> bool {
        self.rotten.is_some_and(|since| now.saturating_sub(since) >= SPREAD)
    }

    fn over(&self, now: Micros) -> bool {
        now.saturating_sub(self.first) >= PATIENCE
    }

    fn pause(&self) -> Micros {
        PAUSE << self.count.saturating_sub(1).min(4)
    }
}

/// What follows from a look that gave no bytes.
enum Next {
    /// Lost: BAD until overwritten.
    Lost,
    /// Left as it is on disk.
    Leave,
    /// The holders have to go, and are asked again until they do.
    Drop,
    /// Another look after a pause.
    Look(Micros),
}

fn next(looks: &Looks, last: bool, now: Micros) -> Next {
    match (last, looks.rotten.is_some()) {
        (true, true) if looks.proven(now) => Next::Lost,
        // Also rot that a PG which changes again and again keeps from being proven.
        (true, _) if looks.over(now) && looks.count > 1 => Next::Leave,
        (true, true) => Next::Look(SPREAD),
        (false, true) if looks.count > 1 => Next::Drop,
        (false, false) if looks.count > 1 && looks.over(now) => Next::Drop,
        _ => Next::Look(looks.pause()),
    }
}

impl Sequencer {
    /// Whom to ask for the bytes: its holders, and after a failure also in-sync members that did not name it. Such a
    /// member may have the version below its stable value, which the others never heard of.
    pub(super) fn roll_sources(&self, r: u32) -> DxList {
        let Some(roll) = self.attach.as_ref().and_then(|a| a.rolls.get(r)) else { return DxList::new() };
        let mut sources = roll.holders.clone();
        if let Some(pg) = self.pg(roll.pg).filter(|_| roll.looks.count > 0) {
            let more = pg.insync.iter().filter(|dx| !roll.holders.contains(dx) && !roll.gave_up.contains(dx));
            sources.extend(more.copied());
        }
        sources
    }

    /// No holder gave the bytes; `rotten` proved that theirs are lost, `holds` have the version, whether they named it
    /// or not: one at or below a member's stable value is not named, and it was acknowledged.
    pub(crate) fn roll_unreadable(&mut self, r: u32, rotten: &[Dx], holds: &[Dx]) {
        let now = self.now;
        let Some(attach) = self.attach.as_mut() else { return };
        let Some(roll) = attach.rolls.get_mut(r) else { return };
        let first = *attach.unread_since.entry((roll.layer, roll.block, roll.version)).or_insert(now);
        let all_rotten = roll.holders.iter().chain(holds).all(|dx| rotten.contains(dx));
        roll.looks.note(all_rotten, (first, now));
        let (looks, pg) = (roll.looks, roll.pg);
        let (holders, gave_up) = (roll.holders.clone(), roll.gave_up.clone());
        let useless = |dx| holders.contains(dx) || gave_up.contains(dx) || holds.contains(dx);
        let last = self.pg(pg).is_some_and(|pg| pg.insync.iter().all(useless));
        let next = if self.on(Rule::A4Bad) { next(&looks, last, now) } else { Next::Lost };
        match next {
            Next::Lost => self.roll_fetched(r, BAD, Buf::empty()),
            Next::Leave => self.roll_left(r),
            Next::Drop => {
                for dx in holders {
                    self.report(dx, ReportKind::DriveError);
                }
                self.look_again(r, REPEAT);
            }
            Next::Look(pause) => self.look_again(r, pause),
        }
    }

    /// Every in-sync member has the version, and none can read it now: nothing is written, reads answer EIO until a
    /// device can read again or the block is overwritten. A joiner without it must get it by its copy.
    fn roll_left(&mut self, r: u32) {
        let Some(roll) = self.attach.as_ref().and_then(|a| a.rolls.get(r)) else { return };
        let joiners: DxList = roll.lacking.iter().copied().filter(|dx| !roll.gave_up.contains(dx)).collect();
        self.stats.rolls_left += 1;
        if joiners.is_empty() {
            return self.roll_written(r);
        }
        self.send_roll(r, (MsgType::Write, Flags::ROLL.with(Flags::UNREAD)), Buf::empty(), &joiners);
    }

    /// It gives its place among the running to another until then.
    fn look_again(&mut self, r: u32, pause: Micros) {
        let round = self.next_round();
        let Some(attach) = self.attach.as_mut() else { return };
        let Some(roll) = attach.rolls.get_mut(r) else { return };
        roll.retry = Some(round);
        attach.running = attach.running.saturating_sub(1);
        self.timers.rare(self.now + pause, Timer::Roll(r, round));
        self.run_rolls();
    }

    /// The pause is over.
    pub(crate) fn roll_again(&mut self, r: u32) {
        let Some(attach) = self.attach.as_mut() else { return };
        let Some(roll) = attach.rolls.get_mut(r) else { return };
        roll.retry = None;
        attach.queue.push_back(r);
        self.run_rolls();
    }
}
