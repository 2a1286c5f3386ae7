//! Measures each op at its size in a ResNet-50 on 256x128 images, batch 16: forward, and forward with backward.
//!
//! Criterion prints elements per second; elements are floating-point operations where the op has many (read GFLOP/s for
//! Gelem/s), and bytes of inputs and output otherwise.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use ptl::engine::graph::Mode;
use ptl::engine::op::{OpCase, bench_cases};
use ptl::engine::session::CaseRun;
use ptl::engine::shape::Shape;

fn bench_case(criterion: &mut Criterion, case: &OpCase) {
    let mut run = CaseRun::new(case, Mode::Train);
    let flops = run.session.graph().flops();
    let inputs: usize = case.inputs.iter().map(Shape::len).sum();
    let bytes = 4 * (inputs + run.cotangent.len()) as u64;

    let mut group = criterion.benchmark_group(case.name);
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800));
    let throughput =
        |passes: u64| if flops > 0 { Throughput::Elements(passes * flops) } else { Throughput::Bytes(bytes) };
    group.throughput(throughput(1));
    group.bench_function("forward", |b| {
        b.iter(|| {
            black_box(run.forward().expect("the CPU"));
        })
    });
    group.throughput(throughput(3));
    group.bench_function("forward+backward", |b| {
        b.iter(|| {
            run.forward().expect("the CPU");
            run.backward().expect("the CPU");
        })
    });
    group.finish();
}

fn ops(criterion: &mut Criterion) {
    for case in bench_cases() {
        bench_case(criterion, &case);
    }
}

criterion_group!(benches, ops);
criterion_main!(benches);
