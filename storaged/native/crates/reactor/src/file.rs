//! A drive: a file or block device opened past the page cache, for us alone.

use crate::sys;
use core::fmt;
use std::fs::{File, OpenOptions as StdOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The engine's slot: offsets, lengths and buffers are multiples of it, so a device that needs
/// larger units cannot be used.
const BLOCK: u32 = 4096;

/// Why a drive could not be opened.
#[derive(Debug)]
pub enum FileError {
    /// There is no such file.
    Missing(PathBuf),
    /// Another process (or another opening in this one) holds it.
    InUse(PathBuf),
    /// It already exists and would have been created.
    Exists(PathBuf),
    /// Neither a file nor a block device.
    NotADrive(PathBuf),
    /// The file system cannot bypass its cache.
    NoDirectIo(PathBuf),
    /// Sectors larger than a block.
    SectorSize(PathBuf, u32),
    /// The size is 0 or not a multiple of a block.
    Size(PathBuf, u64),
    /// Any other error.
    Io(PathBuf, io::Error),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Missing(p) => write!(f, "{}: no such file or device", p.display()),
            FileError::InUse(p) => write!(f, "{}: is open elsewhere; stop the process that uses it", p.display()),
            FileError::Exists(p) => {
                write!(f, "{}: exists already and is not overwritten", p.display())
            }
            FileError::NotADrive(p) => {
                write!(f, "{}: is neither a file nor a block device", p.display())
            }
            FileError::NoDirectIo(p) => {
                write!(f, "{}: its file system has no direct I/O; put it on ext4 or xfs", p.display())
            }
            FileError::SectorSize(p, n) => write!(f, "{}: sectors of {n} bytes; at most {BLOCK} work", p.display()),
            FileError::Size(p, n) => write!(f, "{}: {n} bytes is not a positive multiple of {BLOCK}", p.display()),
            FileError::Io(p, e) => write!(f, "{}: {e}", p.display()),
        }
    }
}

impl std::error::Error for FileError {}

/// How to open.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Make a new sparse file of this many bytes; it must not exist.
    pub create: Option<u64>,
    /// Go through the page cache where direct I/O is missing (tests on such file systems).
    pub allow_cached: bool,
}

/// Facts about an open drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes.
    pub size: u64,
    /// Logical sector size.
    pub sector: u32,
    /// A block device, not a file.
    pub is_block_device: bool,
    /// The page cache is bypassed.
    pub direct: bool,
}

/// An open, exclusively locked drive. Give its descriptor to [`crate::Ctx::adopt`]; the lock
/// lives as long as the descriptor.
#[derive(Debug)]
pub struct DriveFile {
    file: File,
    geometry: Geometry,
}

impl DriveFile {
    /// Opens or creates a drive, locks it and looks at it.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<DriveFile, FileError> {
        let at = |e| FileError::Io(path.to_owned(), e);
        if options.create.is_none() {
            check_kind(path)?;
        }
        let (mut file, direct) = open_file(path, options)?;
        if !sys::try_lock(&file, false).map_err(at)? {
            return Err(FileError::InUse(path.to_owned()));
        }
        if let Some(size) = options.create {
            file.set_len(size).map_err(at)?;
            sync_parent(path).map_err(at)?;
        }
        let geometry = look(path, &mut file, direct)?;
        Ok(DriveFile { file, geometry })
    }

    /// Opens a drive that is only looked at, beside others that only look; one that a server has open is refused,
    /// because its log would change under the reader.
    pub fn open_to_read(path: &Path) -> Result<DriveFile, FileError> {
        let at = |e| FileError::Io(path.to_owned(), e);
        check_kind(path)?;
        let mut file = File::open(path).map_err(|e| open_error(path, e))?;
        if !sys::try_lock(&file, true).map_err(at)? {
            return Err(FileError::InUse(path.to_owned()));
        }
        let geometry = look(path, &mut file, false)?;
        Ok(DriveFile { file, geometry })
    }

    /// Facts about it.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
    /// The descriptor, to give to a reactor.
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }
}

impl AsFd for DriveFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check_kind(path: &Path) -> Result<(), FileError> {
    let kind = std::fs::metadata(path).map_err(|e| open_error(path, e))?.file_type();
    if kind.is_file() || kind.is_block_device() {
        Ok(())
    } else {
        Err(FileError::NotADrive(path.to_owned()))
    }
}

fn open_file(path: &Path, options: &OpenOptions) -> Result<(File, bool), FileError> {
    let is_device = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
    let try_open = |flags: i32| {
        // On a device O_EXCL also excludes mounts.
        let exclusive = if is_device { libc::O_EXCL } else { 0 };
        StdOptions::new()
            .read(true)
            .write(true)
            .create_new(options.create.is_some())
            .custom_flags(flags | exclusive | libc::O_CLOEXEC)
            .open(path)
    };
    match try_open(libc::O_DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            // Some file systems have made the file before they refused the flag.
            if options.create.is_some() {
                let _ = std::fs::remove_file(path);
            }
            if !options.allow_cached {
                return Err(FileError::NoDirectIo(path.to_owned()));
            }
            try_open(0).map(|file| (file, false)).map_err(|e| open_error(path, e))
        }
        Err(e) => Err(open_error(path, e)),
    }
}

fn open_error(path: &Path, e: io::Error) -> FileError {
    let path = path.to_owned();
    match e.raw_os_error() {
        Some(libc::ENOENT) => FileError::Missing(path),
        Some(libc::EEXIST) => FileError::Exists(path),
        Some(libc::EBUSY) => FileError::InUse(path),
        _ => FileError::Io(path, e),
    }
}

/// A new file is durable only when its folder's entry is.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn look(path: &Path, file: &mut File, direct: bool) -> Result<Geometry, FileError> {
    let at = |e| FileError::Io(path.to_owned(), e);
    let is_block_device = file.metadata().map_err(at)?.file_type().is_block_device();
    let size = file.seek(SeekFrom::End(0)).map_err(at)?;
    let sector = if is_block_device { sys::sector_size(file).map_err(at)? } else { 512 };
    if sector > BLOCK {
        return Err(FileError::SectorSize(path.to_owned(), sector));
    }
    if size == 0 || size % u64::from(BLOCK) != 0 {
        return Err(FileError::Size(path.to_owned(), size));
    }
    Ok(Geometry { size, sector, is_block_device, direct })
}

/// The first hole of a file in `range`: never written, reads as zeros. `None`: all of the range is
/// written. A file system that cannot tell says everything is.
pub fn next_hole(file: BorrowedFd<'_>, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    let raw = file.as_raw_fd();
    let Some(start) = sys::seek(raw, range.start, libc::SEEK_HOLE)?.filter(|at| *at < range.end) else {
        return Ok(None);
    };
    let end = sys::seek(raw, start, libc::SEEK_DATA)?.unwrap_or(range.end).min(range.end);
    Ok(Some(start..end))
}
