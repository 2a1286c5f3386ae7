//! A budget of memory that all decoding threads share: an image waits until there is room for it.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::base::memory;

/// Bytes that all images together may take while they are decoded and resized.
const MOST: u64 = 832 << 20;
/// On a machine with little free memory, the budget is half of that, but never less than this.
const LEAST: u64 = 64 << 20;

/// A number of bytes from which [`Share`]s are taken.
pub(super) struct Budget {
    total: u64,
    free: Mutex<u64>,
    freed: Condvar,
}

/// A part of the budget; dropping it gives the bytes back.
pub struct Share {
    budget: &'static Budget,
    bytes: u64,
}

impl Budget {
    fn new(total: u64) -> Budget {
        Budget { total, free: Mutex::new(total), freed: Condvar::new() }
    }

    /// Returns the budget of the process.
    pub(crate) fn of_process() -> &'static Budget {
        static BUDGET: OnceLock<Budget> = OnceLock::new();
        BUDGET.get_or_init(|| {
            let half = memory::total_and_available().map_or(MOST, |(_, available)| available / 2);
            Budget::new(half.clamp(LEAST, MOST))
        })
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Waits until `bytes` are free, and takes them. A thread that already holds a share must use [`Share::try_resize`] instead, or all
    /// threads could wait for each other.
    ///
    /// # Panics
    /// `bytes` are more than the whole budget.
    pub(super) fn take(&'static self, bytes: u64) -> Share {
        assert!(bytes <= self.total, "more than the whole budget");
        let mut free = self.free();
        while *free < bytes {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        Share { budget: self, bytes }
    }

    /// Locks the number of free bytes, which is valid even if a thread panicked while it held the lock.
    fn free(&self) -> MutexGuard<'_, u64> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Changes the size of the share to `bytes`, if enough are free. Returns whether they were.
    pub(crate) fn try_resize(&mut self, bytes: u64) -> bool {
        let mut free = self.budget.free();
        let Some(left) = (*free + self.bytes).checked_sub(bytes) else { return false };
        *free = left;
        self.bytes = bytes;
        drop(free);
        self.budget.freed.notify_all();
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.try_resize(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    fn budget(total: u64) -> &'static Budget {
        Box::leak(Box::new(Budget::new(total)))
    }

    #[test]
    fn shares_never_exceed_the_budget_and_everybody_gets_one() {
        let budget = budget(10);
        let (taken, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for thread in 0..8 {
                let (taken, most) = (&taken, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let bytes = 1 + (thread * 7 + round * 3) % 10;
                        let share = budget.take(bytes);
                        most.fetch_max(taken.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                        taken.fetch_sub(bytes, Ordering::SeqCst);
                        drop(share);
                    }
                });
            }
        });
        assert!((1..=10).contains(&most.into_inner()));
        assert_eq!(*budget.free(), 10);
    }

    #[test]
    fn a_share_grows_only_into_what_is_free() {
        let budget = budget(10);
        let mut share = budget.take(4);
        let other = budget.take(5);
        assert!(!share.try_resize(6) && share.try_resize(5) && share.try_resize(2));
        assert_eq!(*budget.free(), 3);
        drop(other);
        assert!(share.try_resize(10));
        drop(share);
        assert_eq!(*budget.free(), 10);
    }

    #[test]
    fn the_budget_of_the_process_is_bounded() {
        assert!((LEAST..=MOST).contains(&Budget::of_process().total()));
    }
}
