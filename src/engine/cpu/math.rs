//! Sigmoid and hyperbolic tangent of vectors of f32. Errors are a few units of the last place.

use super::simd::Simd;

/// Returns `e^x` for `x <= 0`, to about 1 ulp; for `x` below -87 returns `e^-87`, about 1.6e-38. NaN for NaN.
///
/// # Safety
/// As for all methods of [`Simd`].
#[inline(always)]
unsafe fn exp_nonpositive<S: Simd>(x: S) -> S {
    // SAFETY: the caller's promise.
    unsafe {
        let s = |v: f32| S::splat(v);
        let x = x.at_least(s(-87.0));
        // x = n·ln2 + r with |r| <= ln2/2. ln2 has two parts, of which the first has few bits, so that its product is exact.
        // Adding and subtracting 1.5·2²³ rounds to an integer on any instruction set.
        const ROUND: f32 = 12_582_912.0;
        let n = x.mul_add(s(std::f32::consts::LOG2_E), s(ROUND)).sub(s(ROUND));
        let r = n.mul_add(s(2.121_944_4e-4), n.mul_add(s(-0.693_359_4), x));
        // Taylor series to r⁷, with a relative error below 1e-8.
        let p = r.mul_add(s(1.0 / 5040.0), s(1.0 / 720.0));
        let p = p.mul_add(r, s(1.0 / 120.0));
        let p = p.mul_add(r, s(1.0 / 24.0));
        let p = p.mul_add(r, s(1.0 / 6.0));
        let p = p.mul_add(r, s(0.5));
        let p = p.mul_add(r.mul(r), r).add(s(1.0));
        // n is from -126 to 0. A NaN comes from `p`.
        p.mul(n.exp2())
    }
}

/// Returns `1 / (1 + e^-x)`, NaN for NaN.
///
/// # Safety
/// As for all methods of [`Simd`].
#[inline(always)]
pub(super) unsafe fn sigmoid<S: Simd>(x: S) -> S {
    // SAFETY: the caller's promise.
    unsafe {
        let one = S::splat(1.0);
        let e = exp_nonpositive(S::splat(0.0).sub(x.abs()));
        x.select_less(S::splat(0.0), e, one).div(e.add(one))
    }
}

/// Returns the hyperbolic tangent, NaN for NaN.
///
/// # Safety
/// As for all methods of [`Simd`].
#[inline(always)]
pub(super) unsafe fn tanh<S: Simd>(x: S) -> S {
    // SAFETY: the caller's promise.
    unsafe {
        let (s, one) = (|v: f32| S::splat(v), S::splat(1.0));
        let a = x.abs();
        let e = exp_nonpositive(a.mul(s(-2.0)));
        let large = one.sub(e).div(one.add(e));
        // Near 0 the difference above loses digits: a Taylor polynomial to x¹¹ instead.
        let square = a.mul(a);
        let p = square.mul_add(s(-1382.0 / 155_925.0), s(62.0 / 2835.0));
        let p = p.mul_add(square, s(-17.0 / 315.0));
        let p = p.mul_add(square, s(2.0 / 15.0));
        let p = p.mul_add(square, s(-1.0 / 3.0));
        let small = a.mul(square).mul_add(p, a);
        a.select_less(s(0.3), small, large).with_sign(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::InstructionSet;
    use crate::engine::cpu::simd::for_each_vector;

    for_each_vector! {
        /// Computes both functions of sixteen numbers.
        unsafe fn both<S>(x: &[f32; 16], sigmoids: &mut [f32; 16], tangents: &mut [f32; 16]) {
            // SAFETY: whole vectors of the arrays.
            unsafe {
                for at in (0..16).step_by(S::LANES) {
                    let x = S::load(x[at..].as_ptr());
                    sigmoid(x).store(sigmoids[at..].as_mut_ptr());
                    tanh(x).store(tangents[at..].as_mut_ptr());
                }
            }
        }
    }

    fn check(x: [f32; 16], test: impl Fn(f32, f32, f32)) {
        for set in InstructionSet::available() {
            let (mut sigmoids, mut tangents) = ([0.0; 16], [0.0; 16]);
            // SAFETY: the machine has the instruction set.
            unsafe { both(set, &x, &mut sigmoids, &mut tangents) };
            (0..16).for_each(|i| test(x[i], sigmoids[i], tangents[i]));
        }
    }

    #[test]
    fn sigmoid_and_tanh_match_f64_over_the_whole_range() {
        let mut x = -120.0f64;
        while x < 120.0 {
            check(std::array::from_fn(|i| (x + i as f64 * 0.000_97) as f32), |v, sigmoid, tanh| {
                let (s, t) = (1.0 / (1.0 + (-f64::from(v)).exp()), f64::from(v).tanh());
                // Relative, except for sigmoids that are smaller than any exponential that is computed.
                assert!((f64::from(sigmoid) - s).abs() <= 3e-7 * s + 1e-37, "sigmoid({v}) = {sigmoid} not {s}");
                assert!((f64::from(tanh) - t).abs() <= 4e-7 * t.abs(), "tanh({v}) = {tanh} not {t}");
            });
            x += 16.0 * 0.000_97;
        }
    }

    #[test]
    fn extremes_saturate_and_nan_stays() {
        check([1e30; 16], |_, sigmoid, tanh| assert_eq!((sigmoid, tanh), (1.0, 1.0)));
        check([-1e30; 16], |_, sigmoid, tanh| assert!((0.0..1e-37).contains(&sigmoid) && tanh == -1.0));
        check([0.0; 16], |_, sigmoid, tanh| assert_eq!((sigmoid, tanh), (0.5, 0.0)));
        check([f32::NAN; 16], |_, sigmoid, tanh| assert!(sigmoid.is_nan() && tanh.is_nan()));
        check([f32::INFINITY; 16], |_, sigmoid, tanh| assert_eq!((sigmoid, tanh), (1.0, 1.0)));
    }
}
