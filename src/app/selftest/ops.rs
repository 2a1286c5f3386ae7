//! Checks every op on its cases: output, gradients, latent states and running statistics, in memory that is full of NaN.

use half::bf16;

use super::{Check, deviation, rounding};
use crate::Result;
use crate::engine::device::{Device, Gpu, VendorUse};
use crate::engine::graph::Mode;
use crate::engine::op::{OpCase, bench_cases, cases};
use crate::engine::session::CaseRun;

pub(super) fn run(device: &Device, gpu: &Gpu, seed: u64, full: bool, visit: &mut dyn FnMut(&Check)) -> Result<()> {
    let large = if full { bench_cases() } else { Vec::new() };
    let small = cases();
    // The large cases have sums over a hundred thousand pixels.
    let allowed = |large: bool| if large { 5.0 * rounding(gpu) } else { rounding(gpu) };
    let all = small.iter().map(|case| (case, allowed(false))).chain(large.iter().map(|case| (case, allowed(true))));
    // Where libraries compute the convolution of a cell, its fused kernel is checked too: a training may choose either.
    let own = gpu.vendor().map(|_| Device::Gpu(gpu.clone().with_vendor(VendorUse::Never)));
    for (case, allowed) in all {
        let fused = own.as_ref().filter(|_| case.name.starts_with("bconv_cell")).map(|own| (own, ", fused"));
        let ways: Vec<(&Device, &str)> = std::iter::once((device, "")).chain(fused).collect();
        let modes = [Mode::Train, Mode::EvalGrad, Mode::Eval];
        for (mode, &(device, how)) in modes.into_iter().flat_map(|mode| ways.iter().map(move |way| (mode, way))) {
            let (got, want) = (results(device, case, mode, seed)?, results(&Device::cpu(), case, mode, seed)?);
            // The result with the largest deviation counts.
            let deviations = got.iter().zip(&want).map(|(got, want)| deviation(got, want));
            let deviation = deviations.fold(0.0, f64::max);
            visit(&Check { name: format!("{}{how} ({mode:?})", case.name), deviation, allowed });
        }
    }
    Ok(())
}

/// Returns everything that a case computes. The inputs are exact in bf16, so the same element is a maximum everywhere.
fn results(device: &Device, case: &OpCase, mode: Mode, seed: u64) -> Result<Vec<Vec<f32>>> {
    let mut run = CaseRun::on(device, case, mode, seed).poisoned();
    let inputs = run.input_values.iter_mut().chain([&mut run.cotangent]);
    inputs.flatten().for_each(|value| *value = bf16::from_f32(*value).to_f32());
    let mut all = vec![run.forward()?.to_vec()];
    if mode != Mode::Eval {
        run.store.grads.fill(f32::NAN);
        run.backward()?;
        run.store.grads.fetch()?;
        for &var in &run.inputs {
            all.push(run.session.grad(var)?.to_vec());
        }
        all.extend(run.params.iter().map(|&id| run.store.grad(id).to_vec()));
    }
    run.fetch()?;
    all.extend(run.states());
    all.extend(run.store.buffers.iter().map(|buffer| buffer.values.to_vec()));
    Ok(all)
}
