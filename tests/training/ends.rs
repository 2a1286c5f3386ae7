//! Runs that end early, in every way, and continue: nothing is lost or counted twice, and the length of epochs may change.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ptl::base::progress::Reporter;
use ptl::base::stop::StopFlag;
use ptl::config::Config;
use ptl::data::{Dataset, Sample, Sampler};
use ptl::eval::ranking::RankingReport;
use ptl::eval::{Model, evaluate_dataset};
use ptl::model::{Record, TrainedModel, model_file};
use ptl::run_dir::RunDir;
use ptl::train::{self, Job, Outcome, Reid, Start, Task};
use ptl::{Error, Result};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::support::{EPOCHS, STEPS_PER_EPOCH, assert_same, config, datasets, finish, run_job, try_job};

fn run_in(folder: &TempDir, name: &str) -> RunDir {
    RunDir::create(&folder.path().join(name)).unwrap()
}

/// Returns the metrics without speeds, which depend on time.
fn metrics(run: &RunDir) -> Vec<Value> {
    let text = fs::read_to_string(run.metrics_path()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|mut line| {
            line.as_object_mut().unwrap().remove("images_per_second");
            line
        })
        .collect()
}

fn rates(run: &RunDir) -> Vec<f64> {
    metrics(run).iter().filter_map(|line| line["lr"].as_f64()).collect()
}

fn assert_same_results(a: &RunDir, b: &RunDir, what: &str) {
    assert_same(a, b, what);
    assert_eq!(metrics(a), metrics(b), "{what}");
    for path in [RunDir::summary_path, RunDir::items_path] {
        assert_eq!(fs::read(path(a)).unwrap(), fs::read(path(b)).unwrap(), "{what}: {}", path(a).display());
    }
    let names = |run: &RunDir| {
        let mut names: Vec<_> = fs::read_dir(run.checkpoints()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b), "{what}: checkpoints");
}

/// Fails before or after one evaluation: the files on the disk are then those that a killed process leaves.
struct Failing<'a> {
    task: Reid<'a>,
    evaluations: Cell<usize>,
    fails_at: usize,
    measures: bool,
    /// Requested at that evaluation, instead of an error.
    stop: Option<StopFlag>,
}

impl Task for Failing<'_> {
    type Report = RankingReport;

    fn check(&self, config: &Config) -> Result<()> {
        self.task.check(config)
    }

    fn samples(&self) -> Arc<[Sample]> {
        self.task.samples()
    }

    fn root(&self) -> &Path {
        self.task.root()
    }

    fn class_names(&self) -> Vec<String> {
        self.task.class_names()
    }

    fn classes(&self) -> usize {
        self.task.classes()
    }

    fn measured(&self) -> usize {
        self.task.measured()
    }

    fn sampler(&self, config: &Config) -> Box<dyn Sampler> {
        self.task.sampler(config)
    }

    fn evaluate(&self, model: Model<'_>) -> Result<RankingReport> {
        self.evaluations.set(self.evaluations.get() + 1);
        if self.evaluations.get() != self.fails_at {
            return self.task.evaluate(model);
        }
        if let Some(stop) = &self.stop {
            stop.request();
            return self.task.evaluate(model);
        }
        if self.measures {
            self.task.evaluate(model)?;
        }
        Err(Error::NoValidQuery { queries: 0 })
    }

    fn write_details(&self, report: &RankingReport, run: &RunDir, config: &Config) -> Result<()> {
        self.task.write_details(report, run, config)
    }

    fn describe(&self) -> Map<String, Value> {
        self.task.describe()
    }
}

fn failing(fails_at: usize, stop: Option<StopFlag>) -> Failing<'static> {
    let task = Reid { dataset: &datasets()[0], target: None };
    Failing { task, evaluations: Cell::new(0), fails_at, measures: fails_at.is_multiple_of(2), stop }
}

/// Returns settings with an evaluation after every epoch, and with patience.
fn patient() -> Config {
    let mut config = config();
    (config.train.eval_every, config.train.patience, config.train.ema) = (1, 2, 0.5);
    (config.schedule.epochs, config.optim.lr) = (5, 1e-7);
    config
}

#[test]
fn an_end_within_an_evaluation_counts_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let config = patient();
    let whole = run_in(&folder, "whole");
    finish(&config, Start::Scratch, &whole);
    let evaluations = metrics(&whole).iter().filter(|line| line["type"] == "evaluation").count();
    let silent = Reporter::silent();
    for at in 1..=evaluations {
        let run = run_in(&folder, &format!("killed in {at}"));
        let (task, stop) = (&failing(at, None), &StopFlag::default());
        let job = Job { config: &config, task, start: Start::Scratch, run: &run, reporter: &silent, stop };
        train::run(&job).err().expect("it fails");
        // Adds a line of metrics that no record counts.
        let line = "{\"type\":\"evaluation\",\"epoch\":1,\"step\":1}\n{\"type\":\"ep";
        fs::write(run.metrics_path(), [fs::read(run.metrics_path()).unwrap(), line.into()].concat()).unwrap();
        finish(&config, Start::Resume, &run);
        assert_same_results(&whole, &run, &format!("killed in evaluation {at}"));
    }
}

#[test]
fn a_request_within_an_evaluation_ends_it_and_saves_the_training() {
    let folder = tempfile::tempdir().unwrap();
    for patience in [0, 2] {
        let mut config = patient();
        (config.train.patience, config.train.checkpoint_every) = (patience, 100);
        let whole = run_in(&folder, &format!("whole {patience}"));
        finish(&config, Start::Scratch, &whole);
        let run = run_in(&folder, &format!("stopped {patience}"));
        let (stop, silent) = (StopFlag::default(), Reporter::silent());
        let task = &failing(2, Some(stop.clone()));
        let job = Job { config: &config, task, start: Start::Scratch, run: &run, reporter: &silent, stop: &stop };
        match train::run(&job).unwrap() {
            Outcome::Stopped(position) => assert_eq!((position.epoch, position.batch), (2, 0)),
            Outcome::Finished(_) => panic!("did not stop"),
        }
        assert_eq!(metrics(&run).iter().filter(|line| line["type"] == "evaluation").count(), 1);
        finish(&config, Start::Resume, &run);
        assert_same(&whole, &run, "stopped");
        assert_eq!(metrics(&whole), metrics(&run));
    }
}

/// Copies the files of a checkpoint into a new folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
    }
}

/// An older process was killed between two renames, and another before it removed old checkpoints.
#[test]
fn leftovers_are_used_or_removed() {
    let folder = tempfile::tempdir().unwrap();
    let config = patient();
    let whole = run_in(&folder, "whole");
    finish(&config, Start::Scratch, &whole);
    let run = run_in(&folder, "run");
    let mut part = config.clone();
    part.train.max_steps = Some(2 * STEPS_PER_EPOCH);
    finish(&part, Start::Scratch, &run);
    let newest = ptl::model::checkpoints::newest(&run.checkpoints()).unwrap();
    let beside = |name: &str| run.checkpoints().join(name);
    let name = newest.file_name().unwrap().to_str().unwrap();
    copy(&newest, &beside(&format!(".{name}.old")));
    fs::rename(&newest, beside(&format!(".{name}.tmp"))).unwrap();
    let first = beside(&format!("step-{STEPS_PER_EPOCH}"));
    copy(&first, &beside("step-1"));
    copy(&first, &beside("step-2"));
    fs::create_dir(beside(".step-99.tmp")).unwrap();
    finish(&config, Start::Resume, &run);
    assert_same_results(&whole, &run, "healed");
}

#[test]
fn an_epoch_that_was_interrupted_has_the_mean_of_all_its_steps() {
    let folder = tempfile::tempdir().unwrap();
    let config = config();
    let whole = run_in(&folder, "whole");
    finish(&config, Start::Scratch, &whole);
    let run = run_in(&folder, "stopped");
    for i in 0..3 {
        let stop = StopFlag::default();
        stop.request();
        let start = if i == 0 { Start::Scratch } else { Start::Resume };
        assert!(matches!(run_job(&config, &datasets()[0], start, &run, &stop), Outcome::Stopped(_)));
    }
    // A limit within an epoch ends the run with its current results; the epoch can still continue.
    let mut part = config.clone();
    part.train.max_steps = Some(STEPS_PER_EPOCH + 2);
    finish(&part, Start::Resume, &run);
    assert!(run.summary_path().exists());
    finish(&config, Start::Resume, &run);
    let epochs = |run: &RunDir| metrics(run).into_iter().filter(|line| line["type"] == "epoch").collect::<Vec<_>>();
    assert_eq!(epochs(&run), epochs(&whole));
    assert_eq!(epochs(&run).len(), EPOCHS);
}

#[test]
fn the_rate_follows_the_epochs_when_their_length_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    (config.schedule.epochs, config.schedule.warmup_epochs) = (4, 0);
    // An epoch of six identities has 6 updates, and then 3, 12 or 2.
    let changes: [(&str, fn(&mut Config), usize); 3] = [
        ("ids", |config| config.sampler.ids = 6, 3),
        ("passes", |config| config.sampler.passes = 6, 12),
        ("accumulate", |config| config.train.accumulate = 3, 2),
    ];
    for (name, change, updates) in changes {
        let mut changed = config.clone();
        change(&mut changed);
        let uniform = run_in(&folder, &format!("{name} all along"));
        finish(&changed, Start::Scratch, &uniform);
        let run = run_in(&folder, name);
        let mut half = config.clone();
        half.train.max_steps = Some(2 * STEPS_PER_EPOCH);
        finish(&half, Start::Scratch, &run);
        finish(&changed, Start::Resume, &run);
        assert_eq!(rates(&uniform).len(), 4 * updates, "{name}");
        assert_eq!(rates(&run)[2 * STEPS_PER_EPOCH..], rates(&uniform)[2 * updates..], "{name}");
        let log = fs::read_to_string(run.log_path()).unwrap();
        let said = format!("an epoch has {updates} updates now, and had {STEPS_PER_EPOCH}");
        assert_eq!(log.matches(&said).count(), 1, "{log}");
    }
}

#[test]
fn a_run_continues_with_its_own_identities_only() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(&folder, "run");
    let (mut config, dataset) = (config(), &datasets()[0]);
    config.train.max_steps = Some(1);
    finish(&config, Start::Scratch, &run);
    config.train.max_steps = Some(2);
    let before = fs::read(run.config_path()).unwrap();
    let pids = dataset.train_pids();
    let with = |change: &dyn Fn(i64) -> Option<i64>| {
        let mut changed = dataset.clone();
        changed.train.retain_mut(|record| change(record.pid).map(|pid| record.pid = pid).is_some());
        changed
    };
    let refused = |dataset: &Dataset, part: &str| {
        let error = try_job(&config, dataset, Start::Resume, &run, &StopFlag::default()).err().expect("refused");
        let error = error.to_string();
        assert!(
            error.contains("the identities of the data differ from those of the run") && error.contains(part),
            "{error}"
        );
    };
    let (first, last) = (pids[0], *pids.last().unwrap());
    let renamed = with(&|pid| Some(if pid == first { 9999 } else { pid }));
    refused(&renamed, &format!("9999 instead of {first}"));
    refused(&with(&|pid| (pid != last).then_some(pid)), &format!("(5 instead of 6), for example {last} is missing"));
    let mut more = dataset.clone();
    more.train[0].pid = 9999;
    refused(&more, "(7 instead of 6), for example 9999 is new");
    assert_eq!(fs::read(run.config_path()).unwrap(), before);

    // A checkpoint of an earlier version names no identities: it continues with a warning.
    let model = ptl::model::checkpoints::newest(&run.checkpoints()).unwrap().join(ptl::model::MODEL_FILE);
    let bytes = fs::read(&model).unwrap();
    let (from, to) = ("\\\"class_names\\\":[", "\\\"klass_names\\\":[");
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    fs::write(&model, [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()).unwrap();
    try_job(&config, dataset, Start::Resume, &run, &StopFlag::default()).unwrap();
    let log = fs::read_to_string(run.log_path()).unwrap();
    assert!(log.contains("stored no identities"), "{log}");
}

#[test]
fn fewer_epochs_than_are_done_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(&folder, "run");
    let mut config = config();
    finish(&config, Start::Scratch, &run);
    let content =
        || [RunDir::config_path, RunDir::summary_path, RunDir::metrics_path].map(|of| fs::read(of(&run)).unwrap());
    let before = content();
    config.schedule.epochs = EPOCHS - 1;
    let outcome = try_job(&config, &datasets()[0], Start::Resume, &run, &StopFlag::default());
    let error = outcome.err().expect("refused").to_string();
    assert!(error.contains("3 epochs done") && error.contains("nothing was changed"), "{error}");
    assert!(content() == before);
}

/// A run without an update continues from its start, with the weights of `--init`.
#[test]
fn a_run_that_ended_before_its_first_epoch_continues() {
    let folder = tempfile::tempdir().unwrap();
    let source = run_in(&folder, "source");
    let config = config();
    finish(&config, Start::Scratch, &source);
    let weights = folder.path().join("weights.safetensors");
    fs::copy(model_file(source.root()).unwrap(), &weights).unwrap();
    let mut other = config.clone();
    (other.seed, other.schedule.epochs, other.train.ema) = (5, 2, 0.9);
    let whole = run_in(&folder, "whole");
    finish(&other, Start::Init(weights.clone()), &whole);

    // It ends at its first evaluation, with only the first checkpoint.
    let run = run_in(&folder, "run");
    let (task, stop, silent) = (&failing(1, None), &StopFlag::default(), Reporter::silent());
    let mut unsaved = other.clone();
    (unsaved.train.checkpoint_every, unsaved.train.eval_every) = (100, 1);
    let start = Start::Init(weights.clone());
    train::run(&Job { config: &unsaved, task, start, run: &run, reporter: &silent, stop }).err().expect("it fails");
    assert_eq!(ptl::model::checkpoints::newest(&run.checkpoints()).unwrap().file_name().unwrap(), "step-0");
    assert!(model_file(run.root()).unwrap_err().to_string().contains("no checkpoint yet"));
    fs::remove_file(&weights).unwrap();
    finish(&other, Start::Resume, &run);
    assert_same_results(&whole, &run, "from its start");
}

/// Turns a checkpoint into one of an earlier version: the position is in the training file, and there is no record.
fn age(checkpoint: &Path) {
    let record = Record::read(checkpoint).unwrap().unwrap();
    fs::remove_file(checkpoint.join(ptl::model::RECORD_FILE)).unwrap();
    let path = checkpoint.join(ptl::model::TRAINING_FILE);
    let bytes = fs::read(&path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let mut said: Value = serde_json::from_str(header["__metadata__"]["ptl"].as_str().unwrap()).unwrap();
    said["position"] = serde_json::to_value(record.position).unwrap();
    let best = record.best.unwrap();
    said["position"]["best"] = serde_json::json!({
        "score": best.score, "epoch": best.epoch, "evaluations_since": best.evaluations_since,
    });
    header["__metadata__"]["ptl"] = Value::String(said.to_string());
    let mut text = header.to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    fs::write(&path, [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &bytes[8 + len..]].concat()).unwrap();
}

#[test]
fn a_run_of_an_earlier_version_continues() {
    let folder = tempfile::tempdir().unwrap();
    let config = patient();
    let whole = run_in(&folder, "whole");
    finish(&config, Start::Scratch, &whole);
    let run = run_in(&folder, "run");
    let mut part = config.clone();
    part.train.max_steps = Some(2 * STEPS_PER_EPOCH);
    finish(&part, Start::Scratch, &run);
    let newest = ptl::model::checkpoints::newest(&run.checkpoints()).unwrap();
    let best = Record::read(&newest).unwrap().unwrap().best.unwrap();
    let kept = run.checkpoints().join("best");
    copy(&run.checkpoints().join(format!("step-{}", best.step.unwrap())), &kept);
    age(&newest);
    age(&kept);
    assert_eq!(model_file(run.root()).unwrap(), kept.join(ptl::model::MODEL_FILE));
    finish(&config, Start::Resume, &run);
    assert_same(&whole, &run, "of an earlier version");
    assert_eq!(metrics(&whole), metrics(&run));
    assert_eq!(fs::read(whole.summary_path()).unwrap(), fs::read(run.summary_path()).unwrap());
}

#[test]
fn the_best_weights_are_measured_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(&folder, "run");
    let mut config = config();
    (config.train.eval_every, config.train.patience, config.schedule.epochs) = (1, 1, 30);
    config.optim.lr = 0.02;
    let report = finish(&config, Start::Scratch, &run);
    let newest = ptl::model::checkpoints::newest(&run.checkpoints()).unwrap();
    let best = Record::read(&newest).unwrap().unwrap().best.unwrap();
    assert_eq!(best.evaluations_since, 1);
    let silent = Reporter::silent();
    let measured = |path: &Path| {
        let mut trained = TrainedModel::open(path, &Default::default()).unwrap();
        evaluate_dataset(trained.model(&silent), &datasets()[0]).unwrap()
    };
    assert_eq!(measured(run.root()), report);
    assert_eq!(report.map, best.score);
    assert_ne!(measured(&newest), report, "the last weights differ");
    let summary: Value = serde_json::from_slice(&fs::read(run.summary_path()).unwrap()).unwrap();
    assert!((summary["mAP"].as_f64().unwrap() - 100.0 * best.score).abs() < 1e-9);
}

#[test]
fn a_record_that_no_run_can_have_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(&folder, "run");
    let mut config = config();
    config.train.max_steps = Some(2);
    finish(&config, Start::Scratch, &run);
    let path = ptl::model::checkpoints::newest(&run.checkpoints()).unwrap().join(ptl::model::RECORD_FILE);
    let text = fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"step\": 2", "\"step\": 18446744073709551615"),
        ("\"batches\": 6", "\"batches\": 1"),
        ("\"batch\": 2", "\"batch\": -2"),
        ("{", ""),
        ("\"steps\": 2", "\"steps\": 9999999999999999999"),
    ] {
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let outcome = try_job(&config, &datasets()[0], Start::Resume, &run, &StopFlag::default());
        let error = outcome.err().expect("refused").to_string();
        assert!(error.starts_with("checkpoint ") && error.contains("record.json"), "{error}");
    }
}
