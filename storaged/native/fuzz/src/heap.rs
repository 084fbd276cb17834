//! An allocator that counts, so that a length which lies is found although the memory it asked
//! for is never touched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

/// Bytes asked for since the start of the process; what was given back does not count against it.
static SPENT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        SPENT.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        SPENT.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        SPENT.fetch_add(size, Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `parse`, which may ask for at most `limit` bytes in all.
///
/// # Panics
/// When it asks for more.
pub fn spending<T>(limit: usize, parse: impl FnOnce() -> T) -> T {
    let before = SPENT.load(Relaxed);
    let result = parse();
    let spent = SPENT.load(Relaxed) - before;
    assert!(spent <= limit, "asked for {spent} bytes, {limit} are reasonable for this input");
    result
}
