//! Parallel loops that are split by shapes alone, so that results have the same bits for any number of threads.

use rayon::prelude::*;

use super::isa::for_each_isa;

/// How many elements one task handles: enough to pay for the task, few enough to balance many cores.
const TASK_LEN: usize = 1 << 15;
/// A result of this many numbers or more is stored past the caches: about the share of a core in the last level.
const STREAMED: usize = 1 << 21;

/// Returns the rows of a task, for rows of `row_len` elements.
pub(crate) fn task_rows(row_len: usize) -> usize {
    (TASK_LEN / row_len.max(1)).max(1)
}

/// Calls `f(first row, rows)` on chunks of `data`, which has rows of `row_len` elements. Loops of `f` belong into functions of
/// [`for_each_isa`].
pub(crate) fn rows_mut(data: &mut [f32], row_len: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = task_rows(row_len);
    data.par_chunks_mut(rows * row_len).enumerate().for_each(|(i, chunk)| f(i * rows, chunk));
}

/// Returns whether a loop that writes `len` numbers in all should store its part `to` past the caches: so many numbers would not stay there
/// until they are read. It can be done only if `to` begins with a cache line, and so do its rows of `row` numbers.
pub(crate) fn streams(to: &[f32], len: usize, row: usize) -> bool {
    len >= STREAMED && row.is_multiple_of(16) && to.as_ptr().addr().is_multiple_of(64)
}

/// Computes `destination[i] = source[i]`, or `+=`.
pub fn put(destination: &mut [f32], source: &[f32], accumulate: bool) {
    destination.par_chunks_mut(TASK_LEN).zip(source.par_chunks(TASK_LEN)).for_each(|(d, s)| {
        if accumulate {
            add_assign(d, s);
        } else {
            d.copy_from_slice(s);
        }
    });
}

for_each_isa! {
    /// Computes `sums[i] += values[i]`.
    pub(crate) fn add_assign(sums: &mut [f32], values: &[f32]) {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
}

/// Returns the sums of `width` columns over `rows` rows. `f(row range, sums)` adds up one chunk of rows, which
/// have `row_len` elements; chunks are added in order, in f64. Each thread begins with its last rows: they were written last, and are the
/// likeliest to be in a cache; then a pass that begins with the first rows finds these there.
pub(crate) fn column_sums(
    rows: usize,
    width: usize,
    row_len: usize,
    f: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
) -> Vec<f64> {
    let step = task_rows(row_len);
    let partial: Vec<Vec<f32>> = (0..rows.div_ceil(step))
        .into_par_iter()
        .rev()
        .map(|i| {
            let mut sums = vec![0.0; width];
            f(i * step..((i + 1) * step).min(rows), &mut sums);
            sums
        })
        .collect();
    let mut total = vec![0.0; width];
    for sums in partial.into_iter().rev() {
        total.iter_mut().zip(sums).for_each(|(t, s)| *t += f64::from(s));
    }
    total
}
