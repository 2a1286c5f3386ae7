//! Where a reporter shows its messages and its progress.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;
use super::pace::Pace;

/// Shows what a [`Reporter`](super::Reporter) is told: as lines ([`Reporter::lines`](super::Reporter::lines)), as the program's bars, or in a
/// window of your own.
pub trait Console: Send + Sync {
    /// Shows one or more lines.
    fn message(&self, text: &str);

    /// Shows a new task of `total` steps, called `unit`. The task is over when what this returns is dropped.
    fn start(&self, task: &str, total: u64, unit: &'static str) -> Box<dyn ConsoleTask>;
}

/// A task as a [`Console`] shows it.
pub trait ConsoleTask: Send {
    /// Shows that `n` more steps are done; `info` is a word on the results so far, or empty.
    fn advance(&mut self, n: u64, info: &str);
}

/// Shows nothing.
pub(super) struct Silent;

impl Console for Silent {
    fn message(&self, _: &str) {}

    fn start(&self, _: &str, _: u64, _: &'static str) -> Box<dyn ConsoleTask> {
        Box::new(Silent)
    }
}

impl ConsoleTask for Silent {
    fn advance(&mut self, _: u64, _: &str) {}
}

/// Writes lines; those about progress at most once in `every`.
pub(super) struct Lines<W> {
    sink: Arc<Mutex<W>>,
    every: Duration,
}

struct LinesTask<W> {
    sink: Arc<Mutex<W>>,
    pace: Pace,
}

impl<W> Lines<W> {
    pub(super) fn new(sink: W, every: Duration) -> Lines<W> {
        Lines { sink: Arc::new(Mutex::new(sink)), every }
    }
}

impl<W: Write + Send + 'static> Console for Lines<W> {
    fn message(&self, text: &str) {
        write_line(&self.sink, text);
    }

    fn start(&self, task: &str, total: u64, unit: &'static str) -> Box<dyn ConsoleTask> {
        Box::new(LinesTask { sink: Arc::clone(&self.sink), pace: Pace::new(task, total, unit, self.every) })
    }
}

impl<W: Write + Send> ConsoleTask for LinesTask<W> {
    fn advance(&mut self, n: u64, info: &str) {
        if let Some(line) = self.pace.advance(n, info) {
            write_line(&self.sink, &line);
        }
    }
}

/// Ignores a closed pipe and a full disk: there is no other place to report them.
fn write_line(sink: &Mutex<impl Write>, text: &str) {
    let _ = writeln!(lock(sink), "{text}");
}
