//! A CSV or TSV file that lists images with their identities.

use std::collections::BTreeSet;
use std::path::Path;

use super::listed::{self, Listed, Part};
use crate::base::text::{Shown, listed as shortened, plural};
use crate::data::image_table::{Column, ImageTable, Row, unlisted};
use crate::data::{Dataset, DatasetKind, LoadOptions, Subsets};
use crate::{Error, Result};

/// The columns beside the paths: identity, camera, sequence, split.
pub(super) const COLUMNS: [Column; 4] = [
    Column { names: &["id", "pid", "identity"], needed: true },
    Column { names: &["camera", "camid", "cam", "camera_id", "cam_id"], needed: false },
    Column { names: &["sequence", "tracklet", "encounter", "time", "date"], needed: false },
    Column { names: &["split"], needed: false },
];

/// An image of the table, with its row.
struct Entry {
    row: Row,
    image: Listed,
}

impl AsRef<Row> for Entry {
    fn as_ref(&self) -> &Row {
        &self.row
    }
}

/// Loads the table. With `folder`, warns of images in it that are not in the table.
///
/// # Errors
/// [`Error::ListLine`](crate::Error::ListLine) for a wrong line, [`Error::MissingImages`](crate::Error::MissingImages) for images that are not
/// there; the file cannot be read.
pub(super) fn load(file: &Path, folder: Option<&Path>, options: &LoadOptions) -> Result<Dataset> {
    let table = ImageTable::read(file, &COLUMNS)?;
    let entries = table.rows()?.into_iter().map(|row| entry(&table, row)).collect::<Result<Vec<_>>>()?;
    let (entries, repeated) = table.once(entries, |first, again| {
        let (a, b) = (&first.image, &again.image);
        if a.id != b.id {
            Some(format!("there with the id {}, here with {}: an image has one identity", a.id, b.id))
        } else if a.camera != b.camera {
            Some("there with another camera or sequence".into())
        } else if a.part != b.part {
            Some("in another split; of images in the split test, queries are drawn".into())
        } else {
            None
        }
    })?;
    let [_, camera, sequence, _] = &entries[0].row.fields[..] else { unreachable!("four columns were asked for") };
    if camera.is_none() && sequence.is_some() && entries.len() > 1 {
        let distinct: BTreeSet<&Option<String>> = entries.iter().map(|entry| &entry.image.camera).collect();
        if distinct.len() == entries.len() {
            let reason = "each of its images has a sequence of its own, so none would be left out of a ranking: name sequences that images share, \
                          or leave the column out and count all images by `data.same_camera` keep";
            return Err(Error::NotADataset { path: file.to_path_buf(), reason: reason.into() });
        }
    }
    let label = match (camera, sequence) {
        (None, Some(_)) => "csv (sequences in place of cameras)".to_string(),
        _ => DatasetKind::Csv.to_string(),
    };
    let mut warnings: Vec<String> = repeated.into_iter().collect();
    let mut unread = table.unread_columns()?;
    unread.extend((camera.is_some() && sequence.is_some()).then(|| "the sequence, as there is a camera".to_string()));
    if !unread.is_empty() {
        let columns = plural(unread.len(), "column is", "columns are");
        warnings.push(format!(
            "{}: {columns} not read ({})",
            file.shown(),
            shortened(unread.iter().map(|name| name.shown()))
        ));
    }
    warnings.extend(folder.and_then(|folder| unlisted(folder, entries.iter().map(|entry| entry.row.path.as_path()))));
    let is_used = |entry: &&Entry| options.subsets == Subsets::All || entry.image.part != Some(Part::Train);
    table.check_images(entries.iter().filter(is_used).map(|entry| &entry.row))?;
    let images = entries.into_iter().map(|entry| entry.image).collect();
    let mut dataset = listed::dataset(file, images, label, options)?;
    dataset.warnings.splice(0..0, warnings);
    dataset.kind = DatasetKind::Csv;
    Ok(dataset)
}

/// Reads identity, camera and split of a row.
fn entry(table: &ImageTable, row: Row) -> Result<Entry> {
    let [id, camera, sequence, split] = &row.fields[..] else { unreachable!("four columns were asked for") };
    let id = id.clone().expect("a needed column");
    let wrong = |reason| table.wrong(&row, reason);
    Listed::check_id(&id).map_err(wrong)?;
    let camera = camera.as_ref().or(sequence.as_ref()).cloned();
    if camera.as_deref() == Some("") {
        let column = if row.fields[1].is_some() { "camera" } else { "sequence" };
        return Err(wrong(format!("its {column} is empty: name one in every line, or leave the column out")));
    }
    let part = split.as_deref().map(Part::of).transpose().map_err(wrong)?;
    let image = Listed { path: row.path.clone(), id, camera, part };
    Ok(Entry { row, image })
}
