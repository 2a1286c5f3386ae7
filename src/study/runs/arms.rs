//! Groups runs that differ only in their seed, and names the groups.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use super::{ArmResult, FinishedRun, RunResult, items};
use crate::base::report::MeanStd;
use crate::base::stats::SeededValues;
use crate::base::text::Shown;
use crate::config::{Config, Setting};
use crate::{Error, Result};

/// If arms differ in more settings than this, their names contain only some of them.
const NAMED: usize = 3;

/// Runs that differ only in their seed.
pub(super) struct Arm {
    pub name: String,
    /// Sorted by seed.
    pub runs: Vec<FinishedRun>,
}

impl Arm {
    /// Returns the main figure of each run on each item.
    pub(super) fn values(&self) -> SeededValues {
        SeededValues {
            seeds: self.runs.iter().map(|run| run.config.seed).collect(),
            values: self.runs.iter().map(|run| run.items.main.clone()).collect(),
        }
    }

    /// Returns the figures of the arm and of its runs; `interval` is that of the mean of the main figure.
    pub(super) fn result(&self, interval: [f64; 2]) -> ArmResult {
        let (mut mean, mut std) = (BTreeMap::new(), BTreeMap::new());
        let figures = items::figures(self.runs[0].items.task);
        for (i, figure) in figures.iter().enumerate() {
            let values: Vec<f64> = self.runs.iter().map(|run| run.items.figures[i]).collect();
            let over_seeds = MeanStd::of(&values).expect("an arm has runs");
            mean.insert(figure.key, over_seeds.mean);
            over_seeds.std.map(|value| std.insert(figure.key, value));
        }
        let result = |run: &FinishedRun| RunResult {
            folder: run.root.clone(),
            seed: run.config.seed,
            figures: figures.iter().map(|figure| figure.key).zip(run.items.figures.iter().copied()).collect(),
        };
        ArmResult { name: self.name.clone(), mean, std, interval, runs: self.runs.iter().map(result).collect() }
    }
}

/// Sorts `runs` into arms, in the order of each arm's first run, and names them.
///
/// # Errors
/// [`Error::NotComparable`]: two runs of the same settings, seed and folder name.
pub(super) fn group(runs: Vec<FinishedRun>) -> Result<Vec<Arm>> {
    let mut groups: Vec<(Vec<String>, Vec<FinishedRun>)> = Vec::new();
    for run in runs {
        let settings = counted(&run.config);
        match groups.iter_mut().find(|(of_group, _)| *of_group == settings) {
            Some((_, group)) => group.push(run),
            None => groups.push((settings, vec![run])),
        }
    }
    let mut arms: Vec<(Vec<String>, Vec<FinishedRun>)> = Vec::new();
    for (settings, group) in groups {
        arms.extend(split(group)?.into_iter().map(|runs| (settings.clone(), runs)));
    }
    let names = names(&arms);
    Ok(arms.into_iter().zip(names).map(|((_, runs), name)| Arm { name, runs }).collect())
}

/// Returns a value for each of [`Config::settings`]: empty for the seed and for settings that cannot change results.
fn counted(config: &Config) -> Vec<String> {
    let value = |setting: &Setting| match setting.path {
        "seed" => String::new(),
        // An evaluation that cannot end a training does not change it.
        "train.eval_every" if config.train.patience == 0 => String::new(),
        _ if !setting.changes_results => String::new(),
        _ => config.shown(setting),
    };
    Config::settings().map(value).collect()
}

/// Divides runs with the same settings into arms, each sorted by seed. If a seed occurs twice, something that is not a setting
/// differs, such as the initial weights: then runs in folders of the same name belong together.
fn split(runs: Vec<FinishedRun>) -> Result<Vec<Vec<FinishedRun>>> {
    if twice(&runs).is_none() {
        return Ok(vec![by_seed(runs)]);
    }
    let mut parts: Vec<Vec<FinishedRun>> = Vec::new();
    for run in runs {
        match parts.iter_mut().find(|part| part[0].root.file_name() == run.root.file_name()) {
            Some(part) => part.push(run),
            None => parts.push(vec![run]),
        }
    }
    if let Some([a, b]) = parts.iter().find_map(|part| twice(part)) {
        let (seed, a, b) = (a.config.seed, a.root.shown(), b.root.shown());
        let reason = format!("{a} and {b} have the same settings, seed {seed} and name: leave one out, or rename it");
        return Err(Error::NotComparable { reason });
    }
    Ok(parts.into_iter().map(by_seed).collect())
}

/// Sorts runs by seed.
fn by_seed(mut runs: Vec<FinishedRun>) -> Vec<FinishedRun> {
    runs.sort_by_key(|run| run.config.seed);
    runs
}

/// Returns two runs of the same seed, if there are any.
fn twice(runs: &[FinishedRun]) -> Option<[&FinishedRun; 2]> {
    let earlier = |i: usize| runs[..i].iter().find(|run| run.config.seed == runs[i].config.seed);
    (1..runs.len()).find_map(|i| Some([earlier(i)?, &runs[i]]))
}

/// Names arms by their folders if these differ, else by the settings in which they differ.
fn names(arms: &[(Vec<String>, Vec<FinishedRun>)]) -> Vec<String> {
    let folder = |runs: &[FinishedRun]| {
        let name = |run: &FinishedRun| run.root.file_name().map(OsStr::to_owned);
        let first = name(&runs[0])?;
        runs.iter().all(|run| name(run).as_ref() == Some(&first)).then(|| first.to_string_lossy().into_owned())
    };
    let folders: Option<Vec<String>> = arms.iter().map(|(_, runs)| folder(runs)).collect();
    if let Some(folders) = folders.filter(|folders| distinct(folders)) {
        return folders;
    }
    if let [(_, runs)] = arms {
        return vec![runs[0].config.model.arch.clone()];
    }
    let settings: Vec<&[String]> = arms.iter().map(|(settings, _)| &settings[..]).collect();
    let names = by_settings(&settings);
    match distinct(&names) {
        true => names,
        // Some arms differ only in the name of their folder.
        false => names.iter().zip(arms).map(|(name, (_, runs))| with_folder(name, folder(runs))).collect(),
    }
}

/// Adds the name of the folder to the name of an arm.
fn with_folder(name: &str, folder: Option<String>) -> String {
    match folder {
        Some(folder) if name.is_empty() => folder,
        Some(folder) => format!("{name} ({folder})"),
        None => name.into(),
    }
}

/// Returns whether no value occurs twice.
fn distinct<T: PartialEq>(values: &[T]) -> bool {
    (1..values.len()).all(|i| !values[..i].contains(&values[i]))
}

/// Names arms by the settings in which they differ: `ptl.state_policy = reset, ptl.state_init = normal`. If there are many, as between
/// two networks' recipes, keeps those that tell more arms apart than the ones before, and adds `...`.
fn by_settings(arms: &[&[String]]) -> Vec<String> {
    let differs = |i: &usize| arms.iter().any(|arm| arm[*i] != arms[0][*i]);
    let all: Vec<usize> = (0..arms[0].len()).filter(differs).collect();
    let mut named = all.clone();
    if all.len() > NAMED {
        named.clear();
        let groups = |chosen: &[usize]| {
            let keys = arms.iter().map(|arm| chosen.iter().map(|&i| &arm[i]).collect::<Vec<_>>());
            keys.collect::<BTreeSet<_>>().len()
        };
        for &i in &all {
            let more = [&named[..], &[i]].concat();
            if groups(&more) > groups(&named) {
                named = more;
            }
        }
    }
    let rest = if named.len() < all.len() { ", ..." } else { "" };
    let value = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let settings: Vec<&Setting> = Config::settings().collect();
    let name = |arm: &&[String]| {
        let parts: Vec<String> = named.iter().map(|&i| format!("{} = {}", settings[i].path, value(&arm[i]))).collect();
        parts.join(", ") + rest
    };
    arms.iter().map(name).collect()
}
