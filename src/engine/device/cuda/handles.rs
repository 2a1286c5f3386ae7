//! Handles of the driver, each owned once.
//!
//! Handles are numbers of the driver and of its libraries, not of a thread: any thread may pass them on, as long as the context is
//! current there, and a call without it fails with a status. So every method of the device begins with [`Context::bind`]. The
//! driver's calls may come from several threads at once.

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use cudarc::driver::sys::{self, CUctx_st, CUdevice_attribute, CUevent_st, CUresult, CUstream_st};

use super::status::{Status, no_device};
use crate::Result;

/// An opaque handle, or the address of pinned memory.
pub(super) struct Raw<T>(pub *mut T);

// SAFETY: see the top of the file; this file's types never follow the pointer, those that do (`staging`) do it by `&mut self`.
unsafe impl<T> Send for Raw<T> {}
// SAFETY: as above: a shared `Raw` only gives out the pointer.
unsafe impl<T> Sync for Raw<T> {}

/// A handle that goes back to its library when it is dropped.
pub(super) struct Owned<T, S> {
    handle: Raw<T>,
    destroy: unsafe fn(*mut T) -> S,
}

impl<T, S: Status> Owned<T, S> {
    /// The handle that `create` writes.
    ///
    /// # Safety
    /// `create` must write a handle wherever it succeeds, one that `destroy` takes and nobody else destroys.
    pub unsafe fn new(
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
    pub fn get(&self) -> *mut T {
        self.handle.0
    }
}

impl<T, S> Drop for Owned<T, S> {
    fn drop(&mut self) {
        // SAFETY: by the promise to `new` the handle is valid, and this is its only owner. A status has nowhere to go.
        let _ = unsafe { (self.destroy)(self.handle.0) };
    }
}

/// A GPU's primary context: the one that cuDNN and cuBLASLt use too.
pub(super) struct Context {
    device: sys::CUdevice,
    handle: Raw<CUctx_st>,
}

impl Context {
    /// Opens GPU `ordinal` and makes its context current. The driver must be loaded and initialised.
    ///
    /// # Errors
    /// [`crate::Error::NoDevice`] if there is no such GPU or it is too old, [`crate::Error::Device`] if the driver fails.
    pub fn open(ordinal: usize) -> Result<Context> {
        let mut count = 0;
        // SAFETY: the count is written to.
        unsafe { sys::cuDeviceGetCount(&mut count) }.check("counting the GPUs")?;
        let index = c_int::try_from(ordinal).ok().filter(|&index| index < count).ok_or_else(|| {
            no_device(format!(
                "there is no GPU {ordinal}, the driver finds {count}: see `nvidia-smi`, CUDA_VISIBLE_DEVICES"
            ))
        })?;
        let mut device = 0;
        // SAFETY: the device is written to.
        unsafe { sys::cuDeviceGet(&mut device, index) }.check("opening the GPU")?;
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
        unsafe { sys::cuDevicePrimaryCtxRetain(&mut handle, device) }.check("opening the GPU's context")?;
        let context = Context { device, handle: Raw(handle) };
        context.bind()?;
        Ok(context)
    }

    /// Makes the context current in this thread.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained until `self` is dropped.
        unsafe { sys::cuCtxSetCurrent(self.handle.0) }.check("entering the GPU's context")
    }

    /// Name, compute capability, and the CUDA version of the driver (`12040`: 12.4).
    pub fn describe(&self, driver: usize) -> Result<String> {
        let [major, minor] = self.capability()?;
        let (cuda, point) = (driver / 1000, driver % 1000 / 10);
        Ok(format!("{} (compute capability {major}.{minor}, driver for CUDA {cuda}.{point})", name(self.device)?))
    }

    pub fn capability(&self) -> Result<[c_int; 2]> {
        capability(self.device)
    }

    pub fn attribute(&self, which: CUdevice_attribute) -> Result<c_int> {
        attribute(self.device, which)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: `open` retained it once.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

fn attribute(device: sys::CUdevice, which: CUdevice_attribute) -> Result<c_int> {
    let mut value = 0;
    // SAFETY: the value is written to.
    unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) }.check("asking for an attribute of the GPU")?;
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
    unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), name.len() as c_int, device) }
        .check("asking for the GPU's name")?;
    Ok(name.split(|&byte| byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default().into_owned())
}

/// A queue of work.
pub(super) struct Stream(Owned<CUstream_st, CUresult>);

impl Stream {
    /// One that does not wait for the null stream, which could not be captured either.
    pub fn new() -> Result<Stream> {
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `cuStreamDestroy` takes what `cuStreamCreate` writes.
        unsafe {
            Owned::new(|to| sys::cuStreamCreate(to, flags), sys::cuStreamDestroy_v2, "creating a stream").map(Stream)
        }
    }

    pub fn get(&self) -> sys::CUstream {
        self.0.get()
    }

    /// Waits for all its work; the first error of that work is returned.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives.
        unsafe { sys::cuStreamSynchronize(self.get()) }.check("waiting for the GPU")
    }

    /// Later work of this stream waits for what `event` stands for now.
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        // SAFETY: both live.
        unsafe { sys::cuStreamWaitEvent(self.get(), event.0.get(), 0) }.check("ordering two streams")
    }
}

/// A place in a stream.
pub(super) struct Event(Owned<CUevent_st, CUresult>);

impl Event {
    /// One that counts as passed until it is recorded.
    pub fn new() -> Result<Event> {
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: `cuEventDestroy` takes what `cuEventCreate` writes.
        unsafe {
            Owned::new(|to| sys::cuEventCreate(to, flags), sys::cuEventDestroy_v2, "creating an event").map(Event)
        }
    }

    /// Marks the end of the work that `stream` has so far.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both live.
        unsafe { sys::cuEventRecord(self.0.get(), stream.get()) }.check("marking a place in a stream")
    }

    pub fn wait(&self) -> Result<()> {
        // SAFETY: the event lives.
        unsafe { sys::cuEventSynchronize(self.0.get()) }.check("waiting for a copy")
    }
}

/// Memory of the host that the GPU copies from or to without the processor.
pub(super) struct Pinned {
    address: Raw<c_void>,
    bytes: usize,
    flags: u32,
}

impl Pinned {
    /// Nothing yet; `flags` are `CU_MEMHOSTALLOC_*`.
    pub const fn new(flags: u32) -> Pinned {
        Pinned { address: Raw(ptr::null_mut()), bytes: 0, flags }
    }

    /// Makes room for `bytes`. What it held is lost, so no copy may be under way.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        self.free();
        let bytes = bytes.next_power_of_two().max(1 << 16);
        let mut address = MaybeUninit::uninit();
        // SAFETY: the address is written to where the call succeeds, and read only then.
        let address = unsafe {
            sys::cuMemHostAlloc(address.as_mut_ptr(), bytes, self.flags).check("allocating pinned memory")?;
            address.assume_init()
        };
        (self.address, self.bytes) = (Raw(address), bytes);
        Ok(())
    }

    /// Its start; valid for as many bytes as were reserved.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.address.0.cast()
    }

    fn free(&mut self) {
        if self.bytes > 0 {
            // SAFETY: `reserve` allocated it, and nothing refers to it any more.
            let _ = unsafe { sys::cuMemFreeHost(self.address.0) };
            (self.address, self.bytes) = (Raw(ptr::null_mut()), 0);
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.free();
    }
}
