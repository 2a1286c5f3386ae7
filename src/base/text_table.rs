//! Reads tables that other programs wrote: CSV with commas, semicolons or tabs, in UTF-8 or UTF-16.

use csv::{Position, Reader, ReaderBuilder, StringRecord, Trim};

use crate::base::text::plural;

/// The text of a table, and its separator.
pub(crate) struct TextTable {
    /// UTF-8, unless it is no text at all.
    bytes: Vec<u8>,
    /// Byte at which the header begins.
    start: usize,
    separator: u8,
}

const UNCLOSED: &str = "a quotation mark in it is not closed in the same line: close it, or write it twice where it is meant as a character";

/// The separators, in the order in which they are tried.
const SEPARATORS: [u8; 3] = *b",;\t";

impl TextTable {
    /// Chooses the first separator with which the header `fits`, or else the comma. A line before the header that names the separator, as
    /// Excel writes it (`sep=;`), is skipped.
    ///
    /// # Errors
    /// The reason why the bytes cannot be read as text.
    pub(crate) fn new(bytes: Vec<u8>, fits: impl Fn(&[&str]) -> bool) -> Result<TextTable, String> {
        let bytes = utf8(bytes)?;
        let start = behind_separator(&bytes);
        let mut table = TextTable { bytes, start, separator: SEPARATORS[0] };
        for separator in SEPARATORS {
            table.separator = separator;
            if table.header().is_ok_and(|header| header.is_some_and(|header| fits(&fields(&header)))) {
                return Ok(table);
            }
        }
        table.separator = SEPARATORS[0];
        Ok(table)
    }

    /// Returns a reader of the records, the first of which is the header. With `ragged`, they may have any number of fields.
    pub(crate) fn reader(&self, ragged: bool) -> Reader<&[u8]> {
        ReaderBuilder::new()
            .trim(Trim::All)
            .has_headers(false)
            .delimiter(self.separator)
            .flexible(ragged)
            .from_reader(&self.bytes[self.start..])
    }

    /// Returns the first record, if there is any.
    pub(crate) fn header(&self) -> csv::Result<Option<StringRecord>> {
        let mut header = StringRecord::new();
        Ok(self.reader(true).read_record(&mut header)?.then_some(header))
    }

    /// Returns all of the text without its byte order mark; `None` if it is no text.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok().map(|text| text.trim_start_matches('\u{feff}'))
    }

    /// Returns the separator of fields.
    pub(crate) fn separator(&self) -> char {
        self.separator.into()
    }

    /// Returns the line, from 1, of the record that begins at byte `at` behind the start. (The line count of the crate csv leaves out empty
    /// lines, and is too low if lines end in CR and LF.)
    pub(crate) fn line(&self, at: usize) -> usize {
        let ends = |byte: &&u8| matches!(**byte, b'\r' | b'\n');
        let at = at + self.start;
        let start = at + self.bytes[at..].iter().take_while(ends).count();
        1 + self.bytes[..start].iter().filter(|&&byte| byte == b'\n').count()
    }

    /// Counts the quotation marks in the line at a byte.
    fn quotes(&self, at: usize) -> usize {
        let line =
            self.bytes[self.start + at..].split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
        line.unwrap_or_default().iter().filter(|&&byte| byte == b'"').count()
    }

    /// Returns the line of an error, and a message about its reason.
    pub(crate) fn explain(&self, error: &csv::Error) -> (usize, String) {
        let reason = match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                let name = match self.separator {
                    b';' => "semicolons",
                    b'\t' => "tabs",
                    _ => "commas",
                };
                let quotes = self.quotes(byte(error.position()));
                match quotes % 2 {
                    0 => {
                        let fields = plural(*len as usize, "field", "fields");
                        format!("it has {fields}, the header has {expected_len}: quote fields with {name}")
                    }
                    _ => UNCLOSED.into(),
                }
            }
            csv::ErrorKind::Utf8 { .. } => "it is no UTF-8 text: save the file as UTF-8".to_string(),
            _ => error.to_string(),
        };
        (self.line(byte(error.position())), reason)
    }
}

/// Refuses a field of several lines, in tables that have no such fields: an unclosed quotation mark has swallowed other records.
///
/// # Errors
/// The reason.
pub(crate) fn within_line(field: &str) -> Result<(), String> {
    if field.contains(['\n', '\r']) { Err(UNCLOSED.into()) } else { Ok(()) }
}

/// Returns the first byte behind a line that names a separator and nothing else, or 0.
fn behind_separator(bytes: &[u8]) -> usize {
    let line = bytes.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default();
    let text = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line).trim_ascii();
    let text = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    let names = text.len() == 5 && text[..4].eq_ignore_ascii_case(b"sep=");
    // A tab at the end was trimmed above.
    let tab = text.len() == 4 && text.eq_ignore_ascii_case(b"sep=");
    if names || tab { line.len() } else { 0 }
}

/// Returns the byte at which a record begins.
pub(crate) fn byte(position: Option<&Position>) -> usize {
    position.map_or(0, |position| position.byte() as usize)
}

/// Removes quotes that follow a space, which the crate csv does not treat as quotes.
pub(crate) fn field(text: &str) -> &str {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.filter(|inner| !inner.contains('"')).map_or(text, str::trim)
}

/// Finds the column of a header that has one of `names`, ignoring case. Of several names, the first that is there counts.
///
/// # Errors
/// The reason: the header has the column more than once.
pub(crate) fn column(header: &[&str], names: &[&str]) -> Result<Option<usize>, String> {
    for name in names {
        let named = header.iter().enumerate().filter(|(_, column)| column.eq_ignore_ascii_case(name));
        let found: Vec<usize> = named.map(|(index, _)| index).collect();
        match found[..] {
            [] => {}
            [one] => return Ok(Some(one)),
            _ => return Err(format!("it has the column {name} more than once")),
        }
    }
    Ok(None)
}

/// Returns all fields of a record.
pub(crate) fn fields(record: &StringRecord) -> Vec<&str> {
    record.iter().map(field).collect()
}

/// Converts UTF-16 to UTF-8; other bytes stay unchanged.
fn utf8(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let unit: fn([u8; 2]) -> u16 = match bytes[..] {
        [0xFF, 0xFE, ..] => u16::from_le_bytes,
        [0xFE, 0xFF, ..] => u16::from_be_bytes,
        // In UTF-8, a byte of 0 is a control character.
        [0, _, ..] | [_, 0, ..] => {
            return Err("it looks like UTF-16 text without a mark of its order: save it as UTF-8".into());
        }
        _ => return Ok(bytes),
    };
    let (units, rest) = bytes[2..].as_chunks::<2>();
    let text = char::decode_utf16(units.iter().map(|&pair| unit(pair))).collect::<Result<String, _>>();
    match text {
        Ok(text) if rest.is_empty() => Ok(text.into_bytes()),
        _ => Err("it begins as UTF-16 text and is damaged: save it as UTF-8".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(bytes: impl Into<Vec<u8>>) -> Vec<Vec<String>> {
        let table = TextTable::new(bytes.into(), |header| header.contains(&"path") && header.len() > 1).unwrap();
        let records = table.reader(false).into_records();
        records.map(|record| fields(&record.unwrap()).into_iter().map(String::from).collect()).collect()
    }

    #[test]
    fn separators_quotes_and_encodings_make_no_difference() {
        let want = [["path", "label"], ["a b.png", "x,y"]];
        let text = "\u{feff}\"path\", \"label\"\r\n a b.png ,\"x,y\"\r\n";
        assert_eq!(rows(text), want);
        assert_eq!(rows("path;label\na b.png;x,y\n"), want);
        assert_eq!(rows("path\tlabel\na b.png\tx,y\n"), want);
        for mark in [false, true] {
            let text = if mark { text } else { text.trim_start_matches('\u{feff}') };
            let bytes = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
            let both = [bytes(u16::to_le_bytes), bytes(u16::to_be_bytes)];
            match mark {
                true => both.into_iter().for_each(|bytes| assert_eq!(rows(bytes), want)),
                false => both.into_iter().for_each(|bytes| {
                    let error = TextTable::new(bytes, |_| true).err().unwrap();
                    assert!(error.contains("save it as UTF-8"), "{error}");
                }),
            }
        }
        assert!(TextTable::new(b"\xff\xfea\0b".to_vec(), |_| true).is_err());
    }

    #[test]
    fn a_line_that_names_the_separator_is_no_header() {
        let want = [["path", "label"], ["a", "b"]];
        for line in ["sep=;", "\u{feff}SEP=;\r", "\"sep=;\""] {
            assert_eq!(rows(format!("{line}\npath;label\na;b\n")), want);
        }
        assert_eq!(rows("sep=\t\npath\tlabel\na\tb\n"), want);
        let table = TextTable::new(b"sep=,\npath,label\na\n".to_vec(), |_| true).unwrap();
        let error = table.reader(false).into_records().find_map(std::result::Result::err).unwrap();
        assert_eq!(table.explain(&error).0, 3);
    }

    #[test]
    fn the_comma_goes_first() {
        let table = TextTable::new(b"path,a;label\n".to_vec(), |header| header.contains(&"path")).unwrap();
        assert_eq!(table.separator(), ',');
        let table = TextTable::new(b"some;thing\n".to_vec(), |header| header.contains(&"path")).unwrap();
        assert_eq!(table.separator(), ',');
    }
}
