//! Blocks that a source could not read. Another in-sync copy gives them; when every in-sync member read bytes that
//! do not match, twice and some seconds apart, the block is copied as BAD: the copy of everything else must not wait
//! for ever for what is lost (engine §4.4 A4: EIO until overwritten). A device that cannot be read proves nothing:
//! it is asked again for as long as it takes. More than a few lost blocks are not believed without the operator.

use std::collections::BTreeMap;

use drystone_store::api::{BlockKind, ObjectStore};
use drystone_types::consts::{Micros, FRAME_BLOCKS_MAX};
use drystone_types::{DriveId, LayerId, ObjKey, PgId, Version, VolumeId};

use super::chunk::Copied;
use super::compare::pack;
use super::wire::CopyCell;
use super::{Fetch, Job, Phase, Resync};
use crate::api::{Report, StuckWhy};
use crate::limits::{
    HELD_AGAIN, LOST_MAX, UNREADABLE_PAUSE, UNREADABLE_PAUSE_MAX, UNREADABLE_SPREAD, UNREADABLE_TRIES,
};
use crate::replica::Replica;

/// What one member answered for a block.
#[derive(Clone, Copy, Default)]
struct Tries {
    /// Answers without the bytes, of any kind.
    answers: u32,
    last: Micros,
    /// Answers in a row that said that the bytes are wrong, and the time of the first of them.
    bad: u32,
    first: Micros,
}

impl Tries {
    fn note(&mut self, bad: bool, now: Micros) {
        self.answers = self.answers.saturating_add(1);
        self.last = now;
        if !bad {
            self.bad = 0;
            return;
        }
        if self.bad == 0 {
            self.first = now;
        }
        self.bad = self.bad.saturating_add(1);
    }
    fn is_lost(&self) -> bool {
        self.bad >= UNREADABLE_TRIES && self.last.saturating_sub(self.first) >= UNREADABLE_SPREAD
    }
    /// When the member may be asked again.
    fn due(&self) -> Micros {
        self.last
            + match (self.answers, self.bad) {
                (0, _) => 0,
                (n, 0) => (UNREADABLE_PAUSE << n.min(8)).min(UNREADABLE_PAUSE_MAX),
                _ => UNREADABLE_SPREAD,
            }
    }
}

/// What is known of one block that a source could not read.
#[derive(Default)]
pub(crate) struct Unread {
    /// Highest version that an in-sync member says it has.
    version: Version,
    tries: BTreeMap<DriveId, Tries>,
}

impl Unread {
    /// How often the member that was asked least was asked in vain.
    pub(super) fn asked(&self, insync: &[DriveId]) -> u32 {
        insync.iter().map(|d| self.tries.get(d).map_or(0, |t| t.answers)).min().unwrap_or(0)
    }

    /// Whom to ask next: the member that was asked least; `None` when the block is lost at all of them.
    fn next(&self, insync: &[DriveId]) -> Option<(DriveId, Tries)> {
        let tries = |d: &DriveId| self.tries.get(d).copied().unwrap_or_default();
        let open = insync.iter().map(|d| (*d, tries(d))).filter(|(_, t)| !t.is_lost());
        open.min_by_key(|(_, t)| t.answers)
    }
}

/// Adds a block to the last run if it follows it.
fn push_block(runs: &mut Vec<(u16, u16)>, block: u16) {
    match runs.last_mut() {
        Some((first, count)) if *first + *count == block => *count += 1,
        _ => runs.push((block, 1)),
    }
}

impl Job {
    /// Takes what `drive` could not read out of its answer and notes it; what it could read is no longer missing.
    /// An older version, or nothing, in place of a stable one is no answer either.
    pub(super) fn sort_out_unread(
        &mut self,
        drive: DriveId,
        layer: LayerId,
        cells: Vec<(u16, CopyCell, Option<usize>)>,
        (stable, now): (Version, Micros),
    ) -> Vec<Copied> {
        let mut good = Vec::new();
        for (block, cell, at) in cells {
            let held = match cell {
                CopyCell::Absent => None,
                CopyCell::Held(kind, version) => Some((kind, version)),
                CopyCell::Failed(version) => Some((BlockKind::Bad, version)),
            };
            let version = held.map_or(Version::ZERO, |h| h.1);
            let older = self.unread.get(&(layer, block)).is_some_and(|u| version < u.version && u.version <= stable);
            if !older && held.is_none_or(|h| h.0 != BlockKind::Bad) {
                self.unread.remove(&(layer, block));
                good.push((block, held, at));
                continue;
            }
            let unread = self.unread.entry((layer, block)).or_default();
            unread.version = unread.version.max(version);
            unread.tries.entry(drive).or_default().note(!matches!(cell, CopyCell::Failed(_)), now);
        }
        good
    }

    /// A member that is not the source of the copy gave no answer about blocks that only it was asked for.
    pub(super) fn note_failed(&mut self, drive: DriveId, layer: LayerId, asked: &[(u16, u16)], now: Micros) -> bool {
        let blocks = || asked.iter().flat_map(|(first, count)| *first..first + count);
        if !blocks().all(|block| self.unread.contains_key(&(layer, block))) {
            return false;
        }
        for block in blocks() {
            if let Some(unread) = self.unread.get_mut(&(layer, block)) {
                unread.tries.entry(drive).or_default().note(false, now);
            }
        }
        true
    }

    /// Plans to ask other members; gives when that is due. What all of them have lost moves to `lost`.
    fn ask_others(&mut self, insync: &[DriveId]) -> Micros {
        let mut asks: BTreeMap<(DriveId, LayerId), Vec<(u16, u16)>> = BTreeMap::new();
        let (mut lost, mut due) = (Vec::new(), 0);
        for ((layer, block), unread) in &self.unread {
            match unread.next(insync) {
                Some((drive, tries)) => {
                    push_block(asks.entry((drive, *layer)).or_default(), *block);
                    due = due.max(tries.due());
                }
                None => lost.push((*layer, *block, unread.version)),
            }
        }
        for ((drive, layer), runs) in asks {
            let requests = pack(&split(&runs), FRAME_BLOCKS_MAX).into_iter();
            self.copies.extend(requests.map(|runs| Fetch { from: Some(drive), layer, runs }));
        }
        for (layer, block, version) in lost {
            self.unread.remove(&(layer, block));
            // One version is one write: our own bytes are what the others lost.
            let ours = version > Version::ZERO && self.own.get(&(layer, block)) == Some(&version);
            if !ours {
                self.lost.push((layer, block, version));
            }
        }
        due
    }
}

/// Runs of at most one frame each.
fn split(runs: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let most = u16::try_from(FRAME_BLOCKS_MAX).unwrap_or(u16::MAX);
    let parts = |&(first, count): &(u16, u16)| {
        (0..count.div_ceil(most)).map(move |i| (first + i * most, (count - i * most).min(most)))
    };
    runs.iter().flat_map(parts).collect()
}

impl<S: ObjectStore> Replica<S> {
    /// Everything else of the chunk is here: what of it could not be read?
    pub(super) fn plan_unread(&mut self, id: PgId, rs: &mut Resync, job: u64) {
        let me = self.cfg.drive;
        let insync: Vec<DriveId> = self
            .pgs
            .get(&id)
            .map(|pg| pg.rec.insync.iter().copied().filter(|d| *d != me).collect())
            .unwrap_or_default();
        let Some(entry) = rs.jobs.get_mut(&job).filter(|j| !j.unread.is_empty() && !insync.is_empty()) else { return };
        // A second look makes sure that it was not the moment.
        entry.not_before = entry.ask_others(&insync);
        self.note_unreadable(id, rs, &insync);
    }

    /// Too much is lost to believe it: nothing more is copied until the operator had a look, or it can be read again.
    pub(super) fn hold_lost(&mut self, id: PgId, rs: &mut Resync) {
        if rs.lost.len() <= LOST_MAX {
            return;
        }
        self.stats.copies_held += 1;
        // It is held again each minute: the same blocks are not counted each time.
        let first = !core::mem::replace(&mut rs.held_before, true);
        self.tell_stuck(id, rs, rs.lost.len() as u64, StuckWhy::Lost);
        for ((chunk, layer, block), _) in core::mem::take(&mut rs.lost).into_iter().filter(|_| first) {
            let key = ObjKey { layer, chunk: chunk.1 };
            self.report(Report::Unrepaired { vol: chunk.0, key, block });
        }
        rs.begin_again();
        rs.phase = Phase::Held;
        rs.tell_again = self.now + HELD_AGAIN;
    }

    /// Everything else is copied: what is lost becomes BAD.
    pub(super) fn put_lost(&mut self, id: PgId, rs: &mut Resync) {
        while let Some((at, version)) = rs.lost.pop_first() {
            let (chunk, layer, block) = at;
            let key = ObjKey { layer, chunk: chunk.1 };
            if self.store.since_join(key, block) == Some(rs.join) {
                self.stats.resync_kept += 1;
                continue;
            }
            self.resync_put(id, rs, chunk.0, key, (block, 1), Some((BlockKind::Bad, version)), None);
            if rs.phase == Phase::Stopped {
                // Not put: it stays void.
                rs.lost.insert(at, version);
                return;
            }
            rs.bad.push((chunk.0, key, block));
            self.stats.resync_bad_blocks += 1;
            self.report(Report::Unrepaired { vol: chunk.0, key, block });
        }
    }

    /// Blocks that this copy left as BAD: a member that comes back may have their bytes.
    pub(crate) fn left_bad(&mut self, id: PgId) -> Vec<(VolumeId, ObjKey, u16)> {
        let rs = self.pgs.get_mut(&id).and_then(|pg| pg.resync.as_mut());
        rs.map(|rs| core::mem::take(&mut rs.bad)).unwrap_or_default()
    }
}
