//! Convolutions on a GPU for the ops `conv2d` and `bconv_cell`: which kernels or vendor calls run, and how much workspace they need.

use super::workspace::{ENOUGH_BLOCKS, Part, Parts, split_rows};
use crate::Result;
use crate::engine::device::kernels::{self, ConvSizes};
use crate::engine::device::{Call, Gpu, Grid, Pass, Ptr, Untyped, Vendor};
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::graph::GpuGrad;
use crate::engine::precision::Precision;

/// Output pixels of a kernel's tile.
const TILE_PIXELS: usize = 128;
/// The fewest pixels that a block sums.
const LEAST_SPLIT: usize = 256;
/// Dynamic shared memory of the kernels on tensor cores: first forward and the gradient of the input, then the gradient of the weight.
const MMA_SHARED_BYTES: usize = 63488;
const WEIGHT_MMA_SHARED_BYTES: usize = 52224;

/// A convolution on a GPU. Activations have the type of the GPU's precision, weights are f32.
pub(super) struct ConvLaunch<'a> {
    gpu: &'a Gpu,
    geometry: &'a Conv2dGeometry,
    /// The vendor's libraries, which are asked for each pass.
    vendor: Option<&'a Vendor>,
}

/// A pass by the vendor's libraries.
struct VendorPass<'a> {
    vendor: &'a Vendor,
    call: Call,
    workspace: VendorParts,
}

/// The workspace of a pass by the vendor's libraries.
struct VendorParts {
    /// Weights, or their gradient, as `[out, kh, kw, in]`.
    weight: Part<Untyped>,
    scratch: Part<Untyped>,
    parts: Parts,
}

impl VendorPass<'_> {
    /// Enqueues the pass on x, the weight in its part of `workspace`, and y, or their gradients; returns whether a library took it.
    fn run(&self, [x, y]: [Ptr; 2], accumulate: bool, workspace: Ptr) -> Result<bool> {
        let VendorParts { weight, scratch, .. } = &self.workspace;
        let operands = [x, weight.of(workspace), y].map(Ptr::address);
        // SAFETY: the plan gave all operands the sizes of this geometry, and the workspace the size that the vendor asked for.
        unsafe { self.vendor.run(self.call, operands, accumulate, scratch.of(workspace).address()) }
    }
}

/// The workspace of the gradients by the crate's own kernels.
struct BackwardParts {
    packed: Part<Untyped>,
    weight_partials: Part<f32>,
    bias_partials: Part<f32>,
    parts: Parts,
}

impl<'a> ConvLaunch<'a> {
    /// Returns a convolution, each pass of which the vendor's libraries run if they are switched on and take it; [`ConvLaunch::step_cell`]
    /// asks none.
    pub(super) fn new(gpu: &'a Gpu, geometry: &'a Conv2dGeometry) -> ConvLaunch<'a> {
        ConvLaunch { gpu, geometry, vendor: gpu.vendor() }
    }

    /// Returns a convolution that may have a bias. One that has is small; the crate's own kernels always run it.
    pub(super) fn with_bias(gpu: &'a Gpu, geometry: &'a Conv2dGeometry, bias: bool) -> ConvLaunch<'a> {
        ConvLaunch { gpu, geometry, vendor: gpu.vendor().filter(|_| !bias) }
    }

    /// Returns the words of workspace that [`ConvLaunch::forward`] needs, whoever runs it: a library may still refuse when it is called.
    ///
    /// # Errors
    /// A library fails.
    pub(super) fn forward_workspace(&self) -> Result<usize> {
        let own = self.packed_words(self.geometry.out_c, self.geometry.in_c, 128);
        Ok(own.max(self.vendor_words(Pass::Forward)?))
    }

    /// Returns the words of workspace that [`ConvLaunch::step_cell`] needs.
    pub(crate) fn cell_workspace(&self) -> usize {
        let g = self.geometry;
        if self.dense() {
            self.step_words((g.out_c / 4).div_ceil(32), g.k())
        } else {
            self.packed_words(g.out_c / 4, g.in_c, 32)
        }
    }

    /// Returns the words of workspace that the three gradients need, as [`ConvLaunch::forward_workspace`].
    ///
    /// # Errors
    /// A library fails.
    pub(crate) fn backward_workspace(&self) -> Result<usize> {
        let vendor = self.vendor_words(Pass::BackwardData)?.max(self.vendor_words(Pass::BackwardWeight)?);
        Ok(self.backward_parts().parts.words().max(vendor))
    }

    /// Enqueues `y = conv(x, weight) + bias`; a null `bias` adds nothing.
    pub(super) fn forward(&self, x: Ptr, weight: Ptr<f32>, bias: Ptr<f32>, y: Ptr, workspace: Ptr) -> Result<()> {
        let (gpu, g) = (self.gpu, self.geometry);
        if let Some(pass) = self.vendor_pass(Pass::Forward)? {
            self.turn_weight(weight, pass.workspace.weight.of(workspace))?;
            if pass.run([x, y], false, workspace)? {
                return Ok(());
            }
        }
        let sizes = ConvSizes::from(g);
        let tiles = g.pixels().div_ceil(TILE_PIXELS);
        let (weight, grid): (Ptr, Grid) = if gpu.precision() == Precision::F32 {
            (weight.cast(), [tiles, g.out_c.div_ceil(64)].into())
        } else {
            kernels::pack_weights(gpu, Grid::any(g.k() * g.out_c), weight, workspace, sizes)?;
            (workspace, Grid::from([tiles, g.out_c.div_ceil(128)]).shared(MMA_SHARED_BYTES))
        };
        kernels::conv2d_forward(gpu, grid, x, weight, bias, y, sizes)
    }

    /// Enqueues one step of the cell whose gates are this convolution's outputs, by the crate's own fused kernel. `gates` gets the activated
    /// gates, unless it is null.
    pub(crate) fn step_cell(
        &self,
        x: Ptr,
        weight: Ptr<f32>,
        [prev, next]: [Ptr<f32>; 2],
        y: Ptr,
        gates: Ptr,
        workspace: Ptr,
    ) -> Result<()> {
        let (gpu, g) = (self.gpu, self.geometry);
        let (sizes, channels) = (ConvSizes::from(g), g.out_c / 4);
        let tiles = g.pixels().div_ceil(TILE_PIXELS);
        let mma_grid = Grid::from([tiles, channels.div_ceil(32)]).shared(MMA_SHARED_BYTES);
        if self.dense() {
            kernels::pack_gates_dense(gpu, Grid::any(g.k() * g.out_c), weight, workspace, sizes)?;
            return kernels::bconv_forward_dense(gpu, mma_grid, x, workspace, prev, next, y, gates, sizes);
        }
        let (weight, grid): (Ptr, Grid) = if gpu.precision() == Precision::F32 {
            (weight.cast(), [tiles, channels.div_ceil(16)].into())
        } else {
            kernels::pack_gates(gpu, Grid::any(g.k() * g.out_c), weight, workspace, sizes)?;
            (workspace, mma_grid)
        };
        kernels::bconv_forward(gpu, grid, x, weight, prev, next, y, gates, sizes)
    }

    /// Enqueues `dx (+)= convᵀ(dy, weight)`; `(+)=` adds if `dx.accumulate`, else overwrites.
    pub(super) fn backward_data(&self, dy: Ptr, weight: Ptr<f32>, dx: GpuGrad<Ptr>, workspace: Ptr) -> Result<()> {
        let (gpu, g) = (self.gpu, self.geometry);
        if let Some(pass) = self.vendor_pass(Pass::BackwardData)? {
            self.turn_weight(weight, pass.workspace.weight.of(workspace))?;
            if pass.run([dx.data, dy], dx.accumulate, workspace)? {
                return Ok(());
            }
        }
        let sizes = ConvSizes::from(g);
        let tiles = (g.batch * g.in_h.div_ceil(g.stride[0]) * g.in_w.div_ceil(g.stride[1])).div_ceil(TILE_PIXELS);
        let phases = g.stride[0] * g.stride[1];
        let (weight, grid): (Ptr, Grid) = if gpu.precision() == Precision::F32 {
            (weight.cast(), [tiles, g.in_c.div_ceil(64), phases].into())
        } else {
            let packed = self.backward_parts().packed.of(workspace);
            kernels::pack_transposed(gpu, Grid::any(g.k() * g.out_c), weight, packed, sizes)?;
            (packed, Grid::from([tiles, g.in_c.div_ceil(128), phases]).shared(MMA_SHARED_BYTES))
        };
        kernels::conv2d_backward_data(gpu, grid, dy, weight, dx.data, sizes, dx.flag())
    }

    /// Enqueues `dweight (+)= corr(x, dy)`, the correlation of `x` with `dy`.
    pub(super) fn backward_weight(&self, x: Ptr, dy: Ptr, dweight: GpuGrad<Ptr<f32>>, workspace: Ptr) -> Result<()> {
        let (gpu, g) = (self.gpu, self.geometry);
        if let Some(pass) = self.vendor_pass(Pass::BackwardWeight)?
            && pass.run([x, dy], false, workspace)?
        {
            let (rows, columns, flag) = (g.out_c as i32, g.k() as i32, dweight.flag());
            let turned = pass.workspace.weight.of(workspace);
            return kernels::transpose_put(gpu, Grid::any(g.k() * g.out_c), turned, dweight.data, rows, columns, flag);
        }
        let sizes = ConvSizes::from(g);
        let partials = self.backward_parts().weight_partials.of(workspace);
        let (split_pixels, splits) = self.weight_splits();
        let grid = Grid::from([g.k().div_ceil(128), g.out_c.div_ceil(self.weight_columns()), splits]);
        let grid = if gpu.precision() == Precision::F32 { grid } else { grid.shared(WEIGHT_MMA_SHARED_BYTES) };
        kernels::conv2d_backward_weight(gpu, grid, x, dy, partials, sizes, split_pixels as i32)?;
        self.sum_partials(partials, dweight, splits, g.k() * g.out_c)
    }

    /// Enqueues `dbias (+)= Σ dy`, the sum over pixels.
    pub(crate) fn backward_bias(&self, dy: Ptr, dbias: GpuGrad<Ptr<f32>>, workspace: Ptr) -> Result<()> {
        let g = self.geometry;
        let partials = self.backward_parts().bias_partials.of(workspace);
        let (split_rows, splits) = self.bias_splits();
        let (rows, columns) = (g.pixels() as i64, g.out_c as i32);
        let grid = [g.out_c.div_ceil(32), splits];
        kernels::column_sums(self.gpu, grid, dy, partials, rows, columns, split_rows as i32)?;
        self.sum_partials(partials, dbias, splits, g.out_c)
    }

    fn sum_partials(&self, partials: Ptr<f32>, sum: GpuGrad<Ptr<f32>>, splits: usize, count: usize) -> Result<()> {
        let (splits, flag) = (splits as i32, sum.flag());
        kernels::sum_partials_f32(self.gpu, Grid::any(count), partials, sum.data, splits, count as i64, flag)
    }

    /// Enqueues the transpose of the weight, from `[kh, kw, in, out]` in f32 to `[out, kh, kw, in]` in the type of activations.
    fn turn_weight(&self, weight: Ptr<f32>, turned: Ptr) -> Result<()> {
        let (rows, columns) = (self.geometry.k(), self.geometry.out_c);
        kernels::transpose_cast(self.gpu, Grid::any(rows * columns), weight, turned, rows as i32, columns as i32)
    }

    /// Returns a pass that is about to be enqueued, or `None` if the vendor's libraries do not run it.
    fn vendor_pass(&self, pass: Pass) -> Result<Option<VendorPass<'a>>> {
        let Some(vendor) = self.vendor else { return Ok(None) };
        let call = self.call(pass);
        let bytes = vendor.begin(call)?;
        Ok(bytes.map(|bytes| VendorPass { vendor, call, workspace: self.vendor_parts(bytes) }))
    }

    /// Returns the words of workspace of a pass by the vendor's libraries; 0 if they do not run it.
    fn vendor_words(&self, pass: Pass) -> Result<usize> {
        let bytes = self.vendor.map_or(Ok(None), |vendor| vendor.workspace(self.call(pass)))?;
        Ok(bytes.map_or(0, |bytes| self.vendor_parts(bytes).parts.words()))
    }

    /// Returns the parts of the weight and of the libraries' own workspace, which has `bytes` bytes.
    fn vendor_parts(&self, bytes: usize) -> VendorParts {
        let mut parts = Parts::default();
        let weight = parts.add_bytes(self.geometry.k() * self.geometry.out_c * self.gpu.activation_bytes());
        let scratch = parts.add_bytes(bytes);
        VendorParts { weight, scratch, parts }
    }

    fn call(&self, pass: Pass) -> Call {
        Call { geometry: *self.geometry, precision: self.gpu.precision(), pass }
    }

    fn backward_parts(&self) -> BackwardParts {
        let g = self.geometry;
        let mut parts = Parts::default();
        let packed = parts.add_bytes(4 * self.packed_words(g.in_c, g.out_c, 128));
        let weight_partials = parts.add(self.weight_splits().1 * g.k() * g.out_c);
        let bias_partials = parts.add(self.bias_splits().1 * g.out_c);
        BackwardParts { packed, weight_partials, bias_partials, parts }
    }

    /// Returns the words of the weights packed for tensor cores; 0 in f32. Each tap has one block for every `a_block` of the `outputs`. A
    /// block has 128 columns, and steps of 64 bytes along `inputs`.
    fn packed_words(&self, outputs: usize, inputs: usize, a_block: usize) -> usize {
        if self.gpu.precision() == Precision::F32 {
            return 0;
        }
        self.geometry.taps() * self.step_words(outputs.div_ceil(a_block), inputs)
    }

    /// Returns the words of `blocks` blocks of 128 columns, each with enough steps of 64 bytes for `depth` numbers a column.
    fn step_words(&self, blocks: usize, depth: usize) -> usize {
        blocks * depth.div_ceil(self.step_depth()) * 128 * 64 / 4
    }

    /// Returns how many numbers a step of 64 bytes holds.
    fn step_depth(&self) -> usize {
        64 / self.gpu.activation_bytes()
    }

    /// Returns whether the taps of a cell are packed without gaps: on tensor cores, if the input channels do not fill a step.
    fn dense(&self) -> bool {
        self.gpu.precision() != Precision::F32 && self.geometry.in_c < self.step_depth()
    }

    /// Returns the columns of a tile of the weight's gradient.
    fn weight_columns(&self) -> usize {
        if self.gpu.precision() == Precision::F32 { 64 } else { 128 }
    }

    /// Returns the pixels of a split of the weight's gradient, and the number of splits.
    fn weight_splits(&self) -> (usize, usize) {
        let g = self.geometry;
        let tiles = g.k().div_ceil(128) * g.out_c.div_ceil(self.weight_columns());
        // A multiple of 32, so that no step of depth is half empty.
        let split = split_rows(g.pixels(), LEAST_SPLIT, ENOUGH_BLOCKS.div_ceil(tiles)).next_multiple_of(32);
        (split, g.pixels().div_ceil(split))
    }

    /// Returns the pixels of a split of the bias's gradient, and the number of splits.
    fn bias_splits(&self) -> (usize, usize) {
        let rows = self.geometry.pixels();
        let split = split_rows(rows, LEAST_SPLIT, 64);
        (split, rows.div_ceil(split))
    }
}
