//! What a connection has to send: headers copied side by side, payloads by reference, all of
//! it in one vectored system call.

use drystone_types::Buf;
use std::collections::VecDeque;

/// A payload smaller than this is copied: a vector entry costs the kernel about as much.
const COPY_MAX: usize = 256;
/// The kernel takes at most this many vector entries (IOV_MAX).
pub(crate) const IOV_MAX: usize = 1024;

#[derive(Clone)]
enum Part {
    /// The next so many bytes of the heads.
    Head(usize),
    Body(Buf),
}

/// Bytes waiting to be sent, in order.
#[derive(Default, Clone)]
pub struct SendQueue {
    heads: Vec<u8>,
    heads_sent: usize,
    parts: VecDeque<Part>,
    /// Bytes of the first part that were sent.
    first_sent: usize,
    len: usize,
}

impl SendQueue {
    /// An empty queue.
    pub fn new() -> SendQueue {
        SendQueue::default()
    }
    /// Buffers for a file: none is copied, because their alignment matters there.
    pub(crate) fn of_whole(bufs: impl IntoIterator<Item = Buf>) -> SendQueue {
        let parts: VecDeque<Part> = bufs.into_iter().filter(|buf| !buf.is_empty()).map(Part::Body).collect();
        let len = parts.iter().map(|part| if let Part::Body(buf) = part { buf.len() } else { 0 }).sum();
        SendQueue { parts, len, ..SendQueue::default() }
    }
    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Appends a copy of `bytes`.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        let _ = self.push_head(|heads| {
            heads.extend_from_slice(bytes);
            Ok::<(), core::convert::Infallible>(())
        });
    }
    /// Lets `write` append to the headers itself; after an error nothing is queued of it.
    pub fn push_head<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let before = self.heads.len();
        let result = write(&mut self.heads);
        if result.is_err() {
            self.heads.truncate(before);
        }
        let added = self.heads.len().saturating_sub(before);
        if added > 0 {
            self.len += added;
            match self.parts.back_mut() {
                Some(Part::Head(len)) => *len += added,
                _ => self.parts.push_back(Part::Head(added)),
            }
        }
        result
    }
    /// Appends a payload without copying it (tiny ones are copied).
    pub fn push_buf(&mut self, buf: Buf) {
        if buf.len() <= COPY_MAX {
            return self.push_bytes(buf.as_slice());
        }
        self.len += buf.len();
        self.parts.push_back(Part::Body(buf));
    }
    /// Forgets everything but keeps the memory for the next use.
    pub(crate) fn clear(&mut self) {
        // One burst must not pin its header memory for the life of a connection.
        if self.heads.capacity() > 1 << 20 {
            self.heads = Vec::new();
        }
        self.heads.clear();
        self.parts.clear();
        (self.heads_sent, self.first_sent, self.len) = (0, 0, 0);
    }
    /// The front of the queue as slices for one system call.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut head = self.heads_sent;
        let mut skip = self.first_sent;
        self.parts.iter().take(IOV_MAX).map(move |part| {
            let slice = match part {
                Part::Head(len) => {
                    let start = head;
                    head += len;
                    self.heads.get(start..head).unwrap_or(&[])
                }
                Part::Body(buf) => buf.as_slice(),
            };
            let slice = slice.get(skip..).unwrap_or(&[]);
            skip = 0;
            slice
        })
    }
    /// The first `n` bytes are sent.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len = self.len.saturating_sub(n);
        self.first_sent += n;
        while let Some(part) = self.parts.front() {
            let (len, is_head) = match part {
                Part::Head(len) => (*len, true),
                Part::Body(buf) => (buf.len(), false),
            };
            if self.first_sent < len {
                break;
            }
            self.first_sent -= len;
            self.heads_sent += if is_head { len } else { 0 };
            self.parts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(queue: &SendQueue) -> Vec<u8> {
        queue.slices().flatten().copied().collect()
    }

    proptest! {
        #[test]
        fn any_split_of_sending_gives_the_same_bytes(
            parts in proptest::collection::vec((any::<bool>(), 0usize..600), 1..20),
            cuts in proptest::collection::vec(1usize..900, 0..40),
        ) {
            let mut queue = SendQueue::new();
            let mut expected = Vec::new();
            for (i, (body, len)) in parts.iter().enumerate() {
                let bytes = vec![i as u8; *len];
                if *body { queue.push_buf(Buf::copy_from(&bytes)) } else { queue.push_bytes(&bytes) }
                expected.extend_from_slice(&bytes);
            }
            for cut in cuts {
                prop_assert_eq!(&all(&queue), &expected);
                prop_assert_eq!(queue.len(), expected.len());
                let cut = cut.min(expected.len());
                queue.advance(cut);
                expected.drain(..cut);
            }
        }
    }

    #[test]
    fn neighbouring_headers_share_one_vector_entry() {
        let mut queue = SendQueue::new();
        queue.push_bytes(b"ab");
        queue.push_bytes(b"cd");
        queue.push_buf(Buf::copy_from(&[1; 4096]));
        queue.push_bytes(b"ef");
        assert_eq!(queue.slices().map(<[u8]>::len).collect::<Vec<_>>(), [4, 4096, 2]);
    }
}
