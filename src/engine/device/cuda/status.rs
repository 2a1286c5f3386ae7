//! Status codes of the driver, cuDNN and cuBLASLt as errors.
//!
//! Names come from the code alone: a text of the library would need the library, and calling a missing one panics.

use cudarc::cublaslt::sys::cublasStatus_t;
use cudarc::cudnn::sys::{self as cudnn, cudnnStatus_t};
use cudarc::driver::sys::CUresult;

use crate::{Error, Result};

/// The name of this device in errors and on the command line.
pub(super) const DEVICE: &str = "cuda";

/// A status code, which every call returns.
pub(super) trait Status: Copy {
    /// Returns what went wrong and what to do, or `None` if the call succeeded.
    fn reason(self) -> Option<String>;

    /// Checks that the call succeeded.
    ///
    /// # Errors
    /// [`Error::Device`] with `action` if the call failed.
    fn check(self, action: &str) -> Result<()> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(Error::Device { device: DEVICE, action: action.to_string(), reason }),
        }
    }
}

/// Returns the error of a driver call that failed.
pub(super) fn device_error(status: CUresult, action: String) -> Error {
    Error::Device { device: DEVICE, action, reason: status.reason().unwrap_or_default() }
}

/// Returns the error of a device that cannot be used.
pub(super) fn no_device(reason: String) -> Error {
    Error::NoDevice { device: DEVICE, reason }
}

impl Status for CUresult {
    fn reason(self) -> Option<String> {
        use CUresult::*;
        let advice = match self {
            CUDA_SUCCESS => return None,
            CUDA_ERROR_OUT_OF_MEMORY => "memory ran out: use smaller batches",
            CUDA_ERROR_DEVICE_UNAVAILABLE => "another program holds the GPU for itself: end it, or take another GPU",
            CUDA_ERROR_ECC_UNCORRECTABLE | CUDA_ERROR_NVLINK_UNCORRECTABLE | CUDA_ERROR_CONTAINED => {
                "the GPU's hardware reports an error (see `nvidia-smi -q`): start the program again"
            }
            CUDA_ERROR_LAUNCH_TIMEOUT => {
                "a kernel ran longer than the display that the GPU also drives can wait: start the program again with smaller \
                 batches, or take another GPU"
            }
            // After these every call fails in the same way until the process ends.
            CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUDA_ERROR_CONTEXT_IS_DESTROYED => {
                "a kernel failed and took the memory on the GPU with it: start the program again"
            }
            _ => return Some(format!("{self:?} ({})", self as u32)),
        };
        Some(format!("{self:?} ({}), {advice}", self as u32))
    }
}

impl Status for cublasStatus_t {
    fn reason(self) -> Option<String> {
        (self != cublasStatus_t::CUBLAS_STATUS_SUCCESS).then(|| format!("{self:?} ({})", self as u32))
    }
}

impl Status for cudnnStatus_t {
    fn reason(self) -> Option<String> {
        if self == cudnnStatus_t::CUDNN_STATUS_SUCCESS {
            return None;
        }
        let mut text = [0_u8; 256];
        // SAFETY: this is a status of cuDNN, so it is loaded; it writes a C string of at most that length.
        unsafe { cudnn::cudnnGetLastErrorString(text.as_mut_ptr().cast(), text.len()) };
        let text = text.split(|&byte| byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default();
        Some(format!("{self:?} ({}) {text}", self as u32).trim_end().to_string())
    }
}
