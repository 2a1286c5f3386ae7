//! Converts features from f64 to f32.

use crate::base::text::plural;

/// Converts the numbers of features one after the other, and counts those that float32 cannot represent.
pub(super) struct Narrow {
    /// Length of a feature.
    dim: usize,
    /// Numbers so far.
    count: usize,
    /// Largest magnitude in the present feature.
    largest: f64,
    too_large: usize,
    vanished: usize,
}

impl Narrow {
    pub(super) fn new(dim: usize) -> Narrow {
        Narrow { dim, count: 0, largest: 0.0, too_large: 0, vanished: 0 }
    }

    /// Converts the next number. It may become 0 if it is small compared with others of its feature, as in any rounding to float32.
    pub(super) fn next(&mut self, wide: f64) -> f32 {
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

    /// Returns the reason if float32 cannot represent the features.
    pub(super) fn check(&self) -> Result<(), String> {
        let Narrow { too_large, vanished, .. } = *self;
        if too_large > 0 {
            return Err(format!(
                "{} too large for float32, in which features are ranked: divide all features by one number",
                plural(too_large, "of its numbers is", "of its numbers are")
            ));
        }
        if vanished > 0 {
            return Err(format!(
                "all numbers of {} are too small for float32, in which features are ranked: multiply all features by one number",
                plural(vanished, "feature", "features")
            ));
        }
        Ok(())
    }
}
