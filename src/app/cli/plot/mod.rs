//! Charts as SVG: curves, bars that compare arms, confusion matrices, reliability diagrams. The viewer renders the text, so no font is
//! needed here.

mod heat_map;
mod reliability;

pub(crate) use heat_map::{HeatMap, heat_map};
pub(crate) use reliability::ReliabilityBin;
pub(super) use reliability::reliability;

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::base::report::MeanStd;
use crate::base::text::Shown;

/// Width and height in pixels.
const SIZE: (u32, u32) = (880, 500);
/// Height of the title and a legend of one line together, in pixels.
const HEAD: u32 = 84;
/// Height of each further line of a legend, in pixels.
const LINE: u32 = 22;
/// Largest number of characters of a name in a legend.
const LONGEST: usize = 80;
/// Left edge of title and legend, in pixels.
const LEFT: i32 = 24;
const TEXT: RGBColor = RGBColor(45, 51, 59);
const QUIET: RGBColor = RGBColor(110, 119, 129);
const GRID: RGBColor = RGBColor(226, 229, 233);
/// The palette of Okabe and Ito, which colour-blind readers can distinguish, without its yellow.
const PALETTE: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(130, 130, 130),
];

/// The texts of a chart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Captions<'a> {
    /// Title of the chart.
    pub title: &'a str,
    /// Name of the horizontal axis.
    pub x: &'a str,
    /// Name of the vertical axis.
    pub y: &'a str,
}

/// One line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// Name in the legend.
    pub name: String,
    /// (x, y). The line is interrupted where y is not finite.
    pub points: Vec<(f64, f64)>,
}

/// One colour of a bar chart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arm {
    /// Name in the legend.
    pub name: String,
    /// One value for each group; a standard deviation is drawn as an error bar.
    pub values: Vec<MeanStd>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws a line chart.
pub(super) fn curves(captions: Captions, series: &[Series]) -> String {
    let finite = || series.iter().flat_map(|s| &s.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let x_range = extent(finite().map(|p| p.0)).unwrap_or((0.0, 1.0));
    let x_range = if x_range.0 < x_range.1 { x_range.0..x_range.1 } else { x_range.0 - 0.5..x_range.1 + 0.5 };
    let y_range = padded(extent(finite().map(|p| p.1)));
    let names: Vec<&str> = series.iter().map(|s| s.name.as_str()).collect();
    render(SIZE, |area| {
        let plot = head(area, captions.title, &names)?;
        let mut chart = chart(&plot, x_range.clone(), y_range.clone())?;
        mesh(&mut chart, captions, 10, &|x| number(*x))?;
        for (series, color) in series.iter().zip(PALETTE.iter().cycle()) {
            let pieces = series.points.split(|(x, y)| !(x.is_finite() && y.is_finite()));
            for piece in pieces.filter(|piece| !piece.is_empty()) {
                chart.draw_series([PathElement::new(piece.to_vec(), color.stroke_width(2))])?;
                if series.points.len() <= 40 || piece.len() == 1 {
                    chart.draw_series(piece.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
                }
            }
        }
        Ok(())
    })
}

/// Draws a bar chart: a cluster of bars, one for each arm, at each group.
pub(super) fn bars(captions: Captions, groups: &[&str], arms: &[Arm]) -> String {
    let ends = |v: &MeanStd| [0.0, v.mean - v.std.unwrap_or(0.0), v.mean + v.std.unwrap_or(0.0)];
    let y_range = padded(extent(arms.iter().flat_map(|arm| &arm.values).flat_map(ends).filter(|y| y.is_finite())));
    let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
    let width = 0.8 / arms.len().max(1) as f64;
    render(SIZE, |area| {
        let plot = head(area, captions.title, &names)?;
        let mut chart = chart(&plot, -0.5..groups.len() as f64 - 0.5, y_range.clone())?;
        // The middles of the groups are at whole numbers; a tick between two groups has no label.
        let group = |x: &f64| {
            let index = x.round();
            let name = groups.get(index as usize).filter(|_| index >= 0.0 && (x - index).abs() < 1e-9);
            name.map_or_else(String::new, ToString::to_string)
        };
        mesh(&mut chart, captions, groups.len() + 1, &group)?;
        for (a, (arm, color)) in arms.iter().zip(PALETTE.iter().cycle()).enumerate() {
            for (g, value) in arm.values.iter().take(groups.len()).enumerate().filter(|(_, v)| v.mean.is_finite()) {
                let left = g as f64 - 0.4 + a as f64 * width;
                bar(&mut chart, left + 0.06 * width..left + 0.94 * width, *value, *color)?;
            }
        }
        Ok(())
    })
}

/// Draws one bar with its value above it and an error bar if there is a deviation.
fn bar(chart: &mut Chart, x: Range<f64>, value: MeanStd, color: RGBColor) -> Drawn {
    let middle = (x.start + x.end) / 2.0;
    let top = value.mean + value.std.unwrap_or(0.0);
    chart.draw_series([Rectangle::new([(x.start, 0.0), (x.end, value.mean)], color.filled())])?;
    if let Some(std) = value.std {
        let cap = (x.end - x.start) * 0.12;
        let line = |points: Vec<(f64, f64)>| PathElement::new(points, TEXT.stroke_width(1));
        let (low, high) = (value.mean - std, value.mean + std);
        chart.draw_series([
            line(vec![(middle, low), (middle, high)]),
            line(vec![(middle - cap, low), (middle + cap, low)]),
            line(vec![(middle - cap, high), (middle + cap, high)]),
        ])?;
    }
    let style = ("sans-serif", 13).into_font().color(&TEXT).pos(Pos::new(HPos::Center, VPos::Bottom));
    let label = EmptyElement::at((middle, top.max(0.0))) + Text::new(format!("{:.1}", value.mean), (0, -4), style);
    chart.draw_series([label])?;
    Ok(())
}

/// Returns what `draw` draws, as SVG.
fn render(size: (u32, u32), draw: impl Fn(&Area) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        // Drawing into a string cannot fail.
        draw(&area).and_then(|()| Ok(area.present()?)).expect("drawing into memory");
    }
    svg
}

/// Draws background, title and legend. Returns the area below them.
fn head<'a>(area: &Area<'a>, title: &str, names: &[&str]) -> Result<Area<'a>, Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let title_style = ("sans-serif", 20).into_font().style(FontStyle::Bold).color(&TEXT);
    area.draw(&Text::new(title.to_string(), (LEFT, 18), title_style))?;
    let style = ("sans-serif", 15).into_font().color(&TEXT).pos(Pos::new(HPos::Left, VPos::Center));
    let right = area.dim_in_pixel().0 as i32 - LEFT;
    let (mut x, mut line) = (LEFT, 0);
    for (name, color) in names.iter().zip(PALETTE.iter().cycle()) {
        let name = shortened(&name.shown().to_string());
        // The width of a text is not known without fonts: 7.8 pixels are enough for a character of a 15-pixel face.
        let width = 25 + (name.chars().count() as f64 * 7.8) as i32;
        if x > LEFT && x + width > right {
            (x, line) = (LEFT, line + 1);
        }
        let y = 60 + line * LINE as i32;
        area.draw(&Rectangle::new([(x, y - 5), (x + 18, y + 5)], color.filled()))?;
        area.draw(&Text::new(name, (x + 25, y), style.clone()))?;
        x += width + 20;
    }
    Ok(area.split_vertically(HEAD + line as u32 * LINE).1)
}

/// Cuts a name that is longer than a line of a legend.
fn shortened(name: &str) -> String {
    match name.chars().nth(LONGEST) {
        None => name.into(),
        Some(_) => name.chars().take(LONGEST - 1).chain(['…']).collect(),
    }
}

fn chart<'a, 'b>(
    area: &'a Area<'b>,
    x: Range<f64>,
    y: Range<f64>,
) -> Result<Chart<'a, 'b>, Box<dyn std::error::Error>> {
    let mut builder = ChartBuilder::on(area);
    builder.margin_right(28).margin_bottom(12).margin_left(12);
    builder.x_label_area_size(48).y_label_area_size(64);
    Ok(builder.build_cartesian_2d(x, y)?)
}

fn mesh(chart: &mut Chart, captions: Captions, x_labels: usize, x_label: &dyn Fn(&f64) -> String) -> Drawn {
    let labels = ("sans-serif", 14).into_font().color(&QUIET);
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().light_line_style(TRANSPARENT).bold_line_style(GRID).axis_style(QUIET);
    mesh.x_labels(x_labels).x_label_formatter(x_label).y_labels(8).y_label_formatter(&|y| number(*y));
    mesh.label_style(labels).axis_desc_style(("sans-serif", 15).into_font().color(&TEXT));
    mesh.x_desc(captions.x).y_desc(captions.y).draw()?;
    Ok(())
}

/// Returns the smallest and the largest value; `None` without values.
fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |extent, v| extent.map_or(Some((v, v)), |(low, high)| Some((v.min(low), v.max(high)))))
}

/// Returns a range for an axis: the values with a margin. It starts or ends at zero, unless the values are far from zero.
fn padded(extent: Option<(f64, f64)>) -> Range<f64> {
    let (low, high) = extent.unwrap_or((0.0, 1.0));
    let low = if low >= 0.0 && low <= 0.6 * high { 0.0 } else { low };
    let high = if high <= 0.0 && high >= 0.6 * low { 0.0 } else { high };
    let margin = 0.07 * (high - low);
    let margin = if margin > 0.0 { margin } else { 0.5 * high.abs().max(1.0) };
    (if low == 0.0 { low } else { low - margin })..(if high == 0.0 && low < 0.0 { high } else { high + margin })
}

/// Formats with up to four decimals, and very small and very large values with an exponent.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-3..1e6).contains(&magnitude) {
        return format!("{value:.1e}");
    }
    let digits = format!("{value:.4}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    if digits == "-0" { "0".into() } else { digits.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTIONS: Captions = Captions { title: "Training", x: "epoch", y: "loss" };

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        Series { name: name.into(), points: points.to_vec() }
    }

    #[test]
    fn curves_carry_captions_and_legend() {
        let lines =
            [series("plain", &[(1.0, 2.0), (2.0, 1.0)]), series("a<b\u{1b}\u{fffe}", &[(1.0, 2.5), (2.0, 0.5)])];
        let svg = curves(CAPTIONS, &lines);
        for text in ["Training", "epoch", "loss", "plain", "a&lt;b\\u{1b}\\u{fffe}"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(!svg.contains("a<b") && !svg.contains("NaN"));
    }

    #[test]
    fn a_value_that_is_not_finite_breaks_the_line() {
        let points = [(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, f64::INFINITY), (4.0, 1.0)];
        let svg = curves(CAPTIONS, &[series("loss", &points)]);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn nothing_and_a_single_point_are_charts_too() {
        for points in [&[][..], &[(3.0, 0.0)], &[(3.0, -2.0)], &[(1.0, 5.0), (2.0, 5.0)]] {
            let svg = curves(CAPTIONS, &[series("loss", points)]);
            assert!(svg.ends_with("</svg>\n"));
        }
        assert!(bars(CAPTIONS, &[], &[]).ends_with("</svg>\n"));
    }

    #[test]
    fn bars_have_values_and_group_names() {
        let value = |mean, std| MeanStd { mean, std };
        let arms = [
            Arm { name: "plain".into(), values: vec![value(61.25, Some(1.0)), value(70.0, None)] },
            Arm { name: "PTL".into(), values: vec![value(64.5, Some(0.5)), value(f64::NAN, None)] },
        ];
        let svg = bars(CAPTIONS, &["mAP", "Rank-1"], &arms);
        for text in ["mAP", "Rank-1", "plain", "PTL", "61.2", "64.5", "70.0"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn every_group_is_named_however_many_there_are() {
        for n in 1..=12 {
            let names: Vec<String> = (0..n).map(|i| format!("group{i}.")).collect();
            let groups: Vec<&str> = names.iter().map(String::as_str).collect();
            let arm = Arm { name: "arm".into(), values: vec![MeanStd { mean: 1.0, std: None }; n] };
            let svg = bars(CAPTIONS, &groups, std::slice::from_ref(&arm));
            assert!(names.iter().all(|name| svg.contains(name)), "{n} groups");
        }
    }

    #[test]
    fn a_long_legend_has_several_lines() {
        let names: Vec<Series> = (0..6).map(|i| series(&format!("arm {i} of a rather long name"), &[])).collect();
        let svg = curves(CAPTIONS, &names);
        let rows = |y: u32| svg.matches(&format!("y=\"{y}\" width=\"18\" height=\"10\"")).count();
        assert_eq!([rows(55), rows(77), rows(99)], [3, 3, 0], "{svg}");
        let svg = curves(CAPTIONS, &[series(&"L".repeat(200), &[])]);
        assert!(svg.contains(&format!("{}…", "L".repeat(79))) && !svg.contains(&"L".repeat(80)), "{svg}");
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(0.0, "0"), (12.0, "12"), (0.25, "0.25"), (-0.5, "-0.5"), (1e-5, "1.0e-5"), (2.5e6, "2.5e6")];
        assert!(cases.iter().all(|&(value, want)| number(value) == want));
    }
}
