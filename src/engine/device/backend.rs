//! What the engine asks of a GPU, real or emulated. Everything above this trait is the same for both.

use std::ffi::c_void;
use std::fmt::Debug;

use super::Precision;
use crate::Result;
use crate::engine::geometry::Conv2dGeometry;

/// A compiled kernel; the generated launch functions name them (`kernels/*.cu`).
#[derive(Debug)]
pub struct Kernel {
    pub name: &'static str,
    /// Threads of a block: the kernel's `__launch_bounds__`.
    pub threads: u32,
    /// Place in [`super::kernels::ALL`].
    pub index: usize,
    /// Size of each parameter.
    pub parameter_bytes: &'static [usize],
    /// For each parameter that is an address: whether the kernel may write there.
    pub writes: &'static [Option<bool>],
}

/// A device with memory, one queue of work, and kernels.
///
/// Addresses are those of the device. Work runs in the order in which it is asked for; only [`Backend::download`],
/// [`Backend::synchronize`] and errors wait for it. An error of earlier work may surface in any later call.
pub trait Backend: Send + Sync + Debug {
    /// For messages and reports: the device's name and what drives it.
    fn description(&self) -> String;

    /// Bytes of memory that are free, and in all.
    fn memory(&self) -> Result<[u64; 2]>;

    /// Uninitialised memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// [`crate::Error::DeviceMemory`] where it does not fit.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Gives memory of [`Backend::allocate`] back, after the work that was asked for so far.
    fn release(&self, address: u64);

    /// Copies to the device, after the work that was asked for so far. `from` may be reused at once.
    fn upload(&self, to: u64, from: &[u8]) -> Result<()>;

    /// The same beside the work that was asked for since the last such call; work that is asked for later waits for it. So two
    /// places that are sent to in turn are safe, each read by work that is asked for before the other one is sent to.
    fn upload_async(&self, to: u64, from: &[u8]) -> Result<()>;

    /// Copies to the host each `(to, from)`, and waits.
    fn download(&self, copies: &mut [(&mut [u8], u64)]) -> Result<()>;

    /// Waits for all work.
    fn synchronize(&self) -> Result<()>;

    /// Launches `kernel` with blocks of [`Kernel::threads`] in one dimension; `arguments` point to one value of each parameter.
    ///
    /// # Safety
    /// `arguments` must point to values of the kernel's parameter types, and addresses among them to memory of this device that
    /// holds what the kernel's contract says.
    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()>;

    /// Records what `work` launches, without running it. `work` must not allocate, upload or download, and no other thread may use
    /// the device meanwhile: what it asks for would be recorded too.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>>;

    /// The vendor's convolutions, where this device has them and they are switched on.
    fn vendor(&self) -> Option<&dyn Vendor>;
}

/// Launches that were recorded: one CUDA graph.
pub trait Recording: Send {
    /// Runs them all, after the work that was asked for so far.
    fn replay(&self) -> Result<()>;
}

/// Plain convolutions (and 1x1 ones, which are matrix products) by the vendor's libraries, deterministic algorithms only.
///
/// Activations are NHWC, f32 or bf16 as `precision` says ([`Precision::Tf32`]: f32 in memory). Weights and their gradients
/// have the same type and lie as `[out, kh, kw, in]`. Addresses are of the device, multiples of 16; `workspace` has as many bytes
/// as [`Vendor::workspace`] says. A geometry's first call may load code, which a recording cannot: run the work once before.
pub trait Vendor {
    /// Bytes that forward and backward (either gradient) take. Chooses algorithms, once for each geometry and precision.
    fn workspace(&self, geometry: &Conv2dGeometry, precision: Precision) -> Result<[usize; 2]>;

    /// `y = conv(x, weight)`
    ///
    /// # Safety
    /// Addresses must be of memory of this device with the sizes of `geometry`.
    unsafe fn forward(
        &self,
        geometry: &Conv2dGeometry,
        precision: Precision,
        x: u64,
        weight: u64,
        y: u64,
        workspace: u64,
    ) -> Result<()>;

    /// `dx (+)= convᵀ(dy, weight)`
    ///
    /// # Safety
    /// As for [`Vendor::forward`].
    #[allow(clippy::too_many_arguments)]
    unsafe fn backward_data(
        &self,
        geometry: &Conv2dGeometry,
        precision: Precision,
        dy: u64,
        weight: u64,
        dx: u64,
        accumulate: bool,
        workspace: u64,
    ) -> Result<()>;

    /// `dweight = corr(x, dy)`
    ///
    /// # Safety
    /// As for [`Vendor::forward`].
    unsafe fn backward_weight(
        &self,
        geometry: &Conv2dGeometry,
        precision: Precision,
        x: u64,
        dy: u64,
        dweight: u64,
        workspace: u64,
    ) -> Result<()>;
}
