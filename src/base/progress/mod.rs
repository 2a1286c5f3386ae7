//! How long work speaks: messages, warnings and progress. The library says everything through a [`Reporter`] and never
//! prints by itself; who starts the work chooses where it goes.

mod console;
mod pace;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Result;
use crate::base::error::IoContext;
use crate::base::text::{Shown, escape_lines};
use crate::base::utc::UtcTime;
use console::{Console, ConsoleTask};
use pace::Pace;

/// Seconds between two lines of progress where there are no bars.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where messages and progress go: a console and any number of log files. Clones share them.
#[derive(Clone)]
pub struct Reporter {
    console: Arc<Console>,
    logs: Vec<Arc<Log>>,
}

impl Reporter {
    /// To standard error: bars with rate and remaining time on a terminal, else a line now and then. A closed pipe ends the
    /// output, not the work.
    pub fn stderr() -> Reporter {
        Reporter { console: Arc::new(Console::stderr()), logs: Vec::new() }
    }

    /// Says nothing.
    pub fn silent() -> Reporter {
        Reporter { console: Arc::new(Console::Silent), logs: Vec::new() }
    }

    /// Writes plain lines to `sink`, progress at most once in `every`.
    pub fn lines(sink: impl Write + Send + 'static, every: Duration) -> Reporter {
        Reporter { console: Arc::new(Console::plain(sink, every)), logs: Vec::new() }
    }

    /// The same, and `path` (appended to, with times) as well.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): the file cannot be opened.
    pub fn with_log(&self, path: &Path) -> Result<Reporter> {
        let reporter = self.with_held_log(path);
        reporter.open_logs()?;
        Ok(reporter)
    }

    /// As [`with_log`](Reporter::with_log), but what is said is held back until [`open_logs`](Reporter::open_logs): work that is
    /// refused before that leaves no trace.
    pub fn with_held_log(&self, path: &Path) -> Reporter {
        let mut reporter = self.clone();
        reporter.logs.push(Arc::new(Log(Mutex::new(Sink::Held(path.into(), String::new())))));
        reporter
    }

    /// Opens the log files that are not open yet, and writes what was held back.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): a file cannot be written.
    pub fn open_logs(&self) -> Result<()> {
        self.logs.iter().try_for_each(|log| log.open())
    }

    /// Says one or more lines. Control characters in them are escaped.
    pub fn message(&self, text: &str) {
        let text = escape_lines(text);
        self.console.message(&text);
        self.log(&text);
    }

    /// Writes one or more lines into the log files only: what the terminal shows in another way.
    pub fn note(&self, text: &str) {
        self.log(&escape_lines(text));
    }

    /// Says in one line that something is wrong, but not wrong enough to stop.
    pub fn warn(&self, text: &str) {
        self.message(&format!("warning: {}", text.shown()));
    }

    /// Starts to count: `total` of `unit` ("steps", "images") will be done in `task`. Tasks may be nested.
    pub fn start(&self, task: &str, total: u64, unit: &'static str) -> Task {
        let task = task.shown().to_string();
        Task {
            console: self.console.start(&task, total, unit),
            logged: Pace::new(&task, total, unit, LINE_EVERY),
            reporter: self.clone(),
        }
    }

    fn log(&self, text: &str) {
        for log in &self.logs {
            if !log.write(text) {
                self.console.message("warning: the log file cannot be written any more; the run goes on without it");
            }
        }
    }
}

/// One piece of work whose progress is shown. Dropped without [`finish`](Task::finish), it disappears.
pub struct Task {
    console: ConsoleTask,
    logged: Pace,
    reporter: Reporter,
}

impl Task {
    /// `n` more are done; `info` says how it goes ("loss 3.21"), or is empty.
    pub fn advance(&mut self, n: u64, info: &str) {
        self.console.advance(n, info);
        if let Some(line) = self.logged.advance(n, info) {
            self.reporter.log(&line);
        }
    }

    /// The work is done; says `info` (where not empty) and how long it took.
    pub fn finish(self, info: &str) {
        let line = self.logged.summary(info);
        self.console.finish();
        self.reporter.message(&line);
    }
}

/// A log file.
struct Log(Mutex<Sink>);

/// Where the lines of a log go.
enum Sink {
    /// Into memory, until the file of this path is opened.
    Held(PathBuf, String),
    Open(File),
    /// Nowhere: the file could not be written.
    Closed,
}

impl Log {
    fn open(&self) -> Result<()> {
        let mut sink = lock(&self.0);
        if let Sink::Held(path, lines) = &*sink {
            let mut file = OpenOptions::new().create(true).append(true).open(path).at("write", path)?;
            file.write_all(lines.as_bytes()).at("write", path)?;
            *sink = Sink::Open(file);
        }
        Ok(())
    }

    /// False when this write is the one that failed.
    fn write(&self, text: &str) -> bool {
        let now = UtcTime::now();
        let lines: String = text.lines().map(|line| format!("{now} {line}\n")).collect();
        let mut sink = lock(&self.0);
        let written = match &mut *sink {
            Sink::Held(_, held) => {
                held.push_str(&lines);
                true
            }
            Sink::Open(file) => file.write_all(lines.as_bytes()).is_ok(),
            Sink::Closed => true,
        };
        if !written {
            *sink = Sink::Closed;
        }
        written
    }
}

/// A panic elsewhere must not silence the report of it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;

    use super::*;

    #[test]
    fn a_held_log_is_written_from_where_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        let reporter = Reporter::silent().with_held_log(&path);
        reporter.message("held");
        assert!(!path.exists());
        reporter.clone().open_logs().unwrap();
        reporter.message("open");
        let text = fs::read_to_string(&path).unwrap();
        let said: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next_back()).collect();
        assert_eq!(said, ["held", "open"]);
    }

    /// A sink whose content can be looked at.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn lines_and_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        let page = Page::default();
        let reporter = Reporter::lines(page.clone(), Duration::ZERO).with_log(&path).unwrap();
        reporter.message("two\nlines");
        reporter.warn("careful");
        let mut task = reporter.start("epoch 1/2", 4, "steps");
        task.advance(1, "loss 2.5");
        task.advance(3, "");
        task.finish("mAP 12.0");
        let text = page.text();
        assert!(text.starts_with("two\nlines\nwarning: careful\nepoch 1/2: 1/4 steps ("), "{text}");
        assert!(text.contains(", loss 2.5\n"), "{text}");
        assert!(text.lines().last().unwrap().starts_with("epoch 1/2: 4/4 steps in "), "{text}");
        assert!(text.ends_with(", mAP 12.0\n"), "{text}");
        let log = fs::read_to_string(&path).unwrap();
        // Progress is logged every few seconds only.
        assert_eq!(log.lines().count(), 4, "{log}");
        assert!(log.lines().all(|line| &line[4..5] == "-" && &line[19..21] == "Z "), "{log}");
    }

    #[test]
    fn progress_lines_are_rare() {
        let page = Page::default();
        let mut task = Reporter::lines(page.clone(), Duration::from_secs(3600)).start("images", 1000, "images");
        for _ in 0..1000 {
            task.advance(1, "");
        }
        task.finish("");
        assert_eq!(page.text().lines().count(), 1, "{}", page.text());
    }

    #[test]
    fn a_closed_pipe_is_no_panic() {
        let reporter = Reporter::lines(Closed, Duration::ZERO);
        reporter.message("x");
        let mut task = reporter.start("a", 1, "steps");
        task.advance(1, "b");
        task.finish("");
    }

    #[test]
    fn several_logs_share_a_console() {
        let folder = tempfile::tempdir().unwrap();
        let (outer, inner) = (folder.path().join("outer"), folder.path().join("inner"));
        let reporter = Reporter::silent().with_log(&outer).unwrap();
        reporter.with_log(&inner).unwrap().message("both");
        reporter.message("one");
        assert_eq!(fs::read_to_string(outer).unwrap().lines().count(), 2);
        assert_eq!(fs::read_to_string(inner).unwrap().lines().count(), 1);
    }
}
