//! Standard output and standard error, and how a command stops on request.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Write};

use clap::error::{ContextKind, ContextValue};

use super::ExitCode;
use super::bars::Bars;
use super::signals;
use crate::base::error::IoContext;
use crate::base::progress::Reporter;
use crate::base::stop::StopFlag;
use crate::base::text::{Shown, escape_lines};
use crate::config::Config;
use crate::{Error, Result};

/// Writes a result to standard output, with control characters escaped. A closed pipe (`| head`) is no error: the reader needs no more.
///
/// # Errors
/// [`Error::Io`], for example if the disk behind a redirection is full.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(escape_lines(text).as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.at("write", "standard output"),
    }
}

/// Returns a reporter to standard error: bars on a terminal, else lines.
pub(crate) fn stderr_reporter() -> Reporter {
    let reporter = if io::stderr().is_terminal() { Reporter::new(Bars::default()) } else { Reporter::stderr() };
    reporter.with_words(with_flags)
}

/// Writes `error: ` and the error in one line, with names escaped.
pub(crate) fn print_error(error: &Error) {
    print_error_of(error, "");
}

/// Does as [`print_error`], with words before the error that say whose it is.
pub(super) fn print_error_of(error: &Error, whose: &str) {
    let text = match error {
        // Its keys are those of a file.
        Error::ConfigFile { .. } => error.to_string(),
        _ => with_flags(&error.to_string()),
    };
    let _ = writeln!(io::stderr(), "error: {whose}{}", text.shown());
}

/// Options of commands that are not settings, but are named in messages of the library.
const OPTIONS: [&str; 12] = [
    "baseline",
    "fmr",
    "fpir",
    "gallery-labels",
    "gallery-pictures",
    "init",
    "mat",
    "out",
    "query-labels",
    "resume",
    "tolerance",
    "top",
];

/// Shows settings and options as flags. The library names them in backquotes, by their keys in files.
pub(crate) fn with_flags(text: &str) -> String {
    let flag = |name: &str| match Config::setting(name) {
        Some(setting) => Some(setting.flag_name()),
        None => OPTIONS.iter().find(|option| **option == name).copied(),
    };
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('`') {
        shown.push_str(before);
        match after.split_once('`').and_then(|(name, after)| Some((flag(name)?, after))) {
            Some((flag, after)) => {
                shown.push_str("--");
                shown.push_str(flag);
                rest = after;
            }
            None => {
                shown.push('`');
                rest = after;
            }
        }
    }
    shown + rest
}

/// Prints what is wrong with the command line `args`, or the help that it asks for.
pub(crate) fn print_usage(mut error: clap::Error, args: &[OsString]) {
    // Errors of printing are ignored: standard output may be closed.
    if !error.use_stderr() || args.iter().all(|arg| is_plain(&arg.to_string_lossy())) {
        return drop(error.print());
    }
    // Escapes the arguments that the message quotes.
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

/// Returns whether the text has nothing to escape.
fn is_plain(text: &str) -> bool {
    text.shown().to_string() == text
}

/// Escapes the messages of panics, which may quote names too. `RUST_BACKTRACE` asks for a backtrace as usual.
pub(crate) fn escape_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let mut text = format!("{panic}\n");
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("{backtrace}\n"));
        }
        let _ = write!(io::stderr(), "{}", escape_lines(&text));
    }));
}

/// Returns a flag that the first request to stop (Ctrl-C) sets; the second request ends the process at once.
pub(crate) fn stop_on_ctrl_c(reporter: &Reporter) -> StopFlag {
    stop_with_message(
        reporter,
        "stopping after this step, with a checkpoint; Ctrl-C again stops at once and saves nothing",
    )
}

/// Returns the flag of [`stop_on_ctrl_c`] for one of several processes, whose launcher also sends a signal where it ends them at once: nothing is
/// promised.
pub(crate) fn stop_quietly() -> StopFlag {
    signals::stop_flag(|| ())
}

/// Returns the flag of [`stop_on_ctrl_c`] for work that ends in another way; `message` describes that.
pub(crate) fn stop_with_message(reporter: &Reporter, message: &'static str) -> StopFlag {
    let reporter = reporter.clone();
    signals::stop_flag(move || reporter.message(message))
}

/// Returns the exit code of a command that ended on request.
pub(super) fn interrupted() -> ExitCode {
    ExitCode::from(signals::exit_code())
}

#[cfg(test)]
mod tests {
    use super::with_flags;

    #[test]
    fn settings_are_shown_as_flags_and_other_quotes_stay() {
        for (text, shown) in [
            ("lower `optim.lr` or use `precision` bf16", "lower --lr or use --precision bf16"),
            ("`ptl.stages` = 1: see `nvidia-smi`, `out`", "--ptl-stages = 1: see `nvidia-smi`, --out"),
            ("odd ` quote, then `seed`", "odd ` quote, then --seed"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(with_flags(text), shown);
        }
    }
}
