//! Threads that decode and augment ahead of training. Batches come in order and do not depend on the number of threads:
//! what happens to an image is a function of (seed, epoch, place in the epoch).

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use super::ImageRecord;
use super::transforms::Transform;
use crate::config::Augment;
use crate::rng::{Purpose, stream};
use crate::{Error, Result};

/// Batches that a worker prepares ahead.
const AHEAD: usize = 2;

/// A batch, ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[batch, height, width, 3]`
    pub images: Vec<f32>,
    /// Class of each image: the rank of its identity among the records'.
    pub labels: Vec<u32>,
    /// Which record each image is.
    pub indices: Vec<usize>,
}

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
    let len = transform.height * transform.width * 3;
    let mut images = vec![0.0; indices.len() * len];
    for (place, (&index, out)) in indices.iter().zip(images.chunks_exact_mut(len)).enumerate() {
        let pixels = work.cache.load(index, &records[index].path, transform)?;
        match augment {
            Some(augment) => {
                let item = (work.first + number) * indices.len() + place;
                transform.augment(&pixels, augment, out, &mut stream(*seed, Purpose::Augment, *epoch, item as u64));
            }
            None => transform.normalize(&pixels, out),
        }
    }
    Ok(Batch { images, labels: indices.iter().map(|&i| labels[i]).collect(), indices: indices.clone() })
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
