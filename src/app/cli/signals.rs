//! What asks a process to end: Ctrl-C (SIGINT), batch systems and containers (SIGTERM), a terminal that is closed (SIGHUP).
//!
//! A command that can stop well asks for a flag by [`ask`]. Any other one ends at once, only not in the middle of a file. A second
//! request ends every command where it stands: whatever is written replaces what was there in one step.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::base::stop::{StopFlag, between_writes};

/// The number of Ctrl-C's signal.
const INTERRUPT: i32 = 2;

/// What the first request does.
enum Answer {
    End,
    /// Sets the flag, and says so.
    Ask(StopFlag, Box<dyn Fn() + Send>),
}

static ANSWER: Mutex<Answer> = Mutex::new(Answer::End);
/// The signal that came first.
static SIGNAL: AtomicI32 = AtomicI32::new(INTERRUPT);

/// A flag that the first request sets from now on; `say` is called then.
pub fn ask(say: impl Fn() + Send + 'static) -> StopFlag {
    let stop = StopFlag::default();
    *ANSWER.lock().unwrap_or_else(PoisonError::into_inner) = Answer::Ask(stop.clone(), Box::new(say));
    stop
}

/// Exit code of a process that was asked to end: 128 and the signal's number.
pub fn exit_code() -> u8 {
    (128 + SIGNAL.load(Ordering::SeqCst)) as u8
}

/// Answers the first request.
fn answer(signal: i32) {
    SIGNAL.store(signal, Ordering::SeqCst);
    match &*ANSWER.lock().unwrap_or_else(PoisonError::into_inner) {
        Answer::Ask(stop, say) => {
            stop.request();
            say();
        }
        Answer::End => between_writes(|| end(128 + signal)),
    }
}

#[cfg(unix)]
use unix::end;
#[cfg(unix)]
pub use unix::watch;

#[cfg(unix)]
mod unix {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use signal_hook::{flag, low_level};

    /// Signals that follow each other faster are one request: `timeout` and batch systems send one to the process and one to its
    /// group.
    const ONE_REQUEST: Duration = Duration::from_millis(100);

    /// Begins to answer requests.
    ///
    /// # Errors
    /// The system refuses.
    pub fn watch() -> io::Result<()> {
        // A signal that is handled, even by nothing, lets a write beyond `ulimit -f` fail like one on a full disk.
        flag::register(SIGXFSZ, Arc::default())?;
        // `nohup` ignores SIGHUP, and means it.
        let signals = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| signal != SIGHUP || !is_ignored(signal));
        let signals: Vec<i32> = signals.collect();
        let asked = Arc::new(AtomicBool::new(false));
        for &signal in &signals {
            flag::register_conditional_shutdown(signal, 128 + signal, asked.clone())?;
        }
        let mut signals = Signals::new(&signals)?;
        let thread = thread::Builder::new().name("signals".into());
        thread.spawn(move || {
            if let Some(signal) = signals.forever().next() {
                super::answer(signal);
                thread::sleep(ONE_REQUEST);
                asked.store(true, Ordering::SeqCst);
            }
        })?;
        Ok(())
    }

    /// Ends the process without further ado.
    pub(super) fn end(code: i32) {
        low_level::exit(code);
    }

    fn is_ignored(signal: i32) -> bool {
        // SAFETY: `sigaction` only writes what is set for `signal` into `set`, which may be all zeros.
        unsafe {
            let mut set: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut set) == 0 && set.sa_sigaction == libc::SIG_IGN
        }
    }
}

/// Begins to answer requests.
///
/// # Errors
/// The system refuses.
#[cfg(not(unix))]
pub fn watch() -> std::io::Result<()> {
    let asked = std::sync::atomic::AtomicBool::new(false);
    let handler = move || match asked.swap(true, Ordering::SeqCst) {
        true => end(128 + INTERRUPT),
        false => answer(INTERRUPT),
    };
    ctrlc::set_handler(handler).map_err(std::io::Error::other)
}

/// Ends the process without further ado.
#[cfg(not(unix))]
fn end(code: i32) {
    std::process::exit(code);
}
