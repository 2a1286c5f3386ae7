//! Checks distances and re-ranking of random features, in every variant.

use rand::RngExt;

use super::{Check, deviation};
use crate::Result;
use crate::base::rng::{Purpose, stream};
use crate::engine::device::Device;
use crate::eval::rerank::{RerankOptions, RerankVariant};
use crate::eval::reranked_distances;

const QUERIES: usize = 37;
const GALLERY: usize = 150;
const DIM: usize = 65;

pub(super) fn run(device: &Device, seed: u64, visit: &mut dyn FnMut(&Check)) -> Result<()> {
    let mut rng = stream(seed, Purpose::Test, 4, 0);
    // Features around a few centres, so that neighbours are mutual.
    let centres: Vec<f32> = (0..9 * DIM).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut rows = |n: usize| -> Vec<f32> {
        (0..n * DIM).map(|i| centres[i / DIM % 9 * DIM + i % DIM] + rng.random_range(-0.6f32..0.6)).collect()
    };
    let (query, gallery) = (rows(QUERIES), rows(GALLERY));
    for variant in [RerankVariant::Ptl, RerankVariant::Zhong, RerankVariant::Torchreid] {
        let options = RerankOptions::new(variant);
        let [got, want] =
            [device, &Device::cpu()].map(|device| reranked_distances(&query, &gallery, DIM, options, device));
        let deviation = deviation(&got?, &want?);
        visit(&Check { name: format!("re-ranked distances, {variant:?}"), deviation, allowed: 1e-4 });
    }
    Ok(())
}
