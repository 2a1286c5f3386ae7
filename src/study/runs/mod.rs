//! Finished runs held against each other: runs that differ in nothing but the seed are one arm, and each arm is compared with
//! the first by a paired bootstrap over images and seeds.

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
use crate::base::stats::{Bootstrap, Difference, SeededValues, holm, paired_bootstrap};
use crate::base::text::Shown;
use crate::config::{Config, Overrides};
use crate::nn::TaskKind;
use crate::run_dir::RunDir;
use crate::{Error, Result};

/// p below which a difference counts.
const SIGNIFICANT: f64 = 0.05;

/// How to compare.
#[derive(Clone, Debug)]
pub struct Options {
    pub bootstrap: Bootstrap,
    /// Name or 1-based number of the arm that the others are held against; the first one where none is named.
    pub baseline: Option<String>,
}

/// A finished run.
struct FinishedRun {
    root: PathBuf,
    config: Config,
    items: Items,
}

/// What [`compare`] found. Figures and differences are shares in [0, 1] (but for `nll`, in nats).
#[derive(Clone, Debug, Serialize)]
pub struct RunComparison {
    pub task: TaskKind,
    /// Images, or queries, that every run was measured on.
    pub items: usize,
    /// Name of the figure that is compared: `top1` or `mAP`.
    pub figure: &'static str,
    pub arms: Vec<ArmResult>,
    /// Index of the arm that the others are held against.
    pub baseline: usize,
    pub bootstrap: Bootstrap,
    pub comparisons: Vec<ArmComparison>,
}

/// An arm with its runs.
#[derive(Clone, Debug, Serialize)]
pub struct ArmResult {
    pub name: String,
    /// By name, over the seeds.
    pub mean: BTreeMap<&'static str, f64>,
    /// Sample standard deviations; empty with a single seed.
    pub std: BTreeMap<&'static str, f64>,
    /// By seed.
    pub runs: Vec<RunResult>,
}

/// One run's figures.
#[derive(Clone, Debug, Serialize)]
pub struct RunResult {
    #[serde(serialize_with = "as_text")]
    pub folder: PathBuf,
    pub seed: u64,
    /// By name.
    pub figures: BTreeMap<&'static str, f64>,
}

/// JSON has no paths but those of UTF-8 text.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// An arm against the baseline.
#[derive(Clone, Debug, Serialize)]
pub struct ArmComparison {
    /// Index of the arm.
    pub arm: usize,
    #[serde(flatten)]
    pub difference: Difference,
    /// p adjusted by Holm's method, with more than one comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_holm: Option<f64>,
    /// Differences of the seeds that both arms have.
    pub by_seed: Vec<SeedDifference>,
    pub verdict: Verdict,
}

/// Difference of two runs of the same seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SeedDifference {
    pub seed: u64,
    pub difference: f64,
}

/// What p says at 95 %; Holm's where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Better,
    Worse,
    NotSignificant,
}

/// Compares the runs `paths`, each a run folder or a folder that holds some up to three levels below.
///
/// # Errors
/// A folder that holds no run, or one that has not finished ([`Error::NotARun`]); files that cannot be read;
/// [`Error::OtherImages`]; [`Error::NotComparable`]; a baseline that is none of the arms.
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
        arms: arms.iter().map(Arm::result).collect(),
        baseline,
        bootstrap: options.bootstrap,
    })
}

/// Reads settings and items of all runs, and holds them against those of the first.
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

/// Index of the arm of that name, or of that number from 1.
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

fn by_seed(arm: &SeededValues, baseline: &SeededValues) -> Vec<SeedDifference> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let difference = |(&seed, values): (&u64, &Vec<f64>)| {
        let other = baseline.seeds.binary_search(&seed).ok()?;
        Some(SeedDifference { seed, difference: mean(values) - mean(&baseline.values[other]) })
    };
    arm.seeds.iter().zip(&arm.values).filter_map(difference).collect()
}
