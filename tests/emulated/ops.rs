//! The self-test of the emulated GPU: each op, the update rules, images and a training step against the CPU.

use ptl::app::selftest;
use ptl::engine::device::{Device, VendorUse};
use ptl::engine::graph::Mode;
use ptl::engine::op::cases;
use ptl::engine::precision::Precision;
use ptl::engine::session::CaseRun;

use crate::{WITH_AND_WITHOUT_VENDOR, emulated_with};

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Tf32, Precision::Bf16];

#[test]
fn the_self_test_passes_in_every_precision() {
    for (precision, vendor) in PRECISIONS.into_iter().flat_map(|p| WITH_AND_WITHOUT_VENDOR.map(|vendor| (p, vendor))) {
        let Some(device) = emulated_with(precision, vendor) else { return };
        let mut checks = Vec::new();
        selftest::run(&device, 11, false, &mut |check| checks.push(check.clone())).unwrap();
        assert!(checks.len() > 3 * cases().len());
        let failed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
        assert!(failed.is_empty(), "{device}: {failed:#?}");
        // Images are prepared and mixed to the CPU's very bits, but where they are stored as bf16.
        let images: Vec<_> = checks.iter().filter(|check| check.name.starts_with("images")).collect();
        let same = images.iter().all(|check| check.deviation == 0.0);
        assert!(images.len() == 3 && (same || precision == Precision::Bf16), "{precision}: {images:#?}");
    }
}

#[test]
fn the_cpu_is_not_compared_with_itself() {
    let error = selftest::run(&Device::cpu(), 0, false, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("choose --device cuda or emulated"), "{error}");
}

#[test]
fn the_order_of_threads_changes_no_bit() {
    for precision in PRECISIONS {
        // The emulator draws another order for every launch.
        let Some(device) = emulated_with(precision, VendorUse::Never) else { return };
        for case in cases() {
            let [first, second] = [(); 2].map(|()| {
                let mut run = CaseRun::on(&device, &case, Mode::Train, 7);
                let mut all = run.forward().unwrap().to_vec();
                run.backward().unwrap();
                run.inputs.iter().for_each(|&var| all.extend_from_slice(&run.session.grad(var).unwrap()));
                all.extend_from_slice(&run.store.grads);
                all
            });
            let same = first.iter().map(|v| v.to_bits()).eq(second.iter().map(|v| v.to_bits()));
            assert!(same, "{} in {precision}", case.name);
        }
    }
}
