//! The comparison that the method is about: pre-train on a source domain, then fine-tune on a target domain once plainly and
//! once with PTL, from the same weights and seeds, and measure both and the start.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::data::Dataset;
use crate::eval::ranking::RankingReport;
use crate::plot::{self, Arm, Captions, Series};
use crate::progress::Reporter;
use crate::report::{MeanStd, Table};
use crate::run_dir::RunDir;
use crate::stop::StopFlag;
use crate::train::{self, Job, Outcome, Start, state};
use crate::{Error, Result};

/// The three rows of the table, by their names in `summary.json` and in print.
const ARMS: [(&str, &str); 3] = [("zero_shot", "zero-shot"), ("plain", "plain fine-tuning"), ("ptl", "PTL")];

/// A comparison to run.
pub struct Comparison<'a> {
    /// Settings of the fine-tuning; `model.arch` without `-ptl`, which the PTL arm adds.
    pub config: Config,
    /// Settings of the pre-training.
    pub pretraining: Config,
    pub source: &'a Dataset,
    pub target: &'a Dataset,
    /// The whole comparison is repeated for each.
    pub seeds: Vec<u64>,
    pub run: &'a RunDir,
    pub reporter: &'a Reporter,
    pub stop: &'a StopFlag,
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
}

/// Scores of the arms for each seed.
pub type Results = Vec<[Scores; 3]>;

/// Refuses settings that cannot be compared.
///
/// # Errors
/// [`Error::Setting`]: a network that has cells already, or a seed named twice.
pub fn check_settings(config: &Config, seeds: &[u64]) -> Result<()> {
    let refuse = |setting: &str, value: String, reason: &str| {
        Err(Error::Setting { setting: setting.into(), value, reason: reason.into() })
    };
    if config.model.arch.ends_with("-ptl") {
        let reason = "name the plain network: the comparison adds -ptl itself";
        return refuse("model.arch", config.model.arch.clone(), reason);
    }
    if (1..seeds.len()).any(|i| seeds[..i].contains(&seeds[i])) {
        return refuse("seeds", format!("{seeds:?}"), "each seed is a comparison of its own: name it once");
    }
    Ok(())
}

/// Refuses data sets that the arms cannot train on, or the target cannot measure.
///
/// # Errors
/// As [`Dataset::check_for_training`] and [`Dataset::check_for_evaluation`].
pub fn check_datasets(config: &Config, source: &Dataset, target: &Dataset) -> Result<()> {
    source.check_for_training(config.sampler.ids)?;
    target.check_for_training(config.sampler.ids)?;
    target.check_for_evaluation()
}

/// Runs the comparison, writes `summary.json` and the pictures, and returns the scores; `None` if it was stopped.
///
/// # Errors
/// As [`train::run`].
pub fn run(comparison: &Comparison<'_>) -> Result<Option<Results>> {
    check_settings(&comparison.config, &comparison.seeds)?;
    check_datasets(&comparison.config, comparison.source, comparison.target)?;
    let mut results = Results::new();
    for &seed in &comparison.seeds {
        match one_seed(comparison, seed)? {
            Some(scores) => results.push(scores),
            None => return Ok(None),
        }
        // After each seed, so that a long comparison leaves what it has.
        write_summary(comparison, &results)?;
    }
    draw(comparison, &results)?;
    Ok(Some(results))
}

/// Pre-training and both arms; `None` if stopped.
fn one_seed(comparison: &Comparison<'_>, seed: u64) -> Result<Option<[Scores; 3]>> {
    let Comparison { source, target, reporter, .. } = comparison;
    // An arm's settings name its data, so that each is a run that can be resumed by itself.
    let mut plain = Config { seed, ..comparison.config.clone() };
    (plain.data.root, plain.data.target) = (PathBuf::from(&target.name), None);
    plain.data.kind = std::mem::take(&mut plain.data.target_kind);
    let mut ptl = plain.clone();
    ptl.model.arch.push_str("-ptl");
    let mut pretraining = Config { seed, ..comparison.pretraining.clone() };
    (pretraining.data.root, pretraining.data.target) = (PathBuf::from(&source.name), Some(PathBuf::from(&target.name)));

    reporter.message(&format!("seed {seed}: pre-training on {}, then zero-shot on {}", source.name, target.name));
    let folder = run_folder(comparison, seed, "pretrain");
    let Some((zero_shot, weights)) = arm(comparison, &folder, &pretraining, source, Start::Scratch)? else {
        return Ok(None);
    };
    let mut scores = vec![Scores::of(&zero_shot)];
    for (name, config) in [("plain", &plain), ("ptl", &ptl)] {
        reporter.message(&format!("seed {seed}: fine-tuning on {} ({name})", target.name));
        let folder = run_folder(comparison, seed, name);
        let Some((report, _)) = arm(comparison, &folder, config, target, Start::Init(weights.clone()))? else {
            return Ok(None);
        };
        scores.push(Scores::of(&report));
    }
    Ok(Some(scores.try_into().expect("three arms")))
}

/// Trains in a folder of its own and evaluates on the target: the report and the weights.
fn arm(
    comparison: &Comparison<'_>,
    folder: &Path,
    config: &Config,
    dataset: &Dataset,
    start: Start,
) -> Result<Option<(RankingReport, PathBuf)>> {
    let run = RunDir::create(folder)?;
    let reporter = comparison.reporter.with_log(&run.log_path())?;
    let target = Some(comparison.target);
    let job = Job { config, dataset, target, start, run: &run, reporter: &reporter, stop: comparison.stop };
    match train::run(&job)? {
        Outcome::Stopped(_) => Ok(None),
        Outcome::Finished(report) => {
            run.write_summary(&Scores::of(&report))?;
            let newest = state::newest(&run.checkpoints())
                .ok_or_else(|| Error::NotARun { path: folder.to_path_buf(), reason: "it has no checkpoint".into() })?;
            Ok(Some((*report, newest.join(state::MODEL_FILE))))
        }
    }
}

fn run_folder(comparison: &Comparison<'_>, seed: u64, name: &str) -> PathBuf {
    let root = comparison.run.root();
    if comparison.seeds.len() == 1 { root.join(name) } else { root.join(format!("seed-{seed}")).join(name) }
}

/// The table of the arms: one seed plainly, several as mean ± sample standard deviation.
pub fn table(results: &Results) -> Table {
    let mut table = Table::new(["", "mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"]);
    for (arm, (_, title)) in ARMS.iter().enumerate() {
        let cells = (0..5).map(|column| {
            let values: Vec<f64> = results.iter().map(|scores| scores[arm].columns()[column]).collect();
            MeanStd::of(&values).map_or_else(String::new, |m| format!("{m:.1}"))
        });
        table.row(std::iter::once(title.to_string()).chain(cells));
    }
    table
}

fn write_summary(comparison: &Comparison<'_>, results: &Results) -> Result<()> {
    let mut summary = Map::new();
    for (arm, (name, _)) in ARMS.iter().enumerate() {
        let mean =
            |of: fn(&Scores) -> f64| results.iter().map(|scores| of(&scores[arm])).sum::<f64>() / results.len() as f64;
        let scores = Scores {
            map: mean(|s| s.map),
            minp: mean(|s| s.minp),
            rank1: mean(|s| s.rank1),
            rank5: mean(|s| s.rank5),
            rank10: mean(|s| s.rank10),
        };
        summary.insert((*name).into(), json!(scores));
    }
    summary.insert("source".into(), comparison.source.label.as_str().into());
    summary.insert("target".into(), comparison.target.label.as_str().into());
    summary.insert("ap_formula".into(), "step (items at equal distance enter together)".into());
    let seeds: Vec<Value> = (results.iter().zip(&comparison.seeds))
        .map(|(s, seed)| json!({ "seed": seed, "zero_shot": s[0], "plain": s[1], "ptl": s[2] }))
        .collect();
    summary.insert("seeds".into(), seeds.into());
    comparison.run.write_summary(&summary)
}

/// `curves.svg` (losses of the first seed) and `scores.svg` (arms with their spread).
fn draw(comparison: &Comparison<'_>, results: &Results) -> Result<()> {
    let mut series = Vec::new();
    for (name, title) in [("pretrain", "pre-training"), ("plain", "plain"), ("ptl", "PTL")] {
        let run = RunDir::open(&run_folder(comparison, comparison.seeds[0], name))?;
        let [points] = train::curves::per_epoch(&run, ["loss"])?;
        series.push(Series { name: title.into(), points });
    }
    let captions = Captions { title: "Training loss", x: "step", y: "loss" };
    plot::curves(&comparison.run.curves_path(), captions, &series)?;
    let arms: Vec<Arm> = (ARMS.iter().enumerate())
        .map(|(arm, (_, title))| Arm {
            name: (*title).into(),
            values: (0..3)
                .filter_map(|c| MeanStd::of(&results.iter().map(|s| s[arm].columns()[c]).collect::<Vec<_>>()))
                .collect(),
        })
        .collect();
    let captions = Captions { title: "Target domain", x: "", y: "%" };
    plot::bars(&comparison.run.file("scores.svg"), captions, &["mAP", "mINP", "Rank-1"], &arms)
}
