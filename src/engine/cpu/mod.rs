//! What ops share on the CPU: matrix products, convolution, the fused cell, and loops that give the same bits for any number of
//! threads.

pub mod cell;
pub mod conv;
mod gemm;
pub mod math;
mod matmul;
mod microkernel;
mod pairs;
pub mod par;
mod simd;

pub use matmul::{COLUMN_ALIGNMENT, PackedRows, matmul_nt, summed_at_once};
pub use microkernel::isa_name;
pub use pairs::{squared_distances, squared_distances_of_directions};
pub(crate) use simd::with_best_isa;
