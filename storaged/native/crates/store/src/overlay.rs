//! A device whose writes stay in memory: what lies below is only read.

use crate::dev::{DevError, DevGeometry, SyncDev};
use crate::loc::SLOT;
use std::collections::BTreeMap;

/// Reads come from below, except for slots that were written here.
pub struct Overlay<'d> {
    below: &'d mut dyn SyncDev,
    slots: BTreeMap<u64, Vec<u8>>,
}

impl<'d> Overlay<'d> {
    /// Nothing written yet.
    pub fn new(below: &'d mut dyn SyncDev) -> Overlay<'d> {
        Overlay { below, slots: BTreeMap::new() }
    }
}

impl SyncDev for Overlay<'_> {
    fn geometry(&self) -> DevGeometry {
        self.below.geometry()
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DevError> {
        let first = offset / SLOT as u64;
        let count = (buf.len() / SLOT) as u64;
        let written = self.slots.range(first..first + count);
        let all = written.clone().count() as u64 == count;
        if !all {
            // One read of all of it: what was written here is a handful of slots.
            self.below.read_at(offset, buf)?;
        }
        for (slot, bytes) in written {
            let at = (slot - first) as usize * SLOT;
            if let Some(to) = buf.get_mut(at..at + SLOT) {
                to.copy_from_slice(bytes);
            }
        }
        Ok(())
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), DevError> {
        let first = offset / SLOT as u64;
        let whole = offset % SLOT as u64 == 0 && buf.len() % SLOT == 0;
        if !whole || offset + buf.len() as u64 > self.geometry().bytes {
            return Err(DevError("a write outside the device"));
        }
        for (slot, bytes) in (first..).zip(buf.chunks_exact(SLOT)) {
            self.slots.insert(slot, bytes.to_vec());
        }
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DevError> {
        Ok(())
    }
}
