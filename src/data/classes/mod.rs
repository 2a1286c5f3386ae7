//! Data sets of images with classes: a file for each form on disk, and one entry point, [`load_classes`].

mod checks;
mod cifar;
mod csv_list;
mod folders;
mod labels;
mod locate;
mod mnist;
mod names;
mod packed;
mod split;

use std::path::{Path, PathBuf};

use super::{DatasetKind, Sample, Subsets, image_table};
use crate::base::text::Shown;
use crate::{Error, Result};
pub(super) use checks::IMBALANCE;
use locate::Form;

/// Images of named classes for training and validation.
#[derive(Clone, Debug, Default)]
pub struct ClassDataset {
    /// The folder or file as the user wrote it, with control characters escaped.
    pub name: String,
    /// The folder that the user named, or that of the list.
    pub root: PathBuf,
    /// The form that the user named or that was recognised.
    pub kind: DatasetKind,
    /// Where the validation images come from.
    pub validation: ValidationImages,
    /// Name of the data set in results, for example `cifar10` or `class-folders (20 % of each class for validation)`.
    pub label: String,
    /// Names of the classes, in the order of their labels.
    pub classes: Vec<String>,
    /// Images for training; empty if only the validation images were loaded.
    pub train: Vec<Sample>,
    /// Images for validation.
    pub val: Vec<Sample>,
    /// Warnings from loading, one sentence each.
    pub warnings: Vec<String>,
}

/// Where the validation images come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValidationImages {
    /// The data set has its own.
    #[default]
    Own,
    /// A share of each class is held out of the training images.
    HeldOut,
    /// All images are for validation, and none for training.
    All,
}

/// Options for loading a data set with classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassOptions {
    /// Share of each class that is held out for validation if the data set has no validation images of its own; above 0, below 1.
    /// With `None`, all images of such a data set are for validation.
    pub val_share: Option<f32>,
    /// Seed of the selection of held-out images.
    pub seed: u64,
    /// [`Subsets::Test`] loads validation images alone; those for training need not be there.
    pub subsets: Subsets,
}

/// Loads the images with classes in `root`, a folder or the file of a CSV list. Classes and order do not depend on the file system.
///
/// # Errors
/// [`Error::NotADataset`](crate::Error::NotADataset), which says what was searched for and where, or what is wrong with a file;
/// [`Error::ListLine`](crate::Error::ListLine) for a wrong line of a CSV list; images in a list are missing.
pub fn load_classes(root: &Path, kind: DatasetKind, options: &ClassOptions) -> Result<ClassDataset> {
    let mut dataset = read_classes(root, kind, options)?;
    dataset.warn_of_oddities();
    Ok(dataset)
}

/// Reads images with classes, as [`load_classes`] does, without looking for what is allowed but usually a mistake.
///
/// # Errors
/// As [`load_classes`].
pub(crate) fn read_classes(root: &Path, kind: DatasetKind, options: &ClassOptions) -> Result<ClassDataset> {
    let recognised = kind == DatasetKind::Auto;
    let (kind, form) = locate::find(root, kind)?;
    let mut dataset = match form {
        Form::Folders => {
            let mut dataset = folders::load(root, options)?;
            if recognised {
                dataset.warnings.extend(image_table::unread_in(root, &csv_list::COLUMNS));
            }
            dataset
        }
        Form::Cifar(place) => cifar::load(&place, options.subsets)?,
        Form::Mnist(folder) => mnist::load(&folder, options.subsets)?,
        Form::Csv(file) => {
            // A list that the user named may be one of several in its folder, so images that are not in it are no mistake.
            let whole = root.is_dir() && options.subsets == Subsets::All;
            csv_list::load(&file, whole.then_some(root), options)?
        }
    };
    dataset.name = root.shown().to_string();
    dataset.root = if root.is_dir() { root } else { root.parent().unwrap_or(root) }.to_path_buf();
    dataset.kind = kind;
    Ok(dataset)
}

/// Returns an error about a file or folder.
fn refuse<T>(path: &Path, reason: impl Into<String>) -> Result<T> {
    Err(Error::NotADataset { path: path.to_path_buf(), reason: reason.into() })
}

#[cfg(test)]
mod tests;
