//! Checks training steps of small networks with BConv-Cells. Compares their reports with the CPU's, and replayed steps with launched ones.

use rand::RngExt;

use super::{Check, deviation};
use crate::Result;
use crate::base::rng::{Purpose, stream};
use crate::config::Config;
use crate::data::{AugmentParams, Batch, Mix};
use crate::engine::device::{Device, Gpu};
use crate::engine::precision::Precision;
use crate::model::StepReport;
use crate::nn::TaskKind;
use crate::train::Trainer;

/// Enough to launch a step, to record it for both places of the latent states, and to replay each recording. In groups of two batches,
/// each half is launched, recorded and replayed.
const STEPS: usize = 6;

/// Returns settings for a re-identification network, and for a classifier with mixed images, groups of batches and averaged weights.
fn configs(seed: u64) -> [Config; 2] {
    let mut reid = Config { seed, ..Config::default() };
    reid.model.arch = "resnet18-ptl".into();
    reid.model.width = 0.125;
    (reid.sampler.ids, reid.sampler.images) = (2, 4);
    // The third step sees earlier embeddings, and the fifth sees some in the place of older ones.
    (reid.loss.memory, reid.loss.memory_from) = (20, 1);
    let mut classifier = Config { seed, ..Config::recipe(TaskKind::Classify, "cifar-resnet20-ptl") };
    classifier.model.width = 0.25;
    classifier.sampler.batch = 8;
    (classifier.augment.mixup, classifier.augment.cutmix) = (0.4, 1.0);
    (classifier.train.accumulate, classifier.train.ema) = (2, 0.9);
    // The first stem divides the size by 4, the second by nothing.
    (reid.model.height, reid.model.image_width) = (32, 16);
    (classifier.model.height, classifier.model.image_width) = (16, 8);
    [reid, classifier]
}

pub(super) fn run(device: &Device, gpu: &Gpu, seed: u64, visit: &mut dyn FnMut(&Check)) -> Result<()> {
    configs(seed).into_iter().try_for_each(|config| check_network(config, device, gpu, visit))
}

/// Checks the network of `config`.
fn check_network(mut config: Config, device: &Device, gpu: &Gpu, visit: &mut dyn FnMut(&Check)) -> Result<()> {
    config.gpu.graph = false;
    let mixes = config.augment.mixup > 0.0;
    let size = [config.model.height, config.model.image_width];
    let mut rng = stream(config.seed, Purpose::Test, 3, 0);
    let mut batch = |number: usize| Batch {
        pixels: (0..8 * size[0] * size[1] * 3).map(|_| rng.random()).collect(),
        size,
        params: vec![AugmentParams::default(); 8],
        labels: (0..8).map(|i| i / 4).collect(),
        indices: (8 * number..8 * number + 8).collect(),
        mix: mixes
            .then(|| [Mix::Blend { share: 0.7 }, Mix::Paste { rectangle: [4, 2, 8, 4], share: 0.75 }][number % 2]),
    };
    let batches: Vec<Batch> = (0..STEPS).map(&mut batch).collect();
    let steps = |config: &Config, device: &Device| -> Result<(Vec<StepReport>, Vec<f32>)> {
        let mut trainer = Trainer::on(device.clone(), config, 4, |_, _| Ok(()))?;
        // Each step has its own data and rate, so a recording that keeps an old one is detected.
        let step = |i: usize| trainer.step(&batches[i], batches.get(i + 1), 1e-3 / (i + 1) as f64);
        let reports = (0..STEPS).map(step).collect::<Result<_>>()?;
        trainer.fetch()?;
        trainer.swap_average();
        Ok((reports, trainer.store.values.to_vec()))
    };
    let (launched, values) = steps(&config, device)?;
    let (want, _) = steps(&config, &Device::cpu())?;
    let first = |reports: &[StepReport]| -> Vec<f32> {
        let losses = [Some(reports[0].cross_entropy), reports[0].triplet, reports[0].center];
        losses.into_iter().flatten().map(|loss| loss as f32).collect()
    };
    // Rounding adds up over about twenty layers in a row.
    let allowed = match gpu.precision() {
        Precision::F32 => 1e-3,
        Precision::Tf32 => 2e-2,
        Precision::Bf16 => 0.1,
    };
    let loss_deviation = deviation(&first(&launched), &first(&want));
    let arch = &config.model.arch;
    visit(&Check { name: format!("training step of {arch}"), deviation: loss_deviation, allowed });
    // The norm of the first update: for the classifier, of the mean over a group of batches.
    let norm = |reports: &[StepReport]| [reports.iter().find_map(|report| report.grad_norm).unwrap_or(f64::NAN) as f32];
    let (name, norm_deviation) = (format!("gradient norm of {arch}"), deviation(&norm(&launched), &norm(&want)));
    visit(&Check { name, deviation: norm_deviation, allowed: 5.0 * allowed });

    config.gpu.graph = true;
    let (replayed, replayed_values) = steps(&config, device)?;
    let same = replayed == launched && replayed_values.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits());
    let deviation = if same { 0.0 } else { f64::INFINITY };
    visit(&Check { name: format!("recorded step of {}, bit for bit", config.model.arch), deviation, allowed: 0.0 });
    Ok(())
}
