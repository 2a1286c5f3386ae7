//! What a latent state holds, in a few figures.

use serde::Serialize;

/// Figures about the slots of a latent state, or about the collected rows of its memory. In JSON, NaN and infinity are null.
#[derive(Clone, Debug, Serialize)]
pub struct StateStatistics {
    /// Number of slots or rows.
    pub slots: usize,
    /// Root of the mean square over all slots; NaN without slots.
    pub rms: f64,
    /// Largest absolute value; 0 without slots.
    pub largest: f64,
    /// Mean cosine of two slots, over all pairs; NaN with fewer than two slots, or if one is all zeros.
    pub similarity: f64,
    /// How far the mean over the slots moved in the last step, relative to its length before; NaN without a step, infinite from zeros.
    pub drift: f64,
}

impl StateStatistics {
    /// Computes the figures of slots of the same length, in f64. `before` and `after` are the slots around the last step, `[n, slot]` each; empty if
    /// there was none.
    pub(super) fn of<'a>(
        slots: impl IntoIterator<Item = &'a [f32]>,
        slot: usize,
        [before, after]: [&[f32]; 2],
    ) -> StateStatistics {
        let (mut count, mut squares, mut largest) = (0, 0.0, 0.0f64);
        // The sum of the slots at unit length.
        let mut directions = vec![0.0; slot];
        for values in slots {
            count += 1;
            let square: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
            squares += square;
            for (direction, &x) in directions.iter_mut().zip(values) {
                let x = f64::from(x);
                largest = largest.max(x.abs());
                *direction += x / square.sqrt();
            }
        }
        let n = count as f64;
        // |Σu|² has the n squares of the unit vectors, and twice each pair.
        let length: f64 = directions.iter().map(|x| x * x).sum();
        StateStatistics {
            slots: count,
            rms: (squares / (n * slot as f64)).sqrt(),
            largest,
            similarity: if count < 2 { f64::NAN } else { (length - n) / (n * (n - 1.0)) },
            drift: drift(&mean(before, slot), &mean(after, slot)),
        }
    }
}

/// Returns the mean of the slots of `values`; NaN if there are none.
fn mean(values: &[f32], slot: usize) -> Vec<f64> {
    let mut sum = vec![0.0; slot];
    for values in values.chunks_exact(slot) {
        sum.iter_mut().zip(values).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let n = (values.len() / slot) as f64;
    sum.into_iter().map(|x| x / n).collect()
}

/// Returns the distance of two vectors relative to the length of the first.
fn drift(before: &[f64], after: &[f64]) -> f64 {
    let distance: f64 = before.iter().zip(after).map(|(a, b)| (a - b).powi(2)).sum();
    (distance / before.iter().map(|x| x * x).sum::<f64>()).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_follow_their_definitions() {
        let of = |slots: &[[f32; 2]]| StateStatistics::of(slots.iter().map(|slot| &slot[..]), 2, [&[], &[]]);
        let state = of(&[[3.0, 4.0], [0.0, -5.0], [10.0, 0.0]]);
        assert_eq!((state.slots, state.largest), (3, 10.0));
        assert!((state.rms - (150.0f64 / 6.0).sqrt()).abs() < 1e-12);
        // The cosines of the three pairs are -0.8, 0.6 and 0.
        assert!((state.similarity - -0.2 / 3.0).abs() < 1e-12, "{}", state.similarity);
        assert!(state.drift.is_nan());
        // The mean moves from (3, 4) to (0, 4).
        let moved = |before: &[f32], after: &[f32]| StateStatistics::of([], 2, [before, after]).drift;
        assert!((moved(&[2.0, 4.0, 4.0, 4.0], &[0.0, 3.0, 0.0, 5.0]) - 0.6).abs() < 1e-12);
        assert_eq!(moved(&[0.0; 2], &[1.0, 0.0]), f64::INFINITY);
        let empty = of(&[]);
        assert!(empty.rms.is_nan() && empty.similarity.is_nan() && of(&[[1.0, 0.0], [0.0, 0.0]]).similarity.is_nan());
        let json = serde_json::to_value(&empty).unwrap();
        assert!(json["rms"].is_null() && json["slots"] == 0);
    }
}
