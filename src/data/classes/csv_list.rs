//! A CSV file that lists images with their classes, and with their subsets if it has a column of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use csv::{Position, Reader, ReaderBuilder, StringRecord, Trim};

use super::{ClassDataset, ClassOptions, refuse, split};
use crate::data::dataset::listed;
use crate::data::sets::{DatasetKind, Subsets};
use crate::data::{ImageSource, Sample};
use crate::error::IoContext;
use crate::text::Shown;
use crate::{Error, Result, memory};

/// Names of each column, in lower case; the first that is there is used.
const PATH: &[&str] = &["path", "image", "file"];
const LABEL: &[&str] = &["label", "class"];
const SPLIT: &[&str] = &["split"];

/// The name that goes before all others.
const FILE: &str = "manifest.csv";
/// Bytes that are enough to recognise a list by its header.
const HEADER: u64 = 1 << 16;

/// What a row's `split` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subset {
    Train,
    Val,
    Test,
}

/// Where the columns are.
struct Columns {
    path: usize,
    label: usize,
    split: Option<usize>,
}

struct Row {
    path: PathBuf,
    label: String,
    /// `None` without such a column.
    subset: Option<Subset>,
    /// Where it begins, in bytes.
    at: usize,
}

/// A file and what it says.
struct List<'a> {
    file: &'a Path,
    bytes: &'a [u8],
}

/// The list in a folder: `manifest.csv`, or the only CSV file.
///
/// # Errors
/// There is none, or several.
pub(super) fn file_in(folder: &Path) -> Result<PathBuf> {
    let mut files = csv_files(folder)?;
    match files.len() {
        0 => refuse(folder, "it has no CSV file"),
        1 => Ok(files.remove(0)),
        _ => {
            refuse(folder, format!("it has several CSV files: name one of {}", listed(files.iter().map(|f| f.shown()))))
        }
    }
}

/// The list in a folder, if it has the columns of one.
pub(super) fn recognised_in(folder: &Path) -> Option<PathBuf> {
    let mut files = csv_files(folder).ok()?;
    files.retain(|file| {
        let mut bytes = Vec::new();
        let read = fs::File::open(file).and_then(|stream| stream.take(HEADER).read_to_end(&mut bytes));
        let list = List { file, bytes: &bytes };
        read.is_ok() && list.columns(&mut list.reader()).is_ok()
    });
    if files.len() == 1 { files.pop() } else { None }
}

/// `manifest.csv` alone, or all CSV files.
fn csv_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let manifest = folder.join(FILE);
    if manifest.is_file() {
        return Ok(vec![manifest]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).at("read", folder)? {
        let path = entry.at("read", folder)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl<'a> List<'a> {
    fn reader(&self) -> Reader<&'a [u8]> {
        // The header is a record like others, so that an empty file is told from one without rows.
        ReaderBuilder::new().trim(Trim::All).has_headers(false).from_reader(self.bytes)
    }

    /// The line of the record at a byte. The crate's own count of lines leaves out empty ones and is one too low where
    /// lines end in CR and LF.
    fn line(&self, at: usize) -> usize {
        let ends = |byte: &&u8| matches!(**byte, b'\r' | b'\n');
        let start = at + self.bytes[at..].iter().take_while(ends).count();
        1 + self.bytes[..start].iter().filter(|&&byte| byte == b'\n').count()
    }

    fn wrong(&self, at: usize, reason: String) -> Error {
        Error::ListLine { path: self.file.to_path_buf(), line: self.line(at), reason }
    }

    /// The crate's errors as ours.
    fn of_csv(&self, error: &csv::Error) -> Error {
        let reason = match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("it has {len} fields, the header has {expected_len}: quote fields with commas")
            }
            csv::ErrorKind::Utf8 { .. } => "it is no UTF-8 text".to_string(),
            _ => error.to_string(),
        };
        self.wrong(byte(error.position()), reason)
    }

    /// Reads the header.
    fn columns(&self, reader: &mut Reader<&[u8]>) -> Result<Columns> {
        let wrong = |reason: String| self.wrong(0, reason);
        let mut header = StringRecord::new();
        if !reader.read_record(&mut header).map_err(|e| self.of_csv(&e))? {
            return Err(wrong("it is empty: a header with the columns path and label is needed".into()));
        }
        let find = |names: &[&str]| {
            for name in names {
                let named = header.iter().enumerate().filter(|(_, column)| column.eq_ignore_ascii_case(name));
                let found: Vec<usize> = named.map(|(index, _)| index).collect();
                match found[..] {
                    [] => {}
                    [one] => return Ok(Some(one)),
                    _ => return Err(wrong(format!("it has the column {name} more than once"))),
                }
            }
            Ok(None)
        };
        let needed = |names: &[&str]| {
            let has: Vec<&str> = header.iter().collect();
            let missing = || {
                wrong(format!(
                    "it has no column {} (it has {}): columns are separated by commas",
                    names.join(" or "),
                    has.join(", ")
                ))
            };
            find(names)?.ok_or_else(missing)
        };
        Ok(Columns { path: needed(PATH)?, label: needed(LABEL)?, split: find(SPLIT)? })
    }

    fn rows(&self) -> Result<Vec<Row>> {
        let mut reader = self.reader();
        let columns = self.columns(&mut reader)?;
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let mut record = StringRecord::new();
        let mut rows = Vec::new();
        while reader.read_record(&mut record).map_err(|e| self.of_csv(&e))? {
            let at = byte(record.position());
            let wrong = |reason: String| Err(self.wrong(at, reason));
            let (path, label) = (&record[columns.path], &record[columns.label]);
            if path.is_empty() || label.is_empty() {
                return wrong(format!("its {} is empty", if path.is_empty() { "path" } else { "label" }));
            }
            let subset = match columns.split.map(|column| record[column].to_ascii_lowercase()) {
                None => None,
                Some(name) => match name.as_str() {
                    "train" | "training" => Some(Subset::Train),
                    "val" | "valid" | "validation" => Some(Subset::Val),
                    "test" | "testing" => Some(Subset::Test),
                    other => return wrong(format!("its split is {other:?}: choose train, val or test")),
                },
            };
            rows.push(Row { path: folder.join(path), label: label.to_string(), subset, at });
        }
        if rows.is_empty() {
            return refuse(self.file, "it lists no image");
        }
        Ok(rows)
    }

    /// Each path once; the number of rows that said the same again is returned too.
    fn once(&self, rows: Vec<Row>) -> Result<(Vec<Row>, usize)> {
        let mut first: HashMap<PathBuf, usize> = HashMap::new();
        let mut kept: Vec<Row> = Vec::new();
        let mut repeated = 0;
        for row in rows {
            let Some(&index) = first.get(&row.path) else {
                first.insert(row.path.clone(), kept.len());
                kept.push(row);
                continue;
            };
            let Row { label, subset, at, .. } = &kept[index];
            let again = |what: String| {
                let reason = format!("{} stands in line {} too, {what}", row.path.shown(), self.line(*at));
                Err(self.wrong(row.at, reason))
            };
            if *label != row.label {
                return again(format!("there with the label {label}, here with {}: an image has one class", row.label));
            }
            if *subset != row.subset {
                return again("in another split: validation needs images that do not train".into());
            }
            repeated += 1;
        }
        Ok((kept, repeated))
    }
}

/// Where a record begins.
fn byte(position: Option<&Position>) -> usize {
    position.map_or(0, |position| position.byte() as usize)
}

/// Names in the order of their numbers if all are whole numbers, else of their bytes.
fn sorted(labels: BTreeSet<&str>) -> Vec<String> {
    let numbers: Option<BTreeSet<(i128, &str)>> =
        labels.iter().map(|&label| label.parse().ok().map(|number| (number, label))).collect();
    match numbers {
        Some(numbers) => numbers.into_iter().map(|(_, label)| label.to_string()).collect(),
        None => labels.into_iter().map(str::to_string).collect(),
    }
}

/// Loads the list; images keep its order.
///
/// # Errors
/// [`Error::ListLine`] for a line that says something else, [`Error::MissingImages`] for images that are not there.
pub(super) fn load(file: &Path, options: &ClassOptions) -> Result<ClassDataset> {
    memory::ensure("the data set", fs::metadata(file).at("read", file)?.len().saturating_mul(3))?;
    let bytes = fs::read(file).at("read", file)?;
    let list = List { file, bytes: &bytes };
    let (mut rows, repeated) = list.once(list.rows()?)?;
    let mut dataset = ClassDataset { label: DatasetKind::Csv.to_string(), ..ClassDataset::default() };
    if repeated > 0 {
        dataset.warnings.push(format!("{}: {repeated} lines repeat an image, which counts once", file.shown()));
    }
    let test = rows.iter().filter(|row| row.subset == Some(Subset::Test)).count();
    if test > 0 && rows.iter().any(|row| row.subset == Some(Subset::Val)) {
        rows.retain(|row| row.subset != Some(Subset::Test));
        dataset.warnings.push(format!(
            "{}: of the splits val and test, val is used for validation; {test} images of test are left out",
            file.shown()
        ));
    }
    let divided = rows[0].subset.is_some();
    let names_of = |subset: fn(&Row) -> bool| -> BTreeSet<&str> {
        rows.iter().filter(|row| subset(row)).map(|row| row.label.as_str()).collect()
    };
    let trained = names_of(|row| row.subset == Some(Subset::Train));
    if divided && trained.is_empty() && options.subsets == Subsets::All {
        return Err(Error::NoImages { subset: "train", dataset: file.shown().to_string() });
    }
    if divided && !trained.is_empty() {
        let validated = names_of(|row| row.subset != Some(Subset::Train));
        let warning = split::agree(&trained, &validated).or_else(|reason| refuse(file, reason))?;
        dataset.warnings.extend(warning);
    }
    dataset.classes = sorted(names_of(|_| true));
    let labels: BTreeMap<&str, u32> = dataset.classes.iter().map(String::as_str).zip(0..).collect();
    let sample = |row: &Row| Sample { image: ImageSource::File(row.path.clone()), label: labels[row.label.as_str()] };
    if divided {
        let (train, val): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.subset == Some(Subset::Train));
        dataset.val = val.into_iter().map(sample).collect();
        if options.subsets == Subsets::All {
            dataset.train = train.into_iter().map(sample).collect();
        }
    } else {
        let split = split::stratified(rows.iter().map(sample).collect(), &dataset.classes, options);
        dataset.label = split::label(DatasetKind::Csv, options.val_share);
        (dataset.train, dataset.val) = (split.train, split.val);
        dataset.warnings.extend(split.warning);
    }
    match options.subsets {
        Subsets::All => refuse_missing(file, rows.iter().map(|row| row.path.as_path()))?,
        Subsets::Test => refuse_missing(file, dataset.val.iter().map(|sample| sample.image.file()))?,
    }
    Ok(dataset)
}

/// Images that nobody has.
fn refuse_missing<'p>(list: &Path, images: impl ExactSizeIterator<Item = &'p Path>) -> Result<()> {
    let total = images.len();
    let missing: Vec<&Path> = images.filter(|path| !path.is_file()).collect();
    match missing.first() {
        None => Ok(()),
        Some(first) => Err(Error::MissingImages {
            list: list.to_path_buf(),
            missing: missing.len(),
            total,
            first: first.to_path_buf(),
        }),
    }
}
