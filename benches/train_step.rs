//! Measures a training step (forward, backward, optimiser) of ResNet-50 with and without BConv-Cells on 16 images of 256x128.
//!
//! Criterion prints images per second (elem/s); the lines at the end add GFLOP/s.

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use ptl::config::Config;
use ptl::train::Trainer;
use support::CLASSES;

fn train_step(criterion: &mut Criterion) {
    let mut lines = Vec::new();
    let mut group = criterion.benchmark_group("train step 256x128x16");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(10));
    for arch in ["resnet50", "resnet50-ptl"] {
        let mut config = Config::default();
        config.model.arch = arch.into();
        let mut trainer =
            Trainer::new(&config, CLASSES, |_, _| Ok(())).expect("the default configuration is a network");
        let batch = support::batch(&config);
        let count = batch.labels.len();
        let mut best = Duration::MAX;
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(arch, |bencher| {
            bencher.iter_custom(|iterations| {
                let start = Instant::now();
                for _ in 0..iterations {
                    trainer.step(&batch, None, 1e-4).expect("a finite loss");
                }
                let elapsed = start.elapsed();
                best = best.min(elapsed / iterations.max(1) as u32);
                elapsed
            });
        });
        let (flops, seconds) = (3 * trainer.forward_flops(), best.as_secs_f64());
        lines.push(format!(
            "{arch}: best step {:.3} s, {:.1} images/s, {:.0} GFLOP/s, arena {} MiB, {} threads",
            seconds,
            count as f64 / seconds,
            flops as f64 / 1e9 / seconds,
            trainer.arena_bytes() >> 20,
            rayon::current_num_threads(),
        ));
    }
    group.finish();
    lines.iter().for_each(|line| println!("{line}"));
}

criterion_group!(benches, train_step);
criterion_main!(benches);
