//! The effect of latent states. The same network is trained with each policy (`carry`, `carry-epochs`, `reset`), with the same weights,
//! data order and seeds. Each trained network is evaluated from each state (`zeros`, `mean`, `normal`).

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Study;
use crate::base::report::Table;
use crate::config::{Config, Overrides};
use crate::data::Dataset;
use crate::engine::device::Device;
use crate::engine::latent_state::{EvalState, StatePolicy};
use crate::eval::ranking::Scores;
use crate::eval::{Model, evaluate_dataset};
use crate::model::TrainedModel;
use crate::train::Start;
use crate::{Error, Result};

/// Training policies, each with the name of its folder.
const POLICIES: [(&str, StatePolicy); 3] =
    [("carry", StatePolicy::Carry), ("carry-epochs", StatePolicy::CarryEpochs), ("reset", StatePolicy::Reset)];
/// States from which an evaluation starts.
const EVAL_STATES: [(&str, EvalState); 3] =
    [("zeros", EvalState::Zeros), ("mean", EvalState::Mean), ("normal", EvalState::Normal)];

/// An ablation to run.
pub struct Ablation<'a> {
    /// Settings of every arm, except the policy and the evaluation state.
    pub config: Config,
    /// The data set to train on.
    pub dataset: &'a Dataset,
    /// The data set to evaluate on, if it is not `dataset`.
    pub target: Option<&'a Dataset>,
    /// Initial weights of every arm; random ones if `None`.
    pub init: Option<PathBuf>,
    /// What all arms share.
    pub study: Study<'a>,
}

/// Scores `[policy][state][seed]`: by training policy (carry, carry-epochs, reset), by the state from which the evaluation starts (zeros,
/// mean, normal), and in the order of [`Study::seeds`].
pub type Results = [[Vec<Scores>; 3]; 3];

/// Refuses a network without latent states, and a repeated seed.
///
/// # Errors
/// [`Error::Setting`].
pub(crate) fn check_settings(config: &Config, seeds: &[u64]) -> Result<()> {
    super::check(config, seeds)?;
    if !config.model.arch.ends_with("-ptl") {
        return Err(Error::Setting {
            setting: "model.arch".into(),
            value: config.model.arch.clone(),
            reason: "it has no latent states: name a network that ends in -ptl".into(),
        });
    }
    Ok(())
}

/// Runs the ablation, writes `summary.json`, and returns the scores; `None` if it was stopped.
///
/// # Errors
/// As [`crate::train::run`].
pub fn run(ablation: &Ablation<'_>) -> Result<Option<Results>> {
    check_settings(&ablation.config, &ablation.study.seeds)?;
    let mut results = Results::default();
    for &seed in &ablation.study.seeds {
        for ((name, policy), results) in POLICIES.into_iter().zip(&mut results) {
            let Some(scores) = one_arm(ablation, seed, name, policy)? else { return Ok(None) };
            results.iter_mut().zip(scores).for_each(|(results, scores)| results.push(scores));
        }
        // Written after each seed, so that an interrupted study has results.
        write_summary(ablation, &results)?;
    }
    Ok(Some(results))
}

/// Trains with one policy and evaluates from every state; returns `None` if stopped.
fn one_arm(ablation: &Ablation<'_>, seed: u64, name: &str, policy: StatePolicy) -> Result<Option<[Scores; 3]>> {
    let Ablation { dataset, target, study, .. } = ablation;
    let mut config = Config { seed, ..ablation.config.clone() };
    (config.ptl.state_policy, config.ptl.eval_state) = (policy, EVAL_STATES[0].1);
    study.reporter.message(&format!("seed {seed}: state policy {name}"));
    let start = ablation.init.clone().map_or(Start::Scratch, Start::Init);
    let Some((first, weights)) = study.arm(&study.folder(seed, name), &config, dataset, *target, start)? else {
        return Ok(None);
    };
    let device = Device::open(&config.device_options())?;
    let mut scores = [first; 3];
    for ((_, state), scores) in EVAL_STATES.iter().zip(&mut scores).skip(1) {
        if study.stop.requested() {
            return Ok(None);
        }
        let mut trained = TrainedModel::open(&weights, &Overrides::default())?;
        trained.config.ptl.eval_state = *state;
        let model = Model { device: &device, ..trained.model(study.reporter) };
        let report = evaluate_dataset(model, target.unwrap_or(dataset))?;
        *scores = Scores::of(&report);
    }
    Ok(Some(scores))
}

/// Returns a row for each policy and evaluation state.
pub fn table(results: &Results) -> Table {
    let rows = POLICIES.iter().zip(results).flat_map(|((policy, _), by_state)| {
        let row = move |((state, _), scores): (&(&str, _), &Vec<Scores>)| {
            (format!("trained {policy}, evaluated {state}"), scores.clone())
        };
        EVAL_STATES.iter().zip(by_state).map(row)
    });
    super::table(rows)
}

fn write_summary(ablation: &Ablation<'_>, results: &Results) -> Result<()> {
    let mut arms: Vec<Value> = Vec::new();
    for ((policy, _), by_state) in POLICIES.iter().zip(results) {
        for ((state, _), scores) in EVAL_STATES.iter().zip(by_state) {
            let seeds: Vec<Value> = (ablation.study.seeds.iter().zip(scores))
                .map(|(seed, scores)| json!({ "seed": seed, "scores": scores }))
                .collect();
            arms.push(json!({
                "state_policy": policy, "eval_state": state, "mean": Scores::mean(scores), "seeds": seeds,
            }));
        }
    }
    let Ablation { config, dataset, target, study, .. } = ablation;
    study.run.write_summary(&json!({
        "arch": config.model.arch, "data": dataset.label, "evaluated_on": target.unwrap_or(dataset).label, "arms": arms,
    }))
}
