//! Memory that processes of one machine share through a file, and locks that say who lives.
//!
//! The words are atomics and nothing else: whatever another process writes there, at whatever
//! moment it dies, every load gives some number that was stored.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// A file mapped as words that every process with the same file sees.
///
/// Nobody may cut the file while it is mapped: the kernel would end this process (SIGBUS).
#[derive(Debug)]
pub struct SharedWords {
    at: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to the process and not to a thread, and is only touched by atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `words` words of a file that is open for reading and writing.
    pub fn map(file: &File, words: usize) -> io::Result<SharedWords> {
        let len = words * size_of::<AtomicU64>();
        if words == 0 || file.metadata()?.len() < len as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is shorter than what is to be mapped"));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so no memory of ours is replaced; the file has all the bytes (checked).
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        Ok(SharedWords { at, words })
    }

    /// One word.
    pub fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.words {
            return None;
        }
        // SAFETY: the index is inside the mapping, which is page-aligned, lives as long as `self`,
        // and is accessed by nobody but through atomics; any bits are a valid u64.
        Some(unsafe { self.at.add(index).as_ref() })
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` made; no reference outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}

/// A lock that the kernel frees when its holder ends, however it ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes it; `None` while another process (or another lock of this one) holds it.
    pub fn try_take(path: &Path) -> io::Result<Option<FileLock>> {
        let file = lock_file(path)?;
        let mut wanted = whole_file();
        // SAFETY: the pointer leads to `wanted`, which lives through the call.
        let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut wanted) };
        if done == 0 {
            return Ok(Some(FileLock { _file: file }));
        }
        match io::Error::last_os_error() {
            e if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(None),
            e => Err(e),
        }
    }

    /// Whether somebody holds it, without being in anybody's way.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        let file = lock_file(path)?;
        let mut found = whole_file();
        // SAFETY: the pointer leads to `found`, which lives through the call.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut found) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(libc::c_int::from(found.l_type) != libc::F_UNLCK)
    }
}

fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

fn whole_file() -> libc::flock {
    // SAFETY: all-zero bytes are a valid flock: from the start, to the end whatever the length, no process.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}
