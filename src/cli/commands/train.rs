//! `ptl-train train`.

use std::process::ExitCode;

use super::shared::{data_root, describe_datasets, new_run, open_dataset, set_threads};
use crate::Result;
use crate::cli::args::TrainArgs;
use crate::cli::output::{INTERRUPTED, print, stop_on_ctrl_c};
use crate::config::Config;
use crate::eval::model_file;
use crate::progress::Reporter;
use crate::run_dir::RunDir;
use crate::train::{self, Job, Outcome, Start};
use crate::{checkpoint, compare};

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
        None => (Config::load(&Config::default(), args.config.as_deref(), flags)?, None),
    };
    set_threads(&config)?;
    let terminal = Reporter::stderr();
    let dataset = open_dataset(data_root(&config)?, &config, &terminal)?;
    dataset.check_for_training(config.sampler.ids)?;
    let target = config.data.target.as_ref().map(|root| open_dataset(root, &config, &terminal)).transpose()?;
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

    // From here on there is something to look at, whatever happens.
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
    match train::run(&job)? {
        Outcome::Stopped(position) => {
            let root = run.root().display();
            reporter.message(&format!(
                "stopped after step {}; continue with: ptl-train train --resume {root}",
                position.step
            ));
            Ok(ExitCode::from(INTERRUPTED))
        }
        Outcome::Finished(report) => {
            run.write_summary(&compare::Scores::of(&report))?;
            print(&format!("{report}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
