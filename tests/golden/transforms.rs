//! Compares decoding, resizing and normalising with Pillow's results.

use std::path::Path;

use ptl::data::{AugmentParams, Crop, Interpolation, Rgb, Transform, decode};

use crate::support::{Checker, GoldenFile, files};

/// Visits every stored tensor `family.IMAGE` with its image and its key.
fn each(family: &str, visit: impl Fn(&mut Checker, &str, Rgb, &GoldenFile, &str)) {
    for path in files("transforms.safetensors") {
        let golden = GoldenFile::open(&path);
        let mut check = Checker::new(format!("{} {family}", path.display()));
        for key in golden.keys() {
            if let Some(image) = key.strip_prefix(family).and_then(|rest| rest.strip_prefix('.')) {
                let pixels =
                    decode(&path.with_file_name("images").join(image), false).unwrap_or_else(|e| panic!("{e}"));
                visit(&mut check, image, pixels, &golden, key);
            }
        }
    }
}

/// Returns the largest and the mean deviation, and the share of values that are equal.
fn deviation(got: &[u8], want: &[u8]) -> (u8, f64, f64) {
    assert_eq!(got.len(), want.len());
    let differences = || got.iter().zip(want).map(|(g, w)| g.abs_diff(*w));
    let count = got.len() as f64;
    (
        differences().max().unwrap_or(0),
        differences().map(f64::from).sum::<f64>() / count,
        differences().filter(|&d| d == 0).count() as f64 / count,
    )
}

#[test]
fn decoding() {
    each("decoded", |check, image, pixels, golden, key| {
        let shape = golden.shape(key);
        check.that([pixels.height, pixels.width, 3] == *shape, || {
            format!("{image}: {}x{}", pixels.height, pixels.width)
        });
        let (worst, mean, _) = deviation(&pixels.pixels, &golden.u8(key));
        // PNG is exact. JPEG decoders round differently, and 4:2:0 is upsampled in ways of their own.
        let holds = match Path::new(image).extension().and_then(|e| e.to_str()) {
            Some("png") => worst == 0,
            _ if image.contains("444") || image.contains("gray") => worst <= 2,
            _ => mean < 1.5,
        };
        check.that(holds, || format!("{image}: off by up to {worst}, {mean:.3} on average"));
    });
}

/// Compares resized images. The golden data have the recipe of Pillow before 13, as this crate has: no pixel differs.
fn resized(family: &str, resize: impl Fn(&Rgb) -> Rgb) {
    each(family, |check, image, pixels, golden, key| {
        let out = resize(&pixels);
        check.that([out.height, out.width, 3] == *golden.shape(key), || {
            format!("{image}: {}x{}", out.height, out.width)
        });
        let (worst, _, exact) = deviation(&out.pixels, &golden.u8(key));
        check.that(worst == 0, || format!("{image}: off by up to {worst}, {exact:.4} of the values are equal"));
    });
}

#[test]
fn enlarging_and_shrinking_bicubically() {
    resized("bicubic40x24", |image| image.resize([40, 24], Interpolation::Bicubic));
    if std::env::var_os("PTL_GOLDEN").is_some() {
        resized_in_full("bicubic384x128", [384, 128], Interpolation::Bicubic);
        resized_in_full("bilinear256x128", [256, 128], Interpolation::Bilinear);
    }
}

/// Compares families that are too large for `tests/fixtures/golden`.
fn resized_in_full(family: &str, size: [usize; 2], interpolation: Interpolation) {
    let path = Path::new(&std::env::var_os("PTL_GOLDEN").expect("checked")).join("transforms.safetensors");
    let golden = GoldenFile::open(&path);
    let mut compared = 0;
    for key in golden.keys() {
        let Some(image) = key.strip_prefix(family).and_then(|rest| rest.strip_prefix('.')) else { continue };
        let out = decode(&path.with_file_name("images").join(image), false).unwrap().resize(size, interpolation);
        let (worst, _, exact) = deviation(&out.pixels, &golden.u8(key));
        assert_eq!(worst, 0, "{key}: {exact:.4} of the values are equal");
        compared += 1;
    }
    assert!(compared > 0, "no {family} in {}", path.display());
}

#[test]
fn the_middle_of_the_resized_image() {
    // The shorter side becomes 48 / 0.75 = 64 pixels.
    let center =
        Transform { crop: Crop::Center, crop_share: 0.75, ..Transform::squeeze([48, 48], Interpolation::Bilinear) };
    resized("resize64short_center48", |image| center.fixed(image));
}

fn normalised(image: &Rgb, mirror: bool) -> Vec<f32> {
    let pixels = image.resize([384, 128], Interpolation::Bicubic).pixels;
    let mut out = vec![0.0; pixels.len()];
    AugmentParams { mirror, ..AugmentParams::default() }.apply(&pixels, [384, 128], &mut out);
    out
}

/// Returns every eighth row and column, `[3, 48, 16]`.
fn every_eighth(image: &[f32]) -> Vec<f32> {
    let at = |c: usize, y: usize, x: usize| image[(8 * y * 128 + 8 * x) * 3 + c];
    (0..3).flat_map(|c| (0..48).flat_map(move |y| (0..16).map(move |x| at(c, y, x)))).collect()
}

#[test]
fn normalising_and_mirroring() {
    for (family, mirror) in [("norm.sub8", false), ("hflip.sub8", true)] {
        each(family, |check, image, pixels, golden, key| {
            let out = every_eighth(&normalised(&pixels, mirror));
            check.close_absolute(image, &out, &golden.f32(key), 1e-6);
        });
    }
    each("norm.stats", |check, image, pixels, golden, key| {
        let out: Vec<f64> = normalised(&pixels, false).into_iter().map(f64::from).collect();
        let mean = out.iter().sum::<f64>() / out.len() as f64;
        let variance = out.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (out.len() - 1) as f64;
        let (min, max) = out.iter().fold((f64::MAX, f64::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        check.close_absolute(image, &[mean, variance.sqrt(), min, max], &golden.f32(key), 1e-5);
    });
}
