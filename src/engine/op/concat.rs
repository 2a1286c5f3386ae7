//! Concatenation along channels.

use super::columns::{self, Columns};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::par;
use crate::engine::device::Gpu;
use crate::engine::graph::{
    Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Recompute, Var,
};
use crate::engine::onnx::OnnxAttribute;
use crate::engine::shape::Shape;

#[derive(Debug)]
struct Concat {
    /// Pixels of each input.
    rows: usize,
    /// Channels of each input.
    widths: Vec<usize>,
}

/// Records the concatenation of `[n, h, w, c1], [n, h, w, c2], ...` to `[n, h, w, c1 + c2 + ...]`.
///
/// # Errors
/// There are no inputs, two are the same tensor, or they differ in more than channels.
pub fn concat(g: &mut Graph, inputs: &[Var]) -> Result<Var> {
    let shapes: Vec<Shape> = inputs.iter().map(|v| g.shape(*v)).collect();
    let Some(&first) = shapes.first() else {
        return Err(mismatch("concat", "no inputs".into()));
    };
    if let Some(odd) = shapes.iter().find(|s| (s.n, s.h, s.w) != (first.n, first.h, first.w)) {
        return Err(mismatch("concat", format!("{first} and {odd} differ in more than channels")));
    }
    let widths: Vec<usize> = shapes.iter().map(|s| s.c).collect();
    let shape = Shape { c: widths.iter().sum(), ..first };
    g.push(Concat { rows: shape.rows(), widths }, inputs, shape, Attachments::default())
}

impl Concat {
    /// Returns the channels of the output.
    fn total(&self) -> usize {
        self.widths.iter().sum()
    }

    /// Returns for each input its first channel in the output, and how many it has.
    fn starts(&self) -> impl Iterator<Item = (usize, usize)> {
        self.widths.iter().scan(0, |end, &width| {
            *end += width;
            Some((*end - width, width))
        })
    }

    /// Writes the concatenation of `inputs`.
    fn join(&self, inputs: &[&[f32]], output: &mut [f32]) {
        let total = self.total();
        par::rows_mut(output, total, |first, rows| {
            for (i, row) in rows.chunks_exact_mut(total).enumerate() {
                for (x, (start, width)) in inputs.iter().zip(self.starts()) {
                    row[start..start + width].copy_from_slice(&x[(first + i) * width..][..width]);
                }
            }
        });
    }
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let inputs = cx.inputs.clone();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        Ok(cx.node("Concat", &inputs, vec![OnnxAttribute::int("axis", 1)]))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![false; self.widths.len()], recomputes_output: true, ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        self.join(&cx.inputs, cx.output);
    }

    fn recompute(&self, cx: &mut Recompute<'_>) {
        self.join(&cx.inputs, cx.output);
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let total = self.total();
        let dy = cx.grad_output;
        for (grad, (start, width)) in cx.grad_inputs.iter_mut().zip(self.starts()) {
            if let Some(grad) = grad {
                let accumulate = grad.accumulate;
                par::rows_mut(grad.data, width, |first, rows| {
                    for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                        let source = &dy[(first + i) * total + start..][..width];
                        if accumulate {
                            par::add_assign(row, source);
                        } else {
                            row.copy_from_slice(source);
                        }
                    }
                });
            }
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let parts: Vec<Columns> = (self.starts().zip(&cx.inputs))
            .map(|((start, width), &x)| Columns {
                from: x,
                from_pitch: width,
                to: cx.gpu.offset(cx.output, start),
                to_pitch: self.total(),
                width,
                accumulate: false,
            })
            .collect();
        columns::copy(cx.gpu, self.rows, &parts)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let parts: Vec<Columns> = (self.starts().zip(&cx.grad_inputs))
            .filter_map(|((start, width), grad)| {
                let grad = grad.as_ref()?;
                Some(Columns {
                    from: cx.gpu.offset(cx.grad_output, start),
                    from_pitch: self.total(),
                    to: grad.data,
                    to_pitch: width,
                    width,
                    accumulate: grad.accumulate,
                })
            })
            .collect();
        columns::copy(cx.gpu, self.rows, &parts)
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let shapes = [Shape::new(2, 3, 2, 5), Shape::new(2, 3, 2, 1), Shape::new(2, 3, 2, 8)];
    vec![OpCase::new("concat", &shapes, &[], |g, _, x, _, _| concat(g, x))]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let shapes = [Shape::new(16, 64, 32, 256), Shape::new(16, 64, 32, 32)];
    vec![OpCase::new("concat", &shapes, &[], |g, _, x, _, _| concat(g, x))]
}
