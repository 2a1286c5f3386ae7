//! Distances of single pairs of rows in f64.

use super::simd::with_best_isa;

/// Partial sums: the same on every machine, so the result has the same bits everywhere.
const LANES: usize = 16;

/// |a - b|²·scale², in f64 throughout, for a scale that is a power of two. It is the same for (a, b) and (b, a), and 0 for equal rows.
///
/// # Panics
/// Rows of different lengths.
pub fn squared_distance(a: &[f32], b: &[f32], scale: f64) -> f64 {
    sum(
        a,
        b,
        #[inline(always)]
        |a, b| (f64::from(a) - f64::from(b)) * scale,
    )
}

/// |a/|a| - b/|b||² = 2 - 2 cos, from the norms of rows that are not 0; in f64 throughout, and 0 for equal rows.
///
/// # Panics
/// Rows of different lengths.
pub fn squared_distance_of_directions([a, b]: [&[f32]; 2], norms: [f64; 2]) -> f64 {
    let inverse = norms.map(|norm| 1.0 / norm);
    sum(
        a,
        b,
        #[inline(always)]
        |a, b| quotient(a, norms[0], inverse[0]) - quotient(b, norms[1], inverse[1]),
    )
}

/// x / norm as a division rounds it, in a fraction of its time.
#[inline(always)]
fn quotient(x: f32, norm: f64, inverse: f64) -> f64 {
    let x = f64::from(x);
    let near = x * inverse;
    (-near).mul_add(norm, x).mul_add(inverse, near)
}

/// The sum of the squares of what `difference` makes of each pair of numbers.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], difference: impl Fn(f32, f32) -> f64) -> f64 {
    assert_eq!(a.len(), b.len(), "rows of one length");
    with_best_isa(
        #[inline(always)]
        || {
            let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
            let mut sums = [0f64; LANES];
            for (a, b) in a.iter().zip(b) {
                for lane in 0..LANES {
                    let d = difference(a[lane], b[lane]);
                    sums[lane] += d * d;
                }
            }
            for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
                let d = difference(*a, *b);
                *sum += d * d;
            }
            sums.iter().sum()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_match_the_definition() {
        for dim in [1, 15, 16, 40, 521] {
            let a: Vec<f32> = (0..dim).map(|k| 1e6 + (k as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..dim).map(|k| 1e6 + (k as f32 * 1.3).cos()).collect();
            let want: f64 = a.iter().zip(&b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            let got = squared_distance(&a, &b, 1.0);
            assert!((got - want).abs() <= 1e-14 * want, "{dim}: {got}, not {want}");
            assert_eq!(got, squared_distance(&b, &a, 1.0));
            assert_eq!(squared_distance(&a, &b, 0.25), got / 16.0);
            let norms = [&a, &b].map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt());
            let direction = |x: f32, norm: f64| f64::from(x) / norm;
            let differences = a.iter().zip(&b).map(|(a, b)| direction(*a, norms[0]) - direction(*b, norms[1]));
            let want: f64 = differences.map(|d| d.powi(2)).sum();
            let got = squared_distance_of_directions([&a, &b], norms);
            assert!((got - want).abs() <= 1e-12 * want, "{dim}: {got}, not {want}");
            assert_eq!(squared_distance_of_directions([&a, &a], [norms[0]; 2]), 0.0);
        }
        assert_eq!(squared_distance(&[3e38, -1.0], &[-3e38, -1.0], 1.0), (2.0 * f64::from(3e38f32)).powi(2));
        assert_eq!(squared_distance(&[1e-40], &[0.0], 1.0), f64::from(1e-40f32).powi(2));
        assert_eq!(squared_distance_of_directions([&[0.3], &[0.7]], [f64::from(0.3f32), f64::from(0.7f32)]), 0.0);
    }
}
