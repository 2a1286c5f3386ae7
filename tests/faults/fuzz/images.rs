//! Fuzzes images of every format that is read.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
use ptl::data::{Interpolation, Transform};

use super::{fixture, fuzz, written};

fn read(folder: &Path, bytes: &[u8]) -> ptl::Result<()> {
    let transform = Transform { upright: true, ..Transform::squeeze([12, 8], Interpolation::Bilinear) };
    let pixels = transform.load(&written(folder, "image", bytes))?;
    assert_eq!(pixels.len(), 3 * 12 * 8);
    Ok(())
}

/// Returns an image in colour, one in grey, and one with alpha where `format` has that.
fn seeds(format: ImageFormat) -> Vec<Vec<u8>> {
    let colour = DynamicImage::from(RgbImage::from_fn(23, 17, |x, y| {
        image::Rgb([(9 * x) as u8, (11 * y) as u8, (x * y) as u8])
    }));
    let alpha = DynamicImage::from(RgbaImage::from_pixel(9, 5, image::Rgba([9, 200, 30, 128])));
    let mut images = vec![DynamicImage::from(colour.to_luma8()), colour];
    if format != ImageFormat::Jpeg {
        images.push(alpha);
    }
    let encoded = |image: DynamicImage| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).map(|()| bytes.into_inner())
    };
    images.into_iter().map(encoded).collect::<Result<_, _>>().unwrap()
}

#[test]
fn jpeg_files() {
    let mut seeds = seeds(ImageFormat::Jpeg);
    seeds.push(fixture("fuzz/progressive-exif.jpg"));
    fuzz("jpeg", &seeds, read);
}

#[test]
fn png_files() {
    let mut seeds = seeds(ImageFormat::Png);
    seeds.push(fixture("fuzz/palette.png"));
    fuzz("png", &seeds, read);
    fuzz("png-checksums", &seeds, |folder, bytes| read(folder, &with_checksums(bytes)));
}

/// Returns a PNG file whose chunks have correct checksums.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut fixed = bytes.to_vec();
    let mut at = 8;
    while let Some(head) = fixed.get(at..at + 8) {
        let len = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        let end = at + 8 + len;
        if fixed.len() < end + 4 {
            break;
        }
        let mut crc = flate2::Crc::new();
        crc.update(&fixed[at + 4..end]);
        fixed[end..end + 4].copy_from_slice(&crc.sum().to_be_bytes());
        at = end + 4;
    }
    fixed
}

#[test]
fn bmp_files() {
    fuzz("bmp", &seeds(ImageFormat::Bmp), read);
}

#[test]
fn pnm_files() {
    let text = b"P3\n# a comment\n2 2 255\n1 2 3 4 5 6\n7 8 9 255 0 255\n".to_vec();
    fuzz("pnm", &[seeds(ImageFormat::Pnm), vec![text]].concat(), read);
}

#[test]
fn tiff_files() {
    fuzz("tiff", &["lzw.tif", "deflate.tif", "jpeg.tif"].map(|name| fixture(&format!("fuzz/{name}"))), read);
}

#[test]
fn gif_files() {
    fuzz("gif", &[fixture("fuzz/palette.gif")], read);
}

#[test]
fn webp_files() {
    fuzz("webp", &["lossy.webp", "lossless.webp"].map(|name| fixture(&format!("fuzz/{name}"))), read);
}
