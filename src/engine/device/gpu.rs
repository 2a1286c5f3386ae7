//! A GPU as the engine uses it: a back end, and the precision of the run.

use std::ffi::c_void;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use super::by_gpu::ByGpu;
use super::measured::{Measured, MeasuredPass, Times, VendorUse};
use super::{Backend, Buffer, Grid, Kernel, Ptr, Recording, Vendor};
use crate::engine::collective::{Collective, Meeting};
use crate::engine::precision::Precision;
use crate::{Error, Result};

/// How many counters [`Gpu::counters`] has.
pub(crate) const COUNTERS: usize = 1024;

/// A GPU, real or emulated. Clones share it.
#[derive(Clone, Debug)]
pub struct Gpu {
    backend: Arc<dyn Backend>,
    precision: Precision,
    counters: Arc<Mutex<Option<Buffer>>>,
    vendor_use: VendorUse,
    measured: Arc<Measured>,
    /// A hash of the compiled kernels.
    code: u64,
}

impl Gpu {
    /// Returns the GPU of `backend`, on which convolutions compute in `precision`. What it measures is not kept after this run.
    pub fn new(backend: Arc<dyn Backend>, precision: Precision) -> Gpu {
        let (counters, measured) = (Arc::default(), Arc::default());
        Gpu { backend, precision, counters, vendor_use: VendorUse::default(), measured, code: 0 }
    }

    /// Returns the same GPU, on which the vendor's libraries compute the passes that `vendor_use` says.
    #[must_use]
    pub fn with_vendor(self, vendor_use: VendorUse) -> Gpu {
        Gpu { vendor_use, ..self }
    }

    /// Returns the same GPU, which keeps what it measures in the user's cache. Times are valid for the kernels in `code` only.
    #[cfg_attr(not(ptl_cuda), allow(dead_code))]
    pub(super) fn keeping_times(self, code: &[u8]) -> Gpu {
        let mut hasher = DefaultHasher::new();
        hasher.write(code);
        Gpu { measured: Arc::new(Measured::of_user()), code: hasher.finish(), ..self }
    }

    /// Returns whether the vendor's libraries, which take `pass`, compute it. `measure` returns the times of both ways if nothing else
    /// decides; that must not happen while launches are recorded. What there is no memory to measure, they compute.
    ///
    /// # Errors
    /// Those of `measure`, but for a lack of memory.
    pub(crate) fn takes_library(&self, pass: MeasuredPass, measure: impl FnOnce() -> Result<Times>) -> Result<bool> {
        match self.vendor_use {
            VendorUse::Always => Ok(true),
            VendorUse::Never => Ok(false),
            VendorUse::Auto => {
                let device = || {
                    let libraries = self.vendor().map_or_else(String::new, Vendor::description);
                    format!("{}, {libraries}, kernels {:x}", self.description(), self.code)
                };
                let times = self.measured.times(device, pass, measure)?;
                Ok(times.is_none_or(|times| times.by_library()))
            }
        }
    }

    /// Returns sentences about the passes that the vendor's libraries refused, and those that were measured, since the last call.
    pub(super) fn take_news(&self) -> Vec<String> {
        let mut news = self.measured.take_news();
        news.extend(self.vendor().map(Vendor::take_refusals).unwrap_or_default());
        news
    }

    /// Returns what convolutions compute in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns the device's name and its driver.
    pub fn description(&self) -> String {
        self.backend.description()
    }

    /// Returns the bytes of an element of an activation.
    pub fn activation_bytes(&self) -> usize {
        if self.precision == Precision::Bf16 { 2 } else { 4 }
    }

    /// Returns the address `count` elements of an activation after `ptr`.
    pub fn offset(&self, ptr: Ptr, count: usize) -> Ptr {
        Ptr::new(ptr.address() + (count * self.activation_bytes()) as u64)
    }

    /// Allocates `bytes` of uninitialised memory.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] if it does not fit, [`Error::Device`] if the device fails.
    pub fn allocate(&self, bytes: usize) -> Result<Buffer> {
        Buffer::new(self.backend.clone(), bytes)
    }

    /// Allocates memory that holds `bytes`.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub(crate) fn allocate_with(&self, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.allocate(bytes.len())?;
        self.upload(buffer.ptr::<u8>().address(), bytes)?;
        Ok(buffer)
    }

    /// Returns the address of [`COUNTERS`] counters that are 0 whenever no kernel runs: kernels count blocks with them, and leave them so. All
    /// kernels share them, because launches of a device never overlap. The first call allocates them, which cannot be done while launches are
    /// recorded; every session makes it.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn counters(&self) -> Result<Ptr<u32>> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if counters.is_none() {
            *counters = Some(self.allocate_with(&[0; 4 * COUNTERS])?);
        }
        Ok(counters.as_ref().expect("allocated above").ptr())
    }

    /// Returns the free bytes and all bytes of memory: see [`Backend::memory`].
    pub fn memory(&self) -> Result<[u64; 2]> {
        self.backend.memory()
    }

    /// Copies to the device: see [`Backend::upload`].
    pub fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.backend.upload(to, from)
    }

    /// Copies to the device while work runs: see [`Backend::upload_async`].
    pub fn upload_async(&self, to: u64, from: &[u8]) -> Result<()> {
        self.backend.upload_async(to, from)
    }

    /// Copies to the host: see [`Backend::download`].
    pub fn download(&self, copies: &mut [(&mut [u8], u64)]) -> Result<()> {
        self.backend.download(copies)
    }

    /// Returns the seconds of a pass by the crate's own kernels and by a library, which say whether they took it; both launch in `bytes` of
    /// memory: see [`Backend::compare`].
    ///
    /// # Errors
    /// Those of the two; the memory does not fit, or the device fails.
    pub(crate) fn measure(
        &self,
        bytes: usize,
        mut own: impl FnMut(Ptr) -> Result<()>,
        mut library: impl FnMut(Ptr) -> Result<bool>,
    ) -> Result<Times> {
        let mut taken = true;
        let mut library = |address| {
            taken &= library(Ptr::new(address))?;
            Ok(())
        };
        let [own, library] = self.backend.compare(bytes, &mut [&mut |address| own(Ptr::new(address)), &mut library])?;
        Ok(Times { own, library: taken.then_some(library) })
    }

    /// Waits for all enqueued work.
    ///
    /// # Errors
    /// That work failed, or the device was lost.
    pub fn synchronize(&self) -> Result<()> {
        self.backend.synchronize()
    }

    /// Records launches without running them: see [`Backend::record`].
    pub fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>> {
        self.backend.record(work)
    }

    /// Returns the vendor's convolutions: see [`Backend::vendor`].
    pub fn vendor(&self) -> Option<&Vendor> {
        self.backend.vendor()
    }

    /// Connects the device with those of other processes: see [`Backend::join`].
    pub(crate) fn join(&self, meeting: Meeting<'_>) -> Result<()> {
        self.backend.join(meeting)
    }

    /// Connects the device with those of other processes, and through them the processes, which have no other connection. The GPU serves nothing
    /// else then; another [`Gpu`] may compute on the same hardware.
    ///
    /// # Errors
    /// As [`Backend::join`]; there is no memory on the GPU.
    pub fn connect(self, meeting: Meeting<'_>) -> Result<Collective> {
        self.join(meeting)?;
        Ok(Collective::new(Arc::new(ByGpu::new(self, meeting.rank(), meeting.ranks())?)))
    }

    /// Replaces numbers by their sums over all ranks, or by their means: see [`Backend::all_reduce`].
    pub(crate) fn all_reduce(&self, at: Ptr<f32>, count: usize, mean: bool) -> Result<()> {
        self.backend.all_reduce(at.address(), count, mean)
    }

    /// Begins to replace numbers by their sums over all ranks: see [`Backend::begin_sum`].
    pub(crate) fn begin_sum(&self, at: Ptr<f32>, count: usize) -> Result<()> {
        self.backend.begin_sum(at.address(), count)
    }

    /// Waits for the sums that were begun: see [`Backend::finish_sums`].
    pub(crate) fn finish_sums(&self) -> Result<()> {
        self.backend.finish_sums()
    }

    /// Writes `bytes` of all ranks, in their order, to `all`: see [`Backend::all_gather`].
    pub(crate) fn all_gather<T, U>(&self, own: Ptr<T>, bytes: usize, all: Ptr<U>) -> Result<()> {
        self.backend.all_gather(own.address(), bytes, all.address())
    }

    /// Returns whether both are the same device.
    pub fn is(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.backend, &other.backend)
    }

    /// Launches a kernel. Only the generated launch functions call this (`kernels.rs`).
    pub(super) fn launch(&self, kernel: &'static Kernel, grid: Grid, arguments: &mut [*mut c_void]) -> Result<()> {
        let blocks = grid.blocks.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        if blocks[1].max(blocks[2]) > 65535 || blocks[0] > i32::MAX as u32 {
            return Err(Error::Device {
                device: "GPU",
                action: format!("launch of {}", kernel.name),
                reason: format!(
                    "a grid of {blocks:?} blocks is too large: use smaller batches or images, or a smaller gallery"
                ),
            });
        }
        // SAFETY: the generated function passes one value for each parameter of the kernel. Addresses are of blocks that are allocated on
        // this device for as long as the session lives, and ops derive the blocks' sizes from the same shapes that they pass here. This
        // cannot be checked: with other addresses, a kernel writes to any memory of the GPU.
        unsafe { self.backend.launch(kernel, blocks, grid.shared_bytes, arguments) }
    }

    /// Returns the error for a family of kernels without a kernel for the precision.
    pub(super) fn no_kernel(&self, family: &str) -> Error {
        Error::Device {
            device: "GPU",
            action: format!("launch of {family}"),
            reason: format!("there is no kernel of this family for the precision {:?}", self.precision),
        }
    }
}
