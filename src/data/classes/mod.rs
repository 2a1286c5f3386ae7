//! Images with classes: one file for each form they come in, and one entry, [`load_classes`].

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

use super::Sample;
use super::{DatasetKind, Subsets};
use crate::base::text::Shown;
use crate::{Error, Result};
use locate::Form;

/// Images of named classes for training and validation.
#[derive(Clone, Debug, Default)]
pub struct ClassDataset {
    /// The folder or file as it was named, safe to show.
    pub name: String,
    /// The folder that was named, or that of the list.
    pub root: PathBuf,
    /// The form that was named or recognised.
    pub kind: DatasetKind,
    pub validation: ValidationImages,
    /// What results on it should say, for example `cifar10` or `class-folders (20 % of each class for validation)`.
    pub label: String,
    /// Names by label.
    pub classes: Vec<String>,
    /// Empty where only the validation images were asked for.
    pub train: Vec<Sample>,
    pub val: Vec<Sample>,
    /// What looked odd while loading, one sentence each.
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

/// What loading classes needs beside folder and kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassOptions {
    /// Of each class this share is held out where the data set has no validation images of its own; above 0, below 1. `None`
    /// takes all images for validation there.
    pub val_share: Option<f32>,
    /// Of what is held out.
    pub seed: u64,
    /// [`Subsets::Test`]: validation images alone, those for training need not be there.
    pub subsets: Subsets,
}

/// Loads the images with classes in `root`, a folder or, for a CSV list, a file. Classes and order never depend on the file
/// system.
///
/// # Errors
/// [`Error::NotADataset`](crate::Error::NotADataset) says what was looked for and where, or what is wrong with a file;
/// [`Error::ListLine`](crate::Error::ListLine) what is wrong with a line of a CSV list; images that it names but nobody has.
pub fn load_classes(root: &Path, kind: DatasetKind, options: &ClassOptions) -> Result<ClassDataset> {
    let recognised = kind == DatasetKind::Auto;
    let (kind, form) = locate::find(root, kind)?;
    let mut dataset = match form {
        Form::Folders => {
            let mut dataset = folders::load(root, options)?;
            if recognised {
                dataset.warnings.extend(csv_list::unread_in(root));
            }
            dataset
        }
        Form::Cifar(place) => cifar::load(&place, options.subsets)?,
        Form::Mnist(folder) => mnist::load(&folder, options.subsets)?,
        Form::Csv(file) => {
            // A list that is named by itself may be one of several in its folder.
            let whole = root.is_dir() && options.subsets == Subsets::All;
            csv_list::load(&file, whole.then_some(root), options)?
        }
    };
    dataset.name = root.shown().to_string();
    dataset.root = if root.is_dir() { root } else { root.parent().unwrap_or(root) }.to_path_buf();
    dataset.kind = kind;
    dataset.warn_of_oddities();
    Ok(dataset)
}

/// An error about a file or folder.
fn refuse<T>(path: &Path, reason: impl Into<String>) -> Result<T> {
    Err(Error::NotADataset { path: path.to_path_buf(), reason: reason.into() })
}

#[cfg(test)]
mod tests;
