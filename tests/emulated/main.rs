//! The CUDA path on every machine: the kernels run by the emulator, behind the same plan, arena and launches as on a GPU.

#[cfg(ptl_emulator)]
mod bytes;
#[cfg(ptl_emulator)]
mod cells;
mod classify;
#[path = "../common/mod.rs"]
mod common;
mod exact;
#[cfg(ptl_emulator)]
mod faults;
mod ops;
mod ranking;
mod training;

use ptl::engine::device::{Device, DeviceKind, DeviceOptions, Precision};

/// The emulated GPU, or `None` (and a note) in a build without a C++ compiler.
fn emulated(precision: Precision) -> Option<Device> {
    match Device::open(&DeviceOptions { kind: DeviceKind::Emulated, precision, vendor: false }) {
        Ok(device) => Some(device),
        Err(error) => {
            common::say(&format!("SKIPPED: {error}"));
            None
        }
    }
}
