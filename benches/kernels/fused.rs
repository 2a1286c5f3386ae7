//! Measures the eight cells of MGN_PTL, fused, and as a convolution with 4·channels outputs followed by an elementwise pass. That
//! convolution, and the gradients of the fused one, are computed by our own kernels and by the vendor's library.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use ptl::engine::cpu::cell;
use ptl::engine::device::{Device, Gpu, Grid, Ptr, kernels};
use ptl::engine::graph::Mode;
use ptl::engine::op::{OpCase, conv2d};
use ptl::engine::session::CaseRun;
use ptl::engine::session::Pass;
use ptl::engine::shape::Shape;
use ptl::engine::store::Layout;

use crate::cells::{Cell, Traffic, cells};
use crate::machine::{Group, Machine, OWN, group};
use crate::report::{Gain, Row};

/// Measures evaluation and training of every cell, and returns what fusing saves.
pub fn run(criterion: &mut Criterion, machine: &Machine, rows: &mut Vec<Row>) -> Vec<Gain> {
    let mut group = group(criterion, &format!("cells {}", machine.precision()), 0.3);
    let mut gains = Vec::new();
    for &batch in machine.batches() {
        for (i, cell) in cells(batch).into_iter().enumerate() {
            // As an op on its own, the first cell computes the gradient of the images too.
            let cell = Cell { input_gradient: true, ..if machine.tiny() { tiny(cell) } else { cell } };
            let name = format!("cell {}", i + 1);
            let mut gain = Gain { cell: (i + 1).to_string(), batch, ..Gain::default() };
            let mut forward = 0;
            for (by, device) in machine.devices() {
                for (at, (pass, mode, bytes)) in passes(cell.fused(machine.precision())).into_iter().enumerate() {
                    // The vendor's libraries have a part in the gradients only.
                    if mode == Mode::Eval && by != OWN {
                        continue;
                    }
                    let mut run = CaseRun::on(device, &cell.case(), mode, 1);
                    run.forward().expect("a device that works");
                    forward = run.session.graph().flops();
                    let flops = flops(forward, mode);
                    let time =
                        machine.time(device, &mut group, id(&name, &format!("{pass}, {by}"), batch), flops, || {
                            run.forward_again()?;
                            if mode == Mode::Train { run.backward_again() } else { Ok(()) }
                        });
                    gain.fused[at] = Some(gain.fused[at].map_or(time, |other| other.min(time)));
                    rows.push(Row { what: name.clone(), batch, pass, by, time, bytes: Some(bytes as u64), flops });
                }
            }
            for (by, device) in machine.devices() {
                for (at, (pass, mode, bytes)) in passes(cell.unfused(machine.precision())).into_iter().enumerate() {
                    let id = id(&name, &format!("{pass}, unfused, {by}"), batch);
                    let Some(time) = unfused(&mut group, machine, device, &cell, mode, id) else { continue };
                    if by == OWN {
                        gain.unfused[at] = Some(time)
                    } else {
                        gain.vendor[at] = Some(time)
                    }
                    let (what, bytes) = (format!("{name}, unfused"), Some(bytes as u64));
                    rows.push(Row { what, batch, pass, by, time, bytes, flops: flops(forward, mode) });
                }
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

/// Measures a cell as a convolution on `device` and an elementwise pass. On the CPU that pass has no form for training.
fn unfused(
    group: &mut Group<'_>,
    machine: &Machine,
    device: &Device,
    cell: &Cell,
    mode: Mode,
    id: BenchmarkId,
) -> Option<Duration> {
    if device.gpu().is_none() && mode == Mode::Train {
        return None;
    }
    let mut run = CaseRun::on(device, &convolution(cell), mode, 1);
    run.forward().expect("a device that works");
    let flops = flops(run.session.graph().flops(), mode);
    let Some(gpu) = device.gpu() else {
        let len = cell.output().len();
        let (before, mut next, mut y) = (vec![0.5f32; len], vec![0.0; len], vec![0.0; len]);
        return Some(machine.time(device, group, id, flops, || {
            run.forward_again()?;
            cell::apply_gates(cell.channels, &run.session.value(run.output)?, &before, &mut next, &mut y);
            Ok(())
        }));
    };
    let gates = DeviceGates::new(gpu, cell, &run, mode);
    Some(machine.time(device, group, id, flops, || gates.pass(gpu, &mut run)))
}

/// Memory of the elementwise half on a GPU.
struct DeviceGates {
    /// Before, after, output, and the output's gradient, one after the other at `step` bytes.
    buffer: ptl::engine::device::Buffer,
    step: u64,
    pre: u64,
    /// Address of the activated gates in training. Their gradients replace them, which the convolution's backward pass reads.
    gates: Option<u64>,
    pixels: i64,
    channels: i32,
}

impl DeviceGates {
    fn new(gpu: &Gpu, cell: &Cell, run: &CaseRun, mode: Mode) -> DeviceGates {
        let output = cell.output();
        let step = (4 * output.len()).next_multiple_of(256);
        let buffer = gpu.allocate(4 * step).expect("memory of the GPU");
        kernels::fill_f32(gpu, Grid::any(step), buffer.ptr(), 0.5, step as i64).expect("a GPU that works");
        let place = |name: &str| {
            let pass = if mode == Mode::Train { Pass::Backward } else { Pass::Forward };
            run.session.blocks(0, pass).into_iter().find(|block| block.name == name).map(|block| block.address)
        };
        DeviceGates {
            buffer,
            step: step as u64,
            pre: place("output").expect("every op has an output"),
            gates: place("gradient of output"),
            pixels: (output.len() / output.c) as i64,
            channels: output.c as i32,
        }
    }

    fn at<T>(&self, part: u64) -> Ptr<T> {
        Ptr::new(self.buffer.ptr::<u8>().address() + part * self.step)
    }

    fn pass(&self, gpu: &Gpu, run: &mut CaseRun) -> ptl::Result<()> {
        let (pixels, channels) = (self.pixels, self.channels);
        let grid = Grid::any((pixels * i64::from(channels)) as usize);
        let gates = self.gates.map_or(Ptr::NULL, Ptr::new);
        run.forward_again()?;
        let (before, next, y) = (self.at(0), self.at(1), self.at(2));
        kernels::unfused_gates(gpu, grid, Ptr::new(self.pre), before, next, y, gates, pixels, channels)?;
        if self.gates.is_none() {
            return Ok(());
        }
        kernels::bconv_gate_gradients(gpu, grid, gates, self.at(0), self.at(3), pixels, channels)?;
        run.backward_again()
    }
}
