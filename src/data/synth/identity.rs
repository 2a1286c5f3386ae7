//! Properties of a person that are the same in all images: build, hair, clothes, bag.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::Domain;
use super::draw::{Colour, Point, lit, mix};

/// Patterns of two colours on a garment. The smallest part is about 0.05 body heights, so that it is visible in 64x32 pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Plain,
    HorizontalStripes,
    VerticalStripes,
    Checks,
    Dots,
    /// Chest and shoulders in one colour, the rest in the other.
    TwoTone,
    /// One broad band around the chest.
    Band,
    /// A disc on the chest, visible from the front only.
    Logo,
    /// An open jacket over a shirt, visible from the front only.
    Open,
}

const UPPER_PATTERNS: [Pattern; 9] = [
    Pattern::Plain,
    Pattern::HorizontalStripes,
    Pattern::VerticalStripes,
    Pattern::Checks,
    Pattern::Dots,
    Pattern::TwoTone,
    Pattern::Band,
    Pattern::Logo,
    Pattern::Open,
];
const LOWER_PATTERNS: [Pattern; 6] =
    [Pattern::Plain, Pattern::Plain, Pattern::Plain, Pattern::TwoTone, Pattern::HorizontalStripes, Pattern::Checks];

/// A piece of clothing.
#[derive(Clone, Debug)]
pub(super) struct Garment {
    pub colour: Colour,
    pub accent: Colour,
    pub pattern: Pattern,
    /// Length after which stripes, checks or dots repeat, in body heights.
    period: f32,
}

impl Garment {
    /// Returns the colour at `p`, in body heights from the body's axis and from the garment's upper edge. `facing` is 1 from the front
    /// and -1 from behind.
    pub(crate) fn colour_at(&self, p: Point, facing: f32) -> Colour {
        // A wave that is 1 on half of each period, with soft edges.
        let wave = |v: f32| (0.5 + 4.0 * (v / self.period * std::f32::consts::TAU).sin()).clamp(0.0, 1.0);
        let step = |inside: f32| (0.5 + inside * 80.0).clamp(0.0, 1.0);
        let share = match self.pattern {
            Pattern::Plain => 0.0,
            Pattern::HorizontalStripes => wave(p[1]),
            Pattern::VerticalStripes => wave(p[0] + self.period * 0.25),
            Pattern::Checks => {
                let (x, y) = (wave(p[0]), wave(p[1]));
                x + y - 2.0 * x * y
            }
            Pattern::Dots => {
                let row = (p[1] / self.period).floor();
                let shift = if row as i32 % 2 == 0 { 0.0 } else { 0.5 };
                let cell: Point = [
                    ((p[0] / self.period + shift).rem_euclid(1.0) - 0.5) * self.period,
                    ((p[1] / self.period).rem_euclid(1.0) - 0.5) * self.period,
                ];
                step(0.31 * self.period - cell[0].hypot(cell[1]))
            }
            Pattern::TwoTone => step(p[1] - 0.14),
            Pattern::Band => step(0.04 - (p[1] - 0.13).abs()),
            Pattern::Logo if facing > 0.2 => step(0.055 - p[0].hypot(p[1] - 0.11)),
            Pattern::Open if facing > 0.0 => step(0.04 * facing + 0.01 - p[0].abs()),
            Pattern::Logo | Pattern::Open => 0.0,
        };
        mix(self.colour, self.accent, share)
    }
}

/// What covers the legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lower {
    Trousers,
    Shorts,
    Skirt,
    LongSkirt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hair {
    Bald,
    Short,
    Long,
    Bun,
    /// A hat in [`Identity::hat`]'s colour over short hair.
    Hat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bag {
    Nothing,
    Backpack,
    /// Hangs at the hip from a strap across the chest.
    Shoulder,
    Hand,
}

/// A person.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub upper: Garment,
    pub long_sleeves: bool,
    /// Lower edge of the upper garment: waist, hip or thigh, in body heights from the top.
    pub hem: f32,
    pub lower: Lower,
    pub lower_garment: Garment,
    /// Body height and width relative to the average.
    pub stature: f32,
    pub girth: f32,
    pub hair: Hair,
    pub hair_colour: Colour,
    pub hat: Colour,
    pub skin: Colour,
    pub bag: Bag,
    pub bag_colour: Colour,
    pub shoes: Colour,
    pub boots: bool,
    /// 1 or -1: the body side that carries a shoulder or hand bag.
    pub bag_side: f32,
}

const SKIN: [Colour; 4] = [[0.93, 0.76, 0.65], [0.82, 0.62, 0.48], [0.60, 0.42, 0.30], [0.36, 0.24, 0.18]];
const HAIR: [Colour; 5] =
    [[0.08, 0.07, 0.07], [0.25, 0.15, 0.08], [0.72, 0.55, 0.28], [0.50, 0.20, 0.08], [0.66, 0.65, 0.64]];
const SHOES: [Colour; 4] = [[0.07, 0.07, 0.08], [0.92, 0.92, 0.90], [0.40, 0.24, 0.13], [0.70, 0.12, 0.12]];

/// Few colours for many people: they have to be distinguished by what they wear, not by single colours.
const SOURCE_UPPER: [Colour; 8] = [
    [0.85, 0.18, 0.16],
    [0.16, 0.38, 0.80],
    [0.95, 0.80, 0.22],
    [0.22, 0.62, 0.30],
    [0.95, 0.95, 0.93],
    [0.94, 0.52, 0.66],
    [0.96, 0.55, 0.15],
    [0.30, 0.72, 0.78],
];
const SOURCE_LOWER: [Colour; 5] =
    [[0.20, 0.30, 0.58], [0.78, 0.68, 0.50], [0.14, 0.14, 0.16], [0.60, 0.62, 0.64], [0.55, 0.20, 0.25]];
const TARGET_UPPER: [Colour; 8] = [
    [0.13, 0.13, 0.15],
    [0.16, 0.20, 0.36],
    [0.40, 0.41, 0.43],
    [0.36, 0.12, 0.16],
    [0.33, 0.34, 0.18],
    [0.70, 0.62, 0.48],
    [0.78, 0.79, 0.80],
    [0.14, 0.36, 0.36],
];
const TARGET_LOWER: [Colour; 5] =
    [[0.11, 0.11, 0.13], [0.18, 0.24, 0.38], [0.32, 0.30, 0.28], [0.48, 0.42, 0.32], [0.24, 0.14, 0.20]];

impl Identity {
    /// Draws a person of a domain.
    pub(super) fn random(domain: Domain, rng: &mut impl Rng) -> Identity {
        let (uppers, lowers) = match domain {
            Domain::Source => (&SOURCE_UPPER, &SOURCE_LOWER),
            Domain::Target => (&TARGET_UPPER, &TARGET_LOWER),
        };
        let upper = garment(uppers, uppers, &UPPER_PATTERNS, rng);
        let lower_garment = garment(lowers, uppers, &LOWER_PATTERNS, rng);
        let hair_colour = jittered(one(&HAIR, rng), rng);
        Identity {
            upper,
            long_sleeves: rng.random(),
            hem: one(&[0.49, 0.54, 0.66], rng),
            lower: one(&[Lower::Trousers, Lower::Trousers, Lower::Shorts, Lower::Skirt, Lower::LongSkirt], rng),
            lower_garment,
            stature: rng.random_range(0.88..1.04),
            girth: rng.random_range(0.85..1.25),
            hair: one(&[Hair::Bald, Hair::Short, Hair::Short, Hair::Long, Hair::Long, Hair::Bun, Hair::Hat], rng),
            hair_colour,
            hat: jittered(one(uppers, rng), rng),
            skin: jittered(one(&SKIN, rng), rng),
            bag: one(&[Bag::Nothing, Bag::Backpack, Bag::Shoulder, Bag::Hand], rng),
            bag_colour: jittered(one(uppers, rng), rng),
            shoes: one(&SHOES, rng),
            boots: rng.random_bool(0.25),
            bag_side: one(&[-1.0, 1.0], rng),
        }
    }
}

fn one<T: Copy>(of: &[T], rng: &mut impl Rng) -> T {
    *of.choose(rng).expect("a choice")
}

/// Varies a colour a little, so that two people's reds differ.
fn jittered(colour: Colour, rng: &mut impl Rng) -> Colour {
    lit(colour, rng.random_range(0.92..1.08)).map(|v| v + rng.random_range(-0.02..0.02))
}

fn garment(colours: &[Colour], accents: &[Colour], patterns: &[Pattern], rng: &mut impl Rng) -> Garment {
    let colour = one(colours, rng);
    // The accent must differ enough for the pattern to be visible.
    let apart = |other: &&Colour| (0..3).map(|c| (other[c] - colour[c]).abs()).sum::<f32>() > 0.6;
    let accents: Vec<Colour> = accents.iter().filter(apart).copied().collect();
    Garment {
        colour: jittered(colour, rng),
        accent: jittered(one(&accents, rng), rng),
        pattern: one(patterns, rng),
        period: rng.random_range(0.10..0.13),
    }
}
