//! A device that loses at a power cut what a real one may lose: any subset of the 4 KiB sectors of
//! every write that was not acked as durable, whole or not, in any order.

use crate::api::{DevOp, DevResult};
use crate::dev::{DevError, DevGeometry, SyncDev};
use crate::loc::SLOT;
use crate::testing::journal::{Change, Journal};
use drystone_types::{Buf, BufMut};
use std::collections::BTreeMap;

/// A small generator for tests: the same seed gives the same run.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// The device.
#[derive(Clone, Debug)]
pub struct CrashDev {
    media: Vec<u8>,
    visible: Vec<u8>,
    /// Sectors written and acked, but not durable.
    cached: BTreeMap<u64, ()>,
    flying: BTreeMap<u64, DevOp>,
    /// Acks FUA writes and flushes without making anything durable: a lying cache.
    pub lies: bool,
    /// Keeps what it acked, FUA or not: power-loss protection.
    pub protected: bool,
    /// Bytes read.
    pub bytes_read: u64,
    journal: Option<Journal>,
}

impl CrashDev {
    /// A blank device.
    pub fn new(bytes: usize) -> CrashDev {
        CrashDev::of(vec![0; bytes])
    }
    /// A device with these contents, all of them durable.
    pub fn of(contents: Vec<u8>) -> CrashDev {
        CrashDev {
            visible: contents.clone(),
            media: contents,
            cached: BTreeMap::new(),
            flying: BTreeMap::new(),
            lies: false,
            protected: false,
            bytes_read: 0,
            journal: None,
        }
    }
    /// Writes down from now on what happens here; what is in the cache becomes durable.
    pub fn record(&mut self) {
        self.sync();
        self.journal = Some(Journal { base: self.media.clone(), changes: Vec::new() });
    }
    /// The recording, which ends.
    pub fn take_journal(&mut self) -> Option<Journal> {
        self.journal.take()
    }
    /// Changes recorded so far.
    pub fn recorded(&self) -> usize {
        self.journal.as_ref().map_or(0, |j| j.changes.len())
    }
    fn note(&mut self, change: impl FnOnce() -> Change) {
        if let Some(journal) = &mut self.journal {
            journal.changes.push(change());
        }
    }
    /// Contents as reads see them, to break bits on purpose; a change is durable.
    pub fn with_bytes(&mut self, f: impl FnOnce(&mut [u8])) {
        f(&mut self.visible);
        self.media.clone_from(&self.visible);
        self.cached.clear();
    }
    /// Contents.
    pub fn bytes(&self) -> &[u8] {
        &self.visible
    }
    /// Takes an operation.
    pub fn start(&mut self, op: DevOp) {
        match &op {
            DevOp::Write { id, offset, bufs, .. } => self.note(|| Change::Start(*id, *offset, bufs.clone())),
            DevOp::Discard { id, offset, len } => {
                self.note(|| Change::Start(*id, *offset, vec![Buf::copy_from(&vec![0; *len as usize])]));
            }
            DevOp::Read { .. } | DevOp::Flush { .. } => {}
        }
        let (DevOp::Write { id, .. } | DevOp::Read { id, .. } | DevOp::Flush { id } | DevOp::Discard { id, .. }) = &op;
        self.flying.insert(*id, op);
    }
    /// Ids of the operations running, in order.
    pub fn running(&self) -> Vec<u64> {
        self.flying.keys().copied().collect()
    }
    /// The operations running, for a failed test to print.
    pub fn describe(&self) -> Vec<&DevOp> {
        self.flying.values().collect()
    }
    /// Ends an operation well.
    pub fn finish(&mut self, id: u64) -> DevResult {
        match self.flying.remove(&id) {
            Some(DevOp::Write { offset, bufs, durable, .. }) => {
                let durable = (durable || self.protected) && !self.lies;
                self.store(offset, &bufs, durable);
                self.note(|| Change::End(id, durable));
                DevResult::Ok(Buf::empty())
            }
            Some(DevOp::Read { offset, len, .. }) => {
                let mut buf = BufMut::with_len(len as usize);
                match self.read_at(offset, buf.as_mut_slice()) {
                    Ok(()) => DevResult::Ok(buf.freeze()),
                    Err(e) => DevResult::Failed(e.0),
                }
            }
            Some(DevOp::Flush { .. }) => {
                self.sync();
                DevResult::Ok(Buf::empty())
            }
            Some(DevOp::Discard { offset, len, .. }) => {
                let at = offset as usize;
                let zeros = Buf::copy_from(&vec![0; len as usize]);
                if at + len as usize <= self.visible.len() {
                    self.store(offset, &[zeros], false);
                }
                self.note(|| Change::End(id, false));
                DevResult::Ok(Buf::empty())
            }
            None => DevResult::Failed("no such operation"),
        }
    }
    fn store(&mut self, offset: u64, bufs: &[Buf], durable: bool) {
        let mut at = offset as usize;
        for buf in bufs {
            self.visible[at..at + buf.len()].copy_from_slice(buf.as_slice());
            for sector in at / SLOT..(at + buf.len()) / SLOT {
                self.cached.insert(sector as u64, ());
                if durable {
                    self.keep(sector as u64);
                }
            }
            at += buf.len();
        }
    }
    fn keep(&mut self, sector: u64) {
        let at = sector as usize * SLOT;
        self.media[at..at + SLOT].copy_from_slice(&self.visible[at..at + SLOT]);
        self.cached.remove(&sector);
    }
    fn sync(&mut self) {
        if !self.lies {
            core::mem::take(&mut self.cached).into_keys().for_each(|s| self.keep(s));
            self.note(|| Change::Flush);
        }
    }
    /// Power fails: of everything that is not durable any subset of sectors survives.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        let mode = rng.below(4);
        let mut survives = move || match mode {
            0 => false,
            1 => true,
            _ => rng.below(2) == 0,
        };
        for sector in core::mem::take(&mut self.cached).into_keys() {
            if survives() {
                self.keep(sector);
            }
        }
        for op in core::mem::take(&mut self.flying).into_values() {
            let DevOp::Write { offset, bufs, .. } = op else { continue };
            let mut at = offset as usize;
            for sector in bufs.iter().flat_map(|b| b.as_slice().chunks(SLOT)) {
                if survives() {
                    self.media[at..at + SLOT].copy_from_slice(sector);
                }
                at += SLOT;
            }
        }
        self.visible.clone_from(&self.media);
        if let Some(journal) = &mut self.journal {
            journal.changes.push(Change::Cut(self.media.clone()));
        }
    }
}

impl SyncDev for CrashDev {
    fn geometry(&self) -> DevGeometry {
        DevGeometry { bytes: self.visible.len() as u64 }
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DevError> {
        self.bytes_read += buf.len() as u64;
        let at = offset as usize;
        let from = self.visible.get(at..at + buf.len()).ok_or(DevError("read behind the end"))?;
        buf.copy_from_slice(from);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), DevError> {
        if offset as usize + buf.len() > self.visible.len() {
            return Err(DevError("write behind the end"));
        }
        let buf = Buf::copy_from(buf);
        self.store(offset, core::slice::from_ref(&buf), false);
        self.note(|| Change::Cached(offset, buf));
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DevError> {
        self.sync();
        Ok(())
    }
}
