//! The common base of distances and re-ranking: scaled and centred features, products of their rows, and the bounds that these
//! products give for a pair.

mod conditioned;
mod gpu;
mod row;

pub(super) use self::conditioned::{Conditioned, ROUNDING, check_finite};
pub(super) use self::gpu::{Columns, RowTerms, allocate, rows_that_fit, upload};
pub(super) use self::row::{Pairs, Row, Width};

/// Number of products in memory at a time (64 MiB), unless fewer than [`MIN_BLOCK_ROWS`] rows fit.
const BLOCK_VALUES: usize = 1 << 24;
/// With fewer rows, reading the whole gallery for them takes longer than the products.
const MIN_BLOCK_ROWS: usize = 64;
const MAX_BLOCK_ROWS: usize = 512;

/// Returns how many rows a block of products with `n` items has: a multiple of 64, so that blocks start at whole panels.
pub(super) fn block_rows(n: usize) -> usize {
    (BLOCK_VALUES / n.max(1)).clamp(MIN_BLOCK_ROWS, MAX_BLOCK_ROWS) / MIN_BLOCK_ROWS * MIN_BLOCK_ROWS
}
