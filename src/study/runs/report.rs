//! The printed form of a comparison.

use std::fmt;

use serde_json::Value;

use super::{ArmComparison, RunComparison, Verdict, items};
use crate::base::report::{MeanStd, Table};
use crate::base::stats::Bootstrap;
use crate::base::text::Shown;
use crate::nn::TaskKind;

/// Differences of up to this many seeds are listed; of more, only their range.
const SPELLED_OUT: usize = 5;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::NotSignificant => "not significant",
        })
    }
}

impl RunComparison {
    /// Returns a row for each arm: its seeds, and its figures as mean ± sample standard deviation over them.
    pub(crate) fn arms_table(&self) -> Table {
        let figures = items::figures(self.task);
        let title =
            |figure: &items::Figure| if figure.percent { format!("{} %", figure.title) } else { figure.title.into() };
        let mut table = Table::new(["arm".into(), "seeds".into()].into_iter().chain(figures.iter().map(title)));
        for arm in &self.arms {
            let seeds: Vec<String> = arm.runs.iter().map(|run| run.seed.to_string()).collect();
            let cells = figures.iter().map(|figure| {
                let (scale, digits) = if figure.percent { (100.0, 2) } else { (1.0, 4) };
                let (mean, std) = (scale * arm.mean[figure.key], arm.std.get(figure.key).map(|std| scale * std));
                format!("{:.digits$}", MeanStd { mean, std })
            });
            table.row([arm.name.clone(), seeds.join(", ")].into_iter().chain(cells));
        }
        table
    }

    /// Returns a row for each arm but the baseline, with differences in percentage points of the main figure.
    pub(crate) fn comparisons_table(&self) -> Table {
        let holm = self.comparisons.iter().any(|c| c.p_holm.is_some());
        let mut header = vec!["arm", "difference", "by seed", "95 % interval", "drawn seeds", "p"];
        header.extend(holm.then_some("p (Holm)"));
        header.push("verdict");
        let mut table = Table::new(header);
        for comparison in &self.comparisons {
            let difference = &comparison.difference;
            let [low, high] = difference.interval;
            let mut row = vec![
                self.arms[comparison.arm].name.clone(),
                points(difference.mean),
                by_seed(comparison),
                format!("[{}, {}]", points(low), points(high)),
                self.drawn_seeds(comparison),
                format!("{:.4}", difference.p),
            ];
            row.extend(comparison.p_holm.map(|p| format!("{p:.4}")));
            row.push(comparison.verdict.to_string());
            table.row(row);
        }
        table
    }

    /// Returns the comparison as JSON, with arms by name and a description of the procedure.
    pub fn to_json(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("numbers, names and lists");
        value["baseline"] = self.arms[self.baseline].name.as_str().into();
        for (i, comparison) in self.comparisons.iter().enumerate() {
            value["comparisons"][i]["arm"] = self.arms[comparison.arm].name.as_str().into();
        }
        value["procedure"] = self.procedure().into();
        value
    }

    /// Returns the cell that says how the bootstrap drew the seeds of both arms.
    fn drawn_seeds(&self, comparison: &ArmComparison) -> String {
        let [own, base] = [comparison.arm, self.baseline].map(|arm| self.arms[arm].runs.len());
        match (comparison.difference.paired_seeds, own, base) {
            (_, 1, 1) => "one each".into(),
            (true, ..) => format!("{own} pairs"),
            _ => format!("{own} and {base}, separately"),
        }
    }

    /// Returns the title of the main figure.
    pub(crate) fn main_title(&self) -> &'static str {
        items::figures(self.task)[0].title
    }

    /// Returns names and titles of the shares of which more is better.
    pub(crate) fn shares(&self) -> Vec<(&'static str, &'static str)> {
        let shares = items::figures(self.task).iter().filter(|figure| figure.percent && figure.key != "ece");
        shares.map(|figure| (figure.key, figure.title)).collect()
    }

    /// Returns the line above the table of comparisons.
    pub(crate) fn caption(&self) -> String {
        let title = self.main_title();
        // A backtick would end the quotation.
        let baseline = self.arms[self.baseline].name.shown().to_string().replace('`', "'");
        format!("{title} against `{baseline}`, in points:")
    }

    /// Describes how the intervals of the arms' means are made, in a sentence.
    pub(crate) fn intervals(&self) -> String {
        let items = if self.task == TaskKind::Reid { "queries" } else { "images" };
        let seeds = match self.arms.iter().all(|arm| arm.runs.len() == 1) {
            true => ": they do not cover the variation between trainings",
            false => " and over seeds",
        };
        let Bootstrap { resamples, seed } = self.bootstrap;
        format!(
            "Intervals are of 95 %, by a bootstrap over {} {items}{seeds} ({resamples} resamples, seed {seed}).",
            self.items
        )
    }

    /// Describes the bootstrap in a line.
    pub(crate) fn procedure(&self) -> String {
        let (images, bootstrap) = (if self.task == TaskKind::Reid { "queries" } else { "images" }, self.bootstrap);
        let runs = |arm: usize| self.arms[arm].runs.len();
        let all_single = (0..self.arms.len()).all(|arm| runs(arm) == 1);
        let seeds = match all_single {
            true => format!("; each arm has one seed, so the interval covers {images} only, not the variation between trainings"),
            false => ", and n - 1 of the n seeds of an arm: the same for two arms that have the same seeds, otherwise separately".into(),
        };
        let few = match (0..self.arms.len()).map(runs).min() {
            Some(1..10) if !all_single => {
                "; with fewer than ten seeds, an interval is too narrow if trainings differ more than images"
            }
            _ => "",
        };
        let holm = match self.comparisons.len() {
            0 | 1 => "",
            _ => " by Holm's p",
        };
        format!(
            "paired bootstrap (Efron and Tibshirani, 1993), {} resamples, seed {}: a resample draws {} {images} with \
             replacement, the same for all arms{seeds}{few}; verdicts at 95 %{holm}",
            bootstrap.resamples, bootstrap.seed, self.items,
        )
    }

    /// Returns tables and procedure as plain text or Markdown.
    pub fn text(&self, in_markdown: bool) -> String {
        let show = |table: Table| if in_markdown { table.to_markdown() } else { table.to_string() };
        let arms = show(self.arms_table());
        match self.comparisons.is_empty() {
            true => format!("{arms}\nall runs differ only in their seed: there is nothing to compare\n"),
            false => {
                let comparisons = show(self.comparisons_table());
                format!("{arms}\n{}\n\n{comparisons}\n{}\n", self.caption(), self.procedure())
            }
        }
    }
}

/// Formats a share in percentage points.
fn points(share: f64) -> String {
    // Without "-0.00".
    let points = (10_000.0 * share).round() / 100.0;
    format!("{:+.2}", points + 0.0)
}

/// Formats differences by seed, as `0: +1.20, 1: +0.80`; the range if there are many.
fn by_seed(comparison: &ArmComparison) -> String {
    let differences = &comparison.by_seed;
    if differences.is_empty() {
        return "-".into();
    }
    if differences.len() <= SPELLED_OUT {
        let parts: Vec<String> = differences.iter().map(|d| format!("{}: {}", d.seed, points(d.difference))).collect();
        return parts.join(", ");
    }
    let ends = differences
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), d| (low.min(d.difference), high.max(d.difference)));
    format!("{} to {}", points(ends.0), points(ends.1))
}
