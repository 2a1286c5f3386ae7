//! Softmax cross-entropy, mean over the n images of the batch, with label smoothing s over C classes:
//! `loss = mean(logsumexp(z) - (1-s)·z_label - s·mean(z))`, `dz = (softmax(z) - (1-s)·onehot - s/C)/n`.
//!
//! Classes may have weights w, as in torch's `cross_entropy`: the label's part of a term counts w_label times, what smoothing gives a class
//! counts as often as its own weight says, and the sum is divided by the sum of the labels' weights instead of n.
//!
//! The focal loss (Lin et al., ICCV 2017) multiplies each term by `(1 - p)^γ` for the probability p of the label. It has no smoothing.

use super::workspace::Parts;
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::device::{Gpu, Ptr, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, Op, Var};
use crate::engine::shape::Shape;

/// What differs from the plain cross-entropy.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossEntropyOptions {
    /// Share of the target probability that is spread over all classes.
    pub label_smoothing: f32,
    /// The exponent γ of the focal loss; 0 for none.
    pub focal_gamma: f32,
    /// Weights of the classes `[1, 1, 1, classes]`: an input that [`Graph::targets`] recorded.
    pub class_weights: Option<Var>,
}

#[derive(Debug)]
struct CrossEntropy {
    batch: usize,
    classes: usize,
    smoothing: f64,
    gamma: f64,
    /// Whether the third input has weights of the classes.
    weighted: bool,
}

/// Records the loss of `logits` `[n, 1, 1, classes]` against `labels` `[n, 1, 1, 1]` (u32 bits, each below the number of classes).
///
/// # Errors
/// The shapes do not fit, the weights are no input that [`Graph::targets`] recorded, or a focal loss is smoothed.
pub fn cross_entropy(g: &mut Graph, logits: Var, labels: Var, options: CrossEntropyOptions) -> Result<Var> {
    let (z, l) = (g.shape(logits), g.shape(labels));
    let CrossEntropyOptions { label_smoothing, focal_gamma, class_weights } = options;
    if z != Shape::vectors(z.n, z.c) || l != Shape::vectors(z.n, 1) {
        return Err(mismatch(
            "cross_entropy",
            format!("logits {z} and labels {l} are not one vector and one label per image"),
        ));
    }
    if let Some(weights) = class_weights.filter(|&w| g.shape(w) != Shape::vectors(1, z.c) || !g.is_target(w)) {
        let detail = format!("weights {} are not targets with one number for each class of {z}", g.shape(weights));
        return Err(mismatch("cross_entropy", detail));
    }
    if focal_gamma > 0.0 && label_smoothing > 0.0 {
        let detail = format!("a focal loss (gamma {focal_gamma}) has no label smoothing ({label_smoothing})");
        return Err(mismatch("cross_entropy", detail));
    }
    let op = CrossEntropy {
        batch: z.n,
        classes: z.c,
        smoothing: f64::from(label_smoothing),
        gamma: f64::from(focal_gamma),
        weighted: class_weights.is_some(),
    };
    let inputs: Vec<Var> = [logits, labels].into_iter().chain(class_weights).collect();
    g.push(op, &inputs, Shape::SCALAR, Attachments::default())
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

/// How a row of logits enters the loss: its term, and the factors of its gradient `total·softmax(z) - hit·onehot - s/C·w`.
struct Row {
    term: f64,
    total: f64,
    hit: f64,
}

/// Returns how often a term `loss = -log p` of the focal loss counts, `(1 - p)^γ`, and how often its gradient does.
fn focus(loss: f64, gamma: f64) -> [f64; 2] {
    let rest = -(-loss).exp_m1();
    // The limit for p = 1.
    if rest <= 0.0 {
        return [0.0; 2];
    }
    let factor = rest.powf(gamma);
    [factor, factor * (1.0 + gamma * (1.0 - rest) * loss / rest)]
}

/// Returns the address of the weights of the classes; null if there are none.
fn of_classes(inputs: &[Ptr]) -> Ptr<f32> {
    inputs.get(2).copied().unwrap_or(Ptr::NULL).cast()
}

impl CrossEntropy {
    /// Returns how the row `z` enters the loss.
    fn row(&self, z: &[f32], label: u32, weights: Option<&[f32]>, log_sum_exp: f64) -> Row {
        let (classes, label) = (self.classes as f64, label as usize);
        let own = f64::from(z[label]);
        let weight = weights.map_or(1.0, |w| f64::from(w[label]));
        if self.gamma > 0.0 {
            let loss = log_sum_exp - own;
            let [of_term, of_gradient] = focus(loss, self.gamma).map(|factor| weight * factor);
            return Row { term: of_term * loss, total: of_gradient, hit: of_gradient };
        }
        let hit = (1.0 - self.smoothing) * weight;
        let (total, sum) = match weights {
            None => (1.0, z.iter().map(|&v| f64::from(v)).sum::<f64>()),
            Some(w) => {
                let whole: f64 = w.iter().map(|&w| f64::from(w)).sum();
                let sum = z.iter().zip(w).map(|(&z, &w)| f64::from(z) * f64::from(w)).sum();
                (hit + self.smoothing * whole / classes, sum)
            }
        };
        let target = hit * own + self.smoothing * (sum / classes);
        Row { term: total * log_sum_exp - target, total, hit }
    }

    /// Returns what the sum of the terms is divided by.
    fn divisor(&self, labels: &[u32], weights: Option<&[f32]>) -> f64 {
        match weights {
            None => self.batch as f64,
            Some(w) => labels.iter().map(|&label| f64::from(w[label as usize])).sum(),
        }
    }

    /// Returns the inputs that backward reads: all.
    fn all_inputs(&self) -> Vec<bool> {
        vec![true; if self.weighted { 3 } else { 2 }]
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn needs(&self) -> Needs {
        Needs { inputs: self.all_inputs(), ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let (labels, weights): (&[u32], _) = (bytemuck::cast_slice(cx.inputs[1]), cx.inputs.get(2).copied());
        let mut sum = 0.0;
        for (z, &label) in cx.inputs[0].chunks_exact(self.classes).zip(labels) {
            sum += self.row(z, label, weights, log_sum_exp(z)).term;
        }
        cx.output[0] = (sum / self.divisor(labels, weights)) as f32;
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let (labels, weights): (&[u32], _) = (bytemuck::cast_slice(cx.inputs[1]), cx.inputs.get(2).copied());
        let scale = f64::from(cx.grad_output[0]) / self.divisor(labels, weights);
        let base = self.smoothing / self.classes as f64;
        for (row, (z, &label)) in cx.inputs[0].chunks_exact(self.classes).zip(labels).enumerate() {
            let lse = log_sum_exp(z);
            let Row { total, hit, .. } = self.row(z, label, weights, lse);
            for (c, &v) in z.iter().enumerate() {
                let hit = if c == label as usize { hit } else { 0.0 };
                let weight = weights.map_or(1.0, |w| f64::from(w[c]));
                let value = ((f64::from(v) - lse).exp() * total - hit - base * weight) * scale;
                grad.put(row * self.classes + c, value as f32);
            }
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(Needs { inputs: self.all_inputs(), ..gpu_needs(self.batch) })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (classes, n, smoothing, gamma) =
            (self.classes as i32, self.batch as i32, self.smoothing as f32, self.gamma as f32);
        let [terms, log_sum_exp] = gpu_places(cx, self.batch);
        let (logits, labels, weights, loss) =
            (cx.inputs[0], cx.inputs[1].cast(), of_classes(&cx.inputs), cx.output.cast());
        let grid = self.batch;
        kernels::cross_entropy(cx.gpu, grid, logits, labels, weights, terms, log_sum_exp, classes, smoothing, gamma)?;
        if self.weighted {
            return kernels::weighted_mean(cx.gpu, 1, terms, labels, weights, loss, n);
        }
        kernels::sum_terms(cx.gpu, 1, terms, loss, n, n)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (classes, n, flag) = (self.classes as i32, self.batch as i32, grad.flag());
        let (smoothing, gamma) = (self.smoothing as f32, self.gamma as f32);
        let (logits, labels, weights) = (cx.inputs[0], cx.inputs[1].cast(), of_classes(&cx.inputs));
        let (gpu, saved, dloss, dx) = (cx.gpu, cx.saved.cast(), cx.grad_output.cast(), grad.data);
        kernels::cross_entropy_backward(
            gpu, self.batch, logits, labels, weights, saved, dloss, dx, n, classes, smoothing, gamma, flag,
        )
    }

    fn exact(&self) -> bool {
        true
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let logits = [Shape::vectors(5, 7)];
    let labels = [0, 3, 6, 3, 1];
    let weights = [0.25, 1.0, 0.5, 2.0, 1.5, 0.75, 1.0];
    let weighted = |case: OpCase| case.labels(&labels).targets(Shape::vectors(1, 7), &weights);
    vec![
        OpCase::new("cross_entropy", &logits, &[], |g, _, x, _, fixed| {
            cross_entropy(g, x[0], fixed[0], CrossEntropyOptions::default())
        })
        .labels(&labels),
        OpCase::new("cross_entropy smoothed", &logits, &[], |g, _, x, _, fixed| {
            cross_entropy(g, x[0], fixed[0], CrossEntropyOptions { label_smoothing: 0.1, ..Default::default() })
        })
        .labels(&labels),
        OpCase::new("cross_entropy focal", &logits, &[], |g, _, x, _, fixed| {
            cross_entropy(g, x[0], fixed[0], CrossEntropyOptions { focal_gamma: 2.0, ..Default::default() })
        })
        .labels(&labels),
        weighted(OpCase::new("cross_entropy weighted, smoothed", &logits, &[], |g, _, x, _, fixed| {
            let class_weights = Some(fixed[1]);
            let options = CrossEntropyOptions { label_smoothing: 0.1, class_weights, ..Default::default() };
            cross_entropy(g, x[0], fixed[0], options)
        })),
        weighted(OpCase::new("cross_entropy weighted, focal", &logits, &[], |g, _, x, _, fixed| {
            let class_weights = Some(fixed[1]);
            let options = CrossEntropyOptions { focal_gamma: 0.5, class_weights, ..Default::default() };
            cross_entropy(g, x[0], fixed[0], options)
        })),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let labels: Vec<u32> = (0..64).map(|i| i * 11).collect();
    vec![
        OpCase::new("cross_entropy", &[Shape::vectors(64, 751)], &[], |g, _, x, _, fixed| {
            cross_entropy(g, x[0], fixed[0], CrossEntropyOptions::default())
        })
        .labels(&labels),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Mode;

    #[test]
    fn weights_that_do_not_fit_and_a_smoothed_focal_loss_are_refused() {
        let mut g = Graph::new(Mode::Train);
        let (logits, labels) = (g.input_with_grad(Shape::vectors(4, 3)), g.labels(4));
        let (weights, four) = (g.targets(Shape::vectors(1, 3)), g.targets(Shape::vectors(1, 4)));
        let trained = g.input_with_grad(Shape::vectors(1, 3));
        let mut refused = |class_weights, label_smoothing, focal_gamma| {
            let options = CrossEntropyOptions { label_smoothing, focal_gamma, class_weights };
            cross_entropy(&mut g, logits, labels, options).err().map(|error| error.to_string())
        };
        for weights in [four, trained] {
            assert!(refused(Some(weights), 0.0, 0.0).is_some_and(|error| error.contains("are not targets")));
        }
        assert!(refused(Some(weights), 0.1, 2.0).is_some_and(|error| error.contains("has no label smoothing")));
        assert_eq!(refused(Some(weights), 0.1, 0.0), None);
    }

    /// A label that is certain has no loss and no gradient, also where `(1 - p)^(γ-1)` has a pole.
    #[test]
    fn the_focus_on_a_certain_label_is_its_limit() {
        for gamma in [0.5, 1.0, 2.0] {
            assert_eq!(focus(0.0, gamma), [0.0; 2]);
            let [factor, slope] = focus(1e-12, gamma);
            assert!((0.0..1e-5).contains(&factor) && (0.0..1e-5).contains(&slope), "{gamma}: {factor} {slope}");
        }
    }
}
