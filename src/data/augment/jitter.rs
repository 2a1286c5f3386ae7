//! Colour jitter: changes brightness, contrast, saturation and hue in a random order, each by a random factor, as torchvision's
//! `ColorJitter` does with Pillow's images.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::colour;
use crate::data::Augment;

/// One change of an image's colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    /// Rotation of the hue in 1 / 255 of the circle; values above 127 rotate the other way.
    Hue(u8),
}

/// Returns whether any of the four settings is above 0.
pub(crate) fn is_on(augment: &Augment) -> bool {
    [augment.brightness, augment.contrast, augment.saturation, augment.hue].iter().any(|&most| most > 0.0)
}

/// Draws the changes whose settings are above 0, in the order in which they are applied.
pub(crate) fn draw(augment: &Augment, rng: &mut impl Rng) -> Vec<Step> {
    if !is_on(augment) {
        return Vec::new();
    }
    let mut factor = |most: f32| rng.random_range((1.0 - most).max(0.0)..=1.0 + most);
    let mut steps = vec![
        (augment.brightness, Step::Brightness(factor(augment.brightness))),
        (augment.contrast, Step::Contrast(factor(augment.contrast))),
        (augment.saturation, Step::Saturation(factor(augment.saturation))),
    ];
    let turn = f64::from(rng.random_range(-augment.hue..=augment.hue)) * 255.0;
    // Truncated towards 0; a negative rotation wraps around.
    steps.push((augment.hue, Step::Hue(turn as i32 as u8)));
    steps.shuffle(rng);
    steps.into_iter().filter(|(most, _)| *most > 0.0).map(|(_, step)| step).collect()
}

impl Step {
    pub(super) fn apply(self, pixels: &mut [u8]) {
        match self {
            Step::Brightness(factor) => colour::brightness(pixels, factor),
            Step::Contrast(factor) => colour::contrast(pixels, factor),
            Step::Saturation(factor) => colour::saturation(pixels, factor),
            Step::Hue(turn) => colour::hue(pixels, turn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, stream};

    fn drawn(augment: &Augment, item: u64) -> Vec<Step> {
        draw(augment, &mut stream(0, Purpose::Test, 0, item))
    }

    #[test]
    fn factors_lie_around_one_in_all_orders() {
        let augment = Augment { brightness: 0.4, contrast: 0.2, saturation: 1.0, hue: 0.1, ..Augment::none() };
        let mut orders = std::collections::BTreeSet::new();
        let (mut least, mut most) = ([f32::MAX; 4], [f32::MIN; 4]);
        for item in 0..500 {
            let steps = drawn(&augment, item);
            orders.insert(steps.iter().map(|step| place(step).0).collect::<Vec<_>>());
            for (place, value) in steps.iter().map(place) {
                (least[place], most[place]) = (least[place].min(value), most[place].max(value));
            }
        }
        assert_eq!(orders.len(), 24);
        // The widest ranges that may be drawn, and nearly all of them are.
        for (place, [low, high]) in [[0.6, 1.4], [0.8, 1.2], [0.0, 2.0], [-25.0, 25.0]].into_iter().enumerate() {
            let slack = (high - low) / 50.0;
            assert!((low..low + slack).contains(&least[place]), "{place}: {}", least[place]);
            assert!((high - slack..=high).contains(&most[place]), "{place}: {}", most[place]);
        }
    }

    fn place(step: &Step) -> (usize, f32) {
        match *step {
            Step::Brightness(factor) => (0, factor),
            Step::Contrast(factor) => (1, factor),
            Step::Saturation(factor) => (2, factor),
            Step::Hue(turn) => (3, f32::from(turn as i8)),
        }
    }

    #[test]
    fn what_is_off_is_left_out_and_the_others_keep_their_numbers() {
        assert_eq!(drawn(&Augment::none(), 0), []);
        let one = Augment { contrast: 0.5, ..Augment::none() };
        let two = Augment { hue: 0.5, ..one.clone() };
        for item in 0..20 {
            let kept: Vec<Step> = drawn(&two, item).into_iter().filter(|step| !matches!(step, Step::Hue(_))).collect();
            assert_eq!(drawn(&one, item), kept);
            assert!(matches!(kept[..], [Step::Contrast(_)]));
        }
    }
}
