//! The linear maps of Winograd's method, for vectors of channels.
//!
//! Stride 1 is F(4x4, 3x3) with the points 0, ±a, ±b and infinity, a = √½ and b = √2. The output of a tile is
//! `Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A`, where G, B and A are matrices for one axis. These points keep the rounding error at about twice that of a
//! direct sum; the usual 0, ±1, ±2 make it ten times as large.
//!
//! With stride 2, the outputs of an axis are sums over even inputs, under the taps 0 and 2, and over odd inputs, under tap 1. The first are
//! F(4, 2) with the points ±½, ±1½ and infinity (five products), the second four plain products. The error is that of a direct sum.

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

use crate::engine::cpu::InstructionSet;
#[cfg(target_arch = "x86_64")]
use crate::engine::cpu::simd::{Avx2, Avx512};
use crate::engine::cpu::simd::{Portable, Simd};

/// Reads `count` channels of each pixel of a tile, applies a map to both axes, and writes the results to planes: `to[p·plane..]`.
///
/// # Safety
/// The CPU must have the instructions. There are as many pointers as the map takes, each valid for `count` channels, as each plane is.
/// `count` is a multiple of the lanes.
pub(super) type ToPlanes = unsafe fn(pixels: &[*const f32], count: usize, to: *mut f32, plane: usize);

/// Reads `count` channels of each plane, applies a map to both axes, and writes the results to pixels, or adds them. Null pointers are
/// skipped.
///
/// # Safety
/// As for [`ToPlanes`].
pub(super) type FromPlanes =
    unsafe fn(from: *const f32, plane: usize, count: usize, pixels: &[*mut f32], accumulate: bool);

/// A linear map of one axis, from `I` to `O` numbers.
trait Map<const I: usize, const O: usize> {
    /// # Safety
    /// The CPU must have the instructions.
    unsafe fn map<S: Simd>(x: [S; I]) -> [S; O];
}

/// Applies a map to the columns of a matrix, then to the rows of the result.
///
/// # Safety
/// The CPU must have the instructions.
#[inline(always)]
unsafe fn both_axes<S: Simd, M: Map<I, O>, const I: usize, const O: usize>(x: [[S; I]; I]) -> [[S; O]; O] {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = S::splat(0.0);
        let mut half = [[zero; I]; O];
        for j in 0..I {
            let mut column = [zero; I];
            for i in 0..I {
                column[i] = x[i][j];
            }
            for (row, v) in half.iter_mut().zip(M::map(column)) {
                row[j] = v;
            }
        }
        let mut out = [[zero; O]; O];
        for i in 0..O {
            out[i] = M::map(half[i]);
        }
        out
    }
}

#[inline(always)]
unsafe fn to_planes<S: Simd, M: Map<I, O>, const I: usize, const O: usize>(
    pixels: &[*const f32],
    count: usize,
    to: *mut f32,
    plane: usize,
) {
    // SAFETY: the contract of `ToPlanes`.
    unsafe {
        for c in (0..count).step_by(S::LANES) {
            let mut x = [[S::splat(0.0); I]; I];
            for (row, pixels) in x.iter_mut().zip(pixels.as_chunks::<I>().0) {
                for (x, pixel) in row.iter_mut().zip(pixels) {
                    *x = S::load(pixel.add(c));
                }
            }
            let planes: [[S; O]; O] = both_axes::<S, M, I, O>(x);
            for (i, row) in planes.into_iter().enumerate() {
                for (j, v) in row.into_iter().enumerate() {
                    v.store(to.add((i * O + j) * plane + c));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn from_planes<S: Simd, M: Map<I, O>, const I: usize, const O: usize>(
    from: *const f32,
    plane: usize,
    count: usize,
    pixels: &[*mut f32],
    accumulate: bool,
) {
    // SAFETY: the contract of `FromPlanes`.
    unsafe {
        for c in (0..count).step_by(S::LANES) {
            let mut x = [[S::splat(0.0); I]; I];
            for (i, row) in x.iter_mut().enumerate() {
                for (j, x) in row.iter_mut().enumerate() {
                    *x = S::load(from.add((i * I + j) * plane + c));
                }
            }
            let out: [[S; O]; O] = both_axes::<S, M, I, O>(x);
            for (row, pixels) in out.into_iter().zip(pixels.as_chunks::<O>().0) {
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

/// Returns `even ± odd·factor`.
#[inline(always)]
unsafe fn pair<S: Simd>(even: S, odd: S, factor: f32) -> [S; 2] {
    // SAFETY: the caller's promise that the CPU has the instructions, as in all functions below.
    unsafe { [odd.mul_add(S::splat(factor), even), odd.mul_add(S::splat(-factor), even)] }
}

/// Returns `x + y·factor`.
#[inline(always)]
unsafe fn plus<S: Simd>(x: S, y: S, factor: f32) -> S {
    // SAFETY: as in `pair`.
    unsafe { y.mul_add(S::splat(factor), x) }
}

/// Bᵀ of stride 1.
struct Image1;

impl Map<6, 6> for Image1 {
    #[inline(always)]
    unsafe fn map<S: Simd>([x0, x1, x2, x3, x4, x5]: [S; 6]) -> [S; 6] {
        // SAFETY: as in `pair`.
        unsafe {
            let [p1, p2] = pair(plus(x4, x2, -2.0), plus(x3, x1, -2.0), A);
            let [p3, p4] = pair(plus(x4, x2, -0.5), plus(x3, x1, -0.5), B);
            [plus(x0.add(x4), x2, -2.5), p1, p2, p3, p4, plus(x1.add(x5), x3, -2.5)]
        }
    }
}

/// Aᵀ of stride 1.
struct Output1;

impl Map<6, 4> for Output1 {
    #[inline(always)]
    unsafe fn map<S: Simd>([m0, m1, m2, m3, m4, m5]: [S; 6]) -> [S; 4] {
        // SAFETY: as in `pair`.
        unsafe {
            let (sum_a, difference_a, sum_b, difference_b) = (m1.add(m2), m1.sub(m2), m3.add(m4), m3.sub(m4));
            [
                m0.add(sum_a).add(sum_b),
                plus(difference_b.mul(S::splat(B)), difference_a, A),
                plus(sum_b.mul(S::splat(2.0)), sum_a, 0.5),
                plus(plus(m5, difference_b, 2.0 * B), difference_a, 0.5 * A),
            ]
        }
    }
}

/// A of stride 1.
struct OutputGradient1;

impl Map<4, 6> for OutputGradient1 {
    #[inline(always)]
    unsafe fn map<S: Simd>([d0, d1, d2, d3]: [S; 4]) -> [S; 6] {
        // SAFETY: as in `pair`.
        unsafe {
            let [p1, p2] = pair(plus(d0, d2, 0.5), plus(d1, d3, 0.5), A);
            let [p3, p4] = pair(plus(d0, d2, 2.0), plus(d1, d3, 2.0), B);
            [d0, p1, p2, p3, p4, d3]
        }
    }
}

/// G of stride 1.
struct Weight1;

impl Map<3, 6> for Weight1 {
    #[inline(always)]
    unsafe fn map<S: Simd>([w0, w1, w2]: [S; 3]) -> [S; 6] {
        // SAFETY: as in `pair`.
        unsafe {
            let [p1, p2] = pair(plus(w0.mul(S::splat(-2.0 / 3.0)), w2, -1.0 / 3.0), w1, -2.0 / 3.0 * A);
            let [p3, p4] = pair(plus(w0.mul(S::splat(1.0 / 6.0)), w2, 1.0 / 3.0), w1, B / 6.0);
            [w0, p1, p2, p3, p4, w2]
        }
    }
}

/// Gᵀ of stride 1.
struct WeightGradient1;

impl Map<6, 3> for WeightGradient1 {
    #[inline(always)]
    unsafe fn map<S: Simd>([u0, u1, u2, u3, u4, u5]: [S; 6]) -> [S; 3] {
        // SAFETY: as in `pair`.
        unsafe {
            let (sum_a, difference_a, sum_b, difference_b) = (u1.add(u2), u1.sub(u2), u3.add(u4), u3.sub(u4));
            [
                plus(plus(u0, sum_b, 1.0 / 6.0), sum_a, -2.0 / 3.0),
                plus(difference_b.mul(S::splat(B / 6.0)), difference_a, -2.0 / 3.0 * A),
                plus(u5, sum_b.sub(sum_a), 1.0 / 3.0),
            ]
        }
    }
}

/// Returns the five products of F(4, 2) for five inputs.
#[inline(always)]
unsafe fn even_products<S: Simd>([e0, e1, e2, e3, e4]: [S; 5]) -> [S; 5] {
    // SAFETY: as in `pair`.
    unsafe {
        let [p0, p1] = pair(plus(e3, e1, -2.25), plus(e2, e0, -2.25), 0.5);
        let [p2, p3] = pair(plus(e3, e1, -0.25), plus(e2, e0, -0.25), 1.5);
        [p0, p1, p2, p3, plus(plus(e4, e2, -2.5), e0, 0.5625)]
    }
}

/// Returns the four outputs of F(4, 2).
#[inline(always)]
unsafe fn even_outputs<S: Simd>([m0, m1, m2, m3, m4]: [S; 5]) -> [S; 4] {
    // SAFETY: as in `pair`.
    unsafe {
        let (sum_a, difference_a, sum_b, difference_b) = (m0.add(m1), m0.sub(m1), m2.add(m3), m2.sub(m3));
        [
            sum_a.add(sum_b),
            plus(difference_b.mul(S::splat(1.5)), difference_a, 0.5),
            plus(sum_b.mul(S::splat(2.25)), sum_a, 0.25),
            plus(plus(m4, difference_b, 3.375), difference_a, 0.125),
        ]
    }
}

/// Bᵀ of stride 2: the products of even inputs, then the odd inputs.
struct Image2;

impl Map<9, 9> for Image2 {
    #[inline(always)]
    unsafe fn map<S: Simd>(x: [S; 9]) -> [S; 9] {
        // SAFETY: as in `pair`.
        let [p0, p1, p2, p3, p4] = unsafe { even_products([x[0], x[2], x[4], x[6], x[8]]) };
        [p0, p1, p2, p3, p4, x[1], x[3], x[5], x[7]]
    }
}

/// Aᵀ of stride 2.
struct Output2;

impl Map<9, 4> for Output2 {
    #[inline(always)]
    unsafe fn map<S: Simd>([m0, m1, m2, m3, m4, o0, o1, o2, o3]: [S; 9]) -> [S; 4] {
        // SAFETY: as in `pair`.
        unsafe {
            let [y0, y1, y2, y3] = even_outputs([m0, m1, m2, m3, m4]);
            [y0.add(o0), y1.add(o1), y2.add(o2), y3.add(o3)]
        }
    }
}

/// G of stride 2: the five products of taps 0 and 2, then tap 1, which all odd inputs share.
struct Weight2;

impl Map<3, 6> for Weight2 {
    #[inline(always)]
    unsafe fn map<S: Simd>([w0, w1, w2]: [S; 3]) -> [S; 6] {
        // SAFETY: as in `pair`.
        unsafe {
            let [quarter, half, sixth] = [w2.mul(S::splat(0.25)), w0.mul(S::splat(0.5)), w0.mul(S::splat(1.0 / 6.0))];
            let negative = quarter.mul(S::splat(-1.0));
            [negative.sub(half), negative.add(half), quarter.add(sixth), quarter.sub(sixth), w2, w1]
        }
    }
}

/// Maps from tiles of the input to products, and from these to tiles of the output.
pub(super) struct Transforms {
    /// Products of an axis, and side of a tile of the input. Product i uses the transformed weight [`weight_of`] (i).
    pub products: usize,
    /// Input pixels from one tile to the next.
    pub step: usize,
    pub to_products: ToPlanes,
    pub from_products: FromPlanes,
}

/// Side of a tile of the output.
pub(super) const OUT: usize = 4;

/// Transformed weights of an axis.
pub(super) const WEIGHTS: usize = 6;

/// Returns the transformed weight of product `i` of an axis: the last products share one.
pub(super) fn weight_of(i: usize) -> usize {
    i.min(WEIGHTS - 1)
}

/// What one instruction set needs.
pub(super) struct Maps {
    /// For strides 1 and 2.
    pub forward: [Transforms; 2],
    /// From the nine taps to the transformed weights, for strides 1 and 2.
    pub weight: [ToPlanes; 2],
    /// From the gradient of the output to the products with transformed images, whose sums are the gradients of transformed weights, and
    /// from these to the nine taps; for stride 1.
    pub output_gradient: ToPlanes,
    pub weight_gradient: FromPlanes,
}

/// Defines the two drivers for one instruction set, which is enabled in them.
macro_rules! drivers {
    ($to:ident, $from:ident, $vector:ident $(, #[$feature:meta])?) => {
        $(#[$feature])?
        unsafe fn $to<M: Map<I, O>, const I: usize, const O: usize>(
            pixels: &[*const f32],
            count: usize,
            to: *mut f32,
            plane: usize,
        ) {
            // SAFETY: the contract of `ToPlanes`.
            unsafe { to_planes::<$vector, M, I, O>(pixels, count, to, plane) }
        }

        $(#[$feature])?
        unsafe fn $from<M: Map<I, O>, const I: usize, const O: usize>(
            from: *const f32,
            plane: usize,
            count: usize,
            pixels: &[*mut f32],
            accumulate: bool,
        ) {
            // SAFETY: the contract of `FromPlanes`.
            unsafe { from_planes::<$vector, M, I, O>(from, plane, count, pixels, accumulate) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
drivers!(to_planes_avx512, from_planes_avx512, Avx512, #[target_feature(enable = "avx512f,avx2,fma")]);
#[cfg(target_arch = "x86_64")]
drivers!(to_planes_avx2, from_planes_avx2, Avx2, #[target_feature(enable = "avx2,fma")]);
drivers!(to_planes_portable, from_planes_portable, Portable);

/// Returns the maps with the drivers of one instruction set.
macro_rules! maps {
    ($to:ident, $from:ident) => {{
        static MAPS: Maps = Maps {
            forward: [
                Transforms {
                    products: 6,
                    step: 4,
                    to_products: $to::<Image1, 6, 6>,
                    from_products: $from::<Output1, 6, 4>,
                },
                Transforms {
                    products: 9,
                    step: 8,
                    to_products: $to::<Image2, 9, 9>,
                    from_products: $from::<Output2, 9, 4>,
                },
            ],
            weight: [$to::<Weight1, 3, 6>, $to::<Weight2, 3, 6>],
            output_gradient: $to::<OutputGradient1, 4, 6>,
            weight_gradient: $from::<WeightGradient1, 6, 3>,
        };
        &MAPS
    }};
}

/// Returns the maps of an instruction set.
pub(super) fn maps(set: InstructionSet) -> &'static Maps {
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => maps!(to_planes_avx512, from_planes_avx512),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => maps!(to_planes_avx2, from_planes_avx2),
        #[cfg(not(target_arch = "x86_64"))]
        InstructionSet::Avx2 | InstructionSet::Avx512 => unreachable!("not detected"),
        InstructionSet::Portable => maps!(to_planes_portable, from_planes_portable),
    }
}
