//! Training steps of a small network with BConv-Cells: what they report against the CPU, and replayed against launched.

use rand::RngExt;

use super::{Check, deviation};
use crate::Result;
use crate::config::Config;
use crate::data::{Batch, Drawn};
use crate::device::{Device, Gpu, Precision};
use crate::rng::{Purpose, stream};
use crate::train::{StepReport, Trainer};

/// Launched, recorded with both places of the latent states, then replayed twice each.
const STEPS: usize = 6;

pub(super) fn run(device: &Device, gpu: &Gpu, seed: u64, visit: &mut dyn FnMut(&Check)) -> Result<()> {
    let mut config = Config { seed, ..Config::default() };
    config.model.arch = "resnet18-ptl".into();
    (config.model.width, config.model.height, config.model.image_width) = (0.125, 32, 16);
    (config.sampler.ids, config.sampler.images) = (2, 4);
    config.gpu.graph = false;
    let mut rng = stream(seed, Purpose::Test, 3, 0);
    let mut batch = |number: usize| Batch {
        pixels: (0..8 * 32 * 16 * 3).map(|_| rng.random()).collect(),
        size: [32, 16],
        drawn: vec![Drawn::default(); 8],
        labels: (0..8).map(|i| i / 4).collect(),
        indices: (8 * number..8 * number + 8).collect(),
        mix: None,
    };
    let batches: Vec<Batch> = (0..STEPS).map(&mut batch).collect();
    let steps = |config: &Config, device: &Device| -> Result<(Vec<StepReport>, Vec<f32>)> {
        let mut trainer = Trainer::on(device.clone(), config, 4, |_, _| Ok(()))?;
        // Each with data and a rate of its own: a recording that holds on to an old one is seen.
        let step = |i: usize| trainer.step(&batches[i], batches.get(i + 1), 1e-3 / (i + 1) as f64);
        let reports = (0..STEPS).map(step).collect::<Result<_>>()?;
        Ok((reports, trainer.store.values.to_vec()))
    };
    let (launched, values) = steps(&config, device)?;
    let (want, _) = steps(&config, &Device::Cpu)?;
    let first = |reports: &[StepReport]| {
        [reports[0].cross_entropy, reports[0].triplet.unwrap_or(f64::NAN)].map(|loss| loss as f32)
    };
    // Some twenty layers in a row.
    let allowed = match gpu.precision() {
        Precision::F32 => 1e-3,
        Precision::Tf32 => 2e-2,
        Precision::Bf16 => 0.1,
    };
    let off = deviation(&first(&launched), &first(&want));
    visit(&Check { name: "training step of resnet18-ptl".into(), deviation: off, allowed });

    config.gpu.graph = true;
    let (replayed, replayed_values) = steps(&config, device)?;
    let same = replayed == launched && replayed_values.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits());
    let deviation = if same { 0.0 } else { f64::INFINITY };
    visit(&Check { name: "recorded step, bit for bit".into(), deviation, allowed: 0.0 });
    Ok(())
}
