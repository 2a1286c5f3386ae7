//! Whole runs on a few drawn pedestrians: resuming, seeds, threads, fine-tuning. The module [`mgn`] has the tests of MGN.

mod classify;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod losses;
mod memory;
mod mgn;
mod support;

use std::path::Path;

use ptl::base::progress::Reporter;
use ptl::base::stop::StopFlag;
use ptl::config::Overrides;
use ptl::data::{Dataset, DatasetKind, LoadOptions, load};
use ptl::engine::cpu::InstructionSet;
use ptl::engine::device::DeviceKind;
use ptl::engine::latent_state::{EvalState, StateForm, StateInit, StatePolicy};
use ptl::engine::optim::OptimKind;
use ptl::engine::precision::Precision;
use ptl::eval::Output;
use ptl::io::checkpoint::File;
use ptl::model::TrainedModel;
use ptl::run_dir::RunDir;
use ptl::train::{Outcome, Start};

use common::say;
use support::{
    EPOCHS, STEPS_PER_EPOCH, assert_same, config, datasets, everything, finish, logged_steps, run_job, try_job,
};

#[test]
fn resuming_continues_bit_for_bit() {
    let recipes = [
        (StatePolicy::Carry, StateInit::Zeros, StateForm::Slots, OptimKind::Adam),
        (StatePolicy::CarryEpochs, StateInit::Normal, StateForm::Slots, OptimKind::Sgd),
        (StatePolicy::Reset, StateInit::Normal, StateForm::Slots, OptimKind::AdamW),
        (StatePolicy::Carry, StateInit::Zeros, StateForm::Permuted, OptimKind::Sgd),
        (StatePolicy::CarryEpochs, StateInit::Normal, StateForm::Class, OptimKind::Sgd),
    ];
    for (policy, init, form, kind) in recipes {
        let what = format!("{policy:?} {init:?} {form:?} {kind:?}");
        let mut config = config();
        (config.ptl.state_policy, config.ptl.state_init, config.optim.kind) = (policy, init, kind);
        config.ptl.state_form = form;
        config.optim.clip_norm = 5.0;
        let folder = tempfile::tempdir().unwrap();
        let whole = RunDir::create(&folder.path().join("whole")).unwrap();
        let report = finish(&config, Start::Scratch, &whole);
        assert_eq!(logged_steps(&whole).len(), EPOCHS * STEPS_PER_EPOCH);

        // Stops in the middle of an epoch, at its end, and twice.
        let halves = RunDir::create(&folder.path().join("halves")).unwrap();
        for (i, steps) in [4, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH + 1].into_iter().enumerate() {
            let mut first = config.clone();
            first.train.max_steps = Some(steps);
            finish(&first, if i == 0 { Start::Scratch } else { Start::Resume }, &halves);
        }
        let resumed = finish(&config, Start::Resume, &halves);
        assert_same(&whole, &halves, &what);
        assert_eq!(report.map.to_bits(), resumed.map.to_bits(), "{what}");
        assert_eq!(logged_steps(&halves), logged_steps(&whole), "{what}");
    }
}

#[test]
fn a_request_to_stop_leaves_a_run_that_resumes() {
    let config = config();
    let folder = tempfile::tempdir().unwrap();
    let whole = RunDir::create(&folder.path().join("whole")).unwrap();
    finish(&config, Start::Scratch, &whole);
    let stopped = RunDir::create(&folder.path().join("stopped")).unwrap();
    for step in 1..=2 {
        let stop = StopFlag::default();
        stop.request();
        let start = if step == 1 { Start::Scratch } else { Start::Resume };
        match run_job(&config, &datasets()[0], start, &stopped, &stop) {
            Outcome::Stopped(position) => assert_eq!(position.step, step),
            Outcome::Finished(_) => panic!("did not stop"),
        }
    }
    // Within an epoch, the run cannot continue with epochs of another length, nor with another image size (latent states).
    let (mut longer, mut larger) = (config.clone(), config.clone());
    longer.sampler.passes = 7;
    larger.model.height = 48;
    for (config, part) in [(longer, "now an epoch has"), (larger, "image size")] {
        let outcome = try_job(&config, &datasets()[0], Start::Resume, &stopped, &StopFlag::default());
        let error = outcome.err().expect("does not fit").to_string();
        assert!(error.contains(part), "{error}");
    }
    finish(&config, Start::Resume, &stopped);
    assert_same(&whole, &stopped, "stopped twice");
}

#[test]
fn threads_and_loaders_do_not_change_a_bit_and_seeds_do() {
    let folder = tempfile::tempdir().unwrap();
    let trained = |name: &str, threads: usize, workers: usize, seed: u64| {
        let mut config = config();
        (config.train.workers, config.seed, config.schedule.epochs) = (workers, seed, 2);
        let run = RunDir::create(&folder.path().join(name)).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let report = pool.install(|| finish(&config, Start::Scratch, &run));
        (run, report.map.to_bits())
    };
    let one = trained("one", 1, 1, 0);
    for (name, threads, workers) in [("again", 1, 1), ("two", 2, 3), ("five", 5, 2)] {
        let other = trained(name, threads, workers, 0);
        assert_same(&one.0, &other.0, name);
        assert_eq!(one.1, other.1, "{name}: mAP");
    }
    let other_seed = trained("other seed", 1, 1, 1);
    let differ = everything(&one.0).iter().zip(&everything(&other_seed.0)).filter(|(a, b)| a.2 != b.2).count();
    assert!(differ > 20, "{differ}");
}

#[test]
fn a_cpu_with_bf16_trains_close_to_f32_and_others_refuse_it() {
    let folder = tempfile::tempdir().unwrap();
    let [dataset, _] = datasets();
    let first_loss = |precision: Precision| -> ptl::Result<f64> {
        let run = RunDir::create(&folder.path().join(precision.name()))?;
        let mut config = config();
        (config.precision, config.device) = (precision, DeviceKind::Cpu);
        config.schedule.epochs = 1;
        config.schedule.warmup_epochs = 0;
        try_job(&config, dataset, Start::Scratch, &run, &StopFlag::default())?;
        let metrics = std::fs::read_to_string(run.metrics_path()).unwrap();
        let mut lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        Ok(lines.find(|line| line["type"] == "step").unwrap()["loss"].as_f64().unwrap())
    };
    let want = first_loss(Precision::F32).unwrap();
    match first_loss(Precision::Bf16) {
        Ok(loss) => {
            assert!(InstructionSet::has_bf16());
            assert!(loss != want && (loss - want).abs() < 0.02 * want, "{loss}, in f32 {want}");
        }
        Err(error) => {
            assert!(!InstructionSet::has_bf16());
            assert!(error.to_string().contains("AVX-512 BF16"), "{error}");
        }
    }
}

#[test]
fn fine_tuning_takes_any_number_of_identities_and_reports_what_it_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.schedule.epochs = 1;
    config.schedule.warmup_epochs = 0;
    let mut plain = config.clone();
    plain.model.arch = "resnet18".into();
    let source = RunDir::create(&folder.path().join("source")).unwrap();
    finish(&plain, Start::Scratch, &source);
    let weights = ptl::model::checkpoints::newest(&source.checkpoints()).unwrap().join(ptl::model::MODEL_FILE);

    let tuned = RunDir::create(&folder.path().join("tuned")).unwrap();
    let start = Start::Init(weights.clone());
    // The learning rate is too small to change weights: those that differ were not loaded.
    config.optim.lr = 1e-30;
    run_job(&config, &datasets()[1], start, &tuned, &StopFlag::default());
    let before = File::open(&weights).unwrap();
    let after =
        File::open(&ptl::model::checkpoints::newest(&tuned.checkpoints()).unwrap().join(ptl::model::MODEL_FILE))
            .unwrap();
    for name in before.names().iter().filter(|name| name.starts_with("backbone.") && name.ends_with("weight")) {
        assert_eq!(before.f32(name).unwrap(), after.f32(name).unwrap(), "{name}");
    }
    assert_eq!(before.shape("classifier.weight").unwrap()[0], 6);
    assert_eq!(after.shape("classifier.weight").unwrap()[0], 4);
    let log = std::fs::read_to_string(tuned.log_path()).unwrap();
    for line in
        ["backbone.layer4", "classifier.weight", "classifier: starts afresh", "ptl.bconv1", "keeps its start value"]
    {
        assert!(log.contains(line), "{line} in:\n{log}");
    }
}

#[test]
fn a_frozen_backbone_stays_and_the_rest_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.schedule.epochs = 1;
    (config.train.freeze_backbone, config.train.freeze_bn) = (true, true);
    let run = RunDir::create(&folder.path().join("run")).unwrap();
    finish(&config, Start::Scratch, &run);
    config.train.max_steps = Some(1);
    let first = RunDir::create(&folder.path().join("first")).unwrap();
    finish(&config, Start::Scratch, &first);
    let of =
        |run: &RunDir| -> Vec<_> { everything(run).into_iter().filter(|t| !t.0.starts_with("optimizer")).collect() };
    let (mut frozen, mut moved) = (0, 0);
    for (a, b) in of(&first).into_iter().zip(of(&run)) {
        if a.0.starts_with("backbone.") {
            assert_eq!(a, b);
            frozen += 1;
        } else if a.0.ends_with("weight") {
            assert_ne!(a.2, b.2, "{}", a.0);
            moved += 1;
        }
    }
    assert!(frozen > 50 && moved > 10, "{frozen} {moved}");
}

#[test]
fn the_evaluation_state_changes_the_features_and_batches_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(&folder.path().join("run")).unwrap();
    finish(&config(), Start::Scratch, &run);
    let features = |eval_state: EvalState, batch: usize| {
        let mut trained = TrainedModel::open(run.root(), &Overrides::default()).unwrap();
        (trained.config.ptl.eval_state, trained.config.eval.batch) = (eval_state, batch);
        let query = Dataset::samples(&datasets()[0].query);
        trained.model(&Reporter::silent()).run(query, Output::Feature).unwrap().0
    };
    let [zeros, mean, normal] = [EvalState::Zeros, EvalState::Mean, EvalState::Normal].map(|s| features(s, 4));
    assert!(zeros.iter().all(|v| v.is_finite()));
    assert!(zeros != mean && zeros != normal && mean != normal);
    assert_eq!(features(EvalState::Zeros, 1), zeros);
    assert_eq!(features(EvalState::Mean, 3), mean);
}

#[test]
fn a_diverging_run_ends_with_one_error_and_keeps_its_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(&folder.path().join("run")).unwrap();
    let mut config = config();
    config.schedule.epochs = 1;
    finish(&config, Start::Scratch, &run);
    let saved = everything(&run);
    config.schedule.epochs = EPOCHS;
    config.optim.kind = OptimKind::Sgd;
    config.optim.lr = 1e30;
    config.schedule.warmup_epochs = 0;
    let weights = ptl::model::checkpoints::newest(&run.checkpoints()).unwrap().join(ptl::model::MODEL_FILE);
    let second = RunDir::create(&folder.path().join("second")).unwrap();
    let start = Start::Init(weights);
    let outcome = try_job(&config, &datasets()[0], start, &second, &StopFlag::default());
    let error = outcome.err().expect("diverges").to_string();
    assert!(error.contains("the loss became") && error.contains("`optim.lr`") && error.contains(".jpg"), "{error}");
    assert_eq!(everything(&run), saved);
    assert!(Path::new(&second.metrics_path()).exists());
}

/// Trains on real handwriting in Market-1501 layout, if `PTL_DATA` names its folder.
#[test]
fn a_real_data_set_trains_and_is_measured() {
    let Some(root) = std::env::var_os("PTL_DATA") else {
        say("SKIPPED: PTL_DATA is not set");
        return;
    };
    let root = Path::new(&root).join("omniglot-reid/target");
    let dataset = load(&root, DatasetKind::Auto, &LoadOptions::default()).unwrap();
    assert_eq!((dataset.train.len(), dataset.query.len(), dataset.gallery.len()), (1060, 212, 848));
    assert!(dataset.train.iter().any(|record| record.camid >= 10));
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(&folder.path().join("run")).unwrap();
    let mut config = config();
    (config.model.image_width, config.eval.batch, config.optim.lr) = (32, 64, 2e-3);
    (config.augment.flip, config.augment.random_erasing) = (0.0, 0.0);
    (config.sampler.ids, config.sampler.images, config.sampler.passes) = (8, 4, 8);
    match run_job(&config, &dataset, Start::Scratch, &run, &StopFlag::default()) {
        Outcome::Finished(report) => assert!(report.map > 0.1, "mAP {}: chance is about 0.03", report.map),
        Outcome::Stopped(position) => panic!("stopped at {position:?}"),
    }
}
