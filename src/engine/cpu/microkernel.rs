//! The innermost loop of every matrix product: a tile of six rows by up to four vectors of columns stays in registers.
//!
//! The left matrix is read in place, through row pointers or at equal distances, and its elements are broadcast one by one; the right matrix
//! is packed into panels as wide as the tile. A convolution therefore needs no im2col copy: a row pointer per output pixel and tap is enough.

use super::isa::InstructionSet;
use super::normalize::normalized;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd, prefetch};

/// Rows of a tile.
pub(super) const MR: usize = 6;
/// Columns of the widest tile of all instruction sets.
pub(super) const MAX_NR: usize = 64;

/// The work of one tile: `c[r][..] (+)= Σ_segment Σ_k segment[r][offset + k] · b[k][..]`.
pub(super) struct Tile {
    /// Row pointers of each segment.
    pub segments: *const [*const f32; MR],
    pub segment_count: usize,
    /// How many elements of each segment are read, and where they start.
    pub segment_len: usize,
    pub offset: usize,
    /// The packed panel: `segment_count * segment_len` rows as wide as the tile.
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
type StridedKernel = unsafe fn(&Strided);

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    pub set: InstructionSet,
    pub name: &'static str,
    pub lanes: usize,
    /// For tiles of 1, 2, ... vectors, with rows of the left matrix that are contiguous in k.
    rows: &'static [RowsKernel],
    /// The same, for a left matrix whose columns are contiguous.
    columns: &'static [StridedKernel],
    /// The same, for rows at equal distances, contiguous in k.
    strided_rows: &'static [StridedKernel],
}

impl Kernels {
    /// Returns the width of tiles for `n` columns.
    pub(crate) fn nr(&self, n: usize) -> usize {
        n.div_ceil(self.lanes).clamp(1, self.rows.len()) * self.lanes
    }

    /// Returns the kernel for tiles of `nr` columns.
    pub(super) fn rows(&self, nr: usize) -> RowsKernel {
        self.rows[nr / self.lanes - 1]
    }

    /// Returns the kernel for tiles of `nr` columns and a left matrix whose columns are contiguous.
    pub(super) fn columns(&self, nr: usize) -> StridedKernel {
        self.columns[nr / self.lanes - 1]
    }

    /// Returns the kernel for tiles of `nr` columns and rows at equal distances.
    pub(super) fn strided_rows(&self, nr: usize) -> StridedKernel {
        self.strided_rows[nr / self.lanes - 1]
    }
}

/// Elements of a segment that are handled in one turn of the loop.
const UNROLLED: usize = 4;

/// Adds the products of a column of the left matrix, whose elements are at `a`, with the row of the panel at `b`.
///
/// # Safety
/// `a` is valid for reads, `b` for reads of `NV` vectors, and the CPU has the instructions.
#[inline(always)]
unsafe fn add_products<S: Simd, const NV: usize>(acc: &mut [[S; NV]; MR], a: [*const f32; MR], b: *const f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let columns: [S; NV] = std::array::from_fn(|v| S::load(b.add(v * S::LANES)));
        for r in 0..MR {
            let a = S::splat(*a[r]);
            for v in 0..NV {
                acc[r][v] = a.mul_add(columns[v], acc[r][v]);
            }
        }
    }
}

#[inline(always)]
unsafe fn rows<S: Simd, const NV: usize>(t: &Tile) {
    // SAFETY: the contract of `RowsKernel`.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        let mut b = t.b;
        t.c.iter().for_each(|c| prefetch(*c));
        if let Some(normalize) = &t.normalize {
            normalize.residual.iter().for_each(|residual| prefetch(*residual));
        }
        for s in 0..t.segment_count {
            let rows = (*t.segments.add(s)).map(|row| row.add(t.offset));
            let whole = t.segment_len / UNROLLED * UNROLLED;
            for k in (0..whole).step_by(UNROLLED) {
                for k in k..k + UNROLLED {
                    add_products(&mut acc, rows.map(|row| row.add(k)), b);
                    b = b.add(NV * S::LANES);
                }
            }
            for k in whole..t.segment_len {
                add_products(&mut acc, rows.map(|row| row.add(k)), b);
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
unsafe fn strided<S: Simd, const NV: usize, const COLUMNS: bool>(t: &Strided) {
    // SAFETY: the contract of `StridedKernel`.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        let (mut a, mut b) = (t.a, t.b);
        (0..MR).for_each(|r| prefetch(t.c.add(r * t.c_step)));
        let rows = |a: *const f32| std::array::from_fn(|r| a.add(if COLUMNS { r } else { r * t.a_step }));
        let step = if COLUMNS { t.a_step } else { 1 };
        for _ in 0..t.depth / UNROLLED {
            for _ in 0..UNROLLED {
                add_products(&mut acc, rows(a), b);
                // Beyond the last element it is not read.
                a = a.wrapping_add(step);
                b = b.add(NV * S::LANES);
            }
        }
        for _ in 0..t.depth % UNROLLED {
            add_products(&mut acc, rows(a), b);
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

/// Defines the kernels of one instruction set for tiles of up to four vectors.
macro_rules! define_kernels {
    ($set:ident, $vector:ident $(, $(#[$feature:meta])+)?) => {
        mod $set {
            use super::*;
            $($(#[$feature])+)?
            unsafe fn rows<const NV: usize>(t: &Tile) {
                // SAFETY: the contract of `RowsKernel`; the instruction set is enabled here.
                unsafe { super::rows::<$vector, NV>(t) }
            }
            $($(#[$feature])+)?
            unsafe fn columns<const NV: usize>(t: &Strided) {
                // SAFETY: the contract of `StridedKernel`; the instruction set is enabled here.
                unsafe { super::strided::<$vector, NV, true>(t) }
            }
            $($(#[$feature])+)?
            unsafe fn strided_rows<const NV: usize>(t: &Strided) {
                // SAFETY: as above.
                unsafe { super::strided::<$vector, NV, false>(t) }
            }
            pub(super) static ROWS: [RowsKernel; 4] = [rows::<1>, rows::<2>, rows::<3>, rows::<4>];
            pub(super) static COLUMNS: [StridedKernel; 4] = [columns::<1>, columns::<2>, columns::<3>, columns::<4>];
            pub(super) static STRIDED_ROWS: [StridedKernel; 4] =
                [strided_rows::<1>, strided_rows::<2>, strided_rows::<3>, strided_rows::<4>];
        }
    };
}

#[cfg(target_arch = "x86_64")]
define_kernels!(avx512, Avx512, #[target_feature(enable = "avx512f,avx2,fma")]);
#[cfg(target_arch = "x86_64")]
define_kernels!(avx2, Avx2, #[target_feature(enable = "avx2,fma")]);
define_kernels!(portable, Portable);

/// Returns the kernels of the instruction sets that may be used here, the best one first.
#[cfg(test)]
pub(super) fn available() -> Vec<Kernels> {
    InstructionSet::available().map(kernels_of).collect()
}

/// Returns the kernels of an instruction set. Sixteen registers hold tiles of two vectors, 32 registers tiles of four.
fn kernels_of(set: InstructionSet) -> Kernels {
    macro_rules! of {
        ($kernels:ident, $name:literal, $lanes:literal, $vectors:literal) => {
            Kernels {
                set,
                name: $name,
                lanes: $lanes,
                rows: $kernels::ROWS.split_at($vectors).0,
                columns: $kernels::COLUMNS.split_at($vectors).0,
                strided_rows: $kernels::STRIDED_ROWS.split_at($vectors).0,
            }
        };
    }
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => of!(avx512, "AVX-512", 16, 4),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => of!(avx2, "AVX2", 8, 2),
        #[cfg(not(target_arch = "x86_64"))]
        InstructionSet::Avx2 | InstructionSet::Avx512 => unreachable!("not detected"),
        InstructionSet::Portable => of!(portable, "portable", 8, 2),
    }
}

/// Returns the kernels in use.
pub(super) fn best() -> Kernels {
    kernels_of(InstructionSet::best())
}

/// Returns the name of the instruction set that matrix products use on this machine.
pub(crate) fn isa_name() -> &'static str {
    best().name
}
