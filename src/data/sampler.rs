//! P x K sampling: P identities, K images of each (Yu et al., 2019).

use std::collections::BTreeMap;

use rand::seq::SliceRandom;

use super::ImageRecord;
use crate::rng::{Purpose, stream};

/// Draws the batches of an epoch: a function of (seed, epoch) and the records, nothing else.
#[derive(Clone, Debug)]
pub struct IdentitySampler {
    /// Indices of each identity's images, identities ascending.
    identities: Vec<Vec<usize>>,
    ids: usize,
    images: usize,
    passes: usize,
}

impl IdentitySampler {
    /// `ids` = P, `images` = K; each identity is visited `passes` times an epoch.
    pub fn new(records: &[ImageRecord], ids: usize, images: usize, passes: usize) -> IdentitySampler {
        let mut by_pid: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (i, record) in records.iter().enumerate() {
            by_pid.entry(record.pid).or_default().push(i);
        }
        IdentitySampler { identities: by_pid.into_values().collect(), ids, images, passes }
    }

    /// Batches of an epoch; an incomplete last one is dropped.
    pub fn batches(&self) -> usize {
        self.identities.len() * self.passes / self.ids
    }

    /// Record indices of every batch of `epoch`. Identities are shuffled; K images are drawn without replacement, from a list
    /// repeated K times where an identity has fewer than K.
    pub fn epoch(&self, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
        let mut order = Vec::new();
        for pass in 0..self.passes {
            let mut rng = stream(seed, Purpose::Sampler, epoch, pass as u64);
            let mut identities: Vec<usize> = (0..self.identities.len()).collect();
            identities.shuffle(&mut rng);
            for identity in identities {
                let list = &self.identities[identity];
                let mut pool = if list.len() < self.images { list.repeat(self.images) } else { list.clone() };
                pool.shuffle(&mut rng);
                order.extend_from_slice(&pool[..self.images]);
            }
        }
        let batch = self.ids * self.images;
        order.chunks_exact(batch).map(<[usize]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(images: &[usize]) -> Vec<ImageRecord> {
        let of = |(pid, &n): (usize, &usize)| {
            (0..n).map(move |i| ImageRecord { path: format!("{pid}-{i}").into(), pid: pid as i64 + 1, camid: 1 })
        };
        images.iter().enumerate().flat_map(of).collect()
    }

    #[test]
    fn each_identity_comes_once_with_distinct_images_and_the_last_batch_is_dropped() {
        let records = records(&[6, 4, 5, 9, 4]);
        let sampler = IdentitySampler::new(&records, 2, 4, 1);
        let batches = sampler.epoch(1, 0);
        assert_eq!((batches.len(), sampler.batches()), (2, 2));
        let mut seen = Vec::new();
        for batch in &batches {
            for group in batch.chunks(4) {
                let pid = records[group[0]].pid;
                assert!(group.iter().all(|&i| records[i].pid == pid));
                let mut distinct = group.to_vec();
                distinct.sort();
                distinct.dedup();
                assert_eq!(distinct.len(), 4);
                assert!(!seen.contains(&pid));
                seen.push(pid);
            }
        }
    }

    #[test]
    fn a_small_identity_repeats_its_images_and_epochs_differ_but_repeat_by_seed() {
        let records = records(&[1, 2, 8, 8]);
        let sampler = IdentitySampler::new(&records, 4, 4, 1);
        assert_eq!(sampler.epoch(3, 0), sampler.epoch(3, 0));
        assert_ne!(sampler.epoch(3, 0), sampler.epoch(3, 1));
        assert_ne!(sampler.epoch(3, 0), sampler.epoch(4, 0));
        assert_eq!(sampler.epoch(3, 0)[0].iter().filter(|&&i| records[i].pid == 1).count(), 4);
    }
}
