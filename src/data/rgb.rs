//! A decoded image.

use std::borrow::Cow;

/// A decoded image, `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rgb {
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// Bytes of red, green and blue, `[height, width, 3]`.
    pub pixels: Vec<u8>,
}

impl Rgb {
    /// Returns the part (top, left, height, width) of the image. If it is the whole image, nothing is copied.
    ///
    /// # Panics
    /// The part reaches beyond the edge.
    pub fn crop(&self, [top, left, height, width]: [usize; 4]) -> Cow<'_, Rgb> {
        if [height, width] == [self.height, self.width] {
            return Cow::Borrowed(self);
        }
        let mut pixels = Vec::with_capacity(height * width * 3);
        for y in top..top + height {
            pixels.extend_from_slice(&self.pixels[(y * self.width + left) * 3..][..width * 3]);
        }
        Cow::Owned(Rgb { width, height, pixels })
    }
}
