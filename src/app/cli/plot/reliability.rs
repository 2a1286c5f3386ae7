//! A reliability diagram: the accuracy in bins of the network's confidence, and the share of images in each bin.

use plotters::prelude::*;

use super::{Captions, PALETTE, QUIET, chart, head, mesh, padded, render};

/// Width and height in pixels.
const SIZE: (u32, u32) = (720, 760);
/// Height of the first of the two charts, in pixels.
const UPPER: u32 = 420;

/// The colour that fills a gap: that of its frame in the palette, but lighter.
const GAP: RGBColor = RGBColor(242, 190, 158);

/// A bin of images with similar confidence. All figures are in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ReliabilityBin {
    /// Share of all images.
    pub share: f64,
    /// Share of its images that are classified correctly.
    pub accuracy: f64,
    /// Mean confidence of its images.
    pub confidence: f64,
}

/// Draws a reliability diagram: `bins` are of equal width and cover confidences from 0 to 1.
pub(crate) fn reliability(title: &str, bins: &[ReliabilityBin]) -> String {
    let [accuracy, gap, images, ..] = PALETTE;
    let width = 100.0 / bins.len().max(1) as f64;
    let filled = || bins.iter().enumerate().filter(|(_, bin)| bin.share > 0.0);
    // Leaves some space between bars.
    let ends = |i: usize| (width * (i as f64 + 0.04), width * (i as f64 + 0.96));
    let bar = |i: usize, from: f64, to: f64, style: ShapeStyle| {
        let (left, right) = ends(i);
        Rectangle::new([(left, 100.0 * from.min(to)), (right, 100.0 * from.max(to))], style)
    };
    render(SIZE, |area| {
        let plot = head(area, title, &["accuracy", "gap to the mean confidence", "share of images"])?;
        let (upper, lower) = plot.split_vertically(UPPER);
        let mut upper = chart(&upper, 0.0..100.0, 0.0..100.0)?;
        mesh(&mut upper, Captions { title, x: "confidence (%)", y: "accuracy (%)" }, 10, &|x| format!("{x:.0}"))?;
        for (i, bin) in filled() {
            let (left, right) = ends(i);
            let top = vec![(left, 100.0 * bin.accuracy), (right, 100.0 * bin.accuracy)];
            // Where the network is underconfident, the gap covers the bar: a line marks the accuracy.
            upper.draw_series([
                bar(i, 0.0, bin.accuracy, accuracy.filled()),
                bar(i, bin.accuracy, bin.confidence, GAP.filled()),
                bar(i, bin.accuracy, bin.confidence, gap.stroke_width(1)),
            ])?;
            upper.draw_series([PathElement::new(top, accuracy.stroke_width(3))])?;
        }
        upper.draw_series([PathElement::new(vec![(0.0, 0.0), (100.0, 100.0)], QUIET.stroke_width(1))])?;
        let most = filled().map(|(_, bin)| 100.0 * bin.share).fold(0.0, f64::max);
        let mut lower = chart(&lower, 0.0..100.0, padded(Some((0.0, most))))?;
        mesh(&mut lower, Captions { title, x: "confidence (%)", y: "images (%)" }, 10, &|x| format!("{x:.0}"))?;
        lower.draw_series(filled().map(|(i, bin)| bar(i, 0.0, bin.share, images.filled())))?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_the_bins_that_have_images() {
        let bin = |share, accuracy, confidence| ReliabilityBin { share, accuracy, confidence };
        let draw = |bins: &[ReliabilityBin]| reliability("sure & right", bins);
        let svg = draw(&[bin(0.0, 0.0, 0.0), bin(0.25, 0.5, 0.4), bin(0.75, 0.8, 0.9)]);
        for text in ["sure &amp; right", "accuracy", "gap to the mean confidence", "share of images", "images (%)"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        // The legend has three, each bin with images accuracy, gap, its frame, and images; the background is one more.
        assert_eq!(svg.matches("<rect").count(), 1 + 3 + 2 * 4);
        assert!(draw(&[]).ends_with("</svg>\n") && !svg.contains("NaN"));
    }
}
