//! Convolutions that are matrix products (1x1, stride 1), by cuBLASLt.
//!
//! Sums are f32 and deterministic. If a sum is split over blocks, the parts must go through the workspace, where a second step adds them in
//! a fixed order; the alternative would add them in the output, in its type.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtContext, cublasLtMatmulAlgo_t, cublasLtMatmulDescAttributes_t,
    cublasLtMatmulDescOpaque_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreferenceAttributes_t,
    cublasLtMatrixLayoutOpaque_t, cublasLtReductionScheme_t, cublasStatus_t, cudaDataType,
};

use super::handles::{Owned, Stream};
use super::layout::{Matrix, Pass, Product};
use super::status::{DEVICE, Status};
use crate::engine::device::Precision;
use crate::engine::geometry::Conv2dGeometry;
use crate::{Error, Result};

type Handle<T> = Owned<T, cublasStatus_t>;

/// The largest workspace of one product, in bytes.
const WORKSPACE: usize = 32 << 20;

/// The alignment of every address in bytes, which is that of the widest load. The heuristic would assume 256.
pub(super) const ALIGNMENT: u32 = 16;

/// `cublasOperation_t`: not transposed, and transposed.
const OP_N: i32 = 0;
const OP_T: i32 = 1;

/// How many algorithms the heuristic is asked for; the first one that works is taken.
const CHOICES: usize = 8;

pub(super) struct CublasLt {
    /// The products of each geometry and precision, in the order of [`Pass::ALL`]. A network has a few dozen.
    plans: Vec<(Conv2dGeometry, Precision, [Plan; 3])>,
    handle: Handle<cublasLtContext>,
    stream: Arc<Stream>,
}

/// One product, ready to run.
struct Plan {
    operation: Handle<cublasLtMatmulDescOpaque_t>,
    a: Handle<cublasLtMatrixLayoutOpaque_t>,
    b: Handle<cublasLtMatrixLayoutOpaque_t>,
    c: Handle<cublasLtMatrixLayoutOpaque_t>,
    algorithm: cublasLtMatmulAlgo_t,
    workspace: usize,
}

impl CublasLt {
    /// Opens cuBLASLt for the current context; all work is enqueued in `stream`.
    pub(super) fn open(stream: &Arc<Stream>) -> Result<CublasLt> {
        // SAFETY: `cublasLtDestroy` takes what `cublasLtCreate` writes.
        let handle = unsafe { Owned::new(|to| sys::cublasLtCreate(to), sys::cublasLtDestroy, "starting cuBLASLt")? };
        Ok(CublasLt { plans: Vec::new(), handle, stream: Arc::clone(stream) })
    }

    /// Returns the bytes of workspace of each pass.
    pub(super) fn workspace(&mut self, geometry: &Conv2dGeometry, precision: Precision) -> Result<[usize; 3]> {
        let at = self.plan(geometry, precision)?;
        Ok(self.plans[at].2.each_ref().map(|plan| plan.workspace))
    }

    /// Enqueues `pass` on x, w and y, or their gradients; one of these is the result.
    ///
    /// # Safety
    /// Addresses must be of device memory with the sizes of `geometry`, `workspace` with the size that [`CublasLt::workspace`] says.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn run(
        &mut self,
        geometry: &Conv2dGeometry,
        precision: Precision,
        pass: Pass,
        [x, w, y]: [u64; 3],
        accumulate: bool,
        workspace: u64,
    ) -> Result<()> {
        if let Some(address) = [x, w, y].into_iter().find(|address| address % u64::from(ALIGNMENT) != 0) {
            return Err(Error::Device {
                device: DEVICE,
                action: "multiplying matrices".to_string(),
                reason: format!("address {address:#x} is no multiple of {ALIGNMENT}"),
            });
        }
        let at = self.plan(geometry, precision)?;
        let plan = &self.plans[at].2[pass as usize];
        let [a, b, c] = Product::operands(pass, x, w, y).map(|address| address as *mut c_void);
        let (alpha, beta) = (1.0_f32, if accumulate { 1.0_f32 } else { 0.0 });
        // SAFETY: the plan's layouts are those of the caller's memory. alpha and beta are read before this returns, and are f32, the
        // operation's scale type. c is read (for beta) and written with the same layout, as cuBLASLt allows.
        unsafe {
            sys::cublasLtMatmul(
                self.handle.get(),
                plan.operation.get(),
                (&raw const alpha).cast(),
                a,
                plan.a.get(),
                b,
                plan.b.get(),
                (&raw const beta).cast(),
                c,
                plan.c.get(),
                c,
                plan.c.get(),
                &plan.algorithm,
                workspace as *mut c_void,
                plan.workspace,
                self.stream.get().cast(),
            )
        }
        .check("multiplying matrices")
    }

    /// Returns the index of the plans of a geometry, which the first call makes.
    fn plan(&mut self, geometry: &Conv2dGeometry, precision: Precision) -> Result<usize> {
        if let Some(at) = self.plans.iter().position(|(g, p, _)| (g, *p) == (geometry, precision)) {
            return Ok(at);
        }
        let plan = |pass| Plan::new(self.handle.get(), &Product::new(geometry, pass), precision);
        let [forward, data, weight] = Pass::ALL.map(plan);
        self.plans.push((*geometry, precision, [forward?, data?, weight?]));
        Ok(self.plans.len() - 1)
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, product: &Product, precision: Precision) -> Result<Plan> {
        let (data, compute) = match precision {
            Precision::F32 => (cudaDataType::CUDA_R_32F, cublasComputeType_t::CUBLAS_COMPUTE_32F),
            Precision::Tf32 => (cudaDataType::CUDA_R_32F, cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32),
            Precision::Bf16 => (cudaDataType::CUDA_R_16BF, cublasComputeType_t::CUBLAS_COMPUTE_32F),
        };
        // SAFETY: destroy takes what create writes.
        let operation = unsafe {
            let create = |to| sys::cublasLtMatmulDescCreate(to, compute, cudaDataType::CUDA_R_32F);
            Owned::new(create, sys::cublasLtMatmulDescDestroy, "describing a product")?
        };
        use cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        for (attribute, matrix) in
            [(CUBLASLT_MATMUL_DESC_TRANSA, &product.a), (CUBLASLT_MATMUL_DESC_TRANSB, &product.b)]
        {
            let value = if matrix.transposed { OP_T } else { OP_N };
            // SAFETY: the attribute is an int32, and is copied.
            unsafe {
                let (value, bytes) = ((&raw const value).cast(), size_of::<i32>());
                sys::cublasLtMatmulDescSetAttribute(operation.get(), attribute, value, bytes)
            }
            .check("describing a product")?;
        }
        let [a, b, c] = [&product.a, &product.b, &product.c].map(|matrix| layout(matrix, data));
        let (a, b, c) = (a?, b?, c?);
        let choice = choose(handle, &operation, [&a, &b, &c], product)?;
        Ok(Plan { operation, a, b, c, algorithm: choice.algo, workspace: choice.workspaceSize })
    }
}

fn layout(matrix: &Matrix, data: cudaDataType) -> Result<Handle<cublasLtMatrixLayoutOpaque_t>> {
    let Matrix { rows, columns, leading, .. } = *matrix;
    let create = |to| {
        // SAFETY: the layout is written to.
        unsafe { sys::cublasLtMatrixLayoutCreate(to, data, rows as u64, columns as u64, leading as i64) }
    };
    // SAFETY: destroy takes what create writes.
    unsafe { Owned::new(create, sys::cublasLtMatrixLayoutDestroy, "describing a matrix") }
}

/// Returns the first algorithm of the heuristic that works within the limits.
fn choose(
    handle: sys::cublasLtHandle_t,
    operation: &Handle<cublasLtMatmulDescOpaque_t>,
    [a, b, c]: [&Handle<cublasLtMatrixLayoutOpaque_t>; 3],
    product: &Product,
) -> Result<cublasLtMatmulHeuristicResult_t> {
    use cublasLtMatmulPreferenceAttributes_t::*;
    // SAFETY: destroy takes what create writes.
    let preference = unsafe {
        let create = |to| sys::cublasLtMatmulPreferenceCreate(to);
        Owned::new(create, sys::cublasLtMatmulPreferenceDestroy, "choosing an algorithm")?
    };
    let set = |attribute, value: *const c_void, bytes| {
        // SAFETY: `value` has that many bytes, as many as the attribute, and is copied.
        unsafe { sys::cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, value, bytes) }
            .check("choosing an algorithm")
    };
    // The types are those of the header: u64, u32, u32.
    let limit = WORKSPACE as u64;
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const limit).cast(), size_of::<u64>())?;
    // An algorithm that does not split is always allowed.
    let reductions = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (&raw const reductions).cast(), size_of::<u32>())?;
    for attribute in [
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ] {
        let alignment = ALIGNMENT;
        set(attribute, (&raw const alignment).cast(), size_of::<u32>())?;
    }
    // SAFETY: all fields are numbers, and a status, for which 0 is valid.
    let mut results: [cublasLtMatmulHeuristicResult_t; CHOICES] = unsafe { std::mem::zeroed() };
    let mut found = 0;
    // SAFETY: all handles are valid, and there is room for as many results as are asked for.
    let status = unsafe {
        let (a, b, c) = (a.get(), b.get(), c.get());
        let (preference, results) = (preference.get(), results.as_mut_ptr());
        let operation = operation.get();
        sys::cublasLtMatmulAlgoGetHeuristic(
            handle,
            operation,
            a,
            b,
            c,
            c,
            preference,
            CHOICES as i32,
            results,
            &mut found,
        )
    };
    let found = usize::try_from(found).unwrap_or(0).min(CHOICES);
    let works = |result: &&cublasLtMatmulHeuristicResult_t| {
        result.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS && result.workspaceSize <= WORKSPACE
    };
    if status != cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED {
        status.check("choosing an algorithm")?;
        if let Some(result) = results[..found].iter().find(works) {
            return Ok(*result);
        }
    }
    Err(Error::Device {
        device: DEVICE,
        action: "choosing an algorithm".to_string(),
        reason: format!("cuBLASLt has no deterministic one for {product:?}"),
    })
}
