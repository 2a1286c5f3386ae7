//! A network as it is measured.

use std::sync::Arc;

use super::extract::{ExtractOptions, Extractor, Output};
use super::{transform, workers};
use crate::config::Config;
use crate::data::{Loader, LoaderOptions, Sample};
use crate::device::Device;
use crate::latent_state::LatentStates;
use crate::nn::Network;
use crate::progress::Reporter;
use crate::stop::StopFlag;
use crate::store::Store;
use crate::{Error, Result};

/// A network with its weights, the states of its training, and what it runs with.
pub struct Model<'a> {
    pub network: &'a dyn Network,
    pub store: &'a mut Store,
    /// Those of the training.
    pub states: &'a LatentStates,
    pub config: &'a Config,
    pub device: &'a Device,
    pub reporter: &'a Reporter,
    /// Set to end the work before its time.
    pub stop: StopFlag,
}

impl Model<'_> {
    /// `output` of each image, `[samples, dim]`, and `dim`; of the mirrored image too where the settings say so.
    ///
    /// # Errors
    /// An image that cannot be read; `eval-state mean` without stored states; [`Error::Stopped`].
    pub fn run(&mut self, samples: Arc<[Sample]>, output: Output) -> Result<(Vec<f32>, usize)> {
        let Model { network, store, states, config, device, reporter, stop } = self;
        let options = ExtractOptions {
            output,
            flip: config.eval.flip,
            batch: config.eval.batch,
            eval_state: config.ptl.eval_state,
            seed: config.seed,
        };
        let transform = transform(config);
        let mut extractor = Extractor::new(*network, store, [transform.height, transform.width], options, device)?;
        let loading = LoaderOptions { transform, augment: None, seed: 0, epoch: 0, workers: workers(config) };
        let count = samples.len();
        let mut rows = Vec::with_capacity(count * extractor.dim());
        let mut task = reporter.start(output.name(), count as u64, "images");
        for batch in Loader::sequential(samples, config.eval.batch, loading) {
            if stop.requested() {
                return Err(Error::Stopped);
            }
            let mut batch = batch?;
            extractor.extract(store, states, &mut batch, &mut rows)?;
            task.advance(batch.indices.len() as u64, "");
        }
        task.finish("");
        Ok((rows, extractor.dim()))
    }
}
