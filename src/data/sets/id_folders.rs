//! A folder of images for each identity, or names of files that tell identities.

use std::path::{Path, PathBuf};

use super::listed::{self, Listed, Part};
use super::name_pattern::{NamePattern, Told};
use crate::base::text::{Shown, are, listed as shortened, plural};
use crate::data::folder::{PassedBy, images_below, subfolders};
use crate::data::{Dataset, DatasetKind, LoadOptions};
use crate::{Error, Result};

/// Images that are left out, by the reason.
#[derive(Default)]
struct LeftOut {
    outside: Vec<PathBuf>,
    unmatched: Vec<PathBuf>,
    loose: Vec<PathBuf>,
}

/// Returns the part that a folder of this name holds.
fn part_of(name: &str) -> Option<Part> {
    match name.to_ascii_lowercase().as_str() {
        "bounding_box_train" => Some(Part::Train),
        "bounding_box_test" => Some(Part::Gallery),
        name => Part::of(name).ok(),
    }
}

/// Returns whether `root` has a folder for a part.
fn is_divided(root: &Path) -> bool {
    subfolders(root)
        .iter()
        .any(|folder| folder.file_name().is_some_and(|name| part_of(&name.to_string_lossy()).is_some()))
}

/// Loads `train/ID/**`, `query/ID/**`, `gallery/ID/**` and `test/ID/**`, or `ID/**` where there are no such folders. With a pattern, names
/// tell what it has groups for.
///
/// # Errors
/// [`Error::Setting`] for a pattern that cannot work; [`Error::NotADataset`] if no image has an identity or a split is unknown; a folder cannot be
/// read.
pub(super) fn load(root: &Path, options: &LoadOptions) -> Result<Dataset> {
    let wrong = |path: &Path, reason: String| Error::NotADataset { path: path.to_path_buf(), reason };
    let pattern = options.name_pattern.as_deref().map(NamePattern::new).transpose()?;
    let splits_by_name = pattern.as_ref().is_some_and(|pattern| pattern.has("split"));
    let divided = !splits_by_name && is_divided(root);
    let mut passed = PassedBy::default();
    let mut left_out = LeftOut::default();
    let mut images = Vec::new();
    let files = images_below(root, &mut passed)?;
    if files.is_empty() {
        return Err(wrong(root, format!("no image in it{}", passed.hint())));
    }
    for path in files {
        let below = path.strip_prefix(root).unwrap_or(&path);
        let mut names: Vec<String> = below.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let mut part = None;
        if divided {
            part = if names.len() > 1 { part_of(&names[0]) } else { None };
            if part.is_none() {
                left_out.outside.push(path);
                continue;
            }
            names.remove(0);
        }
        let name = names.join("/");
        let told = match &pattern {
            None => Told { id: None, camera: None, split: None },
            Some(pattern) => match pattern.told(&name) {
                Some(told) if !splits_by_name || told.split.is_some() => told,
                _ => {
                    left_out.unmatched.push(path);
                    continue;
                }
            },
        };
        let folder = (names.len() > 1).then(|| names[0].as_str());
        // A group that found nothing is no reason to take the folder.
        let has_id = pattern.as_ref().is_some_and(|pattern| pattern.has("id"));
        if has_id && told.id.is_none() {
            left_out.unmatched.push(path);
            continue;
        }
        let Some(id) = told.id.or(folder) else {
            left_out.loose.push(path);
            continue;
        };
        if let Some(word) = told.split {
            part = Some(Part::of(word).map_err(|reason| wrong(&path, reason))?);
        }
        Listed::check_id(id).map_err(|reason| wrong(&path, reason))?;
        images.push(Listed { id: id.to_string(), camera: told.camera.map(str::to_string), path, part });
    }
    check(root, &images, &left_out)?;
    let label = match &pattern {
        Some(_) => format!("{}, names by pattern", DatasetKind::IdFolders),
        None => DatasetKind::IdFolders.to_string(),
    };
    let mut dataset = listed::dataset(root, images, label, options)?;
    let mut warnings = passed.warnings(root);
    warnings.extend(left_out.warnings(root));
    dataset.warnings.splice(0..0, warnings);
    dataset.kind = DatasetKind::IdFolders;
    Ok(dataset)
}

/// Refuses a folder whose images all are left out, or of which some have a camera and others not.
fn check(root: &Path, images: &[Listed], left_out: &LeftOut) -> Result<()> {
    let refuse = |reason: String| Err(Error::NotADataset { path: root.to_path_buf(), reason });
    let without = images.iter().find(|image| image.camera.is_none());
    if let Some(without) = without.filter(|_| images.iter().any(|image| image.camera.is_some())) {
        return refuse(format!(
            "the pattern tells a camera or sequence of some images, but not of {}: write it so that it tells one of all",
            without.path.shown()
        ));
    }
    if !images.is_empty() {
        return Ok(());
    }
    if let Some(first) = left_out.unmatched.first() {
        let below = first.strip_prefix(root).unwrap_or(first);
        return refuse(format!(
            "`data.name_pattern` matches no image; the first is {}, as the pattern sees it below the folder, or below the one of its split",
            below.shown()
        ));
    }
    match left_out.loose.first() {
        Some(first) => refuse(format!(
            "{} is in no folder of an identity: make a folder for each, or tell identities by `data.name_pattern`",
            first.shown()
        )),
        None => refuse("no image in the folders of its splits".into()),
    }
}

impl LeftOut {
    /// Returns a sentence for each reason.
    fn warnings(&self, root: &Path) -> Vec<String> {
        let reasons = [
            (&self.outside, "outside of the folders of splits (train, query, gallery, test)"),
            (&self.unmatched, "not matched by the pattern"),
            (&self.loose, "in no folder of an identity"),
        ];
        let found = reasons.into_iter().filter(|(paths, _)| !paths.is_empty());
        found
            .map(|(paths, reason)| {
                format!(
                    "{}: {} {reason} {} left out ({})",
                    root.shown(),
                    plural(paths.len(), "image", "images"),
                    are(paths.len()),
                    shortened(paths.iter().map(|path| path.strip_prefix(root).unwrap_or(path).shown()))
                )
            })
            .collect()
    }
}
