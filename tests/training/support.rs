//! Functions that the tests of whole runs share: data, settings, running, comparing.

use std::sync::OnceLock;

use ptl::base::progress::Reporter;
use ptl::base::stop::StopFlag;
use ptl::config::Config;
use ptl::data::synth::{self, Domain, SynthConfig};
use ptl::data::{Dataset, DatasetKind, LoadOptions, load};
use ptl::eval::ranking::RankingReport;
use ptl::io::checkpoint::File;
use ptl::run_dir::RunDir;
use ptl::train::{self, Job, Outcome, Reid, Start};
use tempfile::TempDir;

pub const EPOCHS: usize = 3;
pub const STEPS_PER_EPOCH: usize = 6;

/// Returns two data sets with six and four training identities, four images each.
pub fn datasets() -> &'static [Dataset; 2] {
    static DATA: OnceLock<([Dataset; 2], TempDir)> = OnceLock::new();
    let (datasets, _) = DATA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let datasets = [(Domain::Source, 6), (Domain::Target, 4)].map(|(domain, train_ids)| {
            let config = SynthConfig {
                domain,
                train_ids,
                test_ids: 3,
                cams: 2,
                height: 48,
                width: 24,
                ..SynthConfig::default()
            };
            let path = folder.path().join(domain.to_string());
            synth::generate(&path, &config, &StopFlag::default(), &|_, _| {}).unwrap();
            load(&path, DatasetKind::Auto, &LoadOptions::default()).unwrap()
        });
        (datasets, folder)
    });
    datasets
}

pub fn config() -> Config {
    let mut config = Config::default();
    config.model.arch = "resnet18-ptl".into();
    config.model.width = 0.125;
    (config.model.height, config.model.image_width) = (32, 16);
    config.sampler.ids = 3;
    config.sampler.images = 2;
    config.sampler.passes = 3;
    config.augment.pad = 2;
    config.optim.lr = 1e-3;
    config.schedule.epochs = EPOCHS;
    config.schedule.warmup_epochs = 1;
    config.train.checkpoint_every = 1;
    config.train.log_every = 1;
    config.eval.batch = 5;
    config
}

pub fn try_job(
    config: &Config,
    dataset: &Dataset,
    start: Start,
    run: &RunDir,
    stop: &StopFlag,
) -> ptl::Result<Outcome<RankingReport>> {
    let reporter = Reporter::silent().with_log(&run.log_path()).unwrap();
    let task = &Reid { dataset, target: None };
    train::run(&Job { config, task, start, run, reporter: &reporter, stop })
}

pub fn run_job(
    config: &Config,
    dataset: &Dataset,
    start: Start,
    run: &RunDir,
    stop: &StopFlag,
) -> Outcome<RankingReport> {
    try_job(config, dataset, start, run, stop).unwrap()
}

pub fn finish(config: &Config, start: Start, run: &RunDir) -> RankingReport {
    match run_job(config, &datasets()[0], start, run, &StopFlag::default()) {
        Outcome::Finished(report) => *report,
        Outcome::Stopped(position) => panic!("stopped at {position:?}"),
    }
}

/// Returns name, shape and bits of every tensor in the newest checkpoint: weights, statistics, optimiser, latent states,
/// remembered embeddings.
pub fn everything(run: &RunDir) -> Vec<(String, Vec<usize>, Vec<u32>)> {
    let newest = ptl::model::checkpoints::newest(&run.checkpoints()).unwrap();
    let mut all = Vec::new();
    for name in [ptl::model::MODEL_FILE, ptl::model::TRAINING_FILE] {
        let file = File::open(&newest.join(name)).unwrap();
        for name in file.names() {
            let bits = match file.i64(&name) {
                Ok(counts) => counts.into_iter().map(|count| count as u32).collect(),
                Err(_) => file.f32(&name).unwrap().into_iter().map(f32::to_bits).collect(),
            };
            all.push((name.clone(), file.shape(&name).unwrap(), bits));
        }
    }
    assert!(all.iter().any(|(name, ..)| name.starts_with("optimizer.")));
    assert!(all.iter().any(|(name, ..)| name.ends_with(".weight")));
    all
}

pub fn assert_same(a: &RunDir, b: &RunDir, what: &str) {
    let (a, b) = (everything(a), everything(b));
    let names = |all: &[(String, Vec<usize>, Vec<u32>)]| all.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b), "{what}");
    for (a, b) in a.iter().zip(&b) {
        assert!(a == b, "{what}: {} differs", a.0);
    }
}

/// Returns the steps in metrics.jsonl, in the order of their lines.
pub fn logged_steps(run: &RunDir) -> Vec<u64> {
    let text = std::fs::read_to_string(run.metrics_path()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["type"] == "step").map(|line| line["step"].as_u64().unwrap()).collect()
}
