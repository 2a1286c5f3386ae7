//! Which images make the batches of an epoch: P x K sampling (P identities, K images of each; Yu et al., 2019) for
//! identities; all images in a random order, or as many of each class, for classes.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;

use super::{ImageRecord, Sample};
use crate::base::rng::{Purpose, stream};
use crate::base::settings::{CLASSES, ON_COST, REID, settings};

settings! {
    /// `[sampler]`: P identities x K images, or any images for classes.
    pub struct SamplerOptions in "sampler", "Batches" {
        /// P: identities in a batch.
        #[setting(flag("ids").at_least(2.0).at_most(4096.0).because("a triplet needs two identities").needs(&[REID]).taken_by(ON_COST))]
        pub ids: usize = 4;
        /// K: images of each identity in a batch.
        #[setting(flag("images").at_least(2.0).at_most(4096.0).because("a triplet needs two images of an identity").needs(&[REID]).taken_by(ON_COST))]
        pub images: usize = 4;
        /// Times each identity is visited in an epoch.
        #[setting(flag("passes").at_least(1.0).at_most(65536.0).needs(&[REID]))]
        pub passes: usize = 1;
        /// classify: images in a batch.
        #[setting(flag("batch").at_least(2.0).at_most(65536.0).needs(&[CLASSES]).taken_by(ON_COST))]
        pub batch: usize = 64;
        /// classify: draw every class as often as the others.
        #[setting(flag("balanced").needs(&[CLASSES]))]
        pub balanced: bool = false;
    }
}

/// Draws the batches of an epoch: a function of (seed, epoch) and the images, nothing else.
pub trait Sampler {
    /// Returns the number of batches of an epoch; an incomplete last one is dropped.
    fn batches(&self) -> usize;

    /// Returns the indices of the images of each batch of `epoch`.
    fn epoch(&self, seed: u64, epoch: u64) -> Vec<Vec<usize>>;
}

/// Draws batches of P identities with K images each.
#[derive(Clone, Debug)]
pub struct IdentitySampler {
    /// Indices of each identity's images, identities ascending.
    identities: Vec<Vec<usize>>,
    ids: usize,
    images: usize,
    passes: usize,
}

impl IdentitySampler {
    /// Creates a sampler of `records` with P = `ids` and K = `images`. Each identity is visited `passes` times an epoch.
    pub fn new(records: &[ImageRecord], ids: usize, images: usize, passes: usize) -> IdentitySampler {
        let mut by_pid: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (i, record) in records.iter().enumerate() {
            by_pid.entry(record.pid).or_default().push(i);
        }
        IdentitySampler { identities: by_pid.into_values().collect(), ids, images, passes }
    }
}

impl Sampler for IdentitySampler {
    fn batches(&self) -> usize {
        self.identities.len().saturating_mul(self.passes) / self.ids
    }

    /// Shuffles the identities, and draws K images of each without replacement. If an identity has fewer than K images, they are drawn
    /// from a list that repeats its images K times.
    fn epoch(&self, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
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

/// Draws as many batches as all images fill, for images of classes.
#[derive(Clone, Debug)]
pub struct ClassSampler {
    /// Indices of each class's images.
    classes: Vec<Vec<usize>>,
    images: usize,
    batch: usize,
    balanced: bool,
}

impl ClassSampler {
    /// Creates a sampler with batches of `batch` images. `balanced` draws every class as often as the others, instead of every image
    /// once.
    pub fn new(samples: &[Sample], batch: usize, balanced: bool) -> ClassSampler {
        let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (i, sample) in samples.iter().enumerate() {
            classes.entry(sample.label).or_default().push(i);
        }
        ClassSampler { classes: classes.into_values().collect(), images: samples.len(), batch, balanced }
    }

    /// Draws rounds of all classes in a random order. A class gives its images in a random order, and again when they are used up.
    fn balanced(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let mut rng = stream(seed, Purpose::Sampler, epoch, 0);
        let mut left: Vec<Vec<usize>> = vec![Vec::new(); self.classes.len()];
        let mut round: Vec<usize> = Vec::new();
        let mut order = Vec::with_capacity(self.images);
        while order.len() < self.images {
            if round.is_empty() {
                round = (0..self.classes.len()).collect();
                round.shuffle(&mut rng);
            }
            let class = round.pop().expect("filled above");
            if left[class].is_empty() {
                left[class].clone_from(&self.classes[class]);
                left[class].shuffle(&mut rng);
            }
            order.push(left[class].pop().expect("a class has an image"));
        }
        order
    }
}

impl Sampler for ClassSampler {
    fn batches(&self) -> usize {
        self.images / self.batch
    }

    fn epoch(&self, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
        let order = if self.balanced {
            self.balanced(seed, epoch)
        } else {
            let mut order: Vec<usize> = (0..self.images).collect();
            order.shuffle(&mut stream(seed, Purpose::Sampler, epoch, 0));
            order
        };
        order.chunks_exact(self.batch).map(<[usize]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ImageSource;

    fn samples(images: &[usize]) -> Vec<Sample> {
        let of = |(label, &n): (usize, &usize)| {
            (0..n).map(move |i| Sample { image: ImageSource::File(format!("{label}-{i}").into()), label: label as u32 })
        };
        images.iter().enumerate().flat_map(of).collect()
    }

    #[test]
    fn every_image_comes_once_in_an_order_of_its_epoch() {
        let sampler = ClassSampler::new(&samples(&[5, 2, 4]), 3, false);
        let batches = sampler.epoch(1, 0);
        assert_eq!((batches.len(), sampler.batches()), (3, 3));
        let mut seen = batches.concat();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 9, "no image twice");
        assert_eq!(batches, sampler.epoch(1, 0));
        assert_ne!(batches, sampler.epoch(1, 1));
        assert_ne!(batches, sampler.epoch(2, 0));
    }

    #[test]
    fn balanced_classes_come_equally_often_whatever_their_size() {
        let samples = samples(&[20, 1, 9]);
        let sampler = ClassSampler::new(&samples, 5, true);
        let order = sampler.epoch(1, 0).concat();
        assert_eq!(order.len(), 30);
        for class in 0..3 {
            assert_eq!(order.iter().filter(|&&i| samples[i].label == class).count(), 10);
        }
        // The ten of the largest class are ten images.
        let mut large: Vec<usize> = order.iter().copied().filter(|&i| samples[i].label == 0).collect();
        large.sort_unstable();
        large.dedup();
        assert_eq!(large.len(), 10);
        assert_eq!(order, sampler.epoch(1, 0).concat());
    }

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
