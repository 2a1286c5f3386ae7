//! GPUs: the one boundary between the engine and CUDA, or the emulator that stands in for it.

mod backend;
pub mod cuda;

pub use backend::{Backend, Kernel, Recording, Vendor};

/// What convolutions compute in (`--precision`); weights, moments, statistics, latent states and losses are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit arithmetic everywhere.
    #[default]
    F32,
    /// Activations in f32; products on tensor cores with 10-bit mantissas.
    Tf32,
    /// Activations and products in bf16, sums in f32.
    Bf16,
}
