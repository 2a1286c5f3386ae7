//! Cosines between vectors and the rows of a weight, as margin losses need them: `y = s·x·w / (|x|·|w|)`.
//!
//! `x` is brought to length 1 ([`super::normalize()`]) and multiplied by the weight ([`super::linear`]); the op of this file divides each
//! product by the length of the row. Its gradients are `dx = s·dy/|w|` and `dw = -w·Σ y·dy / |w|²`, which is added to that of the product.

use rayon::prelude::*;

use super::normalize::{MIN_LENGTH, length_of};
use super::{OpCase, linear, mismatch, normalize};
use crate::Result;
use crate::engine::device::{Gpu, Grid, Ptr, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::shape::Shape;
use crate::engine::store::{Layout, ParamId, Store};

/// Divides products with the rows of a weight by the lengths of these rows. In memory the rows are columns.
#[derive(Debug)]
struct OverLengths {
    rows: usize,
    classes: usize,
    dim: usize,
    scale: f32,
}

/// Records `scale` times the cosine between each vector of `x` `[n, 1, 1, in]` and each row of the weight, which has the layout
/// [`Layout::Conv`] and the shape `[out, in]` in torch: `[n, 1, 1, out]`.
///
/// # Errors
/// `x` is not one vector for each image, or has another length than the rows.
pub fn cosine_linear(g: &mut Graph, store: &Store, x: Var, weight: ParamId, scale: f32) -> Result<Var> {
    let x = normalize(g, x)?;
    let products = linear(g, store, x, weight, None)?;
    let (Shape { n, c, .. }, &[classes, dim, ..]) = (g.shape(products), &store.param(weight).shape[..]) else {
        return Err(mismatch("cosine_linear", format!("{} is not a matrix", store.param(weight).name)));
    };
    debug_assert_eq!(c, classes);
    let op = OverLengths { rows: n, classes, dim, scale };
    let attachments = Attachments { params: vec![weight], ..Attachments::default() };
    g.push(op, &[products], Shape::vectors(n, classes), attachments)
}

/// Computes `y = x·factors` column by column, or adds it to `y`.
fn scale_columns(x: &[f32], factors: &[f32], y: &mut [f32], accumulate: bool) {
    y.par_chunks_mut(factors.len()).zip(x.par_chunks(factors.len())).for_each(|(y, x)| {
        for (y, (x, factor)) in y.iter_mut().zip(x.iter().zip(factors)) {
            *y = if accumulate { *y + x * factor } else { x * factor };
        }
    });
}

impl OverLengths {
    /// Returns `scale / |w|` for each row of torch's weight.
    fn factors(&self, weight: &[f32]) -> Vec<f32> {
        let mut squares = vec![0.0f64; self.classes];
        for row in weight.chunks_exact(self.classes) {
            squares.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f64::from(w).powi(2));
        }
        squares.into_iter().map(|squares| self.scale / length_of(squares)).collect()
    }

    /// Returns `-Σ y·dy / |w|²` for each row of torch's weight: its gradient as a factor of the row.
    fn slopes(&self, y: &[f32], dy: &[f32], factors: &[f32]) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.classes];
        for (y, dy) in y.chunks_exact(self.classes).zip(dy.chunks_exact(self.classes)) {
            sums.iter_mut().zip(y.iter().zip(dy)).for_each(|(sum, (&y, &dy))| *sum += f64::from(y) * f64::from(dy));
        }
        let slope = |(sum, &factor): (f64, &f32)| {
            let inverse = f64::from(factor) / f64::from(self.scale);
            if factor < self.scale / MIN_LENGTH { (-sum * inverse * inverse) as f32 } else { 0.0 }
        };
        sums.into_iter().zip(factors).map(slope).collect()
    }
}

impl Op for OverLengths {
    fn name(&self) -> &'static str {
        "cosine_linear"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let x = cx.inputs[0].clone();
        // In torch's order each row lies in one piece.
        let (_, weight) = cx.values(0);
        let squares = |row: &[f32]| row.iter().map(|&w| f64::from(w).powi(2)).sum();
        let factors: Vec<f32> = weight.chunks_exact(self.dim).map(|row| self.scale / length_of(squares(row))).collect();
        let factors = cx.numbers("factors", &[1, self.classes, 1, 1], &factors);
        Ok(cx.node("Mul", &[&x, &factors], Vec::new()))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![false], output: true, saved: self.classes, ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let factors = self.factors(cx.params[0]);
        scale_columns(cx.inputs[0], &factors, cx.output, false);
        if !cx.saved.is_empty() {
            cx.saved.copy_from_slice(&factors);
        }
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if let Some(grad) = &mut cx.grad_inputs[0] {
            scale_columns(cx.grad_output, cx.saved, grad.data, grad.accumulate);
        }
        if let Some(grad) = &mut cx.grad_params[0] {
            let slopes = self.slopes(cx.output, cx.grad_output, cx.saved);
            scale_columns(cx.params[0], &slopes, grad.data, grad.accumulate);
        }
    }

    fn gpu_needs(&self, _: &Gpu, differentiated: bool) -> Result<Needs> {
        let forward_workspace = if differentiated { 0 } else { self.classes };
        Ok(Needs { forward_workspace, backward_workspace: self.classes, ..self.needs() })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (n, classes, dim) = (self.rows as i32, self.classes as i32, self.dim as i32);
        let factors: Ptr<f32> = if cx.saved == Ptr::NULL { cx.workspace.cast() } else { cx.saved.cast() };
        let columns = self.classes.div_ceil(32);
        kernels::column_factors(cx.gpu, columns, cx.params[0], factors, dim, classes, self.scale)?;
        let grid = Grid::any(self.rows * self.classes);
        kernels::scale_columns(cx.gpu, grid, cx.inputs[0], factors, cx.output, n, classes, 0)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let (gpu, n, classes, dim) = (cx.gpu, self.rows as i32, self.classes as i32, self.dim as i32);
        let factors = cx.saved.cast();
        if let Some(grad) = cx.grad_inputs[0] {
            let grid = Grid::any(self.rows * self.classes);
            kernels::scale_columns(gpu, grid, cx.grad_output, factors, grad.data, n, classes, grad.flag())?;
        }
        if let Some(grad) = cx.grad_params[0] {
            let (grid, slopes) = (self.classes.div_ceil(32), cx.workspace.cast());
            kernels::column_slopes(gpu, grid, cx.output, cx.grad_output, factors, slopes, n, classes, self.scale)?;
            let grid = Grid::any(self.dim * self.classes);
            kernels::scale_columns_f32(gpu, grid, cx.params[0], slopes, grad.data, dim, classes, grad.flag())?;
        }
        Ok(())
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    vec![OpCase::new("cosine_linear", &[Shape::vectors(5, 6)], &[(&[9, 6], Layout::Conv)], |g, s, x, p, _| {
        cosine_linear(g, s, x[0], p[0], 4.0)
    })]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    vec![OpCase::new(
        "cosine_linear 2048-751",
        &[Shape::vectors(64, 2048)],
        &[(&[751, 2048], Layout::Conv)],
        |g, s, x, p, _| cosine_linear(g, s, x[0], p[0], 64.0),
    )]
}
