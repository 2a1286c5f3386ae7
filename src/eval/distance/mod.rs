//! Distances of block after block of queries to the whole gallery, by the CPU or a GPU: the whole matrix is never held.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use self::cpu::CpuDistances;
use self::gpu::GpuDistances;
use super::products::{Conditioned, Pairs, Row, Width};
use super::rerank::{RerankOptions, Settled};
use crate::base::progress::Reporter;
use crate::base::text::plural;
use crate::engine::cpu::summed_at_once;
use crate::engine::device::Device;
use crate::{Error, Result};

/// [`reranked_distances`] takes the middle between bounds that differ by less.
const NEAR: f32 = 1e-4;

/// Lower bounds of distances of some queries to the whole gallery; its memory is used for block after block.
#[derive(Debug, Default)]
pub struct DistanceBlock {
    /// Squared Euclidean distances in the unit of the conditioned rows, `[rows, gallery]`.
    plain: Vec<f32>,
    /// Re-ranked distances, `[rows, gallery]`; empty where that was not prepared.
    reranked: Vec<f32>,
    /// `[rows]`: how far a re-ranked distance may be above its bound, beside what the plain distance leaves open.
    margins: Vec<f32>,
}

/// Queries and a gallery on the side that computes.
pub trait DistanceSource<'a> {
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

    /// What was prepared for re-ranking.
    fn settled(&self) -> Option<&Settled<'a>>;

    /// Computes the bounds of the queries `rows`.
    ///
    /// # Errors
    /// The device fails.
    fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()>;
}

/// Distances between queries and a gallery, and who computes them.
pub struct Distances<'a> {
    conditioned: Arc<Conditioned<'a>>,
    source: Box<dyn DistanceSource<'a> + 'a>,
    /// Twice the slack of each image of the gallery.
    widths: Vec<f32>,
    /// Why the CPU computes where a GPU was given.
    cpu_because: Option<String>,
}

impl<'a> Distances<'a> {
    /// Of finite `[query, gallery]`, by `device`. A GPU where they do not fit beside what it holds already leaves them to the
    /// CPU.
    ///
    /// # Errors
    /// The device fails.
    pub fn new(features: [&'a [f32]; 2], dim: usize, device: &Device) -> Result<Distances<'a>> {
        // A GPU sums a whole row.
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

    /// Tells where the CPU computes although a GPU was given, and warns of features that cannot rank anything.
    pub fn say_oddities(&self, reporter: &Reporter) {
        self.say_fallback(reporter);
        if self.conditioned.len() > 1 && self.conditioned.all_equal() {
            reporter.warn(&format!(
                "all {} features are the same as 32-bit numbers: every distance is 0, and the figures say nothing; check how the \
                 features were made, and subtract their mean where it is large",
                self.conditioned.len()
            ));
        }
    }

    fn say_fallback(&self, reporter: &Reporter) {
        if let Some(reason) = &self.cpu_because {
            reporter.message(&format!("ranking on the CPU: {reason}"));
        }
    }

    /// No distance of a query to an image of the gallery is larger.
    pub fn largest(&self) -> f64 {
        self.conditioned.largest()
    }

    /// The Euclidean distances of single pairs.
    pub fn pairs(&self) -> &dyn Pairs {
        &*self.conditioned
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
        self.source = Box::new(CpuDistances::new(self.conditioned.clone()));
        self.cpu_because = Some(because);
        self.say_fallback(reporter);
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

    /// Ranges of queries whose distances are held together.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (step, queries) = (self.source.block_rows(), self.conditioned.queries());
        (0..queries).step_by(step).map(move |start| start..(start + step).min(queries))
    }

    /// Computes bounds of the distances of the queries `rows` to the gallery.
    ///
    /// # Errors
    /// The device fails.
    pub fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()> {
        self.source.fill(rows, block)
    }

    /// The Euclidean distances of the queries `rows`, which `block` was filled for.
    pub fn plain<'b>(&'b self, rows: Range<usize>, block: &'b DistanceBlock) -> Vec<Row<'b>> {
        let slack = self.conditioned.slack();
        let of_row = |(query, least): (usize, &'b [f32])| {
            let width = Width { own: 2.0 * slack[query], factors: [1.0, 0.0], of: [&self.widths; 2] };
            Row::new(query, least, width, &*self.conditioned)
        };
        rows.zip(block.plain.chunks_exact(self.widths.len().max(1))).map(of_row).collect()
    }

    /// The re-ranked distances of the queries `rows`, which `block` was filled for; nothing where that was not prepared.
    pub fn reranked<'b>(&'b self, rows: Range<usize>, block: &'b DistanceBlock) -> Vec<Row<'b>> {
        let Some(settled) = self.source.settled() else { return Vec::new() };
        let least = block.reranked.chunks_exact(self.widths.len().max(1));
        let of_row = |((query, least), margin): ((usize, &'b [f32]), &f32)| {
            Row::new(query, least, settled.width(query, *margin), settled)
        };
        rows.zip(least).zip(&block.margins).map(of_row).collect()
    }
}

/// Computes all re-ranked distances `[queries, gallery]` on `device` and holds them in memory, for sets that are small enough.
/// Those that rounding leaves uncertain by more than 10⁻⁴ are computed in f64.
///
/// # Errors
/// As [`RerankOptions::validate`]; it does not fit into memory; the device fails.
pub fn reranked_distances(
    query: &[f32],
    gallery: &[f32],
    dim: usize,
    options: RerankOptions,
    device: &Device,
) -> Result<Vec<f32>> {
    options.validate()?;
    if gallery.is_empty() {
        return Ok(Vec::new());
    }
    let mut distances = Distances::new([query, gallery], dim, device)?;
    distances.prepare_reranking(options, &Reporter::silent())?;
    let (queries, mut block) = (0..query.len() / dim, DistanceBlock::default());
    distances.fill(queries.clone(), &mut block)?;
    let distance = |row: &Row, item: usize| {
        let [least, most] = [row.least(item), row.most(item)];
        // Both parts of a final distance lie between 0 and 1.
        if most - least < NEAR { (0.5 * (least + most)).clamp(0.0, 1.0) } else { row.exact(item) as f32 }
    };
    let rows = distances.reranked(queries, &block);
    Ok(rows.par_iter().flat_map_iter(|row| (0..row.len()).map(move |item| distance(row, item))).collect())
}
