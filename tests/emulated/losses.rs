//! Class weights, the focal loss, margins and centres in steps on the emulated GPU.

use ptl::config::{ClassWeights, Config};
use ptl::data::Batch;
use ptl::engine::device::{Device, DeviceKind};
use ptl::engine::precision::Precision;
use ptl::model::StepReport;
use ptl::nn::{HeadKind, TaskKind};
use ptl::train::Trainer;

use crate::emulated;
use crate::training::{batch, config};

/// Four classes with as many training images; batches have images of the first two and of the last.
const IMAGES: [usize; 4] = [30, 2, 7, 5];

/// Three steps: what each reports. The centres move after the first.
fn steps(config: &Config, device: &Device) -> Vec<StepReport> {
    let batch = |number: usize| {
        let mut batch: Batch = batch([config.model.height, config.model.image_width]);
        batch.pixels.iter_mut().enumerate().for_each(|(i, pixel)| *pixel = pixel.wrapping_add((i % 7 * number) as u8));
        batch.labels = vec![0, 0, if number == 1 { 3 } else { 1 }, 1];
        batch
    };
    let batches = [0, 1, 2].map(batch);
    let mut trainer = Trainer::on(device.clone(), config, IMAGES.len(), |_, _| Ok(())).unwrap();
    trainer.weigh_classes(&IMAGES).unwrap();
    batches.iter().enumerate().map(|(i, batch)| trainer.step(batch, batches.get(i + 1), 1e-6).unwrap()).collect()
}

/// Losses by settings; the last two are for re-identification.
type Change = fn(&mut Config);
const LOSSES: [(&str, Change); 5] = [
    ("weighted, smoothed", |c| (c.loss.class_weights, c.loss.label_smoothing) = (ClassWeights::Effective, 0.1)),
    ("weighted, focal", |c| (c.loss.class_weights, c.loss.focal_gamma) = (ClassWeights::Inverse, 2.0)),
    ("arcface", |c| c.model.head = HeadKind::ArcFace),
    ("circle and centres", |c| {
        (c.model.head, c.model.head_scale, c.loss.center_weight) = (HeadKind::Circle, Some(64.0), 0.05)
    }),
    ("arcface, centres, three embeddings", |c| (c.model.head, c.loss.center_weight) = (HeadKind::ArcFace, 0.05)),
];

#[test]
fn every_loss_is_the_cpus_and_recorded_steps_are_the_launched_ones() {
    let Some(device) = emulated(Precision::F32) else { return };
    for (i, (name, change)) in LOSSES.into_iter().enumerate() {
        let arch = if i == 4 { "mgn" } else { "resnet18" };
        let mut config = config(arch, DeviceKind::Emulated);
        change(&mut config);
        let want = steps(&config, &Device::cpu());
        config.gpu.graph = false;
        let launched = steps(&config, &device);
        config.gpu.graph = true;
        assert_eq!(steps(&config, &device), launched, "{name}");
        for (got, want) in launched.iter().zip(&want) {
            let close = |got: f64, want: f64| (got - want).abs() <= 2e-2 * want.abs().max(0.1);
            assert!(close(got.cross_entropy, want.cross_entropy), "{name}: {got:?}, not {want:?}");
            assert_eq!(got.center.is_some(), name.contains("centres"), "{name}");
            let [center, wanted] = [got, want].map(|report| report.center.unwrap_or(0.0));
            assert!(close(center, wanted), "{name}: {got:?}, not {want:?}");
        }
        // Centres start at 0, and embeddings are not 0.
        assert!(want[0].center.is_none_or(|center| center > want[2].center.unwrap()), "{name}: {want:?}");
    }
}

#[test]
fn a_classifier_with_each_head_is_close_to_f32_in_bf16() {
    let (Some(short), Some(exact)) = (emulated(Precision::Bf16), emulated(Precision::F32)) else { return };
    for head in [HeadKind::Linear, HeadKind::ArcFace, HeadKind::Circle] {
        let mut config = Config::recipe(TaskKind::Classify, "cifar-resnet20");
        (config.seed, config.model.width, config.model.head) = (3, 0.25, head);
        (config.model.height, config.model.image_width, config.sampler.batch) = (16, 16, 4);
        config.loss.class_weights = ClassWeights::Inverse;
        let [got, want] = [&short, &exact].map(|device| steps(&config, device)[0].loss);
        assert!((got - want).abs() <= 0.1 * want, "{head}: {got}, not {want}");
    }
}
