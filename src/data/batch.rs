//! What the loader hands over.

use rayon::prelude::*;

use super::Drawn;

/// A batch of images as bytes, with what shall happen to each: a quarter of what the network's input takes, and a GPU does
/// that part of the work itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Resized images, `[batch, height, width, 3]`.
    pub pixels: Vec<u8>,
    /// Height and width.
    pub size: [usize; 2],
    /// Augmentation of each image.
    pub drawn: Vec<Drawn>,
    /// Class of each image: the rank of its identity among the records'.
    pub labels: Vec<u32>,
    /// Which record each image is.
    pub indices: Vec<usize>,
}

impl Batch {
    /// Input of the network, `[batch, height, width, 3]` (of the length of `pixels`), augmented and normalised, into `out`.
    pub fn to_images(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.pixels.len(), "one value for each byte");
        let len = self.size[0] * self.size[1] * 3;
        let images = self.pixels.par_chunks_exact(len).zip(&self.drawn);
        out.par_chunks_exact_mut(len)
            .zip(images)
            .for_each(|(out, (pixels, drawn))| drawn.apply(pixels, self.size, out));
    }
}
