//! From an image file to bytes of the network's size.

use std::io::Cursor;
use std::path::Path;

use image::ImageReader;

use crate::config::Interpolation;
use crate::{Error, Result};

/// Size of the network's input, and the filter of resizing to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    pub height: usize,
    pub width: usize,
    pub interpolation: Interpolation,
}

/// A decoded image, `[height, width, 3]`.
pub struct Rgb {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

/// Decodes a file to RGB; grey and palette images are expanded, alpha is dropped.
///
/// # Errors
/// The file cannot be read, or not decoded.
pub fn decode(path: &Path) -> Result<Rgb> {
    let bad = |reason: String| Error::Image { path: path.to_path_buf(), reason };
    let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    if is_truncated_jpeg(&bytes) {
        return Err(bad("the file ends within the picture".into()));
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| bad(e.to_string()))?;
    let image = reader.decode().map_err(|e| bad(e.to_string()))?.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        return Err(bad("it has no pixels".into()));
    }
    Ok(Rgb { width, height, pixels: image.into_raw() })
}

/// A JPEG without the marker of its end, which the decoder would fill up with grey. Within a scan, 0xFF is never followed by
/// the code of a marker, so what looks like one is one.
fn is_truncated_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    let (scan, end) = (last([0xFF, 0xDA]), last([0xFF, 0xD9]));
    bytes.starts_with(&[0xFF, 0xD8]) && end.is_none_or(|end| scan.is_some_and(|scan| scan > end))
}

impl Transform {
    /// Decodes and resizes to `[height, width, 3]` u8.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn load(&self, path: &Path) -> Result<Vec<u8>> {
        Ok(decode(path)?.resize([self.height, self.width], self.interpolation).pixels)
    }
}
