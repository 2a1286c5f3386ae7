//! Sigmoid and hyperbolic tangent in f32, without branches, so that loops over them vectorise. Errors are a few units of the last place.

/// Returns `e^x` for `x <= 0`, to about 1 ulp; for `x` below -87 returns `e^-87`, about 1.6e-38.
#[inline(always)]
fn exp_nonpositive(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    // x = n·ln2 + r with |r| <= ln2/2. ln2 has two parts, of which the first has few bits, so that its product is exact.
    // Adding and subtracting 1.5·2²³ rounds to an integer on any instruction set, without a function call.
    const ROUND: f32 = 12_582_912.0;
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    // Taylor series to r⁷, with a relative error below 1e-8.
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // 2^n from its exponent bits; n is from -126 to 0. A NaN comes from `p`.
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Returns `1 / (1 + e^-x)`, NaN for NaN.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let e = exp_nonpositive(-x.abs());
    let numerator = if x >= 0.0 { 1.0 } else { e };
    numerator / (1.0 + e)
}

/// Returns the hyperbolic tangent, NaN for NaN.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let e = exp_nonpositive(-2.0 * a);
    let large = (1.0 - e) / (1.0 + e);
    // Near 0 the difference above loses digits: a Taylor polynomial to x¹¹ instead.
    let s = a * a;
    let p = -1382.0 / 155_925.0;
    let p = p * s + 62.0 / 2835.0;
    let p = p * s - 17.0 / 315.0;
    let p = p * s + 2.0 / 15.0;
    let p = p * s - 1.0 / 3.0;
    let small = a + a * s * p;
    let magnitude = if a < 0.3 { small } else { large };
    magnitude.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigmoid_and_tanh_match_f64_over_the_whole_range() {
        let mut x = -120.0f64;
        while x < 120.0 {
            let v = x as f32;
            let (s, t) = (1.0 / (1.0 + (-f64::from(v)).exp()), f64::from(v).tanh());
            // Relative, except for sigmoids that are smaller than any exponential that is computed.
            assert!((f64::from(sigmoid(v)) - s).abs() <= 3e-7 * s + 1e-37, "sigmoid({v}) = {} not {s}", sigmoid(v));
            assert!((f64::from(tanh(v)) - t).abs() <= 4e-7 * t.abs(), "tanh({v}) = {} not {t}", tanh(v));
            x += 0.000_97;
        }
    }

    #[test]
    fn extremes_saturate_and_nan_stays() {
        assert_eq!((sigmoid(1e30), tanh(1e30), tanh(-1e30)), (1.0, 1.0, -1.0));
        assert!((0.0..1e-37).contains(&sigmoid(-1e30)));
        assert_eq!((tanh(0.0), sigmoid(0.0)), (0.0, 0.5));
        assert!(sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }
}
