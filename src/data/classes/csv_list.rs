//! A CSV file that lists images with their classes, and with their subsets if it has a column for them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use super::{ClassDataset, ClassOptions, refuse, split};
use crate::base::text::{Shown, are, plural};
use crate::data::image_table::{self, Column, ImageTable};
use crate::data::named::unify;
use crate::data::{DatasetKind, ImageSource, Sample, Subsets};
use crate::{Error, Result};

/// The columns beside the paths.
pub(super) const COLUMNS: [Column; 2] =
    [Column { names: &["label", "class"], needed: true }, Column { names: &["split"], needed: false }];

/// Subset of a row, from its column `split`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subset {
    Train,
    Val,
    Test,
}

struct Row {
    image: image_table::Row,
    label: String,
    /// `None` without a column `split`.
    subset: Option<Subset>,
}

impl AsRef<image_table::Row> for Row {
    fn as_ref(&self) -> &image_table::Row {
        &self.image
    }
}

/// Reads label and subset of a row of `table`, which was read with [`COLUMNS`].
fn parsed(table: &ImageTable, image: image_table::Row) -> Result<Row> {
    let [label, split] = &image.fields[..] else { unreachable!("two columns were asked for") };
    let label = label.clone().expect("a needed column");
    let subset = match split.as_ref().map(|name| name.to_ascii_lowercase()).as_deref() {
        None => None,
        Some("train" | "training") => Some(Subset::Train),
        Some("val" | "valid" | "validation") => Some(Subset::Val),
        Some("test" | "testing") => Some(Subset::Test),
        Some(other) => {
            return Err(table.wrong(&image, format!("its split is {other:?}: choose train, val or test")));
        }
    };
    Ok(Row { image, label, subset })
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

/// Loads the list; images keep its order. Warns of images in `folder` that are not in the list.
///
/// # Errors
/// [`Error::ListLine`] for a wrong line, [`Error::MissingImages`] for images that are not there.
pub(super) fn load(file: &Path, folder: Option<&Path>, options: &ClassOptions) -> Result<ClassDataset> {
    let table = ImageTable::read(file, &COLUMNS)?;
    let mut rows = table.rows()?.into_iter().map(|row| parsed(&table, row)).collect::<Result<Vec<_>>>()?;
    unify(rows.iter_mut().map(|row| &mut row.label));
    let (mut rows, repeated) = table.once(rows, |first, again| {
        if first.label != again.label {
            return Some(format!(
                "there with the label {}, here with {}: an image has one class",
                first.label, again.label
            ));
        }
        let differs = first.subset != again.subset;
        differs.then(|| "in another split: validation needs images that do not train".into())
    })?;
    let divided = rows[0].subset.is_some();
    let mut dataset = match divided {
        true => ClassDataset { label: DatasetKind::Csv.to_string(), ..ClassDataset::default() },
        false => split::dataset(DatasetKind::Csv, options.val_share),
    };
    dataset.warnings.extend(repeated);
    let paths = rows.iter().map(|row| row.image.path.as_path());
    dataset.warnings.extend(folder.and_then(|folder| image_table::unlisted(folder, paths)));
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
    let sample =
        |row: &Row| Sample { image: ImageSource::File(row.image.path.clone()), label: labels[row.label.as_str()] };
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
        Subsets::All => rows.iter().map(|row| row.image.path.as_path()).collect(),
        Subsets::Test => dataset.val.iter().map(|sample| sample.image.file()).collect(),
    };
    table.check_images(rows.iter().map(|row| &row.image).filter(|row| used.contains(row.path.as_path())))?;
    Ok(dataset)
}
