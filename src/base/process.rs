//! This process: its machine, its user, its end.

/// Returns the name of the machine, which is empty where the system has none.
pub(crate) fn machine_name() -> String {
    let mut name = [0u8; 256];
    #[cfg(unix)]
    // SAFETY: the function writes at most as many bytes as it is told, to memory that has as many.
    unsafe {
        libc::gethostname(name.as_mut_ptr().cast(), name.len());
    }
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..length]).into_owned()
}

/// Returns the number of the user who runs this process.
pub(crate) fn user() -> u32 {
    // SAFETY: the function takes nothing and cannot fail.
    #[cfg(unix)]
    return unsafe { libc::getuid() };
    #[cfg(not(unix))]
    0
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_machine_has_the_name_that_the_system_tells() {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(machine_name(), name.trim_end());
    }
}
