//! What a latent state holds, in a few figures.

/// Figures about the slots of a latent state, or about the collected rows of its memory.
#[derive(Clone, Debug, Default)]
pub struct StateStatistics {
    /// Number of slots or rows.
    pub slots: usize,
    /// Root of the mean square over all slots; NaN without slots.
    pub rms: f64,
    /// Largest absolute value.
    pub largest: f64,
    /// Mean cosine of two slots, over all pairs; NaN with fewer than two slots, or if one is all zeros.
    pub similarity: f64,
    /// Mean over the slots, `[h, w, c]`; empty without slots.
    pub mean: Vec<f64>,
}

impl StateStatistics {
    /// Computes the figures of slots of the same length, in f64.
    pub fn of<'a>(slots: impl IntoIterator<Item = &'a [f32]>) -> StateStatistics {
        let (mut count, mut squares, mut largest) = (0, 0.0, 0.0f64);
        // Sums of the slots, and of the slots at unit length.
        let (mut sum, mut directions) = (Vec::new(), Vec::new());
        for slot in slots {
            count += 1;
            sum.resize(slot.len(), 0.0);
            directions.resize(slot.len(), 0.0);
            let square: f64 = slot.iter().map(|&x| f64::from(x).powi(2)).sum();
            squares += square;
            for ((sum, direction), &x) in sum.iter_mut().zip(&mut directions).zip(slot) {
                let x = f64::from(x);
                largest = largest.max(x.abs());
                *sum += x;
                *direction += x / square.sqrt();
            }
        }
        let n = count as f64;
        // |Σu|² has the n squares of the unit vectors, and twice each pair.
        let length: f64 = directions.iter().map(|x| x * x).sum();
        StateStatistics {
            slots: count,
            rms: (squares / (n * sum.len() as f64)).sqrt(),
            largest,
            similarity: if count < 2 { f64::NAN } else { (length - n) / (n * (n - 1.0)) },
            mean: sum.iter().map(|x| x / n).collect(),
        }
    }

    /// Returns how far the mean has moved from `earlier`, relative to its length there; NaN if one of the two has no slots or another shape, infinite
    /// from zeros.
    pub fn drift(&self, earlier: &StateStatistics) -> f64 {
        if self.mean.is_empty() || self.mean.len() != earlier.mean.len() {
            return f64::NAN;
        }
        let distance: f64 = self.mean.iter().zip(&earlier.mean).map(|(a, b)| (a - b).powi(2)).sum();
        (distance / earlier.mean.iter().map(|x| x * x).sum::<f64>()).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_follow_their_definitions() {
        let of = |slots: &[[f32; 2]]| StateStatistics::of(slots.iter().map(|slot| &slot[..]));
        let state = of(&[[3.0, 4.0], [0.0, -5.0], [10.0, 0.0]]);
        assert_eq!((state.slots, state.largest), (3, 10.0));
        assert!((state.rms - (150.0f64 / 6.0).sqrt()).abs() < 1e-12);
        // The cosines of the three pairs are -0.8, 0.6 and 0.
        assert!((state.similarity - -0.2 / 3.0).abs() < 1e-12, "{}", state.similarity);
        assert!((state.mean[0] - 13.0 / 3.0).abs() < 1e-12 && (state.mean[1] + 1.0 / 3.0).abs() < 1e-12);
        // From (3, 4) to (0, 4).
        assert!((of(&[[0.0, 4.0]]).drift(&of(&[[3.0, 4.0]])) - 0.6).abs() < 1e-12);
        let empty = of(&[]);
        assert!(empty.rms.is_nan() && empty.similarity.is_nan() && state.drift(&empty).is_nan());
        assert!(of(&[[1.0, 0.0], [0.0, 0.0]]).similarity.is_nan());
    }
}
