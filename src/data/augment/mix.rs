//! Mixes pairs of images of a batch: mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019). Image i is mixed with image n - 1 - i, in
//! place; with an odd number of images, the middle one stays.

use rand::{Rng, RngExt};
use rand_distr::{Beta, Distribution};
use rayon::prelude::*;

use crate::data::Augment;
use crate::engine::cpu::for_each_isa;

/// How the pairs of a batch are mixed. `share` is the weight of the image's own label, and 1 - `share` that of its partner's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mix {
    /// Mixup: every pixel is `share` times the image's own plus 1 - `share` times the partner's.
    Blend {
        /// Weight of the image's own pixels and label, in [0, 1].
        share: f32,
    },
    /// CutMix: the pixels in `rectangle` are the partner's; `share` is 1 - the rectangle's share of the area.
    Paste {
        /// Top, left, height and width, pixels.
        rectangle: [i32; 4],
        /// Share of the area that stays the image's own, in [0, 1].
        share: f32,
    },
}

impl Mix {
    /// Draws the mixing of a batch of images of `[height, width]`: `None` if both alphas are 0, and one of the two at random if neither
    /// is. `rng` belongs to this batch and epoch.
    pub(crate) fn draw(augment: &Augment, size: [usize; 2], rng: &mut impl Rng) -> Option<Mix> {
        let beta = |alpha: f32| (alpha > 0.0).then(|| Beta::new(f64::from(alpha), f64::from(alpha)).ok()).flatten();
        let blends = rng.random::<bool>();
        match (beta(augment.mixup), beta(augment.cutmix)) {
            (Some(beta), other) if blends || other.is_none() => Some(Mix::Blend { share: beta.sample(rng) as f32 }),
            (_, Some(beta)) => Some(Mix::paste(size, beta.sample(rng), rng)),
            _ => None,
        }
    }

    /// Draws a rectangle with the image's proportions and 1 - `share` of its area around a random pixel, clipped to the image.
    fn paste([h, w]: [usize; 2], share: f64, rng: &mut impl Rng) -> Mix {
        let half = 0.5 * (1.0 - share).max(0.0).sqrt();
        let mut span = |side: usize| {
            let (middle, reach) = (rng.random_range(0..side), (half * side as f64) as usize);
            let start = middle.saturating_sub(reach);
            [start, (middle + reach).min(side) - start]
        };
        let ([top, height], [left, width]) = (span(h), span(w));
        let share = 1.0 - (height * width) as f32 / (h * w) as f32;
        Mix::Paste { rectangle: [top, left, height, width].map(|v| v as i32), share }
    }

    /// Returns the weight of an image's own label.
    pub fn share(&self) -> f32 {
        let (Mix::Blend { share } | Mix::Paste { share, .. }) = *self;
        share
    }

    /// Returns the rectangle that is mixed in images of `[height, width]`, and the weight of an image's own pixels in it.
    pub(crate) fn within(&self, [h, w]: [usize; 2]) -> ([i32; 4], f32) {
        match *self {
            Mix::Blend { share } => ([0, 0, h as i32, w as i32], share),
            Mix::Paste { rectangle, .. } => (rectangle, 0.0),
        }
    }

    /// Mixes `images` `[n, height, width, 3]` in place.
    pub fn apply(&self, images: &mut [f32], [h, w]: [usize; 2]) {
        let (rectangle, own) = self.within([h, w]);
        let [top, left, height, width] = rectangle.map(|v| v as usize);
        let len = h * w * 3;
        let pairs = images.len() / len / 2;
        let (front, back) = images.split_at_mut(pairs * len);
        // From the end: the middle image has no partner.
        front.par_chunks_exact_mut(len).zip(back.par_rchunks_exact_mut(len)).for_each(|(a, b)| {
            for y in top..top + height {
                let row = (y * w + left) * 3..(y * w + left + width) * 3;
                blend(&mut a[row.clone()], &mut b[row], own);
            }
        });
    }
}

for_each_isa! {
    /// Makes both images `own` times themselves plus 1 - `own` times the other, rounded as in `kernels/image.cu`: the second product
    /// first, then a fused multiply-add.
    fn blend(a: &mut [f32], b: &mut [f32], own: f32) {
        let rest = 1.0 - own;
        for (a, b) in a.iter_mut().zip(b) {
            (*a, *b) = (own.mul_add(*a, rest * *b), own.mul_add(*b, rest * *a));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, stream};

    fn drawn(mixup: f32, cutmix: f32, item: u64) -> Option<Mix> {
        let augment = Augment { mixup, cutmix, ..Augment::none() };
        Mix::draw(&augment, [20, 30], &mut stream(0, Purpose::Test, 0, item))
    }

    #[test]
    fn one_of_the_two_is_drawn() {
        let blends = |mix| matches!(mix, Some(Mix::Blend { .. }));
        assert!((0..20).all(|item| drawn(0.0, 0.0, item).is_none()));
        assert!((0..20).all(|item| blends(drawn(0.2, 0.0, item))));
        assert!((0..20).all(|item| matches!(drawn(0.0, 1.0, item), Some(Mix::Paste { .. }))));
        let both = (0..400).filter(|&item| blends(drawn(0.2, 1.0, item))).count();
        assert!((150..250).contains(&both), "{both} of 400");
    }

    #[test]
    fn shares_follow_the_beta_distribution() {
        // Var = 1 / (4 (2 alpha + 1)): 0.179 for 0.2, 0.083 (uniform) for 1.
        for (alpha, variance) in [(0.2, 0.179), (1.0, 0.083)] {
            let shares: Vec<f64> = (0..2000).map(|item| drawn(alpha, 0.0, item).unwrap().share().into()).collect();
            assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
            let mean = shares.iter().sum::<f64>() / 2000.0;
            let spread = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / 2000.0;
            assert!((mean - 0.5).abs() < 0.03 && (spread - variance).abs() < 0.01, "{alpha}: {mean} {spread}");
        }
        // The extremes of what may be set.
        for alpha in [f32::MIN_POSITIVE, 1e-3, 100.0] {
            let share = |item| drawn(alpha, 0.0, item).unwrap().share();
            assert!((0..100).map(share).all(|share| (0.0..=1.0).contains(&share)), "{alpha}");
        }
    }

    #[test]
    fn rectangles_lie_within_the_image_and_the_share_is_what_they_leave() {
        let mut clipped = 0;
        for item in 0..500 {
            let Some(Mix::Paste { rectangle: [top, left, height, width], share }) = drawn(0.0, 1.0, item) else {
                panic!("a rectangle")
            };
            assert!(top >= 0 && left >= 0 && top + height <= 20 && left + width <= 30);
            assert!((share - (1.0 - (height * width) as f32 / 600.0)).abs() < 1e-6);
            clipped += usize::from(top + height == 20 || left == 0);
        }
        assert!(clipped > 50, "{clipped}");
    }

    /// Returns three images of 1x2 pixels, 1 2, 10 20 and 100 200, after `mix`.
    fn mixed(mix: Mix) -> Vec<f32> {
        let mut images: Vec<f32> = [1, 2, 10, 20, 100, 200].into_iter().flat_map(|v| [v as f32; 3]).collect();
        mix.apply(&mut images, [1, 2]);
        images.into_iter().step_by(3).collect()
    }

    #[test]
    fn the_first_is_mixed_with_the_last_and_the_middle_one_stays() {
        assert_eq!(mixed(Mix::Blend { share: 0.75 }), [25.75, 51.5, 10.0, 20.0, 75.25, 150.5]);
        let paste = |rectangle| Mix::Paste { rectangle, share: 0.5 };
        assert_eq!(mixed(paste([0, 1, 1, 1])), [1.0, 200.0, 10.0, 20.0, 100.0, 2.0]);
        assert_eq!(mixed(paste([0, 0, 0, 0])), [1.0, 2.0, 10.0, 20.0, 100.0, 200.0]);
    }
}
