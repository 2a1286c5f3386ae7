//! Threads that decode and resize ahead of training, and draw what augmentation shall do. Batches come in order and do not
//! depend on the number of threads: what happens to an image is a function of (seed, epoch, place in the epoch).

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use super::transforms::Transform;
use super::{Batch, Drawn, ImageRecord};
use crate::config::Augment;
use crate::rng::{Purpose, stream};
use crate::{Error, Result};

/// Batches that a worker prepares ahead.
const AHEAD: usize = 2;

/// How images are loaded.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    pub transform: Transform,
    /// `None` for evaluation.
    pub augment: Option<Augment>,
    pub seed: u64,
    pub epoch: u64,
    pub workers: usize,
}

/// Resized images that were decoded before, up to a number of bytes; shared by all epochs.
pub struct ImageCache {
    images: Vec<OnceLock<Arc<[u8]>>>,
}

impl ImageCache {
    /// A cache for the first images of `records` that fit into `megabytes`.
    pub fn new(records: usize, transform: &Transform, megabytes: usize) -> Arc<ImageCache> {
        let fits = (megabytes << 20) / (transform.height * transform.width * 3);
        Arc::new(ImageCache { images: (0..records.min(fits)).map(|_| OnceLock::new()).collect() })
    }

    fn load(&self, index: usize, path: &Path, transform: &Transform) -> Result<Arc<[u8]>> {
        let Some(slot) = self.images.get(index) else { return Ok(transform.load(path)?.into()) };
        if let Some(image) = slot.get() {
            return Ok(image.clone());
        }
        let image: Arc<[u8]> = transform.load(path)?.into();
        Ok(slot.get_or_init(|| image).clone())
    }
}

/// An iterator over batches.
pub struct Loader {
    workers: Vec<Worker>,
    next: usize,
    count: usize,
}

struct Worker {
    /// `None` once the loader is dropped, which ends the thread.
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

/// What all workers share.
struct Work {
    records: Vec<ImageRecord>,
    labels: Vec<u32>,
    batches: Vec<Vec<usize>>,
    /// Place in the epoch of the first batch: a resumed epoch goes on with the same random numbers.
    first: usize,
    options: LoaderOptions,
    cache: Arc<ImageCache>,
}

impl Loader {
    /// Loads `batches` (indices into `records`) of an epoch from batch number `first` on.
    pub fn new(
        records: &[ImageRecord],
        batches: &[Vec<usize>],
        first: usize,
        options: LoaderOptions,
        cache: Arc<ImageCache>,
    ) -> Loader {
        let mut pids: Vec<i64> = records.iter().map(|r| r.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let label = |r: &ImageRecord| pids.binary_search(&r.pid).expect("collected above") as u32;
        let labels = records.iter().map(label).collect();
        let batches = batches.get(first..).unwrap_or(&[]).to_vec();
        let count = batches.len();
        let step = options.workers.max(1);
        let work = Arc::new(Work { records: records.to_vec(), labels, batches, first, options, cache });
        let workers = (0..step)
            .map(|worker| {
                let (sender, receiver) = sync_channel(AHEAD);
                let work = work.clone();
                let thread = std::thread::spawn(move || serve(&work, worker, step, &sender));
                Worker { batches: Some(receiver), thread: Some(thread) }
            })
            .collect();
        Loader { workers, next: 0, count }
    }

    /// Batches in order of the records, the last one partial; for evaluation.
    pub fn sequential(records: &[ImageRecord], batch: usize, options: LoaderOptions) -> Loader {
        let indices: Vec<usize> = (0..records.len()).collect();
        let batches: Vec<Vec<usize>> = indices.chunks(batch).map(<[usize]>::to_vec).collect();
        Loader::new(records, &batches, 0, options, Arc::new(ImageCache { images: Vec::new() }))
    }
}

/// Prepares every `step`-th batch from `worker` on, until done or nobody listens.
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
    let Work { records, labels, batches, options, .. } = work;
    let indices = &batches[number];
    let LoaderOptions { transform, augment, seed, epoch, .. } = options;
    let size = [transform.height, transform.width];
    let mut pixels = Vec::with_capacity(indices.len() * size[0] * size[1] * 3);
    let mut drawn = Vec::with_capacity(indices.len());
    for (place, &index) in indices.iter().enumerate() {
        pixels.extend_from_slice(&work.cache.load(index, &records[index].path, transform)?);
        drawn.push(augment.as_ref().map_or_else(Drawn::default, |augment| {
            let item = (work.first + number) * indices.len() + place;
            Drawn::draw(augment, size, &mut stream(*seed, Purpose::Augment, *epoch, item as u64))
        }));
    }
    let labels = indices.iter().map(|&i| labels[i]).collect();
    Ok(Batch { pixels, size, drawn, labels, indices: indices.clone() })
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.next == self.count {
            return None;
        }
        let worker = self.next % self.workers.len();
        self.next += 1;
        // A worker that is gone before its last batch has panicked: that is an error, not the end of the data.
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
                // A worker that panicked has said so already.
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Interpolation;

    #[test]
    fn batches_depend_on_seed_and_place_and_not_on_workers() {
        let folder = tempfile::tempdir().unwrap();
        let records: Vec<ImageRecord> = (0..6u8)
            .map(|i| {
                let path = folder.path().join(format!("{i}.png"));
                image::RgbImage::from_pixel(4, 8, image::Rgb([40 * i, 7, 9])).save(&path).unwrap();
                ImageRecord { path, pid: 3 + i64::from(i / 3), camid: 1 }
            })
            .collect();
        let transform = Transform { height: 8, width: 4, interpolation: Interpolation::Bicubic };
        let augment = Augment { flip: 0.5, pad: 3, random_erasing: 0.5, ..Augment::NONE };
        let order = [vec![5, 0], vec![1, 2], vec![3, 4], vec![0, 5]];
        let load = |workers, first, seed| -> Vec<Batch> {
            let options = LoaderOptions { transform, augment: Some(augment.clone()), seed, epoch: 1, workers };
            let cache = ImageCache::new(records.len(), &transform, 1);
            Loader::new(&records, &order, first, options, cache).collect::<Result<_>>().unwrap()
        };
        let batches = load(1, 0, 0);
        assert_eq!(batches, load(3, 0, 0));
        assert_eq!(batches[2..], load(2, 2, 0));
        assert_ne!(batches, load(1, 0, 1));
        assert_eq!((batches[0].pixels[0], &batches[0].labels, &batches[0].indices), (200, &vec![1, 0], &order[0]));

        let batch = &batches[1];
        let mut images = vec![9.0; batch.pixels.len()];
        batch.to_images(&mut images);
        let mut second = vec![9.0; 96];
        batch.drawn[1].apply(&batch.pixels[96..], batch.size, &mut second);
        assert_eq!(images[96..], second);

        let options = LoaderOptions { transform, augment: None, seed: 0, epoch: 0, workers: 2 };
        let plain: Vec<Batch> = Loader::sequential(&records, 4, options).collect::<Result<_>>().unwrap();
        let lengths: Vec<usize> = plain.iter().map(|batch| batch.indices.len()).collect();
        assert_eq!(lengths, [4, 2]);
        assert!(plain.iter().flat_map(|batch| &batch.drawn).all(|drawn| *drawn == Drawn::default()));
    }
}
