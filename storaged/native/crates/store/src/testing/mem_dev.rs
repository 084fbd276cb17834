//! A device that is a vector.

use crate::dev::{DevError, DevGeometry, SyncDev};

/// Memory as a device; it counts what is read.
#[derive(Clone, Debug)]
pub struct MemDev {
    /// Contents.
    pub bytes: Vec<u8>,
    /// Bytes read.
    pub bytes_read: u64,
}

impl MemDev {
    /// A blank device.
    pub fn new(bytes: usize) -> MemDev {
        MemDev { bytes: vec![0; bytes], bytes_read: 0 }
    }
}

impl SyncDev for MemDev {
    fn geometry(&self) -> DevGeometry {
        DevGeometry { bytes: self.bytes.len() as u64 }
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DevError> {
        self.bytes_read += buf.len() as u64;
        let at = offset as usize;
        let from = self.bytes.get(at..at + buf.len()).ok_or(DevError("read behind the end"))?;
        buf.copy_from_slice(from);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), DevError> {
        let at = offset as usize;
        let to = self.bytes.get_mut(at..at + buf.len()).ok_or(DevError("write behind the end"))?;
        to.copy_from_slice(buf);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DevError> {
        Ok(())
    }
}
