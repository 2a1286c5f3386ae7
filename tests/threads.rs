//! The same bits for any number of threads: every op at the size it has in a ResNet-50.

use ptl::engine::graph::Mode;
use ptl::engine::op::{OpCase, bench_cases};
use ptl::engine::session::CaseRun;

/// Output and all gradients of a case, as bits, computed on `threads` threads.
fn bits(case: &OpCase, threads: usize) -> Vec<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut run = CaseRun::new(case, Mode::Train);
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
    for case in bench_cases() {
        let one = bits(&case, 1);
        for threads in [2, 5] {
            assert!(bits(&case, threads) == one, "{} on {threads} threads", case.name);
        }
    }
}
