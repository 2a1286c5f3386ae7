//! Features that are stored as f64, as f32.

/// Narrows the numbers of features one after the other, and counts what float32 cannot hold.
pub(super) struct Narrow {
    /// Numbers of a feature.
    dim: usize,
    /// Numbers so far.
    count: usize,
    /// The largest magnitude of the feature that is being narrowed.
    largest: f64,
    too_large: usize,
    vanished: usize,
}

impl Narrow {
    pub fn new(dim: usize) -> Narrow {
        Narrow { dim, count: 0, largest: 0.0, too_large: 0, vanished: 0 }
    }

    /// The next number. One that is small beside others of its feature may become 0: that is the rounding of float32.
    pub fn next(&mut self, wide: f64) -> f32 {
        let narrow = wide as f32;
        self.too_large += usize::from(wide.is_finite() && !narrow.is_finite());
        self.largest = self.largest.max(wide.abs());
        self.count += 1;
        if self.count.is_multiple_of(self.dim) {
            self.vanished += usize::from(self.largest > 0.0 && self.largest < f64::from(f32::MIN_POSITIVE));
            self.largest = 0.0;
        }
        narrow
    }

    /// What was wrong with these numbers.
    pub fn check(&self) -> Result<(), String> {
        let Narrow { too_large, vanished, .. } = *self;
        if too_large > 0 {
            return Err(format!(
                "{too_large} of its numbers are beyond float32, in which features are ranked: divide all of them by one number"
            ));
        }
        if vanished > 0 {
            return Err(format!(
                "all numbers of {vanished} of its features are too small for float32, in which features are ranked: multiply all \
                 features by one number"
            ));
        }
        Ok(())
    }
}
