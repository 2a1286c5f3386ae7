//! Named ranges for NVIDIA's profilers (NVTX): what the host did when a GPU ran what it ran. See `docs/profiling.md`.
//!
//! A range costs a branch where no profiler is attached.
//!
//! The crate `nvtx` 1 is NVTX's header-only library behind one small C file. Its version 2 makes bindings while it is built, for
//! which every machine that builds this crate would need libclang; the ranges of `cudarc` load the older library `nvToolsExt`, and
//! panic where it is missing.

use std::cell::Cell;
use std::fmt::Display;
use std::marker::PhantomData;
use std::sync::OnceLock;

thread_local! {
    /// How many [`Paused`] this thread holds.
    static PAUSED: Cell<usize> = const { Cell::new(0) };
}

/// A range that ends when it is dropped. Ranges of a thread are nested.
#[must_use = "a range ends when it is dropped"]
#[derive(Debug)]
pub struct Range {
    open: bool,
    /// Begun and ended on one thread.
    thread: PhantomData<*const ()>,
}

/// While it lives, this thread opens no ranges.
#[must_use = "ranges are opened again when it is dropped"]
#[derive(Debug)]
pub struct Paused {
    thread: PhantomData<*const ()>,
}

/// Opens a range; `name` is only written out where a profiler listens.
pub fn range(name: impl Display) -> Range {
    let open = listening() && PAUSED.get() == 0;
    if open {
        nvtx::range_push!("{name}");
    }
    Range { open, thread: PhantomData }
}

/// For work that is recorded to be run later: ranges around it would say when it was recorded.
pub fn pause() -> Paused {
    PAUSED.set(PAUSED.get() + 1);
    Paused { thread: PhantomData }
}

impl Drop for Range {
    fn drop(&mut self) {
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

/// A profiler names the library that gets the ranges in this variable; NVTX itself looks there, once, and nowhere else.
fn listening() -> bool {
    static LISTENING: OnceLock<bool> = OnceLock::new();
    let variable = if cfg!(target_pointer_width = "64") { "NVTX_INJECTION64_PATH" } else { "NVTX_INJECTION32_PATH" };
    *LISTENING.get_or_init(|| std::env::var_os(variable).is_some_and(|path| !path.is_empty()))
}
