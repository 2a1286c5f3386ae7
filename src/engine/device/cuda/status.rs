//! Status codes of the driver, cuBLASLt, cuDNN and NCCL as errors.
//!
//! Codes are integers, since a library may return one that is not listed. Names come from the list: a text of the library would need the
//! library, and calling a missing one panics.

use cudarc::cublaslt::sys::cublasStatus_t;
use cudarc::cudnn::sys::{self as cudnn, cudnnStatus_t};
use cudarc::driver::sys::CUresult;
use cudarc::nccl::sys::ncclResult_t;

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
pub(super) fn device_error(status: DriverStatus, action: String) -> Error {
    Error::Device { device: DEVICE, action, reason: status.reason().unwrap_or_default() }
}

/// Returns the error of a device that cannot be used.
pub(super) fn no_device(reason: String) -> Error {
    Error::NoDevice { device: DEVICE, reason }
}

/// Declares the status codes of a library, with the values that cudarc has for them; all others are numbers without a name.
macro_rules! statuses {
    ($(#[$doc:meta])* $status:ident, $values:ty: $($name:ident),* $(,)?) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) struct $status(pub u32);

        #[allow(dead_code, non_upper_case_globals, reason = "most names are for messages only; the libraries name them")]
        impl $status {
            $(pub(super) const $name: $status = $status(<$values>::$name as u32);)*

            /// Returns the name, if it is known, and the number.
            fn text(self) -> String {
                let named = [$((stringify!($name), $status::$name)),*].into_iter().find(|(_, code)| *code == self);
                named.map_or_else(|| format!("code {}", self.0), |(name, _)| format!("{name} ({})", self.0))
            }
        }
    };
}

statuses! {
    /// A status of the driver.
    DriverStatus, CUresult:
    CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_NOT_INITIALIZED, CUDA_ERROR_DEINITIALIZED,
    CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_DEVICE_UNAVAILABLE, CUDA_ERROR_NO_DEVICE, CUDA_ERROR_INVALID_DEVICE,
    CUDA_ERROR_INVALID_IMAGE, CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_NO_BINARY_FOR_GPU, CUDA_ERROR_ECC_UNCORRECTABLE,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION, CUDA_ERROR_NVLINK_UNCORRECTABLE, CUDA_ERROR_CONTAINED, CUDA_ERROR_INVALID_SOURCE,
    CUDA_ERROR_FILE_NOT_FOUND, CUDA_ERROR_OPERATING_SYSTEM, CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_NOT_FOUND,
    CUDA_ERROR_NOT_READY, CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, CUDA_ERROR_LAUNCH_TIMEOUT,
    CUDA_ERROR_CONTEXT_IS_DESTROYED, CUDA_ERROR_ASSERT, CUDA_ERROR_HARDWARE_STACK_ERROR, CUDA_ERROR_ILLEGAL_INSTRUCTION,
    CUDA_ERROR_MISALIGNED_ADDRESS, CUDA_ERROR_INVALID_ADDRESS_SPACE, CUDA_ERROR_INVALID_PC, CUDA_ERROR_LAUNCH_FAILED,
    CUDA_ERROR_TENSOR_MEMORY_LEAK, CUDA_ERROR_NOT_PERMITTED, CUDA_ERROR_NOT_SUPPORTED, CUDA_ERROR_SYSTEM_NOT_READY,
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
    CUDA_ERROR_STREAM_CAPTURE_MERGE, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, CUDA_ERROR_CAPTURED_EVENT,
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, CUDA_ERROR_UNKNOWN,
}

statuses! {
    /// A status of cuBLASLt.
    CublasStatus, cublasStatus_t:
    CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_NOT_INITIALIZED, CUBLAS_STATUS_ALLOC_FAILED, CUBLAS_STATUS_INVALID_VALUE,
    CUBLAS_STATUS_ARCH_MISMATCH, CUBLAS_STATUS_MAPPING_ERROR, CUBLAS_STATUS_EXECUTION_FAILED, CUBLAS_STATUS_INTERNAL_ERROR,
    CUBLAS_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_LICENSE_ERROR,
}

statuses! {
    /// A status of cuDNN 9, whose own text says what happened.
    CudnnStatus, cudnnStatus_t:
    CUDNN_STATUS_SUCCESS, CUDNN_STATUS_NOT_INITIALIZED, CUDNN_STATUS_BAD_PARAM, CUDNN_STATUS_NOT_SUPPORTED,
    CUDNN_STATUS_INTERNAL_ERROR, CUDNN_STATUS_EXECUTION_FAILED,
}

statuses! {
    /// A status of NCCL.
    NcclStatus, ncclResult_t:
    ncclSuccess, ncclUnhandledCudaError, ncclSystemError, ncclInternalError, ncclInvalidArgument, ncclInvalidUsage, ncclRemoteError,
    ncclInProgress,
}

impl Status for NcclStatus {
    fn reason(self) -> Option<String> {
        (self != NcclStatus::ncclSuccess).then(|| self.text())
    }
}

impl Status for DriverStatus {
    fn reason(self) -> Option<String> {
        let advice = match self {
            DriverStatus::CUDA_SUCCESS => return None,
            DriverStatus::CUDA_ERROR_OUT_OF_MEMORY => "memory ran out: use smaller batches",
            DriverStatus::CUDA_ERROR_DEVICE_UNAVAILABLE => {
                "another program holds the GPU for itself: end it, or take another GPU"
            }
            DriverStatus::CUDA_ERROR_ECC_UNCORRECTABLE
            | DriverStatus::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | DriverStatus::CUDA_ERROR_CONTAINED => {
                "the GPU's hardware reports an error (see `nvidia-smi -q`): start the program again"
            }
            DriverStatus::CUDA_ERROR_LAUNCH_TIMEOUT => {
                "a kernel ran longer than the display that the GPU also drives can wait: start the program again with smaller \
                 batches, or take another GPU"
            }
            // After these every call fails in the same way until the process ends.
            DriverStatus::CUDA_ERROR_ILLEGAL_ADDRESS
            | DriverStatus::CUDA_ERROR_ASSERT
            | DriverStatus::CUDA_ERROR_HARDWARE_STACK_ERROR
            | DriverStatus::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | DriverStatus::CUDA_ERROR_MISALIGNED_ADDRESS
            | DriverStatus::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | DriverStatus::CUDA_ERROR_INVALID_PC
            | DriverStatus::CUDA_ERROR_LAUNCH_FAILED
            | DriverStatus::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | DriverStatus::CUDA_ERROR_CONTEXT_IS_DESTROYED => {
                "a kernel failed and took the memory on the GPU with it: start the program again"
            }
            _ => return Some(self.text()),
        };
        Some(format!("{}, {advice}", self.text()))
    }
}

impl Status for CublasStatus {
    fn reason(self) -> Option<String> {
        (self != CublasStatus::CUBLAS_STATUS_SUCCESS).then(|| self.text())
    }
}

impl Status for CudnnStatus {
    fn reason(self) -> Option<String> {
        if self == CudnnStatus::CUDNN_STATUS_SUCCESS {
            return None;
        }
        let mut text = [0_u8; 256];
        // SAFETY: this is a status of cuDNN, so it is loaded; it writes a C string of at most that length.
        unsafe { cudnn::cudnnGetLastErrorString(text.as_mut_ptr().cast(), text.len()) };
        let text = text.split(|&byte| byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default();
        Some(format!("{} {text}", self.text()).trim_end().to_string())
    }
}
