//! One function for each command: settings and data first, then the folder, then the work.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use super::args::{CompareArgs, DemoArgs, EvaluateArgs, ExtractArgs, SynthArgs, TrainArgs};
use super::output::{INTERRUPTED, print, stop_on_ctrl_c};
use crate::checkpoint;
use crate::compare::{self, Comparison};
use crate::config::{Config, Overrides};
use crate::data::synth::{self, Domain, SynthConfig};
use crate::data::{Dataset, ImageRecord, list_images, load_market};
use crate::error::IoContext;
use crate::eval::features_file::{FeatureFormat, FeatureTable};
use crate::eval::{TrainedModel, evaluate_dataset, extract_features, model_file};
use crate::progress::Reporter;
use crate::run_dir::{RUNS, RunDir};
use crate::train::{self, Job, Outcome, Start};
use crate::{Error, Result};

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
            run.write_summary(&crate::compare::Scores::of(&report))?;
            print(&format!("{report}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `ptl-train evaluate`.
pub fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    let TrainedModel { config, model, mut store, states } = TrainedModel::open(&args.checkpoint, flags)?;
    set_threads(&config)?;
    let reporter = Reporter::stderr();
    let dataset = open_dataset(evaluated_root(&config, flags)?, &config, &reporter)?;
    dataset.check_for_evaluation()?;
    describe_datasets(&reporter, [Some(&dataset), None]);
    let report = evaluate_dataset(&model, &mut store, &states, &dataset, &config, &reporter)?;
    print(&format!("{report}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// `ptl-train extract`.
pub fn extract(args: &ExtractArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    FeatureFormat::of(&args.out)?;
    if let Some(existing) = [args.out.clone(), args.out.with_extension("txt")].into_iter().find(|path| path.exists()) {
        return Err(Error::Setting {
            setting: "--out".into(),
            value: args.out.display().to_string(),
            reason: format!("{} exists already: choose another name", existing.display()),
        });
    }
    if let Some(folder) = args.out.parent() {
        fs::create_dir_all(folder).at("create", folder)?;
    }
    let TrainedModel { config, model, mut store, states } = TrainedModel::open(&args.checkpoint, flags)?;
    set_threads(&config)?;
    let reporter = Reporter::stderr();
    let records: Vec<ImageRecord> = match &args.images {
        Some(folder) => {
            let records = list_images(folder)?.into_iter().map(|path| ImageRecord { path, pid: -1, camid: -1 });
            let name = folder.display().to_string();
            let mut dataset = Dataset { name, gallery: records.collect(), ..Dataset::default() };
            check_images(&mut dataset, &config, &reporter)?;
            dataset.warnings.iter().for_each(|warning| reporter.warn(warning));
            dataset.gallery
        }
        None => {
            let dataset = open_dataset(evaluated_root(&config, flags)?, &config, &reporter)?;
            describe_datasets(&reporter, [Some(&dataset), None]);
            dataset.query.into_iter().chain(dataset.gallery).collect()
        }
    };
    let (features, dim) = extract_features(&model, &mut store, &states, &records, &config, &reporter)?;
    let pids: Vec<i64> = records.iter().map(|r| r.pid).collect();
    let camids: Vec<i64> = records.iter().map(|r| r.camid).collect();
    let paths: Vec<PathBuf> = records.into_iter().map(|r| r.path).collect();
    let labels = args.images.is_none().then_some((&pids[..], &camids[..]));
    FeatureTable { features: &features, dim, paths: &paths, labels }.write(&args.out)?;
    reporter.message(&format!("{} features of {dim} numbers written to {}", paths.len(), args.out.display()));
    Ok(ExitCode::SUCCESS)
}

/// `ptl-train synth`.
pub fn synth(args: &SynthArgs) -> Result<ExitCode> {
    let ids = args.ids as usize;
    let domain = match args.domain {
        super::args::Domain::Source => Domain::Source,
        super::args::Domain::Target => Domain::Target,
    };
    let config = SynthConfig {
        domain,
        train_ids: ids / 2,
        test_ids: ids - ids / 2,
        cams: args.cams as usize,
        seed: args.seed,
        ..SynthConfig::default()
    };
    synthesise(&args.out, &config, &Reporter::stderr())?;
    Ok(ExitCode::SUCCESS)
}

/// `ptl-train compare`.
pub fn compare(args: &CompareArgs) -> Result<ExitCode> {
    let mut defaults = Config::default();
    defaults.model.arch = "resnet50".into();
    let config = Config::load(&defaults, args.config.as_deref(), &args.settings.0)?;
    check_comparison(&config, &args.seeds, &args.settings.0, &["data.root", "seed"])?;
    set_threads(&config)?;
    let terminal = Reporter::stderr();
    let source = open_dataset(&args.source, &config, &terminal)?;
    let target = config.data.target.as_deref().ok_or_else(|| Error::Setting {
        setting: "data.target".into(),
        value: "(none)".into(),
        reason: "name the data set to fine-tune and measure on with --target".into(),
    })?;
    let target = open_dataset(target, &config, &terminal)?;
    let mut pretraining = config.clone();
    pretraining.schedule.epochs = args.pretrain_epochs.unwrap_or(config.schedule.epochs);
    pretraining.optim.lr = args.pretrain_lr.unwrap_or(config.optim.lr);
    pretraining.validate()?;
    for dataset in [&source, &target] {
        dataset.check_for_training(config.sampler.ids)?;
    }
    target.check_for_evaluation()?;
    let run = new_run(args.out.as_deref(), "compare")?;
    three_arms(config, pretraining, [&source, &target], args.seeds.clone(), &run, &terminal)
}

/// `ptl-train demo`.
pub fn demo(args: &DemoArgs) -> Result<ExitCode> {
    let config = Config::load(&demo_config(args.quick), None, &args.settings.0)?;
    check_comparison(&config, &[config.seed], &args.settings.0, &["data.root", "data.target"])?;
    set_threads(&config)?;
    let terminal = Reporter::stderr();
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
        open_dataset(&folder, &config, &terminal)
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

/// Refuses what cannot be compared, before there is a folder.
fn check_comparison(config: &Config, seeds: &[u64], flags: &Overrides, unused: &[&str]) -> Result<()> {
    let refuse = |setting: &str, value: String, reason: &str| {
        Err(Error::Setting { setting: setting.into(), value, reason: reason.into() })
    };
    if config.model.arch.ends_with("-ptl") {
        let reason = "name the plain network: the comparison adds -ptl itself";
        return refuse("model.arch", config.model.arch.clone(), reason);
    }
    if let Some(setting) = unused.iter().find(|path| flags.has(path)) {
        let reason = "this command does not use it: see its own options in --help";
        return refuse(setting, "(given)".into(), reason);
    }
    if (1..seeds.len()).any(|i| seeds[..i].contains(&seeds[i])) {
        return refuse("seeds", format!("{seeds:?}"), "each seed is a comparison of its own: name it once");
    }
    Ok(())
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
    reporter.message(&format!("run folder: {}", run.root().display()));
    describe_datasets(&reporter, [Some(source), Some(target)]);
    let stop = stop_on_ctrl_c(&reporter)?;
    let comparison = Comparison { config, pretraining, source, target, seeds, run, reporter: &reporter, stop: &stop };
    match compare::run(&comparison)? {
        Some(results) => {
            reporter.message(&format!("results, curves and checkpoints: {}", run.root().display()));
            print(&format!("{}\n", compare::table(&results)))?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            reporter.message("stopped; what was finished is in the run folder");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

fn synthesise(folder: &Path, config: &SynthConfig, reporter: &Reporter) -> Result<()> {
    let task = Mutex::new(reporter.start(&format!("drawing {}", config.domain), config.images() as u64, "images"));
    synth::generate(folder, config, &|_, _| task.lock().expect("no panic while drawing").advance(1, ""))?;
    task.into_inner().expect("no panic while drawing").finish("");
    Ok(())
}

/// The number of compute threads, before anything computes.
fn set_threads(config: &Config) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build_global();
    pool.map_err(io::Error::other).at("start", "the compute threads")
}

/// Loads a data set and checks its images.
fn open_dataset(root: &Path, config: &Config, reporter: &Reporter) -> Result<Dataset> {
    let mut dataset = load_market(root)?;
    check_images(&mut dataset, config, reporter)?;
    Ok(dataset)
}

/// Decodes every image before the work that needs them.
fn check_images(dataset: &mut Dataset, config: &Config, reporter: &Reporter) -> Result<()> {
    let images = (dataset.train.len() + dataset.query.len() + dataset.gallery.len()) as u64;
    let task = Mutex::new(reporter.start(&format!("checking {}", dataset.name), images, "images"));
    let each = || task.lock().expect("no panic while checking").advance(1, "");
    dataset.drop_or_refuse_broken(config.data.skip_broken, &each)?;
    task.into_inner().expect("no panic while checking").finish("");
    Ok(())
}

fn describe_datasets(reporter: &Reporter, datasets: [Option<&Dataset>; 2]) {
    for dataset in datasets.into_iter().flatten() {
        reporter.message(&format!("{}\n{}", dataset.name, dataset.banner()));
        dataset.warnings.iter().for_each(|warning| reporter.warn(warning));
    }
}

/// The training data set.
fn data_root(config: &Config) -> Result<&Path> {
    if config.data.root.as_os_str().is_empty() {
        return Err(Error::Setting {
            setting: "data.root".into(),
            value: "(none)".into(),
            reason: "name a data set in Market-1501 layout with --data; ptl-train synth draws one".into(),
        });
    }
    Ok(&config.data.root)
}

/// The data set to measure on: the one that a flag names, else the run's target, else its own.
fn evaluated_root<'a>(config: &'a Config, flags: &Overrides) -> Result<&'a Path> {
    match &config.data.target {
        Some(target) if !flags.has("data.root") => Ok(target),
        _ => data_root(config),
    }
}

fn new_run(out: Option<&Path>, kind: &str) -> Result<RunDir> {
    match out {
        Some(path) => RunDir::create(path),
        None => RunDir::create_in(Path::new(RUNS), kind),
    }
}
