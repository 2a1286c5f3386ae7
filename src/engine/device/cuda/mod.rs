//! An NVIDIA GPU by the CUDA driver API: the only place where the crate calls CUDA.
//!
//! Everything is found at run time ([`libraries`]), so the program starts on machines without CUDA. All work is enqueued in one stream and
//! runs in that order; a second stream has the copies of [`Backend::upload_async`], a third one what is exchanged with other GPUs.

mod calls;
mod cublaslt;
mod cudnn;
mod handles;
mod libraries;
mod module;
mod nccl;
mod places;
mod recording;
mod staging;
mod status;
#[cfg(test)]
mod tests;
mod vendor;

use std::ffi::c_void;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::handles::{Context, Event, Stream};
use self::module::Module;
use self::nccl::Communicator;
use self::recording::{Capture, Graph};
use self::staging::{Download, Upload};
use self::status::{DriverStatus, Status, device_error};
use self::vendor::Libraries;
use super::backend::{no_exchange, only_launches_are_recorded};
use super::{Backend, Kernel, Recording, Vendor};
use crate::engine::collective::Meeting;
use crate::{Error, Result};

/// One GPU. Any thread may use it; the order of calls from several threads at the same time is not defined.
pub(super) struct Cuda(Arc<Shared>);

/// What a device and its recordings share, and keep alive. Fields are dropped in the order of their declaration.
struct Shared {
    vendor: Option<Vendor>,
    /// The connection with the GPUs of other processes, once they have joined.
    communicator: Mutex<Option<Communicator>>,
    upload: Mutex<Upload>,
    upload_async: Mutex<AsyncUpload>,
    download: Mutex<Download>,
    copy_stream: Stream,
    stream: Arc<Stream>,
    module: Module,
    context: Arc<Context>,
    description: String,
    /// The CUDA version of the driver: 12040 is 12.4.
    driver: usize,
    /// Whether launches are being recorded. Nothing but launches can be recorded.
    recording: AtomicBool,
}

/// The copies on the second stream.
struct AsyncUpload {
    upload: Upload,
    /// The end of the last copy.
    copied: Event,
    /// The work that had been enqueued before the last copy.
    asked: Event,
}

impl Cuda {
    /// Opens GPU `ordinal`, and loads `kernels` (each at its [`Kernel::index`]) from `fatbin`, and those of the vendor's libraries that are
    /// there if `vendor`.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the driver, the GPU or the kernels are missing or too old, [`Error::Device`] if the driver or a library
    /// fails.
    pub(super) fn open(
        ordinal: usize,
        fatbin: &'static [u8],
        kernels: &'static [Kernel],
        vendor: bool,
    ) -> Result<Cuda> {
        let driver = libraries::open_driver()?;
        let context = Arc::new(Context::open(ordinal)?);
        let description = context.describe(driver)?;
        let module = Module::load(&context, driver, fatbin, kernels)?;
        let stream = Arc::new(Stream::new()?);
        let vendor = if vendor { Some(Vendor::new(Libraries::open(driver, &context, &stream)?)) } else { None };
        Ok(Cuda(Arc::new(Shared {
            vendor,
            communicator: Mutex::new(None),
            upload: Mutex::new(Upload::new()?),
            upload_async: Mutex::new(AsyncUpload {
                upload: Upload::new()?,
                copied: Event::new()?,
                asked: Event::new()?,
            }),
            download: Mutex::new(Download::new()),
            copy_stream: Stream::new()?,
            stream,
            module,
            context,
            description,
            driver,
            recording: AtomicBool::new(false),
        })))
    }
}

impl Shared {
    /// Waits for all work: that of the device's stream, which waits for asynchronous copies, and after an error also sums that were begun and that
    /// no other work waits for.
    fn wait(&self) -> Result<()> {
        self.stream.synchronize()?;
        lock(&self.communicator).as_ref().map_or(Ok(()), Communicator::wait)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Waits, because the fields that are dropped next may still be used by running work. A destructor cannot return errors.
        let _ = self.context.bind().and_then(|()| self.copy_stream.synchronize()).and_then(|()| self.wait());
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cuda({})", self.0.description)
    }
}

/// Locks the value, even if another thread panicked while it had it: staging buffers and plans are valid between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cuda {
    /// Returns an error while launches are recorded. A copy would be recorded with them, from memory of the host that is used again; CUDA
    /// refuses the rest with less clear words.
    fn refuse_in_recording(&self, action: &str) -> Result<()> {
        if !self.0.recording.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(only_launches_are_recorded("GPU", action))
    }

    /// Calls NCCL, if this GPU has joined others.
    fn exchange(&self, enqueue: impl FnOnce(&Communicator) -> Result<()>) -> Result<()> {
        self.0.context.bind()?;
        lock(&self.0.communicator).as_ref().map_or_else(|| Err(no_exchange()), enqueue)
    }
}

impl Backend for Cuda {
    fn description(&self) -> String {
        self.0.description.clone()
    }

    fn memory(&self) -> Result<[u64; 2]> {
        self.0.context.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are written to.
        unsafe { calls::cuMemGetInfo_v2(&mut free, &mut total) }.check("asking for free memory")?;
        Ok([free as u64, total as u64])
    }

    /// Uses plain `cuMemAlloc`: there are few buffers and they live long, and a pool would keep memory from other programs.
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.refuse_in_recording("allocating memory")?;
        self.0.context.bind()?;
        let mut address = 0;
        // SAFETY: the address is written to. The driver aligns to 256 bytes, and returns an error for 0 bytes.
        let status = unsafe { calls::cuMemAlloc_v2(&mut address, bytes.max(1)) };
        if status == DriverStatus::CUDA_ERROR_OUT_OF_MEMORY {
            let [free, total] = self.memory()?;
            return Err(Error::DeviceMemory {
                purpose: "a buffer".to_string(),
                needed: bytes as u64,
                free,
                total,
                advice: "use smaller batches, smaller images or a smaller network, or end other programs on this GPU"
                    .into(),
            });
        }
        status.check("allocating memory")?;
        Ok(address)
    }

    fn release(&self, address: u64) {
        // An error here is one of earlier work, or of a lost context; the next call returns it.
        if self.0.context.bind().and_then(|()| self.synchronize()).is_ok() {
            // SAFETY: no work runs any more, and the driver returns an error for an address that it did not allocate.
            let _ = unsafe { calls::cuMemFree_v2(address) };
        }
    }

    fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.refuse_in_recording("copying to the device")?;
        self.0.context.bind()?;
        lock(&self.0.upload).copy(&self.0.stream, to, from)
    }

    /// Waits for the work that had been enqueued when this was last called. With two buffers in turn, that work has read the buffer that is
    /// filled now.
    fn upload_async(&self, to: u64, from: &[u8]) -> Result<()> {
        self.refuse_in_recording("copying to the device")?;
        self.0.context.bind()?;
        let mut guard = lock(&self.0.upload_async);
        let AsyncUpload { upload, copied, asked } = &mut *guard;
        self.0.copy_stream.wait_for(asked)?;
        asked.record(&self.0.stream)?;
        upload.copy(&self.0.copy_stream, to, from)?;
        copied.record(&self.0.copy_stream)?;
        self.0.stream.wait_for(copied)
    }

    fn download(&self, copies: &mut [(&mut [u8], u64)]) -> Result<()> {
        self.refuse_in_recording("copying from the device")?;
        self.0.context.bind()?;
        lock(&self.0.download).copy(&self.0.stream, copies)
    }

    fn synchronize(&self) -> Result<()> {
        self.refuse_in_recording("waiting for the device")?;
        self.0.context.bind()?;
        self.0.wait()
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        [x, y, z]: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        self.0.context.bind()?;
        let function = self.0.module.function(kernel);
        let (stream, arguments) = (self.0.stream.get(), arguments.as_mut_ptr());
        // SAFETY: the function is of a module that is loaded in the current context. The caller is responsible for the arguments, which
        // the driver copies before it returns.
        let status = unsafe {
            let extra = std::ptr::null_mut();
            calls::cuLaunchKernel(function, x, y, z, kernel.threads, 1, 1, shared_bytes, stream, arguments, extra)
        };
        if status == DriverStatus::CUDA_SUCCESS {
            return Ok(());
        }
        let action =
            format!("launching {} with grid [{x}, {y}, {z}] and {shared_bytes} bytes of shared memory", kernel.name);
        Err(device_error(status, action))
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>> {
        self.0.context.bind()?;
        let capture = Capture::begin(&self.0.stream, &self.0.recording)?;
        let worked = work();
        // `work` may have used another device.
        self.0.context.bind()?;
        // An error of `work` also breaks the capture, but says more about the reason.
        let graph = capture.end();
        worked?;
        Ok(Box::new(Graph::new(graph?, Arc::clone(&self.0))?))
    }

    fn vendor(&self) -> Option<&Vendor> {
        self.0.vendor.as_ref()
    }

    fn join(&self, meeting: Meeting<'_>) -> Result<()> {
        let Shared { context, stream, driver, .. } = &*self.0;
        let mut communicator = lock(&self.0.communicator);
        if communicator.is_none() {
            *communicator = Some(Communicator::join(meeting, *driver, context, Arc::clone(stream))?);
        }
        Ok(())
    }

    fn all_reduce(&self, at: u64, count: usize, mean: bool) -> Result<()> {
        self.exchange(|joined| joined.all_reduce(at, count, mean))
    }

    fn begin_sum(&self, at: u64, count: usize) -> Result<()> {
        self.exchange(|joined| joined.begin_sum(at, count))
    }

    fn finish_sums(&self) -> Result<()> {
        self.exchange(Communicator::finish)
    }

    fn all_gather(&self, own: u64, bytes: usize, all: u64) -> Result<()> {
        self.exchange(|joined| joined.all_gather(own, bytes, all))
    }
}
