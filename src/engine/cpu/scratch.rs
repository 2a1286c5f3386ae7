//! Memory that a task needs for a moment. Each thread keeps what it had, so that no task waits for the system to map pages.

use std::cell::RefCell;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    /// Blocks that are not in use, the one given back last at the end.
    static KEPT: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` numbers of any value, which start at a cache line.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken, not borrowed: `f` may ask for scratch memory too, and gets another block then.
    let mut lines = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
    if lines.len() < len.div_ceil(16) {
        lines.resize(len.div_ceil(16), Line([0.0; 16]));
    }
    // SAFETY: `Line` is 16 f32 without padding, and there are enough lines.
    let result = f(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) });
    KEPT.with_borrow_mut(|kept| kept.push(lines));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_one_within_another_is_another() {
        with_scratch(100, |outer| {
            outer.fill(1.0);
            with_scratch(200, |inner| inner.fill(2.0));
            assert!(outer.as_ptr().addr().is_multiple_of(64) && outer.iter().all(|v| *v == 1.0));
        });
    }
}
