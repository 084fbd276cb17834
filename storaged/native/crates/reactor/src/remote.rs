//! Commands from other threads: a bounded queue and a wake-up that is only sent to a sleeper.

use crate::sys;
use core::fmt;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Commands that may wait. A reactor drains all of them every turn, so a full queue means it
/// is stuck; the sender learns of it instead of filling the memory.
const QUEUE_MAX: usize = 65_536;

struct Shared<C> {
    queue: Mutex<VecDeque<C>>,
    /// Length of the queue, readable without the lock.
    waiting: AtomicUsize,
    /// The reactor is about to sleep or sleeps: a sender must wake it.
    asleep: AtomicBool,
    gone: AtomicBool,
    wake: OwnedFd,
}

impl<C> Shared<C> {
    /// A panic while holding the lock cannot leave the queue half-changed.
    fn lock(&self) -> MutexGuard<'_, VecDeque<C>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends commands to one reactor from any thread.
pub struct Remote<C>(Arc<Shared<C>>);

impl<C> Clone for Remote<C> {
    fn clone(&self) -> Remote<C> {
        Remote(Arc::clone(&self.0))
    }
}

/// Why a command was not taken; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<C> {
    /// The reactor has ended.
    Gone(C),
    /// The reactor is stuck: 65 536 commands wait.
    Full(C),
}

impl<C> fmt::Display for SendError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Gone(_) => write!(f, "the reactor has ended"),
            SendError::Full(_) => write!(f, "the reactor does not take commands: {QUEUE_MAX} are waiting"),
        }
    }
}

impl<C: fmt::Debug> std::error::Error for SendError<C> {}

impl<C: Send> Remote<C> {
    /// Queues a command; the reactor's handler gets it in the order of sending.
    pub fn send(&self, command: C) -> Result<(), SendError<C>> {
        let mut queue = self.0.lock();
        if self.0.gone.load(Ordering::SeqCst) {
            return Err(SendError::Gone(command));
        }
        if queue.len() >= QUEUE_MAX {
            return Err(SendError::Full(command));
        }
        queue.push_back(command);
        self.0.waiting.store(queue.len(), Ordering::SeqCst);
        drop(queue);
        // The reactor sets `asleep` and then looks at `waiting`; we do it the other way round.
        // Both orders are total (SeqCst), so at least one side sees the other.
        if self.0.asleep.swap(false, Ordering::SeqCst) {
            sys::eventfd_signal(&self.0.wake);
        }
        Ok(())
    }
}

/// The receiving end; give it to the reactor.
pub struct Inbox<C>(Arc<Shared<C>>);

/// A pair of ends. Made before the reactor, so that its thread can be started with the inbox.
pub fn channel<C: Send>() -> io::Result<(Remote<C>, Inbox<C>)> {
    let shared = Arc::new(Shared {
        queue: Mutex::new(VecDeque::new()),
        waiting: AtomicUsize::new(0),
        asleep: AtomicBool::new(false),
        gone: AtomicBool::new(false),
        wake: sys::eventfd()?,
    });
    Ok((Remote(Arc::clone(&shared)), Inbox(shared)))
}

impl<C> Inbox<C> {
    pub(crate) fn wake_fd(&self) -> RawFd {
        self.0.wake.as_raw_fd()
    }
    pub(crate) fn has_waiting(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst) > 0
    }
    /// Takes everything that waits, in exchange for the empty queue `into`.
    pub(crate) fn drain(&self, into: &mut VecDeque<C>) {
        if self.has_waiting() {
            let mut queue = self.0.lock();
            std::mem::swap(&mut *queue, into);
            self.0.waiting.store(queue.len(), Ordering::SeqCst);
        }
    }
    /// Announces sleep; `false` means something came in and sleeping would miss it.
    pub(crate) fn may_sleep(&self) -> bool {
        self.0.asleep.store(true, Ordering::SeqCst);
        if self.has_waiting() {
            self.awake();
            return false;
        }
        true
    }
    pub(crate) fn awake(&self) {
        self.0.asleep.store(false, Ordering::SeqCst);
    }
}

impl<C> Drop for Inbox<C> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        self.0.gone.store(true, Ordering::SeqCst);
        queue.clear();
    }
}
