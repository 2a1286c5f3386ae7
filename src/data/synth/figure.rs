//! Draws a person in a pose. Lengths are in body heights. The feet are at y = 1, and the body is turned about its axis x = 0: a point of
//! the body has x to its left, y down, z forward.

use rand::{Rng, RngExt};

use super::draw::{Canvas, Colour, Point, Shape, View, lit};
use super::identity::{Bag, Hair, Identity, Lower};

const SHOULDER: f32 = 0.20;
const HIP: f32 = 0.50;
const KNEE: f32 = 0.73;
/// Length of thigh and of shin.
const LEG: f32 = 0.225;

/// Orientation of the body and position of its limbs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pose {
    /// Angle from the direction to the camera in radians: 0 faces it, π shows the back.
    pub heading: f32,
    /// Angle by which the left leg is ahead, in radians.
    stride: f32,
    /// Bend of the knee behind and of both elbows.
    knee: f32,
    elbow: f32,
    /// Distance of the arms from the body.
    splay: f32,
}

impl Pose {
    pub(super) fn random(heading: f32, rng: &mut impl Rng) -> Pose {
        Pose {
            heading,
            stride: rng.random_range(-0.45..0.45),
            knee: rng.random_range(0.0..0.5),
            elbow: rng.random_range(0.05..0.7),
            splay: rng.random_range(0.05..0.22),
        }
    }
}

/// A figure being drawn.
pub(super) struct Figure<'a> {
    pub canvas: &'a mut Canvas,
    pub view: View,
    pub who: &'a Identity,
    pub pose: Pose,
}

impl Figure<'_> {
    /// Draws the whole person, far parts first.
    pub(crate) fn draw(&mut self) {
        let (facing, turn) = (self.pose.heading.cos(), self.pose.heading.sin());
        // The side that is farther from the camera is drawn first.
        let far = if turn > 0.0 { 1.0 } else { -1.0 };
        let carries = |bag| self.who.bag == bag;
        let (backpack, shoulder_bag) = (carries(Bag::Backpack), carries(Bag::Shoulder));
        let bag_is_far = self.who.bag_side == far && turn.abs() > 0.5;
        if backpack && facing > -0.2 {
            self.backpack();
        }
        if shoulder_bag && bag_is_far {
            self.shoulder_bag();
        }
        if turn.abs() > 0.3 {
            self.arm(far);
        }
        self.leg(far);
        self.leg(-far);
        self.skirt();
        self.torso();
        if backpack && facing <= -0.2 {
            self.backpack();
        } else if backpack && facing > 0.4 {
            self.backpack_straps();
        }
        if shoulder_bag {
            self.strap();
        }
        self.head();
        if turn.abs() <= 0.3 {
            self.arm(far);
        }
        self.arm(-far);
        if shoulder_bag && !bag_is_far {
            self.shoulder_bag();
        }
    }

    fn fill(&mut self, shape: Shape, paint: impl Fn(Point) -> Colour) {
        self.canvas.fill(&self.view, &shape, paint);
    }

    /// Returns where a point of the body is seen.
    fn seen(&self, [x, y, z]: [f32; 3]) -> Point {
        [x * self.pose.heading.cos() + z * self.pose.heading.sin(), y]
    }

    /// Returns half of the visible width of a body section that is `wide` and `deep`.
    fn half_width(&self, wide: f32, deep: f32) -> f32 {
        let girth = self.who.girth;
        (wide * self.pose.heading.cos()).hypot(deep * self.pose.heading.sin()) * girth
    }

    fn capsule(&mut self, from: [f32; 3], to: [f32; 3], ra: f32, rb: f32, colour: Colour) {
        let (a, b) = (self.seen(from), self.seen(to));
        self.fill(Shape::Capsule { a, b, ra, rb }, |_| colour);
    }

    /// Returns hip, knee and ankle of a side (1 left, -1 right).
    fn leg_joints(&self, side: f32) -> [[f32; 3]; 3] {
        let swing = side * self.pose.stride;
        let bend = if swing < 0.0 { self.pose.knee } else { 0.1 * self.pose.knee };
        let x = side * 0.055 * self.who.girth;
        let hip = [x, HIP, 0.0];
        let knee = [x * 1.05, HIP + LEG * swing.cos(), LEG * swing.sin()];
        let shin = swing - bend;
        [hip, knee, [x * 1.1, knee[1] + LEG * shin.cos(), knee[2] + LEG * shin.sin()]]
    }

    fn leg(&mut self, side: f32) {
        let who = self.who;
        let [hip, knee, ankle] = self.leg_joints(side);
        let turn = self.pose.heading.sin();
        // The far leg is in the shade of the near one.
        let shade = if side * turn > 0.3 { 0.72 } else { 1.0 };
        let thick = who.girth.sqrt();
        let toe = [ankle[0], ankle[1] + 0.025, ankle[2] + 0.055];
        self.capsule(ankle, toe, 0.03, 0.026, lit(who.shoes, shade));
        let (thigh, shin) = (0.06 * thick, 0.045 * thick);
        let (skin, cloth) = (who.skin, who.lower_garment.clone());
        let bare = matches!(who.lower, Lower::Shorts | Lower::Skirt);
        let axis = self.seen(hip)[0];
        let facing = self.pose.heading.cos();
        let paint = move |p: Point| {
            if bare && p[1] > KNEE - 0.03 {
                lit(skin, shade)
            } else {
                lit(cloth.colour_at([p[0] - axis, p[1] - HIP], facing), shade)
            }
        };
        for (a, b, ra, rb) in [(knee, ankle, shin, if bare { 0.028 } else { 0.036 * thick }), (hip, knee, thigh, shin)]
        {
            let shape = Shape::Capsule { a: self.seen(a), b: self.seen(b), ra, rb };
            self.fill(shape, &paint);
        }
        if who.boots {
            let top: [f32; 3] = std::array::from_fn(|i| knee[i] + (ankle[i] - knee[i]) * 0.45);
            self.capsule(top, ankle, shin * 0.95, 0.036, lit(who.shoes, shade));
        }
    }

    fn skirt(&mut self) {
        let who = self.who;
        let (end, flare) = match who.lower {
            Lower::Skirt => (KNEE - 0.04, 0.135),
            Lower::LongSkirt => (0.90, 0.155),
            Lower::Trousers | Lower::Shorts => return,
        };
        let (top, hem) = (self.half_width(0.095, 0.08), self.half_width(flare, flare * 0.95));
        let corners = vec![[-top, HIP - 0.06], [top, HIP - 0.06], [hem, end], [-hem, end]];
        let facing = self.pose.heading.cos();
        self.fill(Shape::Polygon { corners, radius: 0.006 }, |p| {
            lit(who.lower_garment.colour_at([p[0], p[1] - HIP], facing), round(p[0] / hem))
        });
    }

    fn torso(&mut self) {
        let who = self.who;
        let (chest, waist) = (self.half_width(0.115, 0.07), self.half_width(0.095, 0.068));
        let hem = self.half_width(if who.hem > 0.6 { 0.125 } else { 0.102 }, 0.09);
        // The neck first: the collar covers its lower end.
        self.capsule([0.0, 0.12, 0.01], [0.0, 0.18, 0.0], 0.032, 0.036, lit(who.skin, 0.85));
        let corners = vec![
            [-chest * 0.55, SHOULDER - 0.018],
            [chest * 0.55, SHOULDER - 0.018],
            [chest, SHOULDER + 0.012],
            [waist, 0.38],
            [hem, who.hem - 0.01],
            [-hem, who.hem - 0.01],
            [-waist, 0.38],
            [-chest, SHOULDER + 0.012],
        ];
        let facing = self.pose.heading.cos();
        // A logo or an opening is on the chest, which turns with the body.
        let front = 0.07 * self.pose.heading.sin();
        self.fill(Shape::Polygon { corners, radius: 0.012 }, |p| {
            lit(who.upper.colour_at([p[0] - front, p[1] - SHOULDER], facing), round(p[0] / (chest + 0.02)))
        });
    }

    fn arm(&mut self, side: f32) {
        let who = self.who;
        let turn = self.pose.heading.sin();
        let shade = if side * turn > 0.3 { 0.7 } else { 0.9 };
        let swing = -side * self.pose.stride * 1.1;
        let x = side * 0.122 * who.girth;
        let shoulder = [x, SHOULDER + 0.022, 0.0];
        let out = side * self.pose.splay;
        let elbow = [x + 0.155 * out, shoulder[1] + 0.155 * swing.cos(), 0.155 * swing.sin()];
        let fore = swing + self.pose.elbow;
        let hand = [elbow[0] + 0.06 * out, elbow[1] + 0.145 * fore.cos(), elbow[2] + 0.145 * fore.sin()];
        let sleeve = lit(who.upper.colour, shade);
        let skin = lit(who.skin, shade);
        let thick = who.girth.sqrt();
        if who.bag == Bag::Hand && side == who.bag_side {
            let [hx, hy] = self.seen(hand);
            let wide = 0.055 + 0.03 * turn.abs();
            let colour = who.bag_colour;
            let handle = Shape::Capsule { a: [hx, hy], b: [hx, hy + 0.05], ra: 0.012, rb: 0.02 };
            self.fill(handle, |_| lit(colour, 0.7));
            let body = Shape::RoundBox { centre: [hx, hy + 0.115], half: [wide, 0.075], radius: 0.015 };
            self.fill(body, |p| lit(colour, if p[1] < hy + 0.065 { 0.75 } else { 1.0 }));
        }
        self.capsule(hand, hand, 0.027, 0.027, skin);
        self.capsule(elbow, hand, 0.033 * thick, 0.025 * thick, if who.long_sleeves { sleeve } else { skin });
        self.capsule(shoulder, elbow, 0.043 * thick, 0.036 * thick, sleeve);
    }

    fn head(&mut self) {
        let who = self.who;
        let (facing, turn) = (self.pose.heading.cos(), self.pose.heading.sin());
        let centre = [0.012 * turn, 0.078];
        let hair = who.hair_colour;
        let bald = who.hair == Hair::Bald;
        if who.hair == Hair::Bun {
            let at = self.seen([0.0, 0.012, -0.05]);
            self.fill(Shape::Ellipse { centre: at, radii: [0.036, 0.032] }, |_| lit(hair, 0.9));
        }
        if who.hair == Hair::Long {
            let at = self.seen([0.0, 0.14, -0.035]);
            let half = [0.074 - 0.02 * turn.abs(), 0.105];
            self.fill(Shape::RoundBox { centre: at, half, radius: 0.045 }, |_| hair);
        }
        let skull = if bald { who.skin } else { hair };
        self.fill(Shape::Ellipse { centre, radii: [0.058, 0.072] }, |p| lit(skull, 1.08 - 1.2 * p[1]));
        if facing > -0.5 {
            // The face: from the side it is seen as the front half of the head.
            let visible = 0.026 + 0.022 * facing.max(0.0);
            let face = Shape::Ellipse { centre: [centre[0] + 0.034 * turn, 0.092], radii: [visible, 0.054] };
            self.fill(face, |p| lit(who.skin, 1.12 - 1.2 * p[1]));
        }
        if who.hair == Hair::Hat {
            let brim = self.seen([0.0, 0.056, 0.055]);
            let crown =
                vec![[-0.058, 0.055], [-0.05, 0.01], [-0.02, -0.012], [0.02, -0.012], [0.05, 0.01], [0.058, 0.055]];
            let crown = crown.into_iter().map(|[x, y]: Point| [x + centre[0], y]).collect();
            self.fill(Shape::Polygon { corners: crown, radius: 0.006 }, |_| who.hat);
            if facing > -0.3 {
                let radii = [0.05 + 0.012 * facing.max(0.0), 0.012];
                self.fill(Shape::Ellipse { centre: brim, radii }, |_| lit(who.hat, 0.7));
            }
        }
    }

    fn backpack(&mut self) {
        let colour = self.who.bag_colour;
        let centre = self.seen([0.0, 0.32, -0.115 * self.who.girth.sqrt()]);
        let half = [self.half_width(0.088, 0.062), 0.115];
        self.fill(Shape::RoundBox { centre, half, radius: 0.035 }, |p| {
            lit(colour, if (p[1] - 0.36).abs() < 0.008 { 0.55 } else { round((p[0] - centre[0]) / half[0]) })
        });
    }

    fn backpack_straps(&mut self) {
        let colour = lit(self.who.bag_colour, 0.8);
        for side in [-1.0, 1.0] {
            let x = side * 0.065 * self.who.girth;
            self.capsule([x, SHOULDER - 0.015, 0.05], [x * 1.15, 0.36, 0.06], 0.017, 0.014, colour);
        }
    }

    /// Draws the strap of a shoulder bag, from the other shoulder to the bag, on the near side of the body.
    fn strap(&mut self) {
        let side = self.who.bag_side;
        let z = 0.06 * self.pose.heading.cos().signum();
        let (top, end) = ([-side * 0.07, SHOULDER - 0.01, z], [side * 0.10 * self.who.girth, 0.46, z * 0.5]);
        self.capsule(top, end, 0.013, 0.013, lit(self.who.bag_colour, 0.8));
    }

    fn shoulder_bag(&mut self) {
        let (who, side) = (self.who, self.who.bag_side);
        let centre = self.seen([side * 0.125 * who.girth, 0.52, 0.0]);
        let half = [0.045 + 0.04 * self.pose.heading.sin().abs(), 0.065];
        self.fill(Shape::RoundBox { centre, half, radius: 0.018 }, |p| {
            lit(who.bag_colour, if p[1] < 0.51 { 0.8 } else { 1.0 })
        });
    }
}

/// Returns the light on a round body, which is darker towards the sides; `x` is -1 to 1 across it.
fn round(x: f32) -> f32 {
    1.05 - 0.28 * x * x
}
