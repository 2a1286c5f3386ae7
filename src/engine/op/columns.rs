//! Copies between matrices with rows of different lengths on a GPU.

use crate::Result;
use crate::engine::device::{Gpu, Grid, Ptr, kernels};

/// Some neighbouring columns of a matrix of activations, and those of another one to which they are copied.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    /// The first of the columns in the first row.
    pub from: Ptr,
    /// Elements of a row of the matrix that is read.
    pub from_pitch: usize,
    /// The same of the matrix that is written.
    pub to: Ptr,
    pub to_pitch: usize,
    /// How many columns are copied.
    pub width: usize,
    /// Whether to add to what is there.
    pub accumulate: bool,
}

/// Enqueues the copies of `rows` rows of each of `parts`, two in a launch.
pub(super) fn copy(gpu: &Gpu, rows: usize, parts: &[Columns]) -> Result<()> {
    for pair in parts.chunks(2) {
        let (a, b) = (pair[0], pair[pair.len() - 1]);
        let [blocks, ..] = Grid::any(rows * a.width.max(b.width)).blocks;
        kernels::copy_columns(
            gpu,
            [blocks, pair.len()],
            rows as i64,
            a.from,
            a.to,
            a.width as i32,
            a.from_pitch as i64,
            a.to_pitch as i64,
            i32::from(a.accumulate),
            b.from,
            b.to,
            b.width as i32,
            b.from_pitch as i64,
            b.to_pitch as i64,
            i32::from(b.accumulate),
        )?;
    }
    Ok(())
}
