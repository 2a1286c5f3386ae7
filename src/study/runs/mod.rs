//! Compares finished runs. Runs that differ only in their seed are one arm, and each arm is compared with the baseline by a paired
//! bootstrap over images and seeds.

mod arms;
mod find;
mod items;
mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use self::arms::Arm;
use self::items::Items;
pub(crate) use self::items::title_of;
use crate::base::stats::{Bootstrap, Difference, SeededValues, holm, paired_bootstrap};
use crate::base::text::Shown;
use crate::config::{Config, Overrides};
use crate::nn::TaskKind;
use crate::run_dir::RunDir;
use crate::{Error, Result};

/// A difference with a p-value below this is significant.
const SIGNIFICANT: f64 = 0.05;

/// Options of [`compare`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Number and seed of the resamples.
    pub bootstrap: Bootstrap,
    /// Name or 1-based number of the arm that the others are compared with; `None` takes the first.
    pub baseline: Option<String>,
}

/// A finished run.
struct FinishedRun {
    root: PathBuf,
    config: Config,
    items: Items,
}

/// The result of [`compare`]. Figures and differences are shares in [0, 1], except `nll`, which is in nats.
#[derive(Clone, Debug, Serialize)]
pub struct RunComparison {
    /// Task of all runs.
    pub task: TaskKind,
    /// Number of images or queries, the same for every run.
    pub items: usize,
    /// Name of the figure that is compared: `top1` or `mAP`.
    pub figure: &'static str,
    /// The arms, in the order of their first runs.
    pub arms: Vec<ArmResult>,
    /// Index of the arm that the others are compared with.
    pub baseline: usize,
    /// Number and seed of the resamples.
    pub bootstrap: Bootstrap,
    /// The comparison of each other arm with the baseline.
    pub comparisons: Vec<ArmComparison>,
}

/// An arm with its runs.
#[derive(Clone, Debug, Serialize)]
pub struct ArmResult {
    /// Name: a folder, or the settings in which arms differ.
    pub name: String,
    /// Mean of each figure over the seeds, by the name of the figure.
    pub mean: BTreeMap<&'static str, f64>,
    /// Sample standard deviations by name; empty with a single seed.
    pub std: BTreeMap<&'static str, f64>,
    /// 95 % interval of the mean of the main figure, by the same bootstrap as the comparisons.
    pub interval: [f64; 2],
    /// Runs sorted by seed.
    pub runs: Vec<RunResult>,
}

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub struct RunResult {
    /// Folder of the run.
    #[serde(serialize_with = "as_text")]
    pub folder: PathBuf,
    /// Seed of the run.
    pub seed: u64,
    /// Figures by name.
    pub figures: BTreeMap<&'static str, f64>,
}

/// Serialises a path as text, because JSON has no paths.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// The comparison of an arm with the baseline.
#[derive(Clone, Debug, Serialize)]
pub struct ArmComparison {
    /// Index of the arm.
    pub arm: usize,
    /// Difference of the main figure, with its interval and p-value.
    #[serde(flatten)]
    pub difference: Difference,
    /// The p-value adjusted by Holm's method; `None` with a single comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_holm: Option<f64>,
    /// Difference for each seed that both arms have.
    pub by_seed: Vec<SeedDifference>,
    /// Whether the difference is significant.
    pub verdict: Verdict,
}

/// The difference between two runs of the same seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SeedDifference {
    /// Seed of both runs.
    pub seed: u64,
    /// Main figure of the arm minus that of the baseline.
    pub difference: f64,
}

/// The result of the test at the 5 % level; with several comparisons, by the p-value that is adjusted by Holm's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Significantly better than the baseline.
    Better,
    /// Significantly worse than the baseline.
    Worse,
    /// Not significantly different.
    NotSignificant,
}

/// Compares the runs in `paths`. Each path is the folder of a run, or a folder with runs up to three levels below it.
///
/// # Errors
/// [`Error::NotARun`]: a folder without runs, or a run that has not finished; files that cannot be read; [`Error::OtherImages`];
/// [`Error::NotComparable`]; [`Error::Setting`]: a baseline that is none of the arms.
pub fn compare(paths: &[PathBuf], options: &Options) -> Result<RunComparison> {
    let runs = read_runs(&find::runs(paths)?)?;
    let (task, items) = (runs[0].items.task, runs[0].items.len());
    let arms = arms::group(runs)?;
    let baseline = baseline(&arms, options.baseline.as_deref())?;
    let values: Vec<SeededValues> = arms.iter().map(Arm::values).collect();
    let differences = paired_bootstrap(&values, baseline, options.bootstrap);
    let others: Vec<usize> = (0..arms.len()).filter(|&arm| arm != baseline).collect();
    let adjusted = holm(&others.iter().map(|&arm| differences[arm].p).collect::<Vec<_>>());
    let several = others.len() > 1;
    let comparisons = others.iter().zip(adjusted).map(|(&arm, adjusted)| ArmComparison {
        arm,
        difference: differences[arm],
        p_holm: several.then_some(adjusted),
        by_seed: by_seed(&values[arm], &values[baseline]),
        verdict: verdict(differences[arm].mean, adjusted),
    });
    Ok(RunComparison {
        task,
        items,
        figure: items::figures(task)[0].key,
        comparisons: comparisons.collect(),
        arms: arms.iter().zip(&differences).map(|(arm, of)| arm.result(of.own_interval)).collect(),
        baseline,
        bootstrap: options.bootstrap,
    })
}

/// Reads settings and items of all runs. Refuses runs that differ in task or images from the first.
fn read_runs(folders: &[RunDir]) -> Result<Vec<FinishedRun>> {
    let mut runs: Vec<FinishedRun> = Vec::new();
    let mut first_keys = Vec::new();
    for folder in folders {
        let config = folder.read_config(&Overrides::default())?;
        let (items, keys) = Items::read(&folder.items_path())?;
        let root = folder.root().to_path_buf();
        match runs.first() {
            None => first_keys = keys,
            Some(first) if first.items.task != items.task => {
                let word = |task| if task == TaskKind::Reid { "re-identifies" } else { "classifies" };
                let (run, first_run) = (root.shown(), first.root.shown());
                let reason = format!("{first_run} {}, {run} {}", word(first.items.task), word(items.task));
                return Err(Error::NotComparable { reason });
            }
            Some(first) => {
                let [missing, added] = items::differing(&first_keys, &keys);
                if missing + added > 0 {
                    let total = first_keys.len();
                    return Err(Error::OtherImages { run: root, first: first.root.clone(), total, missing, added });
                }
            }
        }
        runs.push(FinishedRun { root, config, items });
    }
    Ok(runs)
}

/// Returns the index of the arm with that name or 1-based number; 0 if none is given.
fn baseline(arms: &[Arm], named: Option<&str>) -> Result<usize> {
    let Some(named) = named else { return Ok(0) };
    let by_number = || named.parse::<usize>().ok().and_then(|n| n.checked_sub(1)).filter(|&n| n < arms.len());
    arms.iter().position(|arm| arm.name == named).or_else(by_number).ok_or_else(|| {
        let known: Vec<String> =
            arms.iter().enumerate().map(|(i, arm)| format!("{} {}", i + 1, arm.name.shown())).collect();
        Error::Setting {
            setting: "`baseline`".into(),
            value: named.into(),
            reason: format!("name an arm or its number: {}", known.join("; ")),
        }
    })
}

fn verdict(mean: f64, p: f64) -> Verdict {
    match p < SIGNIFICANT {
        true if mean > 0.0 => Verdict::Better,
        true if mean < 0.0 => Verdict::Worse,
        _ => Verdict::NotSignificant,
    }
}

/// Returns the differences for the seeds that both arms have.
fn by_seed(arm: &SeededValues, baseline: &SeededValues) -> Vec<SeedDifference> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let difference = |(&seed, values): (&u64, &Vec<f64>)| {
        let other = baseline.seeds.binary_search(&seed).ok()?;
        Some(SeedDifference { seed, difference: mean(values) - mean(&baseline.values[other]) })
    };
    arm.seeds.iter().zip(&arm.values).filter_map(difference).collect()
}
