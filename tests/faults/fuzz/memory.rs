//! An allocator that counts: the largest amount of memory in use is part of what a reader promises.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// More than this is not given: the machine stays usable, and the program ends with the reader's name in its last line.
const MOST: usize = 4 << 30;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// Begins anew with the largest use; returns the present one.
pub fn restart() -> usize {
    let now = IN_USE.load(Relaxed);
    PEAK.store(now, Relaxed);
    now
}

/// Largest use since [`restart`].
pub fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// Notes `size` bytes more; false where they are too many: then they only count as asked for.
fn take(size: usize) -> bool {
    let now = IN_USE.fetch_add(size, Relaxed).saturating_add(size);
    PEAK.fetch_max(now, Relaxed);
    if now > MOST {
        IN_USE.fetch_sub(size, Relaxed);
        return false;
    }
    true
}

// SAFETY: every call goes to the system's allocator as it came, or fails with null, which is allowed.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if take(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if take(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old and the new place exist at the same time.
        if !take(size) {
            return std::ptr::null_mut();
        }
        let new = unsafe { System.realloc(at, layout, size) };
        IN_USE.fetch_sub(if new.is_null() { size } else { layout.size() }, Relaxed);
        new
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) };
        IN_USE.fetch_sub(layout.size(), Relaxed);
    }
}
