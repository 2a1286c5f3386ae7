//! Loader threads: from JPEG files to normalised batches.

use std::path::Path;
use std::sync::Arc;

use ptl::data::{Augment, Crop, ImageCache, ImageSource, Interpolation, Loader, LoaderOptions, Sample, Transform};
use ptl::engine::session::ImageBatch;
use serde::Deserialize;

use crate::work::{Check, Run, Work};

/// How the images of the folder `images` are loaded.
#[derive(Deserialize)]
pub struct LoadingSpec {
    transform: Kind,
    size: [usize; 2],
    count: usize,
    batch: usize,
    workers: usize,
}

/// Which augmentation.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// A random part, mirrored by chance.
    Classify,
    /// The whole image, mirrored and erased by chance.
    Reid,
}

/// Epochs over a folder of images.
pub struct Loading {
    samples: Arc<[Sample]>,
    batches: Vec<Vec<usize>>,
    transform: Transform,
    augment: Augment,
    workers: usize,
    epoch: u64,
    /// The network's input, `[batch, h, w, 3]`.
    input: Vec<f32>,
}

impl Loading {
    /// Lists the images, which are numbered from 0.
    pub fn new(folder: &Path, spec: LoadingSpec) -> Loading {
        let path = |i: usize| folder.join("images").join(format!("{i}.jpg"));
        let sample = |i| Sample { image: ImageSource::File(path(i)), label: 0 };
        let mirrored = Augment { flip: 0.5, ..Augment::none() };
        let squeeze = |interpolation| Transform::squeeze(spec.size, interpolation);
        let (transform, augment) = match spec.transform {
            Kind::Classify => {
                let whole = squeeze(Interpolation::Bilinear);
                let (crop_scale, crop_ratio) = ([0.08, 1.0], [0.75, 4.0 / 3.0]);
                (Transform { crop: Crop::RandomResized, crop_scale, crop_ratio, ..whole }, mirrored)
            }
            Kind::Reid => (squeeze(Interpolation::Bicubic), Augment { random_erasing: 0.5, ..mirrored }),
        };
        let all: Vec<usize> = (0..spec.count).collect();
        Loading {
            samples: (0..spec.count).map(sample).collect(),
            batches: all.chunks(spec.batch).map(<[usize]>::to_vec).collect(),
            transform,
            augment,
            workers: spec.workers,
            epoch: 0,
            input: vec![0.0; spec.batch * spec.size[0] * spec.size[1] * 3],
        }
    }

    /// Loads all images once, and returns their number.
    fn load(&mut self) -> usize {
        self.epoch += 1;
        let augment = Some(self.augment.clone());
        let (transform, epoch, workers) = (self.transform, self.epoch, self.workers);
        let options = LoaderOptions { transform, augment, seed: 0, epoch, workers };
        let cache = ImageCache::new(self.samples.len(), &transform, 0);
        let loader = Loader::new(self.samples.clone(), &self.batches, 0, options, cache).expect("threads");
        let count = |batch: ptl::Result<ptl::data::Batch>| {
            let batch = batch.expect("images that can be read");
            batch.to_images(&mut self.input[..batch.pixels.len()]);
            batch.indices.len()
        };
        loader.map(count).sum()
    }
}

/// Images of a check.
const CHECKED: usize = 4;

impl Work for Loading {
    /// Compares whole images at the network's size, because the two programs augment by other random numbers.
    fn check(&mut self) -> Check {
        let check = Check::default().scalar("images", self.load() as f64);
        let whole = Transform::squeeze([self.transform.height, self.transform.width], self.transform.interpolation);
        self.samples.iter().take(CHECKED).enumerate().fold(check, |check, (i, sample)| {
            let ImageSource::File(path) = &sample.image else { unreachable!("files only") };
            let pixels: Vec<f32> = whole.load(path).expect("an image").into_iter().map(f32::from).collect();
            check.tensor(format!("image {i}"), &pixels)
        })
    }

    fn run(&mut self) -> Run {
        Run::of(|| {
            self.load();
        })
    }
}
