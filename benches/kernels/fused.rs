//! Measures the eight cells of MGN_PTL: fused by our own kernels; as a convolution by the vendor's libraries, followed by a kernel for the
//! gates; and as the program chooses. On the CPU: fused, and in evaluation as a convolution followed by an elementwise pass.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use ptl::engine::cpu::cell;
use ptl::engine::graph::Mode;
use ptl::engine::op::{OpCase, conv2d};
use ptl::engine::session::CaseRun;
use ptl::engine::shape::Shape;
use ptl::engine::store::Layout;

use crate::cells::{Cell, Traffic, cells};
use crate::machine::{AUTO, Group, Machine, OWN, VENDOR, group};
use crate::report::{Gain, Row};

/// Measures evaluation and training of every cell, and returns their times.
pub fn run(criterion: &mut Criterion, machine: &Machine, rows: &mut Vec<Row>) -> Vec<Gain> {
    let mut group = group(criterion, &format!("cells {}", machine.precision()), 0.3);
    let mut gains = Vec::new();
    for &batch in machine.batches() {
        for (i, cell) in cells(batch).into_iter().enumerate() {
            // As an op on its own, the first cell computes the gradient of the images too.
            let cell = Cell { input_gradient: true, ..if machine.tiny() { tiny(cell) } else { cell } };
            let name = format!("cell {}", i + 1);
            let mut gain = Gain { cell: (i + 1).to_string(), batch, ..Gain::default() };
            for (by, device) in machine.all_devices() {
                let traffic =
                    |by| if by == OWN { cell.fused(machine.precision()) } else { cell.unfused(machine.precision()) };
                for (at, (pass, mode, bytes)) in passes(traffic(by)).into_iter().enumerate() {
                    let mut run = CaseRun::on(device, &cell.case(), mode, 1);
                    run.forward().expect("a device that works");
                    let flops = flops(run.session.graph().flops(), mode);
                    let time =
                        machine.time(device, &mut group, id(&name, &format!("{pass}, {by}"), batch), flops, || {
                            run.forward_again()?;
                            if mode == Mode::Train { run.backward_again() } else { Ok(()) }
                        });
                    let of_way = match by {
                        OWN => &mut gain.fused,
                        VENDOR => &mut gain.unfused,
                        _ => &mut gain.chosen,
                    };
                    of_way[at] = Some(time);
                    // What the chosen way moves is not counted.
                    let bytes = (by != AUTO).then_some(bytes as u64);
                    rows.push(Row { what: name.clone(), batch, pass, by, time, bytes, flops });
                }
            }
            if machine.gpu().is_none() {
                let (pass, _, bytes) = passes(cell.unfused(machine.precision()))[0];
                let id = id(&name, &format!("{pass}, unfused"), batch);
                let (time, flops) = unfused_on_cpu(&mut group, machine, &cell, id);
                gain.unfused[0] = Some(time);
                let what = format!("{name}, unfused");
                rows.push(Row { what, batch, pass, by: OWN, time, bytes: Some(bytes as u64), flops });
            }
            gains.push(gain);
        }
    }
    gains
}

/// Returns the names and modes of the passes with the bytes that they move.
fn passes(moved: Traffic) -> [(&'static str, Mode, usize); 2] {
    [("evaluation", Mode::Eval, moved.evaluation), ("training", Mode::Train, moved.training)]
}

/// Returns the operations of a pass; `forward` are those of the output.
fn flops(forward: u64, mode: Mode) -> u64 {
    if mode == Mode::Train { 3 * forward } else { forward }
}

fn id(name: &str, pass: &str, batch: usize) -> BenchmarkId {
    BenchmarkId::new(format!("{name} {pass}"), batch)
}

/// Returns a cell with a sixteenth of the sides and channels.
fn tiny(cell: Cell) -> Cell {
    let Shape { n, h, w, c } = cell.input;
    Cell {
        input: Shape::new(n, h.div_ceil(16), w.div_ceil(16), c.div_ceil(16)),
        channels: cell.channels.div_ceil(16),
        ..cell
    }
}

/// Returns the cell's convolution as an op.
fn convolution(cell: &Cell) -> OpCase {
    OpCase {
        name: "the convolution of a cell",
        build: match cell.stride {
            1 => |g, s, x, p, _| conv2d(g, s, x[0], p[0], None, [1, 1], [1, 1]),
            _ => |g, s, x, p, _| conv2d(g, s, x[0], p[0], None, [2, 2], [1, 1]),
        },
        params: vec![(vec![4 * cell.channels, cell.input.c, 3, 3], Layout::Conv)],
        ..cell.case()
    }
}

/// Measures a cell in evaluation as a convolution on the CPU and an elementwise pass. Also returns the operations.
fn unfused_on_cpu(group: &mut Group<'_>, machine: &Machine, cell: &Cell, id: BenchmarkId) -> (Duration, u64) {
    let mut run = CaseRun::on(machine.own(), &convolution(cell), Mode::Eval, 1);
    run.forward().expect("a device that works");
    let len = cell.output().len();
    let (before, mut next, mut y) = (vec![0.5f32; len], vec![0.0; len], vec![0.0; len]);
    let flops = run.session.graph().flops();
    let time = machine.time(machine.own(), group, id, flops, || {
        run.forward_again()?;
        cell::apply_gates(cell.channels, &run.session.value(run.output)?, &before, &mut next, &mut y);
        Ok(())
    });
    (time, flops)
}
