//! Reads and writes files of weights, of this program and of others.

pub mod checkpoint;
mod dtype;
pub mod onnx;
pub(crate) mod pickle;

pub use dtype::Dtype;
