//! Batches of images, which both programs read from one file.

use std::path::Path;

use ptl::data::{AugmentParams, Batch};
use ptl::io::checkpoint::File;

/// Reads a batch: `pixels` u8 `[n, h, w, 3]` and `labels` i64 `[n]`.
pub fn batch(folder: &Path) -> Batch {
    let file = File::open(&folder.join("inputs.safetensors")).expect("the file of inputs");
    let &[count, height, width, 3] = file.shape("pixels").expect("images").as_slice() else {
        panic!("images [n, h, w, 3]");
    };
    Batch {
        pixels: file.bytes("pixels").expect("images").into_owned(),
        size: [height, width],
        params: vec![AugmentParams::default(); count],
        labels: file.i64("labels").expect("labels").into_iter().map(|label| label as u32).collect(),
        indices: (0..count).collect(),
        mix: None,
    }
}
