//! The weights that both programs start from.

use std::path::Path;

use ptl::engine::store::Store;
use ptl::io::checkpoint;

/// What the last batch normalisation of a residual block is scaled by.
const RESIDUAL: f32 = 0.2;

/// Scales the last batch normalisation of each residual block, whose weight is far below 1 in trained networks too. If it is 1, gradients
/// grow from block to block, and rounding decides what a step does: even two runs of PyTorch with different memory formats disagree.
fn settle(store: &mut Store) {
    let bottlenecks = store.params.iter().any(|param| param.name.ends_with("bn3.weight"));
    let last = if bottlenecks { "bn3.weight" } else { "bn2.weight" };
    let ranges: Vec<_> = store.params.iter().filter(|p| p.name.ends_with(last)).map(|p| p.range.clone()).collect();
    for range in ranges {
        store.values[range].iter_mut().for_each(|weight| *weight *= RESIDUAL);
    }
}

/// Settles the weights, and writes them with PyTorch's names.
pub fn settle_and_write(folder: &Path, store: &mut Store) {
    settle(store);
    let path = folder.join("weights.safetensors");
    checkpoint::write(&path, &checkpoint::state_dict(store), []).expect("a folder that can be written");
}
