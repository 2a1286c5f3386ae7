//! A CSV or TSV file that lists images, one in a row.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use csv::StringRecord;

use super::folder::{PassedBy, images_below};
use super::named::{Finder, advice};
use crate::base::error::IoContext;
use crate::base::text::{Shown, listed, plural};
use crate::base::text_table::{TextTable, byte, column, field, fields, within_line};
use crate::base::{input, memory};
use crate::{Error, Result};

/// Names of the column with the paths.
const PATH: &[&str] = &["path", "image", "file"];
/// The file name that takes precedence.
const FILE: &str = "manifest.csv";
/// What a run of this program writes about the images that it measured: no data set.
const OF_RUNS: &str = "items.csv";
/// Bytes that are enough to recognise a table by its header.
const HEADER: u64 = 1 << 16;
/// Bytes of the largest table.
const LARGEST: u64 = 1 << 30;

/// A column beside the one with the paths.
#[derive(Clone, Copy)]
pub(super) struct Column {
    /// Its names, in lower case; the first that exists is used.
    pub names: &'static [&'static str],
    /// Whether a table must have it.
    pub needed: bool,
}

/// A row of a table.
pub(super) struct Row {
    /// The image.
    pub path: PathBuf,
    /// The path as written in the file.
    pub named: String,
    /// The text in each of the columns that were asked for; `None` if the table does not have the column.
    pub fields: Vec<Option<String>>,
    /// Byte at which the row begins.
    at: usize,
}

/// Where the columns of a table are.
struct Places {
    path: usize,
    columns: Vec<Option<usize>>,
    /// Names of columns that are not read.
    unread: Vec<String>,
}

/// A table and its file.
pub(super) struct ImageTable<'a> {
    file: &'a Path,
    table: TextTable,
    columns: &'a [Column],
}

/// Finds the table in a folder: `manifest.csv`, or the only CSV or TSV file.
///
/// # Errors
/// There is no such file, or there are several.
pub(super) fn file_in(folder: &Path) -> Result<PathBuf> {
    let mut files = files(folder)?;
    let refuse = |reason| Err(Error::NotADataset { path: folder.to_path_buf(), reason });
    match files.len() {
        0 => refuse("it has no CSV file".into()),
        1 => Ok(files.remove(0)),
        _ => refuse(format!("it has several CSV files: name one of {}", listed(files.iter().map(|f| f.shown())))),
    }
}

/// Finds the only CSV or TSV file in a folder that has the given columns.
pub(super) fn recognised_in(folder: &Path, columns: &[Column]) -> Option<PathBuf> {
    let mut files = files(folder).ok()?;
    files.retain(|file| header_of(file, columns).is_ok());
    if files.len() == 1 { files.pop() } else { None }
}

/// Says in a sentence for each CSV or TSV file in a folder why it is not read, if none was recognised as the table.
pub(super) fn unread_in(folder: &Path, columns: &[Column]) -> Vec<String> {
    let sentence = |file: PathBuf| match header_of(&file, columns) {
        Ok(_) => {
            format!("{} lists images and is not read, as there are several such files: name it to use it", file.shown())
        }
        Err(reason) => format!("{} is not read: {reason}", file.shown()),
    };
    files(folder).unwrap_or_default().into_iter().map(sentence).collect()
}

/// Reads the header of a file. The error is the reason why it is not that of a table with these columns.
fn header_of(file: &Path, columns: &[Column]) -> Result<Places, String> {
    let mut bytes = Vec::new();
    let (stream, _) = input::open(file).map_err(|e| e.to_string())?;
    stream.take(HEADER).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let table = TextTable::new(bytes, |header| has_columns(header, columns))?;
    match table.header() {
        Ok(Some(header)) => places(&fields(&header), columns),
        Ok(None) => Err("it is empty".into()),
        Err(error) => Err(table.explain(&error).1),
    }
}

fn is_table(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ending.eq_ignore_ascii_case("csv") || ending.eq_ignore_ascii_case("tsv")
}

/// Returns `manifest.csv` alone, or else all CSV and TSV files.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let manifest = folder.join(FILE);
    if manifest.is_file() {
        return Ok(vec![manifest]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).at("read", folder)? {
        let path = entry.at("read", folder)?.path();
        let passed = path.file_name().is_some_and(|name| name == OF_RUNS || name.to_string_lossy().starts_with('.'));
        if !passed && is_table(&path) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the names of the columns that a table must have.
fn needed(columns: &[Column]) -> impl Iterator<Item = &'static [&'static str]> {
    [PATH].into_iter().chain(columns.iter().filter(|column| column.needed).map(|column| column.names))
}

/// Returns whether a header has the columns that a table needs, once or more than once.
fn has_columns(header: &[&str], columns: &[Column]) -> bool {
    needed(columns).all(|names| column(header, names) != Ok(None))
}

/// Finds the columns of a table. The error is the reason if one is missing.
fn places(header: &[&str], columns: &[Column]) -> Result<Places, String> {
    header.iter().try_for_each(|field| within_line(field))?;
    let path = column(header, PATH)?;
    let found = columns.iter().map(|wanted| column(header, wanted.names)).collect::<Result<Vec<_>, _>>()?;
    let mut lacking = Vec::new();
    for names in needed(columns) {
        if column(header, names)?.is_none() {
            lacking.push(format!("no column {}", names.join(" or ")));
        }
    }
    if let (Some(path), []) = (path, &lacking[..]) {
        let is_read = |index: &usize| *index == path || found.contains(&Some(*index));
        let unread = (0..header.len()).filter(|index| !is_read(index)).map(|index| header[index].to_string()).collect();
        return Ok(Places { path, columns: found, unread });
    }
    let header: Vec<String> = header.iter().map(|name| name.shown().to_string()).collect();
    Err(format!(
        "it has {} (it has {}): columns are separated by commas, semicolons or tabs",
        lacking.join(" and "),
        header.join(", ")
    ))
}

impl<'a> ImageTable<'a> {
    /// Reads the file of a table with the given columns.
    ///
    /// # Errors
    /// The file cannot be read, is no text or is larger than 1 GiB.
    pub(super) fn read(file: &'a Path, columns: &'a [Column]) -> Result<ImageTable<'a>> {
        let opened = input::open(file)?;
        memory::ensure("the data set", opened.1.saturating_mul(3))?;
        let bytes = input::read_opened(file, opened, LARGEST)?;
        match TextTable::new(bytes, |header| has_columns(header, columns)) {
            Ok(table) => Ok(ImageTable { file, table, columns }),
            Err(reason) => Err(Error::NotADataset { path: file.to_path_buf(), reason }),
        }
    }

    /// Returns an error about a row.
    pub(super) fn wrong(&self, row: &Row, reason: String) -> Error {
        self.wrong_at(row.at, reason)
    }

    fn wrong_at(&self, at: usize, reason: String) -> Error {
        Error::ListLine { path: self.file.to_path_buf(), line: self.table.line(at), reason }
    }

    /// Converts an error of the crate `csv`.
    fn of_csv(&self, error: &csv::Error) -> Error {
        let (line, reason) = self.table.explain(error);
        Error::ListLine { path: self.file.to_path_buf(), line, reason }
    }

    fn places(&self) -> Result<Places> {
        let Some(header) = self.table.header().map_err(|e| self.of_csv(&e))? else {
            let names: Vec<&str> = needed(self.columns).map(|names| names[0]).collect();
            let reason = format!("it is empty: a header with the columns {} is needed", names.join(" and "));
            return Err(self.wrong_at(0, reason));
        };
        places(&fields(&header), self.columns).map_err(|reason| self.wrong_at(0, reason))
    }

    /// Returns the names of columns that are not read, in their order.
    ///
    /// # Errors
    /// As [`ImageTable::rows`].
    pub(super) fn unread_columns(&self) -> Result<Vec<String>> {
        Ok(self.places()?.unread)
    }

    /// Returns all rows. A path is that of an existing file if there is one that it can mean.
    ///
    /// # Errors
    /// [`Error::ListLine`]: a column is missing or there twice, a row has another number of fields than the header, a path or a needed field is
    /// empty; [`Error::NotADataset`]: there is no row.
    pub(super) fn rows(&self) -> Result<Vec<Row>> {
        let Places { path: path_column, columns: places, .. } = self.places()?;
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let mut reader = self.table.reader(false);
        let mut record = StringRecord::new();
        // Skips the header.
        reader.read_record(&mut record).map_err(|e| self.of_csv(&e))?;
        let mut finder = Finder::default();
        let mut rows = Vec::new();
        while reader.read_record(&mut record).map_err(|e| self.of_csv(&e))? {
            let at = byte(record.position());
            let wrong = |reason: String| Err(self.wrong_at(at, reason));
            for column in [Some(path_column)].into_iter().chain(places.iter().copied()).flatten() {
                within_line(&record[column]).map_err(|reason| self.wrong_at(at, reason))?;
            }
            let text = |column: usize| field(&record[column]);
            let path = text(path_column);
            if path.is_empty() {
                return wrong("its path is empty".into());
            }
            if path.contains('\0') {
                return wrong(format!("its path {} has a character that no file name has", path.shown()));
            }
            let fields: Vec<Option<String>> =
                places.iter().map(|place| place.map(|column| text(column).to_string())).collect();
            let empty =
                self.columns.iter().zip(&fields).find(|(column, text)| column.needed && text.as_deref() == Some(""));
            if let Some((column, _)) = empty {
                return wrong(format!("its {} is empty", column.names[0]));
            }
            rows.push(Row { path: finder.find(folder, path), named: path.to_string(), fields, at });
        }
        if rows.is_empty() {
            return Err(Error::NotADataset { path: self.file.to_path_buf(), reason: "it lists no image".into() });
        }
        Ok(rows)
    }

    /// Removes rows that repeat another one. `differs` returns what is wrong with a row that has the path of an earlier one, or `None` if both
    /// say the same. Returns the others, and a warning if any was removed.
    ///
    /// # Errors
    /// [`Error::ListLine`] with what `differs` returned.
    pub(super) fn once<R: AsRef<Row>>(
        &self,
        rows: Vec<R>,
        differs: impl Fn(&R, &R) -> Option<String>,
    ) -> Result<(Vec<R>, Option<String>)> {
        let mut first: HashMap<PathBuf, usize> = HashMap::new();
        let mut kept: Vec<R> = Vec::new();
        let mut repeated = 0;
        for row in rows {
            let Row { path, .. } = row.as_ref();
            let Some(&index) = first.get(path) else {
                first.insert(path.clone(), kept.len());
                kept.push(row);
                continue;
            };
            if let Some(what) = differs(&kept[index], &row) {
                let line = self.table.line(kept[index].as_ref().at);
                return Err(self.wrong(row.as_ref(), format!("{} is in line {line}, too, {what}", path.shown())));
            }
            repeated += 1;
        }
        let lines = plural(repeated, "line repeats", "lines repeat");
        let warning = || format!("{}: {lines} an image, which counts once", self.file.shown());
        Ok((kept, (repeated > 0).then(warning)))
    }

    /// Checks that the images of the rows that are `used` are there.
    ///
    /// # Errors
    /// [`Error::MissingImages`] if one is not.
    pub(super) fn check_images<'r>(&self, used: impl Iterator<Item = &'r Row>) -> Result<()> {
        let used: Vec<&Row> = used.collect();
        let missing: Vec<&&Row> = used.iter().filter(|row| !row.path.exists()).collect();
        match missing.first() {
            None => Ok(()),
            Some(first) => Err(Error::MissingImages {
                list: self.file.to_path_buf(),
                missing: missing.len(),
                total: used.len(),
                first: first.path.clone(),
                advice: advice(&first.named),
            }),
        }
    }
}

/// Returns a warning about images in `folder` and below that are not among `paths`.
pub(super) fn unlisted<'a>(folder: &Path, paths: impl Iterator<Item = &'a Path>) -> Option<String> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    let named: HashSet<PathBuf> = paths.filter_map(real).collect();
    let mut unlisted = images_below(folder, &mut PassedBy::default()).ok()?;
    unlisted.retain(|path| real(path).is_none_or(|real| !named.contains(&real)));
    (!unlisted.is_empty()).then(|| {
        format!(
            "{}: {} in no line of the list and left out ({})",
            folder.shown(),
            plural(unlisted.len(), "image is", "images are"),
            listed(unlisted.iter().map(|path| path.shown()))
        )
    })
}
