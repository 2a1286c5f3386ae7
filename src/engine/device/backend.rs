//! The trait of a GPU, real or emulated. Everything that uses this trait is the same for both.

use std::ffi::c_void;
use std::fmt::Debug;
use std::time::Instant;

use super::Vendor;
use crate::engine::collective::Meeting;
use crate::{Error, Result};

/// A compiled kernel of `kernels/*.cu`; the generated launch functions refer to these.
#[derive(Debug)]
pub struct Kernel {
    /// Name of the kernel's function.
    pub name: &'static str,
    /// Threads of a block: the kernel's `__launch_bounds__`.
    pub threads: u32,
    /// The index in [`super::kernels::ALL`].
    pub index: usize,
    /// The size of each parameter, bytes.
    pub parameter_bytes: &'static [usize],
    /// For each parameter that is an address, whether the kernel may write there.
    pub writes: &'static [Option<bool>],
}

/// A device with memory, one queue of work, and kernels.
///
/// Addresses are those of the device. Work is enqueued and runs in that order. Only [`Backend::download`] and [`Backend::synchronize`] are
/// sure to wait for it. Methods return an error if the device fails, or an error of earlier work.
pub trait Backend: Send + Sync + Debug {
    /// Returns the device's name and its driver, for messages and reports.
    fn description(&self) -> String;

    /// Returns the bytes of memory that are free, and those of all memory.
    fn memory(&self) -> Result<[u64; 2]>;

    /// Allocates uninitialised memory, aligned to 256 bytes, and returns its address.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] if it does not fit.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Frees memory of [`Backend::allocate`], after the work that is enqueued so far.
    fn release(&self, address: u64);

    /// Copies to the device, after the work that is enqueued so far. `from` may be reused when this returns.
    fn upload(&self, to: u64, from: &[u8]) -> Result<()>;

    /// Copies to the device while work runs: waits only for the work that was enqueued before the last call of this function. Work that is
    /// enqueued later waits for the copy. So two buffers can be filled in turn, if the work that reads one is enqueued before the other
    /// one is filled.
    fn upload_async(&self, to: u64, from: &[u8]) -> Result<()>;

    /// Copies each `(to, from)` to the host, and waits for the copies.
    fn download(&self, copies: &mut [(&mut [u8], u64)]) -> Result<()>;

    /// Waits for all enqueued work.
    fn synchronize(&self) -> Result<()>;

    /// Returns the seconds that the device takes for what each of `works` launches: of several replays in turn, the shortest. They get the
    /// address of `bytes` of memory, whose content does not matter, and must not wait.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] if the memory does not fit; or launches are being recorded.
    fn compare(&self, bytes: usize, works: &mut [&mut dyn FnMut(u64) -> Result<()>; 2]) -> Result<[f64; 2]> {
        /// Runs in a recording, so that starting and waiting cost little.
        const RUNS: u32 = 10;
        let memory = self.allocate(bytes)?;
        let mut measure = || {
            let mut recordings = Vec::new();
            for work in &mut *works {
                // The first run loads kernels, which cannot be recorded.
                work(memory)?;
                recordings.push(self.record(&mut || (0..RUNS).try_for_each(|_| work(memory)))?);
            }
            let mut shortest = [f64::INFINITY; 2];
            // In turn, and once before it counts, because clocks rise and other work may run for a while.
            for round in 0..6 {
                for (shortest, recording) in shortest.iter_mut().zip(&recordings) {
                    self.synchronize()?;
                    let start = Instant::now();
                    recording.replay()?;
                    self.synchronize()?;
                    let seconds = start.elapsed().as_secs_f64() / f64::from(RUNS);
                    *shortest = if round == 0 { *shortest } else { shortest.min(seconds) };
                }
            }
            Ok(shortest)
        };
        let measured = measure();
        self.release(memory);
        measured
    }

    /// Launches `kernel` with blocks of [`Kernel::threads`] in one dimension. `arguments` point to one value for each parameter.
    ///
    /// # Safety
    /// `arguments` must point to values of the kernel's parameter types. Addresses among these must be of memory of this device that
    /// holds what the kernel's contract says.
    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()>;

    /// Records what `work` launches, without running it. `work` must not allocate, upload,
    /// download or wait: these return an error then. No other thread may use the device
    /// meanwhile, since its launches would be recorded too.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>>;

    /// Returns the vendor's convolutions, if they are switched on.
    fn vendor(&self) -> Option<&Vendor>;

    /// Connects the device with those of all processes of a meeting, once, for the functions below. All must call it.
    ///
    /// # Errors
    /// The device does not exchange numbers, or what it needs for that is missing.
    fn join(&self, _meeting: Meeting<'_>) -> Result<()> {
        Err(no_exchange())
    }

    /// Enqueues that `count` numbers of f32 at `at` are replaced by their sums over all ranks that have joined, or by their means.
    ///
    /// # Errors
    /// The device has not joined the others, or fails.
    fn all_reduce(&self, _at: u64, _count: usize, _mean: bool) -> Result<()> {
        Err(no_exchange())
    }

    /// Enqueues a sum as [`Backend::all_reduce`] does, which may run beside all work that is enqueued until [`Backend::finish_sums`]. That work
    /// must neither read nor write the numbers.
    ///
    /// # Errors
    /// As [`Backend::all_reduce`].
    fn begin_sum(&self, _at: u64, _count: usize) -> Result<()> {
        Err(no_exchange())
    }

    /// Makes work that is enqueued later wait for all sums that were begun.
    ///
    /// # Errors
    /// As [`Backend::all_reduce`].
    fn finish_sums(&self) -> Result<()> {
        Err(no_exchange())
    }

    /// Enqueues that the `bytes` at `own` of all ranks, in their order, are written to `all`.
    ///
    /// # Errors
    /// As [`Backend::all_reduce`].
    fn all_gather(&self, _own: u64, _bytes: usize, _all: u64) -> Result<()> {
        Err(no_exchange())
    }
}

/// Returns the error of a device that has not joined those of other processes.
pub(super) fn no_exchange() -> Error {
    Error::Ranks { reason: "this device is not connected with those of other processes: use CPUs".into() }
}

/// Returns the error of a device on which launches are being recorded, and something else is asked for.
pub(super) fn only_launches_are_recorded(device: &'static str, action: &str) -> Error {
    let reason = "a step that is being recorded may only launch kernels".into();
    Error::Device { device, action: action.into(), reason }
}

/// Recorded launches; on an NVIDIA GPU, a CUDA graph.
pub trait Recording: Send {
    /// Enqueues all recorded launches again.
    fn replay(&self) -> Result<()>;
}
