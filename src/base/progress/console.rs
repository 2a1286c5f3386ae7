//! What the user sees: bars on a terminal, lines elsewhere.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use super::pace::Pace;
use super::{LINE_EVERY, lock};

pub(super) enum Console {
    Silent,
    Plain { sink: Arc<Mutex<Box<dyn Write + Send>>>, every: Duration },
    Bars(MultiProgress),
}

/// A task as the console shows it.
pub(super) enum ConsoleTask {
    Silent,
    Plain { sink: Arc<Mutex<Box<dyn Write + Send>>>, pace: Pace },
    Bar(ProgressBar),
}

impl Console {
    pub(super) fn stderr() -> Console {
        if io::stderr().is_terminal() {
            Console::Bars(MultiProgress::new())
        } else {
            Console::plain(io::stderr(), LINE_EVERY)
        }
    }

    pub(super) fn plain(sink: impl Write + Send + 'static, every: Duration) -> Console {
        Console::Plain { sink: Arc::new(Mutex::new(Box::new(sink))), every }
    }

    pub(super) fn message(&self, text: &str) {
        match self {
            Console::Silent => {}
            Console::Plain { sink, .. } => write_line(sink, text),
            Console::Bars(bars) => bars.suspend(|| drop(writeln!(io::stderr(), "{text}"))),
        }
    }

    pub(super) fn start(&self, task: &str, total: u64, unit: &'static str) -> ConsoleTask {
        match self {
            Console::Silent => ConsoleTask::Silent,
            Console::Plain { sink, every } => {
                ConsoleTask::Plain { sink: Arc::clone(sink), pace: Pace::new(task, total, unit, *every) }
            }
            Console::Bars(bars) => {
                let template =
                    format!("{{prefix}} [{{bar:24}}] {{pos}}/{{len}} {unit}, {{rate}}, {{eta}} left {{msg}}");
                let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
                let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
                    // A terminal that cannot be written to shows nothing, and the work goes on.
                    let _ = write!(out, "{:.1}/s", state.per_sec());
                };
                let style = style.with_key("rate", rate);
                let bar = bars.add(ProgressBar::new(total).with_style(style.progress_chars("=> ")));
                bar.set_prefix(task.to_owned());
                ConsoleTask::Bar(bar)
            }
        }
    }
}

impl ConsoleTask {
    pub(super) fn advance(&mut self, n: u64, info: &str) {
        match self {
            ConsoleTask::Silent => {}
            ConsoleTask::Plain { sink, pace } => {
                if let Some(line) = pace.advance(n, info) {
                    write_line(sink, &line);
                }
            }
            ConsoleTask::Bar(bar) => {
                bar.set_message(info.to_owned());
                bar.inc(n);
            }
        }
    }

    /// Takes the bar away; the line that stays is a message.
    pub(super) fn finish(&self) {
        if let ConsoleTask::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Drop for ConsoleTask {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A closed pipe or a full disk behind standard error has nowhere to be reported.
fn write_line(sink: &Mutex<Box<dyn Write + Send>>, text: &str) {
    let _ = writeln!(lock(sink), "{text}");
}
