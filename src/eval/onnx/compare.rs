//! A run of an ONNX file by a runtime, and the distance of its outputs from the network's own.

use std::path::Path;
use std::sync::Arc;

use super::OnnxInput;
use crate::data::Sample;
use crate::eval::extract::Output;
use crate::eval::model::Model;
use crate::{Error, Result};

/// The runtime that this build has, for messages; `None` without the feature `onnx-runtime`.
pub const RUNTIME: Option<&str> = if cfg!(feature = "onnx-runtime") { Some("the crate rten") } else { None };

/// How far the outputs of a runtime are from the network's own.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// Number of images.
    pub images: usize,
    /// Numbers of an output.
    pub dim: usize,
    /// The largest difference of a number; infinite if the runtime gave something that is no number.
    pub largest_difference: f64,
    /// The smallest cosine of two outputs of an image.
    pub smallest_cosine: f64,
    /// The image with the largest difference.
    pub worst: String,
}

impl Model<'_> {
    /// Runs the file `path`, which [`Model::onnx`] gave for `output` and `input`, on images, and compares the outputs with those of
    /// [`Model::run`].
    ///
    /// # Errors
    /// An image cannot be read; the runtime refuses the file ([`Error::Onnx`]), or this build has none.
    pub fn compare_onnx(
        &mut self,
        path: &Path,
        samples: Arc<[Sample]>,
        output: Output,
        input: OnnxInput,
    ) -> Result<Agreement> {
        let (own, dim) = self.run(samples.clone(), output)?;
        let theirs = self.run_onnx(path, &samples, output, input)?;
        if theirs.len() != own.len() {
            let reason = format!("the runtime gives {} numbers instead of {}", theirs.len(), own.len());
            return Err(Error::Onnx { reason });
        }
        let mut agreement = Agreement {
            images: samples.len(),
            dim,
            largest_difference: 0.0,
            smallest_cosine: 1.0,
            worst: samples.first().map_or_else(String::new, |sample| sample.image.name()),
        };
        for ((sample, a), b) in samples.iter().zip(own.chunks_exact(dim)).zip(theirs.chunks_exact(dim)) {
            let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
            let difference = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, |largest: f64, difference| {
                if difference.is_nan() { f64::INFINITY } else { largest.max(difference) }
            });
            if difference > agreement.largest_difference {
                agreement.largest_difference = difference;
                agreement.worst = sample.image.name();
            }
            let [ab, aa, bb] = pairs().fold([0.0; 3], |[ab, aa, bb], (a, b)| [ab + a * b, aa + a * a, bb + b * b]);
            // Two outputs of zeros are the same; one alone has no direction.
            let cosine = if aa == 0.0 && bb == 0.0 { 1.0 } else { ab / (aa * bb).sqrt() };
            let cosine = if cosine.is_nan() { -1.0 } else { cosine };
            agreement.smallest_cosine = agreement.smallest_cosine.min(cosine);
        }
        Ok(agreement)
    }

    #[cfg(not(feature = "onnx-runtime"))]
    fn run_onnx(&self, _: &Path, _: &[Sample], _: Output, _: OnnxInput) -> Result<Vec<f32>> {
        Err(Error::Onnx { reason: "this build has no runtime: build it with the feature onnx-runtime".into() })
    }

    #[cfg(feature = "onnx-runtime")]
    fn run_onnx(&self, path: &Path, samples: &[Sample], output: Output, input: OnnxInput) -> Result<Vec<f32>> {
        runtime::run(path, samples, &self.options.transform, output, input, self.reporter, &self.stop)
    }
}

#[cfg(feature = "onnx-runtime")]
mod runtime {
    use std::path::Path;
    use std::sync::Arc;

    use rten::{RunOptions, ThreadPool, Value, ValueOrView};

    use crate::base::progress::Reporter;
    use crate::base::stop::StopFlag;
    use crate::data::{MEAN, STD, Sample, Transform};
    use crate::eval::extract::Output;
    use crate::eval::onnx::{INPUT, OnnxInput, output_name};
    use crate::{Error, Result};

    /// Images in a batch, after the first image, which is a batch by itself: so batches of three sizes are tried where there are enough images.
    const BATCH: usize = 8;

    /// Runs an ONNX file on images.
    pub(super) fn run(
        path: &Path,
        samples: &[Sample],
        transform: &Transform,
        output: Output,
        input: OnnxInput,
        reporter: &Reporter,
        stop: &StopFlag,
    ) -> Result<Vec<f32>> {
        let failed = |what: &str, error: &dyn std::fmt::Display| Error::Onnx {
            reason: format!("the runtime cannot {what}: {error}"),
        };
        let model = rten::Model::load_file(path).map_err(|error| failed("load the file", &error))?;
        let [node, result] = [INPUT, output_name(output)].map(|name| model.node_id(name));
        let (node, result) =
            (node.map_err(|e| failed("find the input", &e))?, result.map_err(|e| failed("find the output", &e))?);
        let pool = Arc::new(ThreadPool::with_num_threads(rayon::current_num_threads()));
        let mut rows = Vec::new();
        let mut task = reporter.start("comparing with an ONNX runtime", samples.len() as u64, "images");
        let (first, rest) = samples.split_at(samples.len().min(1));
        for batch in std::iter::once(first).chain(rest.chunks(BATCH)).filter(|batch| !batch.is_empty()) {
            if stop.requested() {
                return Err(Error::Stopped);
            }
            let mut pixels = Vec::new();
            for sample in batch {
                let (image, _share) = sample.image.decode(transform.upright)?;
                pixels.extend(transform.fixed(&image).pixels);
            }
            let images =
                value(pixels, batch.len(), transform, input).map_err(|error| failed("take the images", &error))?;
            let inputs = vec![(node, ValueOrView::from(images))];
            let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
            let mut outputs =
                model.run(inputs, &[result], Some(options)).map_err(|error| failed("run the file", &error))?;
            let (_, output) =
                outputs.remove(0).into_shape_vec::<f32, 2>().map_err(|error| failed("give rows of numbers", &error))?;
            rows.extend(output);
            task.advance(batch.len() as u64, "");
        }
        task.finish("");
        Ok(rows)
    }

    /// Returns images `[n, height, width, 3]` as the file takes them.
    fn value(
        pixels: Vec<u8>,
        n: usize,
        transform: &Transform,
        input: OnnxInput,
    ) -> std::result::Result<Value, Box<dyn std::error::Error>> {
        let (height, width) = (transform.height, transform.width);
        if input == OnnxInput::Pixels {
            return Ok(Value::from_shape([n, height, width, 3], pixels)?);
        }
        let plane = height * width;
        let number = |i: usize| {
            let (image, channel, at) = (i / (3 * plane), i / plane % 3, i % plane);
            let pixel = pixels[(image * plane + at) * 3 + channel];
            (f32::from(pixel) / 255.0 - MEAN[channel]) / STD[channel]
        };
        Ok(Value::from_shape([n, 3, height, width], (0..pixels.len()).map(number).collect::<Vec<f32>>())?)
    }
}
