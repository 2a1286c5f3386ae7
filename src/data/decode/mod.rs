//! Decodes image files to pixels, within a budget of memory that all threads share.

mod budget;
mod foreign;
mod jpeg;
mod webp;

use std::io::Cursor;
use std::path::Path;

use image::error::UnsupportedErrorKind;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::rgb::Rgb;
use crate::base::input;
use crate::{Error, Result};
use budget::Budget;
pub(super) use budget::Share;

/// Bytes of the largest file.
const LARGEST_FILE: u64 = 512 << 20;
/// Bytes of the largest decoded image, before it becomes RGB.
const LARGEST_IMAGE: u64 = 512 << 20;
/// The largest possible number of decoded bytes for a byte of a file. Deflate makes at most 1032 bytes of one, and a bit of those may be
/// the index of a colour of three bytes.
const LARGEST_RATIO: u64 = 3 * 8 * 1032;

/// Decodes a file to RGB; its format is told by its content. Grey and palette images are expanded, alpha is dropped, and of several
/// pictures the first is taken. `upright` rotates and mirrors the image as its EXIF data say.
///
/// # Errors
/// The file cannot be read or decoded.
pub fn decode(path: &Path, upright: bool) -> Result<Rgb> {
    decode_with_share(path, upright).map(|(image, _)| image)
}

/// Decodes as [`decode`] does, and returns the image's share of the memory budget, too: hold it as long as the image.
///
/// # Errors
/// As [`decode`].
pub(super) fn decode_with_share(path: &Path, upright: bool) -> Result<(Rgb, Share)> {
    let bad = |reason: String| Error::Image { path: path.to_path_buf(), reason };
    let budget = Budget::of_process();
    let refuse = |needed: u64| {
        bad(format!(
            "decoding it takes {} MiB of memory, all images together have {} MiB: scale it down",
            needed.div_ceil(1 << 20),
            budget.total() >> 20
        ))
    };
    // First takes room for the file, then for decoding it. If the latter is not free, gives everything back before waiting.
    let mut needed = 0;
    loop {
        let leads_nowhere = || path.is_symlink() && !path.exists();
        let unopened = |e| bad(if leads_nowhere() { "it is a link that leads nowhere".into() } else { reason_of(e) });
        let opened = input::open(path).map_err(unopened)?;
        needed = needed.max(opened.1);
        if needed > budget.total() {
            return Err(refuse(needed));
        }
        let mut share = budget.take(needed);
        let bytes = input::read_opened(path, opened, LARGEST_FILE).map_err(|e| bad(reason_of(e)))?;
        let file = Opened::new(bytes).map_err(&bad)?;
        let (cost, rotated) = file.cost();
        needed = needed.max(cost);
        if needed > budget.total() {
            return Err(refuse(needed));
        }
        if !share.try_resize(needed) {
            continue;
        }
        let orientation = if upright { rotated } else { Orientation::NoTransforms };
        let image = file.decode(orientation).map_err(&bad)?;
        share.try_resize(image.pixels.len() as u64);
        return Ok((image, share));
    }
}

/// Returns the message of an error without the name of the file, which the caller adds.
fn reason_of(error: Error) -> String {
    match error {
        Error::Io { source, .. } => source.to_string(),
        Error::NotAFile { what, .. } => format!("it is {what}, not a file"),
        Error::FileTooLarge { limit, .. } => format!("it is larger than {} MiB", limit >> 20),
        other => other.to_string(),
    }
}

/// An image whose header has been read.
struct Opened {
    decoder: Box<dyn ImageDecoder>,
    orientation: Orientation,
    /// Bytes of the file.
    len: u64,
    /// Number of copies of the decoded image that the decoder holds.
    copies: u64,
}

impl Opened {
    /// Reads the header.
    ///
    /// # Errors
    /// The reason: the file is truncated, is no image, or claims more pixels than its bytes can contain.
    fn new(mut bytes: Vec<u8>) -> Result<Opened, String> {
        if let Some(reason) = foreign::reason(&bytes) {
            return Err(reason);
        }
        let len = bytes.len() as u64;
        let mut copies = 2;
        if jpeg::is_jpeg(&bytes) {
            // The decoder would fill missing parts with grey.
            let extent = jpeg::extent(&bytes).ok_or("the file ends within the picture")?;
            bytes.truncate(extent.len);
            // Coefficients have two bytes each, pixels one.
            copies = if extent.buffered { 3 } else { 1 };
        }
        if webp::is_webp(&bytes) && webp::is_cut_off(&bytes) {
            return Err("the file ends within one of its parts".into());
        }
        let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
        let mut limits = Limits::default();
        limits.max_alloc = Some(LARGEST_IMAGE);
        reader.limits(limits);
        let format = reader.format().ok_or("it is no image of a format that is read")?;
        let mut decoder = reader.into_decoder().map_err(reason)?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            return Err("it has no pixels".into());
        }
        let pixels = decoder.total_bytes();
        // A lossless WebP of one colour needs no byte for a pixel.
        if pixels > LARGEST_IMAGE || (format != ImageFormat::WebP && pixels / LARGEST_RATIO > len) {
            let sides = format!("its header claims {width}x{height} pixels");
            return Err(match pixels > LARGEST_IMAGE {
                true => format!("{sides}, more than {} MiB: scale it down", LARGEST_IMAGE >> 20),
                false => format!("{sides}, which its {len} bytes cannot hold"),
            });
        }
        // Broken EXIF data are ignored.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        Ok(Opened { decoder: Box::new(decoder), orientation, len, copies })
    }

    /// Returns how many bytes decoding takes at most, including the file, and the orientation of the image.
    fn cost(&self) -> (u64, Orientation) {
        let (width, height) = self.decoder.dimensions();
        let rgb = u64::from(width) * u64::from(height) * 3;
        let pixels = self.decoder.total_bytes();
        let decoding = pixels * self.copies + if pixels == rgb { 0 } else { rgb };
        // Rotating makes a second image, and some decoders copy the file.
        (2 * self.len + decoding.max(2 * rgb), self.orientation)
    }

    fn decode(self, orientation: Orientation) -> Result<Rgb, String> {
        let image = DynamicImage::from_decoder(self.decoder).map_err(reason)?.into_rgb8();
        let mut image = DynamicImage::ImageRgb8(image);
        image.apply_orientation(orientation);
        let image = image.into_rgb8();
        Ok(Rgb { width: image.width() as usize, height: image.height() as usize, pixels: image.into_raw() })
    }
}

fn reason(error: ImageError) -> String {
    if let ImageError::Unsupported(unsupported) = &error
        && let UnsupportedErrorKind::Color(color) = unsupported.kind()
    {
        let bits = color.bits_per_pixel();
        return format!("its pixels have {bits} bits in a form that is not read: convert it to 8 bits for each colour");
    }
    error.to_string()
}

#[cfg(test)]
mod tests;
