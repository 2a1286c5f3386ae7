//! A request to stop, set by Ctrl-C and seen by long work between its steps; and the moments at which a process may end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A flag that its clones share.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks whoever holds a clone to stop at the next good place.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Held while files are written that belong together, or one that must not be left half: see [`between_writes`].
pub struct Unbroken(());

static WRITERS: Mutex<usize> = Mutex::new(0);
static DONE: Condvar = Condvar::new();

impl Unbroken {
    /// Begins to write. Another one may be held meanwhile, by the same thread too.
    pub fn begin() -> Unbroken {
        *writers() += 1;
        Unbroken(())
    }
}

impl Drop for Unbroken {
    fn drop(&mut self) {
        *writers() -= 1;
        DONE.notify_all();
    }
}

/// Calls `end`, which ends the process, at a moment when nobody holds an [`Unbroken`]; nobody gets one meanwhile.
pub fn between_writes(end: impl FnOnce()) {
    let free = DONE.wait_while(writers(), |writers| *writers > 0).unwrap_or_else(PoisonError::into_inner);
    end();
    drop(free);
}

fn writers() -> MutexGuard<'static, usize> {
    WRITERS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_end_waits_for_whole_files() {
        let (outer, inner) = (Unbroken::begin(), Unbroken::begin());
        let (ended, end) = mpsc::channel();
        let waiting = std::thread::spawn(move || between_writes(|| ended.send(()).unwrap()));
        drop(outer);
        assert!(end.recv_timeout(Duration::from_millis(50)).is_err(), "a file is still open");
        drop(inner);
        end.recv().unwrap();
        waiting.join().unwrap();
    }
}
