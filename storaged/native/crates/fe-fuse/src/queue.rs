//! The pure core: which request may be sent when, and what is sent again.
//!
//! # Why sending a write a second time is safe
//!
//! When a connection dies, nobody knows whether an unanswered write was applied. It is sent
//! again on the next connection, so it may be applied twice. That is harmless exactly if no
//! newer write to the same bytes can have been applied in between, and no reader can have
//! seen the newer bytes and then the older ones again. Both follow from one rule, enforced
//! here: **a request is not sent while an earlier unanswered one overlaps it, unless both
//! only read.** So at any time the unanswered requests that were sent and touch one byte are
//! either all reads, or a single change of it.
//!
//! The kernel alone would not guarantee it: a loop device passes on overlapping requests of
//! careless users as it gets them.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a request does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read bytes.
    Read,
    /// Write these bytes.
    Write(Vec<u8>),
    /// Make everything acknowledged durable.
    Flush,
    /// Give the range back.
    Trim,
    /// Make the range read as zeroes.
    WriteZeroes {
        /// Keep the range allocated.
        keep_allocated: bool,
    },
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub action: Action,
    /// First byte.
    pub offset: u64,
    /// Bytes; at most `u32::MAX` by the protocol.
    pub length: u32,
}

impl Request {
    /// Two requests whose order matters.
    fn conflicts(&self, other: &Self) -> bool {
        let both_read = self.action == Action::Read && other.action == Action::Read;
        !both_read && self.offset < other.end() && other.offset < self.end()
    }

    /// A flush is an empty range and so conflicts with nothing: it covers only what was
    /// acknowledged before it was issued, and that is already applied.
    fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }
}

struct Entry<T> {
    request: Arc<Request>,
    token: T,
    /// Earlier unanswered requests that have to be answered first.
    blockers: usize,
    sent: bool,
}

/// Unanswered requests, in the order in which they arrived. `T` is the caller's handle.
pub struct Queue<T> {
    entries: BTreeMap<u64, Entry<T>>,
    next_cookie: u64,
    bytes: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), next_cookie: 1, bytes: 0 }
    }
}

impl<T> Queue<T> {
    /// Takes a request in; it will be given out by [`Queue::take_ready`] when it may be sent.
    pub fn submit(&mut self, request: Request, token: T) {
        let before = |entry: &&Entry<T>| entry.request.conflicts(&request);
        let blockers = self.entries.values().filter(before).count();
        self.bytes = self.bytes.saturating_add(memory(&request));
        let request = Arc::new(request);
        self.entries.insert(self.next_cookie, Entry { request, token, blockers, sent: false });
        self.next_cookie = self.next_cookie.wrapping_add(1);
    }

    /// The oldest request that may be sent now; it counts as sent from here on.
    pub fn take_ready(&mut self) -> Option<(u64, Arc<Request>)> {
        let ready = |entry: &&mut Entry<T>| !entry.sent && entry.blockers == 0;
        let mut entries = self.entries.iter_mut();
        let (cookie, entry) = entries.find(|(_, entry)| ready(entry))?;
        entry.sent = true;
        Some((*cookie, entry.request.clone()))
    }

    /// The request of a reply, if it was sent on this connection.
    #[must_use]
    pub fn sent(&self, cookie: u64) -> Option<&Request> {
        let entry = self.entries.get(&cookie).filter(|entry| entry.sent)?;
        Some(&entry.request)
    }

    /// The request is answered: hands back its token, and frees those that waited for it.
    pub fn complete(&mut self, cookie: u64) -> Option<T> {
        self.sent(cookie)?;
        let done = self.entries.remove(&cookie)?;
        self.bytes = self.bytes.saturating_sub(memory(&done.request));
        for (_, later) in self.entries.range_mut(cookie..) {
            if later.request.conflicts(&done.request) {
                later.blockers = later.blockers.saturating_sub(1);
            }
        }
        Some(done.token)
    }

    /// The connection is gone: everything unanswered has to be sent again, oldest first.
    pub fn connection_lost(&mut self) {
        for entry in self.entries.values_mut() {
            entry.sent = false;
        }
    }

    /// The token of the request that has been waiting longest.
    #[must_use]
    pub fn oldest(&self) -> Option<&T> {
        Some(&self.entries.values().next()?.token)
    }

    /// Unanswered requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing is unanswered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory the unanswered requests hold, their answers included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn memory(request: &Request) -> usize {
    match request.action {
        Action::Read | Action::Write(_) => request.length as usize,
        Action::Flush | Action::Trim | Action::WriteZeroes { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(offset: u64, length: u32) -> Request {
        Request { action: Action::Write(vec![0; length as usize]), offset, length }
    }

    fn read(offset: u64, length: u32) -> Request {
        Request { action: Action::Read, offset, length }
    }

    #[test]
    fn requests_that_do_not_overlap_are_sent_together() {
        let mut queue = Queue::default();
        queue.submit(write(0, 10), 'a');
        queue.submit(write(10, 10), 'b');
        assert!(queue.take_ready().is_some() && queue.take_ready().is_some() && queue.take_ready().is_none());
    }

    #[test]
    fn an_overlapping_write_waits_for_the_earlier_answer() {
        let mut queue = Queue::default();
        queue.submit(write(0, 10), 'a');
        queue.submit(write(5, 10), 'b');
        let (first, _) = queue.take_ready().unwrap();
        assert!(queue.take_ready().is_none());
        assert_eq!(queue.complete(first), Some('a'));
        assert_eq!(queue.take_ready().unwrap().1.offset, 5);
    }

    #[test]
    fn reads_of_the_same_bytes_do_not_wait_for_each_other_but_for_a_write() {
        let mut queue = Queue::default();
        queue.submit(read(0, 10), 'a');
        queue.submit(read(0, 10), 'b');
        queue.submit(write(0, 10), 'c');
        queue.submit(read(0, 10), 'd');
        let (a, _) = queue.take_ready().unwrap();
        let (b, _) = queue.take_ready().unwrap();
        assert!(queue.take_ready().is_none());
        queue.complete(a);
        assert!(queue.take_ready().is_none());
        queue.complete(b);
        let (c, _) = queue.take_ready().unwrap();
        assert!(queue.take_ready().is_none());
        queue.complete(c);
        assert!(queue.take_ready().is_some());
    }

    #[test]
    fn a_lost_connection_sends_the_unanswered_again_in_their_order() {
        let mut queue = Queue::default();
        for offset in [0u64, 100, 200] {
            queue.submit(write(offset, 10), offset);
        }
        let (first, _) = queue.take_ready().unwrap();
        queue.take_ready().unwrap();
        assert_eq!(queue.complete(first), Some(0));
        queue.connection_lost();
        assert_eq!(queue.take_ready().unwrap().1.offset, 100);
        assert_eq!(queue.take_ready().unwrap().1.offset, 200);
    }

    #[test]
    fn an_answer_to_something_not_sent_is_not_taken() {
        let mut queue = Queue::default();
        queue.submit(write(0, 10), 'a');
        assert_eq!(queue.complete(1), None);
        assert_eq!(queue.complete(77), None);
        assert_eq!(queue.len(), 1);
    }

    proptest! {
        /// Whatever is submitted, answered and lost: what is outstanding at once never
        /// conflicts, everything is answered in the end, and no memory stays behind.
        #[test]
        fn outstanding_requests_never_conflict(
            steps in proptest::collection::vec((0u8..6, 0u64..64, 1u32..16), 1..120)
        ) {
            let mut queue = Queue::default();
            let mut outstanding: BTreeMap<u64, Request> = BTreeMap::new();
            let mut submitted = 0usize;
            let mut answered = 0usize;
            for (kind, offset, length) in steps {
                match kind {
                    0 => { queue.submit(read(offset, length), ()); submitted += 1; }
                    1 | 2 => { queue.submit(write(offset, length), ()); submitted += 1; }
                    3 => if let Some((cookie, request)) = queue.take_ready() {
                        for other in outstanding.values() {
                            prop_assert!(!other.conflicts(&request));
                        }
                        outstanding.insert(cookie, (*request).clone());
                    },
                    4 => if let Some((cookie, _)) = outstanding.pop_last() {
                        prop_assert!(queue.complete(cookie).is_some());
                        answered += 1;
                    },
                    _ => { queue.connection_lost(); outstanding.clear(); }
                }
            }
            queue.connection_lost();
            while let Some((cookie, _)) = queue.take_ready() {
                prop_assert!(queue.complete(cookie).is_some());
                answered += 1;
            }
            prop_assert_eq!(submitted, answered);
            prop_assert!(queue.is_empty() && queue.bytes() == 0);
        }
    }
}
