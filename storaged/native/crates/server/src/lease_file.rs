//! The lease page as a file that the server and the beacon of one node map (ADR 0015).
//!
//! Both processes name the same folder. Whoever comes first makes the file; each holds a lock there as long as
//! it lives, so that there is one server and one beacon. Times in the page are readings of `CLOCK_MONOTONIC`:
//! the header says of which boot and time namespace, and a page of another clock is never used.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drystone_reactor::{FileLock, SharedWords};

use crate::lease::{LeasePage, WORDS};

/// "DSLEASE\0" as a little-endian number.
const MAGIC: u64 = u64::from_le_bytes(*b"DSLEASE\0");
/// Raised whenever a word changes its place or meaning. A page of another version is never used.
const VERSION: u64 = 1;
const PAGE_FILE: &str = "lease.page";
const NEW_FILE: &str = "lease.page.new";
/// Held while the page is looked at and made.
const MAKE_LOCK: &str = "lease.lock";
const SERVER_LOCK: &str = "server.lock";
const BEACON_LOCK: &str = "beacon.lock";
const HEADER_BYTES: usize = 40;
/// The other process makes a page in milliseconds, and a killed one's lock is freed with its last thread.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// Why a folder's page cannot be used.
#[derive(Debug)]
pub enum LeaseFileError {
    /// The operating system refused.
    Io(PathBuf, io::Error),
    /// Something that is not a lease page lies in its place.
    Foreign(PathBuf),
    /// Made by another version of the program.
    OtherVersion(u64),
    /// The other process counts another time: another time namespace.
    OtherClock,
    /// Others may write into the folder.
    Open(PathBuf),
    /// Another process of this kind uses the folder.
    InUse(&'static str, PathBuf),
}

impl core::fmt::Display for LeaseFileError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LeaseFileError::Io(path, e) => write!(f, "{}: {e}", path.display()),
            LeaseFileError::Foreign(path) => {
                write!(f, "{} is not a lease page; give run_dir a folder of its own", path.display())
            }
            LeaseFileError::OtherVersion(found) => {
                write!(f, "the lease page has version {found}, this program knows {VERSION}; run server and beacon of one version")
            }
            LeaseFileError::OtherClock => f.write_str(
                "the lease page counts the time of another time namespace; run server and beacon in the same one",
            ),
            LeaseFileError::Open(path) => {
                write!(f, "{} belongs to or may be written by others; it needs mode 0700 or 0755", path.display())
            }
            LeaseFileError::InUse(kind, path) => {
                write!(f, "another {kind} uses {}; give every node a run_dir of its own", path.display())
            }
        }
    }
}

impl std::error::Error for LeaseFileError {}

/// What holds a process's place at the page.
pub struct Seat {
    folder: PathBuf,
    inode: (u64, u64),
    _lock: FileLock,
}

impl Seat {
    /// Whether the folder still holds the mapped page. If somebody removed it, the other process will map
    /// another one, and nothing that is said here is heard.
    pub fn is_current(&self) -> bool {
        let found = std::fs::symlink_metadata(self.folder.join(PAGE_FILE));
        found.is_ok_and(|m| (m.dev(), m.ino()) == self.inode)
    }

    /// Whether no server process lives on this node: the kernel has freed its lock.
    pub fn server_is_gone(&self) -> bool {
        matches!(FileLock::is_held(&self.folder.join(SERVER_LOCK)), Ok(false))
    }
}

/// The server's side; `instance` is random for each start of the process and not 0.
pub fn attach_server(folder: &Path, instance: u64) -> Result<(LeasePage, Seat), LeaseFileError> {
    let lock = sit(folder, SERVER_LOCK, "server")?;
    let (words, inode) = open_page(folder, false)?;
    Ok((LeasePage::of_server(words, instance), Seat { folder: folder.to_owned(), inode, _lock: lock }))
}

/// The beacon's side: the page is zero afterwards. A page that no living process can use is made anew.
pub fn attach_beacon(folder: &Path, boot: u64) -> Result<(LeasePage, Seat), LeaseFileError> {
    let lock = sit(folder, BEACON_LOCK, "beacon")?;
    let (words, inode) = open_page(folder, true)?;
    Ok((LeasePage::of_beacon(words, boot), Seat { folder: folder.to_owned(), inode, _lock: lock }))
}

fn sit(folder: &Path, name: &str, kind: &'static str) -> Result<FileLock, LeaseFileError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let failed = |e| LeaseFileError::Io(folder.to_owned(), e);
    made.map_err(failed)?;
    let found = std::fs::metadata(folder).map_err(failed)?;
    let own = std::fs::metadata("/proc/self").map_err(failed)?.uid();
    if (found.uid() != own && found.uid() != 0) || found.mode() & 0o022 != 0 {
        // Whoever can write there can lend leases.
        return Err(LeaseFileError::Open(folder.to_owned()));
    }
    let path = folder.join(name);
    take_lock(&path)?.ok_or_else(|| LeaseFileError::InUse(kind, folder.to_owned()))
}

/// `None` when somebody holds it all the time.
fn take_lock(path: &Path) -> Result<Option<FileLock>, LeaseFileError> {
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match FileLock::try_take(path) {
            Ok(None) if Instant::now() < end => std::thread::sleep(LOCK_POLL),
            Ok(lock) => return Ok(lock),
            Err(e) => return Err(LeaseFileError::Io(path.to_owned(), e)),
        }
    }
}

fn open_page(folder: &Path, may_replace: bool) -> Result<(SharedWords, (u64, u64)), LeaseFileError> {
    let path = folder.join(PAGE_FILE);
    let failed = |e| LeaseFileError::Io(path.clone(), e);
    let _making = take_lock(&folder.join(MAKE_LOCK))?.ok_or_else(|| failed(ErrorKind::TimedOut.into()))?;
    let ours = header().map_err(failed)?;
    let file = match open_existing(&path)? {
        Some(file) => match judge(&file, &path, &ours)? {
            Verdict::Ours => file,
            Verdict::Dead => make(folder, &ours).map_err(failed)?,
            Verdict::OtherVersion(_) | Verdict::OtherClock if may_replace => make(folder, &ours).map_err(failed)?,
            Verdict::OtherVersion(found) => return Err(LeaseFileError::OtherVersion(found)),
            Verdict::OtherClock => return Err(LeaseFileError::OtherClock),
        },
        None => make(folder, &ours).map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    let words = SharedWords::map(&file, WORDS).map_err(failed)?;
    Ok((words, (metadata.dev(), metadata.ino())))
}

enum Verdict {
    Ours,
    /// Nobody alive can have it mapped: it is of an earlier boot, or was never finished.
    Dead,
    OtherVersion(u64),
    OtherClock,
}

fn judge(file: &File, path: &Path, ours: &[u64; 5]) -> Result<Verdict, LeaseFileError> {
    let failed = |e| LeaseFileError::Io(path.to_owned(), e);
    let metadata = file.metadata().map_err(failed)?;
    let mut bytes = [0u8; HEADER_BYTES];
    if metadata.len() >= HEADER_BYTES as u64 {
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    }
    let mut words = bytes.chunks_exact(8).map(|c| c.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b)));
    let found: [u64; 5] = std::array::from_fn(|_| words.next().unwrap_or(0));
    let [magic, version, boot_high, boot_low, clock] = found;
    let [_, our_version, our_high, our_low, our_clock] = *ours;
    Ok(match () {
        // Of a file that was cut short by a crash nothing can be mapped; it has no other content either.
        () if bytes == [0; HEADER_BYTES] && metadata.len() <= page_bytes() => Verdict::Dead,
        () if magic != MAGIC => return Err(LeaseFileError::Foreign(path.to_owned())),
        () if (boot_high, boot_low) != (our_high, our_low) => Verdict::Dead,
        () if version != our_version || metadata.len() != page_bytes() => Verdict::OtherVersion(version),
        () if clock != our_clock => Verdict::OtherClock,
        () => Verdict::Ours,
    })
}

fn page_bytes() -> u64 {
    (WORDS * size_of::<u64>()) as u64
}

fn open_existing(path: &Path) -> Result<Option<File>, LeaseFileError> {
    // Neither a link nor a pipe is followed or waited for; the folder is private, so nobody puts one there meanwhile.
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => Err(LeaseFileError::Foreign(path.to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(LeaseFileError::Io(path.to_owned(), e)),
        Ok(_) => {
            let file = File::options().read(true).write(true).open(path);
            file.map(Some).map_err(|e| LeaseFileError::Io(path.to_owned(), e))
        }
    }
}

fn make(folder: &Path, header: &[u64; 5]) -> io::Result<File> {
    let new = folder.join(NEW_FILE);
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&new)?;
    file.set_len(page_bytes())?;
    let bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.write_all(&bytes)?;
    // Only a finished page has the name that others open.
    std::fs::rename(&new, folder.join(PAGE_FILE))?;
    Ok(file)
}

/// Magic, version, boot id in two halves, time namespace.
fn header() -> io::Result<[u64; 5]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let boot = u128::from_str_radix(&digits, 16).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
    let low = u64::try_from(boot & u128::from(u64::MAX)).unwrap_or_default();
    let high = u64::try_from(boot >> 64).unwrap_or_default();
    Ok([MAGIC, VERSION, high, low, time_namespace()])
}

/// Number of the time namespace; 0 where the kernel has none.
fn time_namespace() -> u64 {
    let link = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    let digits: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}
