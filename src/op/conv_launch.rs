//! Convolutions on a GPU, as plain ops and cells launch them: which kernels, which workspace.

use crate::Result;
use crate::cpu::conv::Conv2dGeometry;
use crate::device::{Gpu, Grid, Precision, Ptr, kernels};

use super::gpu::{GpuGrad, Part, Parts};

/// Output pixels of a tile.
const TILE_PIXELS: usize = 128;
/// Blocks that fill a large GPU about twice: the weight gradient is split over pixels until there are so many.
const ENOUGH_BLOCKS: usize = 264;
/// Pixels that a block sums at least.
const LEAST_SPLIT: usize = 256;

/// Dynamic shared memory of the kernels on tensor cores.
const MMA_SHARED_BYTES: usize = 63488;

/// A convolution on a GPU, of activations in its precision with weights in f32.
pub(super) struct ConvLaunch<'a> {
    pub gpu: &'a Gpu,
    pub geometry: &'a Conv2dGeometry,
}

/// Workspace of both gradients, one after the other.
struct BackwardParts {
    weight_partials: Part<f32>,
    bias_partials: Part<f32>,
    parts: Parts,
}

impl ConvLaunch<'_> {
    /// Words of workspace of [`ConvLaunch::forward`].
    pub fn forward_workspace(&self) -> usize {
        0
    }

    /// Words of workspace of the three gradients.
    pub fn backward_workspace(&self) -> usize {
        self.backward_parts().parts.words()
    }

    /// `y = conv(x, weight) + bias`; no bias where it is null.
    pub fn forward(&self, x: Ptr, weight: Ptr<f32>, bias: Ptr<f32>, y: Ptr, _workspace: Ptr) -> Result<()> {
        let g = self.geometry;
        let [n, ih, iw, ic, oh, ow, oc, kh, kw, sy, sx, py, px] = g.sizes();
        let grid = [g.pixels().div_ceil(TILE_PIXELS), g.out_c.div_ceil(64)];
        match self.gpu.precision() {
            Precision::F32 => kernels::conv2d_forward_f32(
                self.gpu,
                grid,
                x.cast(),
                weight,
                bias,
                y.cast(),
                n,
                ih,
                iw,
                ic,
                oh,
                ow,
                oc,
                kh,
                kw,
                sy,
                sx,
                py,
                px,
            ),
            _ => unimplemented!(),
        }
    }

    /// Words of workspace of [`ConvLaunch::cell`].
    pub fn cell_workspace(&self) -> usize {
        let g = self.geometry;
        let packed = (g.out_c / 4).div_ceil(32) * g.taps() * g.in_c.div_ceil(32) * 128 * 32;
        match self.gpu.precision() {
            Precision::F32 => 0,
            Precision::Tf32 => packed,
            Precision::Bf16 => packed / 2,
        }
    }

    /// One step of a cell whose gates are this convolution's outputs; `gates` is null or gets the activated gates.
    pub fn cell(
        &self,
        x: Ptr,
        weight: Ptr<f32>,
        [prev, next]: [Ptr<f32>; 2],
        y: Ptr,
        gates: Ptr,
        workspace: Ptr,
    ) -> Result<()> {
        let (gpu, g) = (self.gpu, self.geometry);
        let [n, ih, iw, ic, oh, ow, oc, kh, kw, sy, sx, py, px] = g.sizes();
        let c = oc / 4;
        let tiles = g.pixels().div_ceil(TILE_PIXELS);
        let (weight, grid): (Ptr, Grid) = match gpu.precision() {
            Precision::F32 => (weight.cast(), [tiles, (c as usize).div_ceil(16)].into()),
            _ => {
                let count = self.cell_workspace() * 4 / gpu.activation_bytes();
                kernels::pack_gates(gpu, Grid::any(count), weight, workspace, kh * kw, ic, c)?;
                let grid: Grid = [tiles, (c as usize).div_ceil(32)].into();
                (workspace, grid.shared(MMA_SHARED_BYTES))
            }
        };
        kernels::bconv_forward(
            gpu, grid, x, weight, prev, next, y, gates, n, ih, iw, ic, oh, ow, c, kh, kw, sy, sx, py, px,
        )
    }

    /// `dx (+)= convᵀ(dy, weight)`
    pub fn backward_data(&self, dy: Ptr, weight: Ptr<f32>, dx: GpuGrad<Ptr>, _workspace: Ptr) -> Result<()> {
        let g = self.geometry;
        let [n, ih, iw, ic, oh, ow, oc, kh, kw, sy, sx, py, px] = g.sizes();
        let phase_pixels = g.batch * g.in_h.div_ceil(g.stride[0]) * g.in_w.div_ceil(g.stride[1]);
        let blocks =
            |columns| [phase_pixels.div_ceil(TILE_PIXELS), g.in_c.div_ceil(columns), g.stride[0] * g.stride[1]];
        match self.gpu.precision() {
            Precision::F32 => kernels::conv2d_backward_data_f32(
                self.gpu,
                blocks(64),
                dy.cast(),
                weight,
                dx.data.cast(),
                n,
                ih,
                iw,
                ic,
                oh,
                ow,
                oc,
                kh,
                kw,
                sy,
                sx,
                py,
                px,
                dx.flag(),
            ),
            _ => unimplemented!(),
        }
    }

    /// `dweight (+)= corr(x, dy)`
    pub fn backward_weight(&self, x: Ptr, dy: Ptr, dweight: GpuGrad<Ptr<f32>>, workspace: Ptr) -> Result<()> {
        let g = self.geometry;
        let [n, ih, iw, ic, oh, ow, oc, kh, kw, sy, sx, py, px] = g.sizes();
        let partials = self.backward_parts().weight_partials.of(workspace);
        let (split_pixels, splits) = self.weight_splits();
        let blocks = [g.k().div_ceil(128), g.out_c.div_ceil(64), splits];
        match self.gpu.precision() {
            Precision::F32 => kernels::conv2d_backward_weight_f32(
                self.gpu,
                blocks,
                x.cast(),
                dy.cast(),
                partials,
                n,
                ih,
                iw,
                ic,
                oh,
                ow,
                oc,
                kh,
                kw,
                sy,
                sx,
                py,
                px,
                split_pixels as i32,
            )?,
            _ => unimplemented!(),
        }
        self.sum_partials(partials, dweight, splits, g.k() * g.out_c)
    }

    /// `dbias (+)= Σ dy` over pixels.
    pub fn backward_bias(&self, dy: Ptr, dbias: GpuGrad<Ptr<f32>>, workspace: Ptr) -> Result<()> {
        let g = self.geometry;
        let partials = self.backward_parts().bias_partials.of(workspace);
        let (split_rows, splits) = self.bias_splits();
        let (rows, columns) = (g.pixels() as i64, g.out_c as i32);
        let grid = [g.out_c.div_ceil(32), splits];
        kernels::column_sums_f32(self.gpu, grid, dy.cast(), partials, rows, columns, split_rows as i32)?;
        self.sum_partials(partials, dbias, splits, g.out_c)
    }

    fn sum_partials(&self, partials: Ptr<f32>, sum: GpuGrad<Ptr<f32>>, splits: usize, count: usize) -> Result<()> {
        let (splits, flag) = (splits as i32, sum.flag());
        kernels::sum_partials_f32(self.gpu, Grid::any(count), partials, sum.data, splits, count as i64, flag)
    }

    fn backward_parts(&self) -> BackwardParts {
        let mut parts = Parts::default();
        let weight_partials = parts.add(self.weight_splits().1 * self.geometry.k() * self.geometry.out_c);
        let bias_partials = parts.add(self.bias_splits().1 * self.geometry.out_c);
        BackwardParts { weight_partials, bias_partials, parts }
    }

    /// Pixels of a split of the weight gradient, and the number of splits.
    fn weight_splits(&self) -> (usize, usize) {
        let g = self.geometry;
        let tiles = g.k().div_ceil(128) * g.out_c.div_ceil(64);
        let split = super::gpu::split_rows(g.pixels(), LEAST_SPLIT, ENOUGH_BLOCKS.div_ceil(tiles));
        (split, g.pixels().div_ceil(split))
    }

    /// The same for the bias gradient.
    fn bias_splits(&self) -> (usize, usize) {
        let rows = self.geometry.pixels();
        let split = super::gpu::split_rows(rows, LEAST_SPLIT, 64);
        (split, rows.div_ceil(split))
    }
}
