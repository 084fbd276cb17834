//! News from native threads to the process around them: a queue and a descriptor that becomes
//! readable. Putting never blocks; the process may be slow.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

/// Events kept for a process that does not take them; beyond it the oldest are lost. Not all of them are
/// asked for again by the cores, so a process that finds this many at once must end and begin anew
/// (`agent/pump.py` has the same number; a test compares them).
const EVENTS_MAX: usize = 65_536;

struct Shared<E> {
    queue: Mutex<VecDeque<E>>,
    wake: UnixStream,
}

/// Where native threads put events.
pub struct EventSink<E>(Arc<Shared<E>>);

impl<E> Clone for EventSink<E> {
    fn clone(&self) -> Self {
        EventSink(Arc::clone(&self.0))
    }
}

/// Where the process takes them.
pub struct EventSource<E> {
    shared: Arc<Shared<E>>,
    ready: UnixStream,
}

/// Both ends.
pub fn mailbox<E>() -> io::Result<(EventSink<E>, EventSource<E>)> {
    let (wake, ready) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    ready.set_nonblocking(true)?;
    let shared = Arc::new(Shared { queue: Mutex::new(VecDeque::new()), wake });
    Ok((EventSink(Arc::clone(&shared)), EventSource { shared, ready }))
}

impl<E> EventSink<E> {
    /// Queues an event and wakes the process when it may be asleep.
    pub fn put(&self, event: E) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= EVENTS_MAX {
            queue.pop_front();
        }
        queue.push_back(event);
        let first = queue.len() == 1;
        drop(queue);
        if first {
            // A full pipe means that the process is being woken already.
            let _ = (&self.0.wake).write(&[1]);
        }
    }
}

impl<E> EventSource<E> {
    /// Readable when there are events.
    pub fn fd(&self) -> RawFd {
        self.ready.as_raw_fd()
    }
    /// Everything that is there.
    pub fn take(&self) -> VecDeque<E> {
        let mut sink = [0u8; 64];
        while matches!((&self.ready).read(&mut sink), Ok(n) if n > 0) {}
        core::mem::take(&mut *self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_taken_in_order_and_once() {
        let (sink, source) = mailbox().unwrap();
        sink.put(1);
        sink.clone().put(2);
        assert_eq!(source.take(), [1, 2]);
        assert!(source.take().is_empty());
    }

    #[test]
    fn a_process_that_does_not_look_costs_bounded_memory() {
        let (sink, source) = mailbox().unwrap();
        for i in 0..EVENTS_MAX + 5 {
            sink.put(i);
        }
        let taken = source.take();
        assert_eq!((taken.len(), taken.front()), (EVENTS_MAX, Some(&5)));
    }
}
