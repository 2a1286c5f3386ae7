//! `ptl-train state`: what latent states hold, and what they change.

use std::path::Path;

use serde_json::{Value, json};

use super::shared::{check_outputs, open_images_alone, open_test, refuse_classifier, refuse_unused, set_threads};
use crate::app::cli::ExitCode;
use crate::app::cli::args::{StateAblateArgs, StateCommand, StateShowArgs, StateTransferArgs};
use crate::app::cli::output::{print, stderr_reporter, stop_with_message};
use crate::base::atomic::atomic_write;
use crate::base::report::Table;
use crate::base::text::{Shown, plural};
use crate::data::Dataset;
use crate::engine::latent_state::EvalState;
use crate::eval::features_file::FeatureSet;
use crate::eval::ranking::{self, Scores};
use crate::eval::{dataset_features, ranking_options};
use crate::model::states::{StoredStates, transfer};
use crate::model::{TrainedModel, model_file};
use crate::run_dir::RunDir;
use crate::train::curves;
use crate::{Error, Result};

/// The states that an evaluation may start from.
const EVAL_STATES: [EvalState; 3] = [EvalState::Zeros, EvalState::Mean, EvalState::Normal];

/// Most lines of a cell in the table.
const MOST_LINES: usize = 6;
/// Figures about a state, as metrics name them, with the decimals that the table shows.
const FIGURES: [(&str, usize); 5] = [("slots", 0), ("rms", 4), ("largest", 3), ("similarity", 4), ("drift", 4)];

/// Runs `ptl-train state`.
pub(crate) fn state(command: &StateCommand) -> Result<ExitCode> {
    match command {
        StateCommand::Show(args) => show(args),
        StateCommand::Transfer(args) => transfer_states(args),
        StateCommand::Ablate(args) => ablate(args),
    }
}

fn show(args: &StateShowArgs) -> Result<ExitCode> {
    check_outputs(&[("--json", args.json.as_deref())], &[&args.checkpoint])?;
    let run = RunDir::view(&args.checkpoint).ok();
    let epochs = run.map_or(Ok(Vec::new()), |run| curves::states(&run))?;
    let states = StoredStates::open(&args.checkpoint)?;
    let cells = states.cells()?;
    let reporter = stderr_reporter();
    let lines = if epochs.is_empty() {
        reporter.message(&format!("the states of {}", states.folder().shown()));
        let mut line = json!({});
        cells.iter().for_each(|(name, _, state)| line[name] = json!(state));
        vec![line]
    } else {
        epochs
    };
    // The first and the last line, and others at even distances.
    let last = lines.len() - 1;
    let count = lines.len().min(MOST_LINES);
    let shown: Vec<&Value> = (0..count).map(|i| &lines[i * last / (count - 1).max(1)]).collect();
    if shown.len() < lines.len() {
        reporter.message(&format!("{} of {} epochs are shown; --json has all", shown.len(), lines.len()));
    }
    let titles = ["cell", "slot", "epoch", "step"].into_iter().chain(FIGURES.map(|(name, _)| name));
    let mut table = Table::new(titles);
    // The epochs of a cell follow each other, so that a column can be read as a curve.
    for (name, [height, width, channels], _) in &cells {
        for line in &shown {
            let counts = ["epoch", "step"].map(|key| line[key].as_u64().map_or_else(|| "-".into(), |n| n.to_string()));
            let figure = |(key, decimals): (&str, usize)| {
                line[name][key].as_f64().map_or_else(|| "-".into(), |x| format!("{x:.decimals$}"))
            };
            let about = [name.to_string(), format!("{height}x{width}x{channels}")];
            table.row(about.into_iter().chain(counts).chain(FIGURES.map(figure)));
        }
    }
    if let Some(path) = &args.json {
        atomic_write(path, |file| writeln!(file, "{:#}", Value::from(lines)))?;
    }
    print(&table.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn transfer_states(args: &StateTransferArgs) -> Result<ExitCode> {
    let (from, to) = (StoredStates::open(&args.from)?, StoredStates::open(&args.to)?);
    transfer(&from, &to, &args.out)?;
    stderr_reporter().message(&format!(
        "{}: the checkpoint {} with the latent states of {}",
        args.out.shown(),
        to.folder().shown(),
        from.folder().shown()
    ));
    Ok(ExitCode::SUCCESS)
}

fn ablate(args: &StateAblateArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    refuse_unused(flags, &["ptl.eval_state"])?;
    let mut trained = TrainedModel::open(&args.checkpoint, flags)?;
    if args.images.is_none() {
        refuse_classifier(&trained, &args.checkpoint)?;
    }
    let weights = model_file(&args.checkpoint)?;
    check_outputs(&[("--json", args.json.as_deref())], &[&weights])?;
    if trained.states.held_values().all(<[f32]>::is_empty) {
        let reason = "it has no latent states, or they are empty as after a reset: name a checkpoint of a network that ends in -ptl";
        return Err(Error::Checkpoint { path: args.checkpoint.clone(), reason: reason.into() });
    }
    let config = trained.config.clone();
    set_threads(&config)?;
    let reporter = stderr_reporter();
    reporter.message(&format!("device: {}", trained.device));
    let dataset = match &args.images {
        Some(path) => Dataset { query: open_images_alone(path, &config, flags, &reporter)?, ..Dataset::default() },
        None => {
            let dataset = open_test(&trained, flags, &reporter)?;
            dataset.check_for_evaluation()?;
            dataset
        }
    };
    let stop = stop_with_message(&reporter, "stopping; Ctrl-C again stops at once");
    let mut features = Vec::new();
    for state in EVAL_STATES {
        reporter.message(&format!("evaluation from {state}"));
        trained.config.ptl.eval_state = state;
        let mut model = trained.model(&reporter);
        model.stop = stop.clone();
        features.push(dataset_features(&mut model, &dataset)?);
    }

    let mut text = String::new();
    let mut scores = Vec::new();
    if args.images.is_none() {
        let mut table = Table::new(["evaluated from", "mAP", "mINP", "Rank-1"]);
        for (state, [query, gallery]) in EVAL_STATES.iter().zip(&features) {
            let options = ranking_options(&dataset, config.seed);
            let (q, g) = (query.labels(), gallery.labels());
            let report =
                ranking::evaluate(&query.features, q, &gallery.features, g, query.dim, &options, &trained.device)?;
            let Scores { map, minp, rank1, .. } = Scores::of(&report);
            table.row([state.to_string(), format!("{map:.2}"), format!("{minp:.2}"), format!("{rank1:.2}")]);
            scores.push(json!({ "state": state.to_string(), "mAP": map, "mINP": minp, "rank1": rank1 }));
        }
        text += &format!("{table}\n");
    }
    let mut table = Table::new(["features from", "mean cosine", "smallest cosine", "of"]);
    let mut pairs = Vec::new();
    for (i, j) in [(0, 1), (0, 2), (1, 2)] {
        let Cosines { mean, smallest, worst } = Cosines::of(&features[i], &features[j], &dataset);
        let names = format!("{} and {}", EVAL_STATES[i], EVAL_STATES[j]);
        table.row([names, format!("{mean:.6}"), format!("{smallest:.6}"), worst.shown().to_string()]);
        let states = [EVAL_STATES[i].to_string(), EVAL_STATES[j].to_string()];
        pairs.push(json!({ "states": states, "mean_cosine": mean, "smallest_cosine": smallest, "image": worst.shown().to_string() }));
    }
    let count = dataset.query.len() + dataset.gallery.len();
    text += &format!("{table}{}\n", plural(count, "image", "images"));
    if let Some(path) = &args.json {
        let value = json!({ "scores": scores, "cosines": pairs, "images": count });
        atomic_write(path, |file| writeln!(file, "{value:#}"))?;
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// How far the features of the same images agree.
struct Cosines {
    mean: f64,
    smallest: f64,
    /// The image of the smallest cosine.
    worst: String,
}

impl Cosines {
    fn of(a: &[FeatureSet; 2], b: &[FeatureSet; 2], dataset: &Dataset) -> Cosines {
        let images = dataset.query.iter().chain(&dataset.gallery).map(|record| &*record.path);
        fn rows(sets: &[FeatureSet; 2]) -> impl Iterator<Item = &[f32]> {
            sets.iter().flat_map(|set| set.features.chunks_exact(set.dim.max(1)))
        }
        // Features have unit length.
        let cosine = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        let cosines: Vec<f64> = rows(a).zip(rows(b)).map(cosine).collect();
        let (worst, smallest): (&Path, f64) = images
            .zip(cosines.iter().copied())
            .min_by(|(_, a), (_, b)| a.total_cmp(b))
            .unwrap_or((Path::new(""), f64::NAN));
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        Cosines { mean, smallest, worst: worst.display().to_string() }
    }
}
