//! Measures every kernel of a training step, and whole steps, with our own kernels and with the vendor's libraries, and compares them with
//! the ceilings of the device: a large copy and a large product in the same run.
//!
//! These variables say what is measured:
//! - `PTL_BENCH_DEVICE` = `cuda` (batches of 16 and 64), `cpu` (16, f32), or `emulated`: tiny sizes on the emulated GPU, to see with
//!   `--test` that everything runs. Default: a GPU where one can be used, else the CPU.
//! - `PTL_BENCH_PRECISION` = `f32`, `tf32` or `bf16`. Default: all that the device has.
//! - `PTL_BENCH_PARTS` = some of `steps,ops,convs,cells`, separated by commas. Default: all.
//! - `PTL_BENCH_JSON` = a file for the figures. Default: none is written.
//!
//! Criterion prints elements per second: operations, bytes or images, for ten passes at once on a GPU. The tables at the end have the
//! figures.

#[path = "../../tests/emulated/cells.rs"]
mod cells;
mod convs;
mod fused;
mod machine;
mod report;
mod step;
#[path = "../support/mod.rs"]
mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use machine::{Machine, refuse};

const PARTS: [&str; 4] = ["steps", "ops", "convs", "cells"];

/// Returns the parts that `PTL_BENCH_PARTS` names.
fn parts() -> Vec<&'static str> {
    let Ok(names) = std::env::var("PTL_BENCH_PARTS") else { return PARTS.to_vec() };
    let part = |name: &str| {
        let known = || refuse(&format!("PTL_BENCH_PARTS={names}: known are {}", PARTS.join(", ")));
        PARTS.into_iter().find(|part| *part == name).unwrap_or_else(known)
    };
    names.split(',').map(part).collect()
}

fn kernels(criterion: &mut Criterion) {
    let parts = parts();
    // Tables are printed together at the end, because criterion prints lines in between.
    let (mut tables, mut figures) = (Vec::new(), Vec::new());
    for devices in machine::devices() {
        let machine = Machine::new(criterion, devices);
        let (mut rows, mut more) = (Vec::new(), Vec::new());
        for &part in &parts {
            match part {
                "steps" => more.push(step::steps(criterion, &machine, &mut rows).join("\n")),
                "ops" => {
                    step::ops(criterion, &machine, &mut rows);
                    step::update(criterion, &machine, &mut rows);
                    step::images(criterion, &machine, &mut rows);
                }
                "convs" => convs::run(criterion, &machine, &mut rows),
                _ => more.push(report::gains(&fused::run(criterion, &machine, &mut rows))),
            }
        }
        tables.push(report::rows(&machine, &rows));
        tables.append(&mut more);
        tables.extend(machine.refusals());
        figures.push(report::figures(&machine, &rows));
    }
    println!("{}\n\n{}", tables.join("\n"), report::NOTES);
    if let Some(path) = std::env::var_os("PTL_BENCH_JSON") {
        let text = serde_json::to_string_pretty(&figures).expect("figures are plain numbers");
        std::fs::write(&path, text)
            .unwrap_or_else(|error| refuse(&format!("PTL_BENCH_JSON={}: {error}", path.display())));
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
