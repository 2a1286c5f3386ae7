//! Tables of results, as aligned plain text or Markdown, and mean ± standard deviation over seeds.

use std::fmt;

use crate::base::text::Shown;

/// A table whose first column is left-aligned and the others right-aligned. Its `Display` is plain text. Control characters are
/// escaped.
#[derive(Clone, Debug)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these column titles and no rows.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { header: cells(header), rows: Vec::new() }
    }

    /// Adds a row. Missing cells at its end are empty; surplus ones are dropped.
    pub fn row<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) -> &mut Self {
        let mut row = cells(row);
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
        self
    }

    /// Returns the titles of the columns.
    pub(crate) fn header(&self) -> &[String] {
        &self.header
    }

    /// Returns the rows, each with a cell for every column.
    pub(crate) fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// Returns the table as Markdown, whose source is aligned as well. Characters that would end a cell, or begin code or HTML in one, are
    /// escaped.
    pub fn to_markdown(&self) -> String {
        let escape = |row: &Vec<String>| row.iter().map(|cell| markdown(cell)).collect::<Vec<_>>();
        let table = Self { header: escape(&self.header), rows: self.rows.iter().map(escape).collect() };
        let widths = table.widths(3);
        let line = |row: &[String]| format!("| {} |\n", aligned(row, &widths).join(" | "));
        let rule = widths.iter().enumerate().map(|(column, &width)| match column {
            0 => "-".repeat(width),
            _ => "-".repeat(width - 1) + ":",
        });
        let rule = format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
        line(&table.header) + &rule + &table.rows.iter().map(|row| line(row)).collect::<String>()
    }

    /// Returns the number of characters of each column's widest cell, at least `minimum`.
    fn widths(&self, minimum: usize) -> Vec<usize> {
        let rows = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max().unwrap_or(0);
        (0..self.header.len()).map(|column| width(column).max(minimum)).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths(0);
        writeln!(f, "{}", aligned(&self.header, &widths).join("  ").trim_end())?;
        writeln!(f, "{}", widths.iter().map(|&width| "-".repeat(width)).collect::<Vec<_>>().join("  "))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", aligned(row, &widths).join("  ").trim_end()))
    }
}

/// Escapes line breaks and control characters, so that each cell is one line.
fn cells<S: Into<String>>(row: impl IntoIterator<Item = S>) -> Vec<String> {
    row.into_iter().map(|cell| cell.into().shown().to_string()).collect()
}

/// Escapes the characters that Markdown would interpret.
fn markdown(text: &str) -> String {
    let escaped = |c: char| matches!(c, '\\' | '|' | '<' | '`').then_some('\\').into_iter().chain([c]);
    text.chars().flat_map(escaped).collect()
}

fn aligned(row: &[String], widths: &[usize]) -> Vec<String> {
    let cell = |(column, (text, &width)): (usize, (&String, &usize))| match column {
        0 => format!("{text:<width$}"),
        _ => format!("{text:>width$}"),
    };
    row.iter().zip(widths).enumerate().map(cell).collect()
}

/// Mean and sample standard deviation of a figure over several seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanStd {
    /// Arithmetic mean of the values.
    pub mean: f64,
    /// Sample standard deviation (divided by n - 1); `None` for fewer than two values.
    pub std: Option<f64>,
}

impl MeanStd {
    /// Returns the mean and the standard deviation of `values`; `None` if there are no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        Some(Self { mean, std: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) })
    }
}

/// Writes `12.34 ± 0.56`, with the precision of the formatter, or two digits.
impl fmt::Display for MeanStd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = f.precision().unwrap_or(2);
        write!(f, "{:.precision$}", self.mean)?;
        self.std.map_or(Ok(()), |std| write!(f, " ± {std:.precision$}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["arm", "mAP", "Rank-1"]);
        table.row(["zero-shot", "9.10", "20.00"]).row(["a|b", "10.00 ± 0.50"]);
        table
    }

    #[test]
    fn plain_text_is_aligned() {
        let want = "\
arm                 mAP  Rank-1
---------  ------------  ------
zero-shot          9.10   20.00
a|b        10.00 ± 0.50
";
        assert_eq!(table().to_string(), want);
    }

    #[test]
    fn markdown_is_aligned_and_escaped() {
        let want = "\
| arm       |          mAP | Rank-1 |
| --------- | -----------: | -----: |
| zero-shot |         9.10 |  20.00 |
| a\\|b      | 10.00 ± 0.50 |        |
";
        assert_eq!(table().to_markdown(), want);
    }

    #[test]
    fn no_cell_makes_lines_or_columns_of_its_own() {
        let mut table = Table::new(["arm", "x"]);
        table.row(["a\n| b | 9 |\u{1b}[2J", "1"]).row(["c\\|<b>`", "2"]);
        assert_eq!(table.to_string().lines().count(), 4);
        let markdown = table.to_markdown();
        assert_eq!(markdown.lines().count(), 4);
        assert!(markdown.contains("| a\\\\n\\| b \\| 9 \\|\\\\u{1b}[2J |"), "{markdown}");
        assert!(markdown.contains("| c\\\\\\|\\<b>\\` "), "{markdown}");
    }

    #[test]
    fn deviation_is_the_samples() {
        let figure = MeanStd::of(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(figure.mean, 2.5);
        assert!((figure.std.unwrap() - (5.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(figure.to_string(), "2.50 ± 1.29");
        assert_eq!(format!("{figure:.1}"), "2.5 ± 1.3");
        assert_eq!(MeanStd::of(&[7.0]).unwrap().to_string(), "7.00");
        assert_eq!(MeanStd::of(&[]), None);
    }
}
