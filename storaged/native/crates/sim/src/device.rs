//! A drive's medium with a volatile cache: what was not flushed may be lost, in any subset of 4 KiB
//! sectors, when the power goes; what is in flight may be torn.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use drystone_store::api::{DevOp, DevResult};
use drystone_types::{Buf, BufMut};

use crate::rng::Rng;
use crate::shadow::Shadow;

mod wrong;

pub use wrong::Wrong;

const SECTOR: u64 = 4096;

/// The medium. Survives restarts of the process that uses it.
#[derive(Debug, Default)]
pub struct Device {
    size: u64,
    stable: HashMap<u64, Buf>,
    cache: Vec<(u64, Buf)>,
    inflight: BTreeMap<u64, DevOp>,
    /// When what is in flight was submitted.
    pub began: BTreeMap<u64, u64>,
    /// Says "durable" for what is only in its cache (a lying cache).
    pub lies: bool,
    /// The power went while it lied.
    pub caught: bool,
    /// Sectors that cannot be read now; a write does not cure them (scripts).
    pub unreadable: BTreeSet<u64>,
    /// Sectors lost or torn by power cuts so far.
    pub sectors_lost: u64,
    /// What the bytes written here say.
    pub shadow: Shadow,
    /// Which sectors of the writes in flight survive the next power cut (scripts): write, sector within it.
    pub keep: Option<fn(usize, usize) -> bool>,
    /// Sectors that were damaged and not written since.
    pub spoilt: BTreeSet<u64>,
    /// Reads that met one of them.
    pub met: std::cell::Cell<u64>,
    /// Damaged sectors that were written anew.
    pub replaced: u64,
    /// What the next write that it fits does wrong, and until when.
    pub wrong: Option<(Wrong, u64)>,
    /// Per mille of reads that fail, and until when.
    pub read_errors: (u64, u64),
    /// Sectors that cannot be read until they are written again.
    pub latent: BTreeSet<u64>,
    /// Per mille of the cached sectors that survive a power cut (scripts); else the cut decides.
    pub cache_kept: Option<u64>,
}

impl Device {
    /// A blank device.
    pub fn new(size: u64) -> Device {
        Device { size, ..Device::default() }
    }
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// Takes an operation; it ends with `finish`.
    pub fn submit(&mut self, id: u64, op: DevOp) {
        self.shadow.submitted(&op);
        self.inflight.insert(id, op);
    }
    /// Ends an operation that was submitted; `None` when a power cut or restart took it.
    pub fn finish(&mut self, id: u64) -> Option<DevResult> {
        self.began.remove(&id);
        let op = self.inflight.remove(&id)?;
        self.shadow.finished(&op);
        Some(match op {
            DevOp::Write { offset, bufs, durable, .. } => {
                self.write(offset, &bufs, durable && !self.lies);
                DevResult::Ok(Buf::empty())
            }
            DevOp::Read { offset, len, .. } if self.meets_unreadable(offset, len as usize) => {
                DevResult::Failed("the device cannot read a sector")
            }
            DevOp::Read { offset, len, .. } => DevResult::Ok(self.read(offset, len as usize)),
            DevOp::Flush { .. } => {
                if !self.lies {
                    self.flush();
                }
                DevResult::Ok(Buf::empty())
            }
            DevOp::Discard { offset, len, .. } => {
                for sector in offset / SECTOR..(offset + len) / SECTOR {
                    self.stable.remove(&sector);
                    self.cache.retain(|(s, _)| *s != sector);
                    self.spoilt.remove(&sector);
                    self.latent.remove(&sector);
                }
                DevResult::Ok(Buf::empty())
            }
        })
    }
    /// Writes at once.
    pub fn write(&mut self, offset: u64, bufs: &[Buf], durable: bool) {
        let mut sector = offset / SECTOR;
        if !self.spoilt.is_empty() {
            let end = sector + bufs.iter().map(|b| b.len() as u64 / SECTOR).sum::<u64>();
            let before = self.spoilt.len();
            self.spoilt.retain(|s| !(sector..end).contains(s));
            self.latent.retain(|s| !(sector..end).contains(s));
            self.replaced += (before - self.spoilt.len()) as u64;
        }
        for buf in bufs {
            for i in 0..buf.len() / 4096 {
                if durable {
                    // A durable write replaces what the cache holds of the sector.
                    if !self.cache.is_empty() {
                        self.cache.retain(|(s, _)| *s != sector);
                    }
                    self.stable.insert(sector, buf.block(i));
                } else {
                    self.cache.push((sector, buf.block(i)));
                }
                sector += 1;
            }
        }
    }
    fn meets_unreadable(&self, offset: u64, len: usize) -> bool {
        let end = offset + len as u64;
        let range = offset / SECTOR..end.div_ceil(SECTOR);
        self.unreadable.range(range.clone()).chain(self.latent.range(range)).next().is_some()
    }
    /// What a copy of the medium would hold, sector by sector.
    pub fn copy(&self) -> Device {
        Device { size: self.size, stable: self.stable.clone(), ..Device::default() }
    }
    /// Whether a sector holds exactly these bytes.
    pub fn holds(&self, sector: u64, bytes: &Buf) -> bool {
        let cached = self.cache.iter().rev().find(|(s, _)| *s == sector).map(|(_, b)| b);
        let found = cached.or_else(|| self.stable.get(&sector));
        // What was never written reads as zeros, as in `read`.
        found.map_or(bytes.as_slice().iter().all(|b| *b == 0), |b| b.as_slice() == bytes.as_slice())
    }
    /// Reads at once, through the cache.
    pub fn read(&self, offset: u64, len: usize) -> Buf {
        let range = offset / SECTOR..offset / SECTOR + (len as u64).div_ceil(SECTOR);
        self.met.set(self.met.get() + self.spoilt.range(range).count() as u64);
        let mut out = BufMut::zeroed(len);
        for (i, chunk) in out.as_mut_slice().chunks_mut(4096).enumerate() {
            let sector = offset / SECTOR + i as u64;
            let cached = self.cache.iter().rev().find(|(s, _)| *s == sector).map(|(_, b)| b);
            if let Some(b) = cached.or_else(|| self.stable.get(&sector)) {
                if let Some(bytes) = b.as_slice().get(..chunk.len()) {
                    chunk.copy_from_slice(bytes);
                }
            }
        }
        out.freeze()
    }
    /// Everything in the cache becomes durable.
    pub fn flush(&mut self) {
        for (sector, buf) in self.cache.drain(..) {
            self.stable.insert(sector, buf);
        }
    }
    /// The process died; the kernel finishes some of what was in flight, in no order.
    pub fn process_gone(&mut self, rng: &mut Rng) {
        self.shadow.stopped();
        self.began.clear();
        let ops = std::mem::take(&mut self.inflight);
        for op in ops.into_values() {
            if let (DevOp::Write { offset, bufs, durable, .. }, true) = (op, rng.chance(500)) {
                self.write(offset, &bufs, durable && !self.lies);
            }
        }
    }
    /// The power went: a random subset of unflushed sectors and of writes in flight is lost.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        let keep = [0, 300, 500, 900].get(rng.index(4)).copied().unwrap_or(0);
        let keep = self.cache_kept.unwrap_or(keep);
        self.shadow.stopped();
        self.began.clear();
        let ops = std::mem::take(&mut self.inflight);
        let keep_these = self.keep.take();
        let writes = ops.into_values().filter_map(|op| match op {
            DevOp::Write { offset, bufs, .. } => Some((offset, bufs)),
            _ => None,
        });
        for (n, (offset, bufs)) in writes.enumerate() {
            let Some(keep) = keep_these else {
                self.write(offset, &bufs, false);
                continue;
            };
            let sectors = bufs.iter().flat_map(|b| (0..b.len() / 4096).map(|i| b.block(i)));
            for (i, buf) in sectors.enumerate().filter(|(i, _)| keep(n, *i)) {
                self.stable.insert(offset / SECTOR + i as u64, buf);
            }
        }
        if self.lies {
            self.shadow.distrust();
            self.caught = true;
        }
        for (sector, buf) in std::mem::take(&mut self.cache) {
            if rng.chance(keep) {
                self.stable.insert(sector, buf);
            } else {
                self.sectors_lost += 1;
            }
        }
    }
    /// Flips one bit of a stored sector. Returns whether there was one.
    pub fn flip(&mut self, sector: u64, bit: usize) -> bool {
        let Some(buf) = self.stable.get(&sector) else { return false };
        let mut bytes = buf.as_slice().to_vec();
        if let Some(byte) = bytes.get_mut(bit / 8 % 4096) {
            *byte ^= 1 << (bit % 8);
        }
        self.spoil(sector, Buf::copy_from(&bytes));
        true
    }
    /// Puts other bytes in the place of a sector, and counts from now on who meets them.
    pub fn spoil(&mut self, sector: u64, bytes: Buf) {
        self.stable.insert(sector, bytes);
        self.spoilt.insert(sector);
    }
    /// Sectors that hold something durable, ascending.
    pub fn sectors(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.stable.keys().copied().collect();
        all.sort_unstable();
        all
    }
    /// A stored sector.
    pub fn sector(&self, sector: u64) -> Option<&[u8]> {
        self.stable.get(&sector).map(Buf::as_slice)
    }
}
