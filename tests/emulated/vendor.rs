//! What happens when the vendor's libraries are missing or refuse a convolution: the crate's own kernels compute it.

use std::sync::Arc;

use ptl::Error;
use ptl::app::selftest;
use ptl::engine::device::{Backend, Call, Device, Emulator, Gpu, Pass, Simulated, VendorUse};
use ptl::engine::geometry::Conv2dGeometry;
use ptl::engine::graph::Mode;
use ptl::engine::op::cases;
use ptl::engine::precision::Precision;
use ptl::engine::session::CaseRun;

/// An emulated GPU whose libraries answer as `simulated` says; `None` has no libraries.
fn device(precision: Precision, vendor: VendorUse, simulated: Option<fn(&Call) -> Simulated>) -> Device {
    Device::Gpu(Gpu::new(Arc::new(Emulator::new(simulated)), precision).with_vendor(vendor))
}

fn refusals(device: &Device) -> Vec<String> {
    device.gpu().unwrap().vendor().unwrap().take_refusals()
}

/// The bits of the output and of all gradients of every case.
fn results(device: &Device) -> Vec<Vec<u32>> {
    let run = |case| {
        let mut run = CaseRun::on(device, case, Mode::Train, 7).poisoned();
        let mut all = run.forward().unwrap().to_vec();
        run.backward().unwrap();
        run.inputs.iter().for_each(|&var| all.extend_from_slice(&run.session.grad(var).unwrap()));
        all.extend_from_slice(&run.store.grads);
        all.iter().map(|v| v.to_bits()).collect()
    };
    cases().iter().map(run).collect()
}

#[test]
fn what_libraries_refuse_our_kernels_compute_to_the_bit() {
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        let own = results(&device(precision, VendorUse::Auto, None));
        for vendor in [VendorUse::Auto, VendorUse::Always] {
            let takes = device(precision, vendor, Some(|_| Simulated::Takes));
            assert_ne!(results(&takes), own, "{precision}: the libraries were not called");
        }
        let answers: [(fn(&Call) -> Simulated, &str); 3] = [
            (|_| Simulated::RefusesPlan, "(simulated: no algorithm): ptl's own kernel does"),
            (|_| Simulated::RefusesRun, "(simulated: refused when called): ptl's own kernel does"),
            (|_| Simulated::Missing, ""),
        ];
        // `Auto` learns that a call is refused when it measures it, `Always` in the step itself.
        let both =
            answers.into_iter().flat_map(|answer| [VendorUse::Auto, VendorUse::Always].map(|vendor| (answer, vendor)));
        for ((simulated, reason), vendor) in both {
            let device = device(precision, vendor, Some(simulated));
            assert!(results(&device) == own, "{precision}: {reason}");
            let told = refusals(&device);
            assert_eq!(
                told.is_empty(),
                reason.is_empty(),
                "what is missing is said with the device, not for each convolution"
            );
            assert!(told.iter().all(|text| text.ends_with(reason)), "{told:#?}");
            let mut different = told.clone();
            different.sort();
            different.dedup();
            assert_eq!(different.len(), told.len(), "each one is told once");
            results(&device);
            assert!(refusals(&device).is_empty(), "each one is told once");
        }
    }
}

/// A library takes some passes of some convolutions, and changes its mind about others; a step is recorded and replayed nevertheless.
#[test]
fn a_training_step_survives_every_kind_of_refusal() {
    fn mixed(call: &Call) -> Simulated {
        match (call.geometry.kernel(), call.pass) {
            ([1, 1], Pass::BackwardData) => Simulated::RefusesRun,
            ([1, 1], _) => Simulated::Takes,
            ([3, 3], Pass::Forward) => Simulated::RefusesRun,
            ([3, 3], Pass::BackwardWeight) => Simulated::RefusesPlan,
            _ => Simulated::Takes,
        }
    }
    let device = device(Precision::Bf16, VendorUse::Always, Some(mixed));
    let mut checks = Vec::new();
    selftest::run(&device, 3, false, &mut |check| checks.push(check.clone())).unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let told = refusals(&device);
    for part in [
        "cuBLASLt does not compute the gradient of the input",
        "cuDNN does not compute the output",
        "the gradient of the weight of a 3x3",
    ] {
        assert!(told.iter().any(|text| text.contains(part)), "{part}: {told:#?}");
    }
}

#[test]
fn a_library_cannot_be_asked_for_the_first_time_in_a_recording() {
    let emulator = Emulator::new(Some(|_| Simulated::Takes));
    let geometry = Conv2dGeometry::new(1, [4, 4], 8, 8, [3, 3], [1, 1], [1, 1]).unwrap();
    let call = Call { geometry, precision: Precision::F32, pass: Pass::Forward };
    let vendor = emulator.vendor().unwrap();
    let mut ask = || vendor.workspace(call).map(drop);
    let Err(Error::Device { action, .. }) = emulator.record(&mut ask) else { panic!("it was asked") };
    assert_eq!(action, "choosing an algorithm");
    ask().unwrap();
    // The answer is known now.
    emulator.record(&mut ask).unwrap();
}

/// The emulated libraries find addresses that real ones would only crash with.
#[test]
fn libraries_check_the_memory_that_they_are_given() {
    let emulator = Emulator::new(Some(|_| Simulated::Takes));
    let geometry = Conv2dGeometry::new(1, [4, 4], 8, 8, [3, 3], [1, 1], [1, 1]).unwrap();
    let call = Call { geometry, precision: Precision::F32, pass: Pass::BackwardData };
    let vendor = emulator.vendor().unwrap();
    let (image, weight) = (4 * 4 * 8 * 4, 9 * 8 * 8 * 4);
    let workspace = vendor.workspace(call).unwrap().unwrap();
    let [dx, dy, w, scratch, short] =
        [image, image, weight, workspace, 64].map(|bytes| emulator.allocate(bytes).unwrap());
    // SAFETY: the emulated libraries check every range before they touch it.
    let run = |operands, scratch| unsafe { vendor.run(call, operands, false, scratch) };
    assert!(run([dx, w, dy], scratch).unwrap());
    for (operands, scratch, part) in [
        ([dx, w, short], scratch, "ends outside of the allocation of 64 bytes"),
        ([dx, w, 64], scratch, "is not allocated"),
        ([dy, w, dy], scratch, "the result overlaps an operand"),
        ([dx, w, dy], short, "the workspace: "),
        ([dx, w, dy], dx, "the workspace: "),
    ] {
        let error = run(operands, scratch).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
    [dx, dy, w, scratch, short].into_iter().for_each(|address| emulator.release(address));
}
