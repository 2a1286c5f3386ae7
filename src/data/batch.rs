//! A batch of images, as the loader returns it.

use rayon::prelude::*;

use super::{AugmentParams, MEAN, Mix, STD};
use crate::engine::session::ImageBatch;

/// A batch of images as bytes, with the augmentation that is still to be applied. Bytes take a quarter of the memory of the network's
/// input, and a GPU applies this part of the augmentation itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Resized images, `[batch, height, width, 3]`.
    pub pixels: Vec<u8>,
    /// Height and width.
    pub size: [usize; 2],
    /// Augmentation parameters of each image.
    pub params: Vec<AugmentParams>,
    /// Class of each image.
    pub labels: Vec<u32>,
    /// Index of the sample of each image.
    pub indices: Vec<usize>,
    /// How pairs of the augmented images are mixed; `None` if they are not.
    pub mix: Option<Mix>,
}

impl ImageBatch for Batch {
    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn indices(&self) -> &[usize] {
        &self.indices
    }

    fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    fn normalization(&self) -> [[f32; 3]; 2] {
        [MEAN, STD]
    }

    fn tables(&self) -> [Vec<i32>; 3] {
        AugmentParams::tables(&self.params)
    }

    fn mixed(&self) -> Option<([i32; 4], f32)> {
        self.mix.map(|mix| mix.within(self.size))
    }

    fn to_images(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.pixels.len(), "one value for each byte");
        let len = self.size[0] * self.size[1] * 3;
        let images = self.pixels.par_chunks_exact(len).zip(&self.params);
        out.par_chunks_exact_mut(len)
            .zip(images)
            .for_each(|(out, (pixels, params))| params.apply(pixels, self.size, out));
        if let Some(mix) = self.mix {
            mix.apply(out, self.size);
        }
    }
}

impl Batch {
    /// Returns the target distribution of each image over `classes`, `[batch, classes]`: `smoothing` is spread over all classes, and the
    /// rest goes to the image's own class and, for mixed images, to the partner's class.
    pub fn targets(&self, classes: usize, smoothing: f32) -> Vec<f32> {
        let share = self.mix.map_or(1.0, |mix| mix.share());
        let mut targets = vec![smoothing / classes as f32; self.labels.len() * classes];
        let partners = self.labels.iter().rev();
        for (row, (&own, &partner)) in targets.chunks_exact_mut(classes).zip(self.labels.iter().zip(partners)) {
            row[own as usize] += (1.0 - smoothing) * share;
            row[partner as usize] += (1.0 - smoothing) * (1.0 - share);
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(mix: Option<Mix>) -> Batch {
        let (pixels, params) = (vec![0, 51, 255, 10, 20, 30, 255, 102, 0], vec![AugmentParams::default(); 3]);
        Batch { pixels, size: [1, 1], params, labels: vec![0, 2, 1], indices: vec![0, 1, 2], mix }
    }

    #[test]
    fn targets_are_smoothed_and_shared_by_pairs() {
        assert_eq!(three(None).targets(3, 0.0), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        // 0.3 / 3 for each class; 0.7 · 0.75 on the own and 0.7 · 0.25 on the other class. The middle one is its own partner.
        let shared = three(Some(Mix::Blend { share: 0.75 })).targets(3, 0.3);
        let want = [0.625, 0.275, 0.1, 0.1, 0.1, 0.8, 0.275, 0.625, 0.1];
        assert!(shared.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{shared:?}");
        for row in shared.chunks(3) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn images_are_mixed_after_normalising() {
        let images = |mix| {
            let mut out = vec![9.0; 9];
            three(mix).to_images(&mut out);
            out
        };
        let (plain, mixed) = (images(None), images(Some(Mix::Blend { share: 0.25 })));
        for c in 0..3 {
            assert!((mixed[c] - (0.25 * plain[c] + 0.75 * plain[6 + c])).abs() < 1e-6);
            assert!((mixed[6 + c] - (0.25 * plain[6 + c] + 0.75 * plain[c])).abs() < 1e-6);
        }
        assert_eq!(mixed[3..6], plain[3..6]);
        let swapped = images(Some(Mix::Paste { rectangle: [0, 0, 1, 1], share: 0.0 }));
        assert_eq!(swapped, [&plain[6..], &plain[3..6], &plain[..3]].concat());
    }
}
