//! A drive file or device opened for reading only: a look at it cannot change it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use drystone_reactor::{DriveFile, FileError};
use drystone_store::{DevError, DevGeometry, SyncDev};

/// A drive that is only read.
pub struct ReadDrive {
    file: File,
    size: u64,
}

impl ReadDrive {
    /// Opens a file or device; refuses one that a server has open.
    pub fn open(path: &Path) -> Result<ReadDrive, FileError> {
        let drive = DriveFile::open_to_read(path)?;
        let size = drive.geometry().size;
        Ok(ReadDrive { file: File::from(drive.into_fd()), size })
    }
}

impl SyncDev for ReadDrive {
    fn geometry(&self) -> DevGeometry {
        DevGeometry { bytes: self.size }
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DevError> {
        self.file.read_exact_at(buf, offset).map_err(|_| DevError("it cannot be read there; see the kernel log"))
    }
    fn write_at(&mut self, _: u64, _: &[u8]) -> Result<(), DevError> {
        Err(DevError("it is open for reading only"))
    }
    fn flush(&mut self) -> Result<(), DevError> {
        Ok(())
    }
}
