//! Comparisons of several trainings: [`compare`] (zero-shot, plain fine-tuning, PTL) and [`ablation`] (the effect of latent states).
//! Each arm is a run of its own in the study's folder and can be evaluated and resumed by itself. An interrupted study continues with
//! the arms that have not finished. [`runs`] compares any finished runs.

pub mod ablation;
pub mod compare;
mod file;
pub mod runs;

pub use file::{StudyFile, StudyKind};

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::error::IoContext;
use crate::base::input;
use crate::base::progress::Reporter;
use crate::base::report::{MeanStd, Table};
use crate::base::stop::StopFlag;
use crate::base::text::Shown;
use crate::config::{Config, Overrides};
use crate::data::Dataset;
use crate::eval::ranking::Scores;
use crate::model::{checkpoints, model_file};
use crate::nn::TaskKind;
use crate::run_dir::RunDir;
use crate::train::{self, Job, Outcome, Reid, Start};
use crate::{Error, Result};

/// What all arms share.
pub struct Study<'a> {
    /// Seeds; every arm is trained once with each.
    pub seeds: Vec<u64>,
    /// Folder of the study.
    pub run: &'a RunDir,
    /// Receives messages and progress.
    pub reporter: &'a Reporter,
    /// Request to stop the current training.
    pub stop: &'a StopFlag,
    /// Called with the run of each arm when its training has ended or was stopped, for example to draw its curves.
    pub arm_ended: &'a dyn Fn(&RunDir) -> Result<()>,
}

impl Study<'_> {
    /// Returns the folder of an arm: `ARM`, or `seed-N/ARM` if there are several seeds.
    pub fn folder(&self, seed: u64, arm: &str) -> PathBuf {
        let root = self.run.root();
        if self.seeds.len() == 1 { root.join(arm) } else { root.join(format!("seed-{seed}")).join(arm) }
    }

    /// Trains an arm in `folder` and evaluates it. Does not train a finished arm again, and resumes one that has a checkpoint. Returns its
    /// scores and its file of weights, or `None` if stopped.
    fn arm(
        &self,
        folder: &Path,
        config: &Config,
        dataset: &Dataset,
        target: Option<&Dataset>,
        start: Start,
    ) -> Result<Option<(Scores, PathBuf)>> {
        if let Some(scores) = Scores::read(folder)? {
            let run = RunDir::view(folder)?;
            check_settings(&run, config)?;
            self.reporter.message("this arm has finished already");
            (self.arm_ended)(&run)?;
            return Ok(Some((scores, model_file(folder)?)));
        }
        if self.stop.requested() {
            return Ok(None);
        }
        let resumable = RunDir::view(folder).is_ok_and(|run| checkpoints::newest(&run.checkpoints()).is_some());
        let (run, start) = if resumable {
            let run = RunDir::open(folder)?;
            check_settings(&run, config)?;
            (run, Start::Resume)
        } else {
            // Without a checkpoint, the folder holds nothing to keep.
            if folder.exists() {
                fs::remove_dir_all(folder).at("remove", folder)?;
            }
            (RunDir::create(folder)?, start)
        };
        let reporter = self.reporter.with_held_log(&run.log_path());
        let task = &Reid { dataset, target };
        let job = Job { config, task, start, run: &run, reporter: &reporter, stop: self.stop };
        let outcome = train::run(&job)?;
        (self.arm_ended)(&run)?;
        match outcome {
            Outcome::Stopped(_) => Ok(None),
            Outcome::Finished(report) => {
                reporter.message(&report.to_string());
                Ok(Some((Scores::of(&report), model_file(folder)?)))
            }
        }
    }
}

/// Refuses an arm whose settings differ from the study's: it may have been resumed by itself, with other flags.
fn check_settings(run: &RunDir, config: &Config) -> Result<()> {
    let stored = run.read_config(&Overrides::default())?;
    let Some(setting) = config.first_difference(&stored, |setting| setting.changes_results) else { return Ok(()) };
    let (then, now) = (stored.shown(setting), config.shown(setting));
    let (then, now) = (then.shown(), now.shown());
    let reason = format!("it has {} = {then}, the study {now}: remove the folder to train this arm anew", setting.path);
    Err(Error::NotComparable { reason: format!("{}: {reason}", run.root().shown()) })
}

/// Refuses any task but re-identification, and a repeated seed.
fn check(config: &Config, seeds: &[u64]) -> Result<()> {
    if config.task != TaskKind::Reid {
        return Err(Error::Setting {
            setting: "task".into(),
            value: "classify".into(),
            reason:
                "this command trains on identities: train each classifier, then compare the runs with compare RUN..."
                    .into(),
        });
    }
    if (1..seeds.len()).any(|i| seeds[..i].contains(&seeds[i])) {
        return Err(Error::Setting {
            setting: "seeds".into(),
            value: format!("{seeds:?}"),
            reason: "every arm is trained once with each seed: name each seed once".into(),
        });
    }
    Ok(())
}

impl Scores {
    /// Reads the scores of the finished run in `folder`; `None` if it has not finished.
    ///
    /// # Errors
    /// Its summary cannot be read.
    fn read(folder: &Path) -> Result<Option<Scores>> {
        let path = folder.join("summary.json");
        if !path.exists() {
            return Ok(None);
        }
        let summary: Option<Value> = serde_json::from_slice(&input::read(&path, 1 << 20)?).ok();
        let figure = |name: &str| match summary.as_ref()?.get(name)? {
            // JSON has no NaN.
            Value::Null => Some(f64::NAN),
            value => value.as_f64(),
        };
        let scores = || {
            let [map, minp] = [figure("mAP")?, figure("mINP")?];
            Some(Scores { map, minp, rank1: figure("rank1")?, rank5: figure("rank5")?, rank10: figure("rank10")? })
        };
        let reason = "its summary.json has no figures of a re-identification: remove the folder to train this arm anew";
        scores().map(Some).ok_or_else(|| Error::NotARun { path: folder.into(), reason: reason.into() })
    }

    /// Returns the scores in the order of the table.
    fn columns(&self) -> [f64; 5] {
        [self.map, self.minp, self.rank1, self.rank5, self.rank10]
    }

    /// Returns the mean of each figure; NaN without scores.
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

/// Returns a row for each arm: the scores of one seed, or mean ± sample standard deviation of several.
fn table(arms: impl IntoIterator<Item = (String, Vec<Scores>)>) -> Table {
    let mut table = Table::new(["", "mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"]);
    for (title, scores) in arms {
        let cells = (0..5).map(|column| {
            let values: Vec<f64> = scores.iter().map(|s| s.columns()[column]).collect();
            // CUHK03's single gallery shot has no mAP.
            let figure = MeanStd::of(&values).filter(|m| !m.mean.is_nan());
            figure.map_or_else(|| "-".into(), |m| format!("{m:.1}"))
        });
        table.row(std::iter::once(title).chain(cells));
    }
    table
}
