//! Messages, warnings and progress of long work. The library never prints: it tells a [`Reporter`], and the caller chooses where that
//! writes.

mod console;
mod pace;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Result;
use crate::base::error::IoContext;
use crate::base::text::{Shown, escape_lines};
use crate::base::utc::UtcTime;
pub use console::{Console, ConsoleTask};
use console::{Lines, Silent};
use pace::Pace;

/// Time between two lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Passes messages and progress on to a console and to any number of log files. Clones share them.
#[derive(Clone)]
pub struct Reporter {
    console: Arc<dyn Console>,
    logs: Vec<Arc<Log>>,
    words: fn(&str) -> String,
}

impl Reporter {
    /// Returns a reporter that reports to `console`.
    pub fn new(console: impl Console + 'static) -> Reporter {
        Reporter { console: Arc::new(console), logs: Vec::new(), words: str::to_owned }
    }

    /// Returns a reporter that shows nothing.
    pub fn silent() -> Reporter {
        Reporter::new(Silent)
    }

    /// Returns a reporter that writes lines to `sink`, those about progress at most once in `every`. A closed pipe ends the output, not the
    /// work.
    pub fn lines(sink: impl Write + Send + 'static, every: Duration) -> Reporter {
        Reporter::new(Lines::new(sink, every))
    }

    /// Returns a reporter that writes lines to standard error, those about progress at most every five seconds.
    pub fn stderr() -> Reporter {
        Reporter::lines(io::stderr(), LINE_EVERY)
    }

    /// Returns a reporter that passes every message through `words`, which may name settings in another way.
    pub(crate) fn with_words(self, words: fn(&str) -> String) -> Reporter {
        Reporter { words, ..self }
    }

    /// Returns a reporter that also appends every line, with its time, to the file `path`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): the file cannot be opened.
    pub fn with_log(&self, path: &Path) -> Result<Reporter> {
        let reporter = self.with_held_log(path);
        reporter.open_logs()?;
        Ok(reporter)
    }

    /// Does as [`with_log`](Reporter::with_log), but keeps the lines in memory until [`open_logs`](Reporter::open_logs) is called: work that
    /// is refused before that leaves no file.
    pub fn with_held_log(&self, path: &Path) -> Reporter {
        let mut reporter = self.clone();
        reporter.logs.push(Arc::new(Log(Mutex::new(Sink::Held(path.into(), String::new())))));
        reporter
    }

    /// Opens the log files that are not open yet, and writes the lines that were kept for them.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): a file cannot be written.
    pub fn open_logs(&self) -> Result<()> {
        self.logs.iter().try_for_each(|log| log.open())
    }

    /// Reports one or more lines. Control characters in them are escaped.
    pub fn message(&self, text: &str) {
        let text = (self.words)(text);
        let text = escape_lines(&text);
        self.console.message(&text);
        self.log(&text);
    }

    /// Writes one or more lines to the log files only, because the console shows the same in another way.
    pub fn note(&self, text: &str) {
        self.log(&escape_lines(&(self.words)(text)));
    }

    /// Reports, in one line, a problem that does not stop the work.
    pub fn warn(&self, text: &str) {
        self.message(&format!("warning: {}", text.shown()));
    }

    /// Starts to show the progress of `task`, which has `total` steps; `unit` is their name ("steps", "images"). Tasks may be nested.
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

/// Work whose progress is shown until this is dropped. [`finish`](Task::finish) also leaves a line.
pub struct Task {
    console: Box<dyn ConsoleTask>,
    logged: Pace,
    reporter: Reporter,
}

impl Task {
    /// Counts `n` more steps; `info` is a word on the results so far ("loss 3.21"), or empty.
    pub fn advance(&mut self, n: u64, info: &str) {
        self.console.advance(n, info);
        if let Some(line) = self.logged.advance(n, info) {
            self.reporter.log(&line);
        }
    }

    /// Ends the task with a line that says how long it took, and `info` unless that is empty.
    pub fn finish(self, info: &str) {
        let line = self.logged.summary(info);
        // A bar has to go before the line is written.
        drop(self.console);
        self.reporter.message(&line);
    }
}

/// A log file.
struct Log(Mutex<Sink>);

enum Sink {
    /// Lines are kept in memory until the file of this path is opened.
    Held(PathBuf, String),
    Open(File),
    /// Lines are dropped: writing the file has failed.
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

    /// Returns false if this write fails, and true after that: the failure is to be reported once.
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

/// Locks even after a panic in another thread, so that the panic can be reported.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

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

    /// A sink that keeps what is written.
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
