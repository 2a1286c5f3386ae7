//! Random numbers that both programs read from one file: each tensor is a stretch of them, which begins again at the start when they end.

use std::path::Path;

use ptl::io::checkpoint::File;

/// Numbers from [-1, 1).
pub struct Pool(Vec<f32>);

/// Elements between the starts of two tensors; the other program has the same.
const STEP: usize = 1_000_003;

impl Pool {
    /// Reads the numbers.
    pub fn open(folder: &Path) -> Pool {
        let file = File::open(&folder.join("inputs.safetensors")).expect("the file of inputs");
        Pool(file.f32("pool").expect("random numbers"))
    }

    /// Returns `len` numbers for tensor number `tensor`, times `scale`.
    pub fn take(&self, tensor: usize, len: usize, scale: f32) -> Vec<f32> {
        let start = tensor * STEP % self.0.len();
        self.0[start..].iter().chain(self.0.iter().cycle()).take(len).map(|v| v * scale).collect()
    }
}
