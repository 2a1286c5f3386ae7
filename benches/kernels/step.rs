//! Measures the other parts of a step: each op, the update of the parameters, images, and whole steps.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use ptl::base::rng::{Purpose, stream};
use ptl::config::Config;
use ptl::data::{Augment, AugmentParams};
use ptl::engine::device::Mirrored;
use ptl::engine::graph::{Graph, Mode};
use ptl::engine::op::{OpCase, bench_cases, cases};
use ptl::engine::optim::{Optimizer, Segment, UpdateRule, global_norm};
use ptl::engine::precision::Precision;
use ptl::engine::session::CaseRun;
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::Store;
use ptl::nn::TaskKind;
use ptl::train::Trainer;

use crate::machine::{Machine, OWN, group};
use crate::report::Row;
use crate::support::{self, CLASSES, measure_all, uniform};

/// Measures each op at its size in a ResNet-50 on 16 images of 256x128; on the emulated GPU at the small sizes of the tests.
pub fn ops(criterion: &mut Criterion, machine: &Machine, rows: &mut Vec<Row>) {
    let mut group = group(criterion, &format!("ops {}", machine.precision()), 0.2);
    for case in if machine.tiny() { cases() } else { bench_cases() } {
        let mut run = CaseRun::on(machine.own(), &case, Mode::Train, 1);
        run.forward().expect("a device that works");
        run.backward().expect("a device that works");
        let (bytes, flops) = (bytes(&case, run.cotangent.len(), machine.precision()), run.session.graph().flops());
        for (pass, backward) in [("forward", false), ("forward+backward", true)] {
            let flops = if backward { 3 * flops } else { flops };
            let time = machine.time(machine.own(), &mut group, BenchmarkId::new(case.name, pass), flops, || {
                run.forward_again()?;
                if backward { run.backward_again() } else { Ok(()) }
            });
            let bytes = Some(bytes[usize::from(backward)]);
            rows.push(Row { what: case.name.into(), batch: case.inputs[0].n, pass, by: OWN, time, bytes, flops });
        }
    }
}

/// Counts the bytes of forward, and of forward with backward.
fn bytes(case: &OpCase, output: usize, precision: Precision) -> [u64; 2] {
    let element = if precision == Precision::Bf16 { 2 } else { 4 };
    let inputs = element * case.inputs.iter().map(Shape::len).sum::<usize>();
    let fixed = 4 * case.fixed.iter().map(|(shape, _)| shape.len()).sum::<usize>();
    let parameters = 4 * case.params.iter().map(|(shape, _)| shape.iter().product::<usize>()).sum::<usize>();
    let forward = inputs + fixed + parameters + element * output;
    [forward, forward + fixed + element * output + 2 * inputs + 2 * parameters].map(|bytes| bytes as u64)
}

/// Measures Adam with AMSGrad over as many parameters as MGN_PTL has; over a tenth of them on the CPU.
pub fn update(criterion: &mut Criterion, machine: &Machine, rows: &mut Vec<Row>) {
    let len = match machine.gpu() {
        Some(_) if machine.tiny() => 1000,
        Some(_) => 80_000_000,
        None => 8_000_000,
    };
    let mut group = group(criterion, &format!("update {}", machine.precision()), 0.3);
    let rule = UpdateRule::Adam { betas: [0.9, 0.999], eps: 1e-8, amsgrad: true };
    let segments = [Segment { range: 0..len, lr: 1e-4, weight_decay: 5e-4 }];
    let mut optimizer = Optimizer::new(&rule, len).expect("a rule that works");
    let (mut values, mut grads) = (Mirrored::from(uniform(len)), Mirrored::from(uniform(len)));
    let (id, bytes) = (BenchmarkId::new("adam amsgrad", len), 40 * len as u64);
    let time = match machine.gpu() {
        None => machine.time(machine.own(), &mut group, id, bytes, || {
            black_box(global_norm(&grads, &segments));
            optimizer.step(&mut values, &grads, &segments);
            Ok(())
        }),
        Some(gpu) => {
            let update = optimizer.bind(gpu, &segments).expect("a GPU that works");
            let values = values.on_device_mut(gpu).expect("a GPU that works");
            let grads = grads.on_device(gpu).expect("a GPU that works");
            machine.time(machine.own(), &mut group, id, bytes, || optimizer.launch(gpu, &update, values, grads, 0.0))
        }
    };
    let what = format!("adam amsgrad, {} M parameters", len as f64 / 1e6);
    rows.push(Row { what, batch: 1, pass: "update", by: OWN, time, bytes: Some(bytes), flops: 0 });
}

/// Measures how bytes of 384x128 images become the network's input, all mirrored, cropped and erased as in training; on a GPU with their
/// upload.
pub fn images(criterion: &mut Criterion, machine: &Machine, rows: &mut Vec<Row>) {
    let mut group = group(criterion, &format!("images {}", machine.precision()), 0.3);
    for &count in machine.batches() {
        let config = config("mgn-ptl", count, machine.tiny());
        let mut batch = support::batch(&config);
        let augment = Augment { pad: 10, random_erasing: 0.5, ..Augment::default() };
        let mut rng = stream(0, Purpose::Test, 1, 0);
        batch.params = (0..count).map(|_| AugmentParams::sample(&augment, batch.size, &mut rng)).collect();
        let mut graph = Graph::new(Mode::Eval);
        let images = graph.input(Shape::new(count, batch.size[0], batch.size[1], 3));
        let mut session = Session::new(graph, &Store::new(), machine.own()).expect("memory for a batch");
        let wait = || machine.gpu().into_iter().for_each(|gpu| gpu.synchronize().expect("a GPU that works"));
        let pass = || session.set_images(images, &batch).expect("a device that works");
        let work = Throughput::Elements(count as u64);
        let time = measure_all(&mut group, BenchmarkId::new("prepare", count), work, pass, wait);
        rows.push(Row { what: "images".into(), batch: count, pass: "prepare", by: OWN, time, bytes: None, flops: 0 });
    }
}

/// Returns the recipe of a re-identification network for batches of `count` images; a tiny one is narrow and has small images.
fn config(arch: &str, count: usize, tiny: bool) -> Config {
    let mut config = Config::recipe(TaskKind::Reid, arch);
    let images = if tiny { 2 } else { 4 };
    (config.sampler.ids, config.sampler.images) = (count / images, images);
    if tiny {
        config.model.width = 0.0625;
        [config.model.height, config.model.image_width] = [96, 32];
    }
    config
}

/// Measures whole training steps, with our own convolutions, with the vendor's, and with the faster of both. Returns lines that say the images per second.
pub fn steps(criterion: &mut Criterion, machine: &Machine, rows: &mut Vec<Row>) -> Vec<String> {
    let mut group = group(criterion, &format!("train step {}", machine.precision()), 2.0);
    let mut lines = Vec::new();
    for arch in ["mgn-ptl", "resnet50-ptl", "resnet50"] {
        for &count in machine.batches() {
            let config = config(arch, count, machine.tiny());
            let batch = support::batch(&config);
            for (by, device) in machine.all_devices() {
                let trainer = Trainer::on(device.clone(), &config, CLASSES, |_, _| Ok(()));
                let mut trainer = match trainer {
                    Ok(trainer) => trainer,
                    Err(too_large) => {
                        lines.push(format!("{arch}, {count} images, {by} convolutions: {too_large}"));
                        continue;
                    }
                };
                let flops = 3 * trainer.forward_flops();
                let pass = || {
                    trainer.step(&batch, Some(&batch), 1e-6).expect("a finite loss");
                };
                let work = Throughput::Elements(count as u64);
                // A step ends when its losses have been read back.
                let id = BenchmarkId::new(format!("{arch}, {by}"), count);
                let time = measure_all(&mut group, id, work, pass, || ());
                rows.push(Row { what: arch.into(), batch: count, pass: "step", by, time, bytes: Some(0), flops });
                lines.push(format!(
                    "{arch}, {count} images of {}x{}, {by} convolutions: {:.1} images/s, {} MiB of activations, gradients of them, and scratch",
                    config.model.height,
                    config.model.image_width,
                    count as f64 / time.as_secs_f64(),
                    trainer.arena_bytes() >> 20,
                ));
            }
        }
    }
    lines
}
