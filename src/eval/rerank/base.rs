//! The distance that a variant starts from, out of the products of features.

use super::RerankVariant;
use crate::eval::distance::squared_norms;

/// Lanes of the products of single pairs.
const LANES: usize = 16;

/// d_ij = max(0, offset_i + offset_j - 2 scale_i scale_j x_i·x_j): offset |x|² and scale 1 give the squared Euclidean
/// distance, offset 1 and scale 1/|x| give 2 - 2 cos.
pub(super) struct Base {
    offset: Vec<f32>,
    scale: Vec<f32>,
    square: bool,
}

impl Base {
    pub fn new(features: &[f32], dim: usize, variant: RerankVariant) -> Base {
        let norms = squared_norms(features, dim);
        let n = norms.len();
        // A row of zeros has no direction: 2 - 2 cos is 2 for it.
        let inverse = |norm: &f32| if *norm > 0.0 { (1.0 / f64::from(*norm).sqrt()) as f32 } else { 0.0 };
        let (offset, scale) = match variant.is_cosine() {
            true => (vec![1.0; n], norms.iter().map(inverse).collect()),
            false => (norms, vec![1.0; n]),
        };
        Base { offset, scale, square: variant.squares() }
    }

    pub fn len(&self) -> usize {
        self.offset.len()
    }

    /// Turns products of image `i` with the images from `first` on into d.
    pub fn to_base(&self, i: usize, first: usize, row: &mut [f32]) {
        let (offset, scale) = (self.offset[i], -2.0 * self.scale[i]);
        for ((value, o), s) in row.iter_mut().zip(&self.offset[first..]).zip(&self.scale[first..]) {
            *value = (offset + o + scale * s * *value).max(0.0);
        }
    }

    /// d of a single pair; may differ from the blocks' in the last bits.
    pub fn pair(&self, features: &[f32], dim: usize, i: usize, j: usize) -> f32 {
        let dot = dot(&features[i * dim..][..dim], &features[j * dim..][..dim]);
        (self.offset[i] + self.offset[j] - 2.0 * self.scale[i] * self.scale[j] * dot).max(0.0)
    }

    /// D = f(d) / max f(d); 0 where all images are the same.
    pub fn normalised(&self, d: f32, max: f32) -> f32 {
        let share = if max > 0.0 { d / max } else { 0.0 };
        if self.square { share * share } else { share }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}
