//! Products and their bounds on a GPU: always in f32 and by this crate's own kernels, whatever precision the run uses.

use std::ops::Range;

use bytemuck::NoUninit;

use super::block_rows;
use crate::Result;
use crate::engine::device::{Buffer, Gpu, Grid, Ptr, kernels};
use crate::engine::geometry::Conv2dGeometry;

/// Rows and columns of a tile of products.
const TILE: [usize; 2] = [128, 64];

/// Features as the right factor of products.
pub(crate) struct Columns {
    /// Transposed features, `[dim, count]`.
    values: Buffer,
    pub count: usize,
    pub dim: usize,
}

impl Columns {
    /// Transposes `features` `[count, dim]`.
    pub(crate) fn new(gpu: &Gpu, features: Ptr<f32>, count: usize, dim: usize) -> Result<Columns> {
        let values = allocate::<f32>(gpu, count * dim)?;
        kernels::transpose_f32(gpu, Grid::any(count * dim), features, values.ptr(), count as i32, dim as i32)?;
        Ok(Columns { values, count, dim })
    }

    /// Fills `products` `[rows, count]` with the products of `left` `[rows, dim]` and the columns: a 1x1 convolution of
    /// `rows` images of one pixel.
    pub(crate) fn products(&self, gpu: &Gpu, left: Ptr<f32>, rows: usize, products: Ptr<f32>) -> Result<()> {
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

/// The terms that turn products of images into lower bounds of a distance,
/// d_ij = max(0, offset_i + offset_j - 2 x_i·x_j - (length_i - length_j)²) scale_i scale_j.
///
/// For the squared Euclidean distance, lengths are 0 and scales are 1. For 2 - 2 cos, lengths are those of the rows before they
/// were centred, and scales are their reciprocals.
pub(crate) struct RowTerms {
    /// Terms of each image, `[n]` for each of the three.
    pub offset: Buffer,
    pub length: Buffer,
    pub scale: Buffer,
}

impl RowTerms {
    /// Uploads the terms of all images.
    pub(crate) fn new(gpu: &Gpu, offset: &[f32], length: &[f32], scale: &[f32]) -> Result<RowTerms> {
        Ok(RowTerms { offset: upload(gpu, offset)?, length: upload(gpu, length)?, scale: upload(gpu, scale)? })
    }

    /// Turns products of the images `rows` with the images `columns` into bounds of d.
    pub(crate) fn to_distances(
        &self,
        gpu: &Gpu,
        block: Ptr<f32>,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<()> {
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

/// Allocates memory for `count` values.
pub(crate) fn allocate<T>(gpu: &Gpu, count: usize) -> Result<Buffer> {
    gpu.allocate(size_of::<T>() * count)
}

/// Copies `values` to a buffer of their size.
pub(crate) fn upload<T: NoUninit>(gpu: &Gpu, values: &[T]) -> Result<Buffer> {
    let buffer = allocate::<T>(gpu, values.len())?;
    gpu.upload(buffer.ptr::<f32>().address(), bytemuck::cast_slice(values))?;
    Ok(buffer)
}

/// Returns how many rows a block of distances to `n` items may have where the GPU holds `blocks` such blocks at a time: they take
/// at most half of its free memory, and the host can hold one of them.
pub(crate) fn rows_that_fit(gpu: &Gpu, n: usize, blocks: usize) -> Result<usize> {
    let [free, _] = gpu.memory()?;
    let fitting = free / 2 / (4 * n.max(1) * blocks) as u64;
    Ok((fitting as usize).clamp(1, block_rows(n)))
}
