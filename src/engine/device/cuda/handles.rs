//! Handles of the driver, each with one owner.
//!
//! Any thread may use a handle, if the context is current in that thread; otherwise a call returns an error. So every method of the device
//! begins with [`Context::bind`]. Several threads may call the driver at the same time.

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use cudarc::driver::sys::{self, CUctx_st, CUdevice_attribute, CUevent_st, CUstream_st};

use super::calls;
use super::status::{DriverStatus, Status, no_device};
use crate::Result;

/// An opaque handle, or the address of pinned memory.
pub(super) struct Raw<T>(pub *mut T);

// SAFETY: see the top of the file. The types of this file never dereference the pointer; `staging` does, by `&mut self`.
unsafe impl<T> Send for Raw<T> {}
// SAFETY: as above; a shared `Raw` only returns the pointer.
unsafe impl<T> Sync for Raw<T> {}

/// A handle that is destroyed when it is dropped.
pub(super) struct Owned<T, S> {
    handle: Raw<T>,
    destroy: unsafe fn(*mut T) -> S,
}

impl<T, S: Status> Owned<T, S> {
    /// Returns the handle that `create` writes.
    ///
    /// # Safety
    /// If `create` succeeds, it must write a handle that `destroy` takes, and that nothing else destroys.
    pub(super) unsafe fn new(
        create: impl FnOnce(*mut *mut T) -> S,
        destroy: unsafe fn(*mut T) -> S,
        action: &str,
    ) -> Result<Self> {
        let mut handle = ptr::null_mut();
        create(&mut handle).check(action)?;
        Ok(Owned { handle: Raw(handle), destroy })
    }
}

impl<T, S> Owned<T, S> {
    pub(super) fn get(&self) -> *mut T {
        self.handle.0
    }
}

impl<T, S> Drop for Owned<T, S> {
    fn drop(&mut self) {
        // SAFETY: the caller of `new` promised that the handle is valid, and this is its only owner. The status is ignored, since a
        // destructor cannot return it.
        let _ = unsafe { (self.destroy)(self.handle.0) };
    }
}

/// The primary context of a GPU, which cuDNN and cuBLASLt use too.
pub(super) struct Context {
    device: sys::CUdevice,
    handle: Raw<CUctx_st>,
}

impl Context {
    /// Opens GPU `ordinal` and makes its context current. The driver must be loaded and initialised.
    ///
    /// # Errors
    /// [`crate::Error::NoDevice`] if there is no such GPU or it is too old, [`crate::Error::Device`] if the driver fails.
    pub(super) fn open(ordinal: usize) -> Result<Context> {
        let mut count = 0;
        // SAFETY: the count is written to.
        unsafe { calls::cuDeviceGetCount(&mut count) }.check("counting the GPUs")?;
        let index = c_int::try_from(ordinal).ok().filter(|&index| index < count).ok_or_else(|| {
            no_device(format!(
                "there is no GPU {ordinal}, the driver finds {count}: see `nvidia-smi`, CUDA_VISIBLE_DEVICES"
            ))
        })?;
        let mut device = 0;
        // SAFETY: the device is written to.
        unsafe { calls::cuDeviceGet(&mut device, index) }.check("opening the GPU")?;
        let [major, minor] = capability(device)?;
        if major < 8 {
            return Err(no_device(format!(
                "GPU {ordinal}, {}, has compute capability {major}.{minor}, the kernels need 8.0 (Ampere) or newer: take another \
                 GPU or `device` cpu",
                name(device)?
            )));
        }
        let mut handle = ptr::null_mut();
        // SAFETY: the device is one of the driver's; `Drop` releases what is retained here.
        unsafe { calls::cuDevicePrimaryCtxRetain(&mut handle, device) }.check("opening the GPU's context")?;
        let context = Context { device, handle: Raw(handle) };
        context.bind()?;
        Ok(context)
    }

    /// Makes the context current in this thread.
    pub(super) fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained until `self` is dropped.
        unsafe { calls::cuCtxSetCurrent(self.handle.0) }.check("entering the GPU's context")
    }

    /// Returns the GPU's name, its compute capability, and the CUDA version of the driver (`12040` is 12.4).
    pub(super) fn describe(&self, driver: usize) -> Result<String> {
        let [major, minor] = self.capability()?;
        let (cuda, point) = (driver / 1000, driver % 1000 / 10);
        Ok(format!("{} (compute capability {major}.{minor}, driver for CUDA {cuda}.{point})", name(self.device)?))
    }

    pub(crate) fn capability(&self) -> Result<[c_int; 2]> {
        capability(self.device)
    }

    pub(crate) fn attribute(&self, which: CUdevice_attribute) -> Result<c_int> {
        attribute(self.device, which)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: `open` retained it once.
        let _ = unsafe { calls::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

fn attribute(device: sys::CUdevice, which: CUdevice_attribute) -> Result<c_int> {
    let mut value = 0;
    // SAFETY: the value is written to.
    unsafe { calls::cuDeviceGetAttribute(&mut value, which, device) }.check("asking for an attribute of the GPU")?;
    Ok(value)
}

fn capability(device: sys::CUdevice) -> Result<[c_int; 2]> {
    use CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    };
    Ok([
        attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ])
}

fn name(device: sys::CUdevice) -> Result<String> {
    let mut name = [0_u8; 128];
    // SAFETY: the driver writes a C string of at most that length.
    unsafe { calls::cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), name.len() as c_int, device) }
        .check("asking for the GPU's name")?;
    Ok(name.split(|&byte| byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default().into_owned())
}

/// A queue of work.
pub(super) struct Stream(Owned<CUstream_st, DriverStatus>);

impl Stream {
    /// Creates a stream that does not wait for the null stream; one that did could not be captured.
    pub(super) fn new() -> Result<Stream> {
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `cuStreamDestroy` takes what `cuStreamCreate` writes.
        unsafe {
            Owned::new(|to| calls::cuStreamCreate(to, flags), calls::cuStreamDestroy_v2, "creating a stream")
                .map(Stream)
        }
    }

    pub(super) fn get(&self) -> sys::CUstream {
        self.0.get()
    }

    /// Waits for all work of the stream, and returns the first error of it.
    pub(super) fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is valid.
        unsafe { calls::cuStreamSynchronize(self.get()) }.check("waiting for the GPU")
    }

    /// Makes later work of this stream wait until the position where `event` was last recorded is reached.
    pub(super) fn wait_for(&self, event: &Event) -> Result<()> {
        // SAFETY: both are valid.
        unsafe { calls::cuStreamWaitEvent(self.get(), event.0.get(), 0) }.check("ordering two streams")
    }
}

/// A position in a stream.
pub(super) struct Event(Owned<CUevent_st, DriverStatus>);

impl Event {
    /// Creates an event, which counts as reached until it is recorded.
    pub(super) fn new() -> Result<Event> {
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: `cuEventDestroy` takes what `cuEventCreate` writes.
        unsafe {
            Owned::new(|to| calls::cuEventCreate(to, flags), calls::cuEventDestroy_v2, "creating an event").map(Event)
        }
    }

    /// Records the position after the work that `stream` has so far.
    pub(super) fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both are valid.
        unsafe { calls::cuEventRecord(self.0.get(), stream.get()) }.check("marking a place in a stream")
    }

    pub(super) fn wait(&self) -> Result<()> {
        // SAFETY: the event is valid.
        unsafe { calls::cuEventSynchronize(self.0.get()) }.check("waiting for a copy")
    }
}

/// Pinned memory of the host, which the GPU copies from or to without the CPU.
pub(super) struct Pinned {
    address: Raw<c_void>,
    bytes: usize,
    flags: u32,
}

impl Pinned {
    /// Returns an empty buffer. `flags` are `CU_MEMHOSTALLOC_*`.
    pub(super) const fn new(flags: u32) -> Pinned {
        Pinned { address: Raw(ptr::null_mut()), bytes: 0, flags }
    }

    /// Makes room for `bytes`. The earlier content is lost, so no copy may be running.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        self.free();
        let bytes = bytes.next_power_of_two().max(1 << 16);
        let mut address = MaybeUninit::uninit();
        // SAFETY: the address is written if the call succeeds, and read only then.
        let address = unsafe {
            calls::cuMemHostAlloc(address.as_mut_ptr(), bytes, self.flags).check("allocating pinned memory")?;
            address.assume_init()
        };
        (self.address, self.bytes) = (Raw(address), bytes);
        Ok(())
    }

    /// Returns the start of the memory, which is valid for as many bytes as were reserved.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.address.0.cast()
    }

    fn free(&mut self) {
        if self.bytes > 0 {
            // SAFETY: `reserve` allocated the memory, and nothing refers to it any more.
            let _ = unsafe { calls::cuMemFreeHost(self.address.0) };
            (self.address, self.bytes) = (Raw(ptr::null_mut()), 0);
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.free();
    }
}
