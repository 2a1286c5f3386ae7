//! Compares the results of a GPU with those of the CPU, on random numbers.

mod images;
mod ops;
mod optim;
mod ranking;
mod step;

use crate::Result;
use crate::base::error::Error;
use crate::engine::device::{Device, Gpu};
use crate::engine::precision::Precision;

/// The result of one comparison.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was compared.
    pub name: String,
    /// The largest difference, relative to the largest value of its tensor; infinite for a NaN.
    pub deviation: f64,
    /// Largest deviation that rounding can explain.
    pub allowed: f64,
}

impl Check {
    /// Returns whether the deviation is allowed.
    pub fn passed(&self) -> bool {
        self.deviation <= self.allowed
    }
}

/// Runs all checks of `device` on random numbers from `seed`, and passes each result to `visit`. With `full`, also checks the ops at their
/// sizes in a ResNet-50.
///
/// # Errors
/// The device is no GPU, or it fails.
pub fn run(device: &Device, seed: u64, full: bool, visit: &mut dyn FnMut(&Check)) -> Result<()> {
    let Some(gpu) = device.gpu() else {
        let reason = "the CPU is the reference of the comparison: choose --device cuda or emulated".into();
        return Err(Error::Setting { setting: "device".into(), value: device.to_string(), reason });
    };
    ops::run(device, gpu, seed, full, visit)?;
    optim::run(gpu, seed, visit)?;
    images::run(device, gpu, seed, visit)?;
    ranking::run(device, seed, visit)?;
    step::run(device, gpu, seed, visit)
}

/// Returns the largest difference, relative to the largest value of `want`.
pub(crate) fn deviation(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let scale = want.iter().fold(1e-3f64, |m, v| m.max(f64::from(v.abs())));
    let difference = |(got, want): (&f32, &f32)| {
        let difference = (f64::from(*got) - f64::from(*want)).abs();
        if difference.is_nan() { f64::INFINITY } else { difference }
    };
    got.iter().zip(want).map(difference).fold(0.0, f64::max) / scale
}

/// Returns the deviation that rounding may cause in one op. In f32, only the order of sums differs; tf32 and bf16 round factors to 11
/// and 8 significant bits, and bf16 also rounds stored values, a few times in a row.
fn rounding(gpu: &Gpu) -> f64 {
    match gpu.precision() {
        Precision::F32 => 2e-5,
        Precision::Tf32 => 4e-3,
        Precision::Bf16 => 3e-2,
    }
}
