//! A CSV file that lists images with their classes, and with their subsets if it has a column for them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use csv::StringRecord;

use super::names::unify;
use super::{ClassDataset, ClassOptions, refuse, split};
use crate::base::error::IoContext;
use crate::base::text::{Shown, are, listed, plural};
use crate::base::text_table::{TextTable, byte, column, field, fields, within_line};
use crate::base::{input, memory};
use crate::data::folder::{PassedBy, images_below};
use crate::data::named::{Finder, advice};
use crate::data::{DatasetKind, ImageSource, Sample, Subsets};
use crate::{Error, Result};

/// Names of each column, in lower case; the first that exists is used.
const PATH: &[&str] = &["path", "image", "file"];
const LABEL: &[&str] = &["label", "class"];
const SPLIT: &[&str] = &["split"];

/// The file name that takes precedence.
const FILE: &str = "manifest.csv";
/// Bytes that are enough to recognise a list by its header.
const HEADER: u64 = 1 << 16;
/// Bytes of the largest list.
const LARGEST: u64 = 1 << 30;

/// Subset of a row, from its column `split`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subset {
    Train,
    Val,
    Test,
}

/// Indices of the columns.
struct Columns {
    path: usize,
    label: usize,
    split: Option<usize>,
}

struct Row {
    path: PathBuf,
    /// The path as written in the file.
    named: String,
    label: String,
    /// `None` without a column `split`.
    subset: Option<Subset>,
    /// Byte at which the row begins.
    at: usize,
}

/// A file and its table.
struct List<'a> {
    file: &'a Path,
    table: TextTable,
}

/// Finds the list in a folder: `manifest.csv`, or the only CSV file.
///
/// # Errors
/// There is no CSV file, or there are several.
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

/// Finds the only CSV file in a folder that has the columns of a list.
pub(super) fn recognised_in(folder: &Path) -> Option<PathBuf> {
    let mut files = csv_files(folder).ok()?;
    files.retain(|file| header_of(file).is_ok());
    if files.len() == 1 { files.pop() } else { None }
}

/// Says in a sentence for each CSV file in a folder why it is not read, if none was recognised as the list.
pub(super) fn unread_in(folder: &Path) -> Vec<String> {
    let sentence = |file: PathBuf| match header_of(&file) {
        Ok(_) => {
            format!("{} lists images and is not read, as there are several such files: name it to use it", file.shown())
        }
        Err(reason) => format!("{} is not read: {reason}", file.shown()),
    };
    csv_files(folder).unwrap_or_default().into_iter().map(sentence).collect()
}

/// Reads the header of a file. The error is the reason why it is not that of a list.
fn header_of(file: &Path) -> Result<Columns, String> {
    let mut bytes = Vec::new();
    let (stream, _) = input::open(file).map_err(|e| e.to_string())?;
    stream.take(HEADER).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let table = TextTable::new(bytes, has_columns)?;
    match table.header() {
        Ok(Some(header)) => columns(&fields(&header)),
        Ok(None) => Err("it is empty".into()),
        Err(error) => Err(table.explain(&error).1),
    }
}

fn is_table(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ending.eq_ignore_ascii_case("csv") || ending.eq_ignore_ascii_case("tsv")
}

/// Returns `manifest.csv` alone, or else all CSV files.
fn csv_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let manifest = folder.join(FILE);
    if manifest.is_file() {
        return Ok(vec![manifest]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).at("read", folder)? {
        let path = entry.at("read", folder)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && is_table(&path) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Returns whether a header has the columns that a list needs, once or more than once.
fn has_columns(header: &[&str]) -> bool {
    [PATH, LABEL].iter().all(|names| column(header, names) != Ok(None))
}

/// Finds the columns of a list. The error is the reason if one is missing.
fn columns(header: &[&str]) -> Result<Columns, String> {
    header.iter().try_for_each(|field| within_line(field))?;
    let (path, label) = (column(header, PATH)?, column(header, LABEL)?);
    if let (Some(path), Some(label)) = (path, label) {
        return Ok(Columns { path, label, split: column(header, SPLIT)? });
    }
    let lacking = [(path, PATH), (label, LABEL)].into_iter().filter(|(found, _)| found.is_none());
    let lacking: Vec<String> = lacking.map(|(_, names)| format!("no column {}", names.join(" or "))).collect();
    let header: Vec<String> = header.iter().map(|name| name.shown().to_string()).collect();
    Err(format!(
        "it has {} (it has {}): columns are separated by commas, semicolons or tabs",
        lacking.join(" and "),
        header.join(", ")
    ))
}

impl<'a> List<'a> {
    fn new(file: &'a Path, bytes: Vec<u8>) -> Result<List<'a>> {
        match TextTable::new(bytes, has_columns) {
            Ok(table) => Ok(List { file, table }),
            Err(reason) => refuse(file, reason),
        }
    }

    fn wrong(&self, at: usize, reason: String) -> Error {
        Error::ListLine { path: self.file.to_path_buf(), line: self.table.line(at), reason }
    }

    /// Converts an error of the crate `csv`.
    fn of_csv(&self, error: &csv::Error) -> Error {
        let (line, reason) = self.table.explain(error);
        Error::ListLine { path: self.file.to_path_buf(), line, reason }
    }

    /// Reads the header.
    fn columns(&self) -> Result<Columns> {
        let Some(header) = self.table.header().map_err(|e| self.of_csv(&e))? else {
            return Err(self.wrong(0, "it is empty: a header with the columns path and label is needed".into()));
        };
        columns(&fields(&header)).map_err(|reason| self.wrong(0, reason))
    }

    fn rows(&self) -> Result<Vec<Row>> {
        let columns = self.columns()?;
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let mut reader = self.table.reader(false);
        let mut record = StringRecord::new();
        // Skips the header.
        reader.read_record(&mut record).map_err(|e| self.of_csv(&e))?;
        let mut finder = Finder::default();
        let mut rows = Vec::new();
        while reader.read_record(&mut record).map_err(|e| self.of_csv(&e))? {
            let at = byte(record.position());
            let wrong = |reason: String| Err(self.wrong(at, reason));
            for column in [Some(columns.path), Some(columns.label), columns.split].into_iter().flatten() {
                within_line(&record[column]).map_err(|reason| self.wrong(at, reason))?;
            }
            let (path, label) = (field(&record[columns.path]), field(&record[columns.label]));
            if path.is_empty() || label.is_empty() {
                return wrong(format!("its {} is empty", if path.is_empty() { "path" } else { "label" }));
            }
            if path.contains('\0') {
                return wrong(format!("its path {} has a character that no file name has", path.shown()));
            }
            let subset = match columns.split.map(|column| field(&record[column]).to_ascii_lowercase()) {
                None => None,
                Some(name) => match name.as_str() {
                    "train" | "training" => Some(Subset::Train),
                    "val" | "valid" | "validation" => Some(Subset::Val),
                    "test" | "testing" => Some(Subset::Test),
                    other => return wrong(format!("its split is {other:?}: choose train, val or test")),
                },
            };
            rows.push(Row {
                path: finder.find(folder, path),
                named: path.to_string(),
                label: label.to_string(),
                subset,
                at,
            });
        }
        if rows.is_empty() {
            return refuse(self.file, "it lists no image");
        }
        Ok(rows)
    }

    /// Removes rows that repeat another one. Returns the others, and the number of removed rows.
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
                let reason = format!("{} is in line {}, too, {what}", row.path.shown(), self.table.line(*at));
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

/// Sorts names as numbers if all are whole numbers, else by their bytes.
fn sorted(labels: BTreeSet<&str>) -> Vec<String> {
    let numbers: Option<BTreeSet<(i128, &str)>> =
        labels.iter().map(|&label| label.parse().ok().map(|number| (number, label))).collect();
    match numbers {
        Some(numbers) => numbers.into_iter().map(|(_, label)| label.to_string()).collect(),
        None => labels.into_iter().map(str::to_string).collect(),
    }
}

/// Returns a warning about images in `folder` and below that are in no row.
fn unlisted(folder: &Path, rows: &[Row]) -> Option<String> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    let named: HashSet<PathBuf> = rows.iter().filter_map(|row| real(&row.path)).collect();
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

/// Loads the list; images keep its order. Warns of images in `folder` that are not in the list.
///
/// # Errors
/// [`Error::ListLine`] for a wrong line, [`Error::MissingImages`] for images that are not there.
pub(super) fn load(file: &Path, folder: Option<&Path>, options: &ClassOptions) -> Result<ClassDataset> {
    let opened = input::open(file)?;
    memory::ensure("the data set", opened.1.saturating_mul(3))?;
    let list = List::new(file, input::read_opened(file, opened, LARGEST)?)?;
    let mut rows = list.rows()?;
    unify(rows.iter_mut().map(|row| &mut row.label));
    let (mut rows, repeated) = list.once(rows)?;
    let divided = rows[0].subset.is_some();
    let mut dataset = match divided {
        true => ClassDataset { label: DatasetKind::Csv.to_string(), ..ClassDataset::default() },
        false => split::dataset(DatasetKind::Csv, options.val_share),
    };
    if repeated > 0 {
        dataset.warnings.push(format!(
            "{}: {} an image, which counts once",
            file.shown(),
            plural(repeated, "line repeats", "lines repeat")
        ));
    }
    dataset.warnings.extend(folder.and_then(|folder| unlisted(folder, &rows)));
    let test = rows.iter().filter(|row| row.subset == Some(Subset::Test)).count();
    if test > 0 && rows.iter().any(|row| row.subset == Some(Subset::Val)) {
        rows.retain(|row| row.subset != Some(Subset::Test));
        dataset.warnings.push(format!(
            "{}: of the splits val and test, val is used for validation; {} of test {} left out",
            file.shown(),
            plural(test, "image", "images"),
            are(test)
        ));
    }
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
        (dataset.train, dataset.val) = (split.train, split.val);
        dataset.warnings.extend(split.warning);
    }
    let used: HashSet<&Path> = match options.subsets {
        Subsets::All => rows.iter().map(|row| row.path.as_path()).collect(),
        Subsets::Test => dataset.val.iter().map(|sample| sample.image.file()).collect(),
    };
    let missing: Vec<&Row> =
        rows.iter().filter(|row| used.contains(row.path.as_path()) && !row.path.exists()).collect();
    match missing.first() {
        None => Ok(dataset),
        Some(first) => Err(Error::MissingImages {
            list: file.to_path_buf(),
            missing: missing.len(),
            total: used.len(),
            first: first.path.clone(),
            advice: advice(&first.named),
        }),
    }
}
