//! A small anti-aliased rasteriser: shapes are signed distances, and edges are smoothed over one pixel.

/// Red, green, blue from 0 to 1; more in strong light.
pub(super) type Colour = [f32; 3];

/// A point: x to the right, y down.
pub(super) type Point = [f32; 2];

/// Interpolates from `a` (`t` = 0) to `b` (`t` = 1).
pub(super) fn mix(a: Colour, b: Colour, t: f32) -> Colour {
    std::array::from_fn(|c| a[c] + (b[c] - a[c]) * t)
}

/// Makes a colour brighter or darker.
pub(super) fn lit(colour: Colour, light: f32) -> Colour {
    colour.map(|v| v * light)
}

/// An outline in the units of a [`View`].
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// A limb: from `a` with radius `ra` to `b` with radius `rb`.
    Capsule {
        a: Point,
        b: Point,
        ra: f32,
        rb: f32,
    },
    Ellipse {
        centre: Point,
        radii: Point,
    },
    /// `half` includes the rounding `radius`.
    RoundBox {
        centre: Point,
        half: Point,
        radius: f32,
    },
    /// Corners in order, widened by `radius` all around.
    Polygon {
        corners: Vec<Point>,
        radius: f32,
    },
}

impl Shape {
    /// Returns the distance to the outline, negative inside. For an ellipse and a tapered limb it is a close estimate.
    fn distance(&self, p: Point) -> f32 {
        match self {
            Shape::Capsule { a, b, ra, rb } => {
                let t = along(p, *a, *b);
                let nearest = [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t];
                length([p[0] - nearest[0], p[1] - nearest[1]]) - (ra + (rb - ra) * t)
            }
            Shape::Ellipse { centre, radii } => {
                let q = [p[0] - centre[0], p[1] - centre[1]];
                let scaled = length([q[0] / radii[0], q[1] / radii[1]]);
                let slope = length([q[0] / (radii[0] * radii[0]), q[1] / (radii[1] * radii[1])]);
                if slope == 0.0 { -radii[0].min(radii[1]) } else { scaled * (scaled - 1.0) / slope }
            }
            Shape::RoundBox { centre, half, radius } => {
                let q: Point = std::array::from_fn(|i| (p[i] - centre[i]).abs() - half[i] + radius);
                length([q[0].max(0.0), q[1].max(0.0)]) + q[0].max(q[1]).min(0.0) - radius
            }
            Shape::Polygon { corners, radius } => {
                let (mut nearest, mut inside) = (f32::INFINITY, false);
                let mut a = corners[corners.len() - 1];
                for &b in corners {
                    let t = along(p, a, b);
                    nearest = nearest.min(length([p[0] - a[0] - (b[0] - a[0]) * t, p[1] - a[1] - (b[1] - a[1]) * t]));
                    if (a[1] > p[1]) != (b[1] > p[1]) && p[0] < (b[0] - a[0]) * (p[1] - a[1]) / (b[1] - a[1]) + a[0] {
                        inside = !inside;
                    }
                    a = b;
                }
                if inside { -nearest - radius } else { nearest - radius }
            }
        }
    }

    /// Returns two opposite corners of a box around the shape.
    fn bounds(&self) -> (Point, Point) {
        let around = |points: &[Point], margin: Point| {
            let fold = |i: usize, f: fn(f32, f32) -> f32| points.iter().map(|p| p[i]).reduce(f).expect("a point");
            (
                std::array::from_fn(|i| fold(i, f32::min) - margin[i]),
                std::array::from_fn(|i| fold(i, f32::max) + margin[i]),
            )
        };
        match self {
            Shape::Capsule { a, b, ra, rb } => around(&[*a, *b], [ra.max(*rb); 2]),
            Shape::Ellipse { centre, radii } => around(&[*centre], *radii),
            Shape::RoundBox { centre, half, .. } => around(&[*centre], *half),
            Shape::Polygon { corners, radius } => around(corners, [*radius; 2]),
        }
    }
}

fn length(v: Point) -> f32 {
    (v[0] * v[0] + v[1] * v[1]).sqrt()
}

/// Returns the position, from 0 at `a` to 1 at `b`, of the point on the line that is nearest to `p`.
fn along(p: Point, a: Point, b: Point) -> f32 {
    let ab = [b[0] - a[0], b[1] - a[1]];
    let squared = ab[0] * ab[0] + ab[1] * ab[1];
    if squared == 0.0 {
        return 0.0;
    }
    (((p[0] - a[0]) * ab[0] + (p[1] - a[1]) * ab[1]) / squared).clamp(0.0, 1.0)
}

/// Places shapes on a canvas: pixel = origin + scale · point.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub origin: Point,
    pub scale: f32,
}

/// An image that is being drawn, `[height, width]` colours.
pub(super) struct Canvas {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<Colour>,
}

impl Canvas {
    /// Creates a canvas with colours from a function of a pixel's column and row.
    pub(super) fn new(width: usize, height: usize, paint: impl Fn(usize, usize) -> Colour) -> Canvas {
        let pixels = (0..width * height).map(|i| paint(i % width, i / width)).collect();
        Canvas { width, height, pixels }
    }

    /// Fills a shape; `paint` returns the colour at a point in the view's units.
    pub(super) fn fill(&mut self, view: &View, shape: &Shape, paint: impl Fn(Point) -> Colour) {
        let (low, high) = shape.bounds();
        let size = [self.width, self.height];
        let first: [usize; 2] =
            std::array::from_fn(|i| (view.origin[i] + low[i] * view.scale - 1.0).clamp(0.0, size[i] as f32) as usize);
        let end: [usize; 2] =
            std::array::from_fn(|i| (view.origin[i] + high[i] * view.scale + 2.0).clamp(0.0, size[i] as f32) as usize);
        for y in first[1]..end[1] {
            for x in first[0]..end[0] {
                let at = [x as f32, y as f32];
                let point = std::array::from_fn(|i| (at[i] + 0.5 - view.origin[i]) / view.scale);
                let cover = (0.5 - shape.distance(point) * view.scale).clamp(0.0, 1.0);
                if cover > 0.0 {
                    let pixel = &mut self.pixels[y * self.width + x];
                    *pixel = mix(*pixel, paint(point), cover);
                }
            }
        }
    }

    /// Applies a Gaussian blur; `sigma` is in pixels.
    pub(crate) fn blur(&mut self, sigma: f32) {
        let radius = (2.5 * sigma).ceil() as usize;
        if sigma < 0.2 {
            return;
        }
        let weight = |d: usize| (-0.5 * (d as f32 / sigma).powi(2)).exp();
        let mut kernel: Vec<f32> = (0..=2 * radius).map(|i| weight(i.abs_diff(radius))).collect();
        let sum: f32 = kernel.iter().sum();
        kernel.iter_mut().for_each(|k| *k /= sum);
        for (length, step, lines, line_step) in
            [(self.width, 1, self.height, self.width), (self.height, self.width, self.width, 1)]
        {
            // The line with its ends repeated, so that the kernel never leaves it.
            let mut padded = vec![[0.0; 3]; length + 2 * radius];
            for line in 0..lines {
                let start = line * line_step;
                for (i, value) in padded.iter_mut().enumerate() {
                    *value = self.pixels[start + i.saturating_sub(radius).min(length - 1) * step];
                }
                for i in 0..length {
                    let mut sum = [0.0; 3];
                    for (k, value) in kernel.iter().zip(&padded[i..]) {
                        (0..3).for_each(|c| sum[c] += k * value[c]);
                    }
                    self.pixels[start + i * step] = sum;
                }
            }
        }
    }

    /// Reduces the resolution: resizes to 1 / `factor` of the size and back, bilinearly.
    pub(crate) fn lose_resolution(&mut self, factor: f32) {
        let small = |n: usize| ((n as f32 / factor).round() as usize).max(1);
        let shrunk = self.resized(small(self.width), small(self.height));
        *self = shrunk.resized(self.width, self.height);
    }

    /// Returns a canvas of the same size whose points have the colours that `self` has at `from` of them. Points are in heights from the
    /// upper left corner. Outside of the canvas, the colours of its edge continue.
    pub(crate) fn sampled(&self, from: impl Fn(Point) -> Point) -> Canvas {
        let size = self.height as f32;
        let place = |at: f32, count: usize| {
            let at = (at * size - 0.5).clamp(0.0, count as f32 - 1.0);
            (at as usize, (at as usize + 1).min(count - 1), at.fract())
        };
        Canvas::new(self.width, self.height, |x, y| {
            let at = from([(x as f32 + 0.5) / size, (y as f32 + 0.5) / size]);
            let ((x0, x1, tx), (y0, y1, ty)) = (place(at[0], self.width), place(at[1], self.height));
            let row = |y: usize| mix(self.pixels[y * self.width + x0], self.pixels[y * self.width + x1], tx);
            mix(row(y0), row(y1), ty)
        })
    }

    fn resized(&self, width: usize, height: usize) -> Canvas {
        let place = |i: usize, to: usize, from: usize| {
            let at = ((i as f32 + 0.5) * from as f32 / to as f32 - 0.5).clamp(0.0, from as f32 - 1.0);
            (at as usize, (at as usize + 1).min(from - 1), at.fract())
        };
        let columns: Vec<_> = (0..width).map(|x| place(x, width, self.width)).collect();
        let row = |y: usize, &(x0, x1, t): &(usize, usize, f32)| {
            mix(self.pixels[y * self.width + x0], self.pixels[y * self.width + x1], t)
        };
        Canvas::new(width, height, |x, y| {
            let (y0, y1, t) = place(y, height, self.height);
            mix(row(y0, &columns[x]), row(y1, &columns[x]), t)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the area that a white shape covers on black, in square units.
    fn area(shape: Shape) -> f32 {
        let mut canvas = Canvas::new(100, 80, |_, _| [0.0; 3]);
        canvas.fill(&View { origin: [50.0, 40.0], scale: 30.0 }, &shape, |_| [1.0; 3]);
        canvas.pixels.iter().map(|p| p[0]).sum::<f32>() / 900.0
    }

    #[test]
    fn shapes_cover_their_area() {
        let pi = std::f32::consts::PI;
        let cases = [
            (Shape::Capsule { a: [-0.5, 0.2], b: [0.5, 0.2], ra: 0.3, rb: 0.3 }, 0.6 + pi * 0.09),
            (Shape::Ellipse { centre: [0.1, 0.0], radii: [1.0, 0.5] }, pi * 0.5),
            (Shape::RoundBox { centre: [0.0, 0.1], half: [0.8, 0.5], radius: 0.0 }, 1.6),
            (Shape::Polygon { corners: vec![[-1.0, -0.5], [1.0, -0.5], [0.0, 1.0]], radius: 0.0 }, 1.5),
        ];
        for (shape, want) in cases {
            let name = format!("{shape:?}");
            let got = area(shape);
            assert!((got - want).abs() < 0.02 * want, "{name}: {got} instead of {want}");
        }
        assert_eq!(area(Shape::Ellipse { centre: [9.0, 9.0], radii: [1.0, 1.0] }), 0.0, "outside the canvas");
    }

    #[test]
    fn blur_and_resolution_loss_keep_the_mean_and_lower_the_contrast() {
        let stripes = || Canvas::new(32, 64, |x, _| [if x % 4 < 2 { 1.0 } else { 0.0 }, 0.5, 0.25]);
        let statistics = |canvas: &Canvas| {
            let n = canvas.pixels.len() as f32;
            let mean = canvas.pixels.iter().map(|p| p[0]).sum::<f32>() / n;
            (mean, canvas.pixels.iter().map(|p| (p[0] - mean).powi(2)).sum::<f32>() / n)
        };
        let (mut blurred, mut lost) = (stripes(), stripes());
        blurred.blur(1.5);
        lost.lose_resolution(2.7);
        for canvas in [blurred, lost] {
            let (mean, variance) = statistics(&canvas);
            assert!((mean - 0.5).abs() < 0.05 && variance < 0.15, "{mean} {variance}");
            assert!(canvas.pixels.iter().all(|p| (p[1] - 0.5).abs() < 1e-5 && (p[2] - 0.25).abs() < 1e-5));
        }
    }
}
