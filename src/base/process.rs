//! The end of this process.

/// Ends the process at once: destructors and exit handlers do not run, because they may wait for threads or devices that never end.
pub(crate) fn end_now(code: i32) -> ! {
    #[cfg(unix)]
    // SAFETY: the function takes a number and does not return.
    unsafe {
        libc::_exit(code)
    }
    #[cfg(not(unix))]
    std::process::exit(code)
}
