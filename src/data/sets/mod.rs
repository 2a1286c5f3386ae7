//! Re-identification data sets: a file for each layout on disk, and one entry point, [`load`].

mod classic;
mod held_out;
mod id_folders;
mod known;
mod listed;
mod lists;
mod locate;
mod market;
mod msmt17;
mod name_pattern;
mod table;
mod vehicle_id;
mod veri_wild;

use std::path::Path;

use super::{Dataset, DatasetKind, LoadOptions, Protocol, SameCamera, Subsets};
use crate::base::text::Shown;
use crate::{Error, Result};
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
    let mut dataset = read(root, kind, options)?;
    dataset.warn_of_oddities()?;
    if options.subsets == Subsets::Test {
        dataset.train.clear();
    }
    Ok(dataset)
}

/// Reads the data set in `root`, as [`load`] does, without looking for what is allowed but usually a mistake. With held-out identities, training
/// images are read whatever the subsets.
///
/// # Errors
/// As [`load`].
pub(crate) fn read(root: &Path, kind: DatasetKind, options: &LoadOptions) -> Result<Dataset> {
    let LoadOptions { msmt17_val, split, val_ids, same_camera, .. } = *options;
    // Held-out identities are training identities.
    let subsets = if val_ids > 0 { Subsets::All } else { options.subsets };
    let (place, layout) = locate::find(root, kind, subsets, options.name_pattern.is_some())?;
    let mut dataset = match layout {
        Layout::Market => market::load(&place, kind, &market::MARKET, subsets)?,
        Layout::Veri => market::load(&place, kind, &market::VERI, subsets)?,
        Layout::Msmt17 => msmt17::load(&place, msmt17_val, subsets)?,
        Layout::VehicleId => vehicle_id::load(&place, kind, subsets)?,
        Layout::VeriWild => veri_wild::load(&place, kind, subsets)?,
        Layout::Classic => classic::load(&place, kind, split, subsets)?,
        Layout::Table => {
            // A table that the user named may be one of several in its folder, so images that are not in it are no mistake.
            let whole = root.is_dir() && subsets == Subsets::All;
            table::load(&place, whole.then_some(root), &LoadOptions { subsets, ..options.clone() })?
        }
        Layout::IdFolders => id_folders::load(&place, &LoadOptions { subsets, ..options.clone() })?,
    };
    dataset.name = root.shown().to_string();
    dataset.root = if root.is_dir() { root } else { root.parent().unwrap_or(root) }.to_path_buf();
    if same_camera == SameCamera::Keep {
        if dataset.protocol != Protocol::CrossCamera {
            return Err(Error::Setting {
                setting: "`data.same_camera`".into(),
                value: same_camera.to_string(),
                reason: format!("the protocol of {} draws its galleries at random: leave it out", dataset.label),
            });
        }
        dataset.protocol = Protocol::AnyCamera;
        dataset.label = format!("{}, images of the same camera count", dataset.label);
    }
    if dataset.kind == DatasetKind::Auto
        && let Verdict::Exact(kind) = dataset.verdict()
    {
        dataset.kind = kind;
        dataset.label = kind.to_string();
    }
    if val_ids > 0 {
        held_out::measure_on(&mut dataset, val_ids, split as u64)?;
    }
    Ok(dataset)
}

#[cfg(test)]
mod tests;
