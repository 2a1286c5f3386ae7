//! In what the target domain differs from the source.

use std::f32::consts::TAU;

use rand::{Rng, RngExt};

use super::Domain;
use super::camera::{Ranges, SOURCE, TARGET, within};
use super::draw::{Canvas, Point, Shape, View, lit};
use super::figure::{Figure, Pose};
use super::identity::Identity;
use crate::base::settings::choice;

choice! {
    /// In what the target domain differs from the source. The source is the same with every gap. With every gap but
    /// `cameras-and-clothes`, clothes come from one distribution, and a seed draws the same people in the same places, so that two targets
    /// differ in their gap alone.
    pub enum Gap {
        /// Cameras and clothes: dark, blurred, stronger colour casts, more clutter, muted clothes.
        #[default]
        CamerasAndClothes = "cameras-and-clothes",
        /// Nothing: other people and other cameras, drawn from the source's distributions.
        None = "none",
        /// Light and colour: brightness, colour cast, gamma, contrast, light from one side, by camera and from image to
        /// image.
        Light = "light",
        /// The view: cameras that look from above or below, are turned about their axis, squash people, or show them larger or smaller.
        Viewpoint = "viewpoint",
        /// Things in front of people: pillars, boards, walls, other people.
        Occlusion = "occlusion",
        /// Light, viewpoint and occlusion together, each at half of its strength.
        All = "all",
    }
}

impl Gap {
    /// Returns the domain whose clothes the people of `domain` wear.
    pub(super) fn clothes(self, domain: Domain) -> Domain {
        if self == Gap::CamerasAndClothes { domain } else { Domain::Source }
    }

    /// Returns the ranges of the settings of the cameras of `domain`.
    pub(super) fn cameras(self, domain: Domain) -> Ranges {
        let [light, moved, covered] = match (domain, self) {
            (Domain::Target, Gap::CamerasAndClothes) => return TARGET,
            (Domain::Source, _) | (_, Gap::None) => [0.0; 3],
            (_, Gap::Light) => [1.0, 0.0, 0.0],
            (_, Gap::Viewpoint) => [0.0, 1.0, 0.0],
            (_, Gap::Occlusion) => [0.0, 0.0, 1.0],
            // At full strength, the three together would leave too little to recognise people by.
            (_, Gap::All) => [0.5; 3],
        };
        let other = |from: [f32; 2], to: [f32; 2]| std::array::from_fn(|i| from[i] + light * (to[i] - from[i]));
        Ranges {
            brightness: other(SOURCE.brightness, [0.5, 0.95]),
            cast: other(SOURCE.cast, [0.15, 0.4]),
            gamma: other(SOURCE.gamma, [0.6, 1.7]),
            contrast: other(SOURCE.contrast, [0.45, 0.9]),
            slope: SOURCE.slope + light * 0.3,
            unsteadiness: light * 0.6,
            moved,
            covered: f64::from(covered) * 0.6,
            ..SOURCE
        }
    }
}

/// How a camera that is not level in front of people sees a scene. Lengths are in image heights from the centre of the image.
#[derive(Clone, Debug)]
pub(super) struct Viewpoint {
    /// Angle by which the camera is turned about its axis, in radians.
    roll: f32,
    /// Size of things in the image.
    zoom: f32,
    /// Width of things relative to their height.
    squash: f32,
    /// Positive from above, which shows heads large and legs short; negative from below.
    tilt: f32,
}

impl Viewpoint {
    /// Draws the viewpoint of a camera; `strength` is 1, or less for one that is closer to a level view from in front.
    pub(super) fn random(strength: f32, rng: &mut impl Rng) -> Viewpoint {
        let tilt = strength * within([0.15, 0.4], rng);
        Viewpoint {
            roll: strength * within([-0.35, 0.35], rng),
            zoom: within([0.65, 1.3], rng).powf(strength),
            squash: within([0.65, 1.5], rng).powf(strength),
            tilt: if rng.random_bool(0.75) { tilt } else { -tilt },
        }
    }

    /// Returns what the camera sees of a scene, which varies a little from image to image.
    pub(super) fn seen(&self, scene: &Canvas, rng: &mut impl Rng) -> Canvas {
        let (sin, cos) = (self.roll + within([-0.1, 0.1], rng)).sin_cos();
        let zoom = self.zoom * within([0.9, 1.1], rng);
        let shift = [within([-0.04, 0.04], rng), within([-0.06, 0.06], rng)];
        let half = 0.5 * scene.width as f32 / scene.height as f32;
        scene.sampled(|[x, y]| {
            let (x, y) = ((x - half) / (zoom * self.squash), (y - 0.5) / zoom);
            let (x, y) = (cos * x + sin * y, cos * y - sin * x);
            // Sizes change linearly from the upper to the lower edge, which stay where they are.
            let size = 1.0 + 2.0 * self.tilt * y.clamp(-0.5, 0.5);
            [half + shift[0] + x * size, 0.5 + shift[1] + y + self.tilt * (y.clamp(-0.5, 0.5).powi(2) - 0.25)]
        })
    }
}

/// Draws something large in front of a person: a pillar, a board, a wall that hides the legs, or another person.
pub(super) fn cover(canvas: &mut Canvas, clothes: Domain, rng: &mut impl Rng) {
    let (w, size) = (canvas.width as f32 / canvas.height as f32, canvas.height as f32);
    let (centre, half): (Point, Point) = match rng.random_range(0..4) {
        0 => ([w * within([0.25, 0.75], rng), 0.5], [w * within([0.1, 0.18], rng), 0.7]),
        1 => ([w / 2.0, within([0.25, 0.6], rng)], [w, within([0.08, 0.15], rng)]),
        2 => ([w / 2.0, 1.0], [w, within([0.3, 0.5], rng)]),
        _ => {
            let other = Identity::random(clothes, rng);
            let scale = size * within([0.85, 1.05], rng) * other.stature;
            let side = if rng.random_bool(0.5) { -1.0 } else { 1.0 };
            let x = canvas.width as f32 * (0.5 + side * within([0.25, 0.42], rng));
            let view = View { origin: [x, size * within([0.98, 1.1], rng) - scale], scale };
            let pose = Pose::random(rng.random_range(0.0..TAU), rng);
            return Figure { canvas, view, who: &other, pose }.draw();
        }
    };
    let colour = std::array::from_fn(|_| rng.random_range(0.15..0.75));
    let view = View { origin: [0.0, 0.0], scale: size };
    canvas.fill(&view, &Shape::RoundBox { centre, half, radius: 0.01 }, |p| lit(colour, 1.1 - 0.2 * p[1]));
}
