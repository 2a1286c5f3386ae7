//! Threads that decode, crop, resize and change the colours of images ahead of training, and sample the parameters of the rest of the
//! augmentation. Batches come in order and do not depend on the number of threads: the augmentation of an image is a function of
//! (seed, epoch, position in the epoch).

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::augment::change_colours;
use super::transforms::Transform;
use super::{AugmentParams, Batch, ImageCache, Mix, Sample};
use crate::base::error::IoContext;
use crate::base::rng::{Purpose, stream};
use crate::data::{Augment, Crop};
use crate::{Error, Result};

/// Number of batches that a worker prepares ahead.
const AHEAD: usize = 2;

/// How images are loaded.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// How images become the network's input.
    pub transform: Transform,
    /// `None` for evaluation.
    pub augment: Option<Augment>,
    /// Seed of the random numbers of the augmentation.
    pub seed: u64,
    /// Number of the epoch: each has random numbers of its own.
    pub epoch: u64,
    /// Threads that load images; 0 counts as 1.
    pub workers: usize,
}

/// An iterator over batches.
pub struct Loader {
    workers: Vec<Worker>,
    next: usize,
    count: usize,
}

struct Worker {
    /// `None` once the loader is being dropped, which ends the thread.
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

/// The data that all workers share.
struct Work {
    samples: Arc<[Sample]>,
    batches: Vec<Vec<usize>>,
    /// Number of images in a full batch.
    whole: usize,
    /// The positions in a batch that are loaded; `None` for all.
    part: Option<Range<usize>>,
    /// Position in the epoch of the first batch: a resumed epoch continues with the same random numbers.
    first: usize,
    options: LoaderOptions,
    cache: Arc<ImageCache>,
}

impl Loader {
    /// Starts to load the `batches` (indices into `samples`; only the last may be smaller) of an epoch, from batch number `first` on.
    /// `cache` must belong to these samples and this transform.
    ///
    /// # Errors
    /// The system cannot start another thread.
    pub fn new(
        samples: Arc<[Sample]>,
        batches: &[Vec<usize>],
        first: usize,
        options: LoaderOptions,
        cache: Arc<ImageCache>,
    ) -> Result<Loader> {
        Loader::of_part(samples, batches, first, None, options, cache)
    }

    /// Does as [`Loader::new`] for the images at the positions `part` of each batch, which are as in the whole batch but for mixing: images are
    /// mixed with others of the part.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub(crate) fn of_part(
        samples: Arc<[Sample]>,
        batches: &[Vec<usize>],
        first: usize,
        part: Option<Range<usize>>,
        options: LoaderOptions,
        cache: Arc<ImageCache>,
    ) -> Result<Loader> {
        let whole = batches.first().map_or(0, Vec::len);
        let batches = batches.get(first..).unwrap_or(&[]).to_vec();
        let count = batches.len();
        // Further workers would have no batch.
        let step = options.workers.clamp(1, count.max(1));
        let work = Arc::new(Work { samples, batches, whole, part, first, options, cache });
        let mut loader = Loader { workers: Vec::new(), next: 0, count };
        for worker in 0..step {
            let (sender, receiver) = sync_channel(AHEAD);
            let work = work.clone();
            let thread = std::thread::Builder::new().spawn(move || serve(&work, worker, step, &sender));
            let thread = Some(thread.at("start", "a thread that loads images")?);
            loader.workers.push(Worker { batches: Some(receiver), thread });
        }
        Ok(loader)
    }

    /// Loads the samples in their order, for evaluation; the last batch may be smaller.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn sequential(samples: Arc<[Sample]>, batch: usize, options: LoaderOptions) -> Result<Loader> {
        let indices: Vec<usize> = (0..samples.len()).collect();
        let batches: Vec<Vec<usize>> = indices.chunks(batch).map(<[usize]>::to_vec).collect();
        let cache = ImageCache::new(0, &options.transform, 0);
        Loader::new(samples, &batches, 0, options, cache)
    }
}

/// Prepares every `step`-th batch from `worker` on, until all are done or the loader is dropped.
fn serve(work: &Work, worker: usize, step: usize, sender: &SyncSender<Result<Batch>>) {
    for number in (worker..work.batches.len()).step_by(step) {
        let batch = prepare(work, number);
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

fn prepare(work: &Work, number: usize) -> Result<Batch> {
    let Work { samples, batches, options, .. } = work;
    let whole = &batches[number];
    let part = work.part.clone().unwrap_or(0..whole.len());
    let indices = &whole[part.clone()];
    let LoaderOptions { transform, augment, seed, epoch, .. } = options;
    let size = [transform.height, transform.width];
    let number = work.first + number;
    let mut pixels = Vec::with_capacity(indices.len() * size[0] * size[1] * 3);
    let mut params = Vec::with_capacity(indices.len());
    for (place, &index) in part.zip(indices) {
        let draw = |purpose| stream(*seed, purpose, *epoch, (number * work.whole + place) as u64);
        let (image, _share) = work.cache.load(index, &samples[index].image, transform)?;
        let start = pixels.len();
        match (transform.crop, augment) {
            (Crop::RandomResized, Some(_)) => {
                pixels.extend_from_slice(&transform.random(&image, &mut draw(Purpose::Crop)).pixels);
            }
            (Crop::RandomResized, None) => pixels.extend_from_slice(&transform.fixed(&image).pixels),
            _ => pixels.extend_from_slice(&image.pixels),
        }
        if let Some(augment) = augment {
            change_colours(augment, &mut pixels[start..], size, &mut draw(Purpose::Colour));
        }
        params.push(augment.as_ref().map_or_else(AugmentParams::default, |augment| {
            AugmentParams::sample(augment, size, &mut draw(Purpose::Augment))
        }));
    }
    let draw_mix = |augment| Mix::draw(augment, size, &mut stream(*seed, Purpose::Mix, *epoch, number as u64));
    let labels = indices.iter().map(|&i| samples[i].label).collect();
    Ok(Batch { pixels, size, params, labels, indices: indices.to_vec(), mix: augment.as_ref().and_then(draw_mix) })
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.next == self.count {
            return None;
        }
        let worker = self.next % self.workers.len();
        self.next += 1;
        // A worker that ends before its last batch has panicked: that is an error, not the end of the data.
        let gone = || {
            Err(Error::Io {
                action: "read",
                path: "the images".into(),
                source: io::Error::other("a loader thread died"),
            })
        };
        let batch = self.workers[worker].batches.as_ref()?.recv().unwrap_or_else(|_| gone());
        if batch.is_err() {
            self.next = self.count;
        }
        Some(batch)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.workers.iter_mut().for_each(|worker| drop(worker.batches.take()));
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A worker that panicked has printed its message already.
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ImageSource, Interpolation};
    use crate::engine::session::ImageBatch;

    /// Creates six images of 8x4 in two classes; the value of the first channel of image i is 40 i.
    fn samples(folder: &std::path::Path) -> Arc<[Sample]> {
        let sample = |i: u8| {
            let path = folder.join(format!("{i}.png"));
            let pixel = |x: u32, y: u32| image::Rgb([40 * i, 7 * y as u8, 9 + 50 * x as u8]);
            image::RgbImage::from_fn(4, 8, pixel).save(&path).unwrap();
            Sample { image: ImageSource::File(path), label: u32::from(i / 3) }
        };
        (0..6).map(sample).collect()
    }

    fn order() -> [Vec<usize>; 4] {
        [vec![5, 0], vec![1, 2], vec![3, 4], vec![0]]
    }

    #[test]
    fn batches_depend_on_seed_and_place_and_not_on_workers() {
        let folder = tempfile::tempdir().unwrap();
        let samples = samples(folder.path());
        let squeeze = Transform::squeeze([8, 4], Interpolation::Bicubic);
        let random = Transform { crop: Crop::RandomResized, crop_scale: [0.2, 1.0], ..squeeze };
        let geometric = Augment { flip: 0.5, pad: 3, random_erasing: 0.5, ..Augment::none() };
        let all = Augment { rand_ops: 2, hue: 0.2, contrast: 0.4, mixup: 0.4, cutmix: 1.0, ..geometric.clone() };
        for (transform, augment, changed) in [(squeeze, geometric, false), (random, all, true)] {
            let load = |workers, first, seed, megabytes| -> Vec<Batch> {
                let options = LoaderOptions { transform, augment: Some(augment.clone()), seed, epoch: 1, workers };
                let cache = ImageCache::new(samples.len(), &transform, megabytes);
                let loader = |options| Loader::new(samples.clone(), &order(), first, options, cache.clone()).unwrap();
                let again: Vec<Batch> = loader(options.clone()).collect::<Result<_>>().unwrap();
                assert_eq!(again, loader(options).collect::<Result<Vec<_>>>().unwrap());
                again
            };
            let batches = load(1, 0, 0, 1);
            assert_eq!(batches, load(3, 0, 0, 1));
            assert_eq!(batches, load(2, 0, 0, 0));
            assert_eq!(batches[2..], load(2, 2, 0, 1));
            assert_ne!(batches, load(1, 0, 1, 1));
            assert_eq!((&batches[0].labels, &batches[0].indices), (&vec![1, 0], &order()[0]));
            // Image 0 at two places of the epoch.
            assert_eq!(batches[0].pixels[96..] != batches[3].pixels[..], changed);
            assert!(batches.iter().all(|batch| batch.mix.is_some() == changed));
            if !changed {
                assert_eq!(batches[0].pixels[0], 200);
            }
            let batch = Batch { mix: None, ..batches[1].clone() };
            let mut images = vec![9.0; batch.pixels.len()];
            batch.to_images(&mut images);
            let mut second = vec![9.0; 96];
            batch.params[1].apply(&batch.pixels[96..], batch.size, &mut second);
            assert_eq!(images[96..], second);
        }
    }

    /// Checks that one step of augmentation does not change the random numbers of the others.
    #[test]
    fn steps_draw_from_streams_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let samples = samples(folder.path());
        let load = |crop, augment: Augment| -> Vec<Batch> {
            let transform = Transform { crop, ..Transform::squeeze([8, 4], Interpolation::Bicubic) };
            let options = LoaderOptions { transform, augment: Some(augment), seed: 3, epoch: 2, workers: 2 };
            let cache = ImageCache::new(samples.len(), &transform, 1);
            Loader::new(samples.clone(), &order(), 0, options, cache).unwrap().collect::<Result<_>>().unwrap()
        };
        let base = Augment { flip: 0.5, pad: 3, random_erasing: 0.5, cutmix: 1.0, ..Augment::none() };
        let plain = load(Crop::Squeeze, base.clone());
        let coloured = load(Crop::RandomResized, Augment { rand_ops: 1, brightness: 0.5, ..base });
        for (plain, coloured) in plain.iter().zip(&coloured) {
            assert_ne!(plain.pixels, coloured.pixels);
            assert_eq!((&plain.params, plain.mix), (&coloured.params, coloured.mix));
        }
        let shares: Vec<f32> = plain.iter().map(|batch| batch.mix.unwrap().share()).collect();
        assert!(shares.windows(2).any(|pair| pair[0] != pair[1]), "{shares:?}");
    }

    #[test]
    fn evaluation_takes_the_images_in_order_and_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let samples = samples(folder.path());
        for crop in [Crop::Squeeze, Crop::Center, Crop::RandomResized] {
            let transform = Transform { crop, ..Transform::squeeze([8, 4], Interpolation::Bicubic) };
            let options = LoaderOptions { transform, augment: None, seed: 0, epoch: 0, workers: 2 };
            let loader = Loader::sequential(samples.clone(), 4, options).unwrap();
            let plain: Vec<Batch> = loader.collect::<Result<_>>().unwrap();
            let lengths: Vec<usize> = plain.iter().map(|batch| batch.indices.len()).collect();
            assert_eq!(lengths, [4, 2]);
            assert!(plain.iter().all(|batch| batch.mix.is_none()));
            assert!(plain.iter().flat_map(|batch| &batch.params).all(|params| *params == AugmentParams::default()));
            let want = transform.fixed(&samples[4].image.decode(false).unwrap().0).pixels;
            assert_eq!(plain[1].pixels[..96], want);
        }
    }
}
