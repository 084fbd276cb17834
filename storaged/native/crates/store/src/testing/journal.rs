//! What a device was told, in order, and every image that a power cut at some moment could have left.

use crate::loc::SLOT;
use crate::testing::{CrashDev, Rng};
use drystone_types::Buf;
use std::collections::BTreeMap;

/// One thing that happened at the device.
#[derive(Clone, Debug)]
pub enum Change {
    /// A write or a discard began.
    Start(u64, u64, Vec<Buf>),
    /// It ended, on stable media or in the cache.
    End(u64, bool),
    /// A blocking write ended; it is in the cache.
    Cached(u64, Buf),
    /// Everything that had ended is on stable media.
    Flush,
    /// The power failed, and this was left.
    Cut(Vec<u8>),
}

/// A recording: the device as it was when it began, and what happened since.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Contents at the beginning, all of it durable.
    pub base: Vec<u8>,
    /// What happened since.
    pub changes: Vec<Change>,
}

/// Which of the sectors that are not durable an image keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// None of them.
    Nothing,
    /// All of them.
    Everything,
    /// Each or not, as chance has it: torn and reordered writes.
    Some,
}

/// An image and what became of the sectors that were not durable.
#[derive(Clone, Debug)]
pub struct Image {
    /// A device with these contents.
    pub dev: CrashDev,
    /// Sectors that survived.
    pub kept: u64,
    /// Sectors that did not.
    pub lost: u64,
}

/// A recording that is played to a moment.
pub struct Replay<'a> {
    journal: &'a Journal,
    at: usize,
    media: Vec<u8>,
    /// Versions of each sector in the cache, oldest first: a cache may write any of them back.
    cached: BTreeMap<u64, Vec<Buf>>,
    running: BTreeMap<u64, (u64, Vec<Buf>)>,
}

impl<'a> Replay<'a> {
    /// The beginning.
    pub fn new(journal: &'a Journal) -> Replay<'a> {
        let media = journal.base.clone();
        Replay { journal, at: 0, media, cached: BTreeMap::new(), running: BTreeMap::new() }
    }
    /// Changes played so far.
    pub fn at(&self) -> usize {
        self.at
    }
    /// Whether the next change makes something durable.
    pub fn before_boundary(&self) -> bool {
        matches!(self.journal.changes.get(self.at), Some(Change::End(_, true) | Change::Flush))
    }
    /// Sectors that are not durable now.
    pub fn unflushed(&self) -> u64 {
        self.cached.len() as u64 + self.running.values().flat_map(|(at, bufs)| sectors(*at, bufs)).count() as u64
    }
    /// Plays one change; `None` at the end, else whether it made something durable.
    pub fn advance(&mut self) -> Option<bool> {
        let change = self.journal.changes.get(self.at)?;
        self.at += 1;
        match change {
            Change::Start(id, offset, bufs) => {
                self.running.insert(*id, (*offset, bufs.clone()));
            }
            Change::End(id, durable) => {
                let Some((offset, bufs)) = self.running.remove(id) else { return Some(false) };
                for (sector, buf) in sectors(offset, &bufs) {
                    if *durable {
                        self.cached.remove(&sector);
                        put(&mut self.media, sector, &buf);
                    } else {
                        self.cached.entry(sector).or_default().push(buf);
                    }
                }
                return Some(*durable);
            }
            Change::Cached(offset, buf) => {
                for (sector, buf) in sectors(*offset, core::slice::from_ref(buf)) {
                    self.cached.entry(sector).or_default().push(buf);
                }
            }
            Change::Flush => {
                let cached = core::mem::take(&mut self.cached);
                let newest = cached.iter().filter_map(|(sector, list)| Some((*sector, list.last()?)));
                newest.for_each(|(sector, buf)| put(&mut self.media, sector, buf));
                return Some(true);
            }
            Change::Cut(left) => {
                self.media.clone_from(left);
                self.cached.clear();
                self.running.clear();
            }
        }
        Some(false)
    }
    /// What a power cut at this moment could leave.
    pub fn image(&self, keep: Keep, rng: &mut Rng) -> Image {
        let mut media = self.media.clone();
        let (mut kept, mut lost) = (0, 0);
        let mut fall = |sector: u64, versions: &[Buf]| {
            let last = versions.len() as u64;
            let chosen = match keep {
                Keep::Nothing => 0,
                Keep::Everything => last,
                Keep::Some => rng.below(last + 1),
            };
            match chosen.checked_sub(1).and_then(|n| versions.get(n as usize)) {
                Some(buf) => {
                    put(&mut media, sector, buf);
                    kept += 1;
                }
                None => lost += 1,
            }
        };
        self.cached.iter().for_each(|(sector, versions)| fall(*sector, versions));
        for (offset, bufs) in self.running.values() {
            sectors(*offset, bufs).for_each(|(sector, buf)| fall(sector, &[buf]));
        }
        Image { dev: CrashDev::of(media), kept, lost }
    }
}

fn sectors(offset: u64, bufs: &[Buf]) -> impl Iterator<Item = (u64, Buf)> + '_ {
    let parts = bufs.iter().flat_map(|b| (0..b.len() / SLOT).map(|n| b.slice(n * SLOT..(n + 1) * SLOT)));
    (offset / SLOT as u64..).zip(parts)
}

fn put(media: &mut [u8], sector: u64, buf: &Buf) {
    let at = sector as usize * SLOT;
    media[at..at + SLOT].copy_from_slice(buf.as_slice());
}
