//! Batch-hard triplet loss (Hermans et al., 2017; Yu et al., 2019):
//! `mean_i max(0, max_{same id} d(i, p) - min_{other id} d(i, n) + margin)`, `d = √max(|f_i - f_j|², 1e-12)`.
//!
//! The anchor counts among its own positives. If several examples are equally hard, they share the gradient evenly. Squared distances are
//! summed from differences, not from the expanded product, so that near points lose no digits.
//!
//! Positives and negatives may also come from a bank of embeddings of earlier batches (cross-batch memory; Wang et al., CVPR 2020). They are
//! constants: an anchor gets a gradient from them, and they get none.

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

/// The label of an empty place of a bank, which is never mined.
pub const NO_LABEL: u32 = u32::MAX;

/// A bank of embeddings of earlier batches: inputs of the graph that [`Graph::targets`] records.
#[derive(Clone, Copy, Debug)]
pub struct TripletBank {
    /// `[m, 1, 1, d]`
    pub features: Var,
    /// `[m, 1, 1, 1]`, the bits of u32; [`NO_LABEL`] for an empty place, whose features may be anything.
    pub labels: Var,
}

#[derive(Debug)]
struct Triplet {
    /// Number of anchors, which are the rows of the batch.
    batch: usize,
    /// Number of places of the bank; 0 without one. Its rows follow those of the batch.
    bank: usize,
    dim: usize,
    margin: f64,
}

/// Records the loss of `features` `[n, 1, 1, d]` with the identities `labels` `[n, 1, 1, 1]` (u32 bits). With a bank, the hardest positive
/// and the hardest negative of an anchor are those of batch and bank together.
/// An anchor without any negative (a single identity) contributes nothing.
///
/// # Errors
/// The shapes do not fit, or the bank is not made of inputs that [`Graph::targets`] recorded.
pub fn batch_hard_triplet(
    g: &mut Graph,
    features: Var,
    labels: Var,
    bank: Option<TripletBank>,
    margin: f32,
) -> Result<Var> {
    let (f, l) = (g.shape(features), g.shape(labels));
    if f != Shape::vectors(f.n, f.c) || l != Shape::vectors(f.n, 1) {
        let detail = format!("features {f} and labels {l} are not one vector and one label per image");
        return Err(mismatch("batch_hard_triplet", detail));
    }
    let (mut inputs, mut places) = (vec![features, labels], 0);
    if let Some(TripletBank { features, labels }) = bank {
        let (of_bank, l) = (g.shape(features), g.shape(labels));
        if of_bank != Shape::vectors(of_bank.n, f.c) || l != Shape::vectors(of_bank.n, 1) {
            let detail = format!("a bank of {of_bank} with labels {l} does not fit features {f}");
            return Err(mismatch("batch_hard_triplet", detail));
        }
        if ![features, labels].iter().all(|&var| g.is_target(var)) {
            return Err(mismatch("batch_hard_triplet", "the bank is not made of targets, which are constants".into()));
        }
        inputs.extend([features, labels]);
        places = of_bank.n;
    }
    let op = Triplet { batch: f.n, bank: places, dim: f.c, margin: f64::from(margin) };
    g.push(op, &inputs, Shape::SCALAR, Attachments::default())
}

/// The rows of batch and bank on the CPU.
struct Rows<'a> {
    /// The features of each.
    features: Vec<&'a [f32]>,
    labels: Vec<u32>,
    /// Whether it may be mined: false for empty places of the bank.
    present: Vec<bool>,
}

/// Distances that are summed side by side. Each sum alone would wait for its own last addition.
const AT_ONCE: usize = 8;

/// Returns the squared distances of `anchor` to 1 to [`AT_ONCE`] rows, each summed in the order of the numbers. If there are fewer rows, the
/// last distance is repeated.
fn squared_distances(anchor: &[f32], rows: &[&[f32]]) -> [f64; AT_ONCE] {
    let side_by_side: [&[f32]; AT_ONCE] = std::array::from_fn(|i| &rows[i.min(rows.len() - 1)][..anchor.len()]);
    let mut sums = [0.0f64; AT_ONCE];
    for (k, &x) in anchor.iter().enumerate() {
        for (sum, row) in sums.iter_mut().zip(side_by_side) {
            *sum += (f64::from(x) - f64::from(row[k])).powi(2);
        }
    }
    sums.map(|sum| sum.max(MIN_SQUARED))
}

impl Triplet {
    /// Returns the number of rows of batch and bank.
    fn width(&self) -> usize {
        self.batch + self.bank
    }

    /// Returns the rows of the op's inputs.
    fn rows<'a>(&self, inputs: &[&'a [f32]]) -> Rows<'a> {
        let (of_batch, of_bank) = inputs.split_at(2);
        let features = |inputs: &[&'a [f32]]| inputs.first().map_or(&[][..], |numbers| numbers);
        let labels = |inputs: &[&[f32]]| inputs.get(1).map_or(Vec::new(), |bits| bytemuck::cast_slice(bits).to_vec());
        let rows = features(of_batch).chunks_exact(self.dim).chain(features(of_bank).chunks_exact(self.dim));
        let labels = [labels(of_batch), labels(of_bank)].concat();
        let present = labels.iter().enumerate().map(|(j, &label)| j < self.batch || label != NO_LABEL).collect();
        Rows { features: rows.collect(), labels, present }
    }

    /// Returns the squared distances `[n, n + m]`. Those of (i, j) and (j, i) have the same bits, so that exact ties stay exact.
    fn squared(&self, rows: &Rows<'_>) -> Vec<f64> {
        let anchors = rows.features[..self.batch].par_iter();
        let of_anchor = |&anchor| {
            let side_by_side = rows.features.chunks(AT_ONCE);
            side_by_side.flat_map(move |rows| squared_distances(anchor, rows).into_iter().take(rows.len()))
        };
        anchors.flat_map_iter(of_anchor).collect()
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
    fn mine(&self, squared: &[f64], rows: &Rows<'_>) -> Vec<Option<(f64, Vec<usize>, Vec<usize>)>> {
        let Rows { labels, present, .. } = rows;
        let mine_one = |i: usize| {
            let row = &squared[i * self.width()..(i + 1) * self.width()];
            let (positive, positives) = Self::hardest(row, |j| present[j] && labels[j] == labels[i], true)?;
            let (negative, negatives) = Self::hardest(row, |j| present[j] && labels[j] != labels[i], false)?;
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
        let factors = parts.add(self.batch * self.width());
        let features = parts.add_bytes(4 * self.gradient_words(gpu));
        SavedParts { factors, features, parts }
    }

    fn forward_parts(&self, gpu: &Gpu) -> ForwardParts {
        let mut parts = Parts::default();
        let squared = parts.add(self.batch * self.width());
        let terms = parts.add(self.batch);
        let kept = parts.add_bytes(4 * self.saved_parts(gpu).parts.words());
        ForwardParts { squared, terms, kept, parts }
    }

    /// Returns the words of the features or their gradient in f32, 0 if activations are f32 already.
    fn gradient_words(&self, gpu: &Gpu) -> usize {
        if gpu.precision() == Precision::Bf16 { self.batch * self.dim } else { 0 }
    }

    /// Returns the inputs that backward reads: all.
    fn all_inputs(&self) -> Vec<bool> {
        vec![true; if self.bank > 0 { 4 } else { 2 }]
    }
}

impl Op for Triplet {
    fn name(&self) -> &'static str {
        "batch_hard_triplet"
    }

    fn needs(&self) -> Needs {
        Needs { inputs: self.all_inputs(), ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let rows = self.rows(&cx.inputs);
        let squared = self.squared(&rows);
        // A comparison instead of `max`, which would hide NaN.
        let hinge = |term: f64| if term < 0.0 { 0.0 } else { term };
        let sum: f64 = self.mine(&squared, &rows).iter().flatten().map(|(term, ..)| hinge(*term)).sum();
        let mut present = rows.features.iter().zip(&rows.present).filter(|(_, present)| **present);
        let poisoned = present.any(|(row, _)| row.iter().any(|f| f.is_nan()));
        cx.output[0] = if poisoned { f32::NAN } else { (sum / self.batch as f64) as f32 };
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let rows = self.rows(&cx.inputs);
        let squared = self.squared(&rows);
        let scale = f64::from(cx.grad_output[0]) / self.batch as f64;
        let mut df = vec![0.0f64; self.batch * self.dim];
        for (i, mined) in self.mine(&squared, &rows).into_iter().enumerate() {
            let Some((_, positives, negatives)) = mined.filter(|(term, ..)| *term > 0.0) else { continue };
            for (ties, sign) in [(positives, 1.0), (negatives, -1.0)] {
                for &j in &ties {
                    let d2 = squared[i * self.width() + j];
                    if d2 <= MIN_SQUARED {
                        continue;
                    }
                    let factor = sign * scale / (ties.len() as f64 * d2.sqrt());
                    for k in 0..self.dim {
                        let step = factor * (f64::from(rows.features[i][k]) - f64::from(rows.features[j][k]));
                        df[i * self.dim + k] += step;
                        // The bank gets no gradient.
                        if j < self.batch {
                            df[j * self.dim + k] -= step;
                        }
                    }
                }
            }
        }
        df.iter().enumerate().for_each(|(i, &v)| grad.put(i, v as f32));
    }

    fn gpu_needs(&self, gpu: &Gpu, _: bool) -> Result<Needs> {
        Ok(Needs {
            inputs: self.all_inputs(),
            saved: self.saved_parts(gpu).parts.words(),
            forward_workspace: self.forward_parts(gpu).parts.words(),
            backward_workspace: self.gradient_words(gpu),
            ..Needs::default()
        })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (gpu, n, m, dim) = (cx.gpu, self.batch as i32, self.bank as i32, self.dim as i32);
        let of_bank = |i: usize| cx.inputs.get(i).copied().unwrap_or(Ptr::NULL);
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
        let (pairs, bank, bank_labels) = (self.batch * self.width(), of_bank(2).cast(), of_bank(3).cast());
        kernels::triplet_distances(gpu, pairs.div_ceil(8), features, bank, squared, n, m, dim)?;
        let (grid, labels, margin) = (self.batch.div_ceil(8), cx.inputs[1].cast(), self.margin as f32);
        kernels::triplet_mine(gpu, grid, squared, labels, bank_labels, terms, factors, n, m, margin)?;
        kernels::sum_terms(gpu, 1, terms, cx.output.cast(), n, n)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (gpu, n, m, dim) = (cx.gpu, self.batch as i32, self.bank as i32, self.dim as i32);
        let bank = cx.inputs.get(2).copied().unwrap_or(Ptr::NULL).cast();
        let SavedParts { factors, features, .. } = self.saved_parts(gpu);
        let (factors, dloss, grid) =
            (factors.of(cx.saved), cx.grad_output.cast(), [self.dim.div_ceil(256), self.batch]);
        if gpu.precision() != Precision::Bf16 {
            let (features, dx) = (cx.inputs[0].cast(), grad.data.cast());
            return kernels::triplet_backward(gpu, grid, features, bank, factors, dloss, dx, n, m, dim, grad.flag());
        }
        let (features, exact, len) = (features.of(cx.saved), cx.workspace.cast(), self.batch * self.dim);
        kernels::triplet_backward(gpu, grid, features, bank, factors, dloss, exact, n, m, dim, 0)?;
        kernels::put_bf16_from_f32(gpu, Grid::any(len), exact, grad.data.cast(), len as i64, grad.flag())
    }

    fn exact(&self) -> bool {
        true
    }
}

/// A case with labels, and with a bank of `places` embeddings of `dim` numbers whose labels are `of_bank`.
fn with_bank(case: OpCase, labels: &[u32], of_bank: &[u32], dim: usize) -> OpCase {
    let numbers: Vec<f32> = (0..of_bank.len() * dim).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    case.labels(labels).targets(Shape::vectors(of_bank.len(), dim), &numbers).labels(of_bank)
}

/// Returns the bank of a case that [`with_bank`] made.
fn bank_of(fixed: &[Var]) -> TripletBank {
    TripletBank { features: fixed[1], labels: fixed[2] }
}

pub(super) fn cases() -> Vec<OpCase> {
    let labels = [0, 0, 1, 1, 1, 2, 2, 3];
    let plain = OpCase::new("batch_hard_triplet", &[Shape::vectors(8, 5)], &[], |g, _, x, _, fixed| {
        batch_hard_triplet(g, x[0], fixed[0], None, 0.8)
    });
    let bank = OpCase::new("batch_hard_triplet bank", &[Shape::vectors(8, 5)], &[], |g, _, x, _, fixed| {
        batch_hard_triplet(g, x[0], fixed[0], Some(bank_of(fixed)), 0.8)
    });
    let of_bank = [1, 0, NO_LABEL, 3, 2, 1, NO_LABEL, 4, 0, 2, 3];
    vec![plain.labels(&labels).kinked(), with_bank(bank, &labels, &of_bank, 5).kinked()]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let labels: Vec<u32> = (0..64).map(|i| i / 4).collect();
    let plain = OpCase::new("batch_hard_triplet", &[Shape::vectors(64, 2048)], &[], |g, _, x, _, fixed| {
        batch_hard_triplet(g, x[0], fixed[0], None, 0.3)
    });
    let bank = OpCase::new("batch_hard_triplet bank", &[Shape::vectors(64, 2048)], &[], |g, _, x, _, fixed| {
        batch_hard_triplet(g, x[0], fixed[0], Some(bank_of(fixed)), 0.3)
    });
    let of_bank: Vec<u32> = (0..1024).map(|i| i / 4 % 100).collect();
    vec![plain.labels(&labels), with_bank(bank, &labels, &of_bank, 2048)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Mode;
    use crate::engine::session::CaseRun;

    #[test]
    fn what_all_features_have_in_common_does_not_matter() {
        let op = Triplet { batch: 6, bank: 0, dim: 40, margin: 0.3 };
        // Sums with 8192 are exact.
        let own: Vec<f32> = (0..240).map(|i| (i * i * 37 % 1009) as f32 / 1024.0).collect();
        let moved: Vec<f32> = own.iter().map(|x| x + 8192.0).collect();
        let labels: &[f32] = bytemuck::cast_slice(&[0u32, 0, 1, 1, 2, 2]);
        let [own, moved, scaled] =
            [own.clone(), moved, own.iter().map(|x| x * 1e25).collect()].map(|features: Vec<f32>| {
                let rows = op.rows(&[&features, labels]);
                let squared = op.squared(&rows);
                (op.mine(&squared, &rows), squared)
            });
        assert_eq!(moved, own);
        assert!(scaled.1.iter().all(|d| d.is_finite()));
    }

    /// Returns the bits of loss and gradient of a case.
    fn results(case: &OpCase) -> Vec<u32> {
        let mut run = CaseRun::new(case, Mode::Train);
        let mut numbers = run.forward().unwrap().to_vec();
        run.backward().unwrap();
        numbers.extend_from_slice(&run.session.grad(run.inputs[0]).unwrap());
        numbers.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn empty_places_are_never_mined() {
        let (plain, filled) = (results(&cases()[0]), results(&cases()[1]));
        assert_ne!(plain, filled);
        for numbers in [f32::NAN, 0.0] {
            let mut case = cases().remove(1);
            case.fixed[1].1[2 * 5..3 * 5].fill(numbers);
            assert_eq!(results(&case), filled, "one place with {numbers}");
            case.fixed[1].1.fill(numbers);
            case.fixed[2].1 = bytemuck::cast_slice(&[NO_LABEL; 11]).to_vec();
            assert_eq!(results(&case), plain, "all places with {numbers}");
        }
        let mut case = cases().remove(1);
        case.fixed[1].1[0] = f32::NAN;
        assert!(f32::from_bits(results(&case)[0]).is_nan(), "a place that is not empty");
    }

    #[test]
    fn a_bank_that_does_not_fit_is_refused() {
        let mut g = Graph::new(Mode::Train);
        let (features, labels) = (g.input_with_grad(Shape::vectors(4, 3)), g.labels(4));
        let (of_bank, wide) = (g.targets(Shape::vectors(6, 3)), g.targets(Shape::vectors(6, 4)));
        let (six, five, trained) = (g.labels(6), g.labels(5), g.input_with_grad(Shape::vectors(6, 3)));
        let mut refused = |of_bank, labels_of_bank| {
            let bank = Some(TripletBank { features: of_bank, labels: labels_of_bank });
            batch_hard_triplet(&mut g, features, labels, bank, 0.3).err().map(|error| error.to_string())
        };
        for (of_bank, labels, part) in
            [(wide, six, "does not fit"), (of_bank, five, "does not fit"), (trained, six, "constants")]
        {
            assert!(refused(of_bank, labels).is_some_and(|error| error.contains(part)), "{part}");
        }
        assert_eq!(refused(of_bank, six), None);
    }
}
