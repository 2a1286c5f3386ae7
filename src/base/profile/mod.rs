//! Named ranges, which say what the program does: for NVIDIA's profilers (NVTX), which show what the host did while a GPU ran its kernels,
//! and for `record`, by which the program measures itself. See `docs/profiling.md`.
//!
//! A range costs two branches if nobody listens.
//!
//! The crate `nvtx` 1 is NVTX's header-only library behind one small C file. Its version 2 generates bindings in its build,
//! for which every machine that builds this crate would need libclang; the ranges of `cudarc` load the older library `nvToolsExt`, and
//! panic if it is missing.

mod record;

use std::cell::Cell;
use std::fmt::Display;
use std::marker::PhantomData;
use std::sync::OnceLock;

pub(crate) use record::record;

thread_local! {
    /// Number of [`Paused`] values of this thread.
    static PAUSED: Cell<usize> = const { Cell::new(0) };
}

/// A range that ends when it is dropped. Ranges of a thread are nested.
#[must_use = "a range ends when it is dropped"]
#[derive(Debug)]
pub struct Range {
    /// Whether it is open in a profiler.
    open: bool,
    /// Its begin, if the thread records.
    begin: Option<record::Begin>,
    /// Not `Send`: a range begins and ends on the same thread.
    thread: PhantomData<*const ()>,
}

/// While this value exists, its thread opens no ranges.
#[must_use = "ranges are opened again when it is dropped"]
#[derive(Debug)]
pub(crate) struct Paused {
    thread: PhantomData<*const ()>,
}

/// Opens a range; `name` is only formatted if a profiler is attached, or if the thread records.
pub fn range(name: impl Display) -> Range {
    let paused = PAUSED.get() > 0;
    let open = listening() && !paused;
    if open {
        nvtx::range_push!("{name}");
    }
    let begin = if paused { None } else { record::begin(&name) };
    Range { open, begin, thread: PhantomData }
}

/// Pauses ranges while work is recorded to be run later: they would show when it was recorded.
pub(crate) fn pause() -> Paused {
    PAUSED.set(PAUSED.get() + 1);
    Paused { thread: PhantomData }
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(begin) = self.begin.take() {
            record::end(begin);
        }
        if self.open {
            nvtx::range_pop!();
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        PAUSED.set(PAUSED.get() - 1);
    }
}

/// Returns whether a profiler is attached: it sets the variable that names the library which receives the ranges. NVTX itself reads only
/// this variable, once.
fn listening() -> bool {
    static LISTENING: OnceLock<bool> = OnceLock::new();
    let variable = if cfg!(target_pointer_width = "64") { "NVTX_INJECTION64_PATH" } else { "NVTX_INJECTION32_PATH" };
    *LISTENING.get_or_init(|| std::env::var_os(variable).is_some_and(|path| !path.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_recorded_in_the_order_of_their_ends_while_the_thread_records() {
        let work = || {
            let _outer = range("outer");
            for number in 0..2 {
                let _inner = range(format_args!("inner {number}"));
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let _paused = pause();
            drop(range("paused"));
            7
        };
        let (result, spans) = record(work);
        let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!((result, &names[..]), (7, &["inner 0", "inner 1", "outer"][..]));
        assert!(spans[2].time >= spans[0].time + spans[1].time && spans[0].time.as_millis() >= 1);
        work();
        assert_eq!(record(|| ()), ((), Vec::new()));
    }
}
