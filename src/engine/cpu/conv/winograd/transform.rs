//! The linear maps of F(4x4, 3x3) for vectors of channels.
//!
//! With the points 0, ±a, ±b and infinity, a = √½ and b = √2, the output of a tile is `Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A`. These points keep the
//! rounding error at about twice that of a direct sum; the usual 0, ±1, ±2 make it ten times as large.

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

use crate::engine::cpu::InstructionSet;
#[cfg(target_arch = "x86_64")]
use crate::engine::cpu::simd::{Avx2, Avx512};
use crate::engine::cpu::simd::{Portable, Simd};

/// Side of a tile of the input, and of its transform.
pub(super) const SIDE: usize = 6;
/// Products of a tile.
pub(super) const PRODUCTS: usize = SIDE * SIDE;
/// Side of a tile of the output.
pub(super) const OUT: usize = 4;
/// Pixels of a tile of the output.
pub(in crate::engine::cpu) const PIXELS: usize = OUT * OUT;

/// The maps of one instruction set. Each takes whole vectors: counts of channels are multiples of the lanes.
///
/// # Safety
/// The CPU must have the instructions, and pointers must be valid for what the functions say.
pub(super) struct Transforms {
    /// Bᵀ x B: reads `count` channels of each of the tile's pixels, and writes them to each plane: `to[p·plane..]`.
    pub image: unsafe fn(pixels: &[*const f32; PRODUCTS], count: usize, to: *mut f32, plane: usize),
    /// Aᵀ m A: reads `count` channels of each plane, and writes them to the pixels, or adds them. A null pointer skips its pixel.
    pub output: unsafe fn(from: *const f32, plane: usize, count: usize, pixels: &[*mut f32; PIXELS], accumulate: bool),
    /// A d Aᵀ, the transpose of `output`: reads `count` channels of each pixel, and writes them to each plane.
    pub output_gradient: unsafe fn(pixels: &[*const f32; PIXELS], count: usize, to: *mut f32, plane: usize),
    /// G w Gᵀ: reads one vector of each tap, `from[tap·stride..]`, and writes one to each plane.
    pub weight: unsafe fn(from: *const f32, stride: usize, to: *mut f32, plane: usize),
    /// Gᵀ u G, the transpose of `weight`: reads `count` numbers of each plane, and writes them to each tap, or adds them.
    pub weight_gradient:
        unsafe fn(from: *const f32, plane: usize, count: usize, to: *mut f32, stride: usize, accumulate: bool),
}

/// Applies `map` to the columns of a matrix, then to the rows of the result.
#[inline(always)]
fn both_axes<S: Copy, const N: usize, const M: usize>(
    x: [[S; N]; N],
    map: impl Fn([S; N]) -> [S; M],
    zero: S,
) -> [[S; M]; M] {
    let mut half = [[zero; N]; M];
    for j in 0..N {
        let mut column = [zero; N];
        for i in 0..N {
            column[i] = x[i][j];
        }
        for (row, v) in half.iter_mut().zip(map(column)) {
            row[j] = v;
        }
    }
    let mut out = [[zero; M]; M];
    for i in 0..M {
        out[i] = map(half[i]);
    }
    out
}

// SAFETY of the bodies below: the contract of `Transforms`.

#[inline(always)]
unsafe fn image<S: Simd>(pixels: &[*const f32; PRODUCTS], count: usize, to: *mut f32, plane: usize) {
    unsafe {
        let s = |v: f32| S::splat(v);
        for c in (0..count).step_by(S::LANES) {
            let mut x = [[s(0.0); SIDE]; SIDE];
            for (row, pixels) in x.iter_mut().zip(pixels.as_chunks::<SIDE>().0) {
                for (x, pixel) in row.iter_mut().zip(pixels) {
                    *x = S::load(pixel.add(c));
                }
            }
            for (i, row) in both_axes(
                x,
                #[inline(always)]
                |x: [S; SIDE]| {
                    let (even_a, odd_a) = (x[2].mul_add(s(-2.0), x[4]), x[1].mul_add(s(-2.0), x[3]));
                    let (even_b, odd_b) = (x[2].mul_add(s(-0.5), x[4]), x[1].mul_add(s(-0.5), x[3]));
                    [
                        x[2].mul_add(s(-2.5), x[0].add(x[4])),
                        odd_a.mul_add(s(A), even_a),
                        odd_a.mul_add(s(-A), even_a),
                        odd_b.mul_add(s(B), even_b),
                        odd_b.mul_add(s(-B), even_b),
                        x[3].mul_add(s(-2.5), x[1].add(x[5])),
                    ]
                },
                s(0.0),
            )
            .into_iter()
            .enumerate()
            {
                for (j, v) in row.into_iter().enumerate() {
                    v.store(to.add((i * SIDE + j) * plane + c));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn output<S: Simd>(from: *const f32, plane: usize, count: usize, pixels: &[*mut f32; PIXELS], accumulate: bool) {
    unsafe {
        let s = |v: f32| S::splat(v);
        for c in (0..count).step_by(S::LANES) {
            let mut m = [[s(0.0); SIDE]; SIDE];
            for (i, row) in m.iter_mut().enumerate() {
                for (j, m) in row.iter_mut().enumerate() {
                    *m = S::load(from.add((i * SIDE + j) * plane + c));
                }
            }
            let y: [[S; OUT]; OUT] = both_axes(
                m,
                #[inline(always)]
                |m: [S; SIDE]| {
                    let (sum_a, difference_a) = (m[1].add(m[2]), m[1].sub(m[2]));
                    let (sum_b, difference_b) = (m[3].add(m[4]), m[3].sub(m[4]));
                    [
                        m[0].add(sum_a).add(sum_b),
                        difference_a.mul_add(s(A), difference_b.mul(s(B))),
                        sum_a.mul_add(s(0.5), sum_b.mul(s(2.0))),
                        difference_a.mul_add(s(0.5 * A), difference_b.mul_add(s(2.0 * B), m[5])),
                    ]
                },
                s(0.0),
            );
            for (row, pixels) in y.into_iter().zip(pixels.as_chunks::<OUT>().0) {
                for (v, pixel) in row.into_iter().zip(pixels) {
                    if !pixel.is_null() {
                        let to = pixel.add(c);
                        let v = if accumulate { v.add(S::load(to)) } else { v };
                        v.store(to);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn output_gradient<S: Simd>(pixels: &[*const f32; PIXELS], count: usize, to: *mut f32, plane: usize) {
    unsafe {
        let s = |v: f32| S::splat(v);
        for c in (0..count).step_by(S::LANES) {
            let mut d = [[s(0.0); OUT]; OUT];
            for (row, pixels) in d.iter_mut().zip(pixels.as_chunks::<OUT>().0) {
                for (d, pixel) in row.iter_mut().zip(pixels) {
                    *d = S::load(pixel.add(c));
                }
            }
            let planes: [[S; SIDE]; SIDE] = both_axes(
                d,
                #[inline(always)]
                |d: [S; OUT]| {
                    let (even_a, odd_a) = (d[2].mul_add(s(0.5), d[0]), d[3].mul_add(s(0.5), d[1]));
                    let (even_b, odd_b) = (d[2].mul_add(s(2.0), d[0]), d[3].mul_add(s(2.0), d[1]));
                    [
                        d[0],
                        odd_a.mul_add(s(A), even_a),
                        odd_a.mul_add(s(-A), even_a),
                        odd_b.mul_add(s(B), even_b),
                        odd_b.mul_add(s(-B), even_b),
                        d[3],
                    ]
                },
                s(0.0),
            );
            for (i, row) in planes.into_iter().enumerate() {
                for (j, v) in row.into_iter().enumerate() {
                    v.store(to.add((i * SIDE + j) * plane + c));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn weight<S: Simd>(from: *const f32, stride: usize, to: *mut f32, plane: usize) {
    unsafe {
        let s = |v: f32| S::splat(v);
        let mut w = [[s(0.0); 3]; 3];
        for (i, row) in w.iter_mut().enumerate() {
            for (j, w) in row.iter_mut().enumerate() {
                *w = S::load(from.add((i * 3 + j) * stride));
            }
        }
        let planes: [[S; SIDE]; SIDE] = both_axes(
            w,
            #[inline(always)]
            |w: [S; 3]| {
                let (even_a, odd_a) =
                    (w[0].mul_add(s(-2.0 / 3.0), w[2].mul(s(-1.0 / 3.0))), w[1].mul(s(-2.0 / 3.0 * A)));
                let (even_b, odd_b) = (w[0].mul_add(s(1.0 / 6.0), w[2].mul(s(1.0 / 3.0))), w[1].mul(s(B / 6.0)));
                [w[0], even_a.add(odd_a), even_a.sub(odd_a), even_b.add(odd_b), even_b.sub(odd_b), w[2]]
            },
            s(0.0),
        );
        for (i, row) in planes.into_iter().enumerate() {
            for (j, v) in row.into_iter().enumerate() {
                v.store(to.add((i * SIDE + j) * plane));
            }
        }
    }
}

#[inline(always)]
unsafe fn weight_gradient<S: Simd>(
    from: *const f32,
    plane: usize,
    count: usize,
    to: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    unsafe {
        let s = |v: f32| S::splat(v);
        for c in (0..count).step_by(S::LANES) {
            let mut u = [[s(0.0); SIDE]; SIDE];
            for (i, row) in u.iter_mut().enumerate() {
                for (j, u) in row.iter_mut().enumerate() {
                    *u = S::load(from.add((i * SIDE + j) * plane + c));
                }
            }
            let taps: [[S; 3]; 3] = both_axes(
                u,
                #[inline(always)]
                |u: [S; SIDE]| {
                    let (sum_a, difference_a) = (u[1].add(u[2]), u[1].sub(u[2]));
                    let (sum_b, difference_b) = (u[3].add(u[4]), u[3].sub(u[4]));
                    [
                        sum_a.mul_add(s(-2.0 / 3.0), sum_b.mul_add(s(1.0 / 6.0), u[0])),
                        difference_a.mul_add(s(-2.0 / 3.0 * A), difference_b.mul(s(B / 6.0))),
                        sum_b.sub(sum_a).mul_add(s(1.0 / 3.0), u[5]),
                    ]
                },
                s(0.0),
            );
            for (i, row) in taps.into_iter().enumerate() {
                for (j, v) in row.into_iter().enumerate() {
                    let to = to.add((i * 3 + j) * stride + c);
                    let v = if accumulate { v.add(S::load(to)) } else { v };
                    v.store(to);
                }
            }
        }
    }
}

/// Defines the maps for one instruction set, in a module of its own.
macro_rules! maps_of {
    ($set:ident, $vector:ident $(, $(#[$feature:meta])+)?) => {
        mod $set {
            use super::*;
            $($(#[$feature])+)?
            unsafe fn image(pixels: &[*const f32; PRODUCTS], count: usize, to: *mut f32, plane: usize) {
                unsafe { super::image::<$vector>(pixels, count, to, plane) }
            }
            $($(#[$feature])+)?
            unsafe fn output(from: *const f32, plane: usize, count: usize, pixels: &[*mut f32; PIXELS], accumulate: bool) {
                unsafe { super::output::<$vector>(from, plane, count, pixels, accumulate) }
            }
            $($(#[$feature])+)?
            unsafe fn output_gradient(pixels: &[*const f32; PIXELS], count: usize, to: *mut f32, plane: usize) {
                unsafe { super::output_gradient::<$vector>(pixels, count, to, plane) }
            }
            $($(#[$feature])+)?
            unsafe fn weight(from: *const f32, stride: usize, to: *mut f32, plane: usize) {
                unsafe { super::weight::<$vector>(from, stride, to, plane) }
            }
            $($(#[$feature])+)?
            unsafe fn weight_gradient(from: *const f32, plane: usize, count: usize, to: *mut f32, stride: usize, accumulate: bool) {
                unsafe { super::weight_gradient::<$vector>(from, plane, count, to, stride, accumulate) }
            }
            pub(super) static MAPS: Transforms = Transforms { image, output, output_gradient, weight, weight_gradient };
        }
    };
}

#[cfg(target_arch = "x86_64")]
maps_of!(avx512, Avx512, #[target_feature(enable = "avx512f,avx2,fma")]);
#[cfg(target_arch = "x86_64")]
maps_of!(avx2, Avx2, #[target_feature(enable = "avx2,fma")]);
maps_of!(portable, Portable);

/// Returns the maps of an instruction set.
pub(super) fn transforms(set: InstructionSet) -> &'static Transforms {
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => &avx512::MAPS,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => &avx2::MAPS,
        _ => &portable::MAPS,
    }
}
