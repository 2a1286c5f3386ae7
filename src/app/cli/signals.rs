//! Ends a command on request: Ctrl-C (SIGINT), a batch system or container (SIGTERM, SIGUSR1), a closed terminal (SIGHUP).
//!
//! A command that saves its work before it ends calls [`stop_flag`]. Any other command ends at the first signal, but not in the middle
//! of a write. The second signal ends every command at once. That damages no checkpoint, because each file is written under a
//! temporary name and then renamed.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::base::process::end_now;
use crate::base::stop::StopFlag;
use crate::base::write_guard::between_writes;

/// The number of SIGINT.
const INTERRUPT: i32 = 2;
/// The number of SIGTERM.
const TERMINATE: i32 = 15;

/// The flag that the first signal sets, and a function that it calls. Without a flag, the first signal ends the process.
static FLAG: Mutex<Option<(StopFlag, Box<dyn Fn() + Send>)>> = Mutex::new(None);
/// The first signal.
static SIGNAL: AtomicI32 = AtomicI32::new(INTERRUPT);
static FIRST_CAME: AtomicBool = AtomicBool::new(false);

/// Returns a flag that the first signal sets, instead of ending the process; `on_request` is called then.
pub(crate) fn stop_flag(on_request: impl Fn() + Send + 'static) -> StopFlag {
    let stop = StopFlag::default();
    *FLAG.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop.clone(), Box::new(on_request)));
    stop
}

/// Returns the exit code of a process that a signal ended: 128 plus the number of the signal.
pub(crate) fn exit_code() -> u8 {
    (128 + SIGNAL.load(Ordering::SeqCst)) as u8
}

/// Returns whether SIGTERM has asked for the end, as launchers send it.
pub(super) fn terminated() -> bool {
    FIRST_CAME.load(Ordering::SeqCst) && SIGNAL.load(Ordering::SeqCst) == TERMINATE
}

/// Handles the first signal.
fn first(signal: i32) {
    SIGNAL.store(signal, Ordering::SeqCst);
    FIRST_CAME.store(true, Ordering::SeqCst);
    match &*FLAG.lock().unwrap_or_else(PoisonError::into_inner) {
        Some((stop, on_request)) => {
            stop.request();
            on_request();
        }
        None => between_writes(|| end_now(128 + signal)),
    }
}

#[cfg(unix)]
pub(super) use unix::watch;

#[cfg(unix)]
mod unix {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
    use signal_hook::flag;
    use signal_hook::iterator::Signals;

    /// Signals within this time count as one: `timeout` and batch systems send one to the process and one to its group.
    const ONE_REQUEST: Duration = Duration::from_millis(100);

    /// Starts to handle signals, in a thread of its own.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn watch() -> io::Result<()> {
        // With any handler for it, a write beyond `ulimit -f` fails like a write to a full disk, instead of ending the process.
        flag::register(SIGXFSZ, Arc::default())?;
        // `nohup` sets SIGHUP to be ignored, and that is kept.
        let signals = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| signal != SIGHUP || !is_ignored(signal));
        let signals: Vec<i32> = signals.collect();
        let had_first = Arc::new(AtomicBool::new(false));
        for &signal in &signals {
            flag::register_conditional_shutdown(signal, 128 + signal, had_first.clone())?;
        }
        // `mpirun` passes SIGUSR1 on to the processes that it has started. It is sent again and again, so that it never counts as a second one.
        let mut signals = Signals::new(signals.iter().copied().chain([SIGUSR1]))?;
        let thread = thread::Builder::new().name("signals".into());
        thread.spawn(move || {
            if let Some(signal) = signals.forever().next() {
                super::first(signal);
                thread::sleep(ONE_REQUEST);
                had_first.store(true, Ordering::SeqCst);
            }
        })?;
        Ok(())
    }

    fn is_ignored(signal: i32) -> bool {
        // SAFETY: `sigaction` only writes the current action for `signal` to `set`, for which all zeros is a valid value.
        unsafe {
            let mut set: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut set) == 0 && set.sa_sigaction == libc::SIG_IGN
        }
    }
}

/// Starts to handle signals.
///
/// # Errors
/// The system refuses.
#[cfg(not(unix))]
pub fn watch() -> std::io::Result<()> {
    let had_first = std::sync::atomic::AtomicBool::new(false);
    let handler = move || match had_first.swap(true, Ordering::SeqCst) {
        true => end_now(128 + INTERRUPT),
        false => first(INTERRUPT),
    };
    ctrlc::set_handler(handler).map_err(std::io::Error::other)
}
