//! Latent states of BConv-Cells: what they hold between steps, and when they are reset.

mod memory;
mod shared;
mod statistics;
#[cfg(test)]
mod tests;

pub use memory::StateForm;
use rand_distr::{Distribution, Normal};
pub use statistics::StateStatistics;

use crate::base::rng::{Purpose, stream};
use crate::base::settings::choice;
use crate::engine::collective::Collective;
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
        /// Every slot holds the mean over slots of the last training state, or over the rows that were collected where there is a memory
        /// ([`StateForm`]).
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
    /// What the form keeps, `[rows, h, w, c]`; empty for [`StateForm::Slots`], which keeps `current`.
    memory: Mirrored,
    /// How many elements of `current`, or of `memory`, are valid: none after a reset.
    held: usize,
}

/// The latent states of a network. They have one slot for each image of the batch: a smaller batch uses and keeps the first slots, a larger
/// one adds slots that start as after a reset. Where several processes train, each has the slots of its own images.
#[derive(Clone, Debug)]
pub struct LatentStates {
    init: StateInit,
    seed: u64,
    /// Counts the resets, so that each one draws other values.
    resets: u64,
    form: StateForm,
    /// The share that a running average takes of each new mean.
    rate: f32,
    /// The rows of [`StateForm::Class`].
    classes: usize,
    /// The classes of the slots of the next step.
    labels: Vec<u32>,
    /// How often each row of the memories was collected since the reset.
    collected: Vec<u32>,
    pairs: Vec<Pair>,
    /// The processes that share the slots: see `shared`.
    ranks: Collective,
    /// Whether the pairs hold the slots of all ranks, as after a checkpoint was read.
    is_whole: bool,
}

impl LatentStates {
    /// Returns states that are empty until the first step.
    pub fn new(init: StateInit, seed: u64) -> LatentStates {
        LatentStates {
            init,
            seed,
            resets: 0,
            form: StateForm::Slots,
            rate: 1.0,
            classes: 0,
            labels: Vec::new(),
            collected: Vec::new(),
            pairs: Vec::new(),
            ranks: Collective::single(),
            is_whole: true,
        }
    }

    /// Returns the same states in another form. A running average takes the share `rate` of each new mean; [`StateForm::Class`] has a row for
    /// each of `classes`.
    #[must_use]
    pub fn with_form(self, form: StateForm, rate: f32, classes: usize) -> LatentStates {
        LatentStates { form, rate, classes, ..self }
    }

    /// Says the classes of the slots of the next step (those of all ranks), which [`StateForm::Class`] needs.
    pub fn set_labels(&mut self, labels: &[u32]) {
        self.labels.clear();
        self.labels.extend_from_slice(labels);
    }

    /// Resets all states: the next step starts from initial values ([`StateInit`]).
    pub fn reset(&mut self) {
        self.resets += 1;
        self.collected.clear();
        self.pairs.iter_mut().for_each(|pair| pair.held = 0);
    }

    /// Brings the current states to the host: see [`Mirrored::fetch`].
    ///
    /// # Errors
    /// The device was lost.
    pub fn fetch(&self) -> Result<()> {
        self.pairs.iter().filter(|pair| pair.held > 0).try_for_each(|pair| self.kept(pair).fetch())
    }

    /// Returns what a state keeps from step to step: its slots, or the rows of its memory, `[slots or rows, h, w, c]`; empty after a reset.
    pub fn current(&self, id: StateId) -> &[f32] {
        self.held(&self.pairs[id.0])
    }

    /// Sets what a state keeps, as [`LatentStates::current`] returns it.
    pub fn set_current(&mut self, id: StateId, data: Vec<f32>) {
        self.grow_list(id.0 + 1);
        let has_memory = self.form != StateForm::Slots;
        let pair = &mut self.pairs[id.0];
        pair.held = data.len();
        let place = if has_memory { &mut pair.memory } else { &mut pair.current };
        *place = data.into();
        self.is_whole = true;
    }

    /// Returns what a pair keeps from step to step.
    fn kept<'a>(&self, pair: &'a Pair) -> &'a Mirrored {
        if self.form == StateForm::Slots { &pair.current } else { &pair.memory }
    }

    /// Returns the numbers that a pair keeps from step to step; none after a reset.
    fn held<'a>(&self, pair: &'a Pair) -> &'a [f32] {
        if pair.held == 0 { &[] } else { &self.kept(pair)[..pair.held] }
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
                let pair = self.pairs.get(i).filter(|pair| pair.held > 0);
                let pair = pair.ok_or_else(|| Error::NoLatentState { cell: decl.name.clone() })?;
                let rows: Vec<&[f32]> = self.collected_rows(pair, slot).collect();
                let mean_of = |j: usize| rows.iter().map(|row| f64::from(row[j])).sum::<f64>() / rows.len() as f64;
                let mut mean: Vec<f32> = (0..slot).map(|j| mean_of(j) as f32).collect();
                if self.form == StateForm::ChannelAverage {
                    memory::average_pixels(&mut mean, decl.slot.c);
                }
                states.set_current(StateId(i), mean.repeat(batch));
            }
        }
        Ok(states)
    }

    /// Returns what states keep, for a checkpoint, by name: `(cell, [slots or rows, h, w, c], values)`.
    pub(crate) fn export<'a>(
        &'a self,
        decls: &'a [StateDecl],
    ) -> impl Iterator<Item = (&'a str, [usize; 4], &'a [f32])> {
        decls.iter().zip(&self.pairs).map(|(decl, pair)| {
            let slot = decl.slot;
            (decl.name.as_str(), [pair.held / slot.len(), slot.h, slot.w, slot.c], self.held(pair))
        })
    }

    /// Returns the numbers that each state keeps, as [`LatentStates::export`] does, without their names.
    pub(crate) fn held_values(&self) -> impl Iterator<Item = &[f32]> {
        self.pairs.iter().map(|pair| self.held(pair))
    }

    /// Returns figures about each state, in the order of `decls`.
    ///
    /// # Errors
    /// The device was lost.
    pub(crate) fn statistics(&self, decls: &[StateDecl]) -> Result<Vec<StateStatistics>> {
        if !self.is_whole && self.ranks.has_others() {
            return self.gathered()?.statistics(decls);
        }
        self.fetch()?;
        let empty = Pair::default();
        let of = |(i, decl): (usize, &StateDecl)| {
            let (pair, slot) = (self.pairs.get(i).unwrap_or(&empty), decl.slot.len());
            pair.previous.fetch()?;
            pair.current.fetch()?;
            Ok(StateStatistics::of(self.collected_rows(pair, slot), slot, [&pair.previous, &pair.current]))
        };
        decls.iter().enumerate().map(of).collect()
    }

    /// Returns the slots of `slot` numbers that a pair keeps, or the rows of its memory that were collected.
    fn collected_rows<'a>(&'a self, pair: &'a Pair, slot: usize) -> impl Iterator<Item = &'a [f32]> {
        let was_collected = |row: usize| self.collected.get(row).is_none_or(|&times| times > 0);
        self.held(pair).chunks_exact(slot).enumerate().filter(move |(row, _)| was_collected(*row)).map(|(_, row)| row)
    }

    /// Returns the number of resets so far. A checkpoint has it, so that a resumed run draws the same values.
    pub(crate) fn resets(&self) -> u64 {
        self.resets
    }

    /// Sets the number of resets so far.
    pub(crate) fn set_resets(&mut self, resets: u64) {
        self.resets = resets;
    }

    /// Returns how often each row of the memories was collected since the reset. A checkpoint has it.
    pub(crate) fn collected(&self) -> &[u32] {
        &self.collected
    }

    /// Sets how often each row of the memories was collected.
    pub(crate) fn set_collected(&mut self, collected: Vec<u32>) {
        self.collected = collected;
    }

    /// Writes the states that a step with `batch` slots starts from: the current ones, or rows of the memory.
    ///
    /// # Errors
    /// The device was lost.
    pub(crate) fn begin_step(&mut self, decls: &[StateDecl], batch: usize, gpu: Option<&Gpu>) -> Result<()> {
        self.grow_list(decls.len());
        self.take_own_slots(decls, batch)?;
        if self.form != StateForm::Slots {
            return self.begin_from_memory(decls, batch, gpu);
        }
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
                    // Draws from the first slot of all on, so that each slot gets numbers of its own.
                    let first = self.ranks.rank() * len;
                    let drawn = drawn(self.seed, self.resets, i, first + len);
                    pair.previous[had..].copy_from_slice(&drawn[first + had..]);
                }
            }
        }
        Ok(())
    }

    /// Begins a step from the memories. After a reset, and where their rows do not fit the batch, these begin as after a reset.
    fn begin_from_memory(&mut self, decls: &[StateDecl], batch: usize, gpu: Option<&Gpu>) -> Result<()> {
        let all = batch * self.ranks.ranks();
        let rows = self.form.rows(all, self.classes);
        if self.collected.len() != rows {
            self.collected = vec![0; rows];
            self.pairs.iter_mut().for_each(|pair| pair.held = 0);
        }
        let order = memory::rows_of_slots(self.form, all, &self.labels, [self.seed, self.resets], &self.collected);
        let order = &order[self.ranks.rank() * batch..][..batch];
        for (i, (decl, pair)) in decls.iter().zip(&mut self.pairs).enumerate() {
            let (len, kept) = (batch * decl.slot.len(), rows * decl.slot.len());
            if pair.held != kept {
                pair.memory = match self.init {
                    StateInit::Zeros => Mirrored::zeros(kept),
                    StateInit::Normal => drawn(self.seed, self.resets, i, kept).into(),
                };
                pair.held = kept;
            }
            for state in [&mut pair.previous, &mut pair.current] {
                if state.len() != len {
                    *state = Mirrored::zeros(len);
                }
            }
            memory::spread(self.form, &mut pair.memory, &mut pair.previous, order, decl.slot, gpu)?;
        }
        Ok(())
    }

    /// Takes the states after a step with `batch` slots into the memories, if there are any.
    ///
    /// # Errors
    /// The device was lost.
    pub(crate) fn end_step(&mut self, decls: &[StateDecl], batch: usize, gpu: Option<&Gpu>) -> Result<()> {
        if self.form == StateForm::Slots {
            return Ok(());
        }
        let all = batch * self.ranks.ranks();
        let groups = memory::groups(self.form, all, &self.labels, self.rate, &self.collected);
        for (decl, pair) in decls.iter().zip(&mut self.pairs) {
            let mut of_all = shared::of_all(&pair.current, &self.ranks)?;
            let current = of_all.as_mut().unwrap_or(&mut pair.current);
            memory::collect(&mut pair.memory, current, &groups, decl.slot, gpu)?;
        }
        groups.iter().for_each(|group| self.collected[group.row] += 1);
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

/// Draws the first `len` numbers of state number `index` after a reset.
fn drawn(seed: u64, resets: u64, index: usize, len: usize) -> Vec<f32> {
    let normal = Normal::new(0.0, NORMAL_STD).expect("a positive standard deviation");
    let mut rng = stream(seed, Purpose::LatentState, resets, index as u64);
    (0..len).map(|_| normal.sample(&mut rng)).collect()
}
