//! The BConv-Cell as a module: one weight, `gates.weight`.

use super::{Init, Scope};
use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::op;
use crate::engine::store::{Layout, ParamId, Store};

/// A gated convolution with a latent state; see [`crate::engine::op::bconv_cell()`].
#[derive(Clone, Debug)]
pub struct BConvCell {
    /// Name of the cell and of its latent state.
    pub name: String,
    /// Weight of the gates, `[4·out_channels, in, k, k]` in torch's order.
    pub weight: ParamId,
    /// Channels of the output and of the latent state.
    pub out_channels: usize,
    stride: usize,
    padding: usize,
}

impl BConvCell {
    /// Registers a cell; `sizes` are input and output channels, `k` is the kernel size.
    pub fn new(scope: &mut Scope<'_>, sizes: [usize; 2], k: usize, stride: usize, padding: usize) -> BConvCell {
        let [input, out_channels] = sizes;
        let shape = [4 * out_channels, input, k, k];
        let weight = scope.child("gates").param("weight", &shape, Layout::Conv, Init::KaimingFanIn);
        BConvCell { name: scope.path("latent_state"), weight, out_channels, stride, padding }
    }

    /// Records one step of the cell on `x`; the result has `out_channels` channels.
    ///
    /// # Errors
    /// `x` has other channels than the weight, or the kernel does not fit.
    pub fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        op::bconv_cell(g, store, &self.name, x, self.weight, [self.stride; 2], [self.padding; 2])
    }
}
