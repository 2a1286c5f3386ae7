//! Copies some rows of each image, or some channels of each pixel (`torch.narrow`): `dx` is `dy` in these and 0 in the others.

use std::ops::Range;

use super::columns::{self, Columns};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::par;
use crate::engine::device::{Gpu, Grid, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::shape::Shape;

/// What is narrowed.
#[derive(Clone, Copy, Debug)]
enum Axis {
    Rows,
    Channels,
}

#[derive(Debug)]
struct Narrow {
    axis: Axis,
    /// The rows or channels that are copied.
    range: Range<usize>,
    /// The number of wholes, which are images or pixels.
    count: usize,
    /// The elements of a whole, and the range of them that is copied.
    whole: usize,
    part: Range<usize>,
}

/// Records the rows `rows` of `x`: `[n, h, w, c]` to `[n, rows.len(), w, c]`.
///
/// # Errors
/// `rows` is empty, or `x` does not have all of them.
pub fn narrow_rows(g: &mut Graph, x: Var, rows: Range<usize>) -> Result<Var> {
    let shape = g.shape(x);
    if rows.is_empty() || rows.end > shape.h {
        return Err(mismatch("narrow_rows", format!("rows {rows:?} of {shape}")));
    }
    let row = shape.w * shape.c;
    let (height, part) = (rows.len(), rows.start * row..rows.end * row);
    let op = Narrow { axis: Axis::Rows, range: rows, count: shape.n, whole: shape.h * row, part };
    g.push(op, &[x], Shape { h: height, ..shape }, Attachments::default())
}

/// Records the channels `channels` of `x`: `[n, h, w, c]` to `[n, h, w, channels.len()]`.
///
/// # Errors
/// `channels` is empty, or `x` does not have all of them.
pub fn narrow_channels(g: &mut Graph, x: Var, channels: Range<usize>) -> Result<Var> {
    let shape = g.shape(x);
    if channels.is_empty() || channels.end > shape.c {
        return Err(mismatch("narrow_channels", format!("channels {channels:?} of {shape}")));
    }
    let (c, part) = (channels.len(), channels.clone());
    let op = Narrow { axis: Axis::Channels, range: channels, count: shape.rows(), whole: shape.c, part };
    g.push(op, &[x], Shape { c, ..shape }, Attachments::default())
}

impl Op for Narrow {
    fn name(&self) -> &'static str {
        match self.axis {
            Axis::Rows => "narrow_rows",
            Axis::Channels => "narrow_channels",
        }
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let x = cx.inputs[0].clone();
        let starts = cx.integers("starts", &[self.range.start as i64]);
        let ends = cx.integers("ends", &[self.range.end as i64]);
        let axis = match self.axis {
            Axis::Channels => 1,
            Axis::Rows => 2,
        };
        let axes = cx.integers("axes", &[axis]);
        Ok(cx.node("Slice", &[&x, &starts, &ends, &axes], Vec::new()))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![false], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let (x, len) = (cx.inputs[0], self.part.len());
        par::rows_mut(cx.output, len, |first, parts| {
            let wholes = x[first * self.whole..].chunks_exact(self.whole);
            for (y, x) in parts.chunks_exact_mut(len).zip(wholes) {
                y.copy_from_slice(&x[self.part.clone()]);
            }
        });
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let (dy, len, accumulate) = (cx.grad_output, self.part.len(), grad.accumulate);
        par::rows_mut(grad.data, self.whole, |first, wholes| {
            let parts = dy[first * len..].chunks_exact(len);
            for (dx, dy) in wholes.chunks_exact_mut(self.whole).zip(parts) {
                if accumulate {
                    par::add_assign(&mut dx[self.part.clone()], dy);
                } else {
                    dx.fill(0.0);
                    dx[self.part.clone()].copy_from_slice(dy);
                }
            }
        });
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let part = Columns {
            from: cx.gpu.offset(cx.inputs[0], self.part.start),
            from_pitch: self.whole,
            to: cx.output,
            to_pitch: self.part.len(),
            width: self.part.len(),
            accumulate: false,
        };
        columns::copy(cx.gpu, self.count, &[part])
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        if !grad.accumulate {
            let len = self.count * self.whole;
            kernels::fill(cx.gpu, Grid::any(len), grad.data, 0.0, len as i64)?;
        }
        let part = Columns {
            from: cx.grad_output,
            from_pitch: self.part.len(),
            to: cx.gpu.offset(grad.data, self.part.start),
            to_pitch: self.whole,
            width: self.part.len(),
            accumulate: grad.accumulate,
        };
        columns::copy(cx.gpu, self.count, &[part])
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let shape = Shape::new(3, 4, 2, 5);
    vec![
        OpCase::new("narrow_rows", &[shape], &[], |g, _, x, _, _| narrow_rows(g, x[0], 1..3)),
        // Takes both parts of one input, so that the second gradient is added.
        OpCase::new("narrow_rows twice", &[shape], &[], |g, _, x, _, _| {
            let parts = [narrow_rows(g, x[0], 0..2)?, narrow_rows(g, x[0], 1..3)?];
            super::concat(g, &parts)
        }),
        OpCase::new("narrow_channels", &[shape], &[], |g, _, x, _, _| narrow_channels(g, x[0], 1..4)),
        OpCase::new("narrow_channels twice", &[shape], &[], |g, _, x, _, _| {
            let parts = [narrow_channels(g, x[0], 0..2)?, narrow_channels(g, x[0], 2..5)?];
            super::concat(g, &parts)
        }),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    vec![
        OpCase::new("narrow_rows", &[Shape::new(16, 3, 1, 2048)], &[], |g, _, x, _, _| narrow_rows(g, x[0], 1..2)),
        OpCase::new("narrow_rows large", &[Shape::new(64, 16, 8, 2048)], &[], |g, _, x, _, _| {
            narrow_rows(g, x[0], 0..8)
        }),
        OpCase::new("narrow_channels", &[Shape::new(16, 64, 32, 64)], &[], |g, _, x, _, _| {
            narrow_channels(g, x[0], 0..32)
        }),
    ]
}
