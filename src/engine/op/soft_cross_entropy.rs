//! Softmax cross-entropy against class probabilities (as torch's `cross_entropy` takes them), mean over the batch:
//! `loss = mean(Σ_c t_c (logsumexp(z) - z_c))`, `dz = (softmax(z)·Σ_c t_c - t)/n`. Used for mixed images.

use super::cross_entropy::{gpu_needs, gpu_places, log_sum_exp};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::device::{Gpu, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, Op, Var};
use crate::engine::shape::Shape;

#[derive(Debug)]
struct SoftCrossEntropy {
    batch: usize,
    classes: usize,
}

/// Records the loss of `logits` `[n, 1, 1, classes]` against `targets` of the same shape ([`Graph::targets`]), which get no gradient.
///
/// # Errors
/// The shapes do not fit.
pub fn soft_cross_entropy(g: &mut Graph, logits: Var, targets: Var) -> Result<Var> {
    let (z, t) = (g.shape(logits), g.shape(targets));
    if z != Shape::vectors(z.n, z.c) || t != z {
        let detail = format!("logits {z} and targets {t} are not one vector each for every image");
        return Err(mismatch("soft_cross_entropy", detail));
    }
    let op = SoftCrossEntropy { batch: z.n, classes: z.c };
    g.push(op, &[logits, targets], Shape::SCALAR, Attachments::default())
}

impl Op for SoftCrossEntropy {
    fn name(&self) -> &'static str {
        "soft_cross_entropy"
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![true, true], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let rows = cx.inputs[0].chunks_exact(self.classes).zip(cx.inputs[1].chunks_exact(self.classes));
        let terms = rows.map(|(z, t)| {
            let lse = log_sum_exp(z);
            z.iter().zip(t).map(|(&z, &t)| f64::from(t) * (lse - f64::from(z))).sum::<f64>()
        });
        cx.output[0] = (terms.sum::<f64>() / self.batch as f64) as f32;
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let scale = f64::from(cx.grad_output[0]) / self.batch as f64;
        let rows = cx.inputs[0].chunks_exact(self.classes).zip(cx.inputs[1].chunks_exact(self.classes));
        for (row, (z, t)) in rows.enumerate() {
            let (lse, whole) = (log_sum_exp(z), t.iter().map(|&t| f64::from(t)).sum::<f64>());
            for (c, (&z, &t)) in z.iter().zip(t).enumerate() {
                let value = ((f64::from(z) - lse).exp() * whole - f64::from(t)) * scale;
                grad.put(row * self.classes + c, value as f32);
            }
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(gpu_needs(self.batch))
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (classes, n) = (self.classes as i32, self.batch as i32);
        let [terms, log_sum_exp] = gpu_places(cx, self.batch);
        let (logits, targets) = (cx.inputs[0], cx.inputs[1].cast());
        kernels::soft_cross_entropy(cx.gpu, self.batch, logits, targets, terms, log_sum_exp, classes)?;
        kernels::sum_terms(cx.gpu, 1, terms, cx.output.cast(), n, n)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (classes, n) = (self.classes as i32, self.batch as i32);
        let (logits, targets, dloss, flag) = (cx.inputs[0], cx.inputs[1].cast(), cx.grad_output.cast(), grad.flag());
        let (grid, saved, dx) = (self.batch, cx.saved.cast(), grad.data);
        kernels::soft_cross_entropy_backward(cx.gpu, grid, logits, targets, saved, dloss, dx, n, classes, flag)
    }

    fn exact(&self) -> bool {
        true
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let shares: Vec<f32> = (0..35).map(|i| (i * 7 % 5) as f32 / 8.0).collect();
    vec![
        OpCase::new("soft_cross_entropy", &[Shape::vectors(5, 7)], &[], |g, _, x, _, fixed| {
            soft_cross_entropy(g, x[0], fixed[0])
        })
        .targets(Shape::vectors(5, 7), &shares),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let shares: Vec<f32> = (0..64 * 1000).map(|i| if i % 1001 == 0 { 1.0 } else { 0.0 }).collect();
    vec![
        OpCase::new("soft_cross_entropy", &[Shape::vectors(64, 1000)], &[], |g, _, x, _, fixed| {
            soft_cross_entropy(g, x[0], fixed[0])
        })
        .targets(Shape::vectors(64, 1000), &shares),
    ]
}
