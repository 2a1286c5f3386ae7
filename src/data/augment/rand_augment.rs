//! RandAugment (Cubuk et al., 2020): a few operations of one strength, each drawn from fourteen, with the operations and strengths of
//! torchvision's `RandAugment` (31 bins), nearest-neighbour sampling and a black border.

use rand::{Rng, RngExt};

use super::{colour, geometry};
use crate::data::Augment;

/// The largest magnitude.
const STRONGEST: f64 = 30.0;

/// One operation with its strength.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Op {
    Identity,
    ShearX(f64),
    ShearY(f64),
    /// Pixels to the right.
    TranslateX(i32),
    /// Pixels down.
    TranslateY(i32),
    /// Degrees counter-clockwise.
    Rotate(f64),
    Brightness(f32),
    Color(f32),
    Contrast(f32),
    Sharpness(f32),
    /// Bits that are kept.
    Posterize(u32),
    /// Threshold from which on values are inverted.
    Solarize(f64),
    AutoContrast,
    Equalize,
}

/// Number of operations.
const OPS: usize = 14;

/// Draws the operations for an image of `[height, width]`, in order.
pub(crate) fn draw(augment: &Augment, size: [usize; 2], rng: &mut impl Rng) -> Vec<Op> {
    let mut one = || {
        let (which, negative) = (rng.random_range(0..OPS), rng.random::<bool>());
        Op::new(which, augment.rand_magnitude, negative, size)
    };
    (0..augment.rand_ops).map(|_| one()).collect()
}

impl Op {
    /// Returns operation number `which` of magnitude 0 to 30; with `negative`, in the other direction if it has one.
    fn new(which: usize, magnitude: usize, negative: bool, [h, w]: [usize; 2]) -> Op {
        let share = magnitude as f64 / STRONGEST;
        let up_to = |most: f64| most * share * if negative { -1.0 } else { 1.0 };
        let factor = || (1.0 + up_to(0.9)) as f32;
        let pixels = |side: usize| up_to(150.0 / 331.0 * side as f64) as i32;
        match which {
            0 => Op::Identity,
            1 => Op::ShearX(up_to(0.3)),
            2 => Op::ShearY(up_to(0.3)),
            3 => Op::TranslateX(pixels(w)),
            4 => Op::TranslateY(pixels(h)),
            5 => Op::Rotate(up_to(30.0)),
            6 => Op::Brightness(factor()),
            7 => Op::Color(factor()),
            8 => Op::Contrast(factor()),
            9 => Op::Sharpness(factor()),
            10 => Op::Posterize(8 - (4.0 * share).round() as u32),
            11 => Op::Solarize(255.0 * (1.0 - share)),
            12 => Op::AutoContrast,
            _ => Op::Equalize,
        }
    }

    /// Applies the operation to `pixels` `[height, width, 3]`.
    pub(super) fn apply(self, pixels: &mut [u8], size: [usize; 2]) {
        match self {
            Op::Identity => {}
            Op::ShearX(share) => geometry::shear_x(pixels, size, share),
            Op::ShearY(share) => geometry::shear_y(pixels, size, share),
            Op::TranslateX(right) => geometry::translate(pixels, size, [0, right]),
            Op::TranslateY(down) => geometry::translate(pixels, size, [down, 0]),
            Op::Rotate(degrees) => geometry::rotate(pixels, size, degrees),
            Op::Brightness(factor) => colour::brightness(pixels, factor),
            Op::Color(factor) => colour::saturation(pixels, factor),
            Op::Contrast(factor) => colour::contrast(pixels, factor),
            Op::Sharpness(factor) => colour::sharpness(pixels, size, factor),
            Op::Posterize(bits) => colour::posterize(pixels, bits),
            Op::Solarize(threshold) => colour::solarize(pixels, threshold),
            Op::AutoContrast => colour::auto_contrast(pixels),
            Op::Equalize => colour::equalize(pixels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::colour::tests::{SIZE, sum_after};
    use super::*;
    use crate::base::rng::{Purpose, stream};

    fn all(magnitude: usize, negative: bool) -> Vec<Op> {
        (0..OPS).map(|which| Op::new(which, magnitude, negative, [224, 331])).collect()
    }

    #[test]
    fn strengths_by_magnitude() {
        // 150 / 331 · 224 = 101.5
        let strongest = [
            Op::Identity,
            Op::ShearX(-0.3),
            Op::ShearY(-0.3),
            Op::TranslateX(-150),
            Op::TranslateY(-101),
            Op::Rotate(-30.0),
            Op::Brightness(0.1),
            Op::Color(0.1),
            Op::Contrast(0.1),
            Op::Sharpness(0.1),
            Op::Posterize(4),
            Op::Solarize(0.0),
            Op::AutoContrast,
            Op::Equalize,
        ];
        assert_eq!(all(30, true), strongest);
        let nine = all(9, false);
        // 8 - 9 / 7.5 = 6.8; 255 - 9 · 8.5 = 178.5; 0.3 · 101.5 = 30.5
        assert_eq!(nine[3..6], [Op::TranslateX(45), Op::TranslateY(30), Op::Rotate(9.0)]);
        assert_eq!(nine[6], Op::Brightness(1.27));
        assert_eq!(nine[10..12], [Op::Posterize(7), Op::Solarize(178.5)]);
        let nothing = all(0, false);
        assert_eq!(
            (nothing[6], nothing[10], nothing[11]),
            (Op::Brightness(1.0), Op::Posterize(8), Op::Solarize(255.0))
        );
    }

    #[test]
    fn every_operation_is_drawn_with_both_signs() {
        let augment = Augment { rand_ops: 2, rand_magnitude: 10, ..Augment::none() };
        let mut found = std::collections::BTreeMap::new();
        for item in 0..1000 {
            let ops = draw(&augment, [32, 32], &mut stream(0, Purpose::Test, 0, item));
            assert_eq!(ops.len(), 2);
            ops.iter().for_each(|op| *found.entry(format!("{op:?}")).or_insert(0) += 1);
        }
        // Nine with a sign, five without; 2000 / 14 = 143 of each.
        assert_eq!(found.len(), 9 * 2 + 5, "{found:?}");
        assert!(found.values().all(|n| (45..190).contains(n)), "{found:?}");
        assert_eq!(draw(&Augment::none(), [32, 32], &mut stream(0, Purpose::Test, 0, 0)), []);
    }

    /// Checks that each operation makes the change that it is named after.
    #[test]
    fn operations_do_what_they_say() {
        let after = |op: Op| sum_after(|p| op.apply(p, SIZE));
        let got = [
            Op::ShearX(0.3),
            Op::ShearY(0.3),
            Op::TranslateX(3),
            Op::TranslateY(-5),
            Op::Rotate(9.0),
            Op::Brightness(1.9),
            Op::Contrast(1.9),
            Op::Color(1.9),
            Op::Sharpness(1.9),
            Op::Posterize(5),
            Op::Solarize(178.5),
            Op::AutoContrast,
            Op::Equalize,
        ]
        .map(after);
        let want = [
            12_088_695, 14_273_358, 13_627_905, 13_716_728, 14_582_330, 23_272_867, 15_790_101, 15_581_341, 15_835_423,
            15_392_488, 9_149_649, 15_830_710, 17_363_281,
        ];
        assert_eq!(got, want);
        assert_eq!(after(Op::Identity), sum_after(|_| ()));
    }
}
