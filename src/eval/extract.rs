//! Runs a network in evaluation mode on batches of images, and on the mirrored images if asked to: retrieval features, or class
//! probabilities.

use rayon::prelude::*;

use crate::Result;
use crate::base::text::plural;
use crate::data::Batch;
use crate::engine::device::Device;
use crate::engine::graph::{Graph, Mode, Var};
use crate::engine::latent_state::{EvalState, LatentStates};
use crate::engine::session::{Session, Work};
use crate::engine::shape::Shape;
use crate::engine::store::Store;
use crate::nn::Network;

/// What a network computes for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The retrieval feature, scaled to unit length; with mirroring, the sum of both images' features before scaling.
    Feature,
    /// The probability of each class; with mirroring, the mean over both images.
    Probabilities,
}

impl Output {
    /// Returns the name for progress reports.
    pub fn name(self) -> &'static str {
        match self {
            Output::Feature => "features",
            Output::Probabilities => "predictions",
        }
    }
}

/// How outputs are computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExtractOptions {
    pub output: Output,
    /// Whether to add the output of the mirrored image.
    pub flip: bool,
    pub batch: usize,
    pub eval_state: EvalState,
    /// Seed of [`EvalState::Normal`].
    pub seed: u64,
}

/// A recorded evaluation graph for one batch size.
pub(crate) struct Extractor {
    session: Session,
    /// Latent states of the current batch.
    states: Option<LatentStates>,
    images: Var,
    output: Var,
    options: ExtractOptions,
}

impl Extractor {
    /// Records `network` for images of `height` x `width`.
    ///
    /// # Errors
    /// An image size that the network cannot take.
    pub(crate) fn new(
        network: &dyn Network,
        store: &Store,
        [height, width]: [usize; 2],
        options: ExtractOptions,
        device: &Device,
    ) -> Result<Extractor> {
        let mut graph = Graph::new(Mode::Eval);
        let shape = Shape::new(options.batch, height, width, 3);
        let images = graph.input(shape);
        let outputs = network.forward(&mut graph, store, images)?;
        let output = match options.output {
            Output::Feature => outputs.feature,
            Output::Probabilities => outputs.logits[0],
        };
        graph.keep(output);
        let session = Session::new(graph, store, device)?;
        Ok(Extractor { session, states: None, images, output, options })
    }

    /// Returns the length of a feature, or the number of classes.
    pub(crate) fn dim(&self) -> usize {
        self.session.graph().shape(self.output).c
    }

    /// Returns the work of a pass over the network on the CPU.
    pub(crate) fn work(&self, store: &Store) -> Vec<Work> {
        self.session.work(store)
    }

    /// Appends the outputs for the images of `batch` (at most [`ExtractOptions::batch`]) to `rows`. `training` are the latent states
    /// of the training.
    ///
    /// # Errors
    /// [`EvalState::Mean`] where `training` has no states; the device fails.
    pub(crate) fn extract(
        &mut self,
        store: &mut Store,
        training: &LatentStates,
        batch: &mut Batch,
        rows: &mut Vec<f32>,
    ) -> Result<()> {
        let dim = self.dim();
        let start = rows.len();
        rows.resize(start + batch.params.len() * dim, 0.0);
        for mirror in [false, true] {
            if mirror && !self.options.flip {
                break;
            }
            batch.params.iter_mut().for_each(|params| params.mirror = mirror);
            self.session.set_images(self.images, batch)?;
            self.begin_batch(training)?;
            self.session.forward(store, self.states.as_mut().expect("begun above"))?;
            let mut output = self.session.value(self.output)?;
            if self.options.output == Output::Probabilities {
                softmax_rows(output.to_mut(), dim);
            }
            rows[start..].iter_mut().zip(&output[..]).for_each(|(row, o)| *row += o);
        }
        match self.options.output {
            Output::Feature => rows[start..].chunks_exact_mut(dim).for_each(normalize),
            Output::Probabilities if self.options.flip => rows[start..].iter_mut().for_each(|p| *p *= 0.5),
            Output::Probabilities => {}
        }
        Ok(())
    }

    /// Sets the latent states that every batch starts from; their memory is reused.
    fn begin_batch(&mut self, training: &LatentStates) -> Result<()> {
        let ExtractOptions { eval_state, batch, seed, .. } = self.options;
        match &mut self.states {
            Some(states) if eval_state == EvalState::Zeros => states.reset(),
            states => {
                let decls = self.session.graph().states();
                *states = Some(training.for_evaluation(eval_state, decls, batch, seed)?);
            }
        }
        Ok(())
    }
}

/// Scales a vector to unit length; a vector of zeros stays.
pub fn normalize(row: &mut [f32]) {
    let norm = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
}

/// Counts the rows `[n, dim]` that are all zeros: they have no direction.
pub(super) fn zero_rows(rows: &[f32], dim: usize) -> usize {
    rows.chunks_exact(dim.max(1)).filter(|row| row.iter().all(|value| *value == 0.0)).count()
}

/// Returns the warning about so many features that are all zeros; `None` for none.
pub(crate) fn zeros_warning(zeros: usize) -> Option<String> {
    let warning = plural(
        zeros,
        "feature is all zeros and cannot be scaled to unit length: its distances mean nothing",
        "features are all zeros and cannot be scaled to unit length: their distances mean nothing",
    );
    (zeros > 0).then_some(warning)
}

/// Turns `logits` `[n, classes]` into probabilities, row by row, computing in f64. A row with NaN or +∞ becomes NaN, which
/// [`ClassificationReport::new`](super::classification::ClassificationReport::new) refuses.
///
/// # Panics
/// `classes` is 0.
pub(crate) fn softmax_rows(logits: &mut [f32], classes: usize) {
    logits.par_chunks_exact_mut(classes).for_each(|row| {
        let largest = row.iter().fold(f32::NEG_INFINITY, |largest, &x| largest.max(x));
        let exp = |x: f32| (f64::from(x) - f64::from(largest)).exp();
        let sum: f64 = row.iter().map(|&x| exp(x)).sum();
        row.iter_mut().for_each(|x| *x = (exp(*x) / sum) as f32);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_survives_large_logits() {
        let mut rows = [1000.0, 1000.0, 0.0, 1.0, -1000.0, f32::NEG_INFINITY, 2.0, f32::NAN, 0.0];
        softmax_rows(&mut rows, 3);
        assert_eq!(rows[..6], [0.5, 0.5, 0.0, 1.0, 0.0, 0.0]);
        assert!(rows[6..].iter().all(|p| p.is_nan()));
        let mut row = [0.0, 2f32.ln(), 5f32.ln()];
        softmax_rows(&mut row, 3);
        assert!(row.iter().zip([0.125, 0.25, 0.625]).all(|(p, want)| (p - want).abs() < 1e-7), "{row:?}");
    }
}
