//! Weights of classes by the numbers of their training images.

use crate::base::settings::choice;

choice! {
    /// How the cross-entropy weighs classes or identities.
    pub enum ClassWeights {
        /// All alike.
        #[default]
        None = "none",
        /// By 1/n for n training images.
        Inverse = "inverse",
        /// By (1-β)/(1-β^n), the inverse of the effective number of images (Cui et al., CVPR 2019).
        Effective = "effective",
    }
}

impl ClassWeights {
    /// Returns the weight of each class with `images[class]` training images. The mean over the classes that have images is 1; a class
    /// without images has weight 0.
    pub fn of(self, images: &[usize], beta: f64) -> Vec<f32> {
        let weight = |&n: &usize| match self {
            _ if n == 0 => 0.0,
            ClassWeights::None => 1.0,
            ClassWeights::Inverse => 1.0 / n as f64,
            ClassWeights::Effective => (1.0 - beta) / (1.0 - beta.powf(n as f64)),
        };
        let weights: Vec<f64> = images.iter().map(weight).collect();
        let present = images.iter().filter(|&&n| n > 0).count();
        let mean = weights.iter().sum::<f64>() / present as f64;
        weights.into_iter().map(|weight| (weight / mean) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: &[f32], want: &[f64]) {
        let same = got.iter().zip(want).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-6);
        assert!(same && got.len() == want.len(), "{got:?} instead of {want:?}");
    }

    #[test]
    fn weights_follow_the_formulas_and_have_mean_1() {
        let images = [1, 3, 0, 2];
        close(&ClassWeights::None.of(&images, 0.9), &[1.0, 1.0, 0.0, 1.0]);
        // 1, 1/3 and 1/2, over their mean 11/18.
        close(&ClassWeights::Inverse.of(&images, 0.9), &[18.0 / 11.0, 6.0 / 11.0, 0.0, 9.0 / 11.0]);
        // Effective numbers 1, 2.71 and 1.9 for β = 0.9.
        let inverse = [1.0, 1.0 / 2.71, 0.0, 1.0 / 1.9];
        let mean = inverse.iter().sum::<f64>() / 3.0;
        close(&ClassWeights::Effective.of(&images, 0.9), &inverse.map(|weight| weight / mean));
        // With β = 0 every class has one effective image.
        close(&ClassWeights::Effective.of(&images, 0.0), &[1.0, 1.0, 0.0, 1.0]);
    }
}
