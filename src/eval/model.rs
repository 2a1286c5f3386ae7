//! A network with all that it needs to run on images.

use std::sync::Arc;

use flate2::Crc;

use super::EvalOptions;
use super::extract::{ExtractOptions, Extractor, Output, zero_rows, zeros_warning};
use crate::base::memory;
use crate::base::progress::Reporter;
use crate::base::stop::StopFlag;
use crate::data::{Loader, LoaderOptions, Sample, Transform, fingerprints};
use crate::engine::collective::Collective;
use crate::engine::device::Device;
use crate::engine::latent_state::{EvalState, LatentStates};
use crate::engine::store::Store;
use crate::nn::Network;
use crate::{Error, Result};

/// How a network is run on images.
#[derive(Clone, Debug)]
pub struct Inference {
    /// Batch size, and whether mirrored images count too.
    pub eval: EvalOptions,
    /// How images become the network's input.
    pub transform: Transform,
    /// Number of threads that load images.
    pub workers: usize,
    /// The latent states that cells start from.
    pub eval_state: EvalState,
    /// Seed of all random numbers of the evaluation.
    pub seed: u64,
}

/// A network with its weights, the latent states of its training, options and device.
pub struct Model<'a> {
    /// The network.
    pub network: &'a dyn Network,
    /// Its weights and the statistics of its batch normalisations.
    pub store: &'a mut Store,
    /// Latent states of the training.
    pub states: &'a LatentStates,
    /// How outputs are computed.
    pub options: Inference,
    /// Where the network runs.
    pub device: &'a Device,
    /// The processes that share the images of [`Model::run`]; each gets the outputs of all images.
    pub ranks: Collective,
    /// Receives messages and progress.
    pub reporter: &'a Reporter,
    /// Set to end the work early.
    pub stop: StopFlag,
}

impl Model<'_> {
    /// Computes `output` for each image. Returns `[samples, dim]` and `dim`. Warns of features that are all zeros.
    ///
    /// # Errors
    /// An image cannot be read; the network's output is not finite; [`EvalState::Mean`] without stored states; the features do not fit into
    /// memory; the device fails; [`Error::Stopped`].
    pub fn run(&mut self, samples: Arc<[Sample]>, output: Output) -> Result<(Vec<f32>, usize)> {
        self.run_batches(samples, output).map_err(|error| error.with_batch_settings("`eval.batch`"))
    }

    fn run_batches(&mut self, samples: Arc<[Sample]>, output: Output) -> Result<(Vec<f32>, usize)> {
        let Model { network, store, states, options, device, ranks, reporter, stop } = self;
        let Inference { eval: EvalOptions { flip, batch, .. }, transform, workers, eval_state, seed } = *options;
        let extraction = ExtractOptions { output, flip, batch, eval_state, seed };
        let mut extractor = Extractor::new(*network, store, [transform.height, transform.width], extraction, device)?;
        let loading = LoaderOptions { transform, augment: None, seed: 0, epoch: 0, workers };
        let dim = extractor.dim();
        let samples: Arc<[Sample]> = if ranks.has_others() {
            if !ranks.agree(&fingerprint(&samples)) {
                let reason =
                    "the processes measure different images: all need the same files, by a shared folder or by copies";
                return Err(Error::Ranks { reason: reason.into() });
            }
            // Random states belong to the places of a batch, so batches stay whole for them.
            let unit = if eval_state == EvalState::Normal { batch } else { 1 };
            let part = ranks.part(samples.len().div_ceil(unit));
            samples[part.start * unit..samples.len().min(part.end * unit)].into()
        } else {
            samples
        };
        let count = samples.len();
        let mut rows = memory::reserved("the features", count.saturating_mul(dim))?;
        let of_all = if ranks.has_others() { " (a part of the images)" } else { "" };
        let mut task = reporter.start(&format!("{}{of_all}", output.name()), count as u64, "images");
        for batch in Loader::sequential(samples.clone(), batch, loading)? {
            if stop.requested() {
                return Err(Error::Stopped);
            }
            let mut batch = batch?;
            let start = rows.len();
            extractor.extract(store, states, &mut batch, &mut rows)?;
            if let Some(at) = rows[start..].iter().position(|value| !value.is_finite()) {
                let image = samples[batch.indices[at / dim.max(1)]].image.to_string();
                return Err(Error::NotFiniteOutput { what: output.name(), image });
            }
            task.advance(batch.indices.len() as u64, "");
        }
        task.finish("");
        device.report_choices(reporter);
        if ranks.has_others() {
            rows = ranks.gather_each(&rows).concat();
        }
        if output == Output::Feature
            && let Some(warning) = zeros_warning(zero_rows(&rows, dim))
        {
            reporter.warn(&warning);
        }
        Ok((rows, dim))
    }
}

/// Returns a text that differs where images do: by their number, order, paths and labels, and the sizes and middles of their files.
fn fingerprint(samples: &[Sample]) -> String {
    let (files, mut crc) = (fingerprints(samples), Crc::new());
    for Sample { image, label } in samples {
        let (size, middle) = files[image.file()];
        crc.update(format!("{image}\0{label}\0{size}\0{middle}\n").as_bytes());
    }
    format!("{} {:08x}", samples.len(), crc.sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ImageSource;

    #[test]
    fn other_contents_of_the_same_names_and_sizes_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["1.png", "2.png"].map(|name| folder.path().join(name));
        let of = |contents: [&str; 2], order: [usize; 2]| {
            files.iter().zip(contents).for_each(|(file, content)| std::fs::write(file, content).unwrap());
            fingerprint(&order.map(|i| Sample { image: ImageSource::File(files[i].clone()), label: 0 }))
        };
        let usual = of(["red", "sky"], [0, 1]);
        assert!(usual == of(["red", "sky"], [0, 1]) && usual.starts_with("2 "), "{usual}");
        for other in [of(["red", "sea"], [0, 1]), of(["sky", "red"], [0, 1]), of(["red", "sky"], [1, 0])] {
            assert_ne!(usual, other);
        }
    }
}
