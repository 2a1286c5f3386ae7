//! Standard output and standard error, and how a command stops on request.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use super::signals;
use crate::error::IoContext;
use crate::progress::Reporter;
use crate::stop::StopFlag;
use crate::text::escape_lines;
use crate::{Error, Result};

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

/// A flag that the first request to stop sets; the second one ends the process at once.
pub fn stop_on_ctrl_c(reporter: &Reporter) -> StopFlag {
    stop_with_message(
        reporter,
        "stopping after this step, with a checkpoint; Ctrl-C again stops at once and saves nothing",
    )
}

/// As [`stop_on_ctrl_c`], for work that ends in another way: `message` says which.
pub fn stop_with_message(reporter: &Reporter, message: &'static str) -> StopFlag {
    let reporter = reporter.clone();
    signals::ask(move || reporter.message(message))
}

/// The exit code of a command that ended on request.
pub fn interrupted() -> ExitCode {
    ExitCode::from(signals::exit_code())
}
