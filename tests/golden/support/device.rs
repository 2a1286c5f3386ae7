//! The devices that golden data are checked on, and how far each may be off.

use ptl::engine::device::{Device, DeviceKind, DeviceOptions, Gpu, VendorUse};
use ptl::engine::precision::Precision;

use super::Checker;
use crate::common::say;

/// A device with a bound on its deviations, relative to the largest value of a tensor.
pub struct Variant {
    pub device: Device,
    pub name: String,
    /// Deviation that rounding alone may cause; 0 where a test's own tolerance holds.
    pub floor: f64,
}

impl Variant {
    pub fn precision(&self) -> Precision {
        self.device.gpu().map_or(Precision::F32, Gpu::precision)
    }

    /// Returns a checker whose tolerances are at least the deviation that the variant's rounding may cause.
    pub fn checker(&self, context: &str) -> Checker {
        Checker::new(format!("{context} on {}", self.name)).at_least(self.floor)
    }
}

/// Returns the CPU, and the emulated GPU in f32.
pub fn exact() -> Vec<Variant> {
    let cpu = Variant { device: Device::cpu(), name: "the CPU".into(), floor: 0.0 };
    std::iter::once(cpu).chain(emulated(Precision::F32, 0.0, &BOTH)).collect()
}

/// Returns the variants of [`exact`], and the emulated GPU in the shorter formats.
///
/// A tf32 product rounds both factors to 10 bits after the point (relative error up to 2^-11 each), a bf16 one to 7 (2^-8 each), and
/// bf16 activations are rounded once more wherever they are stored. The errors of the terms of a sum add up like a random walk, and so
/// do the terms themselves. So the error of a product, relative to the largest result, stays near that of one factor. A chain of a few
/// layers, batch normalisation's division by a spread, or saturated gates multiply it by a small factor, for which 8 is allowed.
pub fn all_precisions() -> Vec<Variant> {
    let rounding = |bits: i32| 8.0 * 2f64.powi(-bits);
    exact()
        .into_iter()
        .chain(emulated(Precision::Tf32, rounding(11), &BOTH))
        .chain(emulated(Precision::Bf16, rounding(8), &BOTH))
        .collect()
}

/// Returns the CPU, and the emulated GPU as it is by default in each precision, for tests that have tolerances for each.
pub fn by_default() -> Vec<Variant> {
    let cpu = Variant { device: Device::cpu(), name: "the CPU".into(), floor: 0.0 };
    let precisions = [Precision::F32, Precision::Tf32, Precision::Bf16];
    let gpus = precisions.into_iter().flat_map(|precision| emulated(precision, 0.0, &[VendorUse::Auto]));
    std::iter::once(cpu).chain(gpus).collect()
}

/// With and without the vendor's libraries.
const BOTH: [VendorUse; 2] = [VendorUse::Always, VendorUse::Never];

/// Returns the emulated GPU with each use of the vendor's libraries, or nothing in a build without a C++ compiler.
fn emulated(precision: Precision, floor: f64, uses: &[VendorUse]) -> Vec<Variant> {
    let open = |&vendor: &VendorUse| {
        let options = DeviceOptions { kind: DeviceKind::Emulated, precision, vendor, local_rank: 0 };
        Device::open(&options).map(|device| Variant { name: device.to_string(), device, floor })
    };
    uses.iter().map(open).collect::<Result<_, _>>().unwrap_or_else(|error| {
        say(&format!("SKIPPED on the emulated GPU: {error}"));
        Vec::new()
    })
}
