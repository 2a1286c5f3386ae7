//! Heat maps of an image: what a network's output loses where a part of the image is covered (Zeiler and Fergus, 2014, "Visualizing and
//! Understanding Convolutional Networks").
//!
//! A patch of the image's mean colour is laid over the image at every place of a grid, and the output is computed for each. A map shows how
//! much a score, such as the similarity to another image, falls. This measures the whole network, whatever is in it: layers, latent states,
//! mirrored images.
//!
//! With [`EvalState::Normal`](crate::engine::latent_state::EvalState::Normal), each covered image starts from other random states, and falls
//! contain their noise.

use std::sync::Arc;

use super::Model;
use super::extract::Output;
use crate::Result;
use crate::base::progress::Reporter;
use crate::data::{ImageSource, Interpolation, PackedImages, Rgb, Sample};
use crate::engine::collective::Collective;

/// Cells along the shorter side of an image. A patch covers two by two.
const CELLS: usize = 6;
/// Largest number of cells along the longer side.
const MOST_CELLS: usize = 24;
/// An image is scaled down to this multiple of the network's input before it is covered.
const OVERSIZE: f64 = 2.0;
/// Bytes that all covered copies of an image may take; it is scaled down further if they would take more.
const MOST_BYTES: f64 = (64 << 20) as f64;

/// The outputs for an image, whole and covered.
#[derive(Clone, Debug)]
pub struct Covered {
    /// Cells of the grid, [rows, columns].
    cells: [usize; 2],
    dim: usize,
    /// `[1 + places, dim]`: first of the whole image, then of each place of the patch, row by row.
    outputs: Vec<f32>,
}

/// How much a score falls where the image is covered.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// Cells of the grid, [rows, columns].
    pub cells: [usize; 2],
    /// For each cell, row by row, the mean fall of the score over the patches that cover it. It is negative where the score rises.
    pub falls: Vec<f64>,
    /// The score of the whole image.
    pub score: f64,
    /// The largest fall by a single patch; at least 0.
    pub largest_fall: f64,
}

impl Model<'_> {
    /// Computes `output` for `image` as it is, and for each place where a patch covers it.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn cover(&mut self, image: &ImageSource, output: Output) -> Result<Covered> {
        let transform = self.options.transform;
        let (whole, share) = image.decode(transform.upright)?;
        let whole = scaled_down(whole, [transform.height, transform.width]);
        drop(share);
        let (height, width) = (whole.height, whole.width);
        let cells = grid([height, width]);
        let mean = mean_colour(&whole);
        let mut pixels = whole.pixels.clone();
        places(cells).for_each(|place| pixels.extend(covered(&whole, mean, cells, place)));
        let count = 1 + places(cells).count();
        let mut options = self.options.clone();
        options.eval.batch = options.eval.batch.min(count);
        let images = PackedImages { file: image.file().to_path_buf(), height, width, channels: 3, pixels };
        let images = Arc::new(images);
        let sample = |index| Sample { image: ImageSource::Packed { images: images.clone(), index }, label: 0 };
        let silent = Reporter::silent();
        let mut model = Model {
            network: self.network,
            store: self.store,
            states: self.states,
            options,
            device: self.device,
            ranks: Collective::single(),
            reporter: &silent,
            stop: self.stop.clone(),
        };
        let (outputs, dim) = model.run((0..count).map(sample).collect(), output)?;
        Ok(Covered { cells, dim, outputs })
    }
}

impl Covered {
    /// Returns the output of the whole image.
    pub fn whole(&self) -> &[f32] {
        &self.outputs[..self.dim]
    }

    /// Returns the map of `score`, a function of an output.
    pub fn heat_map(&self, score: impl Fn(&[f32]) -> f64) -> HeatMap {
        let whole = score(self.whole());
        let [rows, columns] = self.cells;
        let mut sums = vec![(0.0, 0.0); rows * columns];
        let mut largest_fall: f64 = 0.0;
        for (place, output) in places(self.cells).zip(self.outputs.chunks_exact(self.dim).skip(1)) {
            let fall = whole - score(output);
            largest_fall = largest_fall.max(fall);
            for cell in cells_of(self.cells, place) {
                sums[cell].0 += fall;
                sums[cell].1 += 1.0;
            }
        }
        let falls = sums.iter().map(|(sum, patches)| sum / patches).collect();
        HeatMap { cells: self.cells, falls, score: whole, largest_fall }
    }
}

impl HeatMap {
    /// Returns the largest mean fall of a cell; at least 0.
    pub fn hottest(&self) -> f64 {
        self.falls.iter().copied().fold(0.0, f64::max)
    }

    /// Returns the fall at a point of the image, interpolated between the middles of the cells. `y` and `x` are shares of height and width.
    pub fn at(&self, y: f64, x: f64) -> f64 {
        let [rows, columns] = self.cells;
        let between = |share: f64, count: usize| {
            let place = (share * count as f64 - 0.5).clamp(0.0, (count - 1) as f64);
            let low = place.floor() as usize;
            (low, (low + 1).min(count - 1), place - place.floor())
        };
        let ((top, bottom, down), (left, right, across)) = (between(y, rows), between(x, columns));
        let fall = |row: usize, column: usize| self.falls[row * columns + column];
        let along = |row: usize| fall(row, left) + across * (fall(row, right) - fall(row, left));
        along(top) + down * (along(bottom) - along(top))
    }
}

/// Returns the number of cells, [rows, columns], for an image of this size.
fn grid(size: [usize; 2]) -> [usize; 2] {
    let shorter = size[0].min(size[1]);
    let cells = size.map(|side| (CELLS as f64 * side as f64 / shorter as f64).round() as usize);
    [0, 1].map(|axis| cells[axis].min(MOST_CELLS).min(size[axis]))
}

/// Returns the upper left cells, (row, column), of the places of the patch, row by row.
fn places([rows, columns]: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
    let count = |cells: usize| cells.saturating_sub(1).max(1);
    (0..count(rows)).flat_map(move |row| (0..count(columns)).map(move |column| [row, column]))
}

/// Returns the numbers of the cells that the patch covers.
fn cells_of([rows, columns]: [usize; 2], [row, column]: [usize; 2]) -> impl Iterator<Item = usize> {
    let across = column..(column + 2).min(columns);
    (row..(row + 2).min(rows)).flat_map(move |row| across.clone().map(move |column| row * columns + column))
}

/// Returns the mean colour of an image.
fn mean_colour(image: &Rgb) -> [u8; 3] {
    let count = image.pixels.len() / 3;
    [0, 1, 2].map(|channel| {
        let sum: u64 = image.pixels.iter().skip(channel).step_by(3).map(|&value| u64::from(value)).sum();
        (sum as f64 / count as f64).round() as u8
    })
}

/// Returns the pixels of an image with a patch of the colour `mean` at `place`.
fn covered(image: &Rgb, mean: [u8; 3], [rows, columns]: [usize; 2], [row, column]: [usize; 2]) -> Vec<u8> {
    let edge = |cell: usize, cells: usize, side: usize| cell.min(cells) * side / cells;
    let [top, bottom] = [row, row + 2].map(|cell| edge(cell, rows, image.height));
    let [left, right] = [column, column + 2].map(|cell| edge(cell, columns, image.width));
    let mut pixels = image.pixels.clone();
    for y in top..bottom {
        let line = &mut pixels[(y * image.width + left) * 3..(y * image.width + right) * 3];
        line.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&mean));
    }
    pixels
}

/// Scales an image down where both sides are far larger than the network's input, or where its covered copies would take too much memory.
fn scaled_down(image: Rgb, input: [usize; 2]) -> Rgb {
    let size = [image.height, image.width];
    let scales = [0, 1].map(|axis| OVERSIZE * input[axis] as f64 / size[axis] as f64);
    let copies = 1 + places(grid(size)).count();
    let fits = (MOST_BYTES / (copies * image.pixels.len()) as f64).sqrt();
    let scale = scales[0].max(scales[1]).min(fits);
    if scale >= 1.0 {
        return image;
    }
    image.resize(size.map(|side| ((side as f64 * scale).round() as usize).max(1)), Interpolation::Bilinear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_covered_and_a_map_finds_the_place_that_matters() {
        for size in [[256, 128], [64, 64], [1, 9], [9, 1], [3, 300], [1, 1]] {
            let cells = grid(size);
            let mut times = vec![0; cells[0] * cells[1]];
            places(cells).flat_map(|place| cells_of(cells, place)).for_each(|cell| times[cell] += 1);
            assert!(times.iter().all(|&times| times > 0), "{size:?}: {times:?}");
        }
        assert_eq!((grid([256, 128]), grid([100, 130]), grid([3, 300])), ([12, 6], [6, 8], [3, 24]));
        // The output is the sum of all bytes of an image that is white in cell (3, 1) of 12 x 6 and black elsewhere.
        let mut image = Rgb { width: 24, height: 48, pixels: vec![0; 48 * 24 * 3] };
        for y in 12..16 {
            image.pixels[(y * 24 + 4) * 3..(y * 24 + 8) * 3].fill(255);
        }
        let sum = |pixels: &[u8]| pixels.iter().map(|&byte| f32::from(byte)).sum::<f32>();
        let cells = grid([48, 24]);
        let outputs = std::iter::once(sum(&image.pixels))
            .chain(places(cells).map(|place| sum(&covered(&image, mean_colour(&image), cells, place))))
            .collect();
        let map = Covered { cells, dim: 1, outputs }.heat_map(|output| f64::from(output[0]));
        let hottest = (0..72).max_by(|&a, &b| map.falls[a].total_cmp(&map.falls[b])).unwrap();
        assert_eq!(hottest, 3 * 6 + 1);
        assert_eq!(map.score, 255.0 * 48.0);
        // All four patches over the cell take the white away; the mean colour, 255 / 72 = 4, comes instead, and falls nowhere else.
        assert!((map.falls[hottest] - (48.0 * 255.0 - 64.0 * 3.0 * 4.0)).abs() < 1e-3, "{map:?}");
        assert!(map.falls[71] < 0.0 && map.hottest() == map.falls[hottest]);
        assert!((map.largest_fall - map.hottest()).abs() < 1e-3, "the white cell lies in four patches alike");
        assert_eq!(map.at(3.5 / 12.0, 1.5 / 6.0), map.falls[hottest]);
        assert_eq!((map.at(0.0, 0.0), map.at(1.0, 1.0)), (map.falls[0], map.falls[71]));
    }

    #[test]
    fn large_images_are_scaled_down_before_they_are_covered() {
        let image = |height, width| Rgb { width, height, pixels: vec![7; height * width * 3] };
        let size = |image: Rgb| (image.height, image.width);
        assert_eq!(size(scaled_down(image(400, 100), [64, 32])), (256, 64));
        assert_eq!(size(scaled_down(image(100, 100), [64, 32])), (100, 100));
        assert_eq!(size(scaled_down(image(1000, 1000), [64, 64])), (128, 128));
        // 116 copies of 20000 x 300 pixels would take 2 GB.
        let (height, width) = size(scaled_down(image(20_000, 300), [256, 128]));
        assert!(116 * height * width * 3 < 65 << 20 && height > 10 * width, "{height} x {width}");
    }
}
