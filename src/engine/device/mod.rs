//! GPUs: the one boundary between the engine and CUDA, or the emulator that stands in for it.
//!
//! [`Gpu`] is what the engine holds; [`kernels`] launches; a [`Backend`] does the work.

mod backend;
mod buffer;
mod by_gpu;
// Compiled everywhere, so that it is checked everywhere; used where there are kernels.
#[cfg_attr(not(ptl_cuda), allow(dead_code))]
mod cuda;
#[cfg(ptl_emulator)]
mod emulator;
mod gpu;
pub mod kernels;
mod measured;
mod open;
mod pointer;
mod vendor;

pub use backend::{Backend, Kernel, Recording};
pub use buffer::{Buffer, Mirrored};
#[cfg(ptl_emulator)]
pub use emulator::{Emulator, Launch, Simulated};
pub(crate) use gpu::COUNTERS;
pub use gpu::Gpu;
pub use measured::VendorUse;
pub(crate) use measured::{MeasuredPass, Times};
pub use open::{Cpu, Device, DeviceKind, DeviceOptions, GpuOptions};
pub use pointer::{Grid, Ptr, Untyped};
pub use vendor::{Call, Pass, Vendor};
