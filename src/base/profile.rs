//! Named ranges for NVIDIA's profilers (NVTX), which show what the host did while a GPU ran its kernels. See `docs/profiling.md`.
//!
//! Without a profiler, a range costs a branch.
//!
//! The crate `nvtx` 1 is NVTX's header-only library behind one small C file. Its version 2 generates bindings in its build,
//! for which every machine that builds this crate would need libclang; the ranges of `cudarc` load the older library `nvToolsExt`, and
//! panic if it is missing.

use std::cell::Cell;
use std::fmt::Display;
use std::marker::PhantomData;
use std::sync::OnceLock;

thread_local! {
    /// Number of [`Paused`] values of this thread.
    static PAUSED: Cell<usize> = const { Cell::new(0) };
}

/// A range that ends when it is dropped. Ranges of a thread are nested.
#[must_use = "a range ends when it is dropped"]
#[derive(Debug)]
pub struct Range {
    open: bool,
    /// Not `Send`: a range begins and ends on the same thread.
    thread: PhantomData<*const ()>,
}

/// While this value exists, its thread opens no ranges.
#[must_use = "ranges are opened again when it is dropped"]
#[derive(Debug)]
pub(crate) struct Paused {
    thread: PhantomData<*const ()>,
}

/// Opens a range; `name` is only formatted if a profiler is attached.
pub fn range(name: impl Display) -> Range {
    let open = listening() && PAUSED.get() == 0;
    if open {
        nvtx::range_push!("{name}");
    }
    Range { open, thread: PhantomData }
}

/// Pauses ranges while work is recorded to be run later: they would show when it was recorded.
pub(crate) fn pause() -> Paused {
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

/// Returns whether a profiler is attached: it sets the variable that names the library which receives the ranges. NVTX itself reads only
/// this variable, once.
fn listening() -> bool {
    static LISTENING: OnceLock<bool> = OnceLock::new();
    let variable = if cfg!(target_pointer_width = "64") { "NVTX_INJECTION64_PATH" } else { "NVTX_INJECTION32_PATH" };
    *LISTENING.get_or_init(|| std::env::var_os(variable).is_some_and(|path| !path.is_empty()))
}
