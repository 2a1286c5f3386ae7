//! Classifiers on the emulated GPU: mixed images, groups of batches, averaged weights.

use ptl::base::progress::Reporter;
use ptl::base::rng::{Purpose, stream};
use ptl::base::stop::StopFlag;
use ptl::config::{Config, Overrides};
use ptl::data::{AugmentParams, Batch, ClassDataset, ImageSource, Mix, PackedImages, Sample};
use ptl::engine::device::{Device, DeviceKind};
use ptl::engine::precision::Precision;
use ptl::eval::{Model, Output};
use ptl::model::{StepReport, TrainedModel};
use ptl::nn::TaskKind;
use ptl::run_dir::RunDir;
use ptl::train::{self, Classify, Job, Outcome, Start, Trainer};
use rand::RngExt;
use std::sync::Arc;

use crate::{WITH_AND_WITHOUT_VENDOR, emulated, emulated_with};

const CLASSES: usize = 5;

fn config(device: DeviceKind) -> Config {
    let mut config = Config::recipe(TaskKind::Classify, "cifar-resnet20-ptl");
    (config.device, config.seed, config.model.width) = (device, 3, 0.25);
    (config.model.height, config.model.image_width) = (16, 16);
    (config.sampler.batch, config.eval.batch) = (4, 8);
    (config.augment.mixup, config.augment.cutmix) = (0.4, 1.0);
    (config.train.accumulate, config.train.ema, config.train.log_every) = (3, 0.9, 1);
    (config.schedule.epochs, config.schedule.warmup_epochs) = (1, 0);
    config
}

fn batches(count: usize) -> Vec<Batch> {
    let mut rng = stream(1, Purpose::Test, 4, 0);
    let batch = |number: usize| Batch {
        pixels: (0..4 * 16 * 16 * 3).map(|_| rng.random()).collect(),
        size: [16, 16],
        params: vec![AugmentParams::default(); 4],
        labels: (0..4).map(|i| ((i + number) % CLASSES) as u32).collect(),
        indices: (4 * number..4 * number + 4).collect(),
        mix: [None, Some(Mix::Blend { share: 0.7 }), Some(Mix::Paste { rectangle: [2, 3, 8, 8], share: 0.75 })]
            [number % 3],
    };
    (0..count).map(batch).collect()
}

/// Four updates by groups of three batches: what each reports, and the averaged weights at the end.
fn steps(config: &Config, device: &Device) -> (Vec<StepReport>, Vec<f32>) {
    let batches = batches(12);
    let mut trainer = Trainer::on(device.clone(), config, CLASSES, |_, _| Ok(())).unwrap();
    let step = |(i, batch): (usize, &Batch)| trainer.step(batch, batches.get(i + 1), 1e-2 / (i + 1) as f64).unwrap();
    let reports = batches.iter().enumerate().map(step).collect();
    assert!(trainer.between_updates());
    trainer.swap_average();
    (reports, trainer.store.values.to_vec())
}

#[test]
fn groups_of_mixed_batches_are_the_cpus_and_recorded_steps_are_the_launched_ones() {
    for vendor in WITH_AND_WITHOUT_VENDOR {
        let Some(device) = emulated_with(Precision::F32, vendor) else { return };
        compare_groups(&device);
    }
}

fn compare_groups(device: &Device) {
    let mut config = config(DeviceKind::Emulated);
    config.gpu.graph = false;
    let (launched, values) = steps(&config, device);
    config.gpu.graph = true;
    let (recorded, recorded_values) = steps(&config, device);
    assert_eq!(recorded, launched);
    assert!(recorded_values.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()));

    let (want, want_values) = steps(&config, &Device::cpu());
    for (i, (got, want)) in launched.iter().zip(&want).enumerate() {
        assert_eq!((got.grad_norm.is_some(), got.triplet), (i % 3 == 2, None), "batch {i}");
        assert_eq!(got.grad_norm.is_some(), want.grad_norm.is_some());
        assert!((got.loss - want.loss).abs() <= 1e-3 * want.loss, "batch {i}: {} and {}", got.loss, want.loss);
        if let (Some(got), Some(want)) = (got.grad_norm, want.grad_norm) {
            assert!((got - want).abs() <= 1e-2 * want, "batch {i}: gradient norms {got} and {want}");
        }
    }
    // What the steps changed, against how much.
    let start = Trainer::on(Device::cpu(), &config, CLASSES, |_, _| Ok(())).unwrap().store.values.to_vec();
    let norm = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    let (moved, off) = (norm(&want_values, &start), norm(&values, &want_values));
    assert!(moved > 0.0 && off <= 2e-2 * moved, "moved by {moved}, apart by {off}");
}

#[test]
fn a_whole_run_gives_the_predictions_of_its_weights_on_both() {
    let Some(device) = emulated(Precision::F32) else { return };
    let mut rng = stream(2, Purpose::Test, 4, 0);
    let pixels = (0..24 * 16 * 16).map(|_| rng.random()).collect();
    let images = Arc::new(PackedImages { file: "grey".into(), height: 16, width: 16, channels: 1, pixels });
    let sample = |index: usize| Sample {
        image: ImageSource::Packed { images: images.clone(), index },
        label: (index % CLASSES) as u32,
    };
    let dataset = ClassDataset {
        classes: (0..CLASSES).map(|c| format!("class {c}")).collect(),
        train: (0..13).map(sample).collect(),
        val: (13..24).map(sample).collect(),
        ..ClassDataset::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(&folder.path().join("run")).unwrap();
    let config = config(DeviceKind::Emulated);
    let (task, stop) = (&Classify { dataset: &dataset }, &StopFlag::default());
    let silent = Reporter::silent();
    let job = Job { config: &config, task, start: Start::Scratch, run: &run, reporter: &silent, stop };
    let Outcome::Finished(report) = train::run(&job).unwrap() else { panic!("it was not stopped") };
    assert_eq!(report.images, 11);
    let predictions = [Device::cpu(), device].map(|device| {
        let mut trained = TrainedModel::open(run.root(), &Overrides::default()).unwrap();
        let mut model = Model { device: &device, ..trained.model(&silent) };
        model.run(dataset.val.clone().into(), Output::Probabilities).unwrap().0
    });
    assert_eq!(predictions[0].len(), 11 * CLASSES);
    for (got, want) in predictions[1].iter().zip(&predictions[0]) {
        assert!((got - want).abs() <= 1e-4, "{got}, not {want}");
    }
}
