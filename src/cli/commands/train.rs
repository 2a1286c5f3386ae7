//! `ptl-train train`.

use std::process::ExitCode;

use serde::Serialize;

use super::shared::{data_root, describe_datasets, new_run, open_dataset, set_threads};
use crate::Result;
use crate::checkpoint;
use crate::cli::args::TrainArgs;
use crate::cli::output::{INTERRUPTED, print, stop_on_ctrl_c};
use crate::config::{Config, DEFAULT_ARCH};
use crate::data::{Dataset, Subsets};
use crate::eval::model_file;
use crate::progress::Reporter;
use crate::run_dir::RunDir;
use crate::study::Scores;
use crate::train::{self, Job, Outcome, Start};

/// `summary.json`: the scores, and the data sets with what sets them apart, such as edition, lists or split.
#[derive(Serialize)]
struct Summary {
    data: String,
    evaluated_on: String,
    #[serde(flatten)]
    scores: Scores,
}

/// `ptl-train train`.
pub fn train(args: &TrainArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    let (config, resumed) = match &args.resume {
        Some(path) => {
            let run = RunDir::open(path)?;
            let mut config = run.read_config(flags)?;
            // A limit belongs to the command line that named it.
            config.train.max_steps = config.train.max_steps.filter(|_| flags.has("train.max_steps"));
            (config, Some(run))
        }
        None => (Config::load_recipe(DEFAULT_ARCH, args.config.as_deref(), flags)?, None),
    };
    set_threads(&config)?;
    let terminal = Reporter::stderr();
    let dataset = open_dataset(data_root(&config)?, config.data.kind, Subsets::All, &config, &terminal)?;
    dataset.check_for_training(config.sampler.ids)?;
    let open = |root| open_dataset(root, config.data.target_kind, Subsets::Test, &config, &terminal);
    let target = config.data.target.as_deref().map(open).transpose()?;
    target.as_ref().unwrap_or(&dataset).check_for_evaluation()?;
    let start = match (&resumed, &args.init) {
        (Some(_), _) => Start::Resume,
        (None, Some(path)) => {
            let path = model_file(path)?;
            checkpoint::File::open(&path)?;
            Start::Init(path)
        }
        (None, None) => Start::Scratch,
    };

    // From here on there is something to look at.
    let fresh = resumed.is_none();
    let run = match resumed {
        Some(run) => run,
        None => new_run(args.out.as_deref(), "train")?,
    };
    let reporter = terminal.with_log(&run.log_path())?;
    reporter.message(&format!("run folder: {}", run.root().display()));
    describe_datasets(&reporter, [Some(&dataset), target.as_ref()]);
    let stop = stop_on_ctrl_c(&reporter)?;
    let job = Job {
        config: &config,
        dataset: &dataset,
        target: target.as_ref(),
        start,
        run: &run,
        reporter: &reporter,
        stop: &stop,
    };
    let outcome = train::run(&job);
    if fresh && outcome.is_err() {
        run.discard_unstarted();
    }
    match outcome? {
        Outcome::Stopped(position) => {
            let root = run.root().display();
            reporter.message(&format!(
                "stopped after step {}; continue with: ptl-train train --resume {root}",
                position.step
            ));
            Ok(ExitCode::from(INTERRUPTED))
        }
        Outcome::Finished(report) => {
            let label = |dataset: &Dataset| dataset.label.clone();
            run.write_summary(&Summary {
                data: label(&dataset),
                evaluated_on: label(target.as_ref().unwrap_or(&dataset)),
                scores: Scores::of(&report),
            })?;
            print(&format!("{report}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
