//! Blocking access to a drive before it is served: format, inspect, open.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use drystone_reactor::{DriveFile, FileError, OpenOptions};
use drystone_store::{DevError, DevGeometry, SyncDev};
use drystone_types::BufMut;

/// A drive file for the store's blocking calls at format and open.
pub struct OpenDrive {
    file: File,
    size: u64,
    direct: bool,
    is_block_device: bool,
}

impl OpenDrive {
    /// Opens and locks a file or device; creates it with `create` bytes when asked to.
    pub fn open(path: &Path, create: Option<u64>) -> Result<OpenDrive, FileError> {
        let drive = DriveFile::open(path, &OpenOptions { create, allow_cached: true })?;
        let g = drive.geometry();
        let file = File::from(drive.into_fd());
        Ok(OpenDrive { file, size: g.size, direct: g.direct, is_block_device: g.is_block_device })
    }
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// Whether the page cache is bypassed.
    pub fn is_direct(&self) -> bool {
        self.direct
    }
    /// Whether it is a regular file, which may have holes.
    pub fn is_file(&self) -> bool {
        !self.is_block_device
    }
    /// The descriptor, for a reactor; the lock goes with it.
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }
}

fn refused(_: std::io::Error) -> DevError {
    DevError("the operating system refused it; see the kernel log")
}

impl SyncDev for OpenDrive {
    fn geometry(&self) -> DevGeometry {
        DevGeometry { bytes: self.size }
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DevError> {
        // Through an aligned buffer: the caller's may lie anywhere, direct I/O wants pages.
        let mut aligned = BufMut::with_len(buf.len());
        self.file.read_exact_at(aligned.as_mut_slice(), offset).map_err(refused)?;
        buf.copy_from_slice(aligned.as_slice());
        Ok(())
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), DevError> {
        let mut aligned = BufMut::with_len(buf.len());
        aligned.as_mut_slice().copy_from_slice(buf);
        self.file.write_all_at(aligned.as_slice(), offset).map_err(refused)
    }
    fn flush(&mut self) -> Result<(), DevError> {
        self.file.sync_data().map_err(refused)
    }
}
