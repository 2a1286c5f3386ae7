//! Computes `A · Bᵀ` of row-major matrices, with `B` packed once for many calls.

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{self, LeftRows, Product, RightMatrix, Shared, Then};
use super::microkernel::{self, Kernels, MAX_NR, MR};

/// Column ranges of [`matmul_nt`] start at multiples of this.
pub(crate) const COLUMN_ALIGNMENT: usize = MAX_NR;
/// How many numbers are packed at a time.
const GROUP_VALUES: usize = 1 << 16;

/// The rows of `B` `[rows, depth]`, packed into panels for the microkernel.
pub(crate) struct PackedRows {
    kernels: Kernels,
    panels: Vec<f32>,
    rows: usize,
    depth: usize,
    nr: usize,
}

impl PackedRows {
    /// Packs `n` rows of `depth` numbers. `fill(rows, out)` writes them into `out` `[rows.len(), depth]`; several threads call it, for
    /// ranges of rows in any order.
    ///
    /// # Panics
    /// If `depth` is 0.
    pub(crate) fn new(n: usize, depth: usize, fill: impl Fn(Range<usize>, &mut [f32]) + Sync) -> PackedRows {
        assert!(depth > 0, "rows of at least one number");
        let kernels = microkernel::best();
        let nr = kernels.nr(n);
        let mut panels = vec![0.0; RightMatrix::packed_len(depth, n, nr)];
        // As many rows as fit a core's cache.
        let group = nr * (GROUP_VALUES / (nr * depth)).max(1);
        panels.par_chunks_mut(group * depth).enumerate().for_each_init(Vec::new, |rows, (i, panels)| {
            let own = i * group..((i + 1) * group).min(n);
            rows.resize(own.len() * depth, 0.0);
            fill(own.clone(), rows);
            let (data, n) = (&rows[..], own.len());
            RightMatrix { data, tap_offsets: &[0], depth, n, k_stride: 1, n_stride: depth, gates: None }
                .pack(nr, panels);
        });
        PackedRows { kernels, panels, rows: n, depth, nr }
    }

    /// Returns the number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }
}

struct PlainRows<'a> {
    data: &'a [f32],
    depth: usize,
}

// SAFETY: each pointer is that of a slice of `depth` elements of the matrix.
unsafe impl LeftRows for PlainRows<'_> {
    fn taps(&self) -> usize {
        1
    }

    fn depth(&self) -> usize {
        self.depth
    }

    unsafe fn pointers(&self, rows: Range<usize>, _scratch: &mut [f32], out: &mut Vec<[*const f32; MR]>) {
        let row = |r: usize| self.data[r.min(rows.end - 1) * self.depth..][..self.depth].as_ptr();
        out.extend(rows.clone().step_by(MR).map(|group| std::array::from_fn(|r| row(group + r))));
    }
}

/// Computes `out[i][j - columns.start] = a_i · b_j` for `a` `[n, depth]` and the rows `columns` of `B`; `out` is
/// `[n, columns.len()]`.
///
/// Each product is summed in an order that depends on `depth` alone. Its bits do not depend on threads, on what is computed together with
/// it, or on which of its two rows is the left one.
///
/// # Panics
/// If sizes do not fit, or the range does not start at a multiple of [`COLUMN_ALIGNMENT`].
pub(crate) fn matmul_nt(a: &[f32], b: &PackedRows, columns: Range<usize>, out: &mut [f32]) {
    let (depth, n) = (b.depth, columns.len());
    let rows = a.len() / depth;
    assert_eq!((a.len(), out.len()), (rows * depth, rows * n), "sizes of a and out");
    assert!(columns.start.is_multiple_of(COLUMN_ALIGNMENT) && columns.end <= b.rows, "columns of a product");
    if out.is_empty() {
        return;
    }
    let destination = Shared(out.as_mut_ptr());
    let packed = &b.panels[columns.start * depth..];
    let left = PlainRows { data: a, depth };
    let product = Product { kernels: b.kernels, left: &left, rows, n, packed, nr: b.nr };
    // SAFETY: row `row` of `out`, which has `n` elements and is borrowed mutably.
    unsafe { product.run(false, Then::Nothing, |row| destination.get().add(row * n)) };
}

/// Returns the length of the partial sums of [`matmul_nt`] for rows of `depth` numbers. It adds up that many products one after the other,
/// and then adds the partial sums one after the other.
pub(crate) fn summed_at_once(depth: usize) -> usize {
    gemm::depth_blocks(1, depth)[0].3
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::base::rng::{Purpose, stream};

    #[test]
    fn products_match_the_definition_and_do_not_depend_on_their_company() {
        for (n_a, n_b, depth) in [(1, 1, 1), (7, 5, 3), (100, 333, 70), (13, 130, 600)] {
            let mut rng = stream(1, Purpose::Test, n_a as u64, 0);
            let mut matrix = |n: usize| (0..n * depth).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<_>>();
            let (a, b) = (matrix(n_a), matrix(n_b));
            let pack = |rows: &[f32]| {
                let of = |own: Range<usize>, out: &mut [f32]| {
                    out.copy_from_slice(&rows[own.start * depth..own.end * depth]);
                };
                PackedRows::new(rows.len() / depth, depth, of)
            };
            let (packed, transposed) = (pack(&b), pack(&a));
            let mut out = vec![0.0; n_a * n_b];
            matmul_nt(&a, &packed, 0..n_b, &mut out);
            let mut mirrored = vec![0.0; n_a * n_b];
            matmul_nt(&b, &transposed, 0..n_a, &mut mirrored);
            for i in 0..n_a {
                let mut alone = vec![0.0; n_b];
                matmul_nt(&a[i * depth..][..depth], &packed, 0..n_b, &mut alone);
                assert_eq!(alone, out[i * n_b..][..n_b]);
                for j in 0..n_b {
                    let want: f64 = (0..depth).map(|k| f64::from(a[i * depth + k]) * f64::from(b[j * depth + k])).sum();
                    assert!((f64::from(out[i * n_b + j]) - want).abs() < 1e-4, "{i} {j}");
                    assert_eq!(out[i * n_b + j], mirrored[j * n_a + i]);
                }
            }
            let start = n_b / COLUMN_ALIGNMENT * COLUMN_ALIGNMENT;
            let mut part = vec![0.0; n_a * (n_b - start)];
            matmul_nt(&a, &packed, start..n_b, &mut part);
            assert!((0..n_a).all(|i| part[i * (n_b - start)..][..n_b - start] == out[i * n_b + start..(i + 1) * n_b]));
        }
    }
}
