//! An allocator that counts the bytes in use, to check that readers keep within their bounds of memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes beyond which allocations fail: the machine stays usable, and the last line of the output names the reader.
const MOST: usize = 4 << 30;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// Starts a new measurement of the largest use. Returns the present use, bytes.
pub fn restart() -> usize {
    let now = IN_USE.load(Relaxed);
    PEAK.store(now, Relaxed);
    now
}

/// Returns the largest use since [`restart`], bytes.
pub fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// Adds `size` bytes to the count. Returns false if that is too much: then only the peak counts them.
fn take(size: usize) -> bool {
    let now = IN_USE.fetch_add(size, Relaxed).saturating_add(size);
    PEAK.fetch_max(now, Relaxed);
    if now > MOST {
        IN_USE.fetch_sub(size, Relaxed);
        return false;
    }
    true
}

// SAFETY: each function gives what the system's allocator gives for the same arguments, or null, which means failure.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller promises a layout of more than zero bytes.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old and the new place exist at the same time.
        if !take(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller promises that `at` came from this allocator, which is the system's, with this layout, and that
        // `size` is a size that it may take.
        let new = unsafe { System.realloc(at, layout, size) };
        IN_USE.fetch_sub(if new.is_null() { size } else { layout.size() }, Relaxed);
        new
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that `at` came from this allocator, which is the system's, with this layout.
        unsafe { System.dealloc(at, layout) };
        IN_USE.fetch_sub(layout.size(), Relaxed);
    }
}
