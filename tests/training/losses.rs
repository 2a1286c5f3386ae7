//! Trainings with a focal loss, a margin and centres.

use ptl::base::progress::Reporter;
use ptl::config::{Config, Overrides};
use ptl::data::Dataset;
use ptl::eval::Output;
use ptl::model::TrainedModel;
use ptl::nn::HeadKind;
use ptl::run_dir::RunDir;
use ptl::train::Start;

use crate::support::{self, assert_same, datasets, everything, finish};

fn config() -> Config {
    let mut config = support::config();
    config.loss.focal_gamma = 1.0;
    (config.model.head, config.model.head_scale) = (HeadKind::ArcFace, Some(16.0));
    config.loss.center_weight = 0.01;
    config
}

#[test]
fn a_run_with_every_loss_resumes_bit_for_bit_and_is_evaluated_without_centres() {
    let (config, folder) = (config(), tempfile::tempdir().unwrap());
    let whole = RunDir::create(&folder.path().join("whole")).unwrap();
    let report = finish(&config, Start::Scratch, &whole);
    let parts = RunDir::create(&folder.path().join("parts")).unwrap();
    for (i, steps) in [1, 8].into_iter().enumerate() {
        let mut part = config.clone();
        part.train.max_steps = Some(steps);
        finish(&part, if i == 0 { Start::Scratch } else { Start::Resume }, &parts);
    }
    let resumed = finish(&config, Start::Resume, &parts);
    assert_same(&whole, &parts, "in parts");
    assert_eq!(report.map.to_bits(), resumed.map.to_bits());

    let centers = everything(&whole).into_iter().find(|(name, ..)| name == "centers.0").unwrap();
    assert_eq!(centers.1[0], 6);
    assert!(centers.2.iter().any(|&bits| bits != 0));
    let text = std::fs::read_to_string(whole.metrics_path()).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert!(
        lines.all(|line| (line["type"] != "step" && line["type"] != "epoch") || line["center"].as_f64().unwrap() > 0.0)
    );

    let mut trained = TrainedModel::open(whole.root(), &Overrides::default()).unwrap();
    let query = Dataset::samples(&datasets()[0].query);
    let (features, _) = trained.model(&Reporter::silent()).run(query, Output::Feature).unwrap();
    assert!(features.iter().all(|feature| feature.is_finite()));
}
