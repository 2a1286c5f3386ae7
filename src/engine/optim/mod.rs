//! Optimisers over one flat parameter buffer and one flat gradient buffer, with PyTorch's update rules.
//!
//! A step updates only the elements of the given segments. All others (parameters that took no part in the loss) keep their values and
//! moments: without a gradient there is no weight decay either. Each element is computed on its own, so the result does not depend on the
//! number of threads. State and step count are enough to continue a run with the same bits.

mod ema;
mod gpu;
mod options;

use std::ops::Range;

pub use ema::Ema;
pub use gpu::Update;
pub use options::{OptimKind, OptimOptions};
use rayon::prelude::*;

use crate::engine::cpu::for_each_isa;
use crate::engine::device::Mirrored;
use crate::{Error, Result};

/// How many elements one task handles.
const CHUNK: usize = 1 << 15;

/// An update rule with the settings that all segments share.
#[derive(Clone, Debug, PartialEq)]
pub enum UpdateRule {
    /// Adam; weight decay is added to the gradient (L2).
    Adam {
        /// Decay rates of the two moments, in [0, 1).
        betas: [f64; 2],
        /// Added to the denominator, greater than 0.
        eps: f64,
        /// Whether to divide by the largest second moment so far (AMSGrad).
        amsgrad: bool,
    },
    /// Adam with decoupled weight decay: the parameter itself is scaled by 1 - lr · weight_decay.
    AdamW {
        /// Decay rates of the two moments, in [0, 1).
        betas: [f64; 2],
        /// Added to the denominator, greater than 0.
        eps: f64,
        /// Whether to divide by the largest second moment so far (AMSGrad).
        amsgrad: bool,
    },
    /// Gradient descent; weight decay is added to the gradient (L2).
    Sgd {
        /// Share of the momentum buffer that a step keeps, in [0, 1); 0 needs no buffer.
        momentum: f64,
        /// Whether to apply Nesterov's rule, which needs a momentum.
        nesterov: bool,
    },
}

impl UpdateRule {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] names the first setting with a value that cannot work.
    pub fn validate(&self) -> Result<()> {
        let refuse = |setting: &str, value: String, reason: &str| {
            Err(Error::Setting { setting: format!("optim.{setting}"), value, reason: reason.into() })
        };
        match self {
            Self::Adam { betas, eps, .. } | Self::AdamW { betas, eps, .. } => {
                if !betas.iter().all(|beta| (0.0..1.0).contains(beta)) {
                    return refuse("betas", format!("{betas:?}"), "both must lie in [0, 1)");
                }
                if !(eps.is_finite() && *eps > 0.0) {
                    return refuse("eps", eps.to_string(), "it must be greater than 0");
                }
            }
            Self::Sgd { momentum, nesterov } => {
                if !(0.0..1.0).contains(momentum) {
                    return refuse("momentum", momentum.to_string(), "it must lie in [0, 1)");
                }
                if *nesterov && *momentum == 0.0 {
                    return refuse("nesterov", "true".into(), "Nesterov's rule needs a momentum greater than 0");
                }
            }
        }
        Ok(())
    }

    /// Returns the names of the state buffers, as in PyTorch.
    pub fn buffer_names(&self) -> &'static [&'static str] {
        match self {
            Self::Adam { amsgrad: false, .. } | Self::AdamW { amsgrad: false, .. } => &["exp_avg", "exp_avg_sq"],
            Self::Adam { .. } | Self::AdamW { .. } => &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
            Self::Sgd { momentum, .. } if *momentum == 0.0 => &[],
            Self::Sgd { .. } => &["momentum_buffer"],
        }
    }
}

/// A range of parameters that share one learning rate and one weight decay.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// The range of elements in the flat buffers.
    pub range: Range<usize>,
    /// Learning rate.
    pub lr: f32,
    /// Weight decay, as [`UpdateRule`] applies it.
    pub weight_decay: f32,
}

/// Update rule, state buffers and step count.
#[derive(Debug)]
pub struct Optimizer {
    config: UpdateRule,
    steps: u64,
    /// One flat buffer `[len]` for each of `config.buffer_names()`.
    buffers: Vec<Mirrored>,
    /// For updates on a GPU.
    tables: Option<gpu::Tables>,
}

impl Optimizer {
    /// Returns an optimiser for `len` parameters, whose state is zero.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting that cannot work.
    pub fn new(config: &UpdateRule, len: usize) -> Result<Self> {
        config.validate()?;
        let buffers = config.buffer_names().iter().map(|_| Mirrored::zeros(len)).collect();
        Ok(Self { config: config.clone(), steps: 0, buffers, tables: None })
    }

    /// Brings the state buffers to the host: see [`Mirrored::fetch`].
    ///
    /// # Errors
    /// The device was lost.
    pub fn fetch(&self) -> Result<()> {
        self.buffers.iter().try_for_each(Mirrored::fetch)
    }

    /// Returns the number of steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns the state buffers `[len]` by name (`exp_avg`, `exp_avg_sq`, `max_exp_avg_sq`, `momentum_buffer`), for a checkpoint.
    pub fn state(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        self.config.buffer_names().iter().copied().zip(self.buffers.iter().map(|buffer| &buffer[..]))
    }

    /// Takes over the step count and the state buffers of a checkpoint.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] if names or lengths differ from those of this optimiser, which then stays as it was.
    pub fn restore(&mut self, steps: u64, state: &[(&str, &[f32])]) -> Result<()> {
        let mut buffers = Vec::with_capacity(self.buffers.len());
        for (name, own) in self.state() {
            match state.iter().find(|(stored, _)| *stored == name) {
                Some((_, values)) if values.len() == own.len() => buffers.push(values.to_vec().into()),
                _ => break,
            }
        }
        if buffers.len() != self.buffers.len() || state.len() != self.buffers.len() {
            let own: Vec<_> = self.state().collect();
            return Err(Error::OptimizerState { needed: describe(&own), found: describe(state) });
        }
        self.buffers = buffers;
        self.steps = steps;
        Ok(())
    }

    /// Updates the parameters inside `segments` once, on the CPU. Segments must not overlap.
    ///
    /// All parameters have one step count, so Adam's bias correction is the same for all.
    ///
    /// # Panics
    /// If `params`, `grads` and the state differ in length, or a segment reaches beyond them.
    pub fn step(&mut self, params: &mut [f32], grads: &[f32], segments: &[Segment]) {
        assert_eq!(params.len(), grads.len(), "parameters and gradients differ in length");
        assert!(self.buffers.iter().all(|b| b.len() == params.len()), "the state is of another length");
        self.steps += 1;
        for segment in segments {
            let range = segment.range.clone();
            let (params, grads) = (&mut params[range.clone()], &grads[range.clone()]);
            let buffers = self.buffers.iter_mut().map(|b| &mut b[range.clone()]);
            match self.config {
                UpdateRule::Adam { betas, eps, .. } => {
                    adam(params, grads, buffers, &AdamStep::new(betas, eps, self.steps, segment, false));
                }
                UpdateRule::AdamW { betas, eps, .. } => {
                    adam(params, grads, buffers, &AdamStep::new(betas, eps, self.steps, segment, true));
                }
                UpdateRule::Sgd { momentum, nesterov } => {
                    sgd(params, grads, buffers, segment, momentum as f32, nesterov);
                }
            }
        }
    }
}

fn describe(state: &[(&str, &[f32])]) -> String {
    if state.is_empty() {
        return "no buffer".into();
    }
    state.iter().map(|(name, values)| format!("{name} [{}]", values.len())).collect::<Vec<_>>().join(", ")
}

/// Constants of one Adam step of one segment.
struct AdamStep {
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    eps: f32,
    /// The parameter multiplied by this is added to the gradient.
    l2: f32,
    /// The parameter is multiplied by this before the update.
    shrink: f32,
    /// lr / (1 - β1^t)
    step_size: f32,
    /// 1 / sqrt(1 - β2^t)
    rsqrt_correction2: f32,
}

impl AdamStep {
    fn new([beta1, beta2]: [f64; 2], eps: f64, steps: u64, segment: &Segment, decoupled: bool) -> Self {
        let (lr, weight_decay) = (f64::from(segment.lr), f64::from(segment.weight_decay));
        let t = steps as f64;
        Self {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            eps: eps as f32,
            l2: if decoupled { 0.0 } else { segment.weight_decay },
            shrink: if decoupled { (1.0 - lr * weight_decay) as f32 } else { 1.0 },
            step_size: (lr / (1.0 - beta1.powf(t))) as f32,
            rsqrt_correction2: (1.0 / (1.0 - beta2.powf(t)).sqrt()) as f32,
        }
    }
}

/// Applies Adam to one segment. `buffers`: exp_avg, exp_avg_sq and, with AMSGrad, max_exp_avg_sq.
fn adam<'a>(params: &mut [f32], grads: &[f32], mut buffers: impl Iterator<Item = &'a mut [f32]>, c: &AdamStep) {
    let (m, v) = (buffers.next().expect("exp_avg"), buffers.next().expect("exp_avg_sq"));
    let chunks = params.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK));
    let chunks = chunks.zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
    match buffers.next() {
        None => chunks.for_each(|(((p, g), m), v)| adam_chunk(c, p, g, m, v)),
        Some(max) => {
            chunks.zip(max.par_chunks_mut(CHUNK)).for_each(|((((p, g), m), v), max)| amsgrad_chunk(c, p, g, m, v, max))
        }
    }
}

impl AdamStep {
    /// Updates the moments of one element. Returns the new second moment, which AMSGrad replaces by the maximum so far.
    #[inline(always)]
    fn moments(&self, p: &mut f32, g: f32, m: &mut f32, v: &mut f32) -> f32 {
        let g = g + self.l2 * *p;
        *p *= self.shrink;
        *m = self.beta1 * *m + self.one_minus_beta1 * g;
        *v = self.beta2 * *v + self.one_minus_beta2 * g * g;
        *v
    }

    /// Updates one element from its moments.
    #[inline(always)]
    fn update(&self, p: &mut f32, m: f32, v: f32) {
        *p -= self.step_size * (m / (v.sqrt() * self.rsqrt_correction2 + self.eps));
    }
}

for_each_isa! {
    fn adam_chunk(c: &AdamStep, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let v = c.moments(p, g, m, v);
            c.update(p, *m, v);
        }
    }

    fn amsgrad_chunk(c: &AdamStep, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], max: &mut [f32]) {
        for ((((p, &g), m), v), max) in p.iter_mut().zip(g).zip(m).zip(v).zip(max) {
            // The maximum is of v before bias correction.
            let v = c.moments(p, g, m, v);
            *max = if v > *max { v } else { *max };
            c.update(p, *m, *max);
        }
    }

    fn sgd_chunk(lr: f32, weight_decay: f32, p: &mut [f32], g: &[f32]) {
        for (p, g) in p.iter_mut().zip(g) {
            *p -= lr * (g + weight_decay * *p);
        }
    }

    fn momentum_chunk(
        lr: f32,
        weight_decay: f32,
        momentum: f32,
        nesterov: bool,
        p: &mut [f32],
        g: &[f32],
        buffer: &mut [f32],
    ) {
        for ((p, &g), b) in p.iter_mut().zip(g).zip(buffer) {
            let g = g + weight_decay * *p;
            *b = momentum * *b + g;
            *p -= lr * if nesterov { g + momentum * *b } else { *b };
        }
    }

    fn scale_chunk(values: &mut [f32], factor: f32) {
        values.iter_mut().for_each(|value| *value *= factor);
    }

    fn sum_of_squares(values: &[f32]) -> f64 {
        let mut lanes = [0f64; 16];
        let (groups, rest) = values.as_chunks::<16>();
        for group in groups {
            for (lane, &x) in lanes.iter_mut().zip(group) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    }
}

/// Applies SGD to one segment. `buffers`: momentum_buffer, or nothing without momentum. The buffer starts at zero, so that after the first
/// step it is the gradient itself, as in PyTorch.
fn sgd<'a>(
    params: &mut [f32],
    grads: &[f32],
    mut buffers: impl Iterator<Item = &'a mut [f32]>,
    &Segment { lr, weight_decay, .. }: &Segment,
    momentum: f32,
    nesterov: bool,
) {
    let chunks = params.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK));
    let Some(buffer) = buffers.next() else {
        return chunks.for_each(|(p, g)| sgd_chunk(lr, weight_decay, p, g));
    };
    let chunks = chunks.zip(buffer.par_chunks_mut(CHUNK));
    chunks.for_each(|((p, g), buffer)| momentum_chunk(lr, weight_decay, momentum, nesterov, p, g, buffer));
}

/// Returns the L2 norm of the gradients inside `segments`. The order of the sums is the same for any number of threads.
pub fn global_norm(grads: &[f32], segments: &[Segment]) -> f64 {
    let mut sum = 0.0;
    for segment in segments {
        let chunks = grads[segment.range.clone()].par_chunks(CHUNK);
        let partial_sums: Vec<f64> = chunks.map(sum_of_squares).collect();
        sum += partial_sums.iter().sum::<f64>();
    }
    sum.sqrt()
}

/// Scales the gradients inside `segments` so that their [`global_norm`] is at most `max_norm`. Returns the norm before.
///
/// If the norm is not finite, leaves the gradients as they are; the caller sees it in the returned value.
pub fn clip_grad_norm(grads: &mut [f32], segments: &[Segment], max_norm: f64) -> f64 {
    let norm = global_norm(grads, segments);
    if norm.is_finite() && norm > max_norm {
        let factor = (max_norm / norm) as f32;
        for segment in segments {
            grads[segment.range.clone()].par_chunks_mut(CHUNK).for_each(|g| scale_chunk(g, factor));
        }
    }
    norm
}

#[cfg(test)]
mod tests;
