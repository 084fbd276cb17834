//! Settings of a reactor, and why it may fail to start.

use core::fmt;
use std::io;

/// Settings of one reactor.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Entries of the submission queue. More operations than this in one turn cost one more
    /// system call per queue-full; 512 covers a full burst of the busiest server.
    pub entries: u32,
    /// The longest time to look for work before sleeping, in microseconds. A sleeping virtual CPU
    /// costs about 30 µs to wake; looking hides that at the price of the CPU. Within this limit the
    /// reactor learns how long it pays: an idle one, or one whose events come further apart than
    /// this, does not look at all. 0 (default) never does.
    pub spin_us: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config { entries: 512, spin_us: 0 }
    }
}

/// Why a reactor could not be set up.
#[derive(Debug)]
pub enum SetupError {
    /// The kernel refuses io_uring to this process.
    Forbidden,
    /// The kernel has no io_uring, or one too old (5.19 is needed).
    TooOld,
    /// Any other refusal, mostly for want of memory or descriptors.
    Io(io::Error),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupError::Forbidden => write!(
                f,
                "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0 and allow the \
                 io_uring system calls in the container's seccomp profile"
            ),
            SetupError::TooOld => write!(f, "this kernel's io_uring is too old: Linux 5.19 or newer is needed"),
            SetupError::Io(e) => write!(f, "io_uring could not be set up: {e}"),
        }
    }
}

impl std::error::Error for SetupError {}

impl From<io::Error> for SetupError {
    fn from(e: io::Error) -> SetupError {
        match e.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => SetupError::Forbidden,
            Some(libc::ENOSYS | libc::EINVAL) => SetupError::TooOld,
            _ => SetupError::Io(e),
        }
    }
}
