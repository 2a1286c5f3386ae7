//! GPUs: the one boundary between the engine and CUDA, or the emulator that stands in for it.
//!
//! [`Gpu`] is what the engine holds; [`kernels`] launches; a [`Backend`] does the work.

mod backend;
mod buffer;
// Compiled everywhere, so that it is checked everywhere; used where there are kernels.
#[cfg_attr(not(ptl_cuda), allow(dead_code))]
mod cuda;
#[cfg(ptl_emulator)]
mod emulator;
mod gpu;
pub mod kernels;
mod open;
mod pointer;
mod vendor;

pub use backend::{Backend, Kernel, Recording};
pub use buffer::{Buffer, Mirrored};
#[cfg(ptl_emulator)]
pub use emulator::{Emulator, Launch, Simulated};
pub use gpu::Gpu;
pub use open::{Device, DeviceKind, DeviceOptions, GpuOptions};
pub use pointer::{Grid, Ptr, Untyped};
pub use vendor::{Call, Pass, Vendor};

use crate::base::settings::choice;

choice! {
    /// What convolutions compute in; weights, moments, statistics, latent states and losses are always f32.
    pub enum Precision {
        /// 32-bit arithmetic everywhere.
        #[default]
        F32 = "f32",
        /// Activations in f32; products on tensor cores with 10-bit mantissas.
        Tf32 = "tf32",
        /// Activations and products in bf16, sums in f32.
        Bf16 = "bf16",
    }
}
