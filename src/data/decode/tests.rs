use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::{GrayImage, ImageEncoder, Luma};

use super::*;

/// Side of a block that stands for a pixel: JPEG does not keep smaller ones apart.
const BLOCK: u32 = 16;
/// Values of the blocks `a` to `f`.
const VALUES: [u8; 6] = [20, 60, 100, 140, 180, 220];

/// Returns an image of three blocks by two: `abc` over `def`.
fn blocks() -> GrayImage {
    GrayImage::from_fn(3 * BLOCK, 2 * BLOCK, |x, y| Luma([VALUES[(y / BLOCK * 3 + x / BLOCK) as usize]]))
}

/// Returns EXIF data with the orientation alone, in TIFF's own format.
fn exif(orientation: u16) -> Vec<u8> {
    let entry =
        [&0x112u16.to_le_bytes()[..], &3u16.to_le_bytes(), &1u32.to_le_bytes(), &orientation.to_le_bytes(), &[0; 2]];
    [&b"II*\0\x08\0\0\0\x01\0"[..], &entry.concat(), &[0; 4]].concat()
}

fn encoded(encoder: impl ImageEncoder, orientation: u16) {
    let mut encoder = encoder;
    encoder.set_exif_metadata(exif(orientation)).unwrap();
    let image = DynamicImage::ImageLuma8(blocks()).into_rgb8();
    encoder.write_image(image.as_raw(), image.width(), image.height(), image::ExtendedColorType::Rgb8).unwrap();
}

/// Returns an uncompressed grey TIFF with an orientation.
fn tiff(orientation: u16) -> Vec<u8> {
    let (width, height) = (3 * BLOCK, 2 * BLOCK);
    let tags: [(u16, u16, u32); 9] = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        // The pixels lie behind the header, the tags and the place of the next directory.
        (273, 4, 8 + 2 + 9 * 12 + 4),
        (274, 3, u32::from(orientation)),
        (278, 4, height),
        (279, 4, width * height),
    ];
    let entry = |(tag, kind, value): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &1u32.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let tags: Vec<u8> = tags.into_iter().flat_map(entry).collect();
    [&b"II*\0\x08\0\0\0\x09\0"[..], &tags, &[0; 4], blocks().as_raw()].concat()
}

/// Returns a file, with its ending, of each format that can store an orientation.
fn with_orientation(orientation: u16) -> [(&'static str, Vec<u8>); 4] {
    let [mut jpeg, mut png, mut webp] = [const { Vec::new() }; 3];
    encoded(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 95), orientation);
    encoded(image::codecs::png::PngEncoder::new(&mut png), orientation);
    encoded(image::codecs::webp::WebPEncoder::new_lossless(&mut webp), orientation);
    [("jpg", jpeg), ("png", png), ("webp", webp), ("tif", tiff(orientation))]
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    #[track_caller]
    fn refused(&self, name: &str, bytes: impl AsRef<[u8]>, part: &str) {
        let error = decode(&self.write(name, bytes), true).expect_err(name).to_string();
        assert!(error.contains(name) && error.contains(part), "{part:?} is not in: {error}");
    }
}

/// Returns the blocks as letters, row by row.
fn letters(image: &Rgb) -> Vec<String> {
    let block = BLOCK as usize;
    let letter = |x: usize, y: usize| {
        let at = ((y * block + block / 2) * image.width + x * block + block / 2) * 3;
        let value = i32::from(image.pixels[at]);
        let index = VALUES.iter().position(|&v| (i32::from(v) - value).abs() < 8).expect("one of the values");
        char::from(b'a' + index as u8)
    };
    (0..image.height / block).map(|y| (0..image.width / block).map(|x| letter(x, y)).collect()).collect()
}

#[test]
fn all_orientations_are_applied_in_every_format_that_has_them() {
    let folder = Folder::new();
    // By the standard: where the first row and the first column of the stored image are seen.
    let upright: [&[&str]; 8] = [
        &["abc", "def"],
        &["cba", "fed"],
        &["fed", "cba"],
        &["def", "abc"],
        &["ad", "be", "cf"],
        &["da", "eb", "fc"],
        &["fc", "eb", "da"],
        &["cf", "be", "ad"],
    ];
    for (orientation, want) in (1..).zip(upright) {
        for (ending, bytes) in with_orientation(orientation) {
            let path = folder.write(&format!("{orientation}.{ending}"), bytes);
            assert_eq!(letters(&decode(&path, true).unwrap()), want, "{}", path.display());
            assert_eq!(letters(&decode(&path, false).unwrap()), upright[0], "{}", path.display());
        }
    }
    // A value that is no orientation changes nothing.
    for (ending, bytes) in with_orientation(9) {
        assert_eq!(letters(&decode(&folder.write(&format!("9.{ending}"), bytes), true).unwrap()), upright[0]);
    }
}

#[test]
fn the_content_says_the_format_whatever_the_name() {
    let folder = Folder::new();
    let mut gif = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut gif);
    let frames = [blocks(), GrayImage::from_pixel(3 * BLOCK, 2 * BLOCK, Luma([20]))];
    let frame = |image: GrayImage| image::Frame::new(DynamicImage::ImageLuma8(image).into_rgba8());
    encoder.encode_frames(frames.into_iter().map(frame)).unwrap();
    drop(encoder);
    let files = with_orientation(1).into_iter().chain([("gif", gif)]);
    for (ending, bytes) in files {
        for name in [format!("as.{ending}"), format!("{ending}.PNG"), format!("{ending}-without")] {
            assert_eq!(letters(&decode(&folder.write(&name, &bytes), true).unwrap()), ["abc", "def"], "{name}");
        }
    }
}

#[test]
fn what_stands_behind_a_jpeg_does_not_matter_and_what_lacks_does() {
    let folder = Folder::new();
    let [(_, jpeg), ..] = with_orientation(6);
    let want = decode(&folder.write("ok.jpg", &jpeg), true).unwrap();
    let film = [&jpeg[..], b"\0\0\0\x18ftypmp42 \xff\xda\xff\xd8 film \xff"].concat();
    assert_eq!(decode(&folder.write("PXL.MP.jpg", film), true).unwrap(), want);
    let pair = [&jpeg[..], &jpeg[..jpeg.len() / 2]].concat();
    assert_eq!(decode(&folder.write("pair.jpg", pair), true).unwrap(), want);
    for lacking in [1, 2, 3, 10, 100] {
        folder.refused("short.jpg", &jpeg[..jpeg.len() - lacking], "the file ends within the picture");
    }
}

#[test]
fn other_files_are_named_with_the_way_out() {
    let folder = Folder::new();
    for (name, bytes, part) in [
        ("a.jpg", &b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"[..], "git lfs pull"),
        ("b.jpg", b"\0\0\0\x20ftypheic\0\0\0\0", "format HEIC, which is not read"),
        ("c.png", b"\0\0\0\x20ftypavif\0\0\0\0", "format AVIF"),
        ("d.png", b"<?xml version=\"1.0\"?>\n<svg/>", "format SVG"),
        ("e.jpg", b"  <!DOCTYPE html>", "a web page"),
        ("f.jpg", b"8BPS\0\x01", "format PSD"),
        ("g.jpg", b"", "it is empty"),
        ("h.jpg", b"hello there", "no image of a format that is read"),
    ] {
        folder.refused(name, bytes, part);
    }
    let error = decode(&folder.0.path().join("none.jpg"), true).unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_refused_at_once() {
    let folder = Folder::new();
    let pipe = folder.0.path().join("pipe.jpg");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = decode(&pipe, true).unwrap_err().to_string();
    assert!(error.ends_with("it is a pipe, not a file"), "{error}");
    let zero = folder.0.path().join("zero.jpg");
    std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
    let error = decode(&zero, true).unwrap_err().to_string();
    assert!(error.ends_with("it is a device, not a file"), "{error}");
}

#[test]
fn headers_that_claim_more_than_the_file_can_hold_are_refused() {
    let folder = Folder::new();
    // The header of a bitmap whose 20,000 x 5,000 pixels are not there, and one larger than any.
    let bitmap = |width: u32, height: u32| {
        let (width, height) = (width.to_le_bytes(), height.to_le_bytes());
        [&b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"[..], &width, &height, b"\x01\0\x18\0", &[0; 24]].concat()
    };
    folder.refused(
        "a.bmp",
        bitmap(20_000, 5_000),
        "its header claims 20000x5000 pixels, which its 54 bytes cannot hold",
    );
    folder.refused("b.bmp", bitmap(60_000, 60_000), "claims 60000x60000 pixels, more than 512 MiB");
}

#[test]
fn an_image_that_needs_more_than_all_may_take_is_refused() {
    let folder = Folder::new();
    // 15,000 x 11,000 pixels are 472 MiB, and to turn them takes as much again.
    let image = image::RgbImage::new(15_000, 11_000);
    let path = folder.0.path().join("large.png");
    image.save(&path).unwrap();
    let error = decode(&path, true).unwrap_err().to_string();
    assert!(error.contains("MiB of memory, all images together have") && error.contains("scale it down"), "{error}");
}

#[test]
fn threads_that_decode_share_one_budget() {
    let folder = Folder::new();
    // Each takes 2 x 3 x 400 x 300 bytes.
    let path = folder.0.path().join("a.png");
    image::RgbImage::from_pixel(400, 300, image::Rgb([1, 2, 3])).save(&path).unwrap();
    let budget = Budget::of_process();
    let all_but_one = budget.take(budget.total() - 800_000);
    let decoded = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let decode = || {
            let (image, share) = decode_with_share(&path, true).unwrap();
            assert_eq!((image.width, image.pixels[3]), (400, 1));
            decoded.fetch_add(1, Ordering::SeqCst);
            share
        };
        // The first one has room, and keeps what its pixels take: there is none for the second.
        let first = decode();
        let second = scope.spawn(decode);
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(decoded.load(Ordering::SeqCst), 1);
        drop((all_but_one, first));
        drop(second.join().unwrap());
    });
    assert_eq!(decoded.into_inner(), 2);
}
