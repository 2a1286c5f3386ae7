//! Counts the steps of a task, and decides when a line about its rate and remaining time is due.

use std::time::{Duration, Instant};

/// The progress of one task, as lines of text.
pub(super) struct Pace {
    task: String,
    total: u64,
    unit: &'static str,
    done: u64,
    started: Instant,
    last_line: Instant,
    every: Duration,
}

impl Pace {
    pub(super) fn new(task: &str, total: u64, unit: &'static str, every: Duration) -> Pace {
        let now = Instant::now();
        Pace { task: task.into(), total, unit, done: 0, started: now, last_line: now, every }
    }

    /// Counts `n` more steps. Returns a line if one is due.
    pub(super) fn advance(&mut self, n: u64, info: &str) -> Option<String> {
        self.done += n;
        let now = Instant::now();
        if now - self.last_line < self.every || self.done >= self.total {
            return None;
        }
        self.last_line = now;
        Some(self.line(now - self.started, info))
    }

    fn line(&self, elapsed: Duration, info: &str) -> String {
        let Pace { task, total, unit, done, .. } = self;
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let rate = *done as f64 / seconds;
        let percent = 100 * done / total.max(&1);
        let left = Duration::from_secs_f64((total.saturating_sub(*done) as f64 / rate.max(1e-9)).min(1e9));
        let comma = if info.is_empty() { "" } else { ", " };
        format!("{task}: {done}/{total} {unit} ({percent} %), {rate:.1}/s, {} left{comma}{info}", duration(left))
    }

    /// Returns the line for the end of the task.
    pub(super) fn summary(&self, info: &str) -> String {
        let Pace { task, total, unit, done, started, .. } = self;
        let comma = if info.is_empty() { "" } else { ", " };
        format!("{task}: {done}/{total} {unit} in {}{comma}{info}", duration(started.elapsed()))
    }
}

/// Formats a duration as `8.3 s`, `2 min 05 s`, `3 h 07 min`.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=59 => format!("{:.1} s", time.as_secs_f64()),
        60..=3599 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_rate_and_remaining_time() {
        let mut pace = Pace::new("epoch 1/2", 200, "steps", Duration::ZERO);
        pace.done = 50;
        assert_eq!(
            pace.line(Duration::from_secs(10), "loss 1.5"),
            "epoch 1/2: 50/200 steps (25 %), 5.0/s, 30.0 s left, loss 1.5"
        );
        assert_eq!(pace.line(Duration::from_secs(100), ""), "epoch 1/2: 50/200 steps (25 %), 0.5/s, 5 min 00 s left");
        assert!(pace.advance(1, "").is_some());
        assert!(pace.advance(149, "").is_none(), "the end has its own line");
    }

    #[test]
    fn durations() {
        assert_eq!(duration(Duration::from_millis(8340)), "8.3 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 05 s");
        assert_eq!(duration(Duration::from_secs(3 * 3600 + 7 * 60 + 9)), "3 h 07 min");
    }
}
