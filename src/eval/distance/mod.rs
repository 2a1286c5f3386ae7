//! Distances of block after block of queries to the whole gallery, by the CPU or a GPU: the whole matrix is never held.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use std::ops::Range;

use self::cpu::CpuDistances;
pub(super) use self::cpu::squared_norms;
use self::gpu::GpuDistances;
pub(super) use self::gpu::{Base, Columns, rows_that_fit, words};
use super::rerank::RerankOptions;
use crate::device::Device;
use crate::progress::Reporter;
use crate::{Error, Result};

/// Distances held in memory at a time (64 MiB), unless fewer than [`MIN_BLOCK_ROWS`] rows fit.
const BLOCK_VALUES: usize = 1 << 24;
/// Rows that pay for reading the whole gallery once.
const MIN_BLOCK_ROWS: usize = 64;
const MAX_BLOCK_ROWS: usize = 512;

/// Rows of a block of distances to `n` items: a multiple of 64, so that blocks start at whole panels.
pub fn block_rows(n: usize) -> usize {
    (BLOCK_VALUES / n.max(1)).clamp(MIN_BLOCK_ROWS, MAX_BLOCK_ROWS) / MIN_BLOCK_ROWS * MIN_BLOCK_ROWS
}

/// Distances of some queries to the whole gallery; its memory is used for block after block.
#[derive(Debug, Default)]
pub struct DistanceBlock {
    /// Euclidean, `[rows, gallery]`
    pub plain: Vec<f32>,
    /// Re-ranked, `[rows, gallery]`; empty where that was not prepared.
    pub reranked: Vec<f32>,
}

/// Queries and a gallery on the side that computes.
pub trait DistanceSource {
    /// Queries of a block.
    fn block_rows(&self) -> usize;

    /// Bytes of memory that [`DistanceSource::prepare_reranking`] takes at most; `None` where this source cannot do it.
    fn reranking_bytes(&self, options: &RerankOptions) -> Option<usize>;

    /// From now on blocks have re-ranked distances too. `options` are valid, and [`DistanceSource::reranking_bytes`] knows
    /// them; `done` is called with the number of images that have been compared with all others.
    ///
    /// # Errors
    /// It does not fit into memory; the device fails.
    fn prepare_reranking(&mut self, options: RerankOptions, done: &mut dyn FnMut(usize)) -> Result<()>;

    /// Computes the distances of the queries `rows`.
    ///
    /// # Errors
    /// The device fails.
    fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()>;
}

/// Distances between queries and a gallery, and who computes them.
pub struct Distances<'a> {
    /// `[queries, dim]` and `[gallery, dim]`
    features: [&'a [f32]; 2],
    dim: usize,
    source: Box<dyn DistanceSource + 'a>,
    /// Why the CPU computes where a GPU was given.
    cpu_because: Option<String>,
}

impl<'a> Distances<'a> {
    /// Of `[query, gallery]`, which have `norms` (see [`squared_norms`]), by `device`. A GPU where they do not fit beside what it
    /// holds already leaves them to the CPU.
    ///
    /// # Errors
    /// The device fails.
    pub fn new(features: [&'a [f32]; 2], norms: [Vec<f32>; 2], dim: usize, device: &Device) -> Result<Distances<'a>> {
        let cpu = |cpu_because| {
            let source = Box::new(CpuDistances::new(features, norms, dim));
            Ok(Distances { features, dim, source, cpu_because })
        };
        let Some(gpu) = device.gpu() else { return cpu(None) };
        match GpuDistances::new(gpu, features, dim) {
            Ok(source) => Ok(Distances { features, dim, source: Box::new(source), cpu_because: None }),
            Err(error @ Error::DeviceMemory { .. }) => cpu(Some(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Tells where the CPU computes although a GPU was given.
    pub fn say_fallback(&self, reporter: &Reporter) {
        if let Some(reason) = &self.cpu_because {
            reporter.message(&format!("ranking on the CPU: {reason}"));
        }
    }

    /// From now on blocks have re-ranked distances too. What a GPU cannot do, the CPU does.
    ///
    /// # Errors
    /// As [`RerankOptions::validate`]; it does not fit into memory; the device fails.
    pub fn prepare_reranking(&mut self, options: RerankOptions, reporter: &Reporter) -> Result<()> {
        options.validate()?;
        let because = match self.source.reranking_bytes(&options) {
            None => format!("k1 {} and k2 {} are too large for re-ranking on the GPU", options.k1, options.k2),
            Some(bytes) => match self.prepare(options, bytes, reporter) {
                Err(error @ Error::DeviceMemory { .. }) => error.to_string(),
                done => return done,
            },
        };
        let norms = self.features.map(|features| squared_norms(features, self.dim));
        self.source = Box::new(CpuDistances::new(self.features, norms, self.dim));
        self.cpu_because = Some(because);
        self.say_fallback(reporter);
        let bytes = self.source.reranking_bytes(&options).expect("the CPU takes all options");
        self.prepare(options, bytes, reporter)
    }

    fn prepare(&mut self, options: RerankOptions, bytes: usize, reporter: &Reporter) -> Result<()> {
        let n = (self.features[0].len() + self.features[1].len()) / self.dim;
        reporter.message(&format!("re-ranking ({options}) of {n} images takes about {} MiB", bytes >> 20));
        let mut task = reporter.start("re-ranking", n as u64, "images");
        let mut before = 0;
        self.source.prepare_reranking(options, &mut |done| {
            task.advance((done - before) as u64, "");
            before = done;
        })?;
        task.finish("");
        Ok(())
    }

    /// Ranges of queries whose distances are held together.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (step, queries) = (self.source.block_rows(), self.features[0].len() / self.dim);
        (0..queries).step_by(step).map(move |start| start..(start + step).min(queries))
    }

    /// Computes the distances of the queries `rows` to the gallery.
    ///
    /// # Errors
    /// The device fails.
    pub fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()> {
        self.source.fill(rows, block)
    }
}
