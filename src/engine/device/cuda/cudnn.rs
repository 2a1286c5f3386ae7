//! Convolutions by cuDNN, by its descriptor API and deterministic algorithms.
//!
//! `IMPLICIT_PRECOMP_GEMM` or `IMPLICIT_GEMM` forward and `ALGO_1` backward sum in a fixed order and take NHWC. `ALGO_0` of either
//! gradient and `ALGO_3` of the weight's add by atomics, so that the same step would differ from run to run.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cudnn::sys::{
    self, cudnnContext, cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionFwdAlgo_t,
    cudnnConvolutionMode_t, cudnnConvolutionStruct, cudnnDataType_t, cudnnFilterStruct, cudnnMathType_t,
    cudnnTensorFormat_t, cudnnTensorStruct,
};

use super::calls;
use super::handles::{Owned, Stream};
use super::status::{CudnnStatus, Status};
use crate::Result;
use crate::engine::device::vendor::{Answer, Call, Descriptors, Pass, Tensor4d};
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::precision::Precision;

type Handle<T> = Owned<T, CudnnStatus>;

/// The factors of the result and of the output's earlier content. cuDNN takes them in f32 for f32 and bf16 tensors.
static ONE: f32 = 1.0;
static ZERO: f32 = 0.0;

pub(super) struct Cudnn {
    /// The plan of each geometry and precision. A network has a few dozen.
    plans: Vec<(Conv2dGeometry, Precision, Plan)>,
    handle: Handle<cudnnContext>,
    /// cuDNN has a handle of it, so it must exist as long.
    _stream: Arc<Stream>,
}

/// The descriptors and algorithms of a convolution, each algorithm with the bytes of its workspace; `None` if cuDNN has none.
struct Plan {
    x: Handle<cudnnTensorStruct>,
    y: Handle<cudnnTensorStruct>,
    filter: Handle<cudnnFilterStruct>,
    convolution: Handle<cudnnConvolutionStruct>,
    forward: Option<(cudnnConvolutionFwdAlgo_t, usize)>,
    backward_data: Option<(cudnnConvolutionBwdDataAlgo_t, usize)>,
    backward_weight: Option<(cudnnConvolutionBwdFilterAlgo_t, usize)>,
}

impl Cudnn {
    /// Opens cuDNN for the current context; all work is enqueued in `stream`.
    pub(super) fn open(stream: &Arc<Stream>) -> Result<Cudnn> {
        // SAFETY: `cudnnDestroy` takes what `cudnnCreate` writes.
        let handle = unsafe { Owned::new(|to| calls::cudnnCreate(to), calls::cudnnDestroy, "starting cuDNN")? };
        // SAFETY: both handles are valid, and the two stream types are the same type.
        unsafe { calls::cudnnSetStream(handle.get(), stream.get().cast()) }.check("starting cuDNN")?;
        Ok(Cudnn { plans: Vec::new(), handle, _stream: Arc::clone(stream) })
    }

    /// Chooses the algorithm of a call, and returns the bytes of its workspace.
    pub(super) fn workspace(&mut self, call: &Call) -> Result<Answer<usize>> {
        let plan = match self.plan(call)? {
            Ok(plan) => plan,
            Err(reason) => return Ok(Answer::Refuses(reason)),
        };
        let bytes = match call.pass {
            Pass::Forward => plan.forward.map(|(_, bytes)| bytes),
            Pass::BackwardData => plan.backward_data.map(|(_, bytes)| bytes),
            Pass::BackwardWeight => plan.backward_weight.map(|(_, bytes)| bytes),
        };
        Ok(bytes.map_or_else(no_algorithm, Answer::Takes))
    }

    /// Enqueues a call on x, w and y, or their gradients; one of these is the result.
    ///
    /// # Safety
    /// Addresses must be of device memory with the sizes of the geometry, `workspace` with the size that [`Cudnn::workspace`] says.
    pub(super) unsafe fn run(
        &mut self,
        call: &Call,
        [x, w, y]: [u64; 3],
        accumulate: bool,
        workspace: u64,
    ) -> Result<Answer<()>> {
        let handle = self.handle.get();
        let plan = match self.plan(call)? {
            Ok(plan) => plan,
            Err(reason) => return Ok(Answer::Refuses(reason)),
        };
        let (alpha, beta) = ((&raw const ONE).cast(), if accumulate { &raw const ONE } else { &raw const ZERO }.cast());
        let (x, w, y, scratch) = (x as *mut c_void, w as *mut c_void, y as *mut c_void, workspace as *mut c_void);
        let (x_is, w_is, y_is, convolution) = (plan.x.get(), plan.filter.get(), plan.y.get(), plan.convolution.get());
        // SAFETY: the descriptors are those of the caller's memory, here and in the two calls below.
        let (status, action) = match call.pass {
            Pass::Forward => {
                let Some((algorithm, bytes)) = plan.forward else { return Ok(no_algorithm()) };
                let status = unsafe {
                    calls::cudnnConvolutionForward(
                        handle,
                        alpha,
                        x_is,
                        x,
                        w_is,
                        w,
                        convolution,
                        algorithm,
                        scratch,
                        bytes,
                        beta,
                        y_is,
                        y,
                    )
                };
                (status, "convolution forward")
            }
            Pass::BackwardData => {
                let Some((algorithm, bytes)) = plan.backward_data else { return Ok(no_algorithm()) };
                // SAFETY: as above.
                let status = unsafe {
                    calls::cudnnConvolutionBackwardData(
                        handle,
                        alpha,
                        w_is,
                        w,
                        y_is,
                        y,
                        convolution,
                        algorithm,
                        scratch,
                        bytes,
                        beta,
                        x_is,
                        x,
                    )
                };
                (status, "convolution backward, gradient of the input")
            }
            Pass::BackwardWeight => {
                let Some((algorithm, bytes)) = plan.backward_weight else { return Ok(no_algorithm()) };
                // SAFETY: as above.
                let status = unsafe {
                    calls::cudnnConvolutionBackwardFilter(
                        handle,
                        alpha,
                        x_is,
                        x,
                        y_is,
                        y,
                        convolution,
                        algorithm,
                        scratch,
                        bytes,
                        beta,
                        w_is,
                        w,
                    )
                };
                (status, "convolution backward, gradient of the weight")
            }
        };
        if is_refusal(status) {
            return Ok(Answer::Refuses(status.reason().unwrap_or_default()));
        }
        status.check(action).map(Answer::Takes)
    }

    /// Returns the plan of a call's geometry, which the first call makes, or why cuDNN cannot describe it.
    fn plan(&mut self, call: &Call) -> Result<std::result::Result<&Plan, String>> {
        let (geometry, precision) = (call.geometry, call.precision);
        let at = match self.plans.iter().position(|(g, p, _)| (*g, *p) == (geometry, precision)) {
            Some(at) => at,
            None => {
                let descriptors = match Descriptors::new(&geometry) {
                    Ok(descriptors) => descriptors,
                    Err(error) => return Ok(Err(error.to_string())),
                };
                let plan = Plan::new(self.handle.get(), &descriptors, precision)?;
                self.plans.push((geometry, precision, plan));
                self.plans.len() - 1
            }
        };
        Ok(Ok(&self.plans[at].2))
    }
}

fn no_algorithm<T>() -> Answer<T> {
    Answer::Refuses("it has no deterministic algorithm".into())
}

/// Returns whether a status is CUDNN_STATUS_NOT_SUPPORTED or one of its variants.
fn is_refusal(status: CudnnStatus) -> bool {
    (3000..4000).contains(&status.0)
}

impl Plan {
    fn new(handle: sys::cudnnHandle_t, descriptors: &Descriptors, precision: Precision) -> Result<Plan> {
        let data = match precision {
            Precision::F32 | Precision::Tf32 => cudnnDataType_t::CUDNN_DATA_FLOAT,
            Precision::Bf16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        let (x, y) = (tensor(&descriptors.x, data)?, tensor(&descriptors.y, data)?);
        let filter = filter(descriptors.filter, data)?;
        let convolution = convolution(descriptors, precision)?;
        let (x_, y_, filter_, convolution_) = (x.get(), y.get(), filter.get(), convolution.get());
        // SAFETY: all handles are valid, here and in the two calls below; the number of bytes is written to.
        let forward = first_supported(
            &[
                cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
                cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
            ],
            |algorithm, bytes| unsafe {
                calls::cudnnGetConvolutionForwardWorkspaceSize(handle, x_, filter_, convolution_, y_, algorithm, bytes)
            },
        )?;
        // SAFETY: as above.
        let backward_data = first_supported(
            &[cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1],
            |algorithm, bytes| unsafe {
                calls::cudnnGetConvolutionBackwardDataWorkspaceSize(
                    handle,
                    filter_,
                    y_,
                    convolution_,
                    x_,
                    algorithm,
                    bytes,
                )
            },
        )?;
        // SAFETY: as above.
        let backward_weight = first_supported(
            &[cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1],
            |algorithm, bytes| unsafe {
                calls::cudnnGetConvolutionBackwardFilterWorkspaceSize(
                    handle,
                    x_,
                    y_,
                    convolution_,
                    filter_,
                    algorithm,
                    bytes,
                )
            },
        )?;
        Ok(Plan { x, y, filter, convolution, forward, backward_data, backward_weight })
    }
}

/// Returns the first algorithm that cuDNN has for a convolution, with the bytes of its workspace.
fn first_supported<A: Copy>(
    algorithms: &[A],
    bytes_of: impl Fn(A, *mut usize) -> CudnnStatus,
) -> Result<Option<(A, usize)>> {
    for &algorithm in algorithms {
        let mut bytes = 0;
        let status = bytes_of(algorithm, &mut bytes);
        if is_refusal(status) {
            continue;
        }
        status.check("choosing a convolution's algorithm")?;
        return Ok(Some((algorithm, bytes)));
    }
    Ok(None)
}

fn tensor(tensor: &Tensor4d, data: cudnnDataType_t) -> Result<Handle<cudnnTensorStruct>> {
    let action = "describing a tensor";
    // SAFETY: destroy takes what create writes.
    let handle = unsafe {
        Owned::new(|to| calls::cudnnCreateTensorDescriptor(to), calls::cudnnDestroyTensorDescriptor, action)?
    };
    let ([n, c, h, w], [n_stride, c_stride, h_stride, w_stride]) = (tensor.sizes, tensor.strides);
    // SAFETY: the handle is valid.
    unsafe {
        calls::cudnnSetTensor4dDescriptorEx(handle.get(), data, n, c, h, w, n_stride, c_stride, h_stride, w_stride)
    }
    .check(action)?;
    Ok(handle)
}

fn filter([k, c, h, w]: [i32; 4], data: cudnnDataType_t) -> Result<Handle<cudnnFilterStruct>> {
    let action = "describing a filter";
    // SAFETY: destroy takes what create writes.
    let handle = unsafe {
        Owned::new(|to| calls::cudnnCreateFilterDescriptor(to), calls::cudnnDestroyFilterDescriptor, action)?
    };
    let format = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
    // SAFETY: the handle is valid.
    unsafe { calls::cudnnSetFilter4dDescriptor(handle.get(), data, format, k, c, h, w) }.check(action)?;
    Ok(handle)
}

fn convolution(descriptors: &Descriptors, precision: Precision) -> Result<Handle<cudnnConvolutionStruct>> {
    let action = "describing a convolution";
    // SAFETY: destroy takes what create writes.
    let handle = unsafe {
        Owned::new(|to| calls::cudnnCreateConvolutionDescriptor(to), calls::cudnnDestroyConvolutionDescriptor, action)?
    };
    let ([pad_h, pad_w], [stride_h, stride_w]) = (descriptors.padding, descriptors.stride);
    let (mode, compute) = (cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION, cudnnDataType_t::CUDNN_DATA_FLOAT);
    // SAFETY: the handle is valid.
    unsafe {
        calls::cudnnSetConvolution2dDescriptor(handle.get(), pad_h, pad_w, stride_h, stride_w, 1, 1, mode, compute)
    }
    .check(action)?;
    let math = match precision {
        // Without this, f32 would go through tensor cores as tf32.
        Precision::F32 => cudnnMathType_t::CUDNN_FMA_MATH,
        Precision::Tf32 | Precision::Bf16 => cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    };
    // SAFETY: the handle is valid.
    unsafe { calls::cudnnSetConvolutionMathType(handle.get(), math) }.check(action)?;
    Ok(handle)
}
