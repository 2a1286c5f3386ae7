//! Pictures of images with heat maps over them.

use image::{Rgb as Pixel, RgbImage};

use crate::eval::occlusion::HeatMap;

/// Colours from a weak to the strongest fall.
const COLOURS: [[f64; 3]; 2] = [[255.0, 215.0, 0.0], [215.0, 0.0, 0.0]];
/// Share of the colour at the strongest fall.
const STRONGEST: f64 = 0.7;
/// A smaller fall is rounding.
const ROUNDING: f64 = 1e-6;

/// Returns the image, coloured where the score falls; the largest fall has the strongest colour.
pub(super) fn overlay(image: &RgbImage, map: &HeatMap) -> RgbImage {
    let mut image = image.clone();
    let largest = map.hottest();
    if largest < ROUNDING {
        return image;
    }
    let (width, height) = image.dimensions();
    for (x, y, Pixel(channels)) in image.enumerate_pixels_mut() {
        let middle = |at: u32, side: u32| (f64::from(at) + 0.5) / f64::from(side);
        let share = (map.at(middle(y, height), middle(x, width)) / largest).clamp(0.0, 1.0);
        let [weak, strong] = COLOURS;
        for (channel, value) in channels.iter_mut().enumerate() {
            let tint = weak[channel] + share * (strong[channel] - weak[channel]);
            let opacity = STRONGEST * share;
            *value = ((1.0 - opacity) * f64::from(*value) + opacity * tint).round() as u8;
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_is_coloured() {
        let grey = |map: &HeatMap| overlay(&RgbImage::from_pixel(40, 20, Pixel([100; 3])), map);
        let map = HeatMap { cells: [1, 2], falls: vec![-0.5, 0.25], score: 1.0, largest_fall: 0.5 };
        let image = grey(&map);
        assert_eq!(image.get_pixel(2, 10).0, [100; 3]);
        assert_eq!(image.get_pixel(38, 10).0, [181, 30, 30]);
        let nothing = HeatMap { falls: vec![-0.5, 1e-9], ..map };
        assert!(grey(&nothing).pixels().all(|pixel| pixel.0 == [100; 3]));
    }
}
