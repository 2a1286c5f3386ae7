//! Latent states of BConv-Cells: what they hold between steps, and when they are reset.

use rand_distr::{Distribution, Normal};

use crate::base::rng::{Purpose, stream};
use crate::base::settings::choice;
use crate::engine::device::{Gpu, Mirrored, Ptr};
use crate::engine::graph::{StateDecl, StateId};
use crate::{Error, Result};

/// Standard deviation of a state drawn at random, as in the published code.
const NORMAL_STD: f32 = 1e-3;

choice! {
    /// When training resets the states.
    pub enum StatePolicy {
        /// At each epoch's start: they are carried from mini-batch to mini-batch.
        #[default]
        Carry = "carry",
        /// Never.
        CarryEpochs = "carry-epochs",
        /// At every step.
        Reset = "reset",
    }
}

choice! {
    /// What a state holds after a reset.
    pub enum StateInit {
        /// Zeros.
        #[default]
        Zeros = "zeros",
        /// Seeded N(0, 0.001²), as published.
        Normal = "normal",
    }
}

choice! {
    /// What every evaluation batch starts from.
    pub enum EvalState {
        /// Zeros: an image's feature does not depend on its neighbours in the batch.
        #[default]
        Zeros = "zeros",
        /// Every slot holds the mean over slots of the last training state.
        Mean = "mean",
        /// Seeded N(0, 0.001²), as published.
        Normal = "normal",
    }
}

/// One state: `[slots, h, w, c]` now and before the last step.
#[derive(Clone, Debug, Default)]
struct Pair {
    current: Mirrored,
    previous: Mirrored,
    /// How many elements of `current` are valid: none after a reset.
    held: usize,
}

/// The latent states of a network. They have one slot for each image of the batch: a smaller batch uses and keeps the first slots, a larger
/// one adds slots that start as after a reset.
#[derive(Clone, Debug)]
pub struct LatentStates {
    init: StateInit,
    seed: u64,
    /// Counts the resets, so that each one draws other values.
    resets: u64,
    pairs: Vec<Pair>,
}

impl LatentStates {
    /// Returns states that are empty until the first step.
    pub fn new(init: StateInit, seed: u64) -> LatentStates {
        LatentStates { init, seed, resets: 0, pairs: Vec::new() }
    }

    /// Resets all states: the next step starts from initial values ([`StateInit`]).
    pub fn reset(&mut self) {
        self.resets += 1;
        self.pairs.iter_mut().for_each(|pair| pair.held = 0);
    }

    /// Brings the current states to the host: see [`Mirrored::fetch`].
    ///
    /// # Errors
    /// The device was lost.
    pub fn fetch(&self) -> Result<()> {
        self.pairs.iter().filter(|pair| pair.held > 0).try_for_each(|pair| pair.current.fetch())
    }

    /// Returns the current content of a state, `[slots, h, w, c]`; empty after a reset.
    pub fn current(&self, id: StateId) -> &[f32] {
        self.pairs[id.0].current()
    }

    /// Sets the content of a state, `[slots, h, w, c]`.
    pub fn set_current(&mut self, id: StateId, data: Vec<f32>) {
        self.grow_list(id.0 + 1);
        let pair = &mut self.pairs[id.0];
        pair.held = data.len();
        pair.current = data.into();
    }

    /// Returns the states that evaluation starts from, for a batch of `batch` images. Random values depend on `seed`.
    ///
    /// # Errors
    /// [`Error::NoLatentState`] for [`EvalState::Mean`] if a state is empty; or the device was lost.
    pub fn for_evaluation(
        &self,
        mode: EvalState,
        decls: &[StateDecl],
        batch: usize,
        seed: u64,
    ) -> Result<LatentStates> {
        let init = if mode == EvalState::Normal { StateInit::Normal } else { StateInit::Zeros };
        let mut states = LatentStates::new(init, seed);
        if mode == EvalState::Mean {
            self.fetch()?;
            for (i, decl) in decls.iter().enumerate() {
                let slot = decl.slot.len();
                let stored = self.pairs.get(i).map_or(&[][..], Pair::current);
                if stored.is_empty() {
                    return Err(Error::NoLatentState { cell: decl.name.clone() });
                }
                let slots = stored.len() / slot;
                let mean: Vec<f32> = (0..slot)
                    .map(|j| {
                        (stored.iter().skip(j).step_by(slot).map(|&v| f64::from(v)).sum::<f64>() / slots as f64) as f32
                    })
                    .collect();
                states.set_current(StateId(i), mean.repeat(batch));
            }
        }
        Ok(states)
    }

    /// Returns the contents for a checkpoint, by name: `(cell, [slots, h, w, c], values)`.
    pub(crate) fn export<'a>(
        &'a self,
        decls: &'a [StateDecl],
    ) -> impl Iterator<Item = (&'a str, [usize; 4], &'a [f32])> {
        decls.iter().zip(&self.pairs).map(|(decl, pair)| {
            let slot = decl.slot;
            (decl.name.as_str(), [pair.held / slot.len(), slot.h, slot.w, slot.c], pair.current())
        })
    }

    /// Returns the number of resets so far. A checkpoint has it, so that a resumed run draws the same values.
    pub(crate) fn resets(&self) -> u64 {
        self.resets
    }

    /// Sets the number of resets so far.
    pub(crate) fn set_resets(&mut self, resets: u64) {
        self.resets = resets;
    }

    /// Makes the current states the previous ones of a step with `batch` slots.
    ///
    /// # Errors
    /// The device was lost.
    pub(crate) fn begin_step(&mut self, decls: &[StateDecl], batch: usize) -> Result<()> {
        self.grow_list(decls.len());
        for (i, (decl, pair)) in decls.iter().zip(&mut self.pairs).enumerate() {
            std::mem::swap(&mut pair.current, &mut pair.previous);
            let len = batch * decl.slot.len();
            let had = pair.held.min(len);
            // Resizes only where the length changes, so that numbers on a device can stay there.
            if pair.previous.len() != len {
                pair.previous.fetch()?;
                pair.previous.resize(len, 0.0);
            }
            if pair.current.len() != len {
                pair.current = Mirrored::zeros(len);
            }
            pair.held = len;
            if had == len {
                continue;
            }
            if had > 0 || self.init == StateInit::Normal {
                pair.previous.fetch()?;
            }
            match self.init {
                StateInit::Zeros if had == 0 => pair.previous.clear(),
                StateInit::Zeros => pair.previous[had..].fill(0.0),
                StateInit::Normal => {
                    let normal = Normal::new(0.0, NORMAL_STD).expect("a positive standard deviation");
                    let mut rng = stream(self.seed, Purpose::LatentState, self.resets, i as u64);
                    // Draws from the first slot on, so that an added slot gets numbers of its own.
                    let drawn: Vec<f32> = (0..len).map(|_| normal.sample(&mut rng)).collect();
                    pair.previous[had..].copy_from_slice(&drawn[had..]);
                }
            }
        }
        Ok(())
    }

    /// Returns a state before the step, and the place of the state after it, for the cell that runs now.
    pub(crate) fn step(&mut self, id: StateId) -> (&[f32], &mut [f32]) {
        let pair = &mut self.pairs[id.0];
        (&pair.previous, &mut pair.current)
    }

    /// Returns the state that the last step started from.
    pub(crate) fn previous(&self, id: StateId) -> &[f32] {
        &self.pairs[id.0].previous
    }

    /// Returns the addresses of all states on a GPU, before and after the step.
    pub(crate) fn on_device(&mut self, gpu: &Gpu) -> Result<Vec<[Ptr<f32>; 2]>> {
        let pairs = self.pairs.iter_mut();
        pairs.map(|pair| Ok([pair.previous.on_device(gpu)?, pair.current.on_device_mut(gpu)?])).collect()
    }

    fn grow_list(&mut self, len: usize) {
        if self.pairs.len() < len {
            self.pairs.resize(len, Pair::default());
        }
    }
}

impl Pair {
    fn current(&self) -> &[f32] {
        if self.held == 0 { &[] } else { &self.current[..self.held] }
    }
}
