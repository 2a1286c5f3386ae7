//! Re-ranking on a GPU, by the kernels of `kernels/rank.cu`.
//!
//! The GPU selects candidates for the nearest and the farthest images; the CPU decides among them in f64.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::base::BaseDistance;
use super::encoding::ExactReranking;
use super::neighbours::{Candidate, Neighbours};
use super::{RerankOptions, overlap_margin};
use crate::Result;
use crate::engine::device::{Buffer, Gpu, Grid, Ptr, kernels};
use crate::eval::products::{Columns, Conditioned, RowTerms, allocate, block_rows, rows_that_fit, upload};

/// Bytes of dynamic shared memory that a thread block has on every device by default: 48 KiB, less what kernels declare statically.
const SHARED_BYTES: usize = 47 << 10;
/// Candidates beyond the wanted number of nearest images.
const SPARE: usize = 8;
/// Candidates for the farthest image.
const FAR: usize = 4;
/// Rounding errors of a weight and of sums of weights in the kernels, beside one for each term.
const WEIGHT_ROUNDINGS: usize = 64;

/// The encodings of queries and gallery on a GPU, and what is needed to compute re-ranked distances from them.
pub(crate) struct GpuReranker<'a> {
    exact: ExactReranking<'a>,
    terms: RowTerms,
    /// `[n]`: the largest d of each image, over all images.
    largest: Buffer,
    /// Rows V of all images.
    encoding: SparseRows,
    /// How far a final distance may be above its bound, without the uncertainty of the plain distances.
    margin: f32,
}

/// Rows of (column, weight), ascending by column.
struct SparseRows {
    /// Columns and weights of the entries, `[n, capacity]` each.
    columns: Buffer,
    weights: Buffer,
    /// `[n]`: entries of each row.
    sizes: Buffer,
    capacity: usize,
}

/// The nearest images of each of n images, on the GPU.
struct Nearest {
    /// `[n, count]`: nearest other images by (distance, index), and their d.
    nearest: Buffer,
    distances: Buffer,
    /// `[n]`: the largest d.
    largest: Buffer,
    count: usize,
}

/// The options limited for n images, each of which has n - 1 neighbours at most.
#[derive(Clone, Copy)]
struct Limits {
    k1: usize,
    /// Half of k1.
    half: usize,
    k2: usize,
    /// Number of nearest images that are sought.
    count: usize,
    /// Entries of R* before equal ones are merged.
    capacity: usize,
}

impl Limits {
    fn new(options: &RerankOptions, n: usize) -> Limits {
        let others = n.saturating_sub(1);
        let (k1, half) = (options.k1.min(others), options.half().min(others));
        let (k2, count) = (options.k2.min(n), options.neighbours(n));
        Limits { k1, half, k2, count, capacity: (k1 + 1) * (half + 2) }
    }
}

impl<'a> GpuReranker<'a> {
    /// Returns how many bytes [`GpuReranker::new`] takes at most; `None` if the sets R* of these options do not fit into the shared
    /// memory in which the kernels build them.
    pub(crate) fn bytes(options: &RerankOptions, n: usize, dim: usize) -> Option<usize> {
        let Limits { k1, half, k2, count, capacity } = Limits::new(options, n);
        let shared = capacity * usize::max(32, 8 * k2);
        let averaged = if k2 > 1 { (k2 * capacity).min(n) } else { 0 };
        // Transposed features and a block of distances, neighbours, the two kinds of sets, encodings before and after averaging.
        let block = 4 * n * block_rows(n);
        let rows = n * (8 * (count + SPARE + FAR) + 4 * (k1 + half + 2) + 8 * (capacity + averaged));
        (shared <= SHARED_BYTES).then_some(4 * n * dim + block + rows)
    }

    /// Computes the encodings of all rows, which are at `features`. After each block, `done` is called with the number of images that
    /// have been compared with all others.
    ///
    /// # Errors
    /// [`crate::Error::DeviceMemory`]; the device fails.
    pub(crate) fn new(
        gpu: &Gpu,
        features: Ptr<f32>,
        conditioned: Arc<Conditioned<'a>>,
        options: RerankOptions,
        done: &mut dyn FnMut(usize),
    ) -> Result<GpuReranker<'a>> {
        let (n, dim) = (conditioned.len(), conditioned.dim());
        let limits = Limits::new(&options, n);
        let base = BaseDistance::new(conditioned, options.variant);
        let terms = RowTerms::new(gpu, &base.offset, &base.length, &base.scale)?;
        let found = candidates(gpu, features, &base, &terms, limits.count, done)?;
        let found = Neighbours::decide(&base, limits.count, found);
        let near = Nearest::new(gpu, &base, &found, limits.count)?;
        let (columns, sizes) = expanded(gpu, &near, limits, n)?;
        let rows = SparseRows {
            weights: allocate::<f32>(gpu, n * limits.capacity)?,
            columns,
            sizes,
            capacity: limits.capacity,
        };
        let (nearest, known, most) = (near.nearest.ptr(), near.distances.ptr(), near.largest.ptr());
        let (set, size, weight) = (rows.columns.ptr(), rows.sizes.ptr(), rows.weights.ptr());
        let (x, offset, length, scale) = (features, terms.offset.ptr(), terms.length.ptr(), terms.scale.ptr());
        let [count, pitch, depth] = [near.count, rows.capacity, dim].map(|size| size as i32);
        let square = i32::from(options.variant.squares());
        kernels::encode_weights(
            gpu, n, set, size, nearest, known, most, x, offset, length, scale, weight, count, pitch, depth, square,
        )?;
        let encoding =
            if limits.k2 > 1 { rows.mean_of_nearest(gpu, &near.nearest, count, limits.k2, n)? } else { rows };
        // A weight has the relative error of its D and that of the sum of all weights.
        let uncertain = (0..n).filter(|i| found.max[*i] > 0.0).map(|i| f64::from(base.widest(i)) / found.max[i]);
        let wrong = 2.0 * f64::from(base.steepness()) * uncertain.fold(0.0, f64::max);
        let margin = overlap_margin(2 * encoding.capacity + WEIGHT_ROUNDINGS, wrong);
        Ok(GpuReranker {
            exact: ExactReranking::new(base, found, options),
            terms,
            largest: near.largest,
            encoding,
            margin,
        })
    }

    /// Returns the exact re-ranked distances.
    pub(crate) fn exact(&self) -> &ExactReranking<'a> {
        &self.exact
    }

    /// Turns products `[queries, gallery]` of two ranges of images into final distances.
    pub(crate) fn to_distances(
        &self,
        gpu: &Gpu,
        queries: Range<usize>,
        gallery: Range<usize>,
        block: Ptr<f32>,
    ) -> Result<()> {
        let SparseRows { columns, weights, sizes, capacity } = &self.encoding;
        let (set, weight, size) = (columns.ptr(), weights.ptr(), sizes.ptr());
        let shared = allocate::<f32>(gpu, queries.len() * gallery.len())?;
        let overlap = shared.ptr();
        let n = self.exact.base.len();
        let window = n.min(SHARED_BYTES / 4);
        let grid = Grid::from(queries.len()).shared(4 * window);
        let [q, g, wide] = [queries.start, gallery.start, gallery.len()].map(|size| size as i32);
        let [n, pitch, window] = [n, *capacity, window].map(|size| size as i32);
        kernels::jaccard_overlap(gpu, grid, set, weight, size, overlap, q, g, wide, n, pitch, window)?;

        let (grid, high) = (Grid::any(queries.len() * gallery.len()), queries.len() as i64);
        let most = self.largest.ptr::<f32>().add(queries.start);
        let options = &self.exact.options;
        let (lambda, square) = (options.lambda, i32::from(options.variant.squares()));
        self.terms.to_distances(gpu, block, queries, gallery)?;
        kernels::blend_distances(gpu, grid, block, overlap, most, high, wide, lambda, square)
    }

    /// Turns final distances of `queries` that were downloaded into lower bounds. Returns for each query how far its distances may be
    /// above the bounds, without the uncertainty of the plain distances.
    pub(crate) fn to_bounds(&self, queries: Range<usize>, block: &mut [f32]) -> Vec<f32> {
        // Without a finite margin, a number below all distances.
        let lower = |d: &mut f32| *d = if self.margin.is_finite() { *d - self.margin } else { -1.0 };
        block.par_iter_mut().for_each(lower);
        vec![2.0 * self.margin; queries.len()]
    }
}

/// Finds candidates for the `count` nearest others of all images, and for the farthest.
fn candidates(
    gpu: &Gpu,
    features: Ptr<f32>,
    base: &BaseDistance,
    terms: &RowTerms,
    count: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<[Vec<Candidate>; 2]>> {
    let (n, dim) = (base.len(), base.conditioned().dim());
    let others = n.saturating_sub(1);
    let looked_for = [(count + SPARE).min(others), FAR.min(others)];
    let all = Columns::new(gpu, features, n, dim)?;
    let step = rows_that_fit(gpu, n, 1)?.min(n);
    let block = allocate::<f32>(gpu, step * n)?;
    let mut found = Vec::with_capacity(n);
    for start in (0..n).step_by(step) {
        let rows = start..(start + step).min(n);
        all.products(gpu, features.add(start * dim), rows.len(), block.ptr())?;
        terms.to_distances(gpu, block.ptr(), rows.clone(), 0..n)?;
        let [near, far] = [0, 1].map(|farthest| -> Result<Vec<(i32, f32)>> {
            let k = looked_for[farthest];
            if k == 0 {
                return Ok(Vec::new());
            }
            let (mut at, mut bounds) = (vec![0i32; rows.len() * k], vec![0f32; rows.len() * k]);
            let (place, bound) = (allocate::<i32>(gpu, at.len())?, allocate::<f32>(gpu, at.len())?);
            let [wide, own, k, farthest] = [n, start, k, farthest].map(|size| size as i32);
            kernels::row_nearest(gpu, rows.len(), block.ptr(), place.ptr(), bound.ptr(), wide, own, k, farthest)?;
            let places = (bytemuck::cast_slice_mut(&mut at[..]), place.ptr::<i32>().address());
            gpu.download(&mut [places, (bytemuck::cast_slice_mut(&mut bounds[..]), bound.ptr::<f32>().address())])?;
            Ok(at.into_iter().zip(bounds).collect())
        });
        let (near, far) = (near?, far?);
        let of_image = |(row, i): (usize, usize)| {
            let [near, far] = [(&near, looked_for[0]), (&far, looked_for[1])].map(|(all, k)| &all[row * k..][..k]);
            [nearest_of(base, i, near, count), farthest_of(base, i, far)]
        };
        found.par_extend(rows.clone().into_par_iter().enumerate().map(of_image));
        done(rows.end);
    }
    Ok(found)
}

/// Returns those of `found`, the images with the smallest bounds, that may be among the `count` nearest of image `i`. Returns all images
/// if one outside of `found` may be among them.
fn nearest_of(base: &BaseDistance, i: usize, found: &[(i32, f32)], count: usize) -> Vec<Candidate> {
    let Some((_, last)) = found.last() else { return Vec::new() };
    let mut most: Vec<f32> = found.iter().map(|(j, least)| least + base.width(i, *j as usize)).collect();
    most.sort_by(f32::total_cmp);
    let bound = count.checked_sub(1).map_or(f32::NEG_INFINITY, |last| most[last]);
    if found.len() + 1 < base.len() && *last <= bound {
        return all_others(base, i);
    }
    let near = found.iter().filter(|(_, least)| *least <= bound);
    near.map(|(j, least)| Candidate::new(base, i, *j as usize, *least)).collect()
}

/// Returns those of `found`, the images with the largest bounds, that may be the farthest of image `i`. Returns all images if one
/// outside of `found` may be the farthest.
fn farthest_of(base: &BaseDistance, i: usize, found: &[(i32, f32)]) -> Vec<Candidate> {
    let (Some((_, first)), Some((_, last))) = (found.first(), found.last()) else { return Vec::new() };
    if found.len() + 1 < base.len() && last + base.widest(i) >= *first {
        return all_others(base, i);
    }
    found.iter().map(|(j, least)| Candidate::new(base, i, *j as usize, *least)).collect()
}

fn all_others(base: &BaseDistance, i: usize) -> Vec<Candidate> {
    (0..base.len()).filter(|j| *j != i).map(Candidate::unknown).collect()
}

impl Nearest {
    fn new(gpu: &Gpu, base: &BaseDistance, found: &Neighbours, count: usize) -> Result<Nearest> {
        let n = base.len();
        let of_image =
            |i: usize| found.nearest(i, count).par_iter().map(move |j| (*j as i32, base.exact(i, *j as usize) as f32));
        let (places, distances): (Vec<i32>, Vec<f32>) = (0..n).into_par_iter().flat_map(of_image).unzip();
        let most: Vec<f32> = found.max.iter().map(|d| *d as f32).collect();
        let (nearest, distances) = (upload(gpu, &places)?, upload(gpu, &distances)?);
        Ok(Nearest { nearest, distances, largest: upload(gpu, &most)?, count })
    }

    /// Computes R(i, k) of all images: `[n, k + 1]`, ascending, and their sizes `[n]`.
    fn reciprocal(&self, gpu: &Gpu, k: usize, n: usize) -> Result<(Buffer, Buffer)> {
        let (columns, sizes) = (allocate::<i32>(gpu, n * (k + 1))?, allocate::<i32>(gpu, n)?);
        let grid = Grid::from(n.div_ceil(8)).shared(32 * (k + 1));
        let (count, k) = (self.count as i32, k as i32);
        kernels::k_reciprocal(gpu, grid, self.nearest.ptr(), columns.ptr(), sizes.ptr(), n as i32, count, k)?;
        Ok((columns, sizes))
    }
}

/// Computes R* of all images: `[n, capacity]`, ascending, and their sizes `[n]`.
fn expanded(gpu: &Gpu, found: &Nearest, limits: Limits, n: usize) -> Result<(Buffer, Buffer)> {
    let Limits { k1, half, capacity, .. } = limits;
    let (sets, set_sizes) = found.reciprocal(gpu, k1, n)?;
    let (halves, half_sizes) = found.reciprocal(gpu, half, n)?;
    let (columns, sizes) = (allocate::<i32>(gpu, n * capacity)?, allocate::<i32>(gpu, n)?);
    let grid = Grid::from(n.div_ceil(8)).shared(32 * capacity);
    let (set, size) = (sets.ptr(), set_sizes.ptr());
    let (other, other_size) = (halves.ptr(), half_sizes.ptr());
    let (out, out_size) = (columns.ptr(), sizes.ptr());
    let [images, k1, half, pitch] = [n, k1, half, capacity].map(|size| size as i32);
    kernels::expand_sets(gpu, grid, set, size, other, other_size, out, out_size, images, k1, half, pitch)?;
    Ok((columns, sizes))
}

impl SparseRows {
    /// Computes the mean of the rows of each image and its k2 - 1 nearest others of `nearest` `[n, count]`.
    fn mean_of_nearest(&self, gpu: &Gpu, nearest: &Buffer, count: i32, k2: usize, n: usize) -> Result<SparseRows> {
        // Rows are much shorter than they could be: the length of the longest one suffices.
        let mut sizes = vec![0i32; n];
        gpu.download(&mut [(bytemuck::cast_slice_mut(&mut sizes), self.sizes.ptr::<i32>().address())])?;
        let longest = sizes.iter().copied().max().unwrap_or(0) as usize;
        let capacity = (k2 * longest).min(n);
        let (columns, weights) = (allocate::<i32>(gpu, n * capacity)?, allocate::<f32>(gpu, n * capacity)?);
        let mean = SparseRows { columns, weights, sizes: allocate::<i32>(gpu, n)?, capacity };
        let grid = Grid::from(n).shared(8 * k2 * self.capacity);
        let (set, weight, size, near) = (self.columns.ptr(), self.weights.ptr(), self.sizes.ptr(), nearest.ptr());
        let (out, out_weight, out_size) = (mean.columns.ptr(), mean.weights.ptr(), mean.sizes.ptr());
        let [pitch, k2, wide] = [self.capacity, k2, capacity].map(|size| size as i32);
        kernels::mean_of_nearest(
            gpu, grid, set, weight, size, near, out, out_weight, out_size, count, pitch, k2, wide,
        )?;
        Ok(mean)
    }
}
