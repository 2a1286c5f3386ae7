//! Finds the folder of a data set: the one that the user named, or one below that its download unpacks to.

use std::path::{Path, PathBuf};

use super::classic::CLASSIC_FILE;
use super::market::{self, folders};
use super::msmt17::LISTS;
use super::table::COLUMNS;
use super::{vehicle_id, veri_wild};
use crate::base::text::Shown;
use crate::data::folder::subfolders;
use crate::data::{DatasetKind, Subsets, image_table, list_images};
use crate::{Error, Result};

/// How a data set is laid out on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Folders `bounding_box_train`, `query`, `bounding_box_test`.
    Market,
    /// Folders `image_train`, `image_query`, `image_test`.
    Veri,
    /// Numbered images, and lists of them with identities.
    VehicleId,
    /// A folder for each vehicle, lists, and a file of cameras.
    VeriWild,
    /// Lists of image paths and identities.
    Msmt17,
    /// Images and a file of splits.
    Classic,
    /// A table with a row for each image.
    Table,
    /// A folder for each identity, or names by a pattern.
    IdFolders,
}

/// Layouts that are recognised by names of folders and files, in the order in which they are tried.
const LAYOUTS: [Layout; 6] =
    [Layout::Msmt17, Layout::Classic, Layout::VehicleId, Layout::VeriWild, Layout::Market, Layout::Veri];

impl Layout {
    /// Returns the layout of a named re-identification data set.
    fn of(kind: DatasetKind) -> Option<Layout> {
        use DatasetKind::*;
        match kind {
            Msmt17 => Some(Layout::Msmt17),
            Cuhk03ClassicDetected | Cuhk03ClassicLabeled => Some(Layout::Classic),
            Market1501 | DukeMtmcReid | Cuhk03NpDetected | Cuhk03NpLabeled => Some(Layout::Market),
            Veri776 => Some(Layout::Veri),
            VehicleId800 | VehicleId1600 | VehicleId2400 => Some(Layout::VehicleId),
            VeriWild3000 | VeriWild5000 | VeriWild10000 => Some(Layout::VeriWild),
            Csv => Some(Layout::Table),
            IdFolders => Some(Layout::IdFolders),
            Auto | ClassFolders | Cifar10 | Cifar100 | Mnist => None,
        }
    }

    fn is_in(self, folder: &Path, subsets: Subsets) -> bool {
        match self {
            Layout::Market => folders(&market::MARKET, subsets).iter().all(|(_, name)| folder.join(name).is_dir()),
            Layout::Veri => folders(&market::VERI, subsets).iter().all(|(_, name)| folder.join(name).is_dir()),
            Layout::VehicleId => {
                folder.join(vehicle_id::IMAGES).is_dir()
                    && folder.join(vehicle_id::test_list(DatasetKind::VehicleId800)).is_file()
            }
            Layout::VeriWild => folder.join(veri_wild::IMAGES).is_dir() && folder.join(veri_wild::INFO).is_file(),
            // One list is enough to recognise it; the loader reports missing ones.
            Layout::Msmt17 => LISTS.iter().any(|name| folder.join(name).is_file()),
            Layout::Classic => folder.join(CLASSIC_FILE).is_file(),
            Layout::Table => image_table::recognised_in(folder, &COLUMNS).is_some(),
            Layout::IdFolders => folder.is_dir(),
        }
    }

    fn parts(self, subsets: Subsets) -> &'static str {
        match (self, subsets) {
            (Layout::Market, Subsets::All) => "the folders bounding_box_train, query and bounding_box_test",
            (Layout::Market, Subsets::Test) => "the folders query and bounding_box_test",
            (Layout::Veri, Subsets::All) => "the folders image_train, image_query and image_test",
            (Layout::Veri, Subsets::Test) => "the folders image_query and image_test",
            (Layout::VehicleId, _) => "the folder image and the lists in train_test_split",
            (Layout::VeriWild, _) => "the folder images, and train_test_split with the lists and vehicle_info.txt",
            (Layout::Msmt17, _) => "the lists list_train.txt, list_val.txt, list_query.txt and list_gallery.txt",
            (Layout::Classic, _) => "the file splits.json that `ptl-train convert cuhk03` writes",
            (Layout::Table, _) => "a CSV file with the columns path and id",
            (Layout::IdFolders, _) => "a folder for each identity",
        }
    }
}

/// Folders below the named one that have this data set after its usual download or conversion.
fn usual_folders(kind: DatasetKind) -> &'static [&'static str] {
    match kind {
        DatasetKind::Market1501 => {
            &["Market-1501-v15.09.15", "Market-1501", "Market1501", "market1501", "market1501/Market-1501-v15.09.15"]
        }
        DatasetKind::DukeMtmcReid => &[
            "DukeMTMC-reID",
            "DukeMTMC-reid",
            "dukemtmc-reid",
            "dukemtmcreid",
            "dukemtmc-reid/DukeMTMC-reID",
            "dukemtmcreid/DukeMTMC-reID",
        ],
        DatasetKind::Msmt17 => &["MSMT17_V1", "MSMT17_V2", "MSMT17", "msmt17", "msmt17/MSMT17_V1", "msmt17/MSMT17_V2"],
        DatasetKind::Cuhk03NpDetected => {
            &["detected", "cuhk03-np/detected", "CUHK03-NP/detected", "cuhk03/detected", "cuhk03/cuhk03-np/detected"]
        }
        DatasetKind::Cuhk03NpLabeled => {
            &["labeled", "cuhk03-np/labeled", "CUHK03-NP/labeled", "cuhk03/labeled", "cuhk03/cuhk03-np/labeled"]
        }
        DatasetKind::Cuhk03ClassicDetected => &["classic/detected", "detected", "cuhk03/classic/detected"],
        DatasetKind::Veri776 => &["VeRi", "VeRi-776", "VeRi_with_plate", "veri", "veri776"],
        DatasetKind::VehicleId800 | DatasetKind::VehicleId1600 | DatasetKind::VehicleId2400 => {
            &["VehicleID_V1.0", "VehicleID", "vehicleid", "PKU-VehicleID"]
        }
        DatasetKind::VeriWild3000 | DatasetKind::VeriWild5000 | DatasetKind::VeriWild10000 => {
            &["VERI-Wild", "VeRi-Wild", "VeriWild", "veri-wild", "veriwild"]
        }
        DatasetKind::Cuhk03ClassicLabeled => &["classic/labeled", "labeled", "cuhk03/classic/labeled"],
        _ => &[],
    }
}

/// Finds the folder that has `subsets` of the data set, or the file of a table, and its layout. With `by_name`, names of files tell identities
/// where `kind` leaves that open.
///
/// # Errors
/// [`Error::NotADataset`]: no data set was found, or several.
pub(super) fn find(root: &Path, kind: DatasetKind, subsets: Subsets, by_name: bool) -> Result<(PathBuf, Layout)> {
    let refuse = |reason: String| Err(Error::NotADataset { path: root.to_path_buf(), reason });
    if kind.has_classes() == Some(true) {
        return refuse(format!("{kind} has classes, not identities: add `task` classify"));
    }
    let by_name = by_name && matches!(kind, DatasetKind::Auto | DatasetKind::IdFolders);
    if root.is_file() && by_name {
        return refuse(
            "it is a file, whose columns tell identities: leave `data.name_pattern` out, or name a folder".into(),
        );
    }
    if root.is_file() {
        return match kind {
            DatasetKind::Auto | DatasetKind::Csv => Ok((root.to_path_buf(), Layout::Table)),
            kind => refuse(format!("it is a file: for {kind}, name the folder")),
        };
    }
    if !root.is_dir() {
        return refuse("there is no such folder or file".into());
    }
    if by_name {
        return Ok((root.to_path_buf(), Layout::IdFolders));
    }
    if kind == DatasetKind::Csv {
        return Ok((image_table::file_in(root)?, Layout::Table));
    }
    let Some(layout) = Layout::of(kind) else {
        return match LAYOUTS.into_iter().find(|layout| layout.is_in(root, subsets)) {
            // These have several tests, of which one must be chosen.
            Some(layout @ (Layout::VehicleId | Layout::VeriWild)) => {
                let names = DatasetKind::reid().filter(|&kind| Layout::of(kind) == Some(layout)).map(DatasetKind::name);
                refuse(format!(
                    "it has several tests: choose one by `data.kind`, {}",
                    names.collect::<Vec<_>>().join(", ")
                ))
            }
            Some(layout) => Ok((root.to_path_buf(), layout)),
            None => match image_table::recognised_in(root, &COLUMNS) {
                Some(file) => Ok((file, Layout::Table)),
                None => refuse(nothing_known(root, subsets)),
            },
        };
    };
    if layout.is_in(root, subsets) {
        return Ok((root.to_path_buf(), layout));
    }
    let found = below(root, kind, subsets);
    match &found[..] {
        [folder] => Ok((folder.clone(), layout)),
        [] => {
            let has = match usual_folders(kind) {
                [] => "it does not have that".into(),
                folders => format!("neither it nor one of its folders {} has that", folders.join(", ")),
            };
            refuse(format!("{kind} needs {}: {has}", layout.parts(subsets)))
        }
        several => {
            let list: Vec<String> = several.iter().map(|folder| folder.shown().to_string()).collect();
            refuse(format!("it holds {kind} more than once: name one of {}", list.join(", ")))
        }
    }
}

/// Returns the usual folders that have the data set. On a file system that ignores case, two names may be the same folder.
fn below(root: &Path, kind: DatasetKind, subsets: Subsets) -> Vec<PathBuf> {
    let Some(layout) = Layout::of(kind) else { return Vec::new() };
    let mut found: Vec<PathBuf> = Vec::new();
    let mut real: Vec<PathBuf> = Vec::new();
    for folder in usual_folders(kind).iter().map(|name| root.join(name)).filter(|folder| layout.is_in(folder, subsets))
    {
        let path = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        if !real.contains(&path) {
            real.push(path);
            found.push(folder);
        }
    }
    found
}

/// Says why a folder has no known layout, and which folder may have been meant.
fn nothing_known(root: &Path, subsets: Subsets) -> String {
    let hint = |kind| below(root, kind, subsets).into_iter().next().map(|folder| (kind, folder));
    let hint = DatasetKind::reid().find_map(hint);
    if let Some((kind, folder)) = hint {
        return format!("{kind} seems to be in {}: name that folder, or the data set's name", folder.shown());
    }
    let known = |folder: &Path| LAYOUTS.iter().any(|layout| layout.is_in(folder, subsets));
    let mut inner: Vec<PathBuf> =
        subfolders(root).into_iter().flat_map(|folder| [subfolders(&folder), vec![folder]].concat()).collect();
    inner.sort();
    if let Some(folder) = inner.iter().find(|folder| known(folder)) {
        return format!("there is a data set in {}: name that folder", folder.shown());
    }
    if let Some(above) = root.canonicalize().ok().as_deref().and_then(Path::parent).filter(|above| known(above)) {
        return format!("it is a part of the data set in {}: name that folder", above.shown());
    }
    let is_there = |name: &&str| root.join(name).is_dir();
    let of_market = ["bounding_box_train", "bounding_box_test"].iter().any(is_there);
    if ["train", "gallery", "test"].iter().any(is_there) && !of_market {
        let splits = "it has folders of splits (train, query, gallery or test)";
        return format!("{splits}: if these hold a folder for each identity, name `data.kind` id-folders");
    }
    let missing: Vec<&str> = folders(&market::MARKET, subsets)
        .iter()
        .map(|&(_, name)| name)
        .filter(|name| !root.join(name).is_dir())
        .collect();
    let lists = "nor the lists of MSMT17 or the splits of a converted CUHK03";
    if missing.len() == folders(&market::MARKET, subsets).len() {
        let holds_images = |folder: &PathBuf| list_images(folder).is_ok();
        let folders_of_images = subfolders(root).iter().filter(|folder| holds_images(folder)).take(2).count();
        if folders_of_images == 2 {
            return "its folders hold images: if each is an identity, name `data.kind` id-folders; if they are classes, add `task` classify to train".into();
        }
        let tables: String =
            image_table::unread_in(root, &COLUMNS).iter().map(|reason| format!("; {reason}")).collect();
        return format!(
            "it has no folder {}, {lists}, and no CSV file with the columns path and id{tables}",
            missing.join(", ")
        );
    }
    format!("it has no folder {}; expected are {}", missing.join(", "), Layout::Market.parts(subsets))
}
