//! `ptl-train compare --source` and `ptl-train demo`: zero-shot, plain fine-tuning and PTL.

use std::path::Path;
use std::process::ExitCode;

use super::compare_runs::compare_runs;
use super::shared::{check_device, describe_datasets, new_run, open_dataset, refuse_unused, set_threads, synthesise};
use crate::cli::args::{CompareArgs, DemoArgs};
use crate::cli::output::{interrupted, print, stop_on_ctrl_c};
use crate::config::Config;
use crate::data::synth::{Domain, SynthConfig};
use crate::data::{Dataset, DatasetKind, Subsets};
use crate::progress::Reporter;
use crate::run_dir::RunDir;
use crate::study::Study;
use crate::study::compare::{self, Comparison};
use crate::text::Shown;
use crate::{Error, Result};

/// `ptl-train compare`, in both its forms.
pub fn compare(args: &CompareArgs) -> Result<ExitCode> {
    match &args.source {
        Some(source) => train_and_compare(args, source),
        None => compare_runs(args),
    }
}

fn train_and_compare(args: &CompareArgs, source: &Path) -> Result<ExitCode> {
    let config = Config::load_recipe("resnet50", args.config.as_deref(), &args.settings.0)?;
    compare::check_settings(&config, &args.seeds)?;
    refuse_unused(&args.settings.0, &["data.root", "data.kind", "seed"])?;
    set_threads(&config)?;
    let terminal = Reporter::stderr();
    let source = open_dataset(source, args.source_dataset, Subsets::All, &config, &terminal)?;
    let target = config.data.target.as_deref().ok_or_else(|| Error::Setting {
        setting: "data.target".into(),
        value: "(none)".into(),
        reason: "name the data set to fine-tune and measure on with --target".into(),
    })?;
    let target = open_dataset(target, config.data.target_kind, Subsets::All, &config, &terminal)?;
    let mut pretraining = config.clone();
    pretraining.data.kind = args.source_dataset;
    pretraining.schedule.epochs = args.pretrain_epochs.unwrap_or(config.schedule.epochs);
    pretraining.optim.lr = args.pretrain_lr.unwrap_or(config.optim.lr);
    pretraining.validate()?;
    compare::check_datasets(&config, &source, &target)?;
    check_device(&config)?;
    let run = new_run(args.out.as_deref(), "compare")?;
    three_arms(config, pretraining, [&source, &target], args.seeds.clone(), &run, &terminal)
}

/// `ptl-train demo`.
pub fn demo(args: &DemoArgs) -> Result<ExitCode> {
    let config = Config::load(&demo_config(args.quick), None, &args.settings.0)?;
    compare::check_settings(&config, &[config.seed])?;
    refuse_unused(&args.settings.0, &["data.root", "data.kind", "data.target", "data.target_kind"])?;
    set_threads(&config)?;
    let terminal = Reporter::stderr();
    check_device(&config)?;
    let run = new_run(args.out.as_deref(), "demo")?;
    let open = |domain: Domain, name: &str, [train_ids, test_ids]: [usize; 2]| -> Result<Dataset> {
        let folder = run.file(name);
        let synth = SynthConfig {
            domain,
            train_ids,
            test_ids,
            cams: 4,
            seed: config.seed,
            height: config.model.height,
            width: config.model.image_width,
            ..SynthConfig::default()
        };
        synthesise(&folder, &synth, &terminal)?;
        open_dataset(&folder, DatasetKind::Auto, Subsets::All, &config, &terminal)
    };
    // As in practice, the source has more identities than the target. Its test split is not used.
    let ids = if args.quick { [[8, 1], [8, 8]] } else { [[128, 1], [64, 64]] };
    let source = open(Domain::Source, "source", ids[0])?;
    let target = open(Domain::Target, "target", ids[1])?;
    let mut pretraining = config.clone();
    pretraining.optim.lr = 2.0 * config.optim.lr;
    let seed = config.seed;
    three_arms(config, pretraining, [&source, &target], vec![seed], &run, &terminal)
}

/// Small enough for two cores and three minutes.
fn demo_config(quick: bool) -> Config {
    let mut config = Config::default();
    config.model.arch = "resnet18".into();
    config.model.width = 0.25;
    config.model.height = 64;
    config.model.image_width = 32;
    config.optim.lr = 1e-3;
    config.sampler.ids = if quick { 4 } else { 8 };
    config.sampler.passes = if quick { 1 } else { 4 };
    config.augment.pad = 4;
    config.augment.random_erasing = 0.3;
    config.schedule.epochs = if quick { 1 } else { 8 };
    config.schedule.warmup_epochs = if quick { 0 } else { 1 };
    config.loss.label_smoothing = 0.1;
    config
}

/// Runs the comparison in `run` and prints its table.
fn three_arms(
    config: Config,
    pretraining: Config,
    [source, target]: [&Dataset; 2],
    seeds: Vec<u64>,
    run: &RunDir,
    terminal: &Reporter,
) -> Result<ExitCode> {
    run.write_config(&config)?;
    let reporter = terminal.with_log(&run.log_path())?;
    reporter.message(&format!("run folder: {}", run.root().shown()));
    describe_datasets(&reporter, [Some(source), Some(target)]);
    let stop = stop_on_ctrl_c(&reporter);
    let study = Study { seeds, run, reporter: &reporter, stop: &stop };
    let comparison = Comparison { config, pretraining, source, target, study };
    match compare::run(&comparison)? {
        Some(results) => {
            reporter.message(&format!("results, curves and checkpoints: {}", run.root().shown()));
            print(&format!("{}\n", compare::table(&results)))?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            reporter.message("stopped; what was finished is in the run folder");
            Ok(interrupted())
        }
    }
}
