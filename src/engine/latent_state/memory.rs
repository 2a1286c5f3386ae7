//! What states start a step from, where they do not simply stay in their slots: a memory of rows, each of the size of a slot. After a step,
//! groups of slots are collected into rows; before the next one, rows are spread to slots.

use rand::seq::SliceRandom;

use crate::Result;
use crate::base::rng::{Purpose, stream};
use crate::base::settings::choice;
use crate::engine::device::{Gpu, Grid, Mirrored, kernels};
use crate::engine::shape::Shape;

choice! {
    /// What a state starts the next step from.
    pub enum StateForm {
        /// Each slot from the state that it had, as published: from an unrelated image at the same place of the last batch.
        #[default]
        Slots = "slots",
        /// Each slot from the state of another slot, in a new random order at every step: what `slots` has but for the place.
        Permuted = "permuted",
        /// Every slot from the mean over slots.
        Mean = "mean",
        /// Every slot from a running average of the means over slots.
        Average = "average",
        /// Every slot and pixel from a running average of the means over slots and pixels.
        ChannelAverage = "channel-average",
        /// Each slot from a running average of the states of its own identity or class.
        Class = "class",
    }
}

impl StateForm {
    /// Returns how many rows the memory has, for batches of `batch` images of `classes` classes; 0 without a memory.
    pub(crate) fn rows(self, batch: usize, classes: usize) -> usize {
        match self {
            StateForm::Slots => 0,
            StateForm::Permuted => batch,
            StateForm::Mean | StateForm::Average | StateForm::ChannelAverage => 1,
            StateForm::Class => classes,
        }
    }
}

/// Slots whose mean a row of the memory takes in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub row: usize,
    /// The share that the row takes of the mean; 1 replaces the row.
    pub share: f32,
    pub slots: Vec<usize>,
}

/// Returns the groups of a batch, in the order of their rows. `labels` are the classes of the slots, `collected` counts for each row how
/// often it was collected: a row takes all of its first mean, and the share `rate` of the others.
///
/// # Panics
/// With [`StateForm::Class`], if there are not `batch` labels, or one is no row.
pub(super) fn groups(form: StateForm, batch: usize, labels: &[u32], rate: f32, collected: &[u32]) -> Vec<Group> {
    let share = |row: usize| if form == StateForm::Mean || collected[row] == 0 { 1.0 } else { rate };
    match form {
        StateForm::Slots => Vec::new(),
        StateForm::Permuted => (0..batch).map(|slot| Group { row: slot, share: 1.0, slots: vec![slot] }).collect(),
        StateForm::Mean | StateForm::Average | StateForm::ChannelAverage => {
            vec![Group { row: 0, share: share(0), slots: (0..batch).collect() }]
        }
        StateForm::Class => {
            assert_eq!(labels.len(), batch, "a label for each slot");
            let mut order: Vec<usize> = (0..batch).collect();
            order.sort_by_key(|&slot| labels[slot]);
            let same = |a: &usize, b: &usize| labels[*a] == labels[*b];
            let group = |slots: &[usize]| {
                let row = labels[slots[0]] as usize;
                Group { row, share: share(row), slots: slots.to_vec() }
            };
            order.chunk_by(same).map(group).collect()
        }
    }
}

/// Returns the row that each slot of a batch gets. The order of [`StateForm::Permuted`] depends on `seed`, `resets` and the number of steps
/// that were collected since the reset.
///
/// # Panics
/// As [`groups`].
pub(super) fn rows_of_slots(
    form: StateForm,
    batch: usize,
    labels: &[u32],
    [seed, resets]: [u64; 2],
    collected: &[u32],
) -> Vec<usize> {
    match form {
        StateForm::Slots | StateForm::Mean | StateForm::Average | StateForm::ChannelAverage => vec![0; batch],
        StateForm::Permuted => {
            let mut rows: Vec<usize> = (0..batch).collect();
            let steps = u64::from(collected.first().copied().unwrap_or(0));
            rows.shuffle(&mut stream(seed, Purpose::StateOrder, resets, steps));
            rows
        }
        StateForm::Class => {
            assert_eq!(labels.len(), batch, "a label for each slot");
            labels.iter().map(|&label| label as usize).collect()
        }
    }
}

/// Whole numbers for a kernel, which lie where numbers of type f32 do.
fn table(numbers: impl Iterator<Item = i32>) -> Mirrored {
    numbers.map(|number| f32::from_bits(number as u32)).collect::<Vec<_>>().into()
}

/// Takes the means of `groups` of `state` `[slots, h, w, c]` into the rows of `memory`, on the GPU if there is one.
///
/// # Errors
/// The GPU fails.
pub(super) fn collect(
    memory: &mut Mirrored,
    state: &mut Mirrored,
    groups: &[Group],
    slot: Shape,
    gpu: Option<&Gpu>,
) -> Result<()> {
    let len = slot.len();
    if let Some(gpu) = gpu {
        let mut first = 0;
        let rows = groups.iter().flat_map(|group| {
            let numbers = [group.row as i32, first, group.slots.len() as i32, group.share.to_bits() as i32];
            first += group.slots.len() as i32;
            numbers
        });
        let mut numbers = table(rows.collect::<Vec<_>>().into_iter());
        let mut slots = table(groups.iter().flat_map(|group| group.slots.iter().map(|&slot| slot as i32)));
        let (groups_at, slots_at) = (numbers.on_device(gpu)?.cast(), slots.on_device(gpu)?.cast());
        let (memory, state) = (memory.on_device_mut(gpu)?, state.on_device(gpu)?);
        let grid = Grid::any(groups.len() * len);
        return kernels::collect_states(gpu, grid, memory, state, groups_at, slots_at, groups.len() as i32, len as i32);
    }
    let (memory, state): (&mut [f32], &[f32]) = (memory, state);
    for Group { row, share, slots } in groups {
        for (at, kept) in memory[row * len..(row + 1) * len].iter_mut().enumerate() {
            let mean = slots.iter().map(|slot| state[slot * len + at]).sum::<f32>() / slots.len() as f32;
            *kept = if *share == 1.0 { mean } else { *kept + share * (mean - *kept) };
        }
    }
    Ok(())
}

/// Writes the rows that `rows` names for each slot to `state` `[slots, h, w, c]`, or their means over pixels, on the GPU if there is one.
///
/// # Errors
/// The GPU fails.
pub(super) fn spread(
    form: StateForm,
    memory: &mut Mirrored,
    state: &mut Mirrored,
    rows: &[usize],
    slot: Shape,
    gpu: Option<&Gpu>,
) -> Result<()> {
    let (len, slots) = (slot.len(), rows.len());
    if let Some(gpu) = gpu {
        let (memory, state) = (memory.on_device(gpu)?, state.on_device_mut(gpu)?);
        if form == StateForm::ChannelAverage {
            let (pixels, channels) = ((slot.h * slot.w) as i32, slot.c as i32);
            return kernels::spread_channel_means(gpu, slot.c, memory, state, slots as i32, pixels, channels);
        }
        let mut rows = table(rows.iter().map(|&row| row as i32));
        let rows = rows.on_device(gpu)?.cast();
        return kernels::spread_states(gpu, Grid::any(slots * len), memory, state, rows, slots as i32, len as i32);
    }
    let (memory, state): (&[f32], &mut [f32]) = (memory, state);
    for (state, row) in state.chunks_exact_mut(len).zip(rows) {
        let row = &memory[row * len..(row + 1) * len];
        state.copy_from_slice(row);
        if form == StateForm::ChannelAverage {
            average_pixels(state, slot.c);
        }
    }
    Ok(())
}

/// Sets every pixel of `[pixels, channels]` to the mean over pixels.
pub(super) fn average_pixels(row: &mut [f32], channels: usize) {
    for channel in 0..channels {
        let of_channel = row.iter().skip(channel).step_by(channels);
        let mean = of_channel.map(|&v| f64::from(v)).sum::<f64>() / (row.len() / channels) as f64;
        row.iter_mut().skip(channel).step_by(channels).for_each(|v| *v = mean as f32);
    }
}
