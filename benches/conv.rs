//! Measures the convolutions of ResNet-50 (256x128 images, batch 16): forward pass and both gradients of each layer, compared with this
//! machine's rate for large matrix products (the crate `gemm`) in the same run.
//!
//! Criterion prints floating-point operations per second (read GFLOP/s for Gelem/s); the table at the end lists every layer
//! and sums them.

mod support;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use ptl::base::report::Table;
use ptl::engine::cpu::conv;
use ptl::engine::precision::Precision;
use support::{Layer, large_gemm, measure, resnet50_layers, uniform};

const BATCH: usize = 16;

/// Measures the median times of the forward pass, the gradient of the input and that of the weight. Images need no gradient.
fn layer(group: &mut BenchmarkGroup<'_, WallTime>, layer: &Layer) -> [Option<Duration>; 3] {
    let g = &layer.geometry;
    let flops = Throughput::Elements(g.flops());
    let len = |sizes: [usize; 4]| sizes.iter().product::<usize>();
    let [.., inputs] = g.input();
    let (mut x, weight) = (uniform(len(g.input())), uniform(g.k() * g.output()[3]));
    let mut y = uniform(len(g.output()));
    let id = |pass: &str| BenchmarkId::new(layer.name.as_str(), pass);
    let mut workspace = vec![0.0; conv::forward_workspace(g)];
    let forward = measure(group, id("forward"), flops.clone(), || {
        conv::conv2d_forward(Precision::F32, g, &x, &weight, None, &mut y, conv::Packed::empty(&mut workspace));
    });
    let mut grad_weight = vec![0.0; weight.len()];
    let mut workspace = vec![0.0; conv::backward_weight_workspace(g)];
    let backward_weight = measure(group, id("backward weight"), flops.clone(), || {
        conv::conv2d_backward_weight(Precision::F32, g, &x, &y, &mut grad_weight, false, &mut workspace);
    });
    let mut workspace = vec![0.0; conv::backward_data_workspace(g)];
    let backward_data = (inputs > 3).then(|| {
        measure(group, id("backward data"), flops.clone(), || {
            conv::conv2d_backward_data(Precision::F32, g, &y, &weight, &mut x, false, &mut workspace);
        })
    });
    [Some(forward), backward_data, Some(backward_weight)]
}

fn convolutions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("conv");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    let gemm = large_gemm(&mut group);

    let layers = resnet50_layers(BATCH);
    let mut table = Table::new(["layer", "in", "out", "kernel", "stride", "count", "forward", "data", "weight"]);
    let mut totals = [(0.0, 0.0); 3];
    for entry in &layers {
        let times = layer(&mut group, entry);
        let (g, count) = (&entry.geometry, entry.count);
        let gflop = g.flops() as f64 / 1e9;
        for ((flops, seconds), time) in totals.iter_mut().zip(times) {
            if let Some(time) = time {
                *flops += count as f64 * gflop;
                *seconds += count as f64 * time.as_secs_f64();
            }
        }
        let map = |[_, h, w, c]: [usize; 4]| format!("{h}x{w}x{c}");
        let rates = times.map(|time| time.map_or("-".into(), |time| format!("{:.0}", gflop / time.as_secs_f64())));
        let cells = [
            entry.name.clone(),
            map(g.input()),
            map(g.output()),
            format!("{}x{}", g.kernel()[0], g.kernel()[1]),
            g.stride()[0].to_string(),
            count.to_string(),
        ];
        table.row(cells.into_iter().chain(rates));
    }
    group.finish();
    println!("ResNet-50, {BATCH} images of 256x128, {} threads, GFLOP/s:\n{table}", rayon::current_num_threads());
    println!("large product of the crate gemm: {:.0} GFLOP/s", gemm / 1e9);
    let all = totals.iter().fold((0.0, 0.0), |sum, total| (sum.0 + total.0, sum.1 + total.1));
    let passes = ["forward", "gradient of the input", "gradient of the weight", "all three"];
    for (pass, (gflop, seconds)) in passes.iter().zip(totals.into_iter().chain([all])) {
        println!("{pass}: {:.0} GFLOP/s, {:.0} % of it", gflop / seconds, 100e9 * gflop / seconds / gemm);
    }
}

criterion_group!(benches, convolutions);
criterion_main!(benches);
