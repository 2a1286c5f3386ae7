//! Re-identification data sets: a file for each layout on disk, and one entry point, [`load`].

mod classic;
mod held_out;
mod known;
mod locate;
mod market;
mod msmt17;

use std::path::Path;

use super::{Dataset, DatasetKind, LoadOptions, Subsets};
use crate::Result;
use crate::base::text::Shown;
use locate::Layout;

pub(crate) use classic::{CLASSIC_FILE, ClassicSplits};
pub use known::Verdict;
pub(crate) use market::parse_name;

/// Loads the data set in `root`; if `kind` names one, also from the folder below that its download unpacks to. Images are sorted by the
/// bytes of their paths, so labels and order do not depend on the file system.
///
/// # Errors
/// [`Error::NotADataset`](crate::Error::NotADataset), which says what was searched for and where; a list or file cannot be read;
/// images in a list are missing;
/// [`Error::Setting`](crate::Error::Setting) for more `val_ids` than there are identities to hold out.
pub fn load(root: &Path, kind: DatasetKind, options: &LoadOptions) -> Result<Dataset> {
    let LoadOptions { msmt17_val, split, val_ids, .. } = *options;
    // Held-out identities are training identities.
    let subsets = if val_ids > 0 { Subsets::All } else { options.subsets };
    let (folder, layout) = locate::find(root, kind, subsets)?;
    let mut dataset = match layout {
        Layout::Market => market::load(&folder, kind, subsets)?,
        Layout::Msmt17 => msmt17::load(&folder, msmt17_val, subsets)?,
        Layout::Classic => classic::load(&folder, kind, split, subsets)?,
    };
    dataset.name = root.shown().to_string();
    dataset.root = root.to_path_buf();
    if dataset.kind == DatasetKind::Auto
        && let Verdict::Exact(kind) = dataset.verdict()
    {
        dataset.kind = kind;
        dataset.label = kind.to_string();
    }
    if val_ids > 0 {
        held_out::measure_on(&mut dataset, val_ids, split as u64)?;
    }
    dataset.warn_of_oddities();
    if options.subsets == Subsets::Test {
        dataset.train.clear();
    }
    Ok(dataset)
}

#[cfg(test)]
mod tests;
