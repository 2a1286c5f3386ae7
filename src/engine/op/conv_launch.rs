//! Convolutions on a GPU, and the gradients of cells: which kernels or vendor calls run, and how much workspace they need.

use super::measure::measure;
use super::workspace::{Part, Parts, split_rows};
use crate::Result;
use crate::engine::device::kernels::{self, ConvSizes};
use crate::engine::device::{Call, Gpu, Grid, MeasuredPass, Pass, Ptr, Untyped, Vendor};
use crate::engine::geometry::Conv2dGeometry;
#[cfg(doc)]
use crate::engine::graph::GpuForward;
use crate::engine::graph::{GpuGrad, Needs, TurnedGradient};
use crate::engine::precision::Precision;

/// Output pixels of a kernel's tile.
pub(super) const TILE_PIXELS: usize = 128;
/// The fewest pixels that a block sums.
const LEAST_SPLIT: usize = 256;
/// The blocks of the gradient of a weight on tensor cores that an H100 or H200 runs at once: two on each of 132 multiprocessors. It is the same
/// on all GPUs and in all precisions, because the splits decide the order of sums, and so their bits.
const PLACES: usize = 264;
/// Dynamic shared memory of the kernels on tensor cores.
pub(super) const MMA_SHARED_BYTES: usize = 49152;

/// A convolution on a GPU. Activations have the type of the GPU's precision, weights are f32.
pub(super) struct ConvLaunch<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) geometry: &'a Conv2dGeometry,
    /// The vendor's libraries, which are asked for each pass.
    pub(super) vendor: Option<&'a Vendor>,
}

/// A weight `[kh, kw, in, out]` in f32, and the same in the order of the vendor's libraries ([`GpuForward::turned_weight`]) or null.
#[derive(Clone, Copy)]
pub(super) struct Weight {
    pub own: Ptr<f32>,
    pub turned: Ptr,
}

/// The workspace of the gradients by the crate's own kernels.
struct BackwardParts {
    packed: Part<Untyped>,
    weight_partials: Part<f32>,
    bias_partials: Part<f32>,
    parts: Parts,
}

impl<'a> ConvLaunch<'a> {
    /// Returns a convolution, each pass of which the vendor's libraries run if they take it and
    /// [`VendorUse`](crate::engine::device::VendorUse) says so.
    pub(super) fn new(gpu: &'a Gpu, geometry: &'a Conv2dGeometry) -> ConvLaunch<'a> {
        ConvLaunch { gpu, geometry, vendor: gpu.vendor() }
    }

    /// Says in `needs` which of `passes` take the weight, or give its gradient, in the order of the vendor's libraries: those that a library
    /// runs.
    ///
    /// # Errors
    /// A library fails.
    pub(super) fn turned(&self, passes: &[Pass], needs: Needs) -> Result<Needs> {
        let runs = |pass| Ok(passes.contains(&pass) && self.vendor_bytes(pass)?.is_some());
        Ok(Needs {
            turned_weight_forward: runs(Pass::Forward)?,
            turned_weight_backward: runs(Pass::BackwardData)?,
            turned_gradient: runs(Pass::BackwardWeight)?,
            ..needs
        })
    }

    /// Returns the words of workspace that [`ConvLaunch::forward`] needs, whoever runs it: a library may still refuse when it is called.
    ///
    /// # Errors
    /// A library fails.
    pub(super) fn forward_workspace(&self) -> Result<usize> {
        let own = self.packed_words(self.geometry.out_c, self.geometry.in_c, 128);
        Ok(own.max(self.vendor_words(Pass::Forward)?))
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
    pub(super) fn forward(&self, x: Ptr, weight: Weight, bias: Ptr<f32>, y: Ptr, workspace: Ptr) -> Result<()> {
        let (gpu, g) = (self.gpu, self.geometry);
        if self.by_vendor(Pass::Forward, [x, weight.turned, y], false, workspace)? {
            if bias == Ptr::NULL {
                return Ok(());
            }
            // In bf16, y is rounded before the bias and after it.
            let (grid, rows, columns) = (Grid::any(g.pixels() * g.out_c), g.pixels() as i64, g.out_c as i32);
            return kernels::add_bias(gpu, grid, y, bias, rows, columns);
        }
        let weight = weight.own;
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

    /// Enqueues `dx (+)= convᵀ(dy, weight)`; `(+)=` adds if `dx.accumulate`, else overwrites.
    pub(super) fn backward_data(&self, dy: Ptr, weight: Weight, dx: GpuGrad<Ptr>, workspace: Ptr) -> Result<()> {
        let (gpu, g) = (self.gpu, self.geometry);
        if self.by_vendor(Pass::BackwardData, [dx.data, weight.turned, dy], dx.accumulate, workspace)? {
            return Ok(());
        }
        let weight = weight.own;
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

    /// Enqueues `dweight (+)= corr(x, dy)`, the correlation of `x` with `dy`. The vendor's libraries write it to `turned` instead, if there
    /// is such a place.
    pub(super) fn backward_weight(
        &self,
        x: Ptr,
        dy: Ptr,
        dweight: GpuGrad<Ptr<f32>>,
        turned: Option<TurnedGradient<'_>>,
        workspace: Ptr,
    ) -> Result<()> {
        let (gpu, g) = (self.gpu, self.geometry);
        let place = turned.map_or(Ptr::NULL, |turned| turned.data);
        if self.by_vendor(Pass::BackwardWeight, [x, place, dy], false, workspace)? {
            turned.expect("a place that was written").written.set(true);
            return Ok(());
        }
        let sizes = ConvSizes::from(g);
        let partials = self.backward_parts().weight_partials.of(workspace);
        let (split_pixels, splits) = self.weight_splits();
        let grid = Grid::from([g.k().div_ceil(128), g.out_c.div_ceil(self.weight_columns()), splits]);
        let grid = if gpu.precision() == Precision::F32 { grid } else { grid.shared(MMA_SHARED_BYTES) };
        self.sum_of_partials(partials, dweight, splits, g.k() * g.out_c, |partials| {
            kernels::conv2d_backward_weight(gpu, grid, x, dy, partials, sizes, split_pixels as i32)
        })
    }

    /// Enqueues `dbias (+)= Σ dy`, the sum over pixels.
    pub(crate) fn backward_bias(&self, dy: Ptr, dbias: GpuGrad<Ptr<f32>>, workspace: Ptr) -> Result<()> {
        let g = self.geometry;
        let partials = self.backward_parts().bias_partials.of(workspace);
        let (split_rows, splits) = self.bias_splits();
        let (rows, columns) = (g.pixels() as i64, g.out_c as i32);
        let grid = [g.out_c.div_ceil(32), splits];
        self.sum_of_partials(partials, dbias, splits, g.out_c, |partials| {
            kernels::column_sums(self.gpu, grid, dy, partials, rows, columns, split_rows as i32)
        })
    }

    /// Enqueues `compute`, which writes `splits` partial sums of `count` numbers to an address that is a multiple of 16, and their sum. A
    /// single one that is not added to anything is written to its place at once, if that is such an address: parameters lie one after the
    /// other, without gaps.
    fn sum_of_partials(
        &self,
        partials: Ptr<f32>,
        sum: GpuGrad<Ptr<f32>>,
        splits: usize,
        count: usize,
        compute: impl FnOnce(Ptr<f32>) -> Result<()>,
    ) -> Result<()> {
        if splits == 1 && !sum.accumulate && sum.data.address().is_multiple_of(16) {
            return compute(sum.data);
        }
        compute(partials)?;
        let (splits, flag) = (splits as i32, sum.flag());
        kernels::sum_partials_f32(self.gpu, Grid::any(count), partials, sum.data, splits, count as i64, flag)
    }

    /// Enqueues a pass by the vendor's libraries on x, the weight in their order, and y, or on their gradients. Returns whether they took it;
    /// without a weight in their order they do not.
    fn by_vendor(&self, pass: Pass, operands: [Ptr; 3], accumulate: bool, workspace: Ptr) -> Result<bool> {
        let Some(vendor) = self.vendor else { return Ok(false) };
        vendor.begin(self.call(pass))?;
        if operands[1] == Ptr::NULL || self.vendor_bytes(pass)?.is_none() {
            return Ok(false);
        }
        // SAFETY: the plan gave all operands the sizes of this geometry, and the workspace the size that the vendor asked for.
        unsafe { vendor.run(self.call(pass), operands.map(Ptr::address), accumulate, workspace.address()) }
    }

    /// Returns the words of workspace of a pass by the vendor's libraries; 0 if they do not run it.
    fn vendor_words(&self, pass: Pass) -> Result<usize> {
        Ok(self.vendor_bytes(pass)?.map_or(0, |bytes| bytes.div_ceil(4)))
    }

    /// Returns the bytes of workspace of a pass by the vendor's libraries; `None` if they do not run it. The first time, it may measure.
    fn vendor_bytes(&self, pass: Pass) -> Result<Option<usize>> {
        let Some(vendor) = self.vendor else { return Ok(None) };
        let call = self.call(pass);
        let Some(bytes) = vendor.workspace(call)? else { return Ok(None) };
        let taken = self.gpu.takes_library(MeasuredPass::Conv(call), || measure(self, vendor, pass, bytes))?;
        Ok(taken.then_some(bytes))
    }

    pub(super) fn call(&self, pass: Pass) -> Call {
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
    pub(super) fn packed_words(&self, outputs: usize, inputs: usize, a_block: usize) -> usize {
        if self.gpu.precision() == Precision::F32 {
            return 0;
        }
        self.geometry.taps() * self.step_words(outputs.div_ceil(a_block), inputs)
    }

    /// Returns the words of `blocks` blocks of 128 columns, each with enough steps of 64 bytes for `depth` numbers a column.
    pub(super) fn step_words(&self, blocks: usize, depth: usize) -> usize {
        blocks * depth.div_ceil(self.step_depth()) * 128 * 64 / 4
    }

    /// Returns how many numbers a step of 64 bytes holds.
    pub(super) fn step_depth(&self) -> usize {
        64 / self.gpu.activation_bytes()
    }

    /// Returns the columns of a tile of the weight's gradient.
    fn weight_columns(&self) -> usize {
        if self.gpu.precision() == Precision::F32 { 64 } else { 128 }
    }

    /// Returns the pixels of a split of the weight's gradient, and the number of splits.
    fn weight_splits(&self) -> (usize, usize) {
        let g = self.geometry;
        let (pixels, tiles) = (g.pixels(), g.k().div_ceil(128) * g.out_c.div_ceil(self.weight_columns()));
        // Relative to a GPU without an idle place: the waves of blocks, of which the last takes as long as a full one; and the partial sums. On
        // tensor cores, writing and reading one of these takes about as long as 500 products.
        let cost = |splits: usize| {
            let waves = (tiles * splits).div_ceil(PLACES) as f64 / splits as f64;
            waves * PLACES as f64 / tiles as f64 + (500 * splits) as f64 / pixels as f64
        };
        let splits = (1..=(pixels / LEAST_SPLIT).clamp(1, PLACES)).min_by(|a, b| cost(*a).total_cmp(&cost(*b)));
        // A multiple of 32, so that no step of depth is half empty.
        let split = pixels.div_ceil(splits.expect("1 at least")).next_multiple_of(32);
        (split, pixels.div_ceil(split))
    }

    /// Returns the pixels of a split of the bias's gradient, and the number of splits.
    fn bias_splits(&self) -> (usize, usize) {
        let rows = self.geometry.pixels();
        let split = split_rows(rows, LEAST_SPLIT, 64);
        (split, rows.div_ceil(split))
    }
}
