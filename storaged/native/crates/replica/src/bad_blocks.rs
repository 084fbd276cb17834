//! The blocks of a drive that are known to be bad: which are being healed, which wait for their turn, which rest
//! until they are tried again. Every block is here once, so that the figures count blocks and not attempts.

use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};

use drystone_store::api::BlockKind;
use drystone_types::consts::Micros;
use drystone_types::{DriveId, LayerId, ObjKey, PgId, Version, VolumeId};

use crate::limits::{
    HOPELESS_MAX, REPAIRS_BACKGROUND, REPAIRS_MAX, REPAIR_AGAIN_MAX, REPAIR_AGAIN_MIN, REPAIR_QUEUE_MAX,
    SCRUB_PENDING_MAX,
};

/// A block of an object.
pub(crate) type BlockId = (ObjKey, u16);

/// Where a block belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Home {
    pub pg: PgId,
    pub vol: VolumeId,
}

/// Who met a bad block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FoundBy {
    /// Somebody who reads it now: it goes first.
    Read,
    /// A scrub. It waits while blocks are in the queue, so that none of its blocks is ever refused.
    Scrub,
    /// Garbage collection, which does not wait for repairs.
    Move,
}

/// Which version heals a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    /// The one that was here.
    Exactly(Version),
    /// Nothing here tells which it was, only that it was stable: the one that is there and was stable then.
    Stable(Version),
    /// The same of zeros, which no other kind may replace.
    StableZeros(Version),
}

impl Want {
    /// The kind of block that heals.
    pub(crate) fn kind(self) -> BlockKind {
        match self {
            Want::StableZeros(_) => BlockKind::Zero,
            Want::Exactly(_) | Want::Stable(_) => BlockKind::Data,
        }
    }
    /// Whether a peer's version is the one that was here.
    pub(crate) fn is_met_by(self, version: Version) -> bool {
        match self {
            Want::Exactly(wanted) => wanted == version,
            Want::Stable(stable) | Want::StableZeros(stable) => Version::ZERO < version && version <= stable,
        }
    }
}

#[derive(Debug)]
enum State {
    Queued,
    Open { want: Option<Want>, asked: Vec<DriveId> },
    Rests(Micros),
}

#[derive(Debug)]
struct Bad {
    home: Home,
    /// How long the next failure puts it off.
    wait: Micros,
    /// The running scrub waits for what becomes of it.
    scrub: bool,
    state: State,
}

/// A scrub that was started and not reported.
#[derive(Default, Debug)]
struct Scrub {
    /// Blocks it found whose first repair has not ended.
    pending: usize,
    /// Blocks it found that could not be healed.
    left: u64,
    /// Blocks read and bad, once everything was read.
    walked: Option<(u64, u64)>,
}

/// The bad blocks. A direct write to one removes it.
#[derive(Default, Debug)]
pub(crate) struct BadBlocks {
    blocks: BTreeMap<BlockId, Bad>,
    urgent: BTreeSet<BlockId>,
    later: BTreeSet<BlockId>,
    /// Blocks that nobody could heal, tried again with growing pauses: the peer that has the bytes may
    /// only have been away, and two drives with the same rotten block must not ask each other in a tight loop.
    resting: BTreeSet<(Micros, BlockId)>,
    open: usize,
    /// Blocks that could not be remembered since the last scrub began.
    forgotten: u64,
    scrub: Option<Scrub>,
}

impl BadBlocks {
    /// Notes a bad block; tells whether it is news.
    pub(crate) fn found(&mut self, id: BlockId, home: Home, by: FoundBy) -> bool {
        let scrub = by == FoundBy::Scrub && self.scrub.is_some();
        let Some(bad) = self.blocks.get_mut(&id) else {
            if by != FoundBy::Scrub && self.queued() >= REPAIR_QUEUE_MAX {
                // A read meets it again.
                self.forgotten += u64::from(by == FoundBy::Move);
                return by == FoundBy::Move;
            }
            self.blocks.insert(id, Bad { home, wait: REPAIR_AGAIN_MIN, scrub, state: State::Queued });
            self.queue(id, by == FoundBy::Read);
            self.expect(scrub);
            return true;
        };
        let news = scrub && !bad.scrub;
        bad.scrub |= scrub;
        match bad.state {
            // Somebody asks for a whole look at the drive: what rests is tried as well.
            State::Rests(at) if scrub => {
                bad.state = State::Queued;
                self.resting.remove(&(at, id));
                self.queue(id, false);
            }
            State::Queued if by == FoundBy::Read && self.later.remove(&id) => self.queue(id, true),
            _ => {}
        }
        self.expect(news);
        false
    }

    /// Notes a block that no copy could give just now; tells whether it is news.
    pub(crate) fn found_hopeless(&mut self, id: BlockId, home: Home, now: Micros) -> bool {
        if self.blocks.contains_key(&id) {
            return false;
        }
        self.blocks.insert(id, Bad { home, wait: REPAIR_AGAIN_MIN, scrub: false, state: State::Queued });
        self.rest(id, now);
        true
    }

    fn expect(&mut self, more: bool) {
        if let Some(s) = self.scrub.as_mut().filter(|_| more) {
            s.pending += 1;
        }
    }

    fn queue(&mut self, id: BlockId, urgent: bool) {
        if urgent {
            self.urgent.insert(id);
        } else {
            self.later.insert(id);
        }
    }

    /// Blocks that wait for their turn.
    pub(crate) fn queued(&self) -> usize {
        self.urgent.len() + self.later.len()
    }

    /// The next block to heal, if one more may be healed now.
    pub(crate) fn next(&mut self) -> Option<(BlockId, Home)> {
        let urgent = if self.open < REPAIRS_MAX { self.urgent.pop_first() } else { None };
        let later = |s: &mut Self| if s.open < REPAIRS_BACKGROUND { s.later.pop_first() } else { None };
        let id = urgent.or_else(|| later(self))?;
        let bad = self.blocks.get_mut(&id)?;
        bad.state = State::Open { want: None, asked: Vec::new() };
        self.open += 1;
        Some((id, bad.home))
    }

    /// Whether a scrub is to wait: what it found is healed, or tried twice, before it finds much more.
    pub(crate) fn scrub_waits(&self) -> bool {
        self.queued() > 0 || self.scrub.as_ref().is_some_and(|s| s.pending >= SCRUB_PENDING_MAX)
    }

    /// Where a block that is being healed belongs, and the version to fetch.
    pub(crate) fn opened(&self, id: BlockId) -> Option<(Home, Option<Want>)> {
        let bad = self.blocks.get(&id)?;
        let State::Open { want, .. } = &bad.state else { return None };
        Some((bad.home, *want))
    }

    /// Sets the version to fetch.
    pub(crate) fn want(&mut self, id: BlockId, wanted: Want) {
        if let Some(State::Open { want, .. }) = self.blocks.get_mut(&id).map(|b| &mut b.state) {
            *want = Some(wanted);
        }
    }

    /// The first of `peers` that was not asked for this block, noted as asked.
    pub(crate) fn ask_next(&mut self, id: BlockId, peers: impl IntoIterator<Item = DriveId>) -> Option<DriveId> {
        let State::Open { asked, .. } = &mut self.blocks.get_mut(&id)?.state else { return None };
        let peer = peers.into_iter().find(|d| !asked.contains(d))?;
        asked.push(peer);
        Some(peer)
    }

    /// Nobody could heal it: it is tried again later. Tells whether this was the first time.
    pub(crate) fn rest(&mut self, id: BlockId, now: Micros) -> bool {
        let Some(mut bad) = self.take(id) else { return false };
        let (first, at) = (bad.wait == REPAIR_AGAIN_MIN, now + bad.wait);
        let full = self.resting.len() >= HOPELESS_MAX;
        // The peers may only have been busy: a scrub does not give a block up for that.
        if full || !first {
            self.settle(&mut bad, true);
        }
        if full {
            self.forgotten += 1;
            return first;
        }
        bad.wait = (bad.wait * 2).min(REPAIR_AGAIN_MAX);
        bad.state = State::Rests(at);
        self.resting.insert((at, id));
        self.blocks.insert(id, bad);
        first
    }

    /// It is healed, or replaced, or nobody needs it any more.
    pub(crate) fn remove(&mut self, id: BlockId) -> Option<Home> {
        let mut bad = self.take(id)?;
        self.settle(&mut bad, false);
        Some(bad.home)
    }

    /// It is not healed, but of no use to anybody: the drive is no member of its PG.
    pub(crate) fn abandon(&mut self, id: BlockId) {
        if let Some(mut bad) = self.take(id) {
            self.settle(&mut bad, true);
        }
    }

    /// A direct write to these blocks.
    pub(crate) fn replaced(&mut self, key: ObjKey, first: u16, count: u16) -> bool {
        if self.blocks.is_empty() {
            return false;
        }
        self.remove_all((key, first)..(key, first.saturating_add(count)))
    }

    /// Every block of a layer goes.
    pub(crate) fn layer_gone(&mut self, layer: LayerId) -> bool {
        let key = |chunk| ObjKey { layer, chunk };
        // A chunk has fewer blocks than the number that is left out here.
        self.remove_all((key(0), 0)..(key(u64::MAX), u16::MAX))
    }

    fn remove_all(&mut self, range: Range<BlockId>) -> bool {
        let ids: Vec<BlockId> = self.blocks.range(range).map(|(id, _)| *id).collect();
        for id in &ids {
            self.remove(*id);
        }
        !ids.is_empty()
    }

    /// Takes a block out of everything it is in.
    fn take(&mut self, id: BlockId) -> Option<Bad> {
        let bad = self.blocks.remove(&id)?;
        match bad.state {
            State::Queued => {
                self.urgent.remove(&id);
                self.later.remove(&id);
            }
            State::Open { .. } => self.open = self.open.saturating_sub(1),
            State::Rests(at) => {
                self.resting.remove(&(at, id));
            }
        }
        Some(bad)
    }

    fn settle(&mut self, bad: &mut Bad, left: bool) {
        if let Some(s) = self.scrub.as_mut().filter(|_| core::mem::take(&mut bad.scrub)) {
            s.pending = s.pending.saturating_sub(1);
            s.left += u64::from(left);
        }
    }

    /// Puts what has rested enough back into the queue; tells whether there was anything.
    pub(crate) fn wake(&mut self, now: Micros) -> bool {
        let mut any = false;
        while let Some((at, id)) = self.resting.first().copied().filter(|(at, _)| *at <= now) {
            self.resting.remove(&(at, id));
            if let Some(bad) = self.blocks.get_mut(&id) {
                bad.state = State::Queued;
                self.later.insert(id);
                any = true;
            }
        }
        any
    }

    /// When a block is to be tried again.
    pub(crate) fn deadline(&self) -> Option<Micros> {
        self.resting.first().map(|(at, _)| *at)
    }

    /// Blocks that are bad now, as far as is known.
    pub(crate) fn unhealed(&self) -> u64 {
        self.blocks.len() as u64 + self.forgotten
    }

    /// A scrub begins. It finds again what could not be remembered.
    pub(crate) fn scrub_begins(&mut self) {
        if self.scrub.is_none() {
            self.scrub = Some(Scrub::default());
            self.forgotten = 0;
        }
    }

    /// The scrub has read everything.
    pub(crate) fn scrub_walked(&mut self, blocks: u64, bad: u64) {
        self.scrub.get_or_insert_default().walked = Some((blocks, bad));
    }

    /// The scrub found a block that cannot be healed here at all.
    pub(crate) fn scrub_left(&mut self) {
        if let Some(s) = &mut self.scrub {
            s.left += 1;
        }
    }

    /// Blocks read, bad and not bad any more, once a scrub ended and every block of it was tried.
    pub(crate) fn scrub_ended(&mut self) -> Option<(u64, u64, u64)> {
        let ended = self.scrub.as_ref().is_some_and(|s| s.pending == 0 && s.walked.is_some());
        let s = if ended { self.scrub.take()? } else { return None };
        let (blocks, bad) = s.walked?;
        Some((blocks, bad, bad.saturating_sub(s.left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Home = Home { pg: PgId { pool: drystone_types::PoolId(1), pg: 0 }, vol: VolumeId(1) };

    fn id(n: usize) -> BlockId {
        (ObjKey { layer: LayerId(1), chunk: n as u64 / 1024 }, (n % 1024) as u16)
    }

    #[test]
    fn what_a_scrub_found_waits_and_what_a_read_found_goes_first() {
        let mut b = BadBlocks::default();
        b.scrub_begins();
        (0..200).for_each(|n| assert!(b.found(id(n), HOME, FoundBy::Scrub)));
        let opened: Vec<_> = std::iter::from_fn(|| b.next()).collect();
        assert_eq!((opened.len(), b.queued()), (REPAIRS_BACKGROUND, 200 - REPAIRS_BACKGROUND));
        assert!(!b.found(id(150), HOME, FoundBy::Read), "it is known already");
        assert_eq!(b.next().map(|n| n.0), Some(id(150)));
        assert_eq!(b.next(), None);
        b.remove(id(0));
        b.remove(id(1));
        assert_eq!(b.next().map(|n| n.0), Some(id(REPAIRS_BACKGROUND)));
        assert_eq!(b.unhealed(), 198);
    }

    #[test]
    fn what_cannot_be_remembered_is_counted_until_the_next_scrub_finds_it() {
        let mut b = BadBlocks::default();
        (0..HOPELESS_MAX + 10).for_each(|n| assert!(b.found_hopeless(id(n), HOME, 1)));
        assert_eq!(b.unhealed(), HOPELESS_MAX as u64 + 10);
        assert_eq!(b.blocks.len(), HOPELESS_MAX);
        (0..2 * REPAIR_QUEUE_MAX).for_each(|n| assert!(b.found(id(100_000 + n), HOME, FoundBy::Move)));
        assert_eq!(b.queued(), REPAIR_QUEUE_MAX, "memory is bounded");
        assert_eq!(b.unhealed(), (HOPELESS_MAX + 10 + 2 * REPAIR_QUEUE_MAX) as u64);
        b.scrub_begins();
        assert_eq!(b.unhealed(), (HOPELESS_MAX + REPAIR_QUEUE_MAX) as u64);
    }

    #[test]
    fn a_scrub_ends_when_everything_it_found_was_tried() {
        let mut b = BadBlocks::default();
        b.scrub_begins();
        (0..4).for_each(|n| assert!(b.found(id(n), HOME, FoundBy::Scrub)));
        b.scrub_walked(100, 4);
        while b.next().is_some() {}
        assert!(b.rest(id(0), 5), "the first failure");
        b.remove(id(1));
        assert!(b.replaced(id(2).0, 2, 1));
        b.abandon(id(3));
        assert_eq!((b.scrub_ended(), b.deadline()), (None, Some(5 + REPAIR_AGAIN_MIN)), "it is tried once more");
        assert!(b.wake(5 + REPAIR_AGAIN_MIN) && b.next().is_some());
        assert!(!b.rest(id(0), 9));
        assert_eq!(b.scrub_ended(), Some((100, 4, 2)));
        assert_eq!(b.unhealed(), 1);
    }

    #[test]
    fn a_scrub_waits_for_the_second_try_of_what_failed_once() {
        let mut b = BadBlocks::default();
        b.scrub_begins();
        for n in 0..SCRUB_PENDING_MAX {
            assert!(!b.scrub_waits(), "{n} are pending");
            assert!(b.found(id(n), HOME, FoundBy::Scrub) && b.next().is_some() && b.rest(id(n), 1));
        }
        assert!(b.scrub_waits());
        assert!(b.wake(1 + REPAIR_AGAIN_MIN) && b.next().is_some());
        b.remove(id(0));
        while b.next().is_some() {}
        assert!(b.scrub_waits(), "the others wait for their turn");
    }
}
