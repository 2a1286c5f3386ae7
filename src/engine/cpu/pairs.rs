//! Distances between pairs of rows in f64. Several pairs with one row in common are computed at a time, so that the reads of the other rows
//! overlap.

use super::isa::for_each_isa;

/// The number of partial sums. It is the same on every machine, so that the result has the same bits everywhere.
const LANES: usize = 16;

for_each_isa! {
    /// Returns |a - b|²·scale² for each row b, in f64 throughout; the scale is a power of two. The result is the same for (a, b) and
    /// (b, a), and 0 for equal rows.
    ///
    /// # Panics
    /// If rows have different lengths.
    pub(crate) fn squared_distances<const N: usize>(a: &[f32], b: [&[f32]; N], scale: f64) -> [f64; N] {
        sums(
            a,
            b,
            #[inline(always)]
            |a, b, _| (f64::from(a) - f64::from(b)) * scale,
        )
    }

    /// Returns |a/|a| - b/|b||² = 2 - 2 cos for each row b, from the norms of the rows, which must not be 0. In f64 throughout; 0 for
    /// equal rows.
    ///
    /// # Panics
    /// If rows have different lengths.
    pub(crate) fn squared_distances_of_directions<const N: usize>(
        a: (&[f32], f64),
        b: [&[f32]; N],
        norms: [f64; N],
    ) -> [f64; N] {
        let (a, norm) = a;
        let (inverse, inverses) = (1.0 / norm, norms.map(|norm| 1.0 / norm));
        sums(
            a,
            b,
            #[inline(always)]
            |a, b, pair| quotient(a, norm, inverse) - quotient(b, norms[pair], inverses[pair]),
        )
    }
}

/// Returns x / norm with the bits of a division, in a fraction of the time.
#[inline(always)]
fn quotient(x: f32, norm: f64, inverse: f64) -> f64 {
    let x = f64::from(x);
    let near = x * inverse;
    (-near).mul_add(norm, x).mul_add(inverse, near)
}

/// Returns for each row b the sum of the squares of `difference(number of a, number of b, index of b)`.
#[inline(always)]
fn sums<const N: usize>(a: &[f32], b: [&[f32]; N], difference: impl Fn(f32, f32, usize) -> f64) -> [f64; N] {
    assert!(b.iter().all(|b| b.len() == a.len()), "rows of one length");
    let (a, a_rest) = a.as_chunks::<LANES>();
    let b = b.map(|b| b.as_chunks::<LANES>());
    let mut sums = [[0f64; LANES]; N];
    for (k, a) in a.iter().enumerate() {
        for pair in 0..N {
            let b = &b[pair].0[k];
            for lane in 0..LANES {
                let d = difference(a[lane], b[lane], pair);
                sums[pair][lane] += d * d;
            }
        }
    }
    for pair in 0..N {
        for (sum, (a, b)) in sums[pair].iter_mut().zip(a_rest.iter().zip(b[pair].1)) {
            let d = difference(*a, *b, pair);
            *sum += d * d;
        }
    }
    sums.map(|sums| sums.iter().sum())
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
            let [got, same, again] = squared_distances(&a, [&b, &a, &b], 1.0);
            assert!((got - want).abs() <= 1e-14 * want, "{dim}: {got}, not {want}");
            assert_eq!(([got, 0.0, got], [got]), ([again, same, again], squared_distances(&b, [&a], 1.0)));
            assert_eq!(squared_distances(&a, [&b], 0.25), [got / 16.0]);
            let norms = [&a, &b].map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt());
            let direction = |x: f32, norm: f64| f64::from(x) / norm;
            let differences = a.iter().zip(&b).map(|(a, b)| direction(*a, norms[0]) - direction(*b, norms[1]));
            let want: f64 = differences.map(|d| d.powi(2)).sum();
            let [got, same] = squared_distances_of_directions((&a, norms[0]), [&b, &a], [norms[1], norms[0]]);
            assert!((got - want).abs() <= 1e-12 * want, "{dim}: {got}, not {want}");
            assert_eq!(([got], 0.0), (squared_distances_of_directions((&b, norms[1]), [&a], [norms[0]]), same));
        }
        assert_eq!(squared_distances(&[3e38, -1.0], [&[-3e38, -1.0]], 1.0), [(2.0 * f64::from(3e38f32)).powi(2)]);
        assert_eq!(squared_distances(&[1e-40], [&[0.0]], 1.0), [f64::from(1e-40f32).powi(2)]);
        let norms = [0.3f32, 0.7].map(f64::from);
        assert_eq!(squared_distances_of_directions((&[0.3], norms[0]), [&[0.7]], [norms[1]]), [0.0]);
    }
}
