//! Several trainings held against each other: [`compare`] (zero-shot, plain fine-tuning, PTL) and [`ablation`] (what latent
//! states bring). Each arm is a run of its own in the study's folder and can be evaluated and resumed by itself. [`runs`]
//! compares whatever runs have finished.

pub mod ablation;
pub mod compare;
pub mod runs;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{Config, TaskKind};
use crate::data::Dataset;
use crate::eval::model_file;
use crate::eval::ranking::RankingReport;
use crate::progress::Reporter;
use crate::report::{MeanStd, Table};
use crate::run_dir::RunDir;
use crate::stop::StopFlag;
use crate::train::{self, Job, Outcome, Reid, Start};
use crate::{Error, Result};

/// What all arms share.
pub struct Study<'a> {
    /// Every arm is trained once for each.
    pub seeds: Vec<u64>,
    pub run: &'a RunDir,
    pub reporter: &'a Reporter,
    pub stop: &'a StopFlag,
}

impl Study<'_> {
    /// The folder of an arm: by seed where there are several.
    fn folder(&self, seed: u64, arm: &str) -> PathBuf {
        let root = self.run.root();
        if self.seeds.len() == 1 { root.join(arm) } else { root.join(format!("seed-{seed}")).join(arm) }
    }

    /// Trains in `folder` and evaluates: the report and the file of weights; `None` if it was stopped.
    fn arm(
        &self,
        folder: &Path,
        config: &Config,
        dataset: &Dataset,
        target: Option<&Dataset>,
        start: Start,
    ) -> Result<Option<(RankingReport, PathBuf)>> {
        let run = RunDir::create(folder)?;
        let reporter = self.reporter.with_log(&run.log_path())?;
        let task = &Reid { dataset, target };
        let job = Job { config, task, start, run: &run, reporter: &reporter, stop: self.stop };
        match train::run(&job)? {
            Outcome::Stopped(_) => Ok(None),
            Outcome::Finished(report) => {
                reporter.message(&report.to_string());
                Ok(Some((*report, model_file(folder)?)))
            }
        }
    }
}

/// Refuses another task than re-identification, and a seed that is named twice.
fn check(config: &Config, seeds: &[u64]) -> Result<()> {
    if config.task != TaskKind::Reid {
        return Err(Error::Setting {
            setting: "task".into(),
            value: "classify".into(),
            reason: "this command trains on identities: train each classifier, then hold the runs together with compare RUN..."
                .into(),
        });
    }
    if (1..seeds.len()).any(|i| seeds[..i].contains(&seeds[i])) {
        return Err(Error::Setting {
            setting: "seeds".into(),
            value: format!("{seeds:?}"),
            reason: "each seed is a whole study of its own: name it once".into(),
        });
    }
    Ok(())
}

/// Figures of one arm and seed, in percent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scores {
    #[serde(rename = "mAP")]
    pub map: f64,
    #[serde(rename = "mINP")]
    pub minp: f64,
    pub rank1: f64,
    pub rank5: f64,
    pub rank10: f64,
}

impl Scores {
    /// In percent.
    pub fn of(report: &RankingReport) -> Scores {
        let rank = |k| 100.0 * report.rank(k).unwrap_or(f64::NAN);
        Scores { map: 100.0 * report.map, minp: 100.0 * report.minp, rank1: rank(1), rank5: rank(5), rank10: rank(10) }
    }

    fn columns(&self) -> [f64; 5] {
        [self.map, self.minp, self.rank1, self.rank5, self.rank10]
    }

    /// Figure by figure; NaN of nothing.
    fn mean(scores: &[Scores]) -> Scores {
        let mean = |of: fn(&Scores) -> f64| scores.iter().map(of).sum::<f64>() / scores.len() as f64;
        Scores {
            map: mean(|s| s.map),
            minp: mean(|s| s.minp),
            rank1: mean(|s| s.rank1),
            rank5: mean(|s| s.rank5),
            rank10: mean(|s| s.rank10),
        }
    }
}

/// One row for each arm, from its scores over the seeds: one plainly, several as mean ± sample standard deviation.
fn table(arms: impl IntoIterator<Item = (String, Vec<Scores>)>) -> Table {
    let mut table = Table::new(["", "mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"]);
    for (title, scores) in arms {
        let cells = (0..5).map(|column| {
            let values: Vec<f64> = scores.iter().map(|s| s.columns()[column]).collect();
            // A protocol of single gallery shots has no mAP.
            let figure = MeanStd::of(&values).filter(|m| !m.mean.is_nan());
            figure.map_or_else(|| "-".into(), |m| format!("{m:.1}"))
        });
        table.row(std::iter::once(title).chain(cells));
    }
    table
}
