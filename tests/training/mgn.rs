//! MGN and MGN_PTL end to end at the published image size, at a fraction of the published width.

use std::path::Path;

use ptl::base::progress::Reporter;
use ptl::base::stop::StopFlag;
use ptl::config::{Config, Overrides, TrainOptions};
use ptl::data::{Dataset, DatasetKind, LoadOptions, load};
use ptl::engine::latent_state::StatePolicy;
use ptl::engine::schedule::ScheduleKind;
use ptl::eval::{Output, evaluate_dataset};
use ptl::io::checkpoint::File;
use ptl::model::TrainedModel;
use ptl::nn::TaskKind;
use ptl::run_dir::RunDir;
use ptl::train::{Outcome, Start};

use crate::common::say;
use crate::support::{assert_same, datasets, everything, finish, run_job};

/// Returns the published recipe, except for the width, the length and batches of 2 x 2.
fn config(arch: &str) -> Config {
    let mut config = Config::recipe(TaskKind::Reid, arch);
    config.model.width = 0.0625;
    config.model.embedding = 16;
    (config.sampler.ids, config.sampler.images) = (2, 2);
    config.schedule.epochs = 2;
    config.train.checkpoint_every = 1;
    config.eval.batch = 3;
    config
}

/// Returns names and shapes of the tensors of a checkpoint that have `part` in their name.
fn shapes(run: &RunDir, part: &str) -> Vec<(String, Vec<usize>)> {
    let all = everything(run).into_iter().map(|(name, shape, _)| (name, shape));
    all.filter(|(name, _)| name.contains(part) && !name.starts_with("optimizer.")).collect()
}

#[test]
fn mgn_ptl_trains_evaluates_and_resumes_at_384x128() {
    let folder = tempfile::tempdir().unwrap();
    let config = config("mgn-ptl");
    assert_eq!((config.model.height, config.model.image_width), (384, 128));
    let whole = RunDir::create(&folder.path().join("whole")).unwrap();
    let report = finish(&config, Start::Scratch, &whole);
    assert_eq!(report.valid_queries, datasets()[0].query.len());
    // The run folder holds the evaluation at the end.
    let mut trained = TrainedModel::open(whole.root(), &Overrides::default()).unwrap();
    let silent = Reporter::silent();
    assert_eq!(evaluate_dataset(trained.model(&silent), &datasets()[0]).unwrap(), report);

    let stopped = RunDir::create(&folder.path().join("stopped")).unwrap();
    finish(
        &Config { train: TrainOptions { max_steps: Some(4), ..config.train.clone() }, ..config.clone() },
        Start::Scratch,
        &stopped,
    );
    finish(&config, Start::Resume, &stopped);
    assert_same(&whole, &stopped, "resumed within the second epoch");

    // Each of the eight cells has a state, with a slot for each image of the batch.
    let states = shapes(&whole, "latent_state");
    let slot = |h, w, c| vec![4, h, w, c];
    let expected = [
        slot(192, 64, 1),
        slot(96, 32, 2),
        slot(96, 32, 4),
        slot(48, 16, 16),
        slot(24, 8, 32),
        slot(12, 4, 8),
        slot(24, 8, 8),
        slot(24, 8, 8),
    ];
    let expected: Vec<_> =
        (1..).zip(expected).map(|(i, shape)| (format!("ptl.bconv{i}.latent_state"), shape)).collect();
    assert_eq!(states, expected);

    // Parameters that forward never uses are saved unchanged, without decay.
    let fresh = RunDir::create(&folder.path().join("fresh")).unwrap();
    let mut first = config.clone();
    first.train.max_steps = Some(1);
    finish(&first, Start::Scratch, &fresh);
    let unused = |name: &str| {
        let later_block = name.starts_with("backbone.layer3.") && !name.starts_with("backbone.layer3.0.");
        later_block || name.starts_with("backbone.layer4.") || name.starts_with("backbone.fc.")
    };
    let (mut kept, mut moved) = (0, 0);
    for (a, b) in everything(&fresh).into_iter().zip(everything(&whole)) {
        if unused(&a.0) {
            assert_eq!(a, b);
            kept += 1;
        } else if a.0.ends_with(".weight") {
            assert_ne!(a.2, b.2, "{}", a.0);
            moved += 1;
        }
    }
    assert_eq!(kept, 152);
    assert!(moved > 200, "{moved}");
}

#[test]
fn every_policy_trains_the_eight_cells_differently() {
    let folder = tempfile::tempdir().unwrap();
    let mut states = Vec::new();
    for policy in [StatePolicy::Carry, StatePolicy::CarryEpochs, StatePolicy::Reset] {
        let mut config = config("mgn-ptl");
        (config.model.height, config.model.image_width) = (96, 32);
        config.ptl.state_policy = policy;
        let run = RunDir::create(&folder.path().join(format!("{policy:?}"))).unwrap();
        finish(&config, Start::Scratch, &run);
        let of_run = everything(&run).into_iter().filter(|(name, ..)| name.ends_with("latent_state"));
        states.push(of_run.map(|(_, _, bits)| bits).collect::<Vec<_>>());
    }
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        assert!(states[a].iter().zip(&states[b]).all(|(a, b)| a != b), "{a} and {b}");
    }
}

#[test]
fn mgn_starts_mgn_ptl_and_a_frozen_backbone_leaves_the_branches_free() {
    let folder = tempfile::tempdir().unwrap();
    let small = |arch: &str| {
        let mut config = config(arch);
        (config.model.height, config.model.image_width) = (96, 32);
        config.train.max_steps = Some(2);
        config
    };
    let mgn = RunDir::create(&folder.path().join("mgn")).unwrap();
    finish(&small("mgn"), Start::Scratch, &mgn);
    let weights = ptl::model::checkpoints::newest(&mgn.checkpoints()).unwrap().join(ptl::model::MODEL_FILE);
    let mut config = small("mgn-ptl");
    (config.train.freeze_backbone, config.train.freeze_bn) = (true, true);
    let ptl = RunDir::create(&folder.path().join("ptl")).unwrap();
    run_job(&config, &datasets()[1], Start::Init(weights.clone()), &ptl, &StopFlag::default());

    let before = File::open(&weights).unwrap();
    let after =
        File::open(&ptl::model::checkpoints::newest(&ptl.checkpoints()).unwrap().join(ptl::model::MODEL_FILE)).unwrap();
    let same = |a: &str, b: &str| assert_eq!(before.f32(a).unwrap(), after.f32(b).unwrap(), "{a} and {b}");
    same("backbone.0.weight", "backbone.conv1.weight");
    same("backbone.1.running_var", "backbone.bn1.running_var");
    same("backbone.4.2.conv3.weight", "backbone.layer1.2.conv3.weight");
    same("backbone.6.bn3.bias", "backbone.layer3.0.bn3.bias");
    same("p1.0.0.conv1.weight", "backbone.layer3.1.conv1.weight");
    let branch = "p2.1.0.conv1.weight";
    assert_ne!(before.f32(branch).unwrap(), after.f32(branch).unwrap(), "branches are not the backbone");
    assert_eq!(before.shape("fc_id_2048_0.weight").unwrap()[0], 6);
    assert_eq!(after.shape("fc_id_2048_0.weight").unwrap()[0], 4);
}

/// Trains on real handwriting in Market-1501 layout, if `PTL_DATA` names its folder.
#[test]
fn mgn_ptl_learns_on_a_real_data_set() {
    let Some(root) = std::env::var_os("PTL_DATA") else {
        say("SKIPPED: PTL_DATA is not set");
        return;
    };
    let dataset =
        load(&Path::new(&root).join("omniglot-reid/target"), DatasetKind::Auto, &LoadOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(&folder.path().join("run")).unwrap();
    let mut config = config("mgn-ptl");
    (config.model.height, config.model.image_width, config.model.width) = (96, 96, 0.125);
    (config.augment.flip, config.augment.random_erasing) = (0.0, 0.0);
    (config.sampler.ids, config.sampler.images, config.sampler.passes) = (6, 4, 5);
    (config.optim.lr, config.schedule.kind, config.eval.batch) = (4e-3, ScheduleKind::Cosine, 64);
    match run_job(&config, &dataset, Start::Scratch, &run, &StopFlag::default()) {
        Outcome::Finished(report) => assert!(report.map > 0.05, "mAP {}: chance is about 0.03", report.map),
        Outcome::Stopped(position) => panic!("stopped at {position:?}"),
    }
    let mut trained = TrainedModel::open(run.root(), &Overrides::default()).unwrap();
    let (silent, query) = (Reporter::silent(), Dataset::samples(&dataset.query[..3]));
    let (features, dim) = trained.model(&silent).run(query, Output::Feature).unwrap();
    assert_eq!((features.len(), dim), (3 * 8 * 16, 8 * 16));
}
