//! Copies some rows of each image (`torch.narrow` along the height): `dx` is `dy` in these rows and 0 in the others.

use std::ops::Range;

use super::columns::{self, Columns};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::par;
use crate::engine::device::{Gpu, Grid, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::shape::Shape;

#[derive(Debug)]
struct NarrowRows {
    batch: usize,
    rows: Range<usize>,
    /// The elements of an image, and the range of them that is copied.
    image: usize,
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
    let op = NarrowRows { batch: shape.n, rows, image: shape.h * row, part };
    g.push(op, &[x], Shape { h: height, ..shape }, Attachments::default())
}

impl Op for NarrowRows {
    fn name(&self) -> &'static str {
        "narrow_rows"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let x = cx.inputs[0].clone();
        let starts = cx.integers("starts", &[self.rows.start as i64]);
        let ends = cx.integers("ends", &[self.rows.end as i64]);
        let axes = cx.integers("axes", &[2]);
        Ok(cx.node("Slice", &[&x, &starts, &ends, &axes], Vec::new()))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![false], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let images = cx.inputs[0].chunks_exact(self.image);
        for (y, x) in cx.output.chunks_exact_mut(self.part.len()).zip(images) {
            y.copy_from_slice(&x[self.part.clone()]);
        }
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let images = grad.data.chunks_exact_mut(self.image).zip(cx.grad_output.chunks_exact(self.part.len()));
        for (dx, dy) in images {
            if grad.accumulate {
                par::add_assign(&mut dx[self.part.clone()], dy);
            } else {
                dx.fill(0.0);
                dx[self.part.clone()].copy_from_slice(dy);
            }
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let part = Columns {
            from: cx.gpu.offset(cx.inputs[0], self.part.start),
            from_pitch: self.image,
            to: cx.output,
            to_pitch: self.part.len(),
            width: self.part.len(),
            accumulate: false,
        };
        columns::copy(cx.gpu, self.batch, &[part])
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        if !grad.accumulate {
            let len = self.batch * self.image;
            kernels::fill(cx.gpu, Grid::any(len), grad.data, 0.0, len as i64)?;
        }
        let part = Columns {
            from: cx.grad_output,
            from_pitch: self.part.len(),
            to: cx.gpu.offset(grad.data, self.part.start),
            to_pitch: self.image,
            width: self.part.len(),
            accumulate: grad.accumulate,
        };
        columns::copy(cx.gpu, self.batch, &[part])
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
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    vec![
        OpCase::new("narrow_rows", &[Shape::new(16, 3, 1, 2048)], &[], |g, _, x, _, _| narrow_rows(g, x[0], 1..2)),
        OpCase::new("narrow_rows large", &[Shape::new(64, 16, 8, 2048)], &[], |g, _, x, _, _| {
            narrow_rows(g, x[0], 0..8)
        }),
    ]
}
