//! The functions of the driver, cuBLASLt, cuDNN and NCCL that are called, with status codes as integers: a newer library may return a code that an
//! enum of cudarc does not have, which would be undefined behaviour. Types and values are cudarc's. A library must be present
//! (`libraries`) before a function of it is called.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use cudarc::cublaslt::sys as cublaslt;
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cudaDataType,
    cudaDataType_t, cudaStream_t, libraryPropertyType,
};
use cudarc::cudnn::sys as cudnn;
use cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionDescriptor_t,
    cudnnConvolutionFwdAlgo_t, cudnnConvolutionMode_t, cudnnDataType_t, cudnnFilterDescriptor_t, cudnnHandle_t,
    cudnnMathType_t, cudnnTensorDescriptor_t, cudnnTensorFormat_t,
};
use cudarc::driver::sys as driver;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUgraph,
    CUgraphExec, CUmodule, CUstream, CUstreamCaptureMode,
};

use cudarc::nccl::sys as nccl;
use cudarc::nccl::sys::{ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};

use super::status::{CublasStatus, CudnnStatus, DriverStatus, NcclStatus};

/// One of the results of cuBLASLt's heuristic: `cublasLtMatmulHeuristicResult_t`, with its status as an integer.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub algorithm: cublasLtMatmulAlgo_t,
    pub workspace: usize,
    pub status: CublasStatus,
    pub waves: f32,
    pub reserved: [c_int; 4],
}

const _: () = assert!(size_of::<Choice>() == size_of::<cublaslt::cublasLtMatmulHeuristicResult_t>());

/// Declares functions of a library, which return a status. Signatures are those of the library's headers.
macro_rules! functions {
    ($library:path, $status:ident; $(fn $name:ident($($argument:ident: $kind:ty),* $(,)?);)*) => {
        $(
            /// # Safety
            /// What the library's documentation asks of the arguments.
            #[allow(non_snake_case, clippy::too_many_arguments)]
            pub(super) unsafe fn $name($($argument: $kind),*) -> $status {
                type Function = unsafe extern "C" fn($($kind),*) -> $status;
                static FUNCTION: OnceLock<Function> = OnceLock::new();
                let function = FUNCTION.get_or_init(|| {
                    // SAFETY: the library is present, and its function has this signature; the status is a transparent integer.
                    let symbol = unsafe { $library().get::<Function>(concat!(stringify!($name), "\0").as_bytes()) };
                    *symbol.unwrap_or_else(|error| panic!("{} is missing in the library: {error}", stringify!($name)))
                });
                // SAFETY: the caller's promise.
                unsafe { function($($argument),*) }
            }
        )*
    };
}

functions! {
    driver::culib, DriverStatus;
    fn cuCtxSetCurrent(ctx: CUcontext);
    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    fn cuDeviceGetAttribute(value: *mut c_int, attrib: CUdevice_attribute, dev: CUdevice);
    fn cuDeviceGetCount(count: *mut c_int);
    fn cuDeviceGetName(name: *mut c_char, len: c_int, dev: CUdevice);
    fn cuDevicePrimaryCtxRelease_v2(dev: CUdevice);
    fn cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice);
    fn cuDriverGetVersion(driver_version: *mut c_int);
    fn cuEventCreate(ph_event: *mut CUevent, flags: c_uint);
    fn cuEventDestroy_v2(h_event: CUevent);
    fn cuEventRecord(h_event: CUevent, h_stream: CUstream);
    fn cuEventSynchronize(h_event: CUevent);
    fn cuFuncGetAttribute(value: *mut c_int, attrib: CUfunction_attribute, hfunc: CUfunction);
    fn cuFuncSetAttribute(hfunc: CUfunction, attrib: CUfunction_attribute, value: c_int);
    fn cuGraphDestroy(h_graph: CUgraph);
    fn cuGraphExecDestroy(h_graph_exec: CUgraphExec);
    fn cuGraphInstantiateWithFlags(ph_graph_exec: *mut CUgraphExec, h_graph: CUgraph, flags: c_ulonglong);
    fn cuGraphLaunch(h_graph_exec: CUgraphExec, h_stream: CUstream);
    fn cuInit(flags: c_uint);
    fn cuLaunchKernel(
        function: CUfunction, grid_dim_x: c_uint, grid_dim_y: c_uint, grid_dim_z: c_uint, block_dim_x: c_uint,
        block_dim_y: c_uint, block_dim_z: c_uint, shared_mem_bytes: c_uint, h_stream: CUstream,
        kernel_params: *mut *mut c_void, extra: *mut *mut c_void,
    );
    fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize);
    fn cuMemFreeHost(p: *mut c_void);
    fn cuMemFree_v2(dptr: CUdeviceptr);
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    fn cuMemHostAlloc(pp: *mut *mut c_void, bytesize: usize, flags: c_uint);
    fn cuMemcpyDtoHAsync_v2(
        dst_host: *mut c_void, src_device: CUdeviceptr, byte_count: usize, h_stream: CUstream,
    );
    fn cuMemcpyHtoDAsync_v2(
        dst_device: CUdeviceptr, src_host: *const c_void, byte_count: usize, h_stream: CUstream,
    );
    fn cuModuleGetFunction(hfunc: *mut CUfunction, hmod: CUmodule, name: *const c_char);
    fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    fn cuModuleUnload(hmod: CUmodule);
    fn cuStreamBeginCapture_v2(h_stream: CUstream, mode: CUstreamCaptureMode);
    fn cuStreamCreate(ph_stream: *mut CUstream, flags: c_uint);
    fn cuStreamDestroy_v2(h_stream: CUstream);
    fn cuStreamEndCapture(h_stream: CUstream, ph_graph: *mut CUgraph);
    fn cuStreamSynchronize(h_stream: CUstream);
    fn cuStreamWaitEvent(h_stream: CUstream, h_event: CUevent, flags: c_uint);
}

functions! {
    cublaslt::culib, CublasStatus;
    fn cublasLtCreate(light_handle: *mut cublasLtHandle_t);
    fn cublasLtDestroy(light_handle: cublasLtHandle_t);
    fn cublasLtGetProperty(kind: libraryPropertyType, value: *mut c_int);
    fn cublasLtMatmul(
        light_handle: cublasLtHandle_t, compute_desc: cublasLtMatmulDesc_t, alpha: *const c_void,
        a: *const c_void, adesc: cublasLtMatrixLayout_t, b: *const c_void, bdesc: cublasLtMatrixLayout_t,
        beta: *const c_void, c: *const c_void, cdesc: cublasLtMatrixLayout_t, d: *mut c_void,
        ddesc: cublasLtMatrixLayout_t, algo: *const cublasLtMatmulAlgo_t, workspace: *mut c_void,
        workspace_size_in_bytes: usize, stream: cudaStream_t,
    );
    fn cublasLtMatmulAlgoGetHeuristic(
        light_handle: cublasLtHandle_t, operation_desc: cublasLtMatmulDesc_t, adesc: cublasLtMatrixLayout_t,
        bdesc: cublasLtMatrixLayout_t, cdesc: cublasLtMatrixLayout_t, ddesc: cublasLtMatrixLayout_t,
        preference: cublasLtMatmulPreference_t, requested_algo_count: c_int,
        heuristic_results_array: *mut Choice, return_algo_count: *mut c_int,
    );
    fn cublasLtMatmulDescCreate(
        matmul_desc: *mut cublasLtMatmulDesc_t, compute_type: cublasComputeType_t, scale_type: cudaDataType_t,
    );
    fn cublasLtMatmulDescDestroy(matmul_desc: cublasLtMatmulDesc_t);
    fn cublasLtMatmulDescSetAttribute(
        matmul_desc: cublasLtMatmulDesc_t, attr: cublasLtMatmulDescAttributes_t, buf: *const c_void,
        size_in_bytes: usize,
    );
    fn cublasLtMatmulPreferenceCreate(pref: *mut cublasLtMatmulPreference_t);
    fn cublasLtMatmulPreferenceDestroy(pref: cublasLtMatmulPreference_t);
    fn cublasLtMatmulPreferenceSetAttribute(
        pref: cublasLtMatmulPreference_t, attr: cublasLtMatmulPreferenceAttributes_t, buf: *const c_void,
        size_in_bytes: usize,
    );
    fn cublasLtMatrixLayoutCreate(
        mat_layout: *mut cublasLtMatrixLayout_t, kind: cudaDataType, rows: u64, cols: u64, ld: i64,
    );
    fn cublasLtMatrixLayoutDestroy(mat_layout: cublasLtMatrixLayout_t);
}

functions! {
    cudnn::culib, CudnnStatus;
    fn cudnnConvolutionBackwardData(
        handle: cudnnHandle_t, alpha: *const c_void, w_desc: cudnnFilterDescriptor_t, w: *const c_void,
        dy_desc: cudnnTensorDescriptor_t, dy: *const c_void, conv_desc: cudnnConvolutionDescriptor_t,
        algo: cudnnConvolutionBwdDataAlgo_t, work_space: *mut c_void, work_space_size_in_bytes: usize,
        beta: *const c_void, dx_desc: cudnnTensorDescriptor_t, dx: *mut c_void,
    );
    fn cudnnConvolutionBackwardFilter(
        handle: cudnnHandle_t, alpha: *const c_void, x_desc: cudnnTensorDescriptor_t, x: *const c_void,
        dy_desc: cudnnTensorDescriptor_t, dy: *const c_void, conv_desc: cudnnConvolutionDescriptor_t,
        algo: cudnnConvolutionBwdFilterAlgo_t, work_space: *mut c_void, work_space_size_in_bytes: usize,
        beta: *const c_void, dw_desc: cudnnFilterDescriptor_t, dw: *mut c_void,
    );
    fn cudnnConvolutionForward(
        handle: cudnnHandle_t, alpha: *const c_void, x_desc: cudnnTensorDescriptor_t, x: *const c_void,
        w_desc: cudnnFilterDescriptor_t, w: *const c_void, conv_desc: cudnnConvolutionDescriptor_t,
        algo: cudnnConvolutionFwdAlgo_t, work_space: *mut c_void, work_space_size_in_bytes: usize,
        beta: *const c_void, y_desc: cudnnTensorDescriptor_t, y: *mut c_void,
    );
    fn cudnnCreate(handle: *mut cudnnHandle_t);
    fn cudnnCreateConvolutionDescriptor(conv_desc: *mut cudnnConvolutionDescriptor_t);
    fn cudnnCreateFilterDescriptor(filter_desc: *mut cudnnFilterDescriptor_t);
    fn cudnnCreateTensorDescriptor(tensor_desc: *mut cudnnTensorDescriptor_t);
    fn cudnnDestroy(handle: cudnnHandle_t);
    fn cudnnDestroyConvolutionDescriptor(conv_desc: cudnnConvolutionDescriptor_t);
    fn cudnnDestroyFilterDescriptor(filter_desc: cudnnFilterDescriptor_t);
    fn cudnnDestroyTensorDescriptor(tensor_desc: cudnnTensorDescriptor_t);
    fn cudnnGetConvolutionBackwardDataWorkspaceSize(
        handle: cudnnHandle_t, w_desc: cudnnFilterDescriptor_t, dy_desc: cudnnTensorDescriptor_t,
        conv_desc: cudnnConvolutionDescriptor_t, dx_desc: cudnnTensorDescriptor_t,
        algo: cudnnConvolutionBwdDataAlgo_t, size_in_bytes: *mut usize,
    );
    fn cudnnGetConvolutionBackwardFilterWorkspaceSize(
        handle: cudnnHandle_t, x_desc: cudnnTensorDescriptor_t, dy_desc: cudnnTensorDescriptor_t,
        conv_desc: cudnnConvolutionDescriptor_t, grad_desc: cudnnFilterDescriptor_t,
        algo: cudnnConvolutionBwdFilterAlgo_t, size_in_bytes: *mut usize,
    );
    fn cudnnGetConvolutionForwardWorkspaceSize(
        handle: cudnnHandle_t, x_desc: cudnnTensorDescriptor_t, w_desc: cudnnFilterDescriptor_t,
        conv_desc: cudnnConvolutionDescriptor_t, y_desc: cudnnTensorDescriptor_t,
        algo: cudnnConvolutionFwdAlgo_t, size_in_bytes: *mut usize,
    );
    fn cudnnSetConvolution2dDescriptor(
        conv_desc: cudnnConvolutionDescriptor_t, pad_h: c_int, pad_w: c_int, u: c_int, v: c_int,
        dilation_h: c_int, dilation_w: c_int, mode: cudnnConvolutionMode_t, compute_type: cudnnDataType_t,
    );
    fn cudnnSetConvolutionMathType(conv_desc: cudnnConvolutionDescriptor_t, math_type: cudnnMathType_t);
    fn cudnnSetFilter4dDescriptor(
        filter_desc: cudnnFilterDescriptor_t, data_type: cudnnDataType_t, format: cudnnTensorFormat_t, k: c_int,
        c: c_int, h: c_int, w: c_int,
    );
    fn cudnnSetStream(handle: cudnnHandle_t, stream_id: cudaStream_t);
    fn cudnnSetTensor4dDescriptorEx(
        tensor_desc: cudnnTensorDescriptor_t, data_type: cudnnDataType_t, n: c_int, c: c_int, h: c_int,
        w: c_int, n_stride: c_int, c_stride: c_int, h_stride: c_int, w_stride: c_int,
    );
}

functions! {
    nccl::culib, NcclStatus;
    fn ncclAllGather(
        sendbuff: *const c_void, recvbuff: *mut c_void, sendcount: usize, datatype: ncclDataType_t, comm: ncclComm_t,
        stream: cudaStream_t,
    );
    fn ncclAllReduce(
        sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: ncclDataType_t, op: ncclRedOp_t,
        comm: ncclComm_t, stream: cudaStream_t,
    );
    fn ncclCommGetAsyncError(comm: ncclComm_t, async_error: *mut NcclStatus);
    fn ncclCommInitRank(comm: *mut ncclComm_t, nranks: c_int, comm_id: ncclUniqueId, rank: c_int);
    fn ncclGetUniqueId(unique_id: *mut ncclUniqueId);
    fn ncclGetVersion(version: *mut c_int);
}
