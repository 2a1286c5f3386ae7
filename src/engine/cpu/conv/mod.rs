//! 2-D convolution on NHWC tensors and its gradients, as matrix products without an im2col copy of the whole input.
//!
//! 3x3 kernels with stride 1, and some with stride 2, go through Winograd's method (`winograd`) if channels are whole vectors. The gradient
//! of the weight has a way of its own for few channels (`few_channels`). The rest, described here, are direct sums.
//!
//! Weights are the right matrix, `[kh·kw·in, out]`. Forward reads input pixels through pointers, padding through a pointer to zeros.
//! Input pixels with the same `ih mod sh` and `iw mod sw` form a stride phase: the same taps reach all of them. The gradient of the input
//! is a product per stride phase, over these taps only. The gradient of the weight is a product over pixels.

mod backward_data;
mod backward_weight;
mod few_channels;
mod forward;
#[cfg(test)]
pub(super) mod tests;
pub(super) mod winograd;

pub use backward_data::{backward_data_workspace, conv2d_backward_data};
pub use backward_weight::{backward_weight_workspace, conv2d_backward_weight};
pub(in crate::engine) use forward::conv2d_forward_normalized;
pub use forward::{Packed, conv2d_forward, forward_workspace};
pub(super) use forward::{
    gates_columns, panels_of_gates, winograd_gates, winograd_gates_workspace, with_forward_product,
};
