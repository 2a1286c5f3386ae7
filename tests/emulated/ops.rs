//! Each op's cases on the emulated GPU against the CPU: output, gradients, latent states and running statistics.

use half::bf16;
use ptl::device::{Device, Precision};
use ptl::graph::Mode;
use ptl::op::{CaseRun, OpCase, cases};

use crate::emulated;

/// Everything that a case computes, by name. Inputs are numbers that bf16 has: the same example wins a maximum everywhere.
fn results(device: &Device, case: &OpCase, mode: Mode) -> Vec<(String, Vec<f32>)> {
    let mut run = CaseRun::on(device, case, mode).poisoned();
    let inputs = run.input_values.iter_mut().chain([&mut run.cotangent]);
    inputs.flatten().for_each(|value| *value = bf16::from_f32(*value).to_f32());
    let mut all = vec![("output".to_string(), run.forward().unwrap().to_vec())];
    if mode != Mode::Eval {
        run.store.grads.fill(f32::NAN);
        run.backward().unwrap();
        for (i, &var) in run.inputs.iter().enumerate() {
            all.push((format!("gradient of input {i}"), run.session.grad(var).unwrap().to_vec()));
        }
        for (i, &id) in run.params.iter().enumerate() {
            all.push((format!("gradient of parameter {i}"), run.store.grad(id).to_vec()));
        }
    }
    let states = run.states().into_iter().enumerate().map(|(i, state)| (format!("state {i}"), state));
    let buffers = run.store.buffers.iter().map(|buffer| (buffer.name.clone(), buffer.values.to_vec()));
    all.extend(states.chain(buffers).collect::<Vec<_>>());
    all
}

/// The largest deviation, relative to the largest value.
fn deviation(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    let differences = got.iter().zip(want).map(|(g, w)| if (g - w).is_nan() { f32::INFINITY } else { (g - w).abs() });
    differences.fold(0.0, f32::max) / scale
}

/// Summation order in f32; rounding of factors to 11 and 8 significant bits, and of stored activations, a few times in a row.
fn bound(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 2e-5,
        Precision::Tf32 => 4e-3,
        Precision::Bf16 => 3e-2,
    }
}

#[test]
fn every_op_gives_what_it_gives_on_the_cpu() {
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        let Some(device) = emulated(precision) else { return };
        for mode in [Mode::Train, Mode::EvalGrad, Mode::Eval] {
            for case in cases() {
                let want = results(&Device::Cpu, &case, mode);
                let got = results(&device, &case, mode);
                assert_eq!(got.len(), want.len());
                for ((name, got), (_, want)) in got.iter().zip(&want) {
                    let found = deviation(got, want);
                    assert!(
                        found <= bound(precision),
                        "{} ({mode:?}, {precision}): {name} is off by {found:e} of its largest value",
                        case.name
                    );
                }
            }
        }
    }
}

#[test]
fn the_order_of_threads_changes_no_bit() {
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        // The emulator draws another order for every launch.
        let Some(device) = emulated(precision) else { return };
        for case in cases() {
            let [first, second] = [(); 2].map(|()| results(&device, &case, Mode::Train));
            for ((name, first), (_, second)) in first.iter().zip(&second) {
                let same = first.iter().map(|v| v.to_bits()).eq(second.iter().map(|v| v.to_bits()));
                assert!(same, "{} in {precision}: {name}", case.name);
            }
        }
    }
}
