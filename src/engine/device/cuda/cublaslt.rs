//! Convolutions that are matrix products (1x1, stride 1), by cuBLASLt.
//!
//! Sums are f32 and deterministic. If a sum is split over blocks, the parts must go through the workspace, where a second step adds them in
//! a fixed order; the alternative would add them in the output, in its type.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtContext, cublasLtMatmulAlgo_t, cublasLtMatmulDescAttributes_t,
    cublasLtMatmulDescOpaque_t, cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayoutOpaque_t,
    cublasLtReductionScheme_t, cudaDataType,
};

use super::calls::{self, Choice};
use super::handles::{Owned, Stream};
use super::status::{CublasStatus, Status};
use crate::Result;
use crate::engine::device::vendor::{Answer, Call, Matrix, OPERAND_ALIGNMENT, Product};
use crate::engine::precision::Precision;

type Handle<T> = Owned<T, CublasStatus>;

/// The largest workspace of one product, in bytes.
const WORKSPACE: usize = 32 << 20;

/// `cublasOperation_t`: not transposed, and transposed.
const OP_N: i32 = 0;
const OP_T: i32 = 1;

/// How many algorithms the heuristic is asked for; the first one that works is taken.
const CHOICES: usize = 8;

pub(super) struct CublasLt {
    /// The products that were asked for; `None` if cuBLASLt has no algorithm. A network has a few dozen.
    plans: Vec<(Call, Option<Plan>)>,
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
        let handle =
            unsafe { Owned::new(|to| calls::cublasLtCreate(to), calls::cublasLtDestroy, "starting cuBLASLt")? };
        Ok(CublasLt { plans: Vec::new(), handle, stream: Arc::clone(stream) })
    }

    /// Chooses the algorithm of a product, and returns the bytes of its workspace.
    pub(super) fn workspace(&mut self, call: &Call) -> Result<Answer<usize>> {
        Ok(self.plan(call)?.map_or_else(no_algorithm, |plan| Answer::Takes(plan.workspace)))
    }

    /// Enqueues a product of x, w and y, or their gradients; one of these is the result.
    ///
    /// # Safety
    /// Addresses must be of device memory with the sizes of the geometry, `workspace` with the size that [`CublasLt::workspace`] says.
    pub(super) unsafe fn run(
        &mut self,
        call: &Call,
        [x, w, y]: [u64; 3],
        accumulate: bool,
        workspace: u64,
    ) -> Result<Answer<()>> {
        let (handle, stream) = (self.handle.get(), self.stream.get().cast());
        let Some(plan) = self.plan(call)? else { return Ok(no_algorithm()) };
        let [a, b, c] = Product::operands(call.pass, x, w, y).map(|address| address as *mut c_void);
        let (alpha, beta) = (1.0_f32, if accumulate { 1.0_f32 } else { 0.0 });
        // SAFETY: the plan's layouts are those of the caller's memory. alpha and beta are read before this returns, and are f32, the
        // operation's scale type. c is read (for beta) and written with the same layout, as cuBLASLt allows.
        let status = unsafe {
            calls::cublasLtMatmul(
                handle,
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
                stream,
            )
        };
        if status == CublasStatus::CUBLAS_STATUS_NOT_SUPPORTED {
            return Ok(Answer::Refuses(status.reason().unwrap_or_default()));
        }
        status.check("multiplying matrices").map(Answer::Takes)
    }

    /// Returns the plan of a product, which the first call makes.
    fn plan(&mut self, call: &Call) -> Result<Option<&Plan>> {
        let at = match self.plans.iter().position(|(planned, _)| planned == call) {
            Some(at) => at,
            None => {
                let product = Product::new(&call.geometry, call.pass);
                let plan = Plan::new(self.handle.get(), &product, call.precision)?;
                self.plans.push((*call, plan));
                self.plans.len() - 1
            }
        };
        Ok(self.plans[at].1.as_ref())
    }
}

fn no_algorithm<T>() -> Answer<T> {
    Answer::Refuses("it has no deterministic algorithm".into())
}

impl Plan {
    /// Describes a product and chooses its algorithm; returns `None` if there is none.
    fn new(handle: sys::cublasLtHandle_t, product: &Product, precision: Precision) -> Result<Option<Plan>> {
        let (data, compute) = match precision {
            Precision::F32 => (cudaDataType::CUDA_R_32F, cublasComputeType_t::CUBLAS_COMPUTE_32F),
            Precision::Tf32 => (cudaDataType::CUDA_R_32F, cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32),
            Precision::Bf16 => (cudaDataType::CUDA_R_16BF, cublasComputeType_t::CUBLAS_COMPUTE_32F),
        };
        // SAFETY: destroy takes what create writes.
        let operation = unsafe {
            let create = |to| calls::cublasLtMatmulDescCreate(to, compute, cudaDataType::CUDA_R_32F);
            Owned::new(create, calls::cublasLtMatmulDescDestroy, "describing a product")?
        };
        use cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        for (attribute, matrix) in
            [(CUBLASLT_MATMUL_DESC_TRANSA, &product.a), (CUBLASLT_MATMUL_DESC_TRANSB, &product.b)]
        {
            let value = if matrix.transposed { OP_T } else { OP_N };
            // SAFETY: the attribute is an int32, and is copied.
            unsafe {
                let (value, bytes) = ((&raw const value).cast(), size_of::<i32>());
                calls::cublasLtMatmulDescSetAttribute(operation.get(), attribute, value, bytes)
            }
            .check("describing a product")?;
        }
        let [a, b, c] = [&product.a, &product.b, &product.c].map(|matrix| layout(matrix, data));
        let (a, b, c) = (a?, b?, c?);
        let choice = choose(handle, &operation, [&a, &b, &c])?;
        Ok(choice.map(|choice| Plan { operation, a, b, c, algorithm: choice.algorithm, workspace: choice.workspace }))
    }
}

fn layout(matrix: &Matrix, data: cudaDataType) -> Result<Handle<cublasLtMatrixLayoutOpaque_t>> {
    let Matrix { rows, columns, leading, .. } = *matrix;
    let create = |to| {
        // SAFETY: the layout is written to.
        unsafe { calls::cublasLtMatrixLayoutCreate(to, data, rows as u64, columns as u64, leading as i64) }
    };
    // SAFETY: destroy takes what create writes.
    unsafe { Owned::new(create, calls::cublasLtMatrixLayoutDestroy, "describing a matrix") }
}

/// Returns the first algorithm of the heuristic that works within the limits, or `None`.
fn choose(
    handle: sys::cublasLtHandle_t,
    operation: &Handle<cublasLtMatmulDescOpaque_t>,
    [a, b, c]: [&Handle<cublasLtMatrixLayoutOpaque_t>; 3],
) -> Result<Option<Choice>> {
    use cublasLtMatmulPreferenceAttributes_t::*;
    // SAFETY: destroy takes what create writes.
    let preference = unsafe {
        let create = |to| calls::cublasLtMatmulPreferenceCreate(to);
        Owned::new(create, calls::cublasLtMatmulPreferenceDestroy, "choosing an algorithm")?
    };
    let set = |attribute, value: *const c_void, bytes| {
        // SAFETY: `value` has that many bytes, as many as the attribute, and is copied.
        unsafe { calls::cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, value, bytes) }
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
        let alignment = OPERAND_ALIGNMENT as u32;
        set(attribute, (&raw const alignment).cast(), size_of::<u32>())?;
    }
    // SAFETY: all fields are numbers, and a status, for which 0 is valid.
    let mut results: [Choice; CHOICES] = unsafe { std::mem::zeroed() };
    let mut found = 0;
    // SAFETY: all handles are valid, and there is room for as many results as are asked for.
    let status = unsafe {
        let (a, b, c) = (a.get(), b.get(), c.get());
        let (preference, results) = (preference.get(), results.as_mut_ptr());
        let operation = operation.get();
        calls::cublasLtMatmulAlgoGetHeuristic(
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
    let works =
        |result: &&Choice| result.status == CublasStatus::CUBLAS_STATUS_SUCCESS && result.workspace <= WORKSPACE;
    if status == CublasStatus::CUBLAS_STATUS_NOT_SUPPORTED {
        return Ok(None);
    }
    status.check("choosing an algorithm")?;
    Ok(results[..found].iter().find(works).copied())
}
