//! Images with classes: one file for each form they come in, and one entry, [`load_classes`].

mod labels;

use super::Sample;
use super::sets::DatasetKind;

/// Images of named classes for training and validation.
#[derive(Clone, Debug, Default)]
pub struct ClassDataset {
    /// The folder or file as it was named.
    pub name: String,
    /// The form that was named or recognised.
    pub kind: DatasetKind,
    /// What results on it should say, for example `cifar10` or `class-folders (20 % of each class for validation)`.
    pub label: String,
    /// Names by label.
    pub classes: Vec<String>,
    pub train: Vec<Sample>,
    pub val: Vec<Sample>,
    /// What looked odd while loading, one sentence each.
    pub warnings: Vec<String>,
}
