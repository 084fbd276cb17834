//! What a process on the path of the host's own write-back asks of the kernel.

use crate::sys;
use std::io;

/// Memory allocation of this thread never waits for file write-back, which may wait for us: a
/// local block device under memory pressure would otherwise deadlock. Threads started later
/// inherit it. Needs CAP_SYS_RESOURCE.
pub fn become_io_flusher() -> io::Result<()> {
    sys::io_flusher()
}

/// Pages of this process, once touched, are never swapped out. Needs CAP_IPC_LOCK or a
/// sufficient RLIMIT_MEMLOCK.
pub fn lock_memory() -> io::Result<()> {
    sys::lock_memory()
}

/// Keeps the calling thread on one CPU.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    sys::pin_to_cpu(cpu)
}

/// Gives memory that the allocator keeps for reuse back to the system: after work that needed much
/// for a short time, such as the replay of a log.
pub fn give_back_memory() {
    sys::give_back_memory();
}
