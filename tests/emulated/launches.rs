//! How many kernels a training step launches, counted as a GPU would be given them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ptl::engine::device::{Device, DeviceKind, Emulator, Gpu, Simulated};
use ptl::engine::precision::Precision;
use ptl::train::Trainer;

use crate::training::{batch, config};

/// Returns the number of launches of each kernel in a step of MGN_PTL in bf16, with the vendor's libraries; their calls are not counted.
fn launches() -> BTreeMap<&'static str, usize> {
    let emulator = Arc::new(Emulator::new(Some(|_| Simulated::Takes)));
    let device = Device::Gpu(Gpu::new(emulator.clone(), Precision::Bf16));
    let mut config = config("mgn-ptl", DeviceKind::Emulated);
    // What a recording replays is not counted; it has the same launches.
    config.gpu.graph = false;
    let mut trainer = Trainer::on(device, &config, 4, |_, _| Ok(())).unwrap();
    let batch = batch([config.model.height, config.model.image_width]);
    // The first step brings everything to the device.
    trainer.step(&batch, None, 1e-6).unwrap();
    emulator.take_launches();
    trainer.step(&batch, None, 1e-6).unwrap();
    let mut counts = BTreeMap::new();
    emulator.take_launches().iter().for_each(|launch| *counts.entry(launch.kernel.name).or_default() += 1);
    counts
}

/// The number in docs/measurements/log.md: with fewer launches, change both.
const DOCUMENTED: usize = 682;

#[test]
fn a_step_of_mgn_ptl_launches_as_many_kernels_as_documented() {
    let counts = launches();
    assert_eq!(counts.values().sum::<usize>(), DOCUMENTED, "{counts:#?}");
    let log = std::fs::read_to_string("docs/measurements/log.md").unwrap();
    assert!(log.contains("682 kernels"), "docs/measurements/log.md has another number");
}
