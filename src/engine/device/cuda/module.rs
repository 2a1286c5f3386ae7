//! The loaded kernels: one fat binary, and all of its functions.

use std::ffi::{CString, c_int};
use std::ptr;

use cudarc::driver::sys::{self, CUdevice_attribute, CUfunc_st, CUfunction_attribute, CUmod_st};

use super::calls;
use super::handles::{Context, Owned, Raw};
use super::status::{DriverStatus, device_error, no_device};
use crate::engine::device::Kernel;
use crate::{Error, Result};

pub(super) struct Module {
    /// The functions, indexed by [`Kernel::index`].
    functions: Vec<Raw<CUfunc_st>>,
    _module: Owned<CUmod_st, DriverStatus>,
}

impl Module {
    /// Loads `fatbin` into the current context and looks up every kernel. `driver` is the CUDA version of the driver, as in
    /// [`Context::describe`].
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the binary is broken, lacks a kernel, or is not for this GPU or driver.
    pub(super) fn load(context: &Context, driver: usize, fatbin: &[u8], kernels: &[Kernel]) -> Result<Module> {
        debug_assert!(kernels.iter().enumerate().all(|(index, kernel)| kernel.index == index));
        let image = aligned(fatbin)?;
        let load = |to| {
            // SAFETY: the image is a whole fat binary, as long as its header says, and the driver copies what it needs.
            unsafe { calls::cuModuleLoadData(to, image.as_ptr().cast()) }
        };
        // SAFETY: `cuModuleUnload` takes what `cuModuleLoadData` writes.
        let module = unsafe { Owned::new(load, calls::cuModuleUnload, "loading the kernels") };
        let module = module.map_err(|error| match error {
            Error::Device { reason, .. } => not_loaded(context, driver, &reason),
            other => other,
        })?;
        let shared = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let functions = kernels.iter().map(|kernel| function(&module, kernel, shared)).collect::<Result<_>>()?;
        Ok(Module { functions, _module: module })
    }

    /// Returns the function of a kernel.
    pub(super) fn function(&self, kernel: &Kernel) -> sys::CUfunction {
        self.functions[kernel.index].0
    }
}

/// Looks up a kernel, and allows it the most dynamic shared memory that a block can have: `shared` bytes minus its static ones.
fn function(module: &Owned<CUmod_st, DriverStatus>, kernel: &Kernel, shared: c_int) -> Result<Raw<CUfunc_st>> {
    let name = CString::new(kernel.name).map_err(|_| no_device(format!("{:?} is no name of a kernel", kernel.name)))?;
    let failed = |status, what: &str| device_error(status, format!("{what} kernel {}", kernel.name));
    let mut function = ptr::null_mut();
    // SAFETY: the module is loaded; the function is written to.
    match unsafe { calls::cuModuleGetFunction(&mut function, module.get(), name.as_ptr()) } {
        DriverStatus::CUDA_SUCCESS => {}
        DriverStatus::CUDA_ERROR_NOT_FOUND => {
            return Err(no_device(format!("this build's kernels lack {}: build the program again", kernel.name)));
        }
        status => return Err(failed(status, "looking up")),
    }
    let mut fixed = 0;
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
    // SAFETY: the function is of a loaded module; the value is written to.
    match unsafe { calls::cuFuncGetAttribute(&mut fixed, attribute, function) } {
        DriverStatus::CUDA_SUCCESS => {}
        status => return Err(failed(status, "asking for the shared memory of")),
    }
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: the function is of a loaded module.
    match unsafe { calls::cuFuncSetAttribute(function, attribute, shared - fixed) } {
        DriverStatus::CUDA_SUCCESS => Ok(Raw(function)),
        status => Err(failed(status, "allowing shared memory to")),
    }
}

/// Returns the fat binary, aligned to 8 bytes as its header needs (an embedded file may be at any address). Checks its length, because the
/// driver gets no length and trusts the header.
///
/// # Errors
/// [`Error::NoDevice`] for anything else.
pub(super) fn aligned(fatbin: &[u8]) -> Result<Vec<u64>> {
    // u32 magic, u16 version, u16 bytes of the header, u64 bytes that follow it.
    const MAGIC: u64 = 0xBA55_ED50;
    let words = fatbin.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let words: Vec<u64> = words.collect();
    match words[..] {
        [] => Err(no_device("this build has no kernels: build it where nvcc is found (CUDA_HOME, PATH)".to_string())),
        [first, body, ..]
            if first & 0xFFFF_FFFF == MAGIC && body.checked_add(first >> 48) == Some(fatbin.len() as u64) =>
        {
            Ok(words)
        }
        _ => Err(no_device(
            "this build's kernels are no fat binary, or a part of one: build the program again".to_string(),
        )),
    }
}

/// Returns the error for a whole fat binary that the driver does not load.
fn not_loaded(context: &Context, driver: usize, reason: &str) -> Error {
    let [major, minor] = context.capability().unwrap_or_default();
    no_device(format!(
        "the driver (for CUDA {}.{}) cannot load the kernels for this GPU (compute capability {major}.{minor}): {reason}; install \
         a newer driver (https://www.nvidia.com/drivers), or build the program with the nvcc of an older CUDA",
        driver / 1000,
        driver % 1000 / 10
    ))
}
