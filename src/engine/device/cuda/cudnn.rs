//! Convolutions by cuDNN, by its descriptor API and deterministic algorithms.
//!
//! `IMPLICIT_PRECOMP_GEMM` or `IMPLICIT_GEMM` forward and `ALGO_1` backward sum in a fixed order and take NHWC. `ALGO_0` of either
//! gradient and `ALGO_3` of the weight's add by atomics, so that the same step would differ from run to run.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cudnn::sys::{
    self, cudnnContext, cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionFwdAlgo_t,
    cudnnConvolutionMode_t, cudnnConvolutionStruct, cudnnDataType_t, cudnnFilterStruct, cudnnMathType_t, cudnnStatus_t,
    cudnnTensorFormat_t, cudnnTensorStruct,
};

use super::handles::{Owned, Stream};
use super::layout::{Descriptors, Tensor4d};
use super::status::{DEVICE, Status};
use crate::engine::device::Precision;
use crate::engine::geometry::Conv2dGeometry;
use crate::{Error, Result};

type Handle<T> = Owned<T, cudnnStatus_t>;

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

/// The descriptors and algorithms of a convolution, each algorithm with the bytes of its workspace.
struct Plan {
    x: Handle<cudnnTensorStruct>,
    y: Handle<cudnnTensorStruct>,
    filter: Handle<cudnnFilterStruct>,
    convolution: Handle<cudnnConvolutionStruct>,
    forward: (cudnnConvolutionFwdAlgo_t, usize),
    /// `None` if cuDNN has none. The first layer of a network never needs this gradient.
    backward_data: Option<(cudnnConvolutionBwdDataAlgo_t, usize)>,
    backward_weight: (cudnnConvolutionBwdFilterAlgo_t, usize),
}

impl Cudnn {
    /// Opens cuDNN for the current context; all work is enqueued in `stream`.
    pub(super) fn open(stream: &Arc<Stream>) -> Result<Cudnn> {
        // SAFETY: `cudnnDestroy` takes what `cudnnCreate` writes.
        let handle = unsafe { Owned::new(|to| sys::cudnnCreate(to), sys::cudnnDestroy, "starting cuDNN")? };
        // SAFETY: both handles are valid, and the two stream types are the same type.
        unsafe { sys::cudnnSetStream(handle.get(), stream.get().cast()) }.check("starting cuDNN")?;
        Ok(Cudnn { plans: Vec::new(), handle, _stream: Arc::clone(stream) })
    }

    /// Returns the bytes of workspace of forward and of backward.
    pub(super) fn workspace(&mut self, geometry: &Conv2dGeometry, precision: Precision) -> Result<[usize; 2]> {
        let plan = self.plan(geometry, precision)?;
        let backward_data = plan.backward_data.map_or(0, |(_, bytes)| bytes);
        Ok([plan.forward.1, backward_data.max(plan.backward_weight.1)])
    }

    /// Enqueues `y = conv(x, weight)`.
    ///
    /// # Safety
    /// Addresses must be of device memory with the sizes of `geometry`, `workspace` with the size that [`Cudnn::workspace`] says.
    pub(super) unsafe fn forward(
        &mut self,
        geometry: &Conv2dGeometry,
        precision: Precision,
        [x, weight, y]: [u64; 3],
        workspace: u64,
    ) -> Result<()> {
        let handle = self.handle.get();
        let plan = self.plan(geometry, precision)?;
        let (algorithm, bytes) = plan.forward;
        // SAFETY: the descriptors are those of the caller's memory.
        unsafe {
            sys::cudnnConvolutionForward(
                handle,
                (&raw const ONE).cast(),
                plan.x.get(),
                x as *const c_void,
                plan.filter.get(),
                weight as *const c_void,
                plan.convolution.get(),
                algorithm,
                workspace as *mut c_void,
                bytes,
                (&raw const ZERO).cast(),
                plan.y.get(),
                y as *mut c_void,
            )
        }
        .check("convolution forward")
    }

    /// Enqueues `dx (+)= convᵀ(dy, weight)`.
    ///
    /// # Safety
    /// As for [`Cudnn::forward`].
    pub(super) unsafe fn backward_data(
        &mut self,
        geometry: &Conv2dGeometry,
        precision: Precision,
        [dx, weight, dy]: [u64; 3],
        accumulate: bool,
        workspace: u64,
    ) -> Result<()> {
        let handle = self.handle.get();
        let plan = self.plan(geometry, precision)?;
        let pass = "the gradient of the input";
        let (algorithm, bytes) = plan.backward_data.ok_or_else(|| unsupported(geometry, pass))?;
        let beta = if accumulate { &raw const ONE } else { &raw const ZERO };
        // SAFETY: the descriptors are those of the caller's memory.
        unsafe {
            sys::cudnnConvolutionBackwardData(
                handle,
                (&raw const ONE).cast(),
                plan.filter.get(),
                weight as *const c_void,
                plan.y.get(),
                dy as *const c_void,
                plan.convolution.get(),
                algorithm,
                workspace as *mut c_void,
                bytes,
                beta.cast(),
                plan.x.get(),
                dx as *mut c_void,
            )
        }
        .check("convolution backward, gradient of the input")
    }

    /// Enqueues `dweight = corr(x, dy)`.
    ///
    /// # Safety
    /// As for [`Cudnn::forward`].
    pub(super) unsafe fn backward_weight(
        &mut self,
        geometry: &Conv2dGeometry,
        precision: Precision,
        [x, dweight, dy]: [u64; 3],
        workspace: u64,
    ) -> Result<()> {
        let handle = self.handle.get();
        let plan = self.plan(geometry, precision)?;
        let (algorithm, bytes) = plan.backward_weight;
        // SAFETY: the descriptors are those of the caller's memory.
        unsafe {
            sys::cudnnConvolutionBackwardFilter(
                handle,
                (&raw const ONE).cast(),
                plan.x.get(),
                x as *const c_void,
                plan.y.get(),
                dy as *const c_void,
                plan.convolution.get(),
                algorithm,
                workspace as *mut c_void,
                bytes,
                (&raw const ZERO).cast(),
                plan.filter.get(),
                dweight as *mut c_void,
            )
        }
        .check("convolution backward, gradient of the weight")
    }

    /// Returns the plan of a geometry, which the first call makes.
    fn plan(&mut self, geometry: &Conv2dGeometry, precision: Precision) -> Result<&Plan> {
        let at = match self.plans.iter().position(|(g, p, _)| (g, *p) == (geometry, precision)) {
            Some(at) => at,
            None => {
                let plan = Plan::new(self.handle.get(), geometry, precision)?;
                self.plans.push((*geometry, precision, plan));
                self.plans.len() - 1
            }
        };
        Ok(&self.plans[at].2)
    }
}

impl Plan {
    fn new(handle: sys::cudnnHandle_t, geometry: &Conv2dGeometry, precision: Precision) -> Result<Plan> {
        let descriptors = Descriptors::new(geometry)?;
        let data = match precision {
            Precision::F32 | Precision::Tf32 => cudnnDataType_t::CUDNN_DATA_FLOAT,
            Precision::Bf16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        let (x, y) = (tensor(&descriptors.x, data)?, tensor(&descriptors.y, data)?);
        let filter = filter(descriptors.filter, data)?;
        let convolution = convolution(&descriptors, precision)?;
        let (x_, y_, filter_, convolution_) = (x.get(), y.get(), filter.get(), convolution.get());
        // SAFETY: all handles are valid, here and in the two calls below; the number of bytes is written to.
        let forward = first_supported(
            &[
                cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
                cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
            ],
            |algorithm, bytes| unsafe {
                sys::cudnnGetConvolutionForwardWorkspaceSize(handle, x_, filter_, convolution_, y_, algorithm, bytes)
            },
        )?;
        // SAFETY: as above.
        let backward_data = first_supported(
            &[cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1],
            |algorithm, bytes| unsafe {
                sys::cudnnGetConvolutionBackwardDataWorkspaceSize(
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
                sys::cudnnGetConvolutionBackwardFilterWorkspaceSize(
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
        Ok(Plan {
            x,
            y,
            filter,
            convolution,
            forward: forward.ok_or_else(|| unsupported(geometry, "the output"))?,
            backward_data,
            backward_weight: backward_weight.ok_or_else(|| unsupported(geometry, "the gradient of the weight"))?,
        })
    }
}

/// Returns the first algorithm that cuDNN has for a convolution, with the bytes of its workspace.
fn first_supported<A: Copy>(
    algorithms: &[A],
    bytes_of: impl Fn(A, *mut usize) -> cudnnStatus_t,
) -> Result<Option<(A, usize)>> {
    for &algorithm in algorithms {
        let mut bytes = 0;
        let status = bytes_of(algorithm, &mut bytes);
        // CUDNN_STATUS_NOT_SUPPORTED and its variants.
        if (3000..4000).contains(&(status as u32)) {
            continue;
        }
        status.check("choosing a convolution's algorithm")?;
        return Ok(Some((algorithm, bytes)));
    }
    Ok(None)
}

fn unsupported(geometry: &Conv2dGeometry, what: &str) -> Error {
    Error::Device {
        device: DEVICE,
        action: "choosing a convolution's algorithm".to_string(),
        reason: format!("cuDNN has no deterministic one for {what} of {geometry:?}"),
    }
}

fn tensor(tensor: &Tensor4d, data: cudnnDataType_t) -> Result<Handle<cudnnTensorStruct>> {
    let action = "describing a tensor";
    // SAFETY: destroy takes what create writes.
    let handle =
        unsafe { Owned::new(|to| sys::cudnnCreateTensorDescriptor(to), sys::cudnnDestroyTensorDescriptor, action)? };
    let ([n, c, h, w], [n_stride, c_stride, h_stride, w_stride]) = (tensor.sizes, tensor.strides);
    // SAFETY: the handle is valid.
    unsafe {
        sys::cudnnSetTensor4dDescriptorEx(handle.get(), data, n, c, h, w, n_stride, c_stride, h_stride, w_stride)
    }
    .check(action)?;
    Ok(handle)
}

fn filter([k, c, h, w]: [i32; 4], data: cudnnDataType_t) -> Result<Handle<cudnnFilterStruct>> {
    let action = "describing a filter";
    // SAFETY: destroy takes what create writes.
    let handle =
        unsafe { Owned::new(|to| sys::cudnnCreateFilterDescriptor(to), sys::cudnnDestroyFilterDescriptor, action)? };
    let format = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
    // SAFETY: the handle is valid.
    unsafe { sys::cudnnSetFilter4dDescriptor(handle.get(), data, format, k, c, h, w) }.check(action)?;
    Ok(handle)
}

fn convolution(descriptors: &Descriptors, precision: Precision) -> Result<Handle<cudnnConvolutionStruct>> {
    let action = "describing a convolution";
    // SAFETY: destroy takes what create writes.
    let handle = unsafe {
        Owned::new(|to| sys::cudnnCreateConvolutionDescriptor(to), sys::cudnnDestroyConvolutionDescriptor, action)?
    };
    let ([pad_h, pad_w], [stride_h, stride_w]) = (descriptors.padding, descriptors.stride);
    let (mode, compute) = (cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION, cudnnDataType_t::CUDNN_DATA_FLOAT);
    // SAFETY: the handle is valid.
    unsafe {
        sys::cudnnSetConvolution2dDescriptor(handle.get(), pad_h, pad_w, stride_h, stride_w, 1, 1, mode, compute)
    }
    .check(action)?;
    let math = match precision {
        // Without this, f32 would go through tensor cores as tf32.
        Precision::F32 => cudnnMathType_t::CUDNN_FMA_MATH,
        Precision::Tf32 | Precision::Bf16 => cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    };
    // SAFETY: the handle is valid.
    unsafe { sys::cudnnSetConvolutionMathType(handle.get(), math) }.check(action)?;
    Ok(handle)
}
