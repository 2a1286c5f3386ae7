//! Compares plain fine-tuning with PTL: pre-trains a network on a source domain, and fine-tunes it on a target domain, once plainly and
//! once with PTL, with the same weights and seeds. Measures both networks, and the pre-trained one (zero-shot).

use serde_json::{Map, Value, json};

use super::Study;
use crate::base::report::Table;
use crate::config::Config;
use crate::data::Dataset;
use crate::eval::ranking::Scores;
use crate::train::Start;
use crate::{Error, Result};

/// The arms: the name of each in `summary.json` and its title in tables and pictures.
pub(crate) const ARMS: [(&str, &str); 3] = [("zero_shot", "zero-shot"), ("plain", "plain fine-tuning"), ("ptl", "PTL")];

/// A comparison to run.
pub struct Comparison<'a> {
    /// Settings of the fine-tuning. `model.arch` has no `-ptl`: the PTL arm adds it.
    pub config: Config,
    /// Settings of the pre-training.
    pub pretraining: Config,
    /// The data set to pre-train on.
    pub source: &'a Dataset,
    /// The data set to fine-tune and measure on.
    pub target: &'a Dataset,
    /// What all arms share.
    pub study: Study<'a>,
}

/// For each seed, in the order of [`Study::seeds`], the scores of the arms: zero-shot, plain fine-tuning, PTL.
pub type Results = Vec<[Scores; 3]>;

/// Refuses a network that already has cells, held-out identities, and a repeated seed.
///
/// # Errors
/// [`Error::Setting`].
pub(crate) fn check_settings(config: &Config, seeds: &[u64]) -> Result<()> {
    super::check(config, seeds)?;
    if config.data.val_ids > 0 {
        return Err(Error::Setting {
            setting: "data.val_ids".into(),
            value: config.data.val_ids.to_string(),
            reason: "this command measures the target's own test: leave it out, or train each network with it and compare the runs with \
                     compare RUN..."
                .into(),
        });
    }
    if config.model.arch.ends_with("-ptl") {
        return Err(Error::Setting {
            setting: "model.arch".into(),
            value: config.model.arch.clone(),
            reason: "name the plain network: the comparison adds -ptl itself".into(),
        });
    }
    Ok(())
}

/// Refuses data sets that the arms cannot train on, and a target that cannot be measured.
///
/// # Errors
/// As [`Dataset::check_for_training`] and [`Dataset::check_for_evaluation`].
pub(crate) fn check_datasets(config: &Config, source: &Dataset, target: &Dataset) -> Result<()> {
    source.check_for_training(config.sampler.ids)?;
    target.check_for_training(config.sampler.ids)?;
    target.check_for_evaluation()
}

/// Runs the comparison, writes `summary.json`, and returns the scores; `None` if it was stopped.
///
/// # Errors
/// As [`crate::train::run`].
pub fn run(comparison: &Comparison<'_>) -> Result<Option<Results>> {
    check_settings(&comparison.config, &comparison.study.seeds)?;
    check_datasets(&comparison.config, comparison.source, comparison.target)?;
    let mut results = Results::new();
    for &seed in &comparison.study.seeds {
        match one_seed(comparison, seed)? {
            Some(scores) => results.push(scores),
            None => return Ok(None),
        }
        // Written after each seed, so that an interrupted comparison has results.
        write_summary(comparison, &results)?;
    }
    Ok(Some(results))
}

/// Pre-trains and fine-tunes with one seed; returns `None` if stopped.
fn one_seed(comparison: &Comparison<'_>, seed: u64) -> Result<Option<[Scores; 3]>> {
    let Comparison { source, target, study, .. } = comparison;
    // The settings of an arm name its data, so that each arm can be resumed by itself.
    let mut plain = Config { seed, ..comparison.config.clone() };
    (plain.data.root, plain.data.target) = (target.root.clone(), None);
    plain.data.kind = std::mem::take(&mut plain.data.target_kind);
    let mut ptl = plain.clone();
    ptl.model.arch.push_str("-ptl");
    let mut pretraining = Config { seed, ..comparison.pretraining.clone() };
    (pretraining.data.root, pretraining.data.target) = (source.root.clone(), Some(target.root.clone()));

    study.reporter.message(&format!("seed {seed}: pre-training on {}, then zero-shot on {}", source.name, target.name));
    let folder = study.folder(seed, "pretrain");
    let Some((zero_shot, weights)) = study.arm(&folder, &pretraining, source, Some(target), Start::Scratch)? else {
        return Ok(None);
    };
    let mut scores = vec![zero_shot];
    for (name, config) in [("plain", &plain), ("ptl", &ptl)] {
        study.reporter.message(&format!("seed {seed}: fine-tuning on {} ({name})", target.name));
        let (folder, start) = (study.folder(seed, name), Start::Init(weights.clone()));
        let Some((figures, _)) = study.arm(&folder, config, target, None, start)? else {
            return Ok(None);
        };
        scores.push(figures);
    }
    Ok(Some(scores.try_into().expect("three arms")))
}

/// Returns the table of the arms: the scores of one seed, or mean ± sample standard deviation of several.
pub fn table(results: &Results) -> Table {
    let of_arm = |arm: usize| results.iter().map(|scores| scores[arm]).collect();
    super::table(ARMS.iter().enumerate().map(|(arm, (_, title))| (title.to_string(), of_arm(arm))))
}

fn write_summary(comparison: &Comparison<'_>, results: &Results) -> Result<()> {
    let mut summary = Map::new();
    for (arm, (name, _)) in ARMS.iter().enumerate() {
        let scores = Scores::mean(&results.iter().map(|scores| scores[arm]).collect::<Vec<_>>());
        summary.insert((*name).into(), json!(scores));
    }
    summary.insert("source".into(), comparison.source.label.as_str().into());
    summary.insert("target".into(), comparison.target.label.as_str().into());
    summary.insert("ap_formula".into(), "step (items at equal distance enter together)".into());
    let seeds: Vec<Value> = (results.iter().zip(&comparison.study.seeds))
        .map(|(s, seed)| json!({ "seed": seed, "zero_shot": s[0], "plain": s[1], "ptl": s[2] }))
        .collect();
    summary.insert("seeds".into(), seeds.into());
    comparison.study.run.write_summary(&summary)
}
