//! Convolutions, batch and instance normalisation, and fully connected layer, with torch's attribute names.

use super::{Init, Scope};
use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::op::{self, BatchNorm};
use crate::engine::store::{Layout, ParamId, Store};

/// `torch.nn.Conv2d` (no dilation; for groups see [`DepthwiseConv2d`]).
#[derive(Clone, Debug)]
pub struct Conv2d {
    /// Weight, `[out, in, k, k]` in torch's order.
    pub weight: ParamId,
    /// Bias `[out]`, if any.
    pub bias: Option<ParamId>,
    stride: [usize; 2],
    padding: [usize; 2],
}

impl Conv2d {
    /// Registers a convolution without bias. `sizes` are input and output channels; the kernel has `k` x `k` taps.
    pub fn new(
        scope: &mut Scope<'_>,
        sizes: [usize; 2],
        k: usize,
        stride: usize,
        padding: usize,
        init: Init,
    ) -> Conv2d {
        let [input, output] = sizes;
        let weight = scope.param("weight", &[output, input, k, k], Layout::Conv, init);
        Conv2d { weight, bias: None, stride: [stride; 2], padding: [padding; 2] }
    }

    /// Adds a bias with PyTorch's default initial values; `sizes` and `k` are those of [`Conv2d::new`].
    pub fn with_bias(mut self, scope: &mut Scope<'_>, sizes: [usize; 2], k: usize) -> Conv2d {
        let init = Init::Uniform { fan_in: sizes[0] * k * k };
        self.bias = Some(scope.param("bias", &[sizes[1]], Layout::Plain, init));
        self
    }

    /// Records the convolution of `x` `[n, h, w, in]`.
    ///
    /// # Errors
    /// `x` has other channels than the weight, or the kernel does not fit.
    pub fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        op::conv2d(g, store, x, self.weight, self.bias, self.stride, self.padding)
    }
}

/// `torch.nn.Conv2d` with a 3x3 kernel for each channel (`groups` is the number of channels), stride 1, padding 1, without bias.
#[derive(Clone, Debug)]
pub struct DepthwiseConv2d {
    /// Weight, `[channels, 1, 3, 3]` in torch's order.
    pub weight: ParamId,
}

impl DepthwiseConv2d {
    /// Registers the convolution.
    pub fn new(scope: &mut Scope<'_>, channels: usize, init: Init) -> DepthwiseConv2d {
        DepthwiseConv2d { weight: scope.param("weight", &[channels, 1, 3, 3], Layout::Conv, init) }
    }

    /// Records the convolution of `x` `[n, h, w, channels]`.
    ///
    /// # Errors
    /// `x` has other channels than the weight.
    pub fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        op::depthwise_conv2d(g, store, x, self.weight)
    }
}

/// `torch.nn.BatchNorm2d` (and `BatchNorm1d` on vectors).
#[derive(Clone, Debug)]
pub struct BatchNorm2d {
    norm: BatchNorm,
}

impl BatchNorm2d {
    /// Registers the layer: weight 1, bias 0, eps 1e-5, momentum 0.1.
    pub fn new(scope: &mut Scope<'_>, channels: usize) -> BatchNorm2d {
        BatchNorm2d::with_weight(scope, channels, Init::Constant(1.0))
    }

    /// Registers the layer as [`BatchNorm2d::new`] does, with other initial values of the weight.
    pub fn with_weight(scope: &mut Scope<'_>, channels: usize, weight: Init) -> BatchNorm2d {
        let norm = BatchNorm {
            weight: scope.param("weight", &[channels], Layout::Plain, weight),
            bias: scope.param("bias", &[channels], Layout::Plain, Init::Constant(0.0)),
            running_mean: scope.buffer("running_mean", channels, 0.0),
            running_var: scope.buffer("running_var", channels, 1.0),
            num_batches_tracked: scope.counter("num_batches_tracked"),
            eps: 1e-5,
            momentum: 0.1,
        };
        BatchNorm2d { norm }
    }

    /// Returns the bias, `[channels]`.
    pub fn bias(&self) -> ParamId {
        self.norm.bias
    }

    /// Records the normalisation of `x` `[n, h, w, channels]`.
    ///
    /// # Errors
    /// `x` has other channels, or training would normalise a single value per channel, which has no variance.
    pub fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        op::batch_norm(g, store, x, &self.norm, None, false)
    }

    /// Records `relu(bn(x))` as one op.
    pub(crate) fn forward_relu(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        op::batch_norm(g, store, x, &self.norm, None, true)
    }

    /// Records `bn(x) + residual` as one op.
    pub(crate) fn forward_residual(&self, g: &mut Graph, store: &Store, x: Var, residual: Var) -> Result<Var> {
        op::batch_norm(g, store, x, &self.norm, Some(residual), false)
    }

    /// Records `relu(bn(x) + residual)` as one op.
    pub(crate) fn forward_residual_relu(&self, g: &mut Graph, store: &Store, x: Var, residual: Var) -> Result<Var> {
        op::batch_norm(g, store, x, &self.norm, Some(residual), true)
    }
}

/// `torch.nn.InstanceNorm2d` with `affine=True`.
#[derive(Clone, Debug)]
pub struct InstanceNorm2d {
    params: [ParamId; 2],
}

impl InstanceNorm2d {
    /// Registers the layer: weight 1, bias 0, eps 1e-5.
    pub fn new(scope: &mut Scope<'_>, channels: usize) -> InstanceNorm2d {
        let mut param = |name, value| scope.param(name, &[channels], Layout::Plain, Init::Constant(value));
        InstanceNorm2d { params: [param("weight", 1.0), param("bias", 0.0)] }
    }

    /// Records `relu(in(x))` as one op, for `x` `[n, h, w, channels]`.
    pub(crate) fn forward_relu(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        op::instance_norm(g, store, x, self.params, 1e-5, true)
    }
}

/// `torch.nn.Linear` on `[n, 1, 1, in]`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Weight, `[out, in]` in torch's order.
    pub weight: ParamId,
    /// Bias `[out]`, if any.
    pub bias: Option<ParamId>,
}

impl Linear {
    /// Registers the layer; `sizes` are inputs and outputs. The bias starts at 0.
    pub fn new(scope: &mut Scope<'_>, sizes: [usize; 2], bias: bool, init: Init) -> Linear {
        let weight = scope.param("weight", &[sizes[1], sizes[0]], Layout::Conv, init);
        let bias = bias.then(|| scope.param("bias", &[sizes[1]], Layout::Plain, Init::Constant(0.0)));
        Linear { weight, bias }
    }

    /// Records `x Wᵀ + b` for `x` `[n, 1, 1, in]`: `[n, 1, 1, out]`.
    ///
    /// # Errors
    /// `x` has other channels than the weight.
    pub fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        op::linear(g, store, x, self.weight, self.bias)
    }
}
