//! Progress bars on a terminal.

use std::fmt;
use std::io::{self, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use crate::base::progress::{Console, ConsoleTask};

/// Shows a bar for each running task at the bottom of the terminal, with rate and remaining time.
#[derive(Default)]
pub(crate) struct Bars(MultiProgress);

struct Bar(ProgressBar);

impl Console for Bars {
    fn message(&self, text: &str) {
        self.0.suspend(|| drop(writeln!(io::stderr(), "{text}")));
    }

    fn start(&self, task: &str, total: u64, unit: &'static str) -> Box<dyn ConsoleTask> {
        let template = format!("{{prefix}} [{{bar:24}}] {{pos}}/{{len}} {unit}, {{rate}}, {{eta}} left {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            // If the terminal cannot be written to, the work continues without bars.
            let _ = write!(out, "{:.1}/s", state.per_sec());
        };
        let style = style.with_key("rate", rate).progress_chars("=> ");
        let bar = self.0.add(ProgressBar::new(total).with_style(style));
        bar.set_prefix(task.to_owned());
        Box::new(Bar(bar))
    }
}

impl ConsoleTask for Bar {
    fn advance(&mut self, n: u64, info: &str) {
        self.0.set_message(info.to_owned());
        self.0.inc(n);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
