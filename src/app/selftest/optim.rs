//! Checks the update rules over segments, with clipping: parameters and state after three steps, and the norm.

use rand::RngExt;

use super::{Check, deviation};
use crate::Result;
use crate::base::rng::{Purpose, stream};
use crate::engine::device::{Gpu, Mirrored};
use crate::engine::optim::{Optimizer, Segment, UpdateRule, clip_grad_norm};

const LEN: usize = 20_011;
const MAX_NORM: f32 = 5.0;

pub(super) fn run(gpu: &Gpu, seed: u64, visit: &mut dyn FnMut(&Check)) -> Result<()> {
    let betas = [0.9, 0.999];
    let rules = [
        ("adam", UpdateRule::Adam { betas, eps: 1e-8, amsgrad: false }),
        ("adam amsgrad", UpdateRule::Adam { betas, eps: 1e-8, amsgrad: true }),
        ("adamw amsgrad", UpdateRule::AdamW { betas, eps: 1e-8, amsgrad: true }),
        ("sgd", UpdateRule::Sgd { momentum: 0.0, nesterov: false }),
        ("sgd momentum", UpdateRule::Sgd { momentum: 0.9, nesterov: false }),
        ("sgd nesterov", UpdateRule::Sgd { momentum: 0.9, nesterov: true }),
    ];
    for (name, config) in rules {
        // Single precision, with a few operations for each element.
        visit(&Check { name: format!("optimiser {name}"), deviation: rule(gpu, &config, seed)?, allowed: 1e-5 });
    }
    Ok(())
}

/// Returns the largest deviation of a rule.
fn rule(gpu: &Gpu, config: &UpdateRule, seed: u64) -> Result<f64> {
    // Some parameters are in no segment, and rates differ.
    let segments = [(3..700, 1e-2, 0.0), (700..9_000, 1e-3, 5e-4), (12_345..LEN, 1e-2, 1e-2)];
    let segments = segments.map(|(range, lr, weight_decay)| Segment { range, lr, weight_decay });
    let numbers = |item: u64| -> Vec<f32> {
        let mut rng = stream(seed, Purpose::Test, 1, item);
        (0..LEN).map(|_| rng.random_range(-1.0..1.0)).collect()
    };
    let mut want = numbers(0);
    let mut got = Mirrored::from(want.clone());
    let (mut on_cpu, mut on_gpu) = (Optimizer::new(config, LEN)?, Optimizer::new(config, LEN)?);
    let mut worst = 0.0f64;
    for step in 1..=3 {
        let mut grads = numbers(step);
        let mut device_grads = Mirrored::from(grads.clone());
        let update = on_gpu.bind(gpu, &segments)?;
        on_gpu.launch(gpu, &update, got.on_device_mut(gpu)?, device_grads.on_device(gpu)?, MAX_NORM)?;
        on_gpu.count_step();
        let mut norm = [0u8; 4];
        gpu.download(&mut [(&mut norm, update.norm.address())])?;

        let expected = clip_grad_norm(&mut grads, &segments, f64::from(MAX_NORM));
        on_cpu.step(&mut want, &grads, &segments);
        worst = worst.max(deviation(&[f32::from_ne_bytes(norm)], &[expected as f32]));
    }
    on_gpu.fetch()?;
    got.fetch()?;
    let states = on_gpu.state().zip(on_cpu.state()).map(|((_, got), (_, want))| deviation(got, want));
    Ok(states.fold(worst.max(deviation(&got, &want)), f64::max))
}
