//! Whole runs of classifiers, with the same loop, run folder and checkpoints as re-identification.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use ptl::base::progress::Reporter;
use ptl::base::stop::StopFlag;
use ptl::config::{Config, Overrides};
use ptl::data::{ClassDataset, ClassOptions, DatasetKind, Subsets, load_classes};
use ptl::engine::latent_state::StatePolicy;
use ptl::eval::classification;
use ptl::eval::classification::ClassificationReport;
use ptl::io::checkpoint::File;
use ptl::model::TrainedModel;
use ptl::nn::{Arch, TaskKind};
use ptl::run_dir::RunDir;
use ptl::train::{self, Classify, Job, Outcome, Start};
use tempfile::TempDir;

use crate::support::{assert_same, everything};

const CLASSES: [&str; 3] = ["bars", "blank", "stripes"];

/// Returns three classes of 20 small pictures: vertical bars, one grey, horizontal stripes, with random brightness and phase.
fn dataset() -> &'static ClassDataset {
    static DATA: OnceLock<(ClassDataset, TempDir)> = OnceLock::new();
    let (dataset, _) = DATA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for (c, class) in CLASSES.iter().enumerate() {
            fs::create_dir(folder.path().join(class)).unwrap();
            for i in 0..20u32 {
                let image = image::RgbImage::from_fn(20, 20, |x, y| {
                    let at = [x, 0, y][c] + i;
                    let value = if at / 3 % 2 == 0 { 90 + 6 * i as u8 } else { 20 };
                    image::Rgb([value, value / 2, 255 - value])
                });
                image.save(folder.path().join(class).join(format!("{i}.png"))).unwrap();
            }
        }
        let options = ClassOptions { val_share: Some(0.25), seed: 0, subsets: Subsets::All };
        (load_classes(folder.path(), DatasetKind::Auto, &options).unwrap(), folder)
    });
    dataset
}

fn config(arch: &str) -> Config {
    let mut config = Config::recipe(TaskKind::Classify, arch);
    config.model.width = if arch.starts_with("cifar") { 0.5 } else { 0.125 };
    (config.model.height, config.model.image_width) = (16, 16);
    (config.sampler.batch, config.eval.batch) = (8, 16);
    (config.schedule.epochs, config.schedule.warmup_epochs) = (2, 0);
    (config.train.log_every, config.train.checkpoint_every) = (1, 1);
    config
}

/// Returns settings with everything that draws random numbers or keeps a state.
fn crowded() -> Config {
    let mut config = config("resnet18-ptl");
    let augment = &mut config.augment;
    (augment.rand_ops, augment.brightness, augment.hue, augment.random_erasing) = (2, 0.3, 0.1, 0.5);
    (augment.mixup, augment.cutmix) = (0.4, 1.0);
    (config.train.accumulate, config.train.ema) = (2, 0.9);
    (config.optim.layer_decay, config.optim.backbone_lr) = (0.8, 0.5);
    (config.schedule.epochs, config.sampler.balanced) = (3, true);
    config.ptl.state_policy = StatePolicy::CarryEpochs;
    config
}

fn finish(config: &Config, start: Start, run: &RunDir) -> ClassificationReport {
    let reporter = Reporter::silent().with_log(&run.log_path()).unwrap();
    let task = &Classify { dataset: dataset() };
    match train::run(&Job { config, task, start, run, reporter: &reporter, stop: &StopFlag::default() }).unwrap() {
        Outcome::Finished(report) => *report,
        Outcome::Stopped(position) => panic!("stopped at {position:?}"),
    }
}

fn run_in(folder: &TempDir, name: &str) -> RunDir {
    RunDir::create(&folder.path().join(name)).unwrap()
}

#[test]
fn classes_are_learnt_and_the_run_has_its_files() {
    let folder = tempfile::tempdir().unwrap();
    for arch in ["cifar-resnet20", "cifar-resnet20-ptl"] {
        let run = run_in(&folder, arch);
        let mut config = config(arch);
        (config.schedule.epochs, config.optim.lr, config.augment.pad) = (24, 0.05, 2);
        let report = finish(&config, Start::Scratch, &run);
        assert!(report.top1 >= 0.8, "{arch}: {} of 15, chance is a third", report.top1);

        let summary: serde_json::Value = serde_json::from_slice(&fs::read(run.summary_path()).unwrap()).unwrap();
        assert!((summary["top1"].as_f64().unwrap() - 100.0 * report.top1).abs() < 1e-9);
        let items = fs::read_to_string(run.items_path()).unwrap();
        assert_eq!(items.lines().count(), 1 + dataset().val.len());
        let hits = items.lines().skip(1).filter(|line| line.split(',').nth(4) == Some("1")).count();
        assert_eq!(hits as f64 / 15.0, report.top1);
        for name in ["confusion.csv", "per-class.csv"] {
            assert!(run.file(name).is_file(), "{arch}: {name}");
        }
        // The loaded model is the trained one.
        let mut trained = TrainedModel::open(run.root(), &Overrides::default()).unwrap();
        assert_eq!(trained.class_names, CLASSES);
        let silent = Reporter::silent();
        let again = classification::evaluate(&mut trained.model(&silent), &dataset().val, &dataset().classes).unwrap();
        assert_eq!(again.per_image, report.per_image);
    }
}

#[test]
fn resuming_continues_bit_for_bit_with_everything_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = crowded();
    let whole = run_in(&folder, "whole");
    let report = finish(&config, Start::Scratch, &whole);
    // 45 training images make 5 batches of 8, and these make 2 whole groups.
    let steps = fs::read_to_string(whole.metrics_path()).unwrap();
    assert_eq!(steps.lines().filter(|line| line.contains("\"type\":\"step\"")).count(), 6);

    let halves = run_in(&folder, "halves");
    for (i, steps) in [1, 2, 5].into_iter().enumerate() {
        let mut part = config.clone();
        part.train.max_steps = Some(steps);
        finish(&part, if i == 0 { Start::Scratch } else { Start::Resume }, &halves);
    }
    let resumed = finish(&config, Start::Resume, &halves);
    assert_same(&whole, &halves, "resumed");
    assert_eq!(report.per_image, resumed.per_image);
}

#[test]
fn threads_and_loaders_do_not_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    let trained = |name: &str, threads: usize, workers: usize| {
        let mut config = crowded();
        (config.train.workers, config.schedule.epochs) = (workers, 1);
        let run = run_in(&folder, name);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| finish(&config, Start::Scratch, &run));
        run
    };
    let one = trained("one", 1, 1);
    for (name, threads, workers) in [("two", 2, 3), ("five", 5, 2)] {
        assert_same(&one, &trained(name, threads, workers), name);
    }
}

/// Without batch statistics, a group of batches has the gradient of one large batch. (Batch norm differs, so it is frozen.)
#[test]
fn accumulated_batches_update_as_one_large_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut whole = config("resnet18");
    whole.train.freeze_bn = true;
    (whole.augment.crop, whole.augment.flip) = (ptl::data::Crop::Squeeze, 0.0);
    (whole.sampler.batch, whole.train.max_steps, whole.loss.label_smoothing) = (16, Some(1), 0.0);
    let mut parts = whole.clone();
    (parts.sampler.batch, parts.train.accumulate) = (4, 4);
    let [a, b] = [("whole", whole), ("parts", parts)].map(|(name, config)| {
        let run = run_in(&folder, name);
        finish(&config, Start::Scratch, &run);
        everything(&run)
    });
    let mut compared = 0;
    for (a, b) in a.iter().zip(&b).filter(|(a, _)| a.0.ends_with("weight")) {
        assert_eq!(a.0, b.0);
        let pairs = a.2.iter().zip(&b.2).map(|(a, b)| (f32::from_bits(*a), f32::from_bits(*b)));
        let (mut differ, name) = (0.0f32, &a.0);
        pairs.for_each(|(a, b)| differ = differ.max((a - b).abs() / a.abs().max(1e-2)));
        assert!(differ <= 1e-5, "{name}: {differ}");
        compared += 1;
    }
    assert!(compared > 20);
}

#[test]
fn training_ends_without_improvement_and_the_best_weights_count() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(&folder, "run");
    let mut config = config("cifar-resnet20");
    // The accuracy over 15 images can improve 15 times at most, so patience ends the training before the last epoch.
    (config.optim.lr, config.schedule.epochs, config.train.patience) = (0.05, 60, 2);
    let report = finish(&config, Start::Scratch, &run);
    let evaluations: Vec<serde_json::Value> =
        lines_of(&run, "evaluation").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let scores: Vec<f64> = evaluations.iter().map(|line| line["top1"].as_f64().unwrap()).collect();
    let best = (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
    assert_eq!(scores.len(), best + 1 + 2, "two evaluations after the first best one are no better: {scores:?}");
    assert_eq!(report.top1, scores[best]);
    let model = |step: u64| run.checkpoints().join(format!("step-{step}")).join(ptl::model::MODEL_FILE);
    let best = model(evaluations[best]["step"].as_u64().unwrap());
    assert_eq!(ptl::model::model_file(run.root()).unwrap(), best);
    let measured = |path: &Path| {
        let mut trained = TrainedModel::open(path, &Overrides::default()).unwrap();
        let silent = Reporter::silent();
        classification::evaluate(&mut trained.model(&silent), &dataset().val, &dataset().classes).unwrap().per_image
    };
    assert_eq!(measured(&best), report.per_image, "the best weights count");
    assert_ne!(measured(&model(newest_step(&run))), report.per_image, "the last weights differ");
    let log = fs::read_to_string(run.log_path()).unwrap();
    assert!(log.contains("no better top-1 in 2 evaluations"), "{log}");
    // A finished run does not train when it is resumed.
    let again = finish(&config, Start::Resume, &run);
    assert_eq!(again.per_image, report.per_image);
}

#[test]
fn the_moving_average_is_saved_and_training_continues_from_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("cifar-resnet20");
    let plain = run_in(&folder, "plain");
    finish(&config, Start::Scratch, &plain);
    config.train.ema = 0.5;
    let averaged = run_in(&folder, "averaged");
    finish(&config, Start::Scratch, &averaged);
    let file = |run: &RunDir, name: &str| {
        File::open(&ptl::model::checkpoints::newest(&run.checkpoints()).unwrap().join(name))
            .unwrap_or_else(|e| panic!("{e}"))
    };
    let weights = |run: &RunDir| file(run, ptl::model::MODEL_FILE).f32("fc.weight").unwrap();
    assert_ne!(weights(&plain), weights(&averaged));
    // The average does not change the training.
    let trained = file(&averaged, ptl::model::TRAINING_FILE).f32("trained.values").unwrap();
    let model = file(&plain, ptl::model::MODEL_FILE);
    let bias = model.f32("fc.bias").unwrap();
    assert_eq!(trained[trained.len() - bias.len()..], bias[..], "the last parameter is the classifier's bias");
}

#[test]
fn a_plain_classifier_gets_cells_and_keeps_its_head_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let plain = run_in(&folder, "plain");
    let mut config = config("resnet18");
    config.schedule.epochs = 1;
    finish(&config, Start::Scratch, &plain);
    let weights = ptl::model::model_file(plain.root()).unwrap();
    let before = File::open(&weights).unwrap();
    // The learning rate is too small to change weights: those that differ were not loaded.
    config.optim.lr = 1e-30;
    let after = |config: &Config, name: &str| {
        let run = run_in(&folder, name);
        finish(config, Start::Init(weights.clone()), &run);
        File::open(&ptl::model::model_file(run.root()).unwrap()).unwrap()
    };
    let fresh = after(&config, "fresh");
    assert_eq!(fresh.f32("layer4.0.conv1.weight").unwrap(), before.f32("layer4.0.conv1.weight").unwrap());
    assert_ne!(fresh.f32("fc.weight").unwrap(), before.f32("fc.weight").unwrap());
    config.train.keep_head = true;
    let kept = after(&config, "kept");
    assert_eq!(kept.f32("fc.weight").unwrap(), before.f32("fc.weight").unwrap());

    config.model.arch = "resnet18-ptl".into();
    let run = run_in(&folder, "refused");
    let reporter = Reporter::silent();
    let (task, stop) = (&Classify { dataset: dataset() }, &StopFlag::default());
    let start = Start::Init(weights.clone());
    let refused = train::run(&Job { config: &config, task, start, run: &run, reporter: &reporter, stop }).err();
    assert!(refused.unwrap().to_string().contains("leave `train.keep_head` out"));
    config.train.keep_head = false;
    let ptl = after(&config, "ptl");
    assert_eq!(ptl.f32("layer1.0.conv1.weight").unwrap(), before.f32("layer1.0.conv1.weight").unwrap());
    assert!(ptl.names().iter().any(|name| name == "ptl.bconv3.gates.weight"));
}

/// A request to stop in the last step of an epoch is met at once. The evaluation that is due runs once, when the run continues.
#[test]
fn an_epoch_that_ends_with_a_request_to_stop_is_evaluated_when_the_run_continues() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("cifar-resnet20");
    (config.sampler.batch, config.schedule.epochs) = (32, 3);
    let whole = run_in(&folder, "whole");
    finish(&config, Start::Scratch, &whole);
    // An epoch has one step, so every step is the last of its epoch.
    let run = run_in(&folder, "stopped");
    let (task, silent) = (&Classify { dataset: dataset() }, Reporter::silent());
    let stop = &StopFlag::default();
    stop.request();
    for (start, lines) in [(Start::Scratch, 0), (Start::Resume, 0)] {
        let outcome = train::run(&Job { config: &config, task, start, run: &run, reporter: &silent, stop }).unwrap();
        assert!(matches!(outcome, Outcome::Stopped(position) if position.epoch == 1));
        assert_eq!(lines_of(&run, "evaluation").len(), lines);
    }
    // It cannot continue with other classes.
    let mut other = dataset().clone();
    other.classes[1] = "clouds".into();
    let task = &Classify { dataset: &other };
    let job = Job { config: &config, task, start: Start::Resume, run: &run, reporter: &silent, stop };
    let error = train::run(&job).err().expect("refused").to_string();
    assert!(error.contains("clouds instead of blank"), "{error}");
    finish(&config, Start::Resume, &run);
    assert_eq!(lines_of(&run, "evaluation"), lines_of(&whole, "evaluation"));
}

/// Returns the lines of this type in the metrics of a run.
fn lines_of(run: &RunDir, kind: &str) -> Vec<String> {
    let metrics = fs::read_to_string(run.metrics_path()).unwrap();
    metrics.lines().filter(|line| line.contains(&format!("\"type\":\"{kind}\""))).map(String::from).collect()
}

fn newest_step(run: &RunDir) -> u64 {
    let newest = ptl::model::checkpoints::newest(&run.checkpoints()).unwrap();
    newest.file_name().unwrap().to_str().unwrap().strip_prefix("step-").unwrap().parse().unwrap()
}

#[test]
fn every_classifier_trains_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let names = Arch::NAMES.into_iter().filter(|name| !name.starts_with("mgn"));
    for arch in names {
        let mut config = config(arch);
        config.model.width = 0.0625;
        (config.train.max_steps, config.sampler.batch) = (Some(1), 2);
        if arch.starts_with("resnet34") {
            (config.model.stem, config.ptl.stages, config.ptl.cell_channels) =
                (ptl::nn::StemKind::Cifar, vec![2, 4], vec![3, 5]);
        }
        // One value per channel has no variance.
        if arch.contains("-ibn-") {
            (config.model.height, config.model.image_width) = (64, 64);
        }
        let run = run_in(&folder, arch);
        let report = finish(&config, Start::Scratch, &run);
        assert_eq!(report.images, 15, "{arch}");
    }
}

#[test]
fn data_that_cannot_be_trained_on_is_refused_in_one_sentence() {
    let (few, many) = (ClassDataset { train: Vec::new(), ..dataset().clone() }, dataset().clone());
    for (dataset, batch, part) in [(&few, 8, "no train"), (&many, 64, "`sampler.batch`")] {
        let folder = tempfile::tempdir().unwrap();
        let run = run_in(&folder, "run");
        let mut config = config("resnet18");
        config.sampler.batch = batch;
        let job = Job {
            config: &config,
            task: &Classify { dataset },
            start: Start::Scratch,
            run: &run,
            reporter: &Reporter::silent(),
            stop: &StopFlag::default(),
        };
        let error = train::run(&job).err().expect("refused").to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    }
}
