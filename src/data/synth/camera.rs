//! Cameras: position, direction, light, and the errors of optics and sensor.

use std::f32::consts::{FRAC_PI_2, PI, TAU};

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use super::Domain;
use super::draw::{Canvas, Colour, Shape, View, lit, mix};
use super::figure::{Figure, Pose};
use super::gap::{Gap, Viewpoint, cover};
use super::identity::Identity;

/// Image height for which blur and loss of resolution are given; they grow with the image.
const REFERENCE_HEIGHT: f32 = 128.0;

/// A thing in the background, in image heights.
#[derive(Clone, Debug)]
struct Clutter {
    shape: Shape,
    colour: Colour,
}

/// A camera's settings.
#[derive(Clone, Debug)]
pub(super) struct Camera {
    /// Factor of each colour channel.
    gains: Colour,
    gamma: f32,
    contrast: f32,
    /// Light from one side: change of brightness across the image.
    slope: f32,
    /// Logarithm of the largest change of a colour channel from image to image.
    unsteadiness: f32,
    /// Direction in which most people walk, like [`Pose::heading`].
    heading: f32,
    /// Body height as a share of the image height, and its variation.
    zoom: f32,
    zoom_jitter: f32,
    /// Standard deviation of the blur in pixels, and the factor by which the resolution is reduced.
    blur: f32,
    coarseness: f32,
    noise: f32,
    occlusion: f64,
    /// Probability that something large is in front of a person, and the domain whose clothes other people wear.
    covered: f64,
    clothes: Domain,
    /// How the camera sees the scene if it is not level in front of people.
    viewpoint: Option<Viewpoint>,
    wall: Colour,
    ground: Colour,
    horizon: f32,
    clutter: Vec<Clutter>,
}

/// Smallest and largest values of the settings of a domain's cameras.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    pub brightness: [f32; 2],
    /// Strength of the colour cast: logarithm of the largest gain.
    pub cast: [f32; 2],
    pub gamma: [f32; 2],
    pub contrast: [f32; 2],
    /// Light from one side: largest change of brightness across the image.
    pub slope: f32,
    /// Logarithm of the largest change of a colour channel from image to image.
    pub unsteadiness: f32,
    pub blur: [f32; 2],
    pub coarseness: [f32; 2],
    pub noise: [f32; 2],
    pub zoom: [f32; 2],
    pub zoom_jitter: f32,
    pub occlusion: f64,
    /// Probability that something large is in front of a person.
    pub covered: f64,
    /// Strength of the cameras' [`Viewpoint`]s; 0 for none.
    pub moved: f32,
    pub clutter: usize,
    pub walls: [Colour; 4],
}

pub(super) const SOURCE: Ranges = Ranges {
    brightness: [0.85, 1.15],
    cast: [0.05, 0.22],
    gamma: [0.8, 1.2],
    contrast: [0.85, 1.1],
    slope: 0.35,
    unsteadiness: 0.0,
    blur: [0.2, 0.7],
    coarseness: [1.0, 1.4],
    noise: [0.005, 0.02],
    zoom: [0.84, 0.92],
    zoom_jitter: 0.04,
    occlusion: 0.08,
    covered: 0.0,
    moved: 0.0,
    clutter: 5,
    walls: [[0.78, 0.80, 0.82], [0.70, 0.78, 0.66], [0.82, 0.76, 0.66], [0.62, 0.72, 0.84]],
};

pub(super) const TARGET: Ranges = Ranges {
    brightness: [0.70, 1.05],
    cast: [0.10, 0.28],
    gamma: [0.75, 1.3],
    contrast: [0.7, 1.05],
    slope: 0.35,
    unsteadiness: 0.0,
    blur: [0.5, 1.2],
    coarseness: [1.3, 2.0],
    noise: [0.01, 0.03],
    zoom: [0.76, 0.96],
    zoom_jitter: 0.08,
    occlusion: 0.2,
    covered: 0.0,
    moved: 0.0,
    clutter: 9,
    walls: [[0.44, 0.46, 0.50], [0.56, 0.50, 0.44], [0.38, 0.44, 0.40], [0.65, 0.64, 0.60]],
};

/// Returns a random number from a range.
pub(super) fn within([low, high]: [f32; 2], rng: &mut impl Rng) -> f32 {
    rng.random_range(low..high)
}

impl Camera {
    /// Draws camera number `index` of a domain.
    pub(super) fn random(domain: Domain, gap: Gap, index: usize, rng: &mut impl Rng) -> Camera {
        let ranges = gap.cameras(domain);
        let (brightness, strength) = (within(ranges.brightness, rng), within(ranges.cast, rng));
        // The golden section spreads the casts of neighbouring cameras over the colour circle.
        let hue = (index as f32 * 0.618 + rng.random_range(0.0..0.2)) * TAU;
        let gains = std::array::from_fn(|c| brightness * (strength * (hue + c as f32 * TAU / 3.0).cos()).exp());
        let wall = *ranges.walls.choose(rng).expect("a wall");
        let ground = mix(lit(wall, rng.random_range(0.5..0.9)), [0.42, 0.40, 0.37], 0.5);
        let clutter = (0..ranges.clutter).map(|_| Clutter::random(wall, rng)).collect();
        Camera {
            gains,
            gamma: within(ranges.gamma, rng),
            contrast: within(ranges.contrast, rng),
            slope: rng.random_range(-ranges.slope..ranges.slope),
            unsteadiness: ranges.unsteadiness,
            heading: index as f32 * FRAC_PI_2 + rng.random_range(-0.4..0.4),
            zoom: within(ranges.zoom, rng),
            zoom_jitter: ranges.zoom_jitter,
            blur: within(ranges.blur, rng),
            coarseness: within(ranges.coarseness, rng),
            noise: within(ranges.noise, rng),
            occlusion: ranges.occlusion,
            covered: ranges.covered,
            clothes: gap.clothes(domain),
            wall,
            ground,
            horizon: rng.random_range(0.45..0.8),
            clutter,
            // After all others, so that these are the same without it.
            viewpoint: (ranges.moved > 0.0).then(|| Viewpoint::random(ranges.moved, rng)),
        }
    }

    /// Draws an image of a person. Returns `[height, width, 3]` bytes.
    pub(crate) fn photograph(&self, who: &Identity, width: usize, height: usize, rng: &mut impl Rng) -> Vec<u8> {
        let mut canvas = self.background(width, height, rng);
        let heading = match rng.random_range(0..10) {
            0..6 => self.heading + rng.random_range(-0.4..0.4),
            6..9 => self.heading + PI + rng.random_range(-0.4..0.4),
            _ => rng.random_range(0.0..TAU),
        };
        let jitter = |rng: &mut _| within([-self.zoom_jitter, self.zoom_jitter], rng);
        let zoom = (self.zoom + jitter(rng)) * who.stature;
        let scale = zoom * height as f32;
        let feet = (0.965 + 0.5 * jitter(rng)) * height as f32;
        let x = width as f32 * (0.5 + 1.2 * jitter(rng));
        let view = View { origin: [x, feet - scale], scale };
        let shadow = Shape::Ellipse { centre: [0.0, 0.985], radii: [0.2, 0.03] };
        canvas.fill(&view, &shadow, |_| lit(self.ground, 0.5));
        Figure { canvas: &mut canvas, view, who, pose: Pose::random(heading, rng) }.draw();
        if rng.random_bool(self.occlusion) {
            occlude(&mut canvas, rng);
        }
        if self.covered > 0.0 && rng.random_bool(self.covered) {
            cover(&mut canvas, self.clothes, rng);
        }
        self.develop(canvas, rng)
    }

    /// Draws a false detection: background, or a part of a person. Returns `[height, width, 3]` bytes.
    pub(crate) fn false_detection(&self, who: &Identity, width: usize, height: usize, rng: &mut impl Rng) -> Vec<u8> {
        let mut canvas = self.background(width, height, rng);
        if rng.random_bool(0.6) {
            let scale = rng.random_range(1.3..2.2) * height as f32;
            let origin = [width as f32 * rng.random_range(-0.1..1.1), -scale * rng.random_range(0.0..0.6)];
            let pose = Pose::random(rng.random_range(0.0..TAU), rng);
            Figure { canvas: &mut canvas, view: View { origin, scale }, who, pose }.draw();
        } else {
            occlude(&mut canvas, rng);
        }
        self.develop(canvas, rng)
    }

    /// Draws wall, ground and clutter. The view shifts, as people walk along, and some of the clutter changes from image to image.
    fn background(&self, width: usize, height: usize, rng: &mut impl Rng) -> Canvas {
        let h = height as f32;
        let horizon = self.horizon + rng.random_range(-0.04..0.04);
        let mut canvas = Canvas::new(width, height, |_, y| {
            let y = (y as f32 + 0.5) / h;
            if y < horizon { lit(self.wall, 1.1 - 0.3 * y) } else { lit(self.ground, 0.7 + 0.4 * y) }
        });
        let view = View { origin: [h * rng.random_range(-0.35..0.35), h * rng.random_range(-0.05..0.05)], scale: h };
        let passing: Vec<Clutter> =
            (0..rng.random_range(0..self.clutter.len() / 2)).map(|_| Clutter::random(self.wall, rng)).collect();
        for thing in self.clutter.iter().chain(&passing) {
            canvas.fill(&view, &thing.shape, |_| thing.colour);
        }
        canvas
    }

    /// Turns a scene into bytes: viewpoint, light, optics, sensor, colour processing.
    fn develop(&self, mut canvas: Canvas, rng: &mut impl Rng) -> Vec<u8> {
        if let Some(viewpoint) = &self.viewpoint {
            canvas = viewpoint.seen(&canvas, rng);
        }
        let size = canvas.height as f32 / REFERENCE_HEIGHT;
        canvas.blur(self.blur * size * rng.random_range(0.7..1.3));
        let coarseness = self.coarseness * rng.random_range(0.85..1.15);
        if coarseness > 1.05 {
            canvas.lose_resolution(coarseness * size.max(0.5));
        }
        let exposure = rng.random_range(0.88..1.12);
        let gains = if self.unsteadiness > 0.0 {
            self.gains.map(|gain| gain * within([-self.unsteadiness, self.unsteadiness], rng).exp())
        } else {
            self.gains
        };
        let width = canvas.width as f32;
        let mut bytes = Vec::with_capacity(canvas.pixels.len() * 3);
        for (i, pixel) in canvas.pixels.iter().enumerate() {
            let across = (i % canvas.width) as f32 / width - 0.5;
            let light = exposure * (1.0 + self.slope * across);
            for c in 0..3 {
                let toned = (pixel[c] * gains[c] * light).max(0.0).powf(self.gamma);
                let noise: f32 = rng.sample(StandardNormal);
                let value = 0.5 + (toned - 0.5) * self.contrast + noise * self.noise;
                bytes.push((value * 255.0 + 0.5).clamp(0.0, 255.0) as u8);
            }
        }
        bytes
    }
}

impl Clutter {
    fn random(wall: Colour, rng: &mut impl Rng) -> Clutter {
        let centre = [rng.random_range(-0.5..1.0), rng.random_range(0.0..0.9)];
        let half = [rng.random_range(0.02..0.16), rng.random_range(0.03..0.30)];
        let shape = match rng.random_range(0..3) {
            0 => Shape::Ellipse { centre, radii: half },
            1 => Shape::RoundBox { centre, half, radius: 0.01 },
            _ => Shape::Capsule { a: centre, b: [centre[0] + half[0], centre[1] + half[1]], ra: 0.02, rb: 0.03 },
        };
        let own = std::array::from_fn(|_| rng.random_range(0.1..0.9));
        Clutter { shape, colour: mix(lit(wall, rng.random_range(0.5..1.3)), own, 0.45) }
    }
}

/// Draws something in front of the person: a post, a rail or a box at the lower edge. Most of the body stays visible.
fn occlude(canvas: &mut Canvas, rng: &mut impl Rng) {
    let (w, h) = (canvas.width as f32 / canvas.height as f32, 1.0);
    let half = rng.random_range(0.025..0.055);
    let (centre, half) = match rng.random_range(0..3) {
        0 => ([w * rng.random_range(0.1..0.9), 0.5], [half, 0.7]),
        1 => ([w / 2.0, rng.random_range(0.35..0.9)], [w, half]),
        _ => ([w * rng.random_range(0.0..1.0), h], [w * 0.4, rng.random_range(0.1..0.3)]),
    };
    let colour = std::array::from_fn(|_| rng.random_range(0.15..0.75));
    let view = View { origin: [0.0, 0.0], scale: canvas.height as f32 };
    canvas.fill(&view, &Shape::RoundBox { centre, half, radius: 0.01 }, |p| lit(colour, 1.1 - 0.2 * p[1]));
}
