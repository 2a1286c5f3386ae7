//! A training of several processes: what they can share, and the figures of all.

use super::Trainer;
use crate::config::{ClassWeights, Config};
use crate::engine::collective::{Collective, Meeting};
use crate::engine::device::Device;
use crate::{Error, Result};

/// Refuses settings that the ranks cannot share.
pub(in crate::train) fn check(ranks: &Collective, config: &Config, device: &Device) -> Result<()> {
    let count = ranks.ranks();
    let refuse = |setting: &str, value: String, reason: String| {
        Err(Error::Setting { setting: format!("`{setting}`"), value, reason })
    };
    if !ranks.has_others() {
        return Ok(());
    }
    if device.gpu().is_some() && config.loss.class_weights != ClassWeights::None {
        let reason = format!(
            "the share of a process in a mean changes with every batch, and a GPU replays a recorded step: {count} processes \
                                  weigh classes on CPUs only"
        );
        return refuse("loss.class_weights", config.loss.class_weights.to_string(), reason);
    }
    if !config.batch().is_multiple_of(count) {
        return Err(Error::Setting {
            setting: config.batch_settings().into(),
            value: format!("{} images", config.batch()),
            reason: format!("{count} processes share a batch equally: choose a multiple of {count}"),
        });
    }
    if config.mixes() && config.batch() / count < 2 {
        let setting = if config.augment.mixup > 0.0 { "augment.mixup" } else { "augment.cutmix" };
        let reason = format!(
            "each of {count} processes has one image, and mixes only its own: take larger batches, or fewer processes"
        );
        return refuse(setting, config.augment.mixup.max(config.augment.cutmix).to_string(), reason);
    }
    if config.ptl.state_steps > 1 {
        let reason = format!(
            "the parts of a batch follow one another, and {count} processes have theirs at the same time: choose 1"
        );
        return refuse("ptl.state_steps", config.ptl.state_steps.to_string(), reason);
    }
    if config.loss.local_mining {
        if !config.sampler.ids.is_multiple_of(count) {
            let reason = format!(
                "with `loss.local_mining`, each of {count} processes needs whole identities: choose a multiple of {count}"
            );
            return refuse("sampler.ids", config.sampler.ids.to_string(), reason);
        }
        if config.loss.memory > 0 {
            let reason = "it remembers the embeddings of all processes: leave `loss.local_mining` out".into();
            return refuse("loss.memory", config.loss.memory.to_string(), reason);
        }
    }
    Ok(())
}

/// Connects the devices of all ranks, which must be of one kind.
pub(super) fn connect(ranks: &Collective, device: &Device) -> Result<()> {
    if !ranks.has_others() {
        return Ok(());
    }
    let kind = device.gpu().map_or("CPU".to_string(), |gpu| format!("GPU in {}", gpu.precision()));
    if !ranks.agree(&kind) {
        let reason = format!(
            "the processes compute on devices of different kinds, this one on {device}: choose one for all by `device` and `precision`"
        );
        return Err(Error::Ranks { reason });
    }
    device.gpu().map_or(Ok(()), |gpu| gpu.join(Meeting::Ranks(ranks)))
}

impl Trainer {
    /// Returns the share of this rank's images in a mean over those of all ranks. Where classes have weights, an image counts by that of its
    /// label.
    pub(super) fn share(&self, labels: &[u32], all_labels: &[u32]) -> f64 {
        let weight = |labels: &[u32]| match &self.class_weights[..] {
            [] => labels.len() as f64,
            weights => labels.iter().map(|&label| f64::from(weights[label as usize])).sum(),
        };
        if self.ranks.has_others() { weight(labels) / weight(all_labels) } else { 1.0 }
    }

    /// Replaces losses and correct predictions of this rank by those of all: the means of losses, where this rank's mean counts by `share`, and the
    /// sums of correct predictions. The losses are cross-entropies, triplet losses and centre losses.
    pub(super) fn sum_of_ranks(&self, losses: &mut [Vec<f64>], hits: &mut [f64], share: f64) {
        if !self.ranks.has_others() {
            return;
        }
        let equal = 1.0 / self.ranks.ranks() as f64;
        let mut numbers = Vec::new();
        for (kind, losses) in losses.iter().enumerate() {
            numbers.extend(losses.iter().map(|loss| loss * if kind == 0 { share } else { equal }));
        }
        numbers.extend_from_slice(hits);
        self.ranks.sum_f64(&mut numbers);
        losses.iter_mut().flatten().chain(hits).zip(numbers).for_each(|(to, sum)| *to = sum);
    }

    /// Gives all ranks the running statistics of rank 0, which evaluations and checkpoints take.
    ///
    /// # Errors
    /// The device was lost.
    pub(in crate::train) fn share_statistics(&mut self) -> Result<()> {
        if self.ranks.has_others() {
            self.store.fetch()?;
            self.store.buffers.iter_mut().for_each(|buffer| self.ranks.broadcast(&mut buffer.values[..]));
        }
        Ok(())
    }

    /// Refuses to go on if the ranks have different weights; `why` ends the sentence.
    pub(in crate::train) fn check_agreement(&self, why: &str) -> Result<()> {
        if !self.ranks.has_others() {
            return Ok(());
        }
        self.store.fetch()?;
        let sums = self
            .store
            .values
            .iter()
            .fold(0u64, |hash, value| (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3));
        match self.ranks.first_difference(&sums.to_string()) {
            None => Ok(()),
            Some((rank, _)) => {
                Err(Error::Ranks { reason: format!("process {rank} has other weights than process 0{why}") })
            }
        }
    }
}
