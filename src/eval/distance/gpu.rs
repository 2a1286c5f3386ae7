//! Bounds of distances by a GPU: always in f32, by our own kernels, whatever the run computes in.

use std::ops::Range;
use std::sync::Arc;

use super::{Conditioned, DistanceBlock, DistanceSource, block_rows};
use crate::Result;
use crate::base::memory;
use crate::engine::device::{Buffer, Gpu, Grid, Ptr, kernels};
use crate::engine::geometry::Conv2dGeometry;
use crate::eval::rerank::{GpuReranker, RerankOptions, Settled};

/// Rows and columns of a tile of products.
const TILE: [usize; 2] = [128, 64];

/// Queries and gallery on a GPU.
pub struct GpuDistances<'a> {
    gpu: Gpu,
    conditioned: Arc<Conditioned<'a>>,
    /// `[queries + gallery, dim]`, the queries first.
    features: Buffer,
    gallery: Columns,
    euclidean: RowTerms,
    block_rows: usize,
    reranker: Option<GpuReranker<'a>>,
}

impl<'a> GpuDistances<'a> {
    /// Brings the rows to the GPU.
    ///
    /// # Errors
    /// [`crate::Error::DeviceMemory`]; the device fails.
    pub fn new(gpu: &Gpu, conditioned: Arc<Conditioned<'a>>) -> Result<GpuDistances<'a>> {
        let (n, queries, dim) = (conditioned.len(), conditioned.queries(), conditioned.dim());
        memory::ensure("ranking", 4 * (n * dim) as u64)?;
        let features = words(gpu, n * dim)?;
        gpu.upload(features.ptr::<f32>().address(), bytemuck::cast_slice(&conditioned.rows(0..n)))?;
        let low_norms: Vec<f32> = conditioned.norms().iter().zip(conditioned.slack()).map(|(n, s)| n - s).collect();
        let euclidean = RowTerms::new(gpu, &low_norms, &vec![0.0; n], &vec![1.0; n])?;
        let gallery = Columns::new(gpu, features.ptr::<f32>().add(queries * dim), n - queries, dim)?;
        let block_rows = rows_that_fit(gpu, n - queries, 1)?;
        Ok(GpuDistances { gpu: gpu.clone(), conditioned, features, gallery, euclidean, block_rows, reranker: None })
    }
}

impl<'a> DistanceSource<'a> for GpuDistances<'a> {
    fn block_rows(&self) -> usize {
        self.block_rows
    }

    fn reranking_bytes(&self, options: &RerankOptions) -> Option<usize> {
        GpuReranker::bytes(options, self.conditioned.len(), self.gallery.dim)
    }

    fn prepare_reranking(&mut self, options: RerankOptions, done: &mut dyn FnMut(usize)) -> Result<()> {
        let features = self.features.ptr();
        self.reranker = Some(GpuReranker::new(&self.gpu, features, self.conditioned.clone(), options, done)?);
        // Products, a copy that is re-ranked, and what encodings have in common.
        self.block_rows = rows_that_fit(&self.gpu, self.gallery.count, 3)?;
        Ok(())
    }

    fn settled(&self) -> Option<&Settled<'a>> {
        self.reranker.as_ref().map(GpuReranker::settled)
    }

    fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()> {
        let gpu = &self.gpu;
        let gallery = self.conditioned.queries()..self.conditioned.len();
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
        self.euclidean.to_distances(gpu, products.ptr(), rows.clone(), gallery)?;
        block.plain.resize(len, 0.0);
        let mut copies = vec![(bytemuck::cast_slice_mut(&mut block.plain[..]), products.ptr::<f32>().address())];
        if let Some(reranked) = &reranked {
            block.reranked.resize(len, 0.0);
            copies.push((bytemuck::cast_slice_mut(&mut block.reranked[..]), reranked.ptr::<f32>().address()));
        }
        gpu.download(&mut copies)?;
        if let Some(reranker) = &self.reranker {
            block.margins = reranker.to_bounds(rows, &mut block.reranked);
        }
        Ok(())
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
        let grid = [rows.div_ceil(TILE[0]), self.count.div_ceil(TILE[1])];
        let (x, weight, bias, y) = (left, self.values.ptr(), Ptr::NULL, products);
        kernels::conv2d_forward_f32(gpu, grid, x, weight, bias, y, (&pixels).into())
    }
}

/// What turns products of images into bounds of their distance
/// d_ij = max(0, offset_i + offset_j - 2 x_i·x_j - (length_i - length_j)²) scale_i scale_j: of the squared Euclidean one with lengths
/// 0 and scales 1, of 2 - 2 cos with the lengths that rows had before they were centred and the reciprocals of these.
pub struct RowTerms {
    /// `[n]` each
    pub offset: Buffer,
    pub length: Buffer,
    pub scale: Buffer,
}

impl RowTerms {
    /// Brings the terms of all images to the GPU.
    pub fn new(gpu: &Gpu, offset: &[f32], length: &[f32], scale: &[f32]) -> Result<RowTerms> {
        let upload = |values: &[f32]| -> Result<Buffer> {
            let buffer = words(gpu, values.len())?;
            gpu.upload(buffer.ptr::<f32>().address(), bytemuck::cast_slice(values))?;
            Ok(buffer)
        };
        Ok(RowTerms { offset: upload(offset)?, length: upload(length)?, scale: upload(scale)? })
    }

    /// Turns products of the images `rows` with the images `columns` into bounds of d.
    pub fn to_distances(&self, gpu: &Gpu, block: Ptr<f32>, rows: Range<usize>, columns: Range<usize>) -> Result<()> {
        let of = |images: &Range<usize>| {
            [&self.offset, &self.length, &self.scale].map(|terms| terms.ptr::<f32>().add(images.start))
        };
        let ([o_row, l_row, s_row], [o_column, l_column, s_column]) = (of(&rows), of(&columns));
        let grid = Grid::any(rows.len() * columns.len());
        let (high, wide) = (rows.len() as i64, columns.len() as i32);
        kernels::distances_from_products(
            gpu, grid, block, o_row, l_row, s_row, o_column, l_column, s_column, high, wide,
        )
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
