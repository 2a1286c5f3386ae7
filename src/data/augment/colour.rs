//! Colour operations, byte for byte as in Pillow (`ImageEnhance`, `ImageOps`), on `[height, width, 3]` in place.

/// Returns the grey value of a pixel (ITU-R 601-2 in 16-bit fixed point).
fn grey(&[r, g, b]: &[u8; 3]) -> u8 {
    ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + 0x8000) >> 16) as u8
}

/// Interpolates from `from` (factor 0) to `to` (factor 1), rounded down; other factors extrapolate.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let (from, to) = (f32::from(from), f32::from(to));
    // `as` drops the fraction and saturates at 0 and 255.
    (from + factor * (to - from)) as u8
}

fn pixels_of(pixels: &mut [u8]) -> &mut [[u8; 3]] {
    pixels.as_chunks_mut::<3>().0
}

/// Replaces all values by a table.
fn look_up(pixels: &mut [u8], table: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|v| table(v as u8));
    pixels.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
}

/// Replaces the values of each channel by a table that is computed from its histogram.
fn look_up_channels(pixels: &mut [u8], table: impl Fn(&[usize; 256]) -> [u8; 256]) {
    let mut histograms = [[0; 256]; 3];
    for pixel in pixels_of(pixels).iter() {
        (0..3).for_each(|c| histograms[c][usize::from(pixel[c])] += 1);
    }
    let tables = histograms.each_ref().map(table);
    for pixel in pixels_of(pixels) {
        (0..3).for_each(|c| pixel[c] = tables[c][usize::from(pixel[c])]);
    }
}

/// Changes the brightness: factor 0 gives black, 1 the image itself.
pub(super) fn brightness(pixels: &mut [u8], factor: f32) {
    look_up(pixels, |v| blend(0, v, factor));
}

/// Changes the contrast: factor 0 gives the mean grey value everywhere, 1 the image itself.
pub(crate) fn contrast(pixels: &mut [u8], factor: f32) {
    let pixels_of = pixels.as_chunks::<3>().0;
    let sum: u64 = pixels_of.iter().map(|pixel| u64::from(grey(pixel))).sum();
    let mean = (sum as f64 / pixels_of.len() as f64 + 0.5) as u8;
    look_up(pixels, |v| blend(mean, v, factor));
}

/// Changes the saturation: factor 0 gives a grey image, 1 the image itself.
pub(crate) fn saturation(pixels: &mut [u8], factor: f32) {
    for pixel in pixels_of(pixels) {
        let grey = grey(pixel);
        pixel.iter_mut().for_each(|v| *v = blend(grey, *v, factor));
    }
}

/// Changes the sharpness: factor 0 gives the smoothed image (3x3, the middle with weight 5), 1 the image itself. Pixels at the edge stay.
pub(crate) fn sharpness(pixels: &mut [u8], [h, w]: [usize; 2], factor: f32) {
    let row = w * 3;
    let before = pixels.to_vec();
    for y in 1..h.saturating_sub(1) {
        for at in y * row + 3..((y + 1) * row).saturating_sub(3) {
            let around = |at: usize| [at - 3, at, at + 3].map(|at| u32::from(before[at])).iter().sum::<u32>();
            let sum = around(at - row) + around(at) + around(at + row) + 4 * u32::from(before[at]);
            // sum / 13, rounded; 13 is odd, so there are no halves.
            pixels[at] = blend(((2 * sum + 13) / 26) as u8, before[at], factor);
        }
    }
}

/// Rotates the hue by `turn` / 255 of the circle. The HSV values are bytes: their rounding changes colours a little even for 0.
pub(super) fn hue(pixels: &mut [u8], turn: u8) {
    for pixel in pixels_of(pixels) {
        let [h, s, v] = to_hsv(*pixel);
        *pixel = to_rgb([h.wrapping_add(turn), s, v]);
    }
}

fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let span = f32::from(most - least);
    // How far each channel is below the largest one.
    let [below_r, below_g, below_b] = [r, g, b].map(|v| f32::from(most - v) / span);
    let sixths = if r == most {
        below_b - below_g
    } else if g == most {
        (2.0 + f64::from(below_r) - f64::from(below_b)) as f32
    } else {
        (4.0 + f64::from(below_g) - f64::from(below_r)) as f32
    };
    let h = ((f64::from(sixths) / 6.0 + 1.0) % 1.0) as f32;
    let s = span / f32::from(most);
    [(f64::from(h) * 255.0) as u8, (f64::from(s) * 255.0) as u8, most]
}

fn to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sixths = f64::from(h) * 6.0 / 255.0;
    let sector = sixths.floor();
    let (within, s) = ((sixths - sector) as f32, (f64::from(s) / 255.0) as f32);
    let part = |less: f64| (f64::from(v) * (1.0 - less)).round() as u8;
    let least = part(f64::from(s));
    let falling = part(f64::from(s * within));
    let rising = part(f64::from(s) * (1.0 - f64::from(within)));
    match sector as u8 % 6 {
        0 => [v, rising, least],
        1 => [falling, v, least],
        2 => [least, v, rising],
        3 => [least, falling, v],
        4 => [rising, least, v],
        _ => [v, least, falling],
    }
}

/// Keeps the highest `bits` bits of each byte.
pub(crate) fn posterize(pixels: &mut [u8], bits: u32) {
    let mask = !((1u32 << (8 - bits)) - 1) as u8;
    look_up(pixels, |v| v & mask);
}

/// Inverts the values from `threshold` on.
pub(crate) fn solarize(pixels: &mut [u8], threshold: f64) {
    look_up(pixels, |v| if f64::from(v) < threshold { v } else { 255 - v });
}

/// Stretches each channel so that it reaches from 0 to 255.
pub(crate) fn auto_contrast(pixels: &mut [u8]) {
    look_up_channels(pixels, |histogram| {
        let least = histogram.iter().position(|&n| n > 0).unwrap_or(0);
        let most = histogram.iter().rposition(|&n| n > 0).unwrap_or(0);
        if most <= least {
            return std::array::from_fn(|v| v as u8);
        }
        let scale = 255.0 / (most - least) as f64;
        let offset = -(least as f64) * scale;
        std::array::from_fn(|v| (v as f64 * scale + offset) as u8)
    });
}

/// Spreads the values of each channel so that all are about as frequent.
pub(crate) fn equalize(pixels: &mut [u8]) {
    look_up_channels(pixels, |histogram| {
        let greatest = histogram.iter().rfind(|&&n| n > 0).copied().unwrap_or(0);
        // If all pixels have one value, this is 0 too.
        let step = (histogram.iter().sum::<usize>() - greatest) / 255;
        if step == 0 {
            return std::array::from_fn(|v| v as u8);
        }
        let mut below = step / 2;
        std::array::from_fn(|v| {
            let value = (below / step).min(255) as u8;
            below += histogram[v];
            value
        })
    });
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A mixed, an orange, a white and a blue pixel; their grey values are 18, 118, 255 and 73, with the mean 116.
    const FOUR: [u8; 12] = [10, 20, 30, 200, 100, 0, 255, 255, 255, 0, 90, 180];

    /// Returns a checksum of the image [`noise`] after `change`: the sum of each byte times (its place modulo 97, plus 1).
    pub(crate) fn sum_after(change: impl FnOnce(&mut [u8])) -> u64 {
        let mut pixels = noise();
        change(&mut pixels);
        pixels.iter().enumerate().map(|(i, &v)| u64::from(v) * (i as u64 % 97 + 1)).sum()
    }

    pub(crate) const SIZE: [usize; 2] = [37, 23];

    fn noise() -> Vec<u8> {
        (0..37 * 23 * 3).map(|i: u64| ((i * 2_654_435_761) >> 7) as u8).collect()
    }

    fn changed(change: impl FnOnce(&mut [u8])) -> [u8; 12] {
        let mut pixels = FOUR;
        change(&mut pixels);
        pixels
    }

    #[test]
    fn blends_with_black_with_the_mean_and_with_grey() {
        assert_eq!(changed(|p| brightness(p, 0.5)), [5, 10, 15, 100, 50, 0, 127, 127, 127, 0, 45, 90]);
        assert_eq!(changed(|p| brightness(p, 1.5)), [15, 30, 45, 255, 150, 0, 255, 255, 255, 0, 135, 255]);
        // (18 + 118 + 255 + 73) / 4 = 116; half-way from 116 to 10 is 63.
        assert_eq!(changed(|p| contrast(p, 0.5)), [63, 68, 73, 158, 108, 58, 185, 185, 185, 58, 103, 148]);
        assert_eq!(changed(|p| contrast(p, 1.5)), [0, 0, 0, 242, 92, 0, 255, 255, 255, 0, 77, 212]);
        // Half-way from 18 to 10 is 14, from 118 to 200 is 159.
        assert_eq!(changed(|p| saturation(p, 0.5)), [14, 19, 24, 159, 109, 59, 255, 255, 255, 36, 81, 126]);
        assert_eq!(changed(|p| saturation(p, 1.5)), [6, 21, 36, 241, 91, 0, 255, 255, 255, 0, 98, 233]);
        for change in [brightness, contrast, saturation] {
            assert_eq!(changed(|p| change(p, 1.0)), FOUR);
        }
    }

    #[test]
    fn hues_turn_and_greys_stay() {
        assert_eq!(changed(|p| hue(p, 0)), [10, 20, 30, 200, 99, 0, 255, 255, 255, 0, 93, 180]);
        assert_eq!(changed(|p| hue(p, 63)), [29, 10, 30, 5, 200, 0, 255, 255, 255, 174, 0, 180]);
        // A third of the circle: red is green.
        let mut red = [255, 0, 0];
        hue(&mut red, 85);
        assert_eq!(red, [0, 255, 0]);
    }

    #[test]
    fn sharpening_leaves_the_edge_and_moves_away_from_the_smooth_image() {
        // One bright pixel: smoothed it is 5 · 130 / 13 = 50, its neighbour beside it within the edge 10.
        let mut pixels = [[0u8; 3]; 12];
        pixels[5] = [130; 3];
        let mut image = pixels.as_flattened().to_vec();
        sharpness(&mut image, [3, 4], 0.0);
        let values: Vec<u8> = image.iter().copied().step_by(3).collect();
        assert_eq!(values, [0, 0, 0, 0, 0, 50, 10, 0, 0, 0, 0, 0]);
        let mut image = pixels.as_flattened().to_vec();
        sharpness(&mut image, [3, 4], 1.5);
        // 50 + 1.5 · 80 = 170, 10 - 1.5 · 10 < 0.
        assert_eq!(image.iter().copied().step_by(3).collect::<Vec<u8>>()[4..8], [0, 170, 0, 0]);
        for size in [[1, 4], [4, 1], [2, 2], [1, 1]] {
            let mut image = FOUR[..size[0] * size[1] * 3].to_vec();
            sharpness(&mut image, size, 1.9);
            assert_eq!(image, FOUR[..image.len()]);
        }
    }

    #[test]
    fn values_through_tables() {
        assert_eq!(changed(|p| posterize(p, 4)), [0, 16, 16, 192, 96, 0, 240, 240, 240, 0, 80, 176]);
        assert_eq!(changed(|p| posterize(p, 8)), FOUR);
        assert_eq!(changed(|p| solarize(p, 127.5)), [10, 20, 30, 55, 100, 0, 0, 0, 0, 0, 90, 75]);
        // Green lies from 20 to 255: 90 becomes (90 - 20) · 255 / 235 = 75.9, cut off.
        assert_eq!(changed(auto_contrast), [10, 0, 30, 200, 86, 0, 255, 254, 255, 0, 75, 180]);
        let mut plain = [7; 12];
        auto_contrast(&mut plain);
        equalize(&mut plain);
        assert_eq!(plain, [7; 12]);
    }

    #[test]
    fn equal_frequencies() {
        // 510 pixels of 10 and 510 of 20: a step of 510 / 255 = 2. 10 becomes 1 / 2 = 0, 20 becomes (1 + 510) / 2 = 255.
        let mut pixels: Vec<u8> = [10, 20].iter().flat_map(|&v| vec![v; 510 * 3]).collect();
        equalize(&mut pixels);
        assert_eq!((pixels[0], pixels[510 * 3 - 1], pixels[510 * 3]), (0, 0, 255));
        // Fewer than 255 below the greatest value: nothing to spread.
        assert_eq!(changed(equalize), FOUR);
    }

    /// Sums that Pillow gives for the same noise.
    #[test]
    fn noise_changes_as_in_pillow() {
        for (factor, want) in [
            (0.1, [1_527_860, 15_820_678, 15_777_139, 15_801_223]),
            (0.73, [11_495_828, 15_783_236, 15_790_666, 15_784_635]),
            (1.9, [23_272_867, 15_790_101, 15_581_341, 15_835_423]),
        ] {
            let got = [
                sum_after(|p| brightness(p, factor)),
                sum_after(|p| contrast(p, factor)),
                sum_after(|p| saturation(p, factor)),
                sum_after(|p| sharpness(p, SIZE, factor)),
            ];
            assert_eq!(got, want, "{factor}");
        }
        // -127, -25, 0, 63 and 127 of 255.
        let turns = [129, 231, 0, 63, 127].map(|turn| sum_after(|p| hue(p, turn)));
        assert_eq!(turns, [15_703_779, 15_355_968, 15_834_353, 15_300_540, 15_802_127]);
        let tables = [
            sum_after(|p| posterize(p, 5)),
            sum_after(|p| solarize(p, 178.5)),
            sum_after(auto_contrast),
            sum_after(equalize),
        ];
        assert_eq!(tables, [15_392_488, 9_149_649, 15_830_710, 17_363_281]);
    }
}
