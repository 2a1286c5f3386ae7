//! VERI-Wild (Lou et al., CVPR 2019): a folder of images for each vehicle, lists of them, and a file with their cameras.

use std::collections::HashMap;
use std::path::Path;

use super::lists;
use crate::base::text::Shown;
use crate::data::dataset::{Dataset, ImageRecord};
use crate::data::folder::by_bytes;
use crate::data::named::below;
use crate::data::{DatasetKind, Subsets};
use crate::{Error, Result};

/// Folder of the images.
pub(super) const IMAGES: &str = "images";
/// Folder of the lists.
const LISTS: &str = "train_test_split";
/// Cameras and more of each image.
pub(super) const INFO: &str = "train_test_split/vehicle_info.txt";
/// Names of the list of training images.
const TRAIN: [&str; 2] = ["train_list.txt", "train_list_start0.txt"];

/// Returns the number of vehicles in the test of a data set: of the smallest, if it is named without its size.
fn vehicles(kind: DatasetKind) -> usize {
    match kind {
        DatasetKind::VeriWild5000 => 5000,
        DatasetKind::VeriWild10000 => 10000,
        _ => 3000,
    }
}

/// Returns the names that the list of queries may have.
fn query_lists(kind: DatasetKind) -> [String; 2] {
    let n = vehicles(kind);
    [format!("test_{n}_query.txt"), format!("test_{n}_id_query.txt")]
}

/// Loads the lists.
///
/// # Errors
/// A list is missing, a line is not an image that the file of cameras knows, or an image is missing.
pub(super) fn load(root: &Path, kind: DatasetKind, subsets: Subsets) -> Result<Dataset> {
    let n = vehicles(kind);
    let cameras = cameras(&root.join(INFO))?;
    let folder = root.join(IMAGES);
    let read = |names: &[String]| -> Result<Vec<ImageRecord>> {
        let lists = names.iter().map(|name| root.join(LISTS).join(name));
        let Some(list) = lists.into_iter().find(|list| list.is_file()) else {
            let reason = format!("{kind} needs the list {}", names.join(" or "));
            return Err(Error::NotADataset { path: root.join(LISTS), reason });
        };
        let mut records = lists::images(&list, true, |line| parse_line(&folder, &cameras, line))?;
        records.sort_by(|a, b| by_bytes(&a.path, &b.path));
        Ok(records)
    };
    let query = read(&query_lists(kind))?;
    let gallery = read(&[format!("test_{n}.txt"), format!("test_{n}_id.txt")])?;
    let train = if subsets == Subsets::All { read(&TRAIN.map(String::from))? } else { Vec::new() };
    Ok(Dataset { kind, label: kind.to_string(), train, query, gallery, ..Dataset::default() })
}

/// Reads the camera of each image, which is named like `00001/000001`.
fn cameras(info: &Path) -> Result<HashMap<String, i64>> {
    let mut cameras = HashMap::new();
    let mut is_header = true;
    lists::each_line(info, |line| {
        if std::mem::take(&mut is_header) {
            return Ok(());
        }
        let mut fields = line.split(';');
        let (image, camera) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default().trim());
        let camera =
            camera.parse::<u32>().map_err(|_| format!("{camera:?} is no camera: expected image;camera;..."))?;
        match cameras.insert(stem(image).to_string(), i64::from(camera)) {
            Some(other) if other != i64::from(camera) => {
                Err(format!("{} has camera {other} in an earlier line", stem(image).shown()))
            }
            _ => Ok(()),
        }
    })?;
    Ok(cameras)
}

/// Removes the ending, which only some lists have.
fn stem(image: &str) -> &str {
    let image = image.trim();
    image.strip_suffix(".jpg").unwrap_or(image)
}

/// Parses a line like `00001/000001.jpg`: an image of vehicle 1.
fn parse_line(folder: &Path, cameras: &HashMap<String, i64>, line: &str) -> Result<ImageRecord, String> {
    // Some lists have more fields behind the name.
    let image = stem(line.split_whitespace().next().unwrap_or_default());
    let (id, _) = image.split_once('/').ok_or_else(|| format!("{image} is no vehicle/image"))?;
    let pid = id.parse::<u32>().map_err(|_| format!("{id} is no vehicle: expected a whole number"))?;
    let camid =
        *cameras.get(image).ok_or_else(|| format!("{image} is not in vehicle_info.txt, which tells its camera"))?;
    let path = folder.join(below(folder, &format!("{image}.jpg"))?);
    Ok(ImageRecord { path, pid: i64::from(pid), camid })
}
