//! What ops share on the CPU: matrix products, convolution, the fused cell, and loops that give the same bits for any number of
//! threads.

// Only some processors have dot products of bf16.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod bf16;
pub mod cell;
pub mod conv;
mod gemm;
mod isa;
mod math;
mod matmul;
mod microkernel;
mod normalize;
mod pairs;
pub mod par;
mod scratch;
mod simd;

pub use isa::InstructionSet;
pub(crate) use isa::for_each_isa;
pub(crate) use matmul::{PackedRows, matmul_nt, summed_at_once};
pub(crate) use microkernel::isa_name;
pub(in crate::engine) use normalize::Normalization;
pub(crate) use pairs::{squared_distances, squared_distances_of_directions};
#[cfg(target_arch = "x86_64")]
pub(in crate::engine) use simd::{Avx2, Avx512};
pub(in crate::engine) use simd::{Portable, Simd, for_each_vector};
