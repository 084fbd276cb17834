//! Operations that a device carries out wrongly.

use drystone_store::api::{DevOp, DevResult};
use drystone_types::Buf;

use super::{Device, SECTOR};
use crate::rng::Rng;

/// How an operation goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// It fails; any part of it may be stored.
    Fails,
    /// It ends well, and a sector of it, or nothing, is stored.
    Stale,
    /// It ends well, and a sector of it is stored in another place.
    Elsewhere,
}

impl Device {
    /// Whether an operation that was submitted is a read.
    pub fn is_read(&self, id: u64) -> bool {
        matches!(self.inflight.get(&id), Some(DevOp::Read { .. }))
    }

    /// Whether an operation can go wrong in this way: what is stale or elsewhere has to be more than a mark.
    pub fn fits(&self, id: u64, wrong: Wrong) -> bool {
        match self.inflight.get(&id) {
            Some(DevOp::Write { bufs, .. }) => {
                wrong == Wrong::Fails || bufs.iter().map(|b| b.len() as u64 / SECTOR).sum::<u64>() > 1
            }
            Some(DevOp::Flush { .. }) => wrong == Wrong::Fails,
            _ => false,
        }
    }

    /// Ends an operation that fails: whoever wrote it learns nothing of what is stored.
    pub fn fail(&mut self, id: u64, rng: &mut Rng) -> Option<DevResult> {
        self.began.remove(&id);
        if let DevOp::Write { offset, bufs, .. } = self.inflight.remove(&id)? {
            let sectors = bufs.iter().flat_map(|b| (0..b.len() / 4096).map(|i| b.block(i)));
            for (i, buf) in sectors.enumerate().filter(|_| rng.chance(500)).collect::<Vec<_>>() {
                self.write(offset + i as u64 * SECTOR, &[buf], false);
            }
        }
        Some(DevResult::Failed("the device could not write"))
    }

    /// Ends a write that is not stored as it should. Gives what became of the sectors that were to be there, and of
    /// those that were hit instead.
    pub fn mislead(&mut self, id: u64, wrong: Wrong, rng: &mut Rng) -> Option<(DevResult, Vec<u64>)> {
        let DevOp::Write { offset, bufs, .. } = self.inflight.get(&id)? else { return None };
        let count: u64 = bufs.iter().map(|b| b.len() as u64 / SECTOR).sum();
        let (first, one) = (offset / SECTOR, offset / SECTOR + rng.below(count));
        let whole = wrong == Wrong::Stale && rng.chance(250);
        let missed = if whole { first..first + count } else { one..one + 1 };
        let before: Vec<(u64, Option<Buf>)> = missed.map(|s| (s, self.content(s))).collect();
        let result = self.finish(id)?;
        let mut hit = Vec::new();
        if wrong == Wrong::Elsewhere {
            let others: Vec<u64> = self.sectors().into_iter().filter(|s| !(first..first + count).contains(s)).collect();
            if let (Some(bytes), Some(victim)) = (self.content(one), rng.pick(&others).copied()) {
                self.put(victim, Some(bytes));
                hit.push(victim);
            }
        }
        for (sector, bytes) in before {
            if self.content(sector).as_ref().map(Buf::as_slice) != bytes.as_ref().map(Buf::as_slice) {
                self.put(sector, bytes);
                hit.push(sector);
            }
        }
        self.spoilt.extend(hit.iter().copied());
        Some((result, hit))
    }

    fn content(&self, sector: u64) -> Option<Buf> {
        let cached = self.cache.iter().rev().find(|(s, _)| *s == sector).map(|(_, b)| b);
        cached.or_else(|| self.stable.get(&sector)).cloned()
    }

    /// Puts bytes in the place of a sector, or nothing.
    fn put(&mut self, sector: u64, bytes: Option<Buf>) {
        self.cache.retain(|(s, _)| *s != sector);
        match bytes {
            Some(bytes) => drop(self.stable.insert(sector, bytes)),
            None => drop(self.stable.remove(&sector)),
        }
    }
}
