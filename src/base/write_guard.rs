//! Keeps the process from ending in the middle of a write.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// While a guard exists, [`between_writes`] waits. It is held for the time in which a file, or several files that belong together, are
/// incomplete.
pub(crate) struct WriteGuard(());

static GUARDS: Mutex<usize> = Mutex::new(0);
static RELEASED: Condvar = Condvar::new();

impl WriteGuard {
    /// Begins a write. A thread may hold several guards.
    pub(crate) fn begin() -> WriteGuard {
        *guards() += 1;
        WriteGuard(())
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        *guards() -= 1;
        RELEASED.notify_all();
    }
}

/// Waits until there is no [`WriteGuard`], then calls `exit`, which ends the process. No guard is given out during the call.
pub(crate) fn between_writes(exit: impl FnOnce()) {
    let idle = RELEASED.wait_while(guards(), |guards| *guards > 0).unwrap_or_else(PoisonError::into_inner);
    exit();
    drop(idle);
}

fn guards() -> MutexGuard<'static, usize> {
    GUARDS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_exit_waits_for_all_guards() {
        let (outer, inner) = (WriteGuard::begin(), WriteGuard::begin());
        let (exited, exit) = mpsc::channel();
        let waiting = std::thread::spawn(move || between_writes(|| exited.send(()).unwrap()));
        drop(outer);
        assert!(exit.recv_timeout(Duration::from_millis(50)).is_err(), "one guard is left");
        drop(inner);
        exit.recv().unwrap();
        waiting.join().unwrap();
    }
}
