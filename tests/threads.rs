//! The same bits for any number of threads: every op at the size it has in a ResNet-50.

use ptl::engine::device::{Cpu, Device};
use ptl::engine::graph::Mode;
use ptl::engine::op::{OpCase, bench_cases};
use ptl::engine::precision::Precision;
use ptl::engine::session::CaseRun;

/// Output and all gradients of a case, as bits, computed on `threads` threads.
fn bits(device: &Device, case: &OpCase, threads: usize) -> Vec<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut run = CaseRun::on(device, case, Mode::Train, 7);
        let output = run.forward().unwrap().to_vec();
        run.backward().unwrap();
        let inputs = run.inputs.iter().map(|&var| run.session.grad(var).unwrap().to_vec());
        let params = run.params.iter().map(|&id| run.store.grad(id).to_vec());
        let all = std::iter::once(output).chain(inputs).chain(params);
        all.map(|values| values.into_iter().map(f32::to_bits).collect()).collect()
    })
}

#[test]
fn every_op_gives_the_same_bits_on_any_number_of_threads() {
    // Only some processors have bf16.
    for cpu in [Precision::F32, Precision::Bf16].into_iter().filter_map(|precision| Cpu::new(precision).ok()) {
        let (precision, device) = (cpu.precision(), Device::Cpu(cpu));
        for case in bench_cases() {
            let one = bits(&device, &case, 1);
            for threads in [2, 5] {
                assert!(bits(&device, &case, threads) == one, "{} in {precision} on {threads} threads", case.name);
            }
        }
    }
}
