//! The forward pass of a BConv-Cell on a GPU: by one fused kernel, or a convolution by the vendor's libraries and a kernel for the gates.

use super::conv_launch::{ConvLaunch, MMA_SHARED_BYTES, TILE_PIXELS, Weight};
use super::measure::{Operands, Placed};
use super::workspace::{Part, Parts};
use crate::Result;
use crate::engine::device::kernels::{self, ConvSizes};
use crate::engine::device::{Gpu, Grid, MeasuredPass, Pass, Ptr, Times, Untyped};
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::precision::Precision;

/// The forward pass of the cell whose gates are the outputs of a convolution.
pub(super) struct CellLaunch<'a> {
    conv: ConvLaunch<'a>,
    /// Whether backward follows, and needs the activated gates.
    differentiated: bool,
}

/// What a step of a cell reads and writes.
#[derive(Clone, Copy)]
pub(super) struct CellOperands {
    pub x: Ptr,
    pub weight: Weight,
    /// The latent state before and after the step.
    pub states: [Ptr<f32>; 2],
    pub y: Ptr,
    /// The activated gates; null if the cell is not differentiated.
    pub gates: Ptr,
    pub workspace: Ptr,
}

/// The workspace of [`CellLaunch::split`].
struct SplitParts {
    /// The pre-activations, where there is no tensor of gates.
    pre: Part<Untyped>,
    library: Part<Untyped>,
    parts: Parts,
}

impl<'a> CellLaunch<'a> {
    pub(super) fn new(gpu: &'a Gpu, gates: &'a Conv2dGeometry, differentiated: bool) -> CellLaunch<'a> {
        CellLaunch { conv: ConvLaunch::new(gpu, gates), differentiated }
    }

    /// Returns the bytes of workspace of the convolution by the vendor's libraries; `None` if the fused kernel computes the cell. The first
    /// time, it may measure, which cannot be done while launches are recorded.
    ///
    /// # Errors
    /// The device or a library fails.
    fn vendor_bytes(&self) -> Result<Option<usize>> {
        let (gpu, gates) = (self.conv.gpu, self.conv.call(Pass::Forward));
        let Some(bytes) = self.conv.vendor.map_or(Ok(None), |vendor| vendor.workspace(gates))? else { return Ok(None) };
        let pass = MeasuredPass::Cell { gates, differentiated: self.differentiated };
        Ok(gpu.takes_library(pass, || self.measure(bytes))?.then_some(bytes))
    }

    /// Returns whether forward takes the weight in the order of the vendor's libraries.
    ///
    /// # Errors
    /// As [`CellLaunch::vendor_bytes`].
    pub(super) fn turns_weight(&self) -> Result<bool> {
        Ok(self.vendor_bytes()?.is_some())
    }

    /// Returns the words of workspace that [`CellLaunch::forward`] needs, also if a library refuses when it is called.
    ///
    /// # Errors
    /// As [`CellLaunch::vendor_bytes`].
    pub(super) fn workspace(&self) -> Result<usize> {
        let split = self.vendor_bytes()?.map_or(0, |bytes| self.split_parts(bytes).parts.words());
        Ok(self.packed_words().max(split))
    }

    /// Enqueues a step of the cell.
    ///
    /// # Errors
    /// As [`CellLaunch::vendor_bytes`].
    pub(super) fn forward(&self, cell: CellOperands) -> Result<()> {
        if let Some(vendor) = self.conv.vendor {
            vendor.begin(self.conv.call(Pass::Forward))?;
        }
        match self.vendor_bytes()? {
            Some(bytes) if self.split(cell, bytes)? => Ok(()),
            _ => self.fused(cell),
        }
    }

    /// Returns the words of the packed weights of the fused kernel.
    fn packed_words(&self) -> usize {
        let g = self.conv.geometry;
        if self.dense() {
            self.conv.step_words((g.out_c / 4).div_ceil(32), g.k())
        } else {
            self.conv.packed_words(g.out_c / 4, g.in_c, 32)
        }
    }

    /// Returns whether the taps are packed without gaps: on tensor cores, if the input channels do not fill a step.
    fn dense(&self) -> bool {
        self.conv.gpu.precision() != Precision::F32 && self.conv.geometry.in_c < self.conv.step_depth()
    }

    /// Returns the bytes of the gates.
    fn gates_bytes(&self) -> usize {
        self.conv.geometry.pixels() * self.conv.geometry.out_c * self.conv.gpu.activation_bytes()
    }

    /// Returns the workspace of [`CellLaunch::split`] with a library that needs `bytes`.
    fn split_parts(&self, bytes: usize) -> SplitParts {
        let mut parts = Parts::default();
        let pre = parts.add_bytes(if self.differentiated { 0 } else { self.gates_bytes() });
        let library = parts.add_bytes(bytes);
        SplitParts { pre, library, parts }
    }

    /// Enqueues the convolution by the vendor's libraries, which need `bytes` of workspace, then the gates. Returns whether they took it; if
    /// not, nothing was enqueued.
    fn split(&self, cell: CellOperands, bytes: usize) -> Result<bool> {
        let (gpu, g) = (self.conv.gpu, self.conv.geometry);
        let Some(vendor) = self.conv.vendor.filter(|_| cell.weight.turned != Ptr::NULL) else { return Ok(false) };
        let parts = self.split_parts(bytes);
        let pre = if self.differentiated { cell.gates } else { parts.pre.of(cell.workspace) };
        let (operands, library) = ([cell.x, cell.weight.turned, pre], parts.library.of(cell.workspace));
        // SAFETY: the plan, or the measurement, gave all operands the sizes of this geometry, and the workspace the size that was asked for.
        if !unsafe { vendor.run(self.conv.call(Pass::Forward), operands.map(Ptr::address), false, library.address()) }?
        {
            return Ok(false);
        }
        let (pixels, channels) = (g.pixels(), g.out_c / 4);
        let (grid, [prev, next]) = (Grid::any(pixels * channels), cell.states);
        kernels::bconv_apply_gates(gpu, grid, pre, prev, next, cell.y, cell.gates, pixels as i64, channels as i32)?;
        Ok(true)
    }

    /// Enqueues the step by the crate's own kernel.
    fn fused(&self, cell: CellOperands) -> Result<()> {
        let (gpu, g) = (self.conv.gpu, self.conv.geometry);
        let CellOperands { x, weight, states: [prev, next], y, gates, workspace } = cell;
        let (sizes, channels) = (ConvSizes::from(g), g.out_c / 4);
        let tiles = g.pixels().div_ceil(TILE_PIXELS);
        if gpu.precision() == Precision::F32 {
            let grid = [tiles, channels.div_ceil(16)];
            return kernels::bconv_forward(gpu, grid, x, weight.own.cast(), prev, next, y, gates, sizes);
        }
        let pack = Grid::any(g.k() * g.out_c);
        let grid = Grid::from([tiles, channels.div_ceil(32)]).shared(MMA_SHARED_BYTES);
        if self.dense() {
            kernels::pack_gates_dense(gpu, pack, weight.own, workspace, sizes)?;
            kernels::bconv_forward_dense(gpu, grid, x, workspace, prev, next, y, gates, sizes)
        } else {
            kernels::pack_gates(gpu, pack, weight.own, workspace, sizes)?;
            kernels::bconv_forward(gpu, grid, x, workspace, prev, next, y, gates, sizes)
        }
    }

    /// Measures both ways; a library needs `bytes` of workspace. The turning of the weight is not counted, because one launch does it for all
    /// nodes.
    fn measure(&self, bytes: usize) -> Result<Times> {
        let (gpu, g) = (self.conv.gpu, self.conv.geometry);
        let mut operands = Operands::new(&self.conv, self.packed_words().max(self.split_parts(bytes).parts.words()));
        let outputs = g.pixels() * g.out_c / 4;
        let states = [operands.parts.add(outputs), operands.parts.add(outputs)];
        let y = operands.parts.add_bytes(outputs * gpu.activation_bytes());
        let cell = |base: Ptr| {
            let Placed { x, weight, y: gates, workspace } = operands.at(base);
            let gates = if self.differentiated { gates } else { Ptr::NULL };
            let states = [states[0].of(base), states[1].of(base)];
            CellOperands { x, weight, states, y: y.of(base), gates, workspace }
        };
        let memory = 4 * operands.parts.words();
        gpu.measure(memory, |base| self.fused(cell(base)), |base| self.split(cell(base), bytes))
    }
}
