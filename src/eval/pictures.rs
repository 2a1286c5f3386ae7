//! Pictures of ranked lists: a query and the gallery images nearest to it, framed green for a match and red for another person.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage, imageops};

use super::features_file::FeatureSet;
use super::report::Evaluation;
use crate::base::error::IoContext;
use crate::base::text::Shown;
use crate::data::{Interpolation, decode};
use crate::{Error, Result};

/// Largest number of gallery images in a picture.
const SHOWN: usize = 10;
/// Width and height of an image without its border, pixels.
const TILE: (u32, u32) = (96, 192);
const BORDER: u32 = 5;
const GAP: u32 = 6;
/// Height of the line with the ranks, pixels.
const LINE: u32 = 18;
/// Width and height of a dot of a digit, pixels.
const DOT: u32 = 2;
const WHITE: Rgb<u8> = Rgb([255, 255, 255]);
const TEXT: Rgb<u8> = Rgb([45, 51, 59]);
const QUERY: Rgb<u8> = Rgb([110, 119, 129]);
const MATCH: Rgb<u8> = Rgb([0, 158, 70]);
const OTHER: Rgb<u8> = Rgb([213, 40, 30]);
/// Digits of 3 x 5 dots; a row is three bits.
const DIGITS: [[u8; 5]; 10] = [
    [7, 5, 5, 5, 7],
    [2, 6, 2, 2, 7],
    [7, 1, 7, 4, 7],
    [7, 1, 7, 1, 7],
    [5, 5, 7, 1, 1],
    [7, 4, 7, 1, 7],
    [7, 4, 7, 5, 7],
    [7, 1, 1, 1, 1],
    [7, 5, 7, 5, 7],
    [7, 5, 7, 1, 7],
];

/// Writes a picture for each of the `chosen` queries to the new or empty folder `folder`, named after the query's image. Returns the
/// paths of the pictures.
///
/// # Errors
/// [`Error::FolderNotEmpty`]; images without paths ([`Error::Setting`]) or that cannot be decoded; [`Error::Io`].
pub(crate) fn draw(
    folder: &Path,
    evaluation: &Evaluation,
    query: &FeatureSet,
    gallery: &FeatureSet,
    chosen: &[usize],
) -> Result<Vec<PathBuf>> {
    check_folder(folder)?;
    if query.paths.is_empty() || gallery.paths.is_empty() {
        return Err(Error::Setting {
            setting: "`gallery-pictures`".into(),
            value: folder.shown().to_string(),
            reason: "the features have no image paths to draw: give labels with paths".into(),
        });
    }
    std::fs::create_dir_all(folder).at("create", folder)?;
    let mut taken = BTreeSet::new();
    let mut written = Vec::new();
    for &q in chosen {
        let items = evaluation.nearest(q, SHOWN)?;
        let mut picture = canvas(items.len() as u32 + 1);
        place(&mut picture, 0, &query.paths[q], QUERY, None)?;
        for (rank, (g, _)) in items.iter().enumerate() {
            let colour = if gallery.pids[*g] == query.pids[q] { MATCH } else { OTHER };
            place(&mut picture, rank as u32 + 1, &gallery.paths[*g], colour, Some(rank + 1))?;
        }
        let mut name = query.paths[q].file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // In lower case, because some file systems ignore case.
        while !taken.insert(name.to_lowercase()) {
            name = format!("{name}-{q}");
        }
        let path = folder.join(format!("{name}.png"));
        picture.save(&path).map_err(std::io::Error::other).at("write", &path)?;
        written.push(path);
    }
    Ok(written)
}

/// Checks that `folder` is empty or does not exist.
///
/// # Errors
/// [`Error::FolderNotEmpty`]; [`Error::Io`] where it is no folder.
pub(crate) fn check_folder(folder: &Path) -> Result<()> {
    if folder.exists() && std::fs::read_dir(folder).at("read", folder)?.next().is_some() {
        return Err(Error::FolderNotEmpty { path: folder.into() });
    }
    Ok(())
}

/// Returns the left edge of a column. A double gap separates the query from the gallery.
fn left(column: u32) -> u32 {
    GAP + column * (TILE.0 + 2 * BORDER + GAP) + if column > 0 { GAP } else { 0 }
}

fn canvas(columns: u32) -> RgbImage {
    RgbImage::from_pixel(left(columns), TILE.1 + 2 * BORDER + 2 * GAP + LINE, WHITE)
}

fn place(picture: &mut RgbImage, column: u32, path: &Path, colour: Rgb<u8>, rank: Option<usize>) -> Result<()> {
    let size = [TILE.1, TILE.0].map(|side| side as usize);
    let pixels = decode(path, true)?.resize(size, Interpolation::Bilinear).pixels;
    let image = RgbImage::from_raw(TILE.0, TILE.1, pixels).expect("resized to these sides");
    let (x, y) = (left(column), GAP + LINE);
    for dy in 0..TILE.1 + 2 * BORDER {
        for dx in 0..TILE.0 + 2 * BORDER {
            picture.put_pixel(x + dx, y + dy, colour);
        }
    }
    imageops::replace(picture, &image, i64::from(x + BORDER), i64::from(y + BORDER));
    if let Some(rank) = rank {
        write_number(picture, rank, x + BORDER, GAP);
    }
    Ok(())
}

fn write_number(picture: &mut RgbImage, number: usize, x: u32, y: u32) {
    for (place, digit) in number.to_string().bytes().enumerate() {
        let x = x + place as u32 * 4 * DOT;
        for (row, bits) in DIGITS[usize::from(digit - b'0')].iter().enumerate() {
            for column in (0..3).filter(|column| bits >> (2 - column) & 1 == 1) {
                for (dx, dy) in (0..DOT).flat_map(|dx| (0..DOT).map(move |dy| (dx, dy))) {
                    picture.put_pixel(x + column * DOT + dx, y + row as u32 * DOT + dy, TEXT);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Reporter;
    use crate::engine::device::Device;
    use crate::eval::ranking::RankingOptions;

    #[test]
    fn borders_tell_matches_from_others_and_the_same_camera_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let image = |name: &str| {
            let path = folder.path().join(name);
            RgbImage::from_pixel(8, 16, Rgb([9, 9, 200])).save(&path).unwrap();
            path
        };
        let query = FeatureSet {
            features: vec![0.0],
            dim: 1,
            pids: vec![1],
            camids: vec![1],
            paths: vec![image("0001_c1s1_q.png")],
        };
        // Same identity and camera (skipped), another person, a match.
        let gallery = FeatureSet {
            features: vec![0.1, 0.2, 0.3],
            dim: 1,
            pids: vec![1, 2, 1],
            camids: vec![1, 2, 2],
            paths: ["a.png", "b.png", "c.png"].map(image).to_vec(),
        };
        let evaluation =
            Evaluation::new(&query, &gallery, RankingOptions::default(), None, &Device::cpu(), &Reporter::silent())
                .unwrap();
        let out = folder.path().join("pictures");
        let written = draw(&out, &evaluation, &query, &gallery, &[0]).unwrap();
        assert_eq!(written, [out.join("0001_c1s1_q.png")]);
        let picture = image::open(&written[0]).unwrap().into_rgb8();
        assert_eq!(picture.width(), left(3));
        let border = |column: u32| *picture.get_pixel(left(column) + 1, GAP + LINE + 1);
        assert_eq!([border(0), border(1), border(2)], [QUERY, OTHER, MATCH]);
        assert_eq!(*picture.get_pixel(left(1) + BORDER + 40, GAP + LINE + BORDER + 90), Rgb([9, 9, 200]));
        // The one of rank 1 has its dot.
        assert_eq!(*picture.get_pixel(left(1) + BORDER + DOT, GAP), TEXT);
        let error = draw(&out, &evaluation, &query, &gallery, &[0]).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
    }
}
