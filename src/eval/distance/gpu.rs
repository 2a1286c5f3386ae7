//! Distances by a GPU: always in f32, by our own kernels, whatever the run computes in.

use std::ops::Range;

use super::{DistanceBlock, DistanceSource, block_rows};
use crate::Result;
use crate::cpu::conv::Conv2dGeometry;
use crate::device::{Buffer, Gpu, Grid, Ptr, kernels};
use crate::eval::rerank::{GpuReranker, RerankOptions};

/// Rows and columns of a tile of products.
const TILE: [usize; 2] = [128, 64];

/// Queries and gallery on a GPU.
pub struct GpuDistances {
    gpu: Gpu,
    /// `[queries + gallery, dim]`, the queries first.
    features: Buffer,
    gallery: Columns,
    euclidean: Base,
    queries: usize,
    block_rows: usize,
    reranker: Option<GpuReranker>,
}

impl GpuDistances {
    /// Brings `[query, gallery]` to the GPU.
    ///
    /// # Errors
    /// [`crate::Error::DeviceMemory`]; the device fails.
    pub fn new(gpu: &Gpu, [query, gallery]: [&[f32]; 2], dim: usize) -> Result<GpuDistances> {
        let (queries, n_gallery) = (query.len() / dim, gallery.len() / dim);
        let features = words(gpu, query.len() + gallery.len())?;
        let first = features.ptr::<f32>();
        let first_gallery = first.add(query.len());
        gpu.upload(first.address(), bytemuck::cast_slice(query))?;
        gpu.upload(first_gallery.address(), bytemuck::cast_slice(gallery))?;
        let euclidean = Base::new(gpu, first, queries + n_gallery, dim, false)?;
        let gallery = Columns::new(gpu, first_gallery, n_gallery, dim)?;
        let block_rows = rows_that_fit(gpu, n_gallery, 1)?;
        Ok(GpuDistances { gpu: gpu.clone(), features, gallery, euclidean, queries, block_rows, reranker: None })
    }

    fn n(&self) -> usize {
        self.queries + self.gallery.count
    }
}

impl DistanceSource for GpuDistances {
    fn block_rows(&self) -> usize {
        self.block_rows
    }

    fn reranking_bytes(&self, options: &RerankOptions) -> Option<usize> {
        GpuReranker::bytes(options, self.n(), self.gallery.dim)
    }

    fn prepare_reranking(&mut self, options: RerankOptions, done: &mut dyn FnMut(usize)) -> Result<()> {
        let (n, dim) = (self.n(), self.gallery.dim);
        self.reranker = Some(GpuReranker::new(&self.gpu, self.features.ptr(), n, dim, options, done)?);
        // Products, a copy that is re-ranked, and what encodings have in common.
        self.block_rows = rows_that_fit(&self.gpu, self.gallery.count, 3)?;
        Ok(())
    }

    fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()> {
        let gpu = &self.gpu;
        let gallery = self.queries..self.n();
        let len = rows.len() * gallery.len();
        let products = words(gpu, len)?;
        let query = self.features.ptr::<f32>().add(rows.start * self.gallery.dim);
        self.gallery.products(gpu, query, rows.len(), products.ptr())?;
        let reranked = match &self.reranker {
            None => None,
            Some(reranker) => {
                let copy = words(gpu, len)?;
                kernels::scale_f32(gpu, Grid::any(len), products.ptr(), copy.ptr(), 1.0, len as i64)?;
                reranker.to_distances(gpu, rows.clone(), gallery.clone(), copy.ptr())?;
                Some(copy)
            }
        };
        self.euclidean.to_distances(gpu, products.ptr(), rows, gallery, true)?;
        block.plain.resize(len, 0.0);
        let mut copies = vec![(bytemuck::cast_slice_mut(&mut block.plain[..]), products.ptr::<f32>().address())];
        if let Some(reranked) = &reranked {
            block.reranked.resize(len, 0.0);
            copies.push((bytemuck::cast_slice_mut(&mut block.reranked[..]), reranked.ptr::<f32>().address()));
        }
        gpu.download(&mut copies)
    }
}

/// Features as the right side of products.
pub struct Columns {
    /// `[dim, count]`
    values: Buffer,
    count: usize,
    dim: usize,
}

impl Columns {
    /// Of `features` `[count, dim]`.
    pub fn new(gpu: &Gpu, features: Ptr<f32>, count: usize, dim: usize) -> Result<Columns> {
        let values = words(gpu, count * dim)?;
        kernels::transpose_cast_f32(gpu, Grid::any(count * dim), features, values.ptr(), count as i32, dim as i32)?;
        Ok(Columns { values, count, dim })
    }

    /// Fills `products` `[rows, count]` with those of `left` `[rows, dim]`: a 1x1 convolution of `rows` images of one pixel.
    pub fn products(&self, gpu: &Gpu, left: Ptr<f32>, rows: usize, products: Ptr<f32>) -> Result<()> {
        let pixels = Conv2dGeometry {
            batch: rows,
            in_h: 1,
            in_w: 1,
            in_c: self.dim,
            out_c: self.count,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [0, 0],
        };
        let [n, ih, iw, ic, oh, ow, oc, kh, kw, sy, sx, py, px] = pixels.sizes();
        let grid = [rows.div_ceil(TILE[0]), self.count.div_ceil(TILE[1])];
        let (x, weight, bias, y) = (left, self.values.ptr(), Ptr::NULL, products);
        kernels::conv2d_forward_f32(gpu, grid, x, weight, bias, y, n, ih, iw, ic, oh, ow, oc, kh, kw, sy, sx, py, px)
    }
}

/// What turns products of images into their distance d_ij = max(0, offset_i + offset_j - 2 scale_i scale_j x_i·x_j): the
/// squared Euclidean one, or 2 - 2 cos.
pub struct Base {
    /// `[n]` each
    pub offset: Buffer,
    pub scale: Buffer,
}

impl Base {
    /// Of `features` `[n, dim]`; `cosine`: 2 - 2 cos.
    pub fn new(gpu: &Gpu, features: Ptr<f32>, n: usize, dim: usize, cosine: bool) -> Result<Base> {
        let (offset, scale) = (words(gpu, n)?, words(gpu, n)?);
        let (count, length, cosine) = (n as i32, dim as i32, i32::from(cosine));
        kernels::row_scales(gpu, n.div_ceil(8), features, offset.ptr(), scale.ptr(), count, length, cosine)?;
        Ok(Base { offset, scale })
    }

    /// Turns products of the images `rows` with the images `columns` into d, or into its `root`.
    pub fn to_distances(
        &self,
        gpu: &Gpu,
        block: Ptr<f32>,
        rows: Range<usize>,
        columns: Range<usize>,
        root: bool,
    ) -> Result<()> {
        let of = |images: &Range<usize>| {
            [self.offset.ptr::<f32>().add(images.start), self.scale.ptr::<f32>().add(images.start)]
        };
        let ([o_row, s_row], [o_column, s_column]) = (of(&rows), of(&columns));
        let grid = Grid::any(rows.len() * columns.len());
        let (high, wide, root) = (rows.len() as i64, columns.len() as i32, i32::from(root));
        kernels::distances_from_products(gpu, grid, block, o_row, s_row, o_column, s_column, high, wide, root)
    }
}

/// Memory for `count` numbers of 4 bytes.
pub fn words(gpu: &Gpu, count: usize) -> Result<Buffer> {
    gpu.allocate(4 * count)
}

/// Rows of blocks of distances to `n` items, of which `blocks` are on the GPU at a time: half of what is free, and no more
/// than the host holds.
pub fn rows_that_fit(gpu: &Gpu, n: usize, blocks: usize) -> Result<usize> {
    let [free, _] = gpu.memory()?;
    let fitting = free / 2 / (4 * n.max(1) * blocks) as u64;
    Ok((fitting as usize).clamp(1, block_rows(n)))
}
