//! Measures each op at its size in a ResNet-50 on 256x128 images, batch 16 (pooling: 64): forward and backward, each by itself; and the
//! other loops of a step that move much memory: the optimisers, and the gates of a cell in backward.
//!
//! Criterion prints elements per second; elements are floating-point operations where the op has many (read GFLOP/s for
//! Gelem/s), and bytes otherwise. The table at the end compares the bytes that must be moved at least with a copy of as many bytes in the
//! same run.

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use ptl::base::report::Table;
use ptl::engine::cpu::{cell, par};
use ptl::engine::graph::Mode;
use ptl::engine::op::{OpCase, bench_cases};
use ptl::engine::optim::{Optimizer, Segment, UpdateRule, global_norm};
use ptl::engine::session::{CaseRun, Part};
use support::{measure, measure_prepared, uniform};

/// Parameters that the optimisers update, as many as a ResNet-50 has.
const PARAMETERS: usize = 25_000_000;

/// What was measured.
struct Row {
    what: String,
    pass: &'static str,
    time: Duration,
    /// Bytes that must be read or written at least, and operations.
    bytes: u64,
    flops: u64,
    /// Time of a copy of as many bytes, half of them read and half written.
    copy: Duration,
}

impl Row {
    fn new(what: &str, pass: &'static str, time: Duration, [bytes, flops]: [u64; 2]) -> Row {
        Row { what: what.into(), pass, time, bytes, flops, copy: copy(bytes) }
    }
}

/// Returns the median time of a copy by all threads in which `bytes` are read or written.
fn copy(bytes: u64) -> Duration {
    let len = (bytes as usize / 8).max(1);
    let (from, mut to) = (vec![1.0; len], vec![0.0; len]);
    let mut times: Vec<Duration> = (0..11)
        .map(|_| {
            let start = Instant::now();
            par::put(black_box(&mut to), black_box(&from), false);
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// Returns what criterion divides by the time: operations where there are many, else bytes.
fn throughput([bytes, flops]: [u64; 2]) -> Throughput {
    if flops > 0 { Throughput::Elements(flops) } else { Throughput::Bytes(bytes) }
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800));
    group
}

/// Measures forward and backward of an op.
fn op(criterion: &mut Criterion, case: &OpCase, rows: &mut Vec<Row>) {
    let mut run = CaseRun::new(case, Mode::Train);
    run.forward().expect("the CPU");
    let mut group = group(criterion, case.name);
    for (pass, forward) in [("forward", true), ("backward", false)] {
        let work = run.session.work(&run.store);
        let work: Vec<_> = work.iter().filter(|work| (work.part == Part::Forward) == forward).collect();
        let amount = [work.iter().map(|work| work.bytes).sum(), work.iter().map(|work| work.flops).sum()];
        let id = BenchmarkId::from_parameter(pass);
        let time = match forward {
            true => measure(&mut group, id, throughput(amount), || run.forward_again().expect("the CPU")),
            // Backward may overwrite what forward saved, and shares memory with it.
            false => measure_prepared(
                &mut group,
                id,
                throughput(amount),
                &mut run,
                |run| {
                    run.forward_again().expect("the CPU");
                    run.session.set_grad(run.output, &run.cotangent).expect("the CPU");
                },
                |run| run.backward_again().expect("the CPU"),
            ),
        };
        rows.push(Row::new(case.name, pass, time, amount));
    }
    group.finish();
}

/// Measures a step of two optimisers, and the norm of the gradient.
fn optimisers(criterion: &mut Criterion, rows: &mut Vec<Row>) {
    let mut group = group(criterion, "optimiser");
    let (mut values, grads) = (uniform(PARAMETERS), uniform(PARAMETERS));
    let segments = [Segment { range: 0..PARAMETERS, lr: 1e-4, weight_decay: 5e-4 }];
    let rules = [
        ("adam amsgrad", UpdateRule::Adam { betas: [0.9, 0.999], eps: 1e-8, amsgrad: true }),
        ("sgd momentum", UpdateRule::Sgd { momentum: 0.9, nesterov: false }),
    ];
    for (name, rule) in rules {
        let mut optimizer = Optimizer::new(&rule, PARAMETERS).expect("a rule that works");
        // Reads the gradient; reads and writes the parameters and the moments.
        let amount = [4 * (PARAMETERS * (3 + 2 * optimizer.state().count())) as u64, 0];
        let id = BenchmarkId::from_parameter(name);
        let time = measure(&mut group, id, throughput(amount), || optimizer.step(&mut values, &grads, &segments));
        rows.push(Row::new(name, "update", time, amount));
    }
    let amount = [4 * PARAMETERS as u64, 0];
    let id = BenchmarkId::from_parameter("norm");
    let time = measure(&mut group, id, throughput(amount), || {
        black_box(global_norm(&grads, &segments));
    });
    rows.push(Row::new("gradient norm", "update", time, amount));
    group.finish();
}

/// Measures how the gates of a cell become the gradients of their pre-activations, at the size of the cell beside the first stage.
fn gates(criterion: &mut Criterion, rows: &mut Vec<Row>) {
    const CHANNELS: usize = 64;
    let mut group = group(criterion, "cell");
    let len = 16 * 64 * 32 * CHANNELS;
    let (activated, previous, grad) = (uniform(4 * len), uniform(len), uniform(len));
    let mut gates = activated.clone();
    // Reads and writes four gates; reads the state and the gradient.
    let amount = [4 * (len * (2 * 4 + 2)) as u64, 0];
    let time = measure_prepared(
        &mut group,
        BenchmarkId::from_parameter("gates"),
        throughput(amount),
        &mut gates,
        |gates| gates.copy_from_slice(&activated),
        |gates| cell::gate_gradients(CHANNELS, gates, &previous, &grad, None),
    );
    rows.push(Row::new("gates of bconv_cell 64-64", "backward", time, amount));
    group.finish();
}

fn ops(criterion: &mut Criterion) {
    let mut rows = Vec::new();
    for case in bench_cases() {
        op(criterion, &case, &mut rows);
    }
    gates(criterion, &mut rows);
    optimisers(criterion, &mut rows);

    let mut table = Table::new(["op", "pass", "ms", "GB/s", "of a copy", "GFLOP/s"]);
    // What a filter of criterion leaves out takes no time.
    for row in rows.iter().filter(|row| !row.time.is_zero()) {
        let seconds = row.time.as_secs_f64();
        table.row([
            row.what.clone(),
            row.pass.into(),
            format!("{:.3}", 1e3 * seconds),
            format!("{:.1}", row.bytes as f64 / seconds / 1e9),
            format!("{:.0} %", 100.0 * row.copy.as_secs_f64() / seconds),
            if row.flops > 0 { format!("{:.0}", row.flops as f64 / seconds / 1e9) } else { String::new() },
        ]);
    }
    println!(
        "{} threads; GB/s: bytes that are read or written at least, each once; docs/profiling.md says when more than a copy is possible\n{table}",
        rayon::current_num_threads()
    );
}

criterion_group!(benches, ops);
criterion_main!(benches);
