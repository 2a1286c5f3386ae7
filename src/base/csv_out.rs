//! Writes CSV files that are safe to open in spreadsheets, whatever names they contain.
//!
//! A spreadsheet evaluates a cell that begins with one of `= + - @` (or their wide forms). Unless it is a number, such a cell gets an
//! apostrophe in front, with which spreadsheets show it as text. So does a cell that begins with apostrophes before such a character, so
//! that `plain_cell` can undo it. Control characters are escaped as in messages.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

use super::atomic::atomic_write;
use crate::Result;
use crate::base::text::Shown;

/// How cells are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cells {
    /// Safe for spreadsheets, as described above.
    #[default]
    Guarded,
    /// Unchanged.
    Raw,
}

/// Writes rows; cells with a comma, a quote or a line break are quoted.
pub(crate) struct CsvOut<'a> {
    csv: csv::Writer<&'a mut dyn Write>,
    cells: Cells,
}

impl CsvOut<'_> {
    /// Writes a row.
    ///
    /// # Errors
    /// Writing fails, or a row does not have as many cells as the first one.
    pub(crate) fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) -> io::Result<()> {
        for cell in cells {
            match self.cells {
                Cells::Guarded => self.csv.write_field(guarded(cell.as_ref()))?,
                Cells::Raw => self.csv.write_field(cell.as_ref())?,
            }
        }
        Ok(self.csv.write_record(None::<&[u8]>)?)
    }
}

/// Writes a CSV file as [`atomic_write`] does.
///
/// # Errors
/// As [`atomic_write`].
pub(crate) fn write_csv(
    path: &Path,
    cells: Cells,
    write: impl FnOnce(&mut CsvOut<'_>) -> io::Result<()>,
) -> Result<()> {
    atomic_write(path, |file| {
        let mut out = CsvOut { csv: csv::Writer::from_writer(file), cells };
        write(&mut out)?;
        out.csv.flush()
    })
}

fn guarded(cell: &str) -> String {
    let text = cell.shown().to_string();
    if is_computed(text.trim_start_matches('\'')) && !is_number(&text) { format!("'{text}") } else { text }
}

/// Returns the name in a cell, whether it was written guarded or raw: without the apostrophe of [`Cells::Guarded`], and with control
/// characters escaped.
pub(crate) fn plain_cell(cell: &str) -> Cow<'_, str> {
    let own = cell.strip_prefix('\'').filter(|rest| is_computed(rest.trim_start_matches('\''))).unwrap_or(cell);
    match own.shown().to_string() {
        shown if shown == own => Cow::Borrowed(own),
        shown => Cow::Owned(shown),
    }
}

fn is_computed(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠'])
}

/// Returns whether it is a number like `-1.5e-7`; not `-inf`, which spreadsheets take for a name.
fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spreadsheet_would_compute_is_text_and_comes_back() {
        let cases = [
            ("=1+1", "'=1+1"),
            ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("-1_c1s1.jpg", "'-1_c1s1.jpg"),
            ("-inf", "'-inf"),
            ("＝1", "'＝1"),
            ("'=1", "''=1"),
            ("''-x", "'''-x"),
            ("-1.5e-7", "-1.5e-7"),
            ("+3", "+3"),
            ("'tis", "'tis"),
            ("a=b", "a=b"),
            ("", ""),
        ];
        for (name, cell) in cases {
            assert_eq!(guarded(name), cell);
            assert_eq!(plain_cell(cell), name);
        }
        // Those that begin with a tab or a carriage return are computed by some programs too.
        assert_eq!(guarded("\t=1"), "\\t=1");
        assert_eq!(guarded("a\r\n\u{1b}[2J"), "a\\r\\n\\u{1b}[2J");
        assert_eq!(plain_cell("a\nb"), plain_cell(&guarded("a\nb")));
    }

    #[test]
    fn raw_cells_stay_and_are_quoted_where_csv_asks_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let written = |cells| {
            write_csv(&path, cells, |csv| csv.row(["=1", "b,c", "d\n\"e\""])).unwrap();
            std::fs::read_to_string(&path).unwrap()
        };
        assert_eq!(written(Cells::Raw), "=1,\"b,c\",\"d\n\"\"e\"\"\"\n");
        assert_eq!(written(Cells::Guarded), "'=1,\"b,c\",\"d\\n\"\"e\"\"\"\n");
    }
}
