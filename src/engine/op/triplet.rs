//! Batch-hard triplet loss (Hermans et al., 2017; Yu et al., 2019):
//! `mean_i max(0, max_{same id} d(i, p) - min_{other id} d(i, n) + margin)`, `d = √max(|f_i - f_j|², 1e-12)`.
//!
//! The anchor counts among its own positives. If several examples are equally hard, they share the gradient evenly. Squared distances are
//! summed from differences, not from the expanded product, so that near points lose no digits.

use rayon::prelude::*;

use super::workspace::{Part, Parts};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::device::{Gpu, Grid, Ptr, Untyped, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, Op, Var};
use crate::engine::precision::Precision;
use crate::engine::shape::Shape;

/// Squared distances are at least this; the gradient of a clamped one is 0.
const MIN_SQUARED: f64 = 1e-12;

#[derive(Debug)]
struct Triplet {
    batch: usize,
    dim: usize,
    margin: f64,
}

/// Records the loss of `features` `[n, 1, 1, d]` with the identities `labels` `[n, 1, 1, 1]` (u32 bits).
/// An anchor without any negative in the batch (a single identity) contributes nothing.
///
/// # Errors
/// The shapes do not fit.
pub fn batch_hard_triplet(g: &mut Graph, features: Var, labels: Var, margin: f32) -> Result<Var> {
    let (f, l) = (g.shape(features), g.shape(labels));
    if f != Shape::vectors(f.n, f.c) || l != Shape::vectors(f.n, 1) {
        let detail = format!("features {f} and labels {l} are not one vector and one label per image");
        return Err(mismatch("batch_hard_triplet", detail));
    }
    let op = Triplet { batch: f.n, dim: f.c, margin: f64::from(margin) };
    g.push(op, &[features, labels], Shape::SCALAR, Attachments::default())
}

impl Triplet {
    /// Returns the squared distances `[n, n]`.
    fn squared(&self, features: &[f32]) -> Vec<f64> {
        let row = |i: usize| &features[i * self.dim..(i + 1) * self.dim];
        let cells = 0..self.batch * self.batch;
        let pairs = cells.into_par_iter().map(|cell| (cell / self.batch, cell % self.batch));
        pairs
            .map(|(i, j)| {
                // The same order of operands for (i, j) and (j, i), so that exact ties stay exact.
                let (a, b) = (row(i.min(j)), row(i.max(j)));
                a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().max(MIN_SQUARED)
            })
            .collect()
    }

    /// Returns the hardest of `candidates` for one anchor: its squared distance, and the indices of all that have exactly this distance.
    fn hardest(row: &[f64], candidates: impl Fn(usize) -> bool, farthest: bool) -> Option<(f64, Vec<usize>)> {
        let mut best: Option<(f64, Vec<usize>)> = None;
        for (j, &d) in row.iter().enumerate().filter(|(j, _)| candidates(*j)) {
            match &mut best {
                Some((hardest, ties)) if d == *hardest => ties.push(j),
                Some((hardest, _)) if (d > *hardest) != farthest => {}
                _ => best = Some((d, vec![j])),
            }
        }
        best
    }

    /// Returns for each anchor that has a negative: its term of the loss before clamping, hardest positives, hardest negatives.
    fn mine(&self, squared: &[f64], labels: &[u32]) -> Vec<Option<(f64, Vec<usize>, Vec<usize>)>> {
        let mine_one = |i: usize| {
            let row = &squared[i * self.batch..(i + 1) * self.batch];
            let (positive, positives) = Self::hardest(row, |j| labels[j] == labels[i], true)?;
            let (negative, negatives) = Self::hardest(row, |j| labels[j] != labels[i], false)?;
            Some((positive.sqrt() - negative.sqrt() + self.margin, positives, negatives))
        };
        (0..self.batch).map(mine_one).collect()
    }
}

/// What backward reads on a GPU.
struct SavedParts {
    factors: Part<f64>,
    /// The features in f32, if activations are bf16.
    features: Part<f32>,
    parts: Parts,
}

/// The workspace of forward on a GPU.
struct ForwardParts {
    squared: Part<f64>,
    terms: Part<f64>,
    /// Takes the place of the saved block if there will be no backward.
    kept: Part<Untyped>,
    parts: Parts,
}

impl Triplet {
    fn saved_parts(&self, gpu: &Gpu) -> SavedParts {
        let mut parts = Parts::default();
        let factors = parts.add(self.batch * self.batch);
        let features = parts.add_bytes(4 * self.gradient_words(gpu));
        SavedParts { factors, features, parts }
    }

    fn forward_parts(&self, gpu: &Gpu) -> ForwardParts {
        let mut parts = Parts::default();
        let squared = parts.add(self.batch * self.batch);
        let terms = parts.add(self.batch);
        let kept = parts.add_bytes(4 * self.saved_parts(gpu).parts.words());
        ForwardParts { squared, terms, kept, parts }
    }

    /// Returns the words of the features or their gradient in f32, 0 if activations are f32 already.
    fn gradient_words(&self, gpu: &Gpu) -> usize {
        if gpu.precision() == Precision::Bf16 { self.batch * self.dim } else { 0 }
    }
}

impl Op for Triplet {
    fn name(&self) -> &'static str {
        "batch_hard_triplet"
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![true, true], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let labels: &[u32] = bytemuck::cast_slice(cx.inputs[1]);
        let squared = self.squared(cx.inputs[0]);
        // A comparison instead of `max`, which would hide NaN.
        let hinge = |term: f64| if term < 0.0 { 0.0 } else { term };
        let sum: f64 = self.mine(&squared, labels).iter().flatten().map(|(term, ..)| hinge(*term)).sum();
        let poisoned = squared.iter().any(|d| d.is_nan()) || cx.inputs[0].iter().any(|f| f.is_nan());
        cx.output[0] = if poisoned { f32::NAN } else { (sum / self.batch as f64) as f32 };
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let features = cx.inputs[0];
        let labels: &[u32] = bytemuck::cast_slice(cx.inputs[1]);
        let squared = self.squared(features);
        let scale = f64::from(cx.grad_output[0]) / self.batch as f64;
        let mut df = vec![0.0f64; features.len()];
        for (i, mined) in self.mine(&squared, labels).into_iter().enumerate() {
            let Some((_, positives, negatives)) = mined.filter(|(term, ..)| *term > 0.0) else { continue };
            for (ties, sign) in [(positives, 1.0), (negatives, -1.0)] {
                for &j in &ties {
                    let d2 = squared[i * self.batch + j];
                    if d2 <= MIN_SQUARED {
                        continue;
                    }
                    let factor = sign * scale / (ties.len() as f64 * d2.sqrt());
                    for k in 0..self.dim {
                        let (a, b) = (i * self.dim + k, j * self.dim + k);
                        let step = factor * (f64::from(features[a]) - f64::from(features[b]));
                        df[a] += step;
                        df[b] -= step;
                    }
                }
            }
        }
        df.iter().enumerate().for_each(|(i, &v)| grad.put(i, v as f32));
    }

    fn gpu_needs(&self, gpu: &Gpu, _: bool) -> Result<Needs> {
        Ok(Needs {
            inputs: vec![true, true],
            saved: self.saved_parts(gpu).parts.words(),
            forward_workspace: self.forward_parts(gpu).parts.words(),
            backward_workspace: self.gradient_words(gpu),
            ..Needs::default()
        })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (gpu, n, dim) = (cx.gpu, self.batch as i32, self.dim as i32);
        let forward = self.forward_parts(gpu);
        let (squared, terms) = (forward.squared.of(cx.workspace), forward.terms.of(cx.workspace));
        let kept = if cx.saved == Ptr::NULL { forward.kept.of(cx.workspace) } else { cx.saved };
        let SavedParts { factors, features, .. } = self.saved_parts(gpu);
        let factors = factors.of(kept);
        let features = match gpu.precision() {
            Precision::Bf16 => {
                let (exact, len) = (features.of(kept), self.batch * self.dim);
                kernels::cast_bf16_f32(gpu, Grid::any(len), cx.inputs[0].cast(), exact, len as i64)?;
                exact
            }
            _ => cx.inputs[0].cast(),
        };
        kernels::triplet_distances(gpu, (self.batch * self.batch).div_ceil(8), features, squared, n, dim)?;
        let (labels, margin) = (cx.inputs[1].cast(), self.margin as f32);
        kernels::triplet_mine(gpu, self.batch.div_ceil(64), squared, labels, terms, factors, n, margin)?;
        kernels::sum_terms(gpu, 1, terms, cx.output.cast(), n, n)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (gpu, n, dim) = (cx.gpu, self.batch as i32, self.dim as i32);
        let SavedParts { factors, features, .. } = self.saved_parts(gpu);
        let (factors, dloss, grid) =
            (factors.of(cx.saved), cx.grad_output.cast(), [self.dim.div_ceil(256), self.batch]);
        if gpu.precision() != Precision::Bf16 {
            let (features, dx) = (cx.inputs[0].cast(), grad.data.cast());
            return kernels::triplet_backward(gpu, grid, features, factors, dloss, dx, n, dim, grad.flag());
        }
        let (features, exact, len) = (features.of(cx.saved), cx.workspace.cast(), self.batch * self.dim);
        kernels::triplet_backward(gpu, grid, features, factors, dloss, exact, n, dim, 0)?;
        kernels::put_bf16_from_f32(gpu, Grid::any(len), exact, grad.data.cast(), len as i64, grad.flag())
    }

    fn exact(&self) -> bool {
        true
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    vec![
        OpCase::new("batch_hard_triplet", &[Shape::vectors(8, 5)], &[], |g, _, x, _, l| {
            batch_hard_triplet(g, x[0], l.expect("labels"), 0.8)
        })
        .labels(&[0, 0, 1, 1, 1, 2, 2, 3])
        .kinked(),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let labels: Vec<u32> = (0..64).map(|i| i / 4).collect();
    vec![
        OpCase::new("batch_hard_triplet", &[Shape::vectors(64, 2048)], &[], |g, _, x, _, l| {
            batch_hard_triplet(g, x[0], l.expect("labels"), 0.3)
        })
        .labels(&labels),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_features_have_in_common_does_not_matter() {
        let op = Triplet { batch: 6, dim: 40, margin: 0.3 };
        // Sums with 8192 are exact.
        let own: Vec<f32> = (0..240).map(|i| (i * i * 37 % 1009) as f32 / 1024.0).collect();
        let moved: Vec<f32> = own.iter().map(|x| x + 8192.0).collect();
        assert_eq!(op.squared(&moved), op.squared(&own));
        let labels = [0, 0, 1, 1, 2, 2];
        assert_eq!(op.mine(&op.squared(&moved), &labels), op.mine(&op.squared(&own), &labels));
        let scaled: Vec<f32> = own.iter().map(|x| x * 1e25).collect();
        assert!(op.squared(&scaled).iter().all(|d| d.is_finite()));
    }
}
