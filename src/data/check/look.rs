//! What one decoding of an image tells: its size, and how it looks from afar.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::Item;
use crate::Error;
use crate::data::rgb::Rgb;

/// Sides of the grey thumbnail.
const SIDE: usize = 9;
/// Two images may look alike if at most this many of the 64 comparisons differ.
const COMPARISONS: u32 = 8;
/// An image is flat if the grey values of its thumbnail differ by no more than this. Then it has no picture to be compared.
const FLAT: u8 = 8;
/// Two images look alike if the grey values of their thumbnails differ by no more than this, on average and at most.
const GREY: (u32, u8) = (3, 24);

/// Size and looks of an image.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub width: usize,
    pub height: usize,
    /// Means of grey, `[9, 9]`.
    grey: [u8; SIDE * SIDE],
    /// Whether each of the 8x8 places is darker than the one to its right (Krawetz's difference hash).
    darker: u64,
}

impl Look {
    /// Looks at a decoded image.
    fn new(image: &Rgb) -> Look {
        let grey = thumbnail(image);
        let mut darker = 0;
        for y in 0..SIDE - 1 {
            for x in 0..SIDE - 1 {
                darker = darker << 1 | u64::from(grey[y * SIDE + x] < grey[y * SIDE + x + 1]);
            }
        }
        Look { width: image.width, height: image.height, grey, darker }
    }

    /// Returns whether the image is of one colour.
    pub(super) fn is_flat(&self) -> bool {
        let (darkest, brightest) = (self.grey.iter().min(), self.grey.iter().max());
        brightest.zip(darkest).is_none_or(|(bright, dark)| bright - dark <= FLAT)
    }

    /// Returns whether two images are nearly the same picture, whatever their sizes.
    pub(super) fn is_like(&self, other: &Look) -> bool {
        if (self.darker ^ other.darker).count_ones() > COMPARISONS {
            return false;
        }
        let differences = || self.grey.iter().zip(&other.grey).map(|(a, b)| a.abs_diff(*b));
        let sum: u32 = differences().map(u32::from).sum();
        sum <= GREY.0 * (SIDE * SIDE) as u32 && differences().all(|difference| difference <= GREY.1)
    }
}

/// Returns the means of grey over 9x9 parts of an image. Pixels on the edge of a part count with the share that lies in it.
fn thumbnail(image: &Rgb) -> [u8; SIDE * SIDE] {
    let (rows, columns) = (parts(image.height), parts(image.width));
    std::array::from_fn(|place| {
        let (rows, columns) = (&rows[place / SIDE], &columns[place % SIDE]);
        let grey = |y: usize, x: usize| -> f64 {
            image.pixels[3 * (y * image.width + x)..][..3].iter().map(|&value| f64::from(value)).sum()
        };
        let of_row = |y: usize| -> f64 { columns.iter().map(|&(x, share)| share * grey(y, x)).sum() };
        let sum: f64 = rows.iter().map(|&(y, share)| share * of_row(y)).sum();
        (sum / 3.0).round() as u8
    })
}

/// Divides `len` pixels into 9 parts. Returns the pixels of each, with their shares of it, which add up to 1.
fn parts(len: usize) -> [Vec<(usize, f64)>; SIDE] {
    let size = len as f64 / SIDE as f64;
    std::array::from_fn(|part| {
        let (start, end) = (part as f64 * size, (part + 1) as f64 * size);
        let overlap = |pixel: usize| (end.min((pixel + 1) as f64) - start.max(pixel as f64)).max(0.0) / size;
        (start as usize..(end.ceil() as usize).min(len)).map(|pixel| (pixel, overlap(pixel))).collect()
    })
}

/// Decodes each image once; `each` is called after every one. Returns its look, or why it cannot be decoded.
pub(super) fn looks(items: &[Item], upright: bool, each: &(dyn Fn() + Sync)) -> Vec<Result<Look, String>> {
    let look = |item: &Item| {
        let look = item.image.decode(upright).map(|(image, _share)| Look::new(&image));
        each();
        look.map_err(|error| match error {
            Error::Image { reason, .. } => reason,
            other => other.to_string(),
        })
    };
    items.par_iter().map(look).collect()
}

/// Images that are compared with all others at a time.
const AT_ONCE: usize = 256;

/// Returns the groups of images that look alike, each in ascending order: two images are in one group if they look alike, or if a chain of such
/// pairs leads from one to the other. Flat images are in no group.
pub(super) fn alike(looks: &[Result<Look, String>]) -> Vec<Vec<usize>> {
    let known: Vec<(usize, &Look)> = looks
        .iter()
        .enumerate()
        .filter_map(|(index, look)| Some((index, look.as_ref().ok()?)))
        .filter(|(_, look)| !look.is_flat())
        .collect();
    // Each image points to an earlier one of its group, or to itself.
    let mut earlier: Vec<usize> = (0..known.len()).collect();
    fn first_of(earlier: &mut [usize], mut image: usize) -> usize {
        while earlier[image] != image {
            earlier[image] = earlier[earlier[image]];
            image = earlier[image];
        }
        image
    }
    for start in (0..known.len()).step_by(AT_ONCE) {
        let of_first = |first: usize| -> Vec<usize> {
            (first + 1..known.len()).filter(|&other| known[first].1.is_like(known[other].1)).collect()
        };
        let rows: Vec<Vec<usize>> = (start..known.len().min(start + AT_ONCE)).into_par_iter().map(of_first).collect();
        for (first, others) in (start..).zip(rows) {
            for other in others {
                let (a, b) = (first_of(&mut earlier, first), first_of(&mut earlier, other));
                earlier[a.max(b)] = a.min(b);
            }
        }
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for image in 0..known.len() {
        groups.entry(first_of(&mut earlier, image)).or_default().push(known[image].0);
    }
    groups.into_values().filter(|group| group.len() > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws a disc of a colour on a gradient.
    fn picture(size: usize, x: f64, colour: u8) -> Rgb {
        let mut pixels = Vec::new();
        for row in 0..size {
            for column in 0..size {
                let place = |number: usize| (number as f64 + 0.5) / size as f64;
                let inside = (place(row) - 0.5).hypot(place(column) - x) < 0.3;
                let value = if inside { colour } else { (255.0 * place(column)) as u8 };
                pixels.extend([value; 3]);
            }
        }
        Rgb { width: size, height: size, pixels }
    }

    #[test]
    fn scaled_and_brighter_copies_look_alike_and_others_do_not() {
        let original = Look::new(&picture(90, 0.4, 10));
        assert!(original.is_like(&Look::new(&picture(45, 0.4, 10))));
        assert!(original.is_like(&Look::new(&picture(200, 0.4, 12))));
        assert!(!original.is_like(&Look::new(&picture(90, 0.6, 10))));
        assert!(!original.is_like(&Look::new(&picture(90, 0.4, 90))));
        let flat = |value: u8| Look::new(&Rgb { width: 5, height: 3, pixels: vec![value; 45] });
        assert!(flat(7).is_flat() && !original.is_flat());
        assert_eq!((flat(7).width, flat(7).height, flat(7).grey), (5, 3, [7; 81]));
    }

    #[test]
    fn parts_have_shares_of_pixels() {
        for len in [1, 5, 9, 10, 64, 1001] {
            for part in parts(len) {
                let sum: f64 = part.iter().map(|(_, share)| share).sum();
                assert!((sum - 1.0).abs() < 1e-9 && part.iter().all(|&(pixel, _)| pixel < len), "{len}: {part:?}");
            }
        }
        assert_eq!(parts(18)[8], [(16, 0.5), (17, 0.5)]);
    }

    #[test]
    fn groups_are_found_in_order() {
        let look = |x: f64| Ok(Look::new(&picture(64, x, 10)));
        let flat = || Ok(Look::new(&Rgb { width: 5, height: 3, pixels: vec![7; 45] }));
        let looks = [look(0.4), Err("broken".into()), look(0.6), look(0.4), flat(), flat(), look(0.6), look(0.4)];
        assert_eq!(alike(&looks), [vec![0, 3, 7], vec![2, 6]]);
        let many: Vec<_> = (0..600).map(|_| look(0.4)).collect();
        assert_eq!(alike(&many), [(0..600).collect::<Vec<_>>()]);
    }
}
