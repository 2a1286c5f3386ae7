//! The exponential moving average of a model's weights and running statistics (as timm's `ModelEmaV2`).

use rayon::prelude::*;

use super::CHUNK;
use crate::Result;
use crate::engine::cpu::for_each_isa;
use crate::engine::device::{Gpu, Grid, Mirrored, kernels};
use crate::engine::store::Store;

/// The average, in the layout of a [`Store`].
#[derive(Clone, Debug)]
pub struct Ema {
    decay: f64,
    values: Mirrored,
    buffers: Vec<Mirrored>,
}

impl Ema {
    /// Returns an average that starts at the weights of `store`. A step keeps the share `decay` of it, in [0, 1).
    pub fn new(decay: f32, store: &Store) -> Ema {
        let buffers = store.buffers.iter().map(|buffer| buffer.values.clone()).collect();
        Ema { decay: f64::from(decay), values: store.values.clone(), buffers }
    }

    /// Brings the average to the host: see [`Mirrored::fetch`].
    ///
    /// # Errors
    /// The device was lost.
    pub fn fetch(&self) -> Result<()> {
        self.values.fetch()?;
        self.buffers.iter().try_for_each(Mirrored::fetch)
    }

    /// Adds the weights after step number `step` (from 1) to the average. The decay is at most (1 + step) / (10 + step), so that early
    /// averages forget the initial weights faster.
    ///
    /// # Errors
    /// The GPU fails.
    pub fn update(&mut self, store: &mut Store, step: u64, gpu: Option<&Gpu>) -> Result<()> {
        let keep = self.decay.min((1 + step) as f64 / (10 + step) as f64) as f32;
        average(&mut self.values, &mut store.values, keep, gpu)?;
        let mut buffers = self.buffers.iter_mut().zip(&mut store.buffers);
        buffers.try_for_each(|(averaged, buffer)| average(averaged, &mut buffer.values, keep, gpu))
    }

    /// Swaps the average with the weights of `store`. Called before the average is evaluated or saved, and again after it.
    pub fn swap(&mut self, store: &mut Store) {
        std::mem::swap(&mut self.values, &mut store.values);
        for (average, buffer) in self.buffers.iter_mut().zip(&mut store.buffers) {
            std::mem::swap(average, &mut buffer.values);
        }
    }
}

fn average(average: &mut Mirrored, now: &mut Mirrored, keep: f32, gpu: Option<&Gpu>) -> Result<()> {
    let Some(gpu) = gpu else {
        let now: &[f32] = now;
        let chunks = average.par_chunks_mut(CHUNK).zip(now.par_chunks(CHUNK));
        chunks.for_each(|(average, now)| approach(average, now, 1.0 - keep));
        return Ok(());
    };
    let len = now.len();
    kernels::average_f32(gpu, Grid::any(len), now.on_device(gpu)?, average.on_device_mut(gpu)?, keep, len as i64)
}

for_each_isa! {
    fn approach(average: &mut [f32], now: &[f32], share: f32) {
        average.iter_mut().zip(now).for_each(|(average, now)| *average += share * (now - *average));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::store::{Group, Layout};

    /// Weights that do not train keep their bits.
    #[test]
    fn an_equal_value_stays() {
        let mut store = Store::new();
        store.add_param("w".into(), &[1000], Layout::Plain, Group::Backbone);
        store.values.iter_mut().enumerate().for_each(|(i, value)| *value = (i as f32 * 0.37).sin());
        let mut ema = Ema::new(0.999, &store);
        (1..50).for_each(|step| ema.update(&mut store, step, None).unwrap());
        assert_eq!(ema.values, store.values);
    }

    #[test]
    fn the_average_follows_slowly_and_swapping_twice_changes_nothing() {
        let mut store = Store::new();
        store.add_param("w".into(), &[2], Layout::Plain, Group::Head);
        store.add_buffer("running_mean".into(), 1, 4.0);
        let mut ema = Ema::new(0.9, &store);
        store.values.copy_from_slice(&[1.0, -2.0]);
        store.buffers[0].values[0] = 8.0;
        // Step 1: (1 + 1) / (10 + 1) is less than 0.9; step 1000: 0.9.
        ema.update(&mut store, 1, None).unwrap();
        let keep = 2.0f32 / 11.0;
        let first = [1.0 - keep, -2.0 * (1.0 - keep)];
        assert!(ema.values.iter().zip(first).all(|(a, b)| (a - b).abs() < 1e-6));
        ema.update(&mut store, 1000, None).unwrap();
        assert!((ema.values[0] - (0.9 * first[0] + 0.1)).abs() < 1e-6);
        let (values, average) = (store.values.clone(), ema.values.clone());
        ema.swap(&mut store);
        assert_eq!((&store.values, &ema.values), (&average, &values));
        assert!(store.buffers[0].values[0] > 4.0 && store.buffers[0].values[0] < 8.0);
        ema.swap(&mut store);
        assert_eq!((&store.values, store.buffers[0].values[0]), (&values, 8.0));
    }
}
