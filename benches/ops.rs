//! Each op at the size it has in a ResNet-50 on 256x128 images, batch 16: forward, and forward with backward.
//!
//! Criterion prints elements per second; elements are floating-point operations where the op has many (read GFLOP/s for
//! Gelem/s), and bytes of inputs and output otherwise.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use ptl::graph::{Graph, Mode};
use ptl::latent_state::{LatentStates, StateInit};
use ptl::op::{OpCase, bench_cases};
use ptl::rng::{Purpose, stream};
use ptl::session::Session;
use ptl::shape::Shape;
use ptl::store::{Group, Store};
use rand::RngExt;

fn uniform(len: usize) -> Vec<f32> {
    let mut rng = stream(0, Purpose::Test, 0, len as u64);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn bench_case(criterion: &mut Criterion, case: &OpCase) {
    let mut store = Store::new();
    let params: Vec<_> = (case.params.iter().enumerate())
        .map(|(i, (shape, layout))| {
            let id = store.add_param(format!("param{i}"), shape, *layout, Group::Head);
            let values = uniform(shape.iter().product());
            store.value_mut(id).copy_from_slice(&values);
            id
        })
        .collect();
    let mut graph = Graph::new(Mode::Train);
    let inputs: Vec<_> = case.inputs.iter().map(|shape| graph.input_with_grad(*shape)).collect();
    let labels = (!case.labels.is_empty()).then(|| graph.input(Shape::vectors(case.labels.len(), 1)));
    let output = (case.build)(&mut graph, &mut store, &inputs, &params, labels).expect("the case records");
    graph.root(output);
    let flops = graph.flops();
    let out_len = graph.shape(output).len();
    let bytes = 4 * (case.inputs.iter().map(Shape::len).sum::<usize>() + out_len) as u64;
    let mut session = Session::new(graph, &store);
    for (var, shape) in inputs.iter().zip(&case.inputs) {
        session.set(*var, &uniform(shape.len()));
    }
    if let Some(labels) = labels {
        session.set(labels, bytemuck::cast_slice(&case.labels));
    }
    let mut states = LatentStates::new(StateInit::Zeros, 0);
    let cotangent = uniform(out_len);

    let mut group = criterion.benchmark_group(case.name);
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800));
    let throughput =
        |passes: u64| if flops > 0 { Throughput::Elements(passes * flops) } else { Throughput::Bytes(bytes) };
    group.throughput(throughput(1));
    group.bench_function("forward", |b| b.iter(|| session.forward(black_box(&mut store), &mut states)));
    group.throughput(throughput(3));
    group.bench_function("forward+backward", |b| {
        b.iter(|| {
            session.forward(black_box(&mut store), &mut states);
            session.set_grad(output, &cotangent);
            session.backward(black_box(&mut store), &states);
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
