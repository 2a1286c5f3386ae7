//! 2-D convolution on NHWC tensors and its gradients, all as matrix products without an im2col copy.
//!
//! Weights are `[kh·kw·in, out]`: the rows of the right matrix. Forward reads input pixels through pointers, padding through a
//! pointer to zeros. The gradient of the input is a product per stride phase (`ih mod sh`, `iw mod sw`), over just the taps
//! that reach that phase. The gradient of the weight is a product over pixels.

mod backward_data;
mod backward_weight;
mod forward;
#[cfg(test)]
mod tests;

pub use backward_data::{backward_data_workspace, conv2d_backward_data};
pub use backward_weight::{backward_weight_workspace, conv2d_backward_weight};
pub use forward::{conv2d_forward, forward_workspace};
pub(super) use forward::{gates_nr, with_forward_product};
