//! Standard output and standard error, and Ctrl-C.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, ErrorKind, Write};

use clap::error::{ContextKind, ContextValue};

use crate::error::IoContext;
use crate::progress::Reporter;
use crate::stop::StopFlag;
use crate::text::{Shown, escape_lines};
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

/// `error: ` and one line, whatever names stand in it.
pub fn print_error(error: &Error) {
    let _ = writeln!(io::stderr(), "error: {}", error.to_string().shown());
}

/// What is wrong with the command line, or the help that it asks for.
pub fn print_usage(mut error: clap::Error) {
    // Standard output may be closed already.
    if !error.use_stderr() || std::env::args_os().all(|arg| is_plain(&arg.to_string_lossy())) {
        return drop(error.print());
    }
    // The arguments that the message quotes.
    let shown = |text: &String| text.shown().to_string();
    let quoted: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in quoted {
        match (kind, value) {
            (ContextKind::Suggested, _) => drop(error.remove(kind)),
            (_, ContextValue::String(text)) => drop(error.insert(kind, ContextValue::String(shown(&text)))),
            (_, ContextValue::Strings(texts)) => {
                error.insert(kind, ContextValue::Strings(texts.iter().map(shown).collect()));
            }
            _ => {}
        }
    }
    let _ = write!(io::stderr(), "{}", escape_lines(&error.render().to_string()));
}

fn is_plain(text: &str) -> bool {
    text.shown().to_string() == text
}

/// A panic's message may quote a name too: the hook escapes it. `RUST_BACKTRACE` asks for a backtrace, as it does without the hook.
pub fn escape_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let mut text = format!("{panic}\n");
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("{backtrace}\n"));
        }
        let _ = write!(io::stderr(), "{}", escape_lines(&text));
    }));
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
