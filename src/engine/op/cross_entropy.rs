//! Softmax cross-entropy, mean over the n images of the batch, with label smoothing s over C classes:
//! `loss = mean(logsumexp(z) - (1-s)·z_label - s·mean(z))`, `dz = (softmax(z) - (1-s)·onehot - s/C)/n`.

use super::workspace::Parts;
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::device::{Gpu, Ptr, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, Op, Var};
use crate::engine::shape::Shape;

#[derive(Debug)]
struct CrossEntropy {
    batch: usize,
    classes: usize,
    smoothing: f64,
}

/// Records the loss of `logits` `[n, 1, 1, classes]` against `labels` `[n, 1, 1, 1]` (u32 bits, each below the number of classes).
///
/// # Errors
/// The shapes do not fit.
pub fn cross_entropy(g: &mut Graph, logits: Var, labels: Var, label_smoothing: f32) -> Result<Var> {
    let (z, l) = (g.shape(logits), g.shape(labels));
    if z != Shape::vectors(z.n, z.c) || l != Shape::vectors(z.n, 1) {
        return Err(mismatch(
            "cross_entropy",
            format!("logits {z} and labels {l} are not one vector and one label per image"),
        ));
    }
    let op = CrossEntropy { batch: z.n, classes: z.c, smoothing: f64::from(label_smoothing) };
    g.push(op, &[logits, labels], Shape::SCALAR, Attachments::default())
}

/// Returns log Σ exp(z). The maximum is subtracted before the exponential, so that nothing overflows.
pub(super) fn log_sum_exp(z: &[f32]) -> f64 {
    let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + z.iter().map(|&v| (f64::from(v) - f64::from(max)).exp()).sum::<f64>().ln()
}

/// Returns the memory on a GPU of a loss whose backward reads `log_sum_exp` of each row.
pub(super) fn gpu_needs(batch: usize) -> Needs {
    let (mut saved, mut workspace) = (Parts::default(), Parts::default());
    saved.add::<f64>(batch);
    workspace.add::<f64>(2 * batch);
    let inputs = vec![true, true];
    Needs { inputs, saved: saved.words(), forward_workspace: workspace.words(), ..Needs::default() }
}

/// Returns the addresses of the terms of the loss and of `log_sum_exp` of each row, which is saved if there will be a backward.
pub(super) fn gpu_places(cx: &GpuForward<'_>, batch: usize) -> [Ptr<f64>; 2] {
    let terms: Ptr<f64> = cx.workspace.cast();
    [terms, if cx.saved == Ptr::NULL { terms.add(batch) } else { cx.saved.cast() }]
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![true, true], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let labels: &[u32] = bytemuck::cast_slice(cx.inputs[1]);
        let mut sum = 0.0;
        for (z, &label) in cx.inputs[0].chunks_exact(self.classes).zip(labels) {
            let mean = z.iter().map(|&v| f64::from(v)).sum::<f64>() / self.classes as f64;
            let target = (1.0 - self.smoothing) * f64::from(z[label as usize]) + self.smoothing * mean;
            sum += log_sum_exp(z) - target;
        }
        cx.output[0] = (sum / labels.len() as f64) as f32;
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let labels: &[u32] = bytemuck::cast_slice(cx.inputs[1]);
        let scale = f64::from(cx.grad_output[0]) / labels.len() as f64;
        let base = self.smoothing / self.classes as f64;
        for (row, (z, &label)) in cx.inputs[0].chunks_exact(self.classes).zip(labels).enumerate() {
            let lse = log_sum_exp(z);
            for (c, &v) in z.iter().enumerate() {
                let hit = if c == label as usize { 1.0 - self.smoothing } else { 0.0 };
                let value = ((f64::from(v) - lse).exp() - hit - base) * scale;
                grad.put(row * self.classes + c, value as f32);
            }
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(gpu_needs(self.batch))
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (classes, n, smoothing) = (self.classes as i32, self.batch as i32, self.smoothing as f32);
        let [terms, log_sum_exp] = gpu_places(cx, self.batch);
        let (logits, labels) = (cx.inputs[0], cx.inputs[1].cast());
        kernels::cross_entropy(cx.gpu, self.batch, logits, labels, terms, log_sum_exp, classes, smoothing)?;
        kernels::sum_terms(cx.gpu, 1, terms, cx.output.cast(), n, n)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (classes, n, smoothing) = (self.classes as i32, self.batch as i32, self.smoothing as f32);
        let (logits, labels, dloss, flag) = (cx.inputs[0], cx.inputs[1].cast(), cx.grad_output.cast(), grad.flag());
        let (grid, saved, dx) = (self.batch, cx.saved.cast(), grad.data);
        kernels::cross_entropy_backward(cx.gpu, grid, logits, labels, saved, dloss, dx, n, classes, smoothing, flag)
    }

    fn exact(&self) -> bool {
        true
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    vec![
        OpCase::new("cross_entropy", &[Shape::vectors(5, 7)], &[], |g, _, x, _, fixed| {
            cross_entropy(g, x[0], fixed[0], 0.0)
        })
        .labels(&[0, 3, 6, 3, 1]),
        OpCase::new("cross_entropy smoothed", &[Shape::vectors(5, 7)], &[], |g, _, x, _, fixed| {
            cross_entropy(g, x[0], fixed[0], 0.1)
        })
        .labels(&[0, 3, 6, 3, 1]),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let labels: Vec<u32> = (0..64).map(|i| i * 11).collect();
    vec![
        OpCase::new("cross_entropy", &[Shape::vectors(64, 751)], &[], |g, _, x, _, fixed| {
            cross_entropy(g, x[0], fixed[0], 0.0)
        })
        .labels(&labels),
    ]
}
