//! VehicleID (Liu et al., CVPR 2016): a folder of images and lists of `name identity`.

use std::path::Path;

use super::lists;
use crate::Result;
use crate::data::dataset::{Dataset, ImageRecord, Protocol};
use crate::data::folder::by_bytes;
use crate::data::named::below;
use crate::data::{DatasetKind, Subsets};

/// Folder of the images.
pub(super) const IMAGES: &str = "image";
/// List of the training images.
const TRAIN: &str = "train_test_split/train_list.txt";

/// Returns the list of the test images of a data set: of the smallest, if it is named without its size.
pub(super) fn test_list(kind: DatasetKind) -> &'static str {
    match kind {
        DatasetKind::VehicleId1600 => "train_test_split/test_list_1600.txt",
        DatasetKind::VehicleId2400 => "train_test_split/test_list_2400.txt",
        _ => "train_test_split/test_list_800.txt",
    }
}

/// Loads the lists. All test images are both queries and gallery; the protocol draws from them. As the data set has no cameras, the camera of an
/// image is its own number.
///
/// # Errors
/// A list is missing, a line is not a name and an identity, or an image is missing.
pub(super) fn load(root: &Path, kind: DatasetKind, subsets: Subsets) -> Result<Dataset> {
    let folder = root.join(IMAGES);
    let read = |list: &str| -> Result<Vec<ImageRecord>> {
        let mut records = lists::images(&root.join(list), true, |line| parse_line(&folder, line))?;
        records.sort_by(|a, b| by_bytes(&a.path, &b.path));
        Ok(records)
    };
    let test = read(test_list(kind))?;
    let train = if subsets == Subsets::All { read(TRAIN)? } else { Vec::new() };
    let (query, gallery, protocol) = (test.clone(), test, Protocol::RandomGallery);
    Ok(Dataset { kind, label: kind.to_string(), train, query, gallery, protocol, ..Dataset::default() })
}

/// Parses a line like `0000001 1`: an image `0000001.jpg` of identity 1.
fn parse_line(folder: &Path, line: &str) -> Result<ImageRecord, String> {
    let mut fields = line.split_whitespace();
    let (Some(name), Some(id), None) = (fields.next(), fields.next(), fields.next()) else {
        return Err("expected the name of an image and an identity".into());
    };
    let pid = id.parse::<u32>().map_err(|_| format!("{id} is no identity: expected a whole number of at least 0"))?;
    let stem = name.strip_suffix(".jpg").unwrap_or(name);
    let number = stem.parse::<u32>().map_err(|_| format!("{name} is no number: VehicleID's images have numbers"))?;
    let path = folder.join(below(folder, &format!("{stem}.jpg"))?);
    Ok(ImageRecord { path, pid: i64::from(pid), camid: i64::from(number) })
}
