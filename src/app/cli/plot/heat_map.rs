//! A heat map of a matrix of counts: the colour of a cell is its share of its row.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, Drawn, QUIET, TEXT, render};
use crate::base::text::Shown;

/// Largest number of rows with counts in the cells and names on the axes.
const NAMED: usize = 20;
/// Largest width of a name in pixels; longer names are cut.
const NAME_WIDTH: f64 = 150.0;
/// Height above the matrix in pixels, without and with a note.
const HEAD: [i32; 2] = [52, 74];
/// Width of the scale of colours, to the right of the matrix, in pixels.
const SCALE: i32 = 96;
/// Height of the name of the axis, below the ticks, in pixels.
const FOOT: i32 = 36;
/// In a matrix without counts in its cells, smaller shares are not drawn. A row then has at most fifty cells, which limits the size of
/// the file.
const FAINT: f64 = 0.02;

/// The texts around a square matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeatMap<'a> {
    /// Title of the picture.
    pub title: &'a str,
    /// A line below the title, or an empty text.
    pub note: &'a str,
    /// Name of the columns' axis.
    pub x: &'a str,
    /// Name of the rows' axis.
    pub y: &'a str,
    /// One name for each row and column. Without names, or with more than 20, the axes have numbers.
    pub names: &'a [&'a str],
    /// Number of classes that share a row. The axes show the number of the first class of a row.
    pub step: usize,
}

/// Sizes and places of the parts of a picture, in pixels.
struct Layout {
    cells: usize,
    cell: i32,
    left: i32,
    top: i32,
    /// Labels of the axes with their cells: all names, shortened, or numbers at some cells.
    labels: Vec<(usize, String)>,
    named: bool,
    /// Whether the names of columns are rotated.
    rotated: bool,
    size: (u32, u32),
}

/// Draws a heat map of `counts` `[n, n]`, row by row.
pub(crate) fn heat_map(map: &HeatMap, counts: &[usize]) -> String {
    let cells = counts.len().isqrt();
    assert_eq!(cells * cells, counts.len(), "a square matrix");
    let layout = Layout::new(map, cells);
    render(layout.size, |area| {
        area.fill(&WHITE)?;
        let title = ("sans-serif", 20).into_font().style(FontStyle::Bold).color(&TEXT);
        area.draw(&Text::new(map.title.to_string(), (24, 18), title))?;
        let note = ("sans-serif", 14).into_font().color(&QUIET);
        area.draw(&Text::new(map.note.to_string(), (24, 46), note))?;
        layout.draw_cells(area, counts)?;
        layout.draw_axes(area, map)?;
        layout.draw_scale(area)
    })
}

impl Layout {
    fn new(map: &HeatMap, cells: usize) -> Layout {
        let named = cells <= NAMED && map.names.len() == cells;
        let labels: Vec<(usize, String)> = match named {
            true => map.names.iter().map(|name| shortened(&name.shown().to_string())).enumerate().collect(),
            false => ticks(cells).map(|cell| (cell, (cell * map.step).to_string())).collect(),
        };
        let cell = match named {
            true => (560 / cells.max(1)).clamp(36, 64) as i32,
            false => (640 / cells.max(1)).clamp(1, 36) as i32,
        };
        let side = cell * cells as i32;
        let extent = labels.iter().map(|(_, text)| width(text).ceil() as i32).max().unwrap_or(0);
        let rotated = named && extent > cell - 4;
        let left = 34 + extent + 10;
        let top = HEAD[usize::from(!map.note.is_empty())];
        let below = if rotated { extent } else { 14 } + 10 + FOOT;
        let text = (map.title.chars().count() as f64 * 11.0).max(map.note.chars().count() as f64 * 7.0) as i32 + 48;
        let size = ((left + side + SCALE).max(text) as u32, (top + side + below) as u32);
        Layout { cells, cell, left, top, labels, named, rotated, size }
    }

    fn side(&self) -> i32 {
        self.cell * self.cells as i32
    }

    fn draw_cells(&self, area: &Area, counts: &[usize]) -> Drawn {
        let &Layout { cells, cell, left, top, named, .. } = self;
        let side = self.side();
        area.draw(&Rectangle::new([(left, top), (left + side, top + side)], colour(0.0).filled()))?;
        let gap = i32::from(named);
        for (i, row) in counts.chunks(cells.max(1)).enumerate() {
            let sum = row.iter().sum::<usize>().max(1) as f64;
            for (j, &count) in row.iter().enumerate() {
                let share = count as f64 / sum;
                if count == 0 || (!named && share < FAINT) {
                    continue;
                }
                let (x, y) = (left + j as i32 * cell, top + i as i32 * cell);
                let corners = [(x + gap, y + gap), (x + cell, y + cell)];
                area.draw(&Rectangle::new(corners, colour(share).filled()))?;
                if named {
                    let ink = if share > 0.45 { WHITE } else { TEXT };
                    let style = ("sans-serif", 14).into_font().color(&ink).pos(Pos::new(HPos::Center, VPos::Center));
                    area.draw(&Text::new(short_count(count), (x + cell / 2, y + cell / 2), style))?;
                }
            }
        }
        area.draw(&Rectangle::new([(left, top), (left + side, top + side)], QUIET.stroke_width(1)))?;
        Ok(())
    }

    fn draw_axes(&self, area: &Area, map: &HeatMap) -> Drawn {
        let &Layout { cell, left, top, .. } = self;
        let side = self.side();
        let style = ("sans-serif", 14).into_font().color(&TEXT);
        let row = style.pos(Pos::new(HPos::Right, VPos::Center));
        let column = match self.rotated {
            true => style.transform(FontTransform::Rotate270).pos(Pos::new(HPos::Right, VPos::Center)),
            false => style.pos(Pos::new(HPos::Center, VPos::Top)),
        };
        for (index, text) in &self.labels {
            let middle = *index as i32 * cell + cell / 2;
            area.draw(&Text::new(text.clone(), (left - 8, top + middle), row.clone()))?;
            area.draw(&Text::new(text.clone(), (left + middle, top + side + 8), column.clone()))?;
            if !self.named {
                let tick = |from, to| PathElement::new(vec![from, to], QUIET.stroke_width(1));
                area.draw(&tick((left - 5, top + middle), (left, top + middle)))?;
                area.draw(&tick((left + middle, top + side), (left + middle, top + side + 5)))?;
            }
        }
        let name = ("sans-serif", 15).into_font().color(&TEXT).pos(Pos::new(HPos::Center, VPos::Center));
        area.draw(&Text::new(map.x.to_string(), (left + side / 2, self.size.1 as i32 - 18), name.clone()))?;
        let name = name.transform(FontTransform::Rotate270);
        area.draw(&Text::new(map.y.to_string(), (20, top + side / 2), name))?;
        Ok(())
    }

    /// Draws the scale of colours from 0 to 100 %, to the right of the matrix.
    fn draw_scale(&self, area: &Area) -> Drawn {
        const STEPS: i32 = 40;
        let (left, top) = (self.left + self.side() + 24, self.top);
        let step = (self.side() / STEPS).clamp(2, 6);
        let height = STEPS * step;
        for i in 0..STEPS {
            let y = top + height - (i + 1) * step;
            let share = (f64::from(i) + 0.5) / f64::from(STEPS);
            area.draw(&Rectangle::new([(left, y), (left + 14, y + step)], colour(share).filled()))?;
        }
        area.draw(&Rectangle::new([(left, top), (left + 14, top + height)], QUIET.stroke_width(1)))?;
        let style = ("sans-serif", 13).into_font().color(&TEXT).pos(Pos::new(HPos::Left, VPos::Center));
        for (text, share) in [("0 %", 0), ("50 %", 1), ("100 %", 2)] {
            area.draw(&Text::new(text, (left + 20, top + height - share * height / 2), style.clone()))?;
        }
        Ok(())
    }
}

/// Returns at most a dozen cells, at round numbers.
fn ticks(cells: usize) -> impl Iterator<Item = usize> {
    let distance = [1, 2, 5, 10, 20, 50].into_iter().find(|distance| cells / distance <= 12).unwrap_or(100);
    (0..cells).step_by(distance)
}

/// Estimates the width of a name or tick in pixels, rather too large than too small: it is not known without fonts.
fn width(text: &str) -> f64 {
    let of_character = |c: char| match c {
        'M' | 'W' | 'm' | 'w' | '@' | '%' | '…' | '\u{2e80}'.. => 11.6,
        c if c.is_uppercase() => 8.8,
        _ => 7.2,
    };
    text.chars().map(of_character).sum()
}

fn shortened(name: &str) -> String {
    if width(name) <= NAME_WIDTH {
        return name.into();
    }
    let mut short = name.to_owned();
    while width(&short) + width("…") > NAME_WIDTH {
        short.pop();
    }
    short + "…"
}

/// Formats a count with at most five characters.
fn short_count(count: usize) -> String {
    match count {
        0..100_000 => count.to_string(),
        100_000..1_000_000 => format!("{}k", count / 1000),
        _ => format!("{}M", count / 1_000_000),
    }
}

/// Returns the colour of a share: from nearly white over the palette's blue to a dark blue.
fn colour(share: f64) -> RGBColor {
    const STOPS: [(f64, [f64; 3]); 3] =
        [(0.0, [244.0, 247.0, 250.0]), (0.6, [0.0, 114.0, 178.0]), (1.0, [5.0, 48.0, 84.0])];
    let [low, high] = if share < STOPS[1].0 { [STOPS[0], STOPS[1]] } else { [STOPS[1], STOPS[2]] };
    let way = ((share - low.0) / (high.0 - low.0)).clamp(0.0, 1.0);
    let [r, g, b] = [0, 1, 2].map(|c| (low.1[c] + way * (high.1[c] - low.1[c])).round() as u8);
    RGBColor(r, g, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svg(map: &HeatMap, counts: &[usize]) -> String {
        heat_map(map, counts)
    }

    fn map<'a>(names: &'a [&'a str]) -> HeatMap<'a> {
        HeatMap { title: "Confusions", note: "", x: "predicted", y: "true", names, step: 1 }
    }

    #[test]
    fn few_classes_have_names_and_counts() {
        let svg = svg(&map(&["a<b", "a class of a very long name", "c\n\u{1b}"]), &[7, 0, 1, 12, 30, 0, 0, 0, 0]);
        for text in [
            "Confusions",
            "predicted",
            "true",
            "a&lt;b",
            "\nc\\n\\u{1b}\n",
            "a class of a very l…",
            "\n7\n",
            "\n12\n",
            "\n30\n",
            "100 %",
        ] {
            assert!(svg.contains(text), "{text:?} in {svg}");
        }
        assert!(!svg.contains("a<b") && !svg.contains("\n0\n"));
        assert_eq!(shortened(&"W".repeat(30)), "W".repeat(11) + "…");
    }

    #[test]
    fn many_classes_have_ticks_and_a_small_file() {
        let n = 200;
        let names: Vec<String> = (0..n).map(|i| format!("name{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let matrix = |of: fn(usize, usize) -> usize| (0..n * n).map(|i| of(i / n, i % n)).collect::<Vec<_>>();
        let cells = |counts: &[usize]| {
            let svg = svg(&map(&names), counts);
            assert!(svg.contains("\n140\n") && svg.contains("\n180\n") && !svg.contains("name"), "{svg}");
            assert!(svg.len() < 3 << 19, "{} bytes", svg.len());
            // Without the picture's and the matrix' background, its frame, the scale and its frame.
            svg.matches("<rect").count() - (2 + 1 + 40 + 1)
        };
        assert_eq!(cells(&matrix(|i, j| if i == j { 50 } else { 0 })), 200);
        // As many cells as can be drawn; and a matrix whose cells are all too faint.
        assert_eq!(cells(&matrix(|_, j| usize::from(j % 4 == 0))), 200 * 50);
        assert_eq!(cells(&matrix(|i, j| 1 + (i + j) % 2)), 0);
    }

    #[test]
    fn nothing_is_a_picture_too() {
        assert!(svg(&map(&[]), &[]).ends_with("</svg>\n"));
        assert!(svg(&map(&["one"]), &[5]).contains("\n5\n"));
    }
}
