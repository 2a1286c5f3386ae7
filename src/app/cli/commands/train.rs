//! `ptl-train train`.

use super::shared::{
    check_device_of, data_root, describe_classes, describe_datasets, new_run, open_classes, open_dataset,
    open_training, set_threads_of,
};
use std::path::Path;

use crate::app::cli::ExitCode;
use crate::app::cli::args::TrainArgs;
use crate::app::cli::output::{interrupted, print, stop_on_ctrl_c, stop_quietly};
use crate::app::cli::pictures::{draw_classification, draw_training};
use crate::app::cli::ranks;
use crate::base::progress::Reporter;
use crate::base::text::Shown;
use crate::config::Config;
use crate::data::{DatasetKind, Subsets, ValidationImages};
use crate::engine::collective::Collective;
use crate::eval::classification::ClassificationReport;
use crate::model::model_file;
use crate::nn::DEFAULT_ARCH;
use crate::nn::TaskKind;
use crate::run_dir::RunDir;
use crate::study::StudyFile;
use crate::train::{self, Classify, Job, Outcome, Reid, Start, Task};
use crate::{Error, Result};

/// Runs `ptl-train train`.
pub(crate) fn train(args: &TrainArgs) -> Result<ExitCode> {
    let what = if args.resume.is_some() { "train --resume" } else { "train" };
    ranks::together(what, args.ranks, || Ok(settings(args)?.device), |ranks| train_as(args, ranks))
}

/// Reads the settings: those of a new run, or of the one that goes on.
fn settings(args: &TrainArgs) -> Result<Config> {
    let flags = &args.settings.0;
    let Some(path) = &args.resume else { return Config::load_recipe(DEFAULT_ARCH, args.config.as_deref(), flags) };
    let mut config = RunDir::follow(path).read_config(flags)?;
    // A limit of steps applies only to the command that names it.
    config.train.max_steps = config.train.max_steps.filter(|_| flags.has("train.max_steps"));
    Ok(config)
}

/// Trains as one of `ranks`.
fn train_as(args: &TrainArgs, ranks: &Collective) -> Result<ExitCode> {
    let flags = &args.settings.0;
    let resumed = match &args.resume {
        Some(path) => {
            if StudyFile::is_in(path) {
                return Err(Error::NotARun {
                    path: path.clone(),
                    reason:
                        "it holds a study of several runs: continue it with the --resume of compare, ablate or demo"
                            .into(),
                });
            }
            Some(if ranks.is_first() { RunDir::open(path)? } else { RunDir::follow(path) })
        }
        None => None,
    };
    let config = settings(args)?;
    flags.refuse_without_effect(&config, args.init.is_some())?;
    set_threads_of(&config, ranks)?;
    check_device_of(&config, ranks)?;
    let terminal = ranks::reporter(ranks);
    let asked = Asked { args, config: &config, terminal: &terminal, ranks };
    match config.task {
        TaskKind::Reid => {
            let dataset = open_training(&config, &terminal)?;
            let open = |root| open_dataset(root, config.data.target_kind, Subsets::Test, &config, &terminal);
            let mut target = config.data.target.as_deref().map(open).transpose()?;
            if let Some(target) = &mut target {
                target.warn_of_trained(&dataset.train);
            }
            refuse_on_data(args, &config, [dataset.kind, target.as_ref().map_or(dataset.kind, |target| target.kind)])?;
            let task = Reid { dataset: &dataset, target: target.as_ref() };
            let describe = |reporter: &Reporter| describe_datasets(reporter, [Some(&dataset), target.as_ref()]);
            run(&asked, resumed, &task, describe, |_, _| Ok(()))
        }
        TaskKind::Classify => {
            let share = Some(config.data.val_share);
            let root = data_root(&config)?;
            let dataset = open_classes(root, config.data.kind, Subsets::All, share, &config, &terminal)?;
            refuse_on_data(args, &config, [dataset.kind; 2])?;
            if dataset.validation == ValidationImages::Own {
                flags.refuse(
                    &["data.split", "data.val_share"],
                    "it has no effect on a data set with validation images of its own: leave it out",
                )?;
            }
            let describe = |reporter: &Reporter| describe_classes(reporter, &dataset);
            let draw = |report: &ClassificationReport, run: &RunDir| draw_classification(report, run.root());
            run(&asked, resumed, &Classify { dataset: &dataset }, describe, draw)
        }
    }
}

/// Refuses flags without effect on data of `kinds` (of the training data and of the target), which are known only after loading.
fn refuse_on_data(args: &TrainArgs, config: &Config, kinds: [DatasetKind; 2]) -> Result<()> {
    let mut config = config.clone();
    // Data of unknown kind have the layout of Market-1501.
    let known = |kind| if kind == DatasetKind::Auto { DatasetKind::Market1501 } else { kind };
    [config.data.kind, config.data.target_kind] = kinds.map(known);
    args.settings.0.refuse_without_effect(&config, args.init.is_some())
}

/// What the command line asks for, and who does it.
struct Asked<'a> {
    args: &'a TrainArgs,
    config: &'a Config,
    terminal: &'a Reporter,
    ranks: &'a Collective,
}

/// Trains in a new run, or continues `resumed`.
fn run<T: Task>(
    asked: &Asked,
    resumed: Option<RunDir>,
    task: &T,
    describe: impl Fn(&Reporter),
    draw: impl Fn(&T::Report, &RunDir) -> Result<()>,
) -> Result<ExitCode> {
    let &Asked { args, config, terminal, ranks } = asked;
    let start = match (&resumed, &args.init) {
        (Some(_), _) => Start::Resume,
        (None, Some(path)) => Start::Init(model_file(path)?),
        (None, None) => Start::Scratch,
    };

    // From here on, the run has a folder.
    let fresh = resumed.is_none();
    let run = match resumed {
        Some(run) => run,
        None if ranks.is_first() => {
            let run = new_run(args.out.as_deref(), "train")?;
            ranks.broadcast_text(&run.root().to_string_lossy());
            run
        }
        None => RunDir::follow(Path::new(&ranks.broadcast_text(""))),
    };
    let reporter = if ranks.is_first() { terminal.with_held_log(&run.log_path()) } else { terminal.clone() };
    reporter.message(&format!("run folder: {}", run.root().shown()));
    describe(&reporter);
    let stop = if ranks.has_others() { stop_quietly() } else { stop_on_ctrl_c(&reporter) };
    let outcome = train::run_ranks(&Job { config, task, start, run: &run, reporter: &reporter, stop: &stop }, ranks);
    if let Err(error) = &outcome {
        reporter.note(&format!("error: {error}"));
        if fresh {
            run.discard_unstarted();
        }
    }
    let outcome = outcome?;
    if !ranks.is_first() {
        return Ok(if matches!(outcome, Outcome::Stopped(_)) { interrupted() } else { ExitCode::SUCCESS });
    }
    draw_training(&run)?;
    match outcome {
        Outcome::Stopped(position) => {
            let root = run.root().shown();
            reporter.message(&format!(
                "stopped after step {}; continue with: ptl-train train --resume {root}",
                position.step
            ));
            Ok(interrupted())
        }
        Outcome::Finished(report) => {
            reporter.note(&report.to_string());
            draw(&report, &run)?;
            print(&format!("{report}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
