//! Page-aligned, reference-counted, pooled buffers: what arrives from a socket is what goes
//! to the drive, without a copy in between.
//!
//! Alignment without `unsafe`: a byte vector one page longer than asked, used from its first
//! aligned byte. A dropped buffer returns to a small per-thread pool, because the data path
//! takes one per request and the allocator would be its largest cost.

use core::ops::Range;
use std::cell::RefCell;
use std::sync::Arc;

/// Alignment of every buffer: what O_DIRECT wants on any drive.
pub const ALIGN: usize = 4096;
/// Size classes pooled: 1, 2, 4 … 512 pages; larger buffers are rare and go to the allocator.
const CLASSES: usize = 10;
/// Most idle bytes one thread keeps per class: bounds idle memory to 20 MiB a thread.
const POOL_CLASS_BYTES_MAX: usize = 2 << 20;

thread_local! {
    static POOL: RefCell<[Vec<Raw>; CLASSES]> = const { RefCell::new([const { Vec::new() }; CLASSES]) };
}

struct Raw {
    bytes: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl Raw {
    fn new(capacity: usize) -> Raw {
        let bytes = vec![0u8; capacity + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Raw { bytes, start, capacity }
    }
    fn take(len: usize) -> Raw {
        let pages = len.div_ceil(ALIGN).max(1);
        let Some(class) = class_of(pages) else {
            return Raw::new(pages * ALIGN);
        };
        let pooled = POOL.try_with(|p| p.try_borrow_mut().ok().and_then(|mut p| p.get_mut(class).and_then(Vec::pop)));
        pooled.ok().flatten().unwrap_or_else(|| Raw::new(ALIGN << class))
    }
    fn give_back(self) {
        let Some(class) = class_of(self.capacity / ALIGN) else {
            return;
        };
        let _ = POOL.try_with(|p| {
            let Ok(mut p) = p.try_borrow_mut() else {
                return;
            };
            let Some(list) = p.get_mut(class) else { return };
            if (list.len() + 1) * self.capacity <= POOL_CLASS_BYTES_MAX {
                list.push(self);
            }
        });
    }
}

fn class_of(pages: usize) -> Option<usize> {
    let class = pages.next_power_of_two().trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

struct Owner {
    raw: Option<Raw>,
    len: usize,
}

impl Owner {
    fn slice(&self) -> &[u8] {
        self.raw.as_ref().and_then(|r| r.bytes.get(r.start..r.start + self.len)).unwrap_or(&[])
    }
    fn slice_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.raw.as_mut().and_then(|r| r.bytes.get_mut(r.start..r.start + len)).unwrap_or(&mut [])
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            raw.give_back();
        }
    }
}

/// A buffer being filled; not shared.
pub struct BufMut {
    owner: Owner,
}

impl BufMut {
    /// A buffer of `len` bytes with **unspecified old contents** (pooled): for callers that
    /// fill all of it. `len` must already be bounded by the caller.
    pub fn with_len(len: usize) -> BufMut {
        BufMut { owner: Owner { raw: Some(Raw::take(len)), len } }
    }
    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> BufMut {
        let mut buf = BufMut::with_len(len);
        buf.as_mut_slice().fill(0);
        buf
    }
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.owner.len
    }
    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.owner.len == 0
    }
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.owner.slice()
    }
    /// The bytes, to be filled.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.owner.slice_mut()
    }
    /// Ends filling; from here on the bytes never change.
    pub fn freeze(self) -> Buf {
        let len = self.owner.len;
        Buf { owner: Some(Arc::new(self.owner)), start: 0, len }
    }
}

/// A shared, immutable view of a buffer. Cloning and slicing copy nothing.
#[derive(Clone, Default)]
pub struct Buf {
    owner: Option<Arc<Owner>>,
    start: usize,
    len: usize,
}

impl Buf {
    /// The empty buffer; allocates nothing.
    pub fn empty() -> Buf {
        Buf::default()
    }
    /// A copy of `bytes`.
    pub fn copy_from(bytes: &[u8]) -> Buf {
        if bytes.is_empty() {
            return Buf::empty();
        }
        let mut out = BufMut::with_len(bytes.len());
        out.as_mut_slice().copy_from_slice(bytes);
        out.freeze()
    }
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.owner.as_ref().and_then(|o| o.slice().get(self.start..self.start + self.len)).unwrap_or(&[])
    }
    /// A view of part of this view, cut to what exists.
    pub fn slice(&self, range: Range<usize>) -> Buf {
        let start = range.start.min(self.len);
        let end = range.end.clamp(start, self.len);
        Buf { owner: self.owner.clone(), start: self.start + start, len: end - start }
    }
    /// Block `index` (4 KiB) of this view.
    pub fn block(&self, index: usize) -> Buf {
        self.slice(index * crate::consts::BLOCK_SIZE..(index + 1) * crate::consts::BLOCK_SIZE)
    }
}

impl core::fmt::Debug for Buf {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

impl PartialEq for Buf {
    fn eq(&self, other: &Buf) -> bool {
        self.as_slice() == other.as_slice()
    }
}
impl Eq for Buf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_page_aligned_and_keeps_its_bytes() {
        let mut b = BufMut::zeroed(5000);
        b.as_mut_slice()[4999] = 7;
        let b = b.freeze();
        assert_eq!(b.as_slice().as_ptr().align_offset(ALIGN), 0);
        assert_eq!(b.as_slice()[4999], 7);
        assert_eq!(b.slice(4096..9000).len(), 904);
        assert_eq!(b.block(1).len(), 904);
    }

    #[test]
    fn zeroed_shows_nothing_of_the_buffer_that_was_there_before() {
        let mut b = BufMut::with_len(4096);
        b.as_mut_slice().fill(9);
        drop(b);
        assert!(BufMut::zeroed(4096).as_slice().iter().all(|x| *x == 0));
    }
}
