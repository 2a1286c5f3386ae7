//! Calibration: whether a classifier's confidence equals its accuracy (Guo et al., 2017, "On Calibration of Modern Neural Networks").

use serde::Serialize;

/// Number of bins into which largest probabilities are sorted, as in the publication.
pub(crate) const BINS: usize = 15;

/// Bin number i, from 1 to `BINS`: images whose largest probability is in ((i - 1) / `BINS`, i / `BINS`]. The first bin also holds 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CalibrationBin {
    /// Number of images in the bin.
    pub images: usize,
    /// Share of them that are classified correctly; 0 without images.
    pub accuracy: f64,
    /// Mean of their largest probabilities; 0 without images.
    pub confidence: f64,
}

/// Sorts images, each as (largest probability, whether it is correct), into [`BINS`] bins of equal width.
pub(crate) fn calibration_bins(images: impl IntoIterator<Item = (f32, bool)>) -> Vec<CalibrationBin> {
    // First the sums, then the means.
    let mut bins = vec![CalibrationBin::default(); BINS];
    for (confidence, right) in images {
        // Computed in f32, in which 0.6 times 15 is exactly 9.
        let bin = &mut bins[((confidence * BINS as f32).ceil() as usize).clamp(1, BINS) - 1];
        bin.images += 1;
        bin.accuracy += f64::from(u8::from(right));
        bin.confidence += f64::from(confidence);
    }
    for bin in bins.iter_mut().filter(|bin| bin.images > 0) {
        bin.accuracy /= bin.images as f64;
        bin.confidence /= bin.images as f64;
    }
    bins
}

/// Returns the expected calibration error: the mean over images of |accuracy - confidence| of their bin; 0 without images.
pub(crate) fn calibration_error(bins: &[CalibrationBin]) -> f64 {
    let images: usize = bins.iter().map(|bin| bin.images).sum();
    let gap = |bin: &CalibrationBin| bin.images as f64 * (bin.accuracy - bin.confidence).abs();
    bins.iter().map(gap).sum::<f64>() / images.max(1) as f64
}
