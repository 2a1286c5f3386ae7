//! Re-ranking on a GPU, by the kernels of `kernels/rank.cu`.

use std::ops::Range;

use super::RerankOptions;
use crate::Result;
use crate::device::{Buffer, Gpu, Grid, Ptr, kernels};
use crate::eval::distance::{Base, Columns, rows_that_fit, words};

/// Dynamic shared memory that every device gives a block without being asked: 48 KiB, less what kernels declare themselves.
const SHARED_BYTES: usize = 47 << 10;

/// Everything that re-ranking knows about a set of queries and a gallery, but for the distances themselves.
pub struct GpuReranker {
    options: RerankOptions,
    base: Base,
    /// `[n]`: the largest d of each image, over all images.
    largest: Buffer,
    /// V of all images.
    encoding: SparseRows,
    n: usize,
}

/// Rows of (column, weight), ascending by column.
struct SparseRows {
    /// `[n, capacity]` each
    columns: Buffer,
    weights: Buffer,
    /// `[n]`: entries of each row.
    sizes: Buffer,
    capacity: usize,
}

/// For each of n images.
struct Neighbours {
    /// `[n, count]`: nearest other images by (distance, index), and their d.
    nearest: Buffer,
    distances: Buffer,
    /// `[n]`: the largest d.
    largest: Buffer,
    count: usize,
}

/// The options where there are n images: nobody has more than n - 1 neighbours.
#[derive(Clone, Copy)]
struct Limits {
    k1: usize,
    /// Half of it.
    half: usize,
    k2: usize,
    /// Neighbours that are looked for.
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

impl GpuReranker {
    /// Bytes that [`GpuReranker::new`] takes at most; `None` where the sets of such options outgrow the shared memory that the
    /// kernels build them in.
    pub fn bytes(options: &RerankOptions, n: usize, dim: usize) -> Option<usize> {
        let Limits { k1, half, k2, count, capacity } = Limits::new(options, n);
        let shared = capacity * usize::max(32, 8 * k2);
        let averaged = if k2 > 1 { (k2 * capacity).min(n) } else { 0 };
        // Transposed features and a block of distances, neighbours, the two kinds of sets, encodings before and after the mean.
        let block = 4 * n * crate::eval::distance::block_rows(n);
        let rows = n * (8 * count + 4 * (k1 + half + 2) + 8 * (capacity + averaged));
        (shared <= SHARED_BYTES).then_some(4 * n * dim + block + rows)
    }

    /// Works out the encodings of `features` `[n, dim]`; `done` is called with the number of images that have been compared with
    /// all others, block after block.
    ///
    /// # Errors
    /// [`crate::Error::DeviceMemory`]; the device fails.
    pub fn new(
        gpu: &Gpu,
        features: Ptr<f32>,
        n: usize,
        dim: usize,
        options: RerankOptions,
        done: &mut dyn FnMut(usize),
    ) -> Result<GpuReranker> {
        let limits = Limits::new(&options, n);
        let base = Base::new(gpu, features, n, dim, options.variant.is_cosine())?;
        let found = Neighbours::find(gpu, features, dim, &base, limits.count, n, done)?;
        let (columns, sizes) = expanded(gpu, &found, limits, n)?;
        let rows = SparseRows { weights: words(gpu, n * limits.capacity)?, columns, sizes, capacity: limits.capacity };
        let Neighbours { nearest, distances, largest, .. } = &found;
        let (near, known, most) = (nearest.ptr(), distances.ptr(), largest.ptr());
        let (set, size, weight) = (rows.columns.ptr(), rows.sizes.ptr(), rows.weights.ptr());
        let (x, offset, scale) = (features, base.offset.ptr(), base.scale.ptr());
        let [count, pitch, length] = [found.count, rows.capacity, dim].map(|size| size as i32);
        let square = i32::from(options.variant.squares());
        kernels::encode_weights(
            gpu, n, set, size, near, known, most, x, offset, scale, weight, count, pitch, length, square,
        )?;
        let encoding = if limits.k2 > 1 { rows.mean_of_nearest(gpu, nearest, count, limits.k2, n)? } else { rows };
        Ok(GpuReranker { options, base, largest: found.largest, encoding, n })
    }

    /// Turns products `[queries, gallery]` of two ranges of the images into final distances.
    pub fn to_distances(&self, gpu: &Gpu, queries: Range<usize>, gallery: Range<usize>, block: Ptr<f32>) -> Result<()> {
        let SparseRows { columns, weights, sizes, capacity } = &self.encoding;
        let (set, weight, size) = (columns.ptr(), weights.ptr(), sizes.ptr());
        let shared = words(gpu, queries.len() * gallery.len())?;
        let overlap = shared.ptr();
        let window = self.n.min(SHARED_BYTES / 4);
        let grid = Grid::from(queries.len()).shared(4 * window);
        let [q, g, wide] = [queries.start, gallery.start, gallery.len()].map(|size| size as i32);
        let [n, pitch, window] = [self.n, *capacity, window].map(|size| size as i32);
        kernels::jaccard_overlap(gpu, grid, set, weight, size, overlap, q, g, wide, n, pitch, window)?;

        let (grid, high) = (Grid::any(queries.len() * gallery.len()), queries.len() as i64);
        let most = self.largest.ptr::<f32>().add(queries.start);
        let (lambda, square) = (self.options.lambda, i32::from(self.options.variant.squares()));
        self.base.to_distances(gpu, block, queries, gallery, false)?;
        kernels::blend_distances(gpu, grid, block, overlap, most, high, wide, lambda, square)
    }
}

impl Neighbours {
    /// The `count` (at most n - 1) nearest others of all rows of `features` `[n, dim]`.
    fn find(
        gpu: &Gpu,
        features: Ptr<f32>,
        dim: usize,
        base: &Base,
        count: usize,
        n: usize,
        done: &mut dyn FnMut(usize),
    ) -> Result<Neighbours> {
        let (nearest, distances, largest) = (words(gpu, n * count)?, words(gpu, n * count)?, words(gpu, n)?);
        let all = Columns::new(gpu, features, n, dim)?;
        let step = rows_that_fit(gpu, n, 1)?.min(n);
        let block = words(gpu, step * n)?;
        for start in (0..n).step_by(step) {
            let rows = start..(start + step).min(n);
            all.products(gpu, features.add(start * dim), rows.len(), block.ptr())?;
            base.to_distances(gpu, block.ptr(), rows.clone(), 0..n, false)?;
            let (near, known) = (nearest.ptr::<i32>().add(start * count), distances.ptr::<f32>().add(start * count));
            let most = largest.ptr::<f32>().add(start);
            let [wide, own, k] = [n, start, count].map(|size| size as i32);
            kernels::row_nearest(gpu, rows.len(), block.ptr(), near, known, most, wide, own, k)?;
            // So that progress says what is done, not what is asked for.
            gpu.synchronize()?;
            done(rows.end);
        }
        Ok(Neighbours { nearest, distances, largest, count })
    }

    /// R(i, k) of all images: `[n, k + 1]`, ascending, and their sizes `[n]`.
    fn reciprocal(&self, gpu: &Gpu, k: usize, n: usize) -> Result<(Buffer, Buffer)> {
        let (columns, sizes) = (words(gpu, n * (k + 1))?, words(gpu, n)?);
        let grid = Grid::from(n.div_ceil(8)).shared(32 * (k + 1));
        let (count, k) = (self.count as i32, k as i32);
        kernels::k_reciprocal(gpu, grid, self.nearest.ptr(), columns.ptr(), sizes.ptr(), n as i32, count, k)?;
        Ok((columns, sizes))
    }
}

/// R* of all images: `[n, capacity]`, ascending, and their sizes `[n]`.
fn expanded(gpu: &Gpu, found: &Neighbours, limits: Limits, n: usize) -> Result<(Buffer, Buffer)> {
    let Limits { k1, half, capacity, .. } = limits;
    let (sets, set_sizes) = found.reciprocal(gpu, k1, n)?;
    let (halves, half_sizes) = found.reciprocal(gpu, half, n)?;
    let (columns, sizes) = (words(gpu, n * capacity)?, words(gpu, n)?);
    let grid = Grid::from(n.div_ceil(8)).shared(32 * capacity);
    let (set, size) = (sets.ptr(), set_sizes.ptr());
    let (other, other_size) = (halves.ptr(), half_sizes.ptr());
    let (out, out_size) = (columns.ptr(), sizes.ptr());
    let [images, k1, half, pitch] = [n, k1, half, capacity].map(|size| size as i32);
    kernels::expand_sets(gpu, grid, set, size, other, other_size, out, out_size, images, k1, half, pitch)?;
    Ok((columns, sizes))
}

impl SparseRows {
    /// Mean of the rows of each image and its k2 - 1 nearest others of `nearest` `[n, count]`.
    fn mean_of_nearest(&self, gpu: &Gpu, nearest: &Buffer, count: i32, k2: usize, n: usize) -> Result<SparseRows> {
        // Rows are much shorter than they could be: what the longest ones need is enough.
        let mut sizes = vec![0i32; n];
        gpu.download(&mut [(bytemuck::cast_slice_mut(&mut sizes), self.sizes.ptr::<i32>().address())])?;
        let longest = sizes.iter().copied().max().unwrap_or(0) as usize;
        let capacity = (k2 * longest).min(n);
        let (columns, weights) = (words(gpu, n * capacity)?, words(gpu, n * capacity)?);
        let mean = SparseRows { columns, weights, sizes: words(gpu, n)?, capacity };
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
