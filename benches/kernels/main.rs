//! Measures every kernel of a training step, and whole steps, and compares them with the ceilings of the device: a large copy and a large
//! product in the same run.
//!
//! `PTL_BENCH_DEVICE` = `cuda` or `cpu`. On a GPU in f32, tf32 and bf16, with our own kernels, at batches of 16 and 64; on the CPU in
//! f32 at 16. Criterion prints elements per second: operations, bytes or images, for ten passes at once on a GPU. The tables at the end
//! have the figures.

#[path = "../../tests/emulated/cells.rs"]
mod cells;
mod fused;
mod machine;
mod report;
mod step;
#[path = "../support/mod.rs"]
mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use machine::Machine;

fn kernels(criterion: &mut Criterion) {
    // Tables are printed together at the end, because criterion prints lines in between.
    let mut tables = Vec::new();
    for device in machine::devices() {
        let machine = Machine::new(criterion, device);
        let mut rows = Vec::new();
        let gains = fused::run(criterion, &machine, &mut rows);
        step::ops(criterion, &machine, &mut rows);
        step::update(criterion, &machine, &mut rows);
        step::images(criterion, &machine, &mut rows);
        let steps = step::steps(criterion, &machine, &mut rows);
        tables.extend([report::rows(&machine, &rows), report::gains(&gains), steps.join("\n")]);
    }
    println!("{}\n\n{}", tables.join("\n"), report::NOTES);
}

criterion_group!(benches, kernels);
criterion_main!(benches);
