//! What this machine can do at most: the rates of a large product and of a large copy.

use std::time::Instant;

use crate::Result;
use crate::base::memory;
use crate::engine::cpu::{conv, par};
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::precision::Precision;

/// The product is of matrices of this many rows, and of this many columns on either side.
const ROWS: usize = 8192;
const COLUMNS: usize = 1024;
/// Numbers that are copied: more than the caches hold.
const COPIED: usize = 1 << 26;
/// Measurements of each rate; the fastest counts.
const TRIES: usize = 5;

/// The rates of this machine on all compute threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Floating-point operations per second of a large product, by the kernels that convolutions use.
    pub product: f64,
    /// Bytes per second of a large copy, read and written ones together.
    pub copy: f64,
}

impl Machine {
    /// Measures both rates; the product has factors of `precision`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub(crate) fn measure(precision: Precision) -> Result<Machine> {
        Ok(Machine { product: product(precision)?, copy: copy()? })
    }
}

/// Measures a 1x1 convolution, which is a plain product.
fn product(precision: Precision) -> Result<f64> {
    let geometry = Conv2dGeometry::new(1, [ROWS, 1], COLUMNS, COLUMNS, [1, 1], [1, 1], [0, 0])?;
    let (x, weight) = (vec![0.5; ROWS * COLUMNS], vec![0.5; COLUMNS * COLUMNS]);
    let (mut y, mut workspace) = (vec![0.0; ROWS * COLUMNS], vec![0.0; conv::forward_workspace(&geometry)]);
    let seconds = fastest(|| {
        conv::conv2d_forward(precision, &geometry, &x, &weight, None, &mut y, conv::Packed::empty(&mut workspace))
    });
    Ok(geometry.flops() as f64 / seconds)
}

fn copy() -> Result<f64> {
    let bytes = 2 * size_of::<f32>() * COPIED;
    memory::ensure("measuring the rate of a large copy", bytes as u64)?;
    let (from, mut to) = (vec![1.0; COPIED], vec![0.0; COPIED]);
    Ok(bytes as f64 / fastest(|| par::put(&mut to, &from, false)))
}

/// Returns the seconds of the fastest of several runs of `work`, after one that is not measured.
fn fastest(mut work: impl FnMut()) -> f64 {
    work();
    let seconds = (0..TRIES).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}
