//! Centre loss (Wen et al., ECCV 2016): half the mean over the batch of the squared distance of a feature to the centre of its class,
//! `½·mean |f_i - c_y|²`, `df_i = (f_i - c_y)/n`.
//!
//! Centres get no gradient. After a step they follow the features by the publication's rule, with the rate α:
//! `c_j -= α·Σ_{y_i = j} (c_j - f_i) / (1 + n_j)`, where n_j is the number of images of class j in the batch.

use super::workspace::Parts;
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::device::{Gpu, Grid, Ptr, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, Op, Var};
use crate::engine::shape::Shape;

#[derive(Debug)]
struct CenterLoss {
    batch: usize,
    dim: usize,
}

/// Records the loss of `features` `[n, 1, 1, d]` with `labels` `[n, 1, 1, 1]` (u32 bits, each below the number of classes). `centers`
/// `[classes, 1, 1, d]` are an input that [`Graph::targets`] recorded.
///
/// # Errors
/// The shapes do not fit, or the centres are no such input.
pub fn center_loss(g: &mut Graph, features: Var, labels: Var, centers: Var) -> Result<Var> {
    let (f, l, c) = (g.shape(features), g.shape(labels), g.shape(centers));
    if f != Shape::vectors(f.n, f.c) || l != Shape::vectors(f.n, 1) {
        let detail = format!("features {f} and labels {l} are not one vector and one label per image");
        return Err(mismatch("center_loss", detail));
    }
    if c != Shape::vectors(c.n, f.c) || !g.is_target(centers) {
        let detail = format!("centres {c} are not targets with one vector for each class, as features {f} are");
        return Err(mismatch("center_loss", detail));
    }
    let op = CenterLoss { batch: f.n, dim: f.c };
    g.push(op, &[features, labels, centers], Shape::SCALAR, Attachments::default())
}

/// Moves `centers`, each of `dim` numbers, towards the features of their classes with the rate `rate`.
pub fn move_centers(centers: &mut [f32], features: &[f32], labels: &[u32], dim: usize, rate: f32) {
    let rows = || labels.iter().zip(features.chunks_exact(dim));
    for (i, &label) in labels.iter().enumerate() {
        // The first image of a class moves its centre, by all images of the class.
        if labels[..i].contains(&label) {
            continue;
        }
        let of_class: Vec<&[f32]> = rows().filter(|(other, _)| **other == label).map(|(_, row)| row).collect();
        let factor = f64::from(rate) / (1 + of_class.len()) as f64;
        for (k, center) in centers[label as usize * dim..][..dim].iter_mut().enumerate() {
            let old = f64::from(*center);
            let sum: f64 = of_class.iter().map(|row| old - f64::from(row[k])).sum();
            *center = (old - factor * sum) as f32;
        }
    }
}

/// Enqueues [`move_centers`] for `n` features in the type of activations.
pub(crate) fn launch_move_centers(
    gpu: &Gpu,
    centers: Ptr<f32>,
    features: Ptr,
    labels: Ptr<u32>,
    [n, dim]: [usize; 2],
    rate: f32,
) -> Result<()> {
    kernels::move_centers(gpu, [dim.div_ceil(256), n], centers, features, labels, n as i32, dim as i32, rate)
}

impl CenterLoss {
    /// Returns the inputs row by row: each feature with the centre of its class.
    fn pairs<'a>(&self, inputs: &[&'a [f32]]) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
        let (labels, centers, dim): (&[u32], _, _) = (bytemuck::cast_slice(inputs[1]), inputs[2], self.dim);
        let center = move |&label: &u32| &centers[label as usize * dim..][..dim];
        inputs[0].chunks_exact(dim).zip(labels.iter().map(center))
    }
}

impl Op for CenterLoss {
    fn name(&self) -> &'static str {
        "center_loss"
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![true; 3], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let squared = |(f, c): (&[f32], &[f32])| {
            f.iter().zip(c).map(|(&f, &c)| (f64::from(f) - f64::from(c)).powi(2)).sum::<f64>()
        };
        let sum: f64 = self.pairs(&cx.inputs).map(squared).sum();
        cx.output[0] = (sum / (2 * self.batch) as f64) as f32;
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let scale = f64::from(cx.grad_output[0]) / self.batch as f64;
        for (row, (f, c)) in self.pairs(&cx.inputs).enumerate() {
            for (k, (&f, &c)) in f.iter().zip(c).enumerate() {
                grad.put(row * self.dim + k, ((f64::from(f) - f64::from(c)) * scale) as f32);
            }
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        let mut workspace = Parts::default();
        workspace.add::<f64>(self.batch);
        Ok(Needs { forward_workspace: workspace.words(), ..self.needs() })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (gpu, n, dim, terms) = (cx.gpu, self.batch as i32, self.dim as i32, cx.workspace.cast());
        let (features, labels, centers) = (cx.inputs[0], cx.inputs[1].cast(), cx.inputs[2].cast());
        kernels::center_loss(gpu, self.batch, features, labels, centers, terms, dim)?;
        kernels::sum_terms(gpu, 1, terms, cx.output.cast(), n, 2 * n)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (grid, n, dim) = (Grid::any(self.batch * self.dim), self.batch as i32, self.dim as i32);
        let (features, labels, centers) = (cx.inputs[0], cx.inputs[1].cast(), cx.inputs[2].cast());
        let (dloss, dfeatures) = (cx.grad_output.cast(), grad.data);
        kernels::center_loss_backward(cx.gpu, grid, features, labels, centers, dloss, dfeatures, n, dim, grad.flag())
    }

    fn exact(&self) -> bool {
        true
    }
}

/// A case with labels and with the centres of `classes` classes.
fn with_centers(case: OpCase, labels: &[u32], classes: usize, dim: usize) -> OpCase {
    let numbers: Vec<f32> = (0..classes * dim).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    case.labels(labels).targets(Shape::vectors(classes, dim), &numbers)
}

pub(super) fn cases() -> Vec<OpCase> {
    let case = OpCase::new("center_loss", &[Shape::vectors(6, 5)], &[], |g, _, x, _, fixed| {
        center_loss(g, x[0], fixed[0], fixed[1])
    });
    vec![with_centers(case, &[0, 2, 0, 3, 2, 0], 4, 5)]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let labels: Vec<u32> = (0..64).map(|i| i / 4 * 40).collect();
    let case = OpCase::new("center_loss", &[Shape::vectors(64, 2048)], &[], |g, _, x, _, fixed| {
        center_loss(g, x[0], fixed[0], fixed[1])
    });
    vec![with_centers(case, &labels, 751, 2048)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Mode;

    #[test]
    fn centres_move_by_the_rule_of_the_publication() {
        let mut centers = [0.0, 1.0, 5.0, 5.0, -2.0, 4.0];
        move_centers(&mut centers, &[3.0, 1.0, 6.0, 4.0, 0.0, 0.0], &[0, 0, 2], 2, 0.5);
        // (0, 1) moves by 0.5·((3, 0) + (6, 3))/3, (-2, 4) by 0.5·(2, -4)/2; the other one stays.
        assert_eq!(centers, [1.5, 1.5, 5.0, 5.0, -1.5, 3.0]);
    }

    #[test]
    fn centres_that_do_not_fit_are_refused() {
        let mut g = Graph::new(Mode::Train);
        let (features, labels) = (g.input_with_grad(Shape::vectors(4, 3)), g.labels(4));
        let (centers, wide) = (g.targets(Shape::vectors(6, 3)), g.targets(Shape::vectors(6, 4)));
        let trained = g.input_with_grad(Shape::vectors(6, 3));
        for centers in [wide, trained] {
            let error = center_loss(&mut g, features, labels, centers).unwrap_err().to_string();
            assert!(error.contains("are not targets with one vector for each class"), "{error}");
        }
        center_loss(&mut g, features, labels, centers).unwrap();
    }
}
