//! Retrieval features: a network in evaluation mode over batches of images, with the mirrored image added.

use crate::Result;
use crate::graph::{Graph, Mode, Var};
use crate::latent_state::{EvalState, LatentStates};
use crate::nn::Network;
use crate::session::Session;
use crate::shape::Shape;
use crate::store::Store;

/// How features are made.
#[derive(Clone, Copy, Debug)]
pub struct ExtractOptions {
    /// Add the feature of the mirrored image.
    pub flip: bool,
    pub batch: usize,
    pub eval_state: EvalState,
    /// Seed of [`EvalState::Normal`].
    pub seed: u64,
}

/// A recorded evaluation graph for one batch size.
pub struct Extractor {
    session: Session,
    images: Var,
    feature: Var,
    options: ExtractOptions,
}

impl Extractor {
    /// Records `network` for images of `height` x `width`.
    ///
    /// # Errors
    /// An image size that the network cannot take.
    pub fn new(
        network: &dyn Network,
        store: &Store,
        [height, width]: [usize; 2],
        options: ExtractOptions,
    ) -> Result<Extractor> {
        let mut graph = Graph::new(Mode::Eval);
        let images = graph.input(Shape::new(options.batch, height, width, 3));
        let output = network.forward(&mut graph, store, images)?;
        graph.keep(output.feature);
        Ok(Extractor { session: Session::new(graph, store)?, images, feature: output.feature, options })
    }

    /// Length of a feature.
    pub fn dim(&self) -> usize {
        self.session.graph().shape(self.feature).c
    }

    /// Appends the features of `count` images `[count, h, w, 3]` (at most a batch) to `features`: sum of image and mirror
    /// image where asked, then L2-normalised. `training` are the states of the training run.
    ///
    /// # Errors
    /// [`EvalState::Mean`] where `training` holds no states.
    pub fn extract(
        &mut self,
        store: &mut Store,
        training: &LatentStates,
        images: &[f32],
        count: usize,
        features: &mut Vec<f32>,
    ) -> Result<()> {
        let dim = self.dim();
        let start = features.len();
        features.resize(start + count * dim, 0.0);
        for mirrored in [false, true] {
            if mirrored && !self.options.flip {
                break;
            }
            let width = self.session.graph().shape(self.images).w;
            let input = self.session.input_mut(self.images);
            input[..images.len()].copy_from_slice(images);
            input[images.len()..].fill(0.0);
            if mirrored {
                input.chunks_exact_mut(width * 3).for_each(mirror_row);
            }
            let options = self.options;
            let decls = self.session.graph().states();
            let mut states = training.for_evaluation(options.eval_state, decls, options.batch, options.seed)?;
            self.session.forward(store, &mut states);
            let output = self.session.value(self.feature);
            features[start..].iter_mut().zip(output).for_each(|(f, o)| *f += o);
        }
        features[start..].chunks_exact_mut(dim).for_each(normalize);
        Ok(())
    }
}

/// Reverses the pixels of a row `[w, 3]`.
fn mirror_row(row: &mut [f32]) {
    let pixels: &mut [[f32; 3]] = bytemuck::cast_slice_mut(row);
    pixels.reverse();
}

/// Scales to unit length; a zero vector stays.
pub(super) fn normalize(row: &mut [f32]) {
    let norm = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
}
