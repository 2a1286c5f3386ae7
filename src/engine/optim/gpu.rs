//! The update on a GPU: the norm of the gradients, their clipping and the optimiser's step. Numbers that change from step to step are in
//! device memory, so that the launches can be recorded once and replayed.

use super::{Optimizer, Segment, UpdateRule};
use crate::Result;
use crate::engine::device::{Buffer, Gpu, Ptr, kernels};

/// How many gradients a block of `grad_norm_partials` sums, and how many elements a block of a step updates.
const NORM_CHUNK: usize = 8192;
const STEP_CHUNK: usize = 1024;

/// The tables of the segments and the scratch memory on the device.
#[derive(Debug)]
pub(super) struct Tables {
    segments: Vec<Segment>,
    buffer: Buffer,
}

/// The addresses and sizes of an update. Recorded launches are valid only for those that they were recorded with.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    state: Vec<Ptr<f32>>,
    begin: Ptr<i64>,
    first: Ptr<i64>,
    partials: Ptr<f64>,
    lr: Ptr<f32>,
    weight_decay: Ptr<f32>,
    corrections: Ptr<f32>,
    scale: Ptr<f32>,
    /// The norm of the gradients before clipping, one number.
    pub norm: Ptr<f32>,
    segments: usize,
    count: usize,
}

impl Optimizer {
    /// Brings the state and the tables of the next step to the GPU, and returns their addresses.
    ///
    /// # Errors
    /// The GPU fails, or has too little memory.
    pub fn bind(&mut self, gpu: &Gpu, segments: &[Segment]) -> Result<Update> {
        let count: usize = segments.iter().map(|segment| segment.range.len()).sum();
        let n = segments.len();
        // Numbers of 8 bytes come first in the buffer, so that all are aligned.
        let blocks = count.div_ceil(NORM_CHUNK);
        let same_ranges = |t: &Tables| t.segments.iter().map(|s| &s.range).eq(segments.iter().map(|s| &s.range));
        if !self.tables.as_ref().is_some_and(same_ranges) {
            let buffer = gpu.allocate(8 * (2 * n + blocks) + 4 * (2 * n + 4))?;
            let begin: Vec<i64> = segments.iter().map(|segment| segment.range.start as i64).collect();
            let lengths = segments.iter().scan(0, |sum, segment| {
                *sum += segment.range.len() as i64;
                Some(*sum - segment.range.len() as i64)
            });
            let table: Vec<i64> = begin.into_iter().chain(lengths).collect();
            gpu.upload(buffer.ptr::<u8>().address(), bytemuck::cast_slice(&table))?;
            self.tables = Some(Tables { segments: segments.to_vec(), buffer });
        }
        let tables = self.tables.as_ref().expect("made above");
        let begin: Ptr<i64> = tables.buffer.ptr();
        let partials: Ptr<f64> = begin.add(2 * n).cast();
        let lr: Ptr<f32> = partials.add(blocks).cast();
        let numbers: Vec<f32> = (segments.iter().map(|segment| segment.lr))
            .chain(segments.iter().map(|segment| segment.weight_decay))
            .chain(self.corrections())
            .collect();
        gpu.upload(lr.address(), bytemuck::cast_slice(&numbers))?;
        Ok(Update {
            state: self.buffers.iter_mut().map(|buffer| buffer.on_device_mut(gpu)).collect::<Result<_>>()?,
            begin,
            first: begin.add(n),
            partials,
            lr,
            weight_decay: lr.add(n),
            corrections: lr.add(2 * n),
            scale: lr.add(2 * n + 2),
            norm: lr.add(2 * n + 3),
            segments: n,
            count,
        })
    }

    /// Enqueues the norm, clipping (unless `max_norm` is 0) and the step. If the norm is not finite, the step changes nothing.
    ///
    /// # Errors
    /// A launch fails.
    pub fn launch(&self, gpu: &Gpu, update: &Update, values: Ptr<f32>, grads: Ptr<f32>, max_norm: f32) -> Result<()> {
        let Update { state, begin, first, partials, lr, weight_decay, corrections, scale, norm, .. } = update;
        let (begin, first, partials, lr, weight_decay) = (*begin, *first, *partials, *lr, *weight_decay);
        let (segments, count, blocks) =
            (update.segments as i32, update.count as i64, update.count.div_ceil(NORM_CHUNK));
        kernels::grad_norm_partials(gpu, blocks, grads, begin, first, segments, count, partials)?;
        kernels::grad_norm_finish(gpu, 1, partials, blocks as i32, max_norm, *norm, *scale)?;
        let grid = update.count.div_ceil(STEP_CHUNK);
        let state = |i: usize| state.get(i).copied().unwrap_or(Ptr::NULL);
        match self.config {
            UpdateRule::Adam { betas, eps, .. } | UpdateRule::AdamW { betas, eps, .. } => kernels::adam_step(
                gpu,
                grid,
                values,
                grads,
                state(0),
                state(1),
                state(2),
                begin,
                first,
                lr,
                weight_decay,
                segments,
                count,
                *scale,
                betas[0] as f32,
                betas[1] as f32,
                (1.0 - betas[0]) as f32,
                (1.0 - betas[1]) as f32,
                eps as f32,
                *corrections,
                i32::from(matches!(self.config, UpdateRule::AdamW { .. })),
            ),
            UpdateRule::Sgd { momentum, nesterov } => kernels::sgd_step(
                gpu,
                grid,
                values,
                grads,
                state(0),
                begin,
                first,
                lr,
                weight_decay,
                segments,
                count,
                *scale,
                momentum as f32,
                i32::from(nesterov),
            ),
        }
    }

    /// Counts a step whose launches have changed the parameters.
    pub fn count_step(&mut self) {
        self.steps += 1;
    }

    /// Returns 1/(1 - β1^t) and 1/√(1 - β2^t) of the next step.
    fn corrections(&self) -> [f32; 2] {
        let t = (self.steps + 1) as f64;
        match self.config {
            UpdateRule::Adam { betas: [beta1, beta2], .. } | UpdateRule::AdamW { betas: [beta1, beta2], .. } => {
                [1.0 / (1.0 - beta1.powf(t)), 1.0 / (1.0 - beta2.powf(t)).sqrt()].map(|factor| factor as f32)
            }
            UpdateRule::Sgd { .. } => [1.0; 2],
        }
    }
}
