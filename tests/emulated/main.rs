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
#[cfg(ptl_emulator)]
mod launches;
mod losses;
mod ops;
mod ranking;
mod training;
#[cfg(ptl_emulator)]
mod vendor;

use ptl::engine::device::{Device, DeviceKind, DeviceOptions, VendorUse};
use ptl::engine::precision::Precision;

/// Whether emulated libraries run convolutions, which they do by default where they need no more launches, or the crate's own kernels do.
const WITH_AND_WITHOUT_VENDOR: [VendorUse; 2] = [VendorUse::Auto, VendorUse::Never];

/// Returns the emulated GPU as it is by default, or `None` in a build without a C++ compiler.
fn emulated(precision: Precision) -> Option<Device> {
    emulated_with(precision, VendorUse::Auto)
}

/// Returns the emulated GPU with or without its libraries, or `None` in a build without a C++ compiler. Says then that a test was skipped,
/// on the stream itself: the harness swallows what a test that passes prints.
fn emulated_with(precision: Precision, vendor: VendorUse) -> Option<Device> {
    match Device::open(&DeviceOptions { kind: DeviceKind::Emulated, precision, vendor, local_rank: 0 }) {
        Ok(device) => Some(device),
        Err(error) => {
            common::say(&format!("SKIPPED: {error}"));
            None
        }
    }
}

/// Stands for the modules that a build without a C++ compiler leaves out.
#[cfg(not(ptl_emulator))]
#[test]
fn bytes_and_faults_need_the_emulator() {
    assert!(emulated(Precision::F32).is_none());
}
