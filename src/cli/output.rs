//! Standard output and standard error, and Ctrl-C.

use std::io::{self, ErrorKind, Write};

use crate::error::IoContext;
use crate::progress::Reporter;
use crate::stop::StopFlag;
use crate::text::escape_lines;
use crate::{Error, Result};

/// Exit code of a process that Ctrl-C has stopped: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Writes a result to standard output, with control characters escaped. A closed pipe (`| head`) is no error: who reads has seen enough.
///
/// # Errors
/// [`Error::Io`]: the disk behind a redirection is full.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(escape_lines(text).as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.at("write", "standard output"),
    }
}

/// `error: ` and one line.
pub fn print_error(error: &Error) {
    let text = error.to_string();
    let text = escape_lines(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let _ = writeln!(io::stderr(), "error: {}", lines.join("; "));
}

/// A flag that the first Ctrl-C sets; the second one ends the process at once.
///
/// # Errors
/// The system refuses the handler.
pub fn stop_on_ctrl_c(reporter: &Reporter) -> Result<StopFlag> {
    stop_with_message(
        reporter,
        "stopping after this step, with a checkpoint; Ctrl-C again stops at once and saves nothing",
    )
}

/// As [`stop_on_ctrl_c`], for work that ends in another way: `message` says which.
///
/// # Errors
/// The system refuses the handler.
pub fn stop_with_message(reporter: &Reporter, message: &'static str) -> Result<StopFlag> {
    let stop = StopFlag::default();
    let (flag, reporter) = (stop.clone(), reporter.clone());
    ctrlc::set_handler(move || {
        if flag.request() {
            std::process::exit(i32::from(INTERRUPTED));
        }
        reporter.message(message);
    })
    .map_err(io::Error::other)
    .at("watch for", "Ctrl-C")?;
    Ok(stop)
}
