//! Distances of queries to the whole gallery, a block of queries at a time, by the CPU or a GPU: the whole matrix is never in memory.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use self::cpu::CpuDistances;
use self::gpu::GpuDistances;
use super::products::{Conditioned, Pairs, Row, Width, check_finite};
use super::rerank::{ExactReranking, RerankOptions};
use crate::base::memory;
use crate::base::progress::Reporter;
use crate::base::text::plural;
use crate::engine::cpu::summed_at_once;
use crate::engine::device::Device;
use crate::{Error, Result};

/// [`reranked_distances`] returns the middle of two bounds that differ by less than this.
const NEAR: f32 = 1e-4;

/// Lower bounds of the distances of some queries to the whole gallery. Its memory is reused from block to block.
#[derive(Debug, Default)]
pub(crate) struct DistanceBlock {
    /// Squared Euclidean distances in the unit of the conditioned rows, `[rows, gallery]`.
    plain: Vec<f32>,
    /// Re-ranked distances, `[rows, gallery]`; empty without re-ranking.
    reranked: Vec<f32>,
    /// `[rows]`: how far re-ranked distances may be above their lower bounds, without the uncertainty of the plain distance.
    margins: Vec<f32>,
}

/// Computes bounds of distances between queries and a gallery: the CPU or a GPU.
pub(crate) trait DistanceSource<'a> {
    /// Returns how many queries a block has.
    fn block_rows(&self) -> usize;

    /// Returns how many bytes of memory [`DistanceSource::prepare_reranking`] takes at most; `None` where this source cannot re-rank
    /// with these options.
    fn reranking_bytes(&self, options: &RerankOptions) -> Option<usize>;

    /// Prepares the re-ranking: blocks that are filled after this have re-ranked distances too. `options` must be valid, and
    /// [`DistanceSource::reranking_bytes`] must not be `None` for them. `done` is called with the number of images that have been
    /// compared with all others.
    ///
    /// # Errors
    /// It does not fit into memory; the device fails.
    fn prepare_reranking(&mut self, options: RerankOptions, done: &mut dyn FnMut(usize)) -> Result<()>;

    /// Returns the exact re-ranked distances, if a re-ranking was prepared.
    fn exact_reranking(&self) -> Option<&ExactReranking<'a>>;

    /// Computes the bounds of the queries `rows`.
    ///
    /// # Errors
    /// The device fails.
    fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()>;
}

/// Distances between queries and a gallery.
pub(super) struct Distances<'a> {
    conditioned: Arc<Conditioned<'a>>,
    source: Box<dyn DistanceSource<'a> + 'a>,
    /// `[gallery]`: twice the slack of each image.
    widths: Vec<f32>,
    /// Why the CPU computes although a GPU was given.
    cpu_because: Option<String>,
}

impl<'a> Distances<'a> {
    /// Prepares the distances of finite features `[queries, dim]` and `[gallery, dim]` on `device`. Falls back to the CPU if the GPU has
    /// too little free memory.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn new(features: [&'a [f32]; 2], dim: usize, device: &Device) -> Result<Distances<'a>> {
        // A GPU sums a whole row in one go.
        let part = if device.gpu().is_some() { dim } else { summed_at_once(dim) };
        let conditioned = Arc::new(Conditioned::new(features, dim, part));
        let widths = conditioned.slack()[conditioned.queries()..].iter().map(|slack| 2.0 * slack).collect();
        let (source, cpu_because): (Box<dyn DistanceSource<'a> + 'a>, _) = match device.gpu() {
            None => (Box::new(CpuDistances::new(conditioned.clone())), None),
            Some(gpu) => match GpuDistances::new(gpu, conditioned.clone()) {
                Ok(source) => (Box::new(source), None),
                Err(error @ Error::DeviceMemory { .. }) => {
                    (Box::new(CpuDistances::new(conditioned.clone())), Some(error.to_string()))
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Distances { conditioned, source, widths, cpu_because })
    }

    /// Reports a fallback to the CPU, and warns of features that are all equal and so cannot rank anything.
    pub(crate) fn report_notices(&self, reporter: &Reporter) {
        self.report_fallback(reporter);
        if self.conditioned.len() > 1 && self.conditioned.all_equal() {
            reporter.warn(&format!(
                "all {} features are the same as 32-bit numbers: every distance is 0, and the results mean nothing; check how the \
                 features were made, and subtract their mean where it is large",
                self.conditioned.len()
            ));
        }
    }

    /// Reports a fallback to the CPU.
    pub(super) fn report_fallback(&self, reporter: &Reporter) {
        if let Some(reason) = &self.cpu_because {
            reporter.message(&format!("ranking on the CPU: {reason}"));
        }
    }

    /// Returns an upper bound of all distances between a query and an image of the gallery.
    pub(super) fn largest(&self) -> f64 {
        self.conditioned.largest()
    }

    /// Returns the factor by which distances of [`Distances::plain`] rows are larger than those of the features: a power of two.
    pub(super) fn unit(&self) -> f64 {
        self.conditioned.unit()
    }

    /// Returns the exact Euclidean distances of single pairs.
    pub(super) fn pairs(&self) -> &dyn Pairs {
        &*self.conditioned
    }

    /// Prepares the re-ranking: blocks that are filled after this have re-ranked distances too. Falls back to the CPU for what the
    /// GPU cannot do.
    ///
    /// # Errors
    /// As [`RerankOptions::validate`]; it does not fit into memory; the device fails.
    pub(crate) fn prepare_reranking(&mut self, options: RerankOptions, reporter: &Reporter) -> Result<()> {
        options.validate()?;
        let because = match self.source.reranking_bytes(&options) {
            None => format!("k1 {} and k2 {} are too large for re-ranking on the GPU", options.k1, options.k2),
            Some(bytes) => match self.prepare(options, bytes, reporter) {
                Err(error @ Error::DeviceMemory { .. }) => error.to_string(),
                done => return done,
            },
        };
        self.source = Box::new(CpuDistances::new(self.conditioned.clone()));
        self.cpu_because = Some(because);
        self.report_fallback(reporter);
        let bytes = self.source.reranking_bytes(&options).expect("the CPU takes all options");
        self.prepare(options, bytes, reporter)
    }

    fn prepare(&mut self, options: RerankOptions, bytes: usize, reporter: &Reporter) -> Result<()> {
        let n = self.conditioned.len();
        reporter.message(&format!(
            "re-ranking ({options}) of {} takes about {} MiB",
            plural(n, "image", "images"),
            bytes >> 20
        ));
        let mut task = reporter.start("re-ranking", n as u64, "images");
        let mut before = 0;
        self.source.prepare_reranking(options, &mut |done| {
            task.advance((done - before) as u64, "");
            before = done;
        })?;
        task.finish("");
        Ok(())
    }

    /// Returns the ranges of queries that make up the blocks.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (step, queries) = (self.source.block_rows(), self.conditioned.queries());
        (0..queries).step_by(step).map(move |start| start..(start + step).min(queries))
    }

    /// Fills `block` with bounds of the distances of the queries `rows` to the gallery.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()> {
        self.source.fill(rows, block)
    }

    /// Returns the Euclidean distances of the queries `rows`, for which `block` was filled.
    pub(super) fn plain<'b>(&'b self, rows: Range<usize>, block: &'b DistanceBlock) -> Vec<Row<'b>> {
        let slack = self.conditioned.slack();
        let of_row = |(query, lower): (usize, &'b [f32])| {
            let width = Width { own: 2.0 * slack[query], factors: [1.0, 0.0], of: [&self.widths; 2] };
            Row::new(query, lower, width, &*self.conditioned)
        };
        rows.zip(block.plain.chunks_exact(self.widths.len().max(1))).map(of_row).collect()
    }

    /// Calls `of_block(first query, rows)` with the Euclidean distances of each block of queries.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn for_each_block(&self, mut of_block: impl FnMut(usize, &[Row])) -> Result<()> {
        let mut block = DistanceBlock::default();
        for queries in self.blocks() {
            self.fill(queries.clone(), &mut block)?;
            of_block(queries.start, &self.plain(queries, &block));
        }
        Ok(())
    }

    /// Returns the re-ranked distances of the queries `rows`, for which `block` was filled; an empty list without re-ranking.
    pub(super) fn reranked<'b>(&'b self, rows: Range<usize>, block: &'b DistanceBlock) -> Vec<Row<'b>> {
        let Some(exact) = self.source.exact_reranking() else { return Vec::new() };
        let lower = block.reranked.chunks_exact(self.widths.len().max(1));
        let of_row = |((query, lower), margin): ((usize, &'b [f32]), &f32)| {
            Row::new(query, lower, exact.width(query, *margin), exact)
        };
        rows.zip(lower).zip(&block.margins).map(of_row).collect()
    }
}

/// Computes all re-ranked distances `[queries, gallery]` on `device`, from features `query` `[queries, dim]` and `gallery`
/// `[gallery, dim]`. All of them are in memory at once. Distances that rounding leaves uncertain by 10⁻⁴ or more are computed in f64.
///
/// # Errors
/// As [`RerankOptions::validate`]; [`Error::NotFiniteFeature`]; it does not fit into memory; the device fails.
///
/// # Panics
/// `dim` is 0.
pub fn reranked_distances(
    query: &[f32],
    gallery: &[f32],
    dim: usize,
    options: RerankOptions,
    device: &Device,
) -> Result<Vec<f32>> {
    options.validate()?;
    check_finite("query", query, dim, 0)?;
    check_finite("gallery", gallery, dim, 0)?;
    if query.is_empty() || gallery.is_empty() {
        return Ok(Vec::new());
    }
    let pairs = (query.len() / dim) as u64 * (gallery.len() / dim) as u64;
    memory::ensure("re-ranking", pairs * size_of::<f32>() as u64)?;
    let mut distances = Distances::new([query, gallery], dim, device)?;
    distances.prepare_reranking(options, &Reporter::silent())?;
    let (queries, mut block) = (0..query.len() / dim, DistanceBlock::default());
    distances.fill(queries.clone(), &mut block)?;
    let distance = |row: &Row, item: usize| {
        let [lower, upper] = [row.lower(item), row.upper(item)];
        // Both parts of a final distance lie between 0 and 1.
        if upper - lower < NEAR { (0.5 * (lower + upper)).clamp(0.0, 1.0) } else { row.exact(item) as f32 }
    };
    let rows = distances.reranked(queries, &block);
    Ok(rows.par_iter().flat_map_iter(|row| (0..row.len()).map(move |item| distance(row, item))).collect())
}
