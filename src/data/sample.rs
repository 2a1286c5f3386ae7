//! An image with its class: in a file of its own, or one of many in a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::{Share, decode_with_share};
use super::rgb::Rgb;
use crate::Result;
use crate::base::text::Shown;

/// An image and its class.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Where the image is stored.
    pub image: ImageSource,
    /// Class, less than the number of classes.
    pub label: u32,
}

/// Where an image is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageSource {
    /// A file of its own.
    File(PathBuf),
    /// One of many images in memory.
    Packed {
        /// All images of the file.
        images: Arc<PackedImages>,
        /// Which of them it is, from 0.
        index: usize,
    },
}

/// Images of one size, read from one file.
#[derive(Debug, PartialEq)]
pub struct PackedImages {
    /// The file that they were read from.
    pub file: PathBuf,
    /// Height of each image, pixels.
    pub height: usize,
    /// Width of each image, pixels.
    pub width: usize,
    /// Number of channels: 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Bytes of all images, `[n, height, width, channels]`.
    pub pixels: Vec<u8>,
}

impl ImageSource {
    /// Decodes the image to RGB; `upright` as in [`decode`](super::decode). A decoded file comes with its share of the memory for
    /// decoding.
    ///
    /// # Errors
    /// As [`decode`](super::decode).
    pub fn decode(&self, upright: bool) -> Result<(Rgb, Option<Share>)> {
        match self {
            ImageSource::File(path) => decode_with_share(path, upright).map(|(image, share)| (image, Some(share))),
            ImageSource::Packed { images, index } => {
                let PackedImages { height, width, channels, .. } = **images;
                let len = height * width * channels;
                let stored = &images.pixels[index * len..][..len];
                let pixels = match channels {
                    1 => stored.iter().flat_map(|&grey| [grey; 3]).collect(),
                    _ => stored.to_vec(),
                };
                Ok((Rgb { width, height, pixels }, None))
            }
        }
    }

    /// Returns the name of the image: the path of its file, and its index if it is one of many: `test_batch.bin#17`.
    pub fn name(&self) -> String {
        self.named(self.file())
    }

    /// Returns the name relative to the folder `root`, if the file is there: it does not depend on where the data are.
    pub fn below(&self, root: &Path) -> String {
        self.named(self.file().strip_prefix(root).unwrap_or(self.file()))
    }

    fn named(&self, path: &Path) -> String {
        match self {
            ImageSource::File(_) => path.to_string_lossy().into_owned(),
            ImageSource::Packed { index, .. } => format!("{}#{index}", path.to_string_lossy()),
        }
    }

    /// Returns the file that has the image.
    pub fn file(&self) -> &Path {
        match self {
            ImageSource::File(path) => path,
            ImageSource::Packed { images, .. } => &images.file,
        }
    }
}

/// Writes [`ImageSource::name`] with control characters escaped.
impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name().shown())
    }
}
