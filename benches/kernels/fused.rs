//! Measures the eight cells of MGN_PTL, fused, and as a convolution with 4·channels outputs followed by an elementwise pass.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use ptl::engine::cpu::cell;
use ptl::engine::device::{Gpu, Grid, Ptr, kernels};
use ptl::engine::graph::Mode;
use ptl::engine::op::{OpCase, conv2d};
use ptl::engine::session::CaseRun;
use ptl::engine::session::Pass;
use ptl::engine::store::Layout;

use crate::cells::{Cell, cells};
use crate::machine::{Group, Machine, group};
use crate::report::{Gain, Row};

pub fn run(criterion: &mut Criterion, machine: &Machine, rows: &mut Vec<Row>) -> Vec<Gain> {
    let mut group = group(criterion, &format!("cells {}", machine.precision()), 0.3);
    let mut gains = Vec::new();
    for &batch in machine.batches() {
        for (i, cell) in cells(batch).into_iter().enumerate() {
            // As an op on its own, the first cell computes the gradient of the images too.
            let cell = Cell { input_gradient: true, ..cell };
            let mut fused = [(); 2].map(|()| Duration::ZERO);
            let (moved, name) = (cell.fused(machine.precision()), format!("cell {}", i + 1));
            let passes =
                [("evaluation", Mode::Eval, moved.evaluation, 1), ("training", Mode::Train, moved.training, 3)];
            for (at, (pass, mode, bytes, times)) in passes.into_iter().enumerate() {
                let mut run = CaseRun::on(&machine.device, &cell.case(), mode, 1);
                run.forward().expect("a device that works");
                let flops = times * run.session.graph().flops();
                fused[at] = machine.time(&mut group, id(&name, pass, batch), flops, || {
                    run.forward_again()?;
                    if mode == Mode::Train { run.backward_again() } else { Ok(()) }
                });
                rows.push(Row { what: name.clone(), batch, pass, time: fused[at], bytes: Some(bytes as u64), flops });
            }
            let unfused = unfused(&mut group, machine, &cell, &name);
            let (forward, moved) = (rows[rows.len() - 2].flops, cell.unfused(machine.precision()));
            let passes = [("evaluation", moved.evaluation, forward), ("training", moved.training, 3 * forward)];
            for ((pass, bytes, flops), time) in passes.into_iter().zip(unfused) {
                let row = |time| Row {
                    what: format!("{name}, unfused"),
                    batch,
                    pass,
                    time,
                    bytes: Some(bytes as u64),
                    flops,
                };
                rows.extend(time.map(row));
            }
            gains.push(Gain { cell: (i + 1).to_string(), batch, fused, unfused });
        }
    }
    gains
}

fn id(name: &str, pass: &str, batch: usize) -> BenchmarkId {
    BenchmarkId::new(format!("{name} {pass}"), batch)
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

fn unfused(group: &mut Group<'_>, machine: &Machine, cell: &Cell, name: &str) -> [Option<Duration>; 2] {
    let case = convolution(cell);
    let mut time = |pass: &str, mode: Mode| {
        let mut run = CaseRun::on(&machine.device, &case, mode, 1);
        run.forward().expect("a device that works");
        let flops = run.session.graph().flops();
        let id = id(name, &format!("{pass}, unfused"), cell.input.n);
        match machine.gpu() {
            Some(gpu) => {
                let gates = DeviceGates::new(gpu, cell, &run, mode);
                machine.time(group, id, flops, || gates.pass(gpu, &mut run))
            }
            None => {
                let len = cell.output().len();
                let (before, mut next, mut y) = (vec![0.5f32; len], vec![0.0; len], vec![0.0; len]);
                machine.time(group, id, flops, || {
                    run.forward_again()?;
                    cell::apply_gates(cell.channels, &run.session.value(run.output)?, &before, &mut next, &mut y);
                    Ok(())
                })
            }
        }
    };
    let evaluation = time("evaluation", Mode::Eval);
    [Some(evaluation), machine.gpu().map(|_| time("training", Mode::Train))]
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
