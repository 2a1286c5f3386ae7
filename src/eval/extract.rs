//! Retrieval features: a network in evaluation mode over batches of images, with the mirrored image added.

use crate::Result;
use crate::data::Batch;
use crate::device::Device;
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
    /// The states of the batch at hand.
    states: Option<LatentStates>,
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
        device: &Device,
    ) -> Result<Extractor> {
        let mut graph = Graph::new(Mode::Eval);
        let shape = Shape::new(options.batch, height, width, 3);
        let images = graph.input(shape);
        let output = network.forward(&mut graph, store, images)?;
        graph.keep(output.feature);
        let session = Session::new(graph, store, device)?;
        Ok(Extractor { session, states: None, images, feature: output.feature, options })
    }

    /// Length of a feature.
    pub fn dim(&self) -> usize {
        self.session.graph().shape(self.feature).c
    }

    /// Appends the features of the images of `batch` (at most [`ExtractOptions::batch`]) to `features`: sum of image and mirror
    /// image where asked, then L2-normalised. `training` are the states of the training run.
    ///
    /// # Errors
    /// [`EvalState::Mean`] where `training` holds no states; a device that fails.
    pub fn extract(
        &mut self,
        store: &mut Store,
        training: &LatentStates,
        batch: &mut Batch,
        features: &mut Vec<f32>,
    ) -> Result<()> {
        let dim = self.dim();
        let start = features.len();
        features.resize(start + batch.drawn.len() * dim, 0.0);
        for mirror in [false, true] {
            if mirror && !self.options.flip {
                break;
            }
            batch.drawn.iter_mut().for_each(|drawn| drawn.mirror = mirror);
            self.session.set_images(self.images, batch)?;
            self.begin_batch(training)?;
            self.session.forward(store, self.states.as_mut().expect("begun above"))?;
            let output = self.session.value(self.feature)?;
            features[start..].iter_mut().zip(&output[..]).for_each(|(f, o)| *f += o);
        }
        features[start..].chunks_exact_mut(dim).for_each(normalize);
        Ok(())
    }

    /// The states that every batch starts from; their memory is reused.
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

/// Scales to unit length; a zero vector stays.
pub fn normalize(row: &mut [f32]) {
    let norm = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
}
