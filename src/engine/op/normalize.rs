//! Vectors of length 1, as torch's `F.normalize`: `y = x / max(|x|, 1e-12)`, `dx = (dy - y·Σ y·dy) / |x|`. A length that is raised to 1e-12
//! has no gradient.

use rayon::prelude::*;

use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::device::{Gpu, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::onnx::OnnxAttribute;
use crate::engine::shape::Shape;

/// Lengths are at least this.
pub(super) const MIN_LENGTH: f32 = 1e-12;

#[derive(Debug)]
struct Normalize {
    rows: usize,
    dim: usize,
}

/// Records the vectors `x` `[n, 1, 1, d]`, each divided by its length.
///
/// # Errors
/// `x` is not one vector for each image.
pub fn normalize(g: &mut Graph, x: Var) -> Result<Var> {
    let shape = g.shape(x);
    if shape != Shape::vectors(shape.n, shape.c) {
        return Err(mismatch("normalize", format!("{shape} is not one vector per image")));
    }
    g.push(Normalize { rows: shape.n, dim: shape.c }, &[x], shape, Attachments::default())
}

/// Returns the length of which `squares` is the square, at least [`MIN_LENGTH`].
pub(super) fn length_of(squares: f64) -> f32 {
    let length = squares.sqrt() as f32;
    // A comparison instead of `max`, so that NaN stays NaN.
    if length < MIN_LENGTH { MIN_LENGTH } else { length }
}

/// Returns the length of a vector.
fn length(x: &[f32]) -> f32 {
    length_of(x.iter().map(|&x| f64::from(x).powi(2)).sum())
}

impl Op for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let x = cx.inputs[0].clone();
        let length = cx.node("ReduceL2", &[&x], vec![OnnxAttribute::ints("axes", &[1])]);
        let least = cx.numbers("least", &[1], &[MIN_LENGTH]);
        let length = cx.node("Max", &[&length, &least], Vec::new());
        Ok(cx.node("Div", &[&x, &length], Vec::new()))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![false], output: true, saved: self.rows, ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let lengths: Vec<f32> = cx.inputs[0].par_chunks(self.dim).map(length).collect();
        let rows = cx.output.par_chunks_mut(self.dim).zip(cx.inputs[0].par_chunks(self.dim));
        rows.zip(&lengths).for_each(|((y, x), length)| y.iter_mut().zip(x).for_each(|(y, x)| *y = x / length));
        if !cx.saved.is_empty() {
            cx.saved.copy_from_slice(&lengths);
        }
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let accumulate = grad.accumulate;
        let operands = cx.output.par_chunks(self.dim).zip(cx.grad_output.par_chunks(self.dim)).zip(&*cx.saved);
        grad.data.par_chunks_mut(self.dim).zip(operands).for_each(|(dx, ((y, dy), &length))| {
            let along: f64 = y.iter().zip(dy).map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum();
            let along = if length > MIN_LENGTH { along as f32 } else { 0.0 };
            for (dx, (y, dy)) in dx.iter_mut().zip(y.iter().zip(dy)) {
                let value = (dy - y * along) / length;
                *dx = if accumulate { *dx + value } else { value };
            }
        });
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        kernels::normalize(cx.gpu, self.rows, cx.inputs[0], cx.output, cx.saved.cast(), self.dim as i32)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (y, dy, lengths, dim) = (cx.output, cx.grad_output, cx.saved.cast(), self.dim as i32);
        kernels::normalize_backward(cx.gpu, self.rows, y, dy, lengths, grad.data, dim, grad.flag())
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    vec![OpCase::new("normalize", &[Shape::vectors(5, 6)], &[], |g, _, x, _, _| normalize(g, x[0]))]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    vec![OpCase::new("normalize", &[Shape::vectors(64, 2048)], &[], |g, _, x, _, _| normalize(g, x[0]))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Mode;
    use crate::engine::session::CaseRun;

    #[test]
    fn a_vector_of_zeros_stays_and_nan_is_seen() {
        let mut run = CaseRun::new(&cases()[0], Mode::Train);
        run.input_values[0][..6].fill(0.0);
        run.input_values[0][7] = f32::NAN;
        let y = run.forward().unwrap().to_vec();
        assert!(y[..6].iter().all(|&y| y == 0.0) && y[6..12].iter().all(|y| y.is_nan()), "{y:?}");
        run.backward().unwrap();
        let (dx, scale) = (run.session.grad(run.inputs[0]).unwrap(), 1.0 / MIN_LENGTH);
        assert!(dx.iter().zip(&run.cotangent).take(6).all(|(dx, dy)| (dx / (dy * scale) - 1.0).abs() < 1e-6));
    }
}
