//! Margins between classes, for a cross-entropy of logits `z = s·cos θ` ([`super::cosine_linear`]).
//!
//! *ArcFace* (Deng et al., CVPR 2019): the label's logit becomes `s·cos(θ + m)`. Where `θ + m` is beyond π, the cosine would rise again; there it
//! becomes `s·(cos θ - m·sin m)`, as in the authors' code (`easy_margin=False`).
//!
//! *Circle* (Sun et al., CVPR 2020): the label's logit becomes `s·α·(cos θ - (1-m))` with `α = max(0, 1+m - cos θ)`, the others
//! `s·α·(cos θ - m)` with `α = max(0, cos θ + m)`. Backward takes α as a constant: `dz = α·dy`.

use super::cross_entropy::{CrossEntropyOptions, cross_entropy};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::par;
use crate::engine::device::{Gpu, Grid, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, Op, Var};
use crate::engine::shape::Shape;

/// A margin between the label and the other classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Margin {
    /// This angle is added to the label's (ArcFace).
    Arc(f32),
    /// The relaxation factor m of the circle loss.
    Circle(f32),
}

#[derive(Debug)]
struct MarginLogits {
    batch: usize,
    classes: usize,
    scale: f32,
    margin: Margin,
}

/// Records the logits for a cross-entropy with a margin. `logits` `[n, 1, 1, classes]` are `scale` times cosines; `labels` `[n, 1, 1, 1]` are
/// u32 bits, each below the number of classes.
///
/// # Errors
/// The shapes do not fit.
pub fn margin_logits(g: &mut Graph, logits: Var, labels: Var, margin: Margin, scale: f32) -> Result<Var> {
    let (z, l) = (g.shape(logits), g.shape(labels));
    if z != Shape::vectors(z.n, z.c) || l != Shape::vectors(z.n, 1) {
        let detail = format!("logits {z} and labels {l} are not one vector and one label per image");
        return Err(mismatch("margin_logits", detail));
    }
    g.push(MarginLogits { batch: z.n, classes: z.c, scale, margin }, &[logits, labels], z, Attachments::default())
}

impl Margin {
    /// Returns what becomes of a cosine, and the factor of its gradient.
    fn apply(self, cosine: f64, is_label: bool) -> [f64; 2] {
        match self {
            Margin::Arc(_) if !is_label => [cosine, 1.0],
            Margin::Arc(m) => {
                let m = f64::from(m);
                let (sin, cos) = m.sin_cos();
                if cosine <= -cos {
                    return [cosine - m * sin, 1.0];
                }
                // Rounding may make a cosine larger than 1.
                let squared = 1.0 - cosine * cosine;
                if squared <= 0.0 {
                    return [cosine * cos, cos];
                }
                [cosine * cos - squared.sqrt() * sin, cos + cosine * sin / squared.sqrt()]
            }
            Margin::Circle(m) => {
                let m = f64::from(m);
                let (factor, middle) = if is_label { (1.0 + m - cosine, 1.0 - m) } else { (cosine + m, m) };
                // A comparison instead of `max`, so that NaN stays NaN.
                let factor = if factor < 0.0 { 0.0 } else { factor };
                [factor * (cosine - middle), factor]
            }
        }
    }
}

impl MarginLogits {
    /// Calls `put(number, i, result)` for each number of `to`, with its index and the results of [`Margin::apply`] for logit i.
    fn for_each(&self, inputs: &[&[f32]], to: &mut [f32], put: impl Fn(&mut f32, usize, [f64; 2]) + Sync) {
        let (z, labels): (_, &[u32]) = (inputs[0], bytemuck::cast_slice(inputs[1]));
        par::rows_mut(to, self.classes, |first, rows| {
            for (row, numbers) in (first..).zip(rows.chunks_exact_mut(self.classes)) {
                for (c, number) in numbers.iter_mut().enumerate() {
                    let i = row * self.classes + c;
                    let cosine = f64::from(z[i]) / f64::from(self.scale);
                    put(number, i, self.margin.apply(cosine, c == labels[row] as usize));
                }
            }
        });
    }
}

impl Op for MarginLogits {
    fn name(&self) -> &'static str {
        "margin_logits"
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![true, true], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let scale = f64::from(self.scale);
        self.for_each(&cx.inputs, cx.output, |y, _, [cosine, _]| *y = (scale * cosine) as f32);
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let (dy, accumulate) = (cx.grad_output, grad.accumulate);
        self.for_each(&cx.inputs, grad.data, |dz, i, [_, slope]| {
            let value = (slope * f64::from(dy[i])) as f32;
            *dz = if accumulate { *dz + value } else { value };
        });
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (n, classes, scale) = (self.batch as i32, self.classes as i32, self.scale);
        let (gpu, grid, z, labels, y) =
            (cx.gpu, Grid::any(self.batch * self.classes), cx.inputs[0], cx.inputs[1].cast(), cx.output);
        match self.margin {
            Margin::Arc(m) => {
                let (sin, cos) = m.sin_cos();
                kernels::arc_margin(gpu, grid, z, labels, y, n, classes, scale, cos, sin, m)
            }
            Margin::Circle(m) => kernels::circle_margin(gpu, grid, z, labels, y, n, classes, scale, m),
        }
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (n, classes, scale, flag) = (self.batch as i32, self.classes as i32, self.scale, grad.flag());
        let (gpu, grid, z, labels) = (cx.gpu, Grid::any(self.batch * self.classes), cx.inputs[0], cx.inputs[1].cast());
        let (dy, dz) = (cx.grad_output, grad.data);
        match self.margin {
            Margin::Arc(m) => {
                let (sin, cos) = m.sin_cos();
                kernels::arc_margin_backward(gpu, grid, z, labels, dy, dz, n, classes, scale, cos, sin, m, flag)
            }
            Margin::Circle(m) => {
                kernels::circle_margin_backward(gpu, grid, z, labels, dy, dz, n, classes, scale, m, flag)
            }
        }
    }
}

/// Records a cross-entropy with a margin, for [`cases`]. The logits of a case are between -1 and 1.
fn loss(g: &mut Graph, logits: Var, labels: Var, margin: Margin) -> Result<Var> {
    let logits = margin_logits(g, logits, labels, margin, 1.5)?;
    cross_entropy(g, logits, labels, CrossEntropyOptions::default())
}

pub(super) fn cases() -> Vec<OpCase> {
    let logits = [Shape::vectors(5, 7)];
    let labels = [0, 3, 6, 3, 1];
    vec![
        OpCase::new("margin_logits arc", &logits, &[], |g, _, x, _, fixed| loss(g, x[0], fixed[0], Margin::Arc(0.5)))
            .labels(&labels)
            .kinked(),
        // A margin so large that most angles get beyond π.
        OpCase::new("margin_logits arc beyond π", &logits, &[], |g, _, x, _, fixed| {
            loss(g, x[0], fixed[0], Margin::Arc(2.0))
        })
        .labels(&labels)
        .kinked(),
        OpCase::new("margin_logits circle", &logits, &[], |g, _, x, _, fixed| {
            loss(g, x[0], fixed[0], Margin::Circle(0.25))
        })
        .labels(&labels)
        .detached(),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let labels: Vec<u32> = (0..64).map(|i| i * 11).collect();
    let logits = [Shape::vectors(64, 751)];
    vec![
        OpCase::new("margin_logits arc", &logits, &[], |g, _, x, _, fixed| {
            margin_logits(g, x[0], fixed[0], Margin::Arc(0.5), 64.0)
        })
        .labels(&labels),
        OpCase::new("margin_logits circle", &logits, &[], |g, _, x, _, fixed| {
            margin_logits(g, x[0], fixed[0], Margin::Circle(0.25), 256.0)
        })
        .labels(&labels),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_at_the_ends_have_finite_gradients_and_nan_is_seen() {
        for margin in [Margin::Arc(0.5), Margin::Circle(0.25)] {
            for cosine in [-1.0 - 1e-7, -1.0, 1.0, 1.0 + 1e-7] {
                for is_label in [true, false] {
                    let [value, slope] = margin.apply(cosine, is_label);
                    assert!(value.is_finite() && slope.is_finite() && slope >= 0.0, "{margin:?} {cosine} {is_label}");
                }
            }
            assert!(margin.apply(f64::NAN, true)[0].is_nan() && margin.apply(f64::NAN, false)[0].is_nan());
        }
    }

    #[test]
    fn a_label_needs_a_smaller_angle() {
        let cosine = 0.3f64;
        let [arc, _] = Margin::Arc(0.5).apply(cosine, true);
        assert!((arc - (cosine.acos() + 0.5).cos()).abs() < 1e-12);
        // Beyond π.
        let [arc, slope] = Margin::Arc(0.5).apply(-0.95, true);
        assert!((arc - (-0.95 - 0.5 * 0.5f64.sin())).abs() < 1e-12 && slope == 1.0);
    }
}
