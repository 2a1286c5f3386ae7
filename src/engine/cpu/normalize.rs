//! `y = max(floor, (x - mean)·scale + bias + residual)` with numbers for each channel: in a pass of its own, or at the end of a convolution.

use super::InstructionSet;
use super::microkernel::{MR, NormalizedTile};
use super::par;
use super::simd::{Simd, end_stream, for_each_vector};

/// The numbers of a normalisation.
pub(in crate::engine) struct Normalization<'a> {
    /// Mean, scale and bias of each channel; repeated, if there are few channels, so that loops over several pixels can use them.
    pub numbers: [Vec<f32>; 3],
    pub channels: usize,
    /// `[pixels, channels]`.
    pub residual: Option<&'a [f32]>,
    /// Whether a ReLU follows.
    pub relu: bool,
}

impl Normalization<'_> {
    fn floor(&self) -> f32 {
        if self.relu { 0.0 } else { f32::NEG_INFINITY }
    }

    /// Returns whether this is a normalisation of `[pixels, channels]`.
    pub(super) fn fits(&self, pixels: usize, channels: usize) -> bool {
        let numbers = self.numbers.iter().all(|n| n.len() == self.numbers[0].len() && n.len() >= channels);
        channels == self.channels && numbers && self.residual.is_none_or(|r| r.len() == pixels * channels)
    }

    /// Writes all of `y`; both are `[pixels, channels]`.
    ///
    /// # Panics
    /// If sizes differ.
    pub(in crate::engine) fn run(&self, x: &[f32], y: &mut [f32]) {
        assert!(x.len() == y.len() && self.fits(x.len() / self.channels, self.channels), "sizes of a normalisation");
        let row = self.numbers[0].len();
        par::rows_mut(y, row, |first, y| {
            let at = first * row;
            let residual = self.residual.map(|r| &r[at..at + y.len()]);
            // SAFETY: parts of equal length; the instruction set in use; `streams` tells what `stream` asks for.
            unsafe {
                let stream = par::streams(y, x.len(), row);
                let (x, numbers) = (x[at..at + y.len()].as_ptr(), self.numbers.each_ref().map(|n| &n[..]));
                normalize(InstructionSet::best(), x, residual, numbers, self.floor(), y.as_mut_ptr(), y.len(), stream);
            }
        });
    }

    /// Normalises some channels of a pixel in place: the elements from `at` on of all, which begin with channel `first`.
    pub(super) fn part(&self, at: usize, first: usize, values: &mut [f32]) {
        let numbers = self.numbers.each_ref().map(|n| &n[first..first + values.len()]);
        let residual = self.residual.map(|r| &r[at..at + values.len()]);
        let y = values.as_mut_ptr();
        // SAFETY: parts of equal length, which are one row; the instruction set in use.
        unsafe { normalize(InstructionSet::best(), y, residual, numbers, self.floor(), y, values.len(), false) }
    }

    /// Returns what the microkernel needs for `columns` channels of [`MR`] pixels.
    pub(super) fn tile(&self, pixel: usize, columns: std::ops::Range<usize>) -> NormalizedTile {
        let numbers = self.numbers.each_ref().map(|n| n[columns.clone()].as_ptr());
        let residual = std::array::from_fn::<_, MR, _>(|r| match self.residual {
            Some(residual) => residual[(pixel + r) * self.channels..][columns.clone()].as_ptr(),
            None => std::ptr::null(),
        });
        NormalizedTile { numbers, residual, floor: self.floor() }
    }
}

/// Returns `max(floor, (x - mean)·scale + bias + residual)`, or NaN for NaN, so that a diverged network does not look healthy. `numbers` are
/// mean, scale and bias.
///
/// # Safety
/// The machine must have the instruction set.
#[inline(always)]
pub(super) unsafe fn normalized<S: Simd>(x: S, numbers: [S; 3], residual: Option<S>, floor: f32) -> S {
    let [mean, scale, bias] = numbers;
    // SAFETY: the caller's promise.
    unsafe {
        let sum = x.sub(mean).mul(scale).add(bias);
        residual.map_or(sum, |residual| sum.add(residual)).at_least(S::splat(floor))
    }
}

for_each_vector! {
    /// Computes [`normalized`] for `len` numbers. `numbers` are those of a row.
    ///
    /// # Safety
    /// `x` and `y` are valid for `len` numbers, and may be the same; `residual` has as many; the numbers have equal lengths. Nobody else uses
    /// `y`. If `stream`, `y` and its rows begin with cache lines.
    unsafe fn normalize<S>(
        x: *const f32,
        residual: Option<&[f32]>,
        numbers: [&[f32]; 3],
        floor: f32,
        y: *mut f32,
        len: usize,
        stream: bool,
    ) {
        let row = numbers[0].len();
        for start in (0..len).step_by(row) {
            let end = (start + row).min(len);
            for at in (start..end).step_by(S::LANES) {
                // SAFETY: the caller's promise; `count` numbers of a row.
                unsafe {
                    let count = S::LANES.min(end - at);
                    let numbers = numbers.map(|n| S::load_part(n.as_ptr().add(at - start), count));
                    let residual = residual.map(|r| S::load_part(r.as_ptr().add(at), count));
                    let x = S::load_part(x.add(at), count);
                    normalized(x, numbers, residual, floor).put(y.add(at), count, stream);
                }
            }
        }
        if stream {
            end_stream();
        }
    }
}
