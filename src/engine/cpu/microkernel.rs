//! The innermost loop of every matrix product: a tile of six rows by up to four vectors of columns stays in registers.
//!
//! The left matrix is read in place, through row pointers or at equal distances, and its elements are broadcast one by one; the right matrix
//! is packed into panels as wide as the tile. A convolution therefore needs no im2col copy: a row pointer per output pixel and tap is enough.

use super::bf16::Rounding;
use super::isa::InstructionSet;
use super::normalize::normalized;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd, prefetch};
use crate::engine::precision::Precision;

/// Rows of a tile.
pub(super) const MR: usize = 6;
/// Columns of the widest tile of all instruction sets.
pub(super) const MAX_NR: usize = 64;

/// A group of rows of the left matrix, as a kernel reads it: `segment_count` segments one after the other.
#[derive(Clone, Copy)]
pub(super) struct Left {
    /// Row pointers of each segment.
    pub segments: *const [*const f32; MR],
    pub segment_count: usize,
    /// How many elements of each segment are read, and where they start.
    pub segment_len: usize,
    pub offset: usize,
}

/// The work of one tile: `c[r][..] (+)= Σ_segment Σ_k segment[r][offset + k] · b[k][..]`.
pub(super) struct Tile {
    pub left: Left,
    /// The packed panel: as many rows, as wide as the tile, as there are elements in all segments.
    pub b: *const f32,
    pub c: [*mut f32; MR],
    /// Whether to add to `c` instead of overwriting it.
    pub accumulate: bool,
    /// What is done with the sums before they are written.
    pub normalize: Option<NormalizedTile>,
}

/// The numbers by which a tile is normalised (see [`Normalization`](super::normalize::Normalization)).
pub(super) struct NormalizedTile {
    /// Mean, scale and bias of the tile's first column; those of the other columns follow.
    pub numbers: [*const f32; 3],
    /// The residual of each row, or null pointers.
    pub residual: [*const f32; MR],
    pub floor: f32,
}

/// The work of one tile whose rows are at equal distances. With a left matrix by rows, `c[r·c_step..] (+)= Σ_k a[r·a_step + k] · b[k][..]`;
/// by columns, it is `a[k·a_step + r]`.
pub(super) struct Strided {
    pub a: *const f32,
    pub a_step: usize,
    /// The packed panel: `depth` rows as wide as the tile.
    pub b: *const f32,
    pub depth: usize,
    pub c: *mut f32,
    pub c_step: usize,
    /// Whether to add to `c` instead of overwriting it.
    pub accumulate: bool,
}

/// # Safety
/// The pointers of the tile must be valid for what its fields say, rows of `c` must not overlap, and the CPU must have the instructions.
type RowsKernel = unsafe fn(&Tile);
/// # Safety
/// As for [`RowsKernel`].
pub(super) type StridedKernel = unsafe fn(&Strided);

/// The kernels for tiles of 1, 2, ... vectors.
pub(super) struct Tiles {
    lanes: usize,
    rows: [RowsKernel; 4],
    columns: [StridedKernel; 4],
    strided_rows: [StridedKernel; 4],
}

impl Tiles {
    /// Returns the kernel for tiles of `nr` columns and rows of the left matrix that are contiguous in k.
    pub(super) fn rows(&self, nr: usize) -> RowsKernel {
        self.rows[nr / self.lanes - 1]
    }

    /// Returns the kernel for tiles of `nr` columns and a left matrix whose columns are contiguous.
    pub(super) fn columns(&self, nr: usize) -> StridedKernel {
        self.columns[nr / self.lanes - 1]
    }

    /// Returns the kernel for tiles of `nr` columns and rows at equal distances, contiguous in k.
    pub(super) fn strided_rows(&self, nr: usize) -> StridedKernel {
        self.strided_rows[nr / self.lanes - 1]
    }
}

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    pub set: InstructionSet,
    pub name: &'static str,
    pub lanes: usize,
    /// Vectors of the widest tile.
    vectors: usize,
    pub tiles: &'static Tiles,
    /// What products with factors in bf16 use; `None` if all are computed in f32.
    pub bf16: Option<Bf16Kernels>,
}

impl Kernels {
    /// Returns the width of tiles for `n` columns.
    pub(crate) fn nr(&self, n: usize) -> usize {
        n.div_ceil(self.lanes).clamp(1, self.vectors) * self.lanes
    }
}

/// Kernels for words of two bf16 instead of numbers ([`Rounding`]): a dot product of two takes the place of a product, so that a tile has half
/// the depth. Its width is that of tiles of numbers.
#[derive(Clone, Copy)]
pub(super) struct Bf16Kernels {
    pub rounding: Rounding,
    pub tiles: &'static Tiles,
}

/// Elements of a segment that are handled in one turn of the loop.
const UNROLLED: usize = 4;

/// How an element of the left and a vector of elements of the right matrix are multiplied, and added to sums.
trait Factors<S> {
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add_product(a: S, b: S, sums: S) -> S;
}

/// Elements are numbers.
struct Numbers;

impl<S: Simd> Factors<S> for Numbers {
    #[inline(always)]
    unsafe fn add_product(a: S, b: S, sums: S) -> S {
        // SAFETY: the caller's promise.
        unsafe { a.mul_add(b, sums) }
    }
}

/// Elements are words of two bf16, on any processor: for tests.
#[cfg(test)]
struct Pairs;

#[cfg(test)]
impl<S: Simd> Factors<S> for Pairs {
    #[inline(always)]
    unsafe fn add_product(a: S, b: S, sums: S) -> S {
        let numbers = |words: S| {
            let mut bits = [0u32; 16];
            // SAFETY: a vector has at most 16 lanes.
            unsafe {
                words.store(bits.as_mut_ptr().cast());
                let half = |of: fn(u32) -> u32| S::load(bits.map(of).as_ptr().cast());
                [half(|bits| bits << 16), half(|bits| bits & !0xffff)]
            }
        };
        let ([a0, a1], [b0, b1]) = (numbers(a), numbers(b));
        // SAFETY: the caller's promise.
        unsafe { a0.mul_add(b0, a1.mul_add(b1, sums)) }
    }
}

/// Elements are words of two bf16, on a processor with dot products of them.
#[cfg(target_arch = "x86_64")]
struct DotProducts;

#[cfg(target_arch = "x86_64")]
impl Factors<Avx512> for DotProducts {
    #[inline(always)]
    unsafe fn add_product(a: Avx512, b: Avx512, sums: Avx512) -> Avx512 {
        // SAFETY: the caller's promise.
        unsafe { a.dot_pairs(b, sums) }
    }
}

/// Adds the products of a column of the left matrix, whose elements are at `a`, with the row of the panel at `b`.
///
/// # Safety
/// `a` is valid for reads, `b` for reads of `NV` vectors, and the CPU has the instructions.
#[inline(always)]
unsafe fn add_products<S: Simd, F: Factors<S>, const NV: usize>(
    acc: &mut [[S; NV]; MR],
    a: [*const f32; MR],
    b: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let columns: [S; NV] = std::array::from_fn(|v| S::load(b.add(v * S::LANES)));
        for r in 0..MR {
            let a = S::splat(*a[r]);
            for v in 0..NV {
                acc[r][v] = F::add_product(a, columns[v], acc[r][v]);
            }
        }
    }
}

#[inline(always)]
unsafe fn rows<S: Simd, F: Factors<S>, const NV: usize>(t: &Tile) {
    // SAFETY: the contract of `RowsKernel`.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        let mut b = t.b;
        t.c.iter().for_each(|c| prefetch(*c));
        if let Some(normalize) = &t.normalize {
            normalize.residual.iter().for_each(|residual| prefetch(*residual));
        }
        let Left { segments, segment_count, segment_len, offset } = t.left;
        for s in 0..segment_count {
            let rows = (*segments.add(s)).map(|row| row.add(offset));
            let whole = segment_len / UNROLLED * UNROLLED;
            for k in (0..whole).step_by(UNROLLED) {
                for k in k..k + UNROLLED {
                    add_products::<S, F, NV>(&mut acc, rows.map(|row| row.add(k)), b);
                    b = b.add(NV * S::LANES);
                }
            }
            for k in whole..segment_len {
                add_products::<S, F, NV>(&mut acc, rows.map(|row| row.add(k)), b);
                b = b.add(NV * S::LANES);
            }
        }
        for r in 0..MR {
            for v in 0..NV {
                let c = t.c[r].add(v * S::LANES);
                let sum = if t.accumulate { acc[r][v].add(S::load(c)) } else { acc[r][v] };
                acc[r][v] = sum;
                if t.normalize.is_none() {
                    sum.store(c);
                }
            }
        }
        if let Some(NormalizedTile { numbers, residual, floor }) = &t.normalize {
            for v in 0..NV {
                let numbers = numbers.map(|n| S::load(n.add(v * S::LANES)));
                for r in 0..MR {
                    let residual = (!residual[r].is_null()).then(|| S::load(residual[r].add(v * S::LANES)));
                    normalized(acc[r][v], numbers, residual, *floor).store(t.c[r].add(v * S::LANES));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn strided<S: Simd, F: Factors<S>, const NV: usize, const COLUMNS: bool>(t: &Strided) {
    // SAFETY: the contract of `StridedKernel`.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        let (mut a, mut b) = (t.a, t.b);
        (0..MR).for_each(|r| prefetch(t.c.add(r * t.c_step)));
        let rows = |a: *const f32| std::array::from_fn(|r| a.add(if COLUMNS { r } else { r * t.a_step }));
        let step = if COLUMNS { t.a_step } else { 1 };
        for _ in 0..t.depth / UNROLLED {
            for _ in 0..UNROLLED {
                add_products::<S, F, NV>(&mut acc, rows(a), b);
                // Beyond the last element it is not read.
                a = a.wrapping_add(step);
                b = b.add(NV * S::LANES);
            }
        }
        for _ in 0..t.depth % UNROLLED {
            add_products::<S, F, NV>(&mut acc, rows(a), b);
            a = a.wrapping_add(step);
            b = b.add(NV * S::LANES);
        }
        for r in 0..MR {
            for v in 0..NV {
                let c = t.c.add(r * t.c_step + v * S::LANES);
                let sum = if t.accumulate { acc[r][v].add(S::load(c)) } else { acc[r][v] };
                sum.store(c);
            }
        }
    }
}

/// Defines the kernels of one instruction set for tiles of up to four vectors of such factors.
macro_rules! define_kernels {
    ($set:ident, $vector:ident, $factors:ident $(, #[$feature:meta])?) => {
        mod $set {
            use super::*;
            $(#[$feature])?
            unsafe fn rows<const NV: usize>(t: &Tile) {
                // SAFETY: the contract of `RowsKernel`; the instruction set is enabled here.
                unsafe { super::rows::<$vector, $factors, NV>(t) }
            }
            $(#[$feature])?
            unsafe fn columns<const NV: usize>(t: &Strided) {
                // SAFETY: the contract of `StridedKernel`; the instruction set is enabled here.
                unsafe { super::strided::<$vector, $factors, NV, true>(t) }
            }
            $(#[$feature])?
            unsafe fn strided_rows<const NV: usize>(t: &Strided) {
                // SAFETY: as above.
                unsafe { super::strided::<$vector, $factors, NV, false>(t) }
            }
            pub(super) static KERNELS: Tiles = Tiles {
                lanes: <$vector as Simd>::LANES,
                rows: [rows::<1>, rows::<2>, rows::<3>, rows::<4>],
                columns: [columns::<1>, columns::<2>, columns::<3>, columns::<4>],
                strided_rows: [strided_rows::<1>, strided_rows::<2>, strided_rows::<3>, strided_rows::<4>],
            };
        }
    };
}

#[cfg(target_arch = "x86_64")]
define_kernels!(avx512, Avx512, Numbers, #[target_feature(enable = "avx512f,avx2,fma")]);
#[cfg(target_arch = "x86_64")]
define_kernels!(avx512_bf16, Avx512, DotProducts, #[target_feature(enable = "avx512f,avx512bf16,avx2,fma")]);
#[cfg(target_arch = "x86_64")]
define_kernels!(avx2, Avx2, Numbers, #[target_feature(enable = "avx2,fma")]);
define_kernels!(portable, Portable, Numbers);
#[cfg(test)]
define_kernels!(portable_bf16, Portable, Pairs);

/// Returns the kernels of the instruction sets that may be used here, the best one first.
#[cfg(test)]
pub(super) fn available() -> Vec<Kernels> {
    InstructionSet::available().map(kernels_of).collect()
}

/// Returns kernels with factors in bf16 that may be used here: those of this processor if it has any, and those of every processor.
#[cfg(test)]
pub(super) fn available_in_bf16() -> Vec<Kernels> {
    let bf16 = Some(Bf16Kernels { rounding: Rounding::PORTABLE, tiles: &portable_bf16::KERNELS });
    let portable = Kernels { name: "portable, bf16", bf16, ..kernels_of(InstructionSet::Portable) };
    let of_this_processor = InstructionSet::has_bf16().then(|| of(Precision::Bf16));
    of_this_processor.into_iter().chain([portable]).collect()
}

/// Returns the kernels of an instruction set. Sixteen registers hold tiles of two vectors, 32 registers tiles of four.
fn kernels_of(set: InstructionSet) -> Kernels {
    let (name, vectors, tiles) = match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => ("AVX-512", 4, &avx512::KERNELS),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => ("AVX2", 2, &avx2::KERNELS),
        #[cfg(not(target_arch = "x86_64"))]
        InstructionSet::Avx2 | InstructionSet::Avx512 => unreachable!("not detected"),
        InstructionSet::Portable => ("portable", 2, &portable::KERNELS),
    };
    Kernels { set, name, lanes: tiles.lanes, vectors, tiles, bf16: None }
}

/// Returns the best kernels for f32.
pub(super) fn best() -> Kernels {
    kernels_of(InstructionSet::best())
}

/// Returns the best kernels for a precision; tf32 is f32 here.
///
/// # Panics
/// If the processor has no dot products of bf16 ([`InstructionSet::has_bf16`]).
pub(super) fn of(precision: Precision) -> Kernels {
    let kernels = best();
    match precision {
        Precision::F32 | Precision::Tf32 => kernels,
        Precision::Bf16 => {
            assert!(InstructionSet::has_bf16(), "a processor with dot products of bf16");
            Kernels { bf16: bf16_of_this_processor(), ..kernels }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn bf16_of_this_processor() -> Option<Bf16Kernels> {
    Some(Bf16Kernels { rounding: Rounding::AVX512_BF16, tiles: &avx512_bf16::KERNELS })
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_of_this_processor() -> Option<Bf16Kernels> {
    None
}

/// Returns the name of the instruction set that matrix products use on this machine.
pub(crate) fn isa_name() -> &'static str {
    best().name
}
