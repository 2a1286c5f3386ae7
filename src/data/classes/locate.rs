//! Recognises the form of a folder or file of images with classes.

use std::path::{Path, PathBuf};

use super::{cifar, csv_list, folders, mnist};
use crate::base::text::Shown;
use crate::data::{DatasetKind, image_table};
use crate::{Error, Result};

/// A form of data set, and where it is.
pub(super) enum Form {
    Folders,
    Cifar(cifar::Place),
    Mnist(PathBuf),
    Csv(PathBuf),
}

/// Finds the data set in `root`: of the given `kind`, or for [`DatasetKind::Auto`] of any.
///
/// # Errors
/// [`Error::NotADataset`]: no data set was found, or several.
pub(super) fn find(root: &Path, kind: DatasetKind) -> Result<(DatasetKind, Form)> {
    let refuse = |reason: String| Err(Error::NotADataset { path: root.to_path_buf(), reason });
    if kind.has_classes() == Some(false) {
        return refuse(format!("{kind} has identities, not classes: it is for `task` reid"));
    }
    if root.is_file() {
        return match kind {
            DatasetKind::Auto | DatasetKind::Csv => Ok((DatasetKind::Csv, Form::Csv(root.to_path_buf()))),
            kind => refuse(format!("it is a file: for {kind}, name the folder")),
        };
    }
    if !root.is_dir() {
        let exists = root.exists();
        return refuse(
            if exists { "it is neither a folder nor a file" } else { "there is no such folder or file" }.into(),
        );
    }
    if kind == DatasetKind::Auto {
        return recognise(root);
    }
    let found = candidates(root, kind)?;
    let usual = match kind {
        DatasetKind::ClassFolders => return Ok((kind, Form::Folders)),
        DatasetKind::Csv => return Ok((kind, Form::Csv(image_table::file_in(root)?))),
        DatasetKind::Mnist => mnist::FILES.to_string(),
        kind => cifar::expected(kind),
    };
    match found.len() {
        0 => refuse(format!("{kind} needs {usual}: unpack its archive, and name the folder that holds them")),
        _ => one(root, kind, found),
    }
}

/// Recognises the data set in a folder: first by the names of files of known data sets, then by the header of a CSV list, then by
/// folders.
fn recognise(root: &Path) -> Result<(DatasetKind, Form)> {
    let refuse = |reason: String| Err(Error::NotADataset { path: root.to_path_buf(), reason });
    let mut known = Vec::new();
    for kind in [DatasetKind::Cifar10, DatasetKind::Cifar100, DatasetKind::Mnist] {
        let found = candidates(root, kind)?;
        if !found.is_empty() {
            known.push((kind, found));
        }
    }
    if known.len() > 1 {
        let names: Vec<&str> = known.iter().map(|(kind, _)| kind.name()).collect();
        return refuse(format!("it holds {}: say by `data.kind` which is meant", names.join(" and ")));
    }
    if let Some((kind, found)) = known.pop() {
        return one(root, kind, found);
    }
    if let Some(file) = image_table::recognised_in(root, &csv_list::COLUMNS) {
        return Ok((DatasetKind::Csv, Form::Csv(file)));
    }
    if folders::any(root)? {
        return Ok((DatasetKind::ClassFolders, Form::Folders));
    }
    let lists: String =
        image_table::unread_in(root, &csv_list::COLUMNS).iter().map(|reason| format!("; {reason}")).collect();
    refuse(format!(
        "it has no folder for each class, no CSV file with the columns path and label, and no files of CIFAR or MNIST{lists}"
    ))
}

/// Returns the folders that have files with the names of a known data set.
fn candidates(root: &Path, kind: DatasetKind) -> Result<Vec<(PathBuf, Form)>> {
    Ok(match kind {
        DatasetKind::Cifar10 | DatasetKind::Cifar100 => {
            cifar::places(root, kind).into_iter().map(|place| (place.folder.clone(), Form::Cifar(place))).collect()
        }
        DatasetKind::Mnist => {
            mnist::folders(root).into_iter().map(|folder| (folder.clone(), Form::Mnist(folder))).collect()
        }
        _ => Vec::new(),
    })
}

/// Returns the only candidate; several are an error.
fn one(root: &Path, kind: DatasetKind, mut found: Vec<(PathBuf, Form)>) -> Result<(DatasetKind, Form)> {
    if found.len() > 1 {
        let folders: Vec<String> = found.iter().map(|(folder, _)| folder.shown().to_string()).collect();
        let reason = format!("it holds files of {kind} more than once: name one of {}", folders.join(", "));
        return Err(Error::NotADataset { path: root.to_path_buf(), reason });
    }
    let (_, form) = found.remove(0);
    Ok((kind, form))
}
