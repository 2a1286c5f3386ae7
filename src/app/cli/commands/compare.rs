//! `ptl-train compare --source` and `ptl-train demo`: zero-shot, plain fine-tuning and PTL.

use std::fs;
use std::path::Path;

use super::compare_runs::compare_runs;
use super::shared::{
    check_device, describe_datasets, new_run, open_dataset, refuse_unused, say_stopped, set_threads, synthesise,
};
use crate::app::cli::ExitCode;
use crate::app::cli::args::{CompareArgs, DemoArgs};
use crate::app::cli::output::{interrupted, print, stderr_reporter, stop_on_ctrl_c};
use crate::app::cli::pictures::{draw_comparison, draw_training};
use crate::base::error::IoContext;
use crate::base::progress::Reporter;
use crate::base::stop::StopFlag;
use crate::base::text::Shown;
use crate::config::{Config, Overrides, whole_path};
use crate::data::synth::{self, Domain, SynthConfig};
use crate::data::{Dataset, DatasetKind, Subsets};
use crate::run_dir::RunDir;
use crate::study::compare::{self, Comparison};
use crate::study::{Study, StudyFile, StudyKind};
use crate::{Error, Result};

/// Runs `ptl-train compare`, in both its forms.
pub(crate) fn compare(args: &CompareArgs) -> Result<ExitCode> {
    match (&args.source, &args.resume) {
        (Some(source), _) => train_and_compare(args, None, new_comparison(args, source)?),
        (None, Some(folder)) => {
            let (run, file) = StudyFile::resume(folder, StudyKind::Compare, &args.settings.0)?;
            train_and_compare(args, Some(run), file)
        }
        (None, None) => compare_runs(args),
    }
}

/// Returns the study that the flags ask for.
fn new_comparison(args: &CompareArgs, source: &Path) -> Result<StudyFile> {
    let mut config = Config::load_recipe("resnet50", args.config.as_deref(), &args.settings.0)?;
    compare::check_settings(&config, &args.seeds)?;
    refuse_unused(&args.settings.0, &["data.root", "data.kind", "seed", "train.keep_head"])?;
    refuse_without_effect(&config, &args.settings.0)?;
    if config.data.target.is_none() {
        return Err(Error::Setting {
            setting: "data.target".into(),
            value: "(none)".into(),
            reason: "name the data set to fine-tune and measure on with --target".into(),
        });
    }
    // A file may have settings for --init. They do not apply: every arm starts from this study's weights, with a new classifier.
    (config.train.weights_dict, config.train.keep_head, config.train.init_partial) = (None, false, false);
    let mut pretraining = config.clone();
    pretraining.data.root = whole_path("--source", source)?;
    pretraining.data.kind = args.source_dataset;
    pretraining.schedule.epochs = args.pretrain_epochs.unwrap_or(config.schedule.epochs);
    pretraining.optim.lr = args.pretrain_lr.unwrap_or(config.optim.lr);
    pretraining.validate()?;
    let seeds = args.seeds.clone();
    Ok(StudyFile { kind: StudyKind::Compare, seeds, quick: false, init: None, config, pretraining: Some(pretraining) })
}

/// Refuses flags without effect. A setting of the cells has an effect, because one of the arms has cells.
fn refuse_without_effect(config: &Config, flags: &Overrides) -> Result<()> {
    let mut ptl = config.clone();
    ptl.model.arch.push_str("-ptl");
    flags.refuse_without_effect(&ptl, false)
}

/// Runs the comparison of `file` in `run`, or in a new folder if that is `None`.
fn train_and_compare(args: &CompareArgs, run: Option<RunDir>, file: StudyFile) -> Result<ExitCode> {
    let config = &file.config;
    set_threads(config)?;
    let terminal = stderr_reporter();
    let source = &pretraining(&file).data;
    let source = open_dataset(&source.root, source.kind, Subsets::All, config, &terminal)?;
    let target = config.data.target.as_deref().expect("every comparison names it");
    let target = open_dataset(target, config.data.target_kind, Subsets::All, config, &terminal)?;
    compare::check_datasets(config, &source, &target)?;
    check_device(config)?;
    let run = begin(run, args.out.as_deref(), &file)?;
    let reporter = terminal.with_log(&run.log_path())?;
    let stop = stop_on_ctrl_c(&reporter);
    three_arms(file, [&source, &target], &run, &reporter, &stop)
}

/// Returns the settings of the pre-training.
fn pretraining(file: &StudyFile) -> &Config {
    file.pretraining.as_ref().expect("comparisons and demos have one")
}

/// Returns the folder of a continued study, or creates that of a new one.
fn begin(run: Option<RunDir>, out: Option<&Path>, file: &StudyFile) -> Result<RunDir> {
    match run {
        Some(run) => Ok(run),
        None => {
            let run = new_run(out, &file.kind.to_string())?;
            file.write(&run)?;
            Ok(run)
        }
    }
}

/// Runs `ptl-train demo`.
pub(crate) fn demo(args: &DemoArgs) -> Result<ExitCode> {
    let (run, file) = match &args.resume {
        Some(folder) => {
            let (run, file) = StudyFile::resume(folder, StudyKind::Demo, &args.settings.0)?;
            (Some(run), file)
        }
        None => (None, new_demo(args)?),
    };
    set_threads(&file.config)?;
    let terminal = stderr_reporter();
    check_device(&file.config)?;
    let run = begin(run, args.out.as_deref(), &file)?;
    let reporter = terminal.with_log(&run.log_path())?;
    let stop = stop_on_ctrl_c(&reporter);
    match demo_data(&file, &run, &stop, &terminal)? {
        Some([source, target]) => three_arms(file, [&source, &target], &run, &reporter, &stop),
        None => {
            say_stopped(&reporter, StudyKind::Demo, &run);
            Ok(interrupted())
        }
    }
}

/// Returns the demo that the flags ask for.
fn new_demo(args: &DemoArgs) -> Result<StudyFile> {
    let config = Config::load(&demo_config(args.quick), None, &args.settings.0)?;
    compare::check_settings(&config, &[config.seed])?;
    let unused = [
        "data.root",
        "data.kind",
        "data.target",
        "data.target_kind",
        "data.msmt17_val",
        "data.split",
        "data.val_ids",
        "data.same_camera",
        "data.name_pattern",
        "train.keep_head",
    ];
    refuse_unused(&args.settings.0, &unused)?;
    refuse_without_effect(&config, &args.settings.0)?;
    let mut pretraining = config.clone();
    pretraining.optim.lr = 2.0 * config.optim.lr;
    let (seeds, pretraining) = (vec![config.seed], Some(pretraining));
    Ok(StudyFile { kind: StudyKind::Demo, seeds, quick: args.quick, init: None, config, pretraining })
}

/// Opens the data sets of both domains, source and target; draws them into the run's folder if they are not there. Returns `None` if
/// stopped.
fn demo_data(file: &StudyFile, run: &RunDir, stop: &StopFlag, reporter: &Reporter) -> Result<Option<[Dataset; 2]>> {
    let config = &file.config;
    let open = |domain: Domain, name: &str, [train_ids, test_ids]: [usize; 2]| -> Result<Option<Dataset>> {
        let folder = whole_path("--out", &run.file(name))?;
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
        if !synth::is_complete(&folder) {
            // Remains of a demo that was killed.
            if folder.exists() {
                fs::remove_dir_all(&folder).at("remove", &folder)?;
            }
            if synthesise(&folder, &synth, stop, reporter)? == synth::Outcome::Stopped {
                return Ok(None);
            }
        }
        open_dataset(&folder, DatasetKind::Auto, Subsets::All, config, reporter).map(Some)
    };
    // As in practice, the source has more identities than the target. Its test split is not used.
    let ids = if file.quick { [[8, 1], [8, 8]] } else { [[128, 1], [64, 64]] };
    let Some(source) = open(Domain::Source, "source", ids[0])? else { return Ok(None) };
    let Some(target) = open(Domain::Target, "target", ids[1])? else { return Ok(None) };
    Ok(Some([source, target]))
}

/// Returns settings that are small enough for half a minute on two cores.
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
    file: StudyFile,
    [source, target]: [&Dataset; 2],
    run: &RunDir,
    reporter: &Reporter,
    stop: &StopFlag,
) -> Result<ExitCode> {
    reporter.message(&format!("run folder: {}", run.root().shown()));
    describe_datasets(reporter, [Some(source), Some(target)]);
    let pretraining = pretraining(&file).clone();
    let StudyFile { kind, seeds, config, .. } = file;
    let study = Study { seeds, run, reporter, stop, arm_ended: &draw_training };
    let comparison = Comparison { config, pretraining, source, target, study };
    match compare::run(&comparison)? {
        Some(results) => {
            draw_comparison(&comparison.study, &results)?;
            reporter.message(&format!("results, curves and checkpoints: {}", run.root().shown()));
            print(&format!("{}\n", compare::table(&results)))?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            say_stopped(reporter, kind, run);
            Ok(interrupted())
        }
    }
}
