//! The innermost loop of every matrix product: a tile of six rows by up to four vectors of columns stays in registers.
//!
//! The left matrix is read in place through row pointers, and its elements are broadcast one by one; the right matrix is packed into
//! panels as wide as the tile. A convolution therefore needs no im2col copy: a row pointer per output pixel and tap is enough.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512, Portable, Simd};

/// Rows of a tile.
pub(super) const MR: usize = 6;
/// Columns of the widest tile of all instruction sets.
pub(super) const MAX_NR: usize = 64;

/// The work of one tile: `c[r][..] (+)= Σ_segment Σ_k segment[r][offset + k·step] · b[k][..]`.
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
}

/// # Safety
/// The pointers of the tile must be valid for what its fields say, rows of `c` must not overlap, and the CPU must have the instructions.
type Kernel = unsafe fn(&Tile);

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Isa {
    pub name: &'static str,
    pub lanes: usize,
    /// For tiles of 1, 2, ... vectors, with rows of the left matrix that are contiguous in k.
    rows: &'static [Kernel],
    /// The same, for a left matrix that is packed as `[k][MR]`.
    packed: &'static [Kernel],
}

impl Isa {
    /// Returns the width of tiles for `n` columns.
    pub(crate) fn nr(&self, n: usize) -> usize {
        n.div_ceil(self.lanes).clamp(1, self.rows.len()) * self.lanes
    }

    /// Returns the kernel for tiles of `nr` columns.
    pub(super) fn rows(&self, nr: usize) -> Kernel {
        self.rows[nr / self.lanes - 1]
    }

    /// Returns the kernel for tiles of `nr` columns and a packed left matrix.
    pub(super) fn packed(&self, nr: usize) -> Kernel {
        self.packed[nr / self.lanes - 1]
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const NV: usize, const STEP: usize>(t: &Tile) {
    // SAFETY: the contract of `Kernel`.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        let mut b = t.b;
        for s in 0..t.segment_count {
            let rows = (*t.segments.add(s)).map(|row| row.add(t.offset));
            for k in 0..t.segment_len {
                let columns: [S; NV] = std::array::from_fn(|v| S::load(b.add(v * S::LANES)));
                for r in 0..MR {
                    let a = S::splat(*rows[r].add(k * STEP));
                    for v in 0..NV {
                        acc[r][v] = a.mul_add(columns[v], acc[r][v]);
                    }
                }
                b = b.add(NV * S::LANES);
            }
        }
        for r in 0..MR {
            for v in 0..NV {
                let c = t.c[r].add(v * S::LANES);
                let sum = if t.accumulate { acc[r][v].add(S::load(c)) } else { acc[r][v] };
                sum.store(c);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const NV: usize, const STEP: usize>(t: &Tile) {
    // SAFETY: the contract of `Kernel`; the instruction set is enabled here.
    unsafe { tile::<Avx512, NV, STEP>(t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const NV: usize, const STEP: usize>(t: &Tile) {
    // SAFETY: the contract of `Kernel`; the instruction set is enabled here.
    unsafe { tile::<Avx2, NV, STEP>(t) }
}

unsafe fn portable<const NV: usize, const STEP: usize>(t: &Tile) {
    // SAFETY: the contract of `Kernel`.
    unsafe { tile::<Portable, NV, STEP>(t) }
}

/// Returns the instruction sets of this machine, the best one first.
pub(super) fn available() -> Vec<Isa> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            found.push(Isa {
                name: "AVX-512",
                lanes: 16,
                rows: &[avx512::<1, 1>, avx512::<2, 1>, avx512::<3, 1>, avx512::<4, 1>],
                packed: &[avx512::<1, MR>, avx512::<2, MR>, avx512::<3, MR>, avx512::<4, MR>],
            });
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            found.push(Isa {
                name: "AVX2",
                lanes: 8,
                rows: &[avx2::<1, 1>, avx2::<2, 1>],
                packed: &[avx2::<1, MR>, avx2::<2, MR>],
            });
        }
    }
    found.push(Isa {
        name: "portable",
        lanes: 8,
        rows: &[portable::<1, 1>, portable::<2, 1>],
        packed: &[portable::<1, MR>, portable::<2, MR>],
    });
    found
}

/// Returns the instruction set in use.
pub(super) fn best() -> Isa {
    static BEST: OnceLock<Isa> = OnceLock::new();
    *BEST.get_or_init(|| available()[0])
}

/// Returns the name of the instruction set that matrix products use on this machine.
pub(crate) fn isa_name() -> &'static str {
    best().name
}
