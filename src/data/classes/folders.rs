//! One folder of images for each class, with or without folders for training and validation above.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::names::same_text;
use super::{ClassDataset, ClassOptions, refuse, split};
use crate::Result;
use crate::base::error::IoContext;
use crate::base::text::{Shown, are, listed, plural};
use crate::data::folder::{self, ENDINGS, Entry, PassedBy, images_below};
use crate::data::{DatasetKind, ImageSource, Sample, Subsets};

/// Names of a folder of training images, in lower case.
const TRAIN: [&str; 2] = ["train", "training"];
/// Names of a folder of validation images, in lower case; the first that exists is used.
const VAL: [&str; 5] = ["val", "valid", "validation", "test", "testing"];

/// The entries of a folder, without hidden ones.
struct Listing {
    /// Names and paths, sorted by the bytes of the names.
    folders: Vec<(String, PathBuf)>,
    images: usize,
    /// What was left out, in the folder and below.
    passed: PassedBy,
}

/// Folders of one subset by class, and the images in each.
type Classes = Vec<(String, Vec<PathBuf>)>;

fn list(folder: &Path) -> Result<Listing> {
    let mut listing = Listing { folders: Vec::new(), images: 0, passed: PassedBy::default() };
    let real = fs::canonicalize(folder).at("read", folder)?;
    for (path, kind) in folder::entries(folder)? {
        match folder::entry(&path, kind, &mut listing.passed) {
            Entry::LinkedFolder if folder::leads_up(&path, &real) => listing.passed.leads_back(path),
            // The folder of a class may be a link: collections are often assembled like this.
            Entry::Folder | Entry::LinkedFolder => match path.file_name().and_then(|name| name.to_str()) {
                Some(name) => listing.folders.push((name.to_string(), path)),
                None => return refuse(&path, "its name, which would be a class, is no UTF-8 text: rename it"),
            },
            Entry::Image => listing.images += 1,
            Entry::Other => {}
        }
    }
    listing.folders.sort();
    Ok(listing)
}

/// Returns whether there is any folder.
pub(super) fn any(root: &Path) -> Result<bool> {
    Ok(!list(root)?.folders.is_empty())
}

/// Folders of training and validation images, if the data set has them.
struct Divided {
    train: Option<PathBuf>,
    val: Option<PathBuf>,
    warnings: Vec<String>,
}

/// Finds folders of training and validation images. As a class may be called `train`, a folder of that name counts only together with
/// one for validation, or if it is the only folder.
fn divided(root: &Path, listing: &Listing, subsets: Subsets) -> Result<Option<Divided>> {
    let named = |names: &[&str]| -> Vec<&(String, PathBuf)> {
        let of = |name: &&str| listing.folders.iter().filter(|(folder, _)| folder.eq_ignore_ascii_case(name)).collect();
        names.iter().flat_map(|name: &&str| -> Vec<_> { of(name) }).collect()
    };
    let (train, val) = (named(&TRAIN), named(&VAL));
    let others = listing.folders.len() - train.len() - val.len();
    if train.is_empty() && !val.is_empty() && others == 0 {
        if subsets == Subsets::All {
            return refuse(root, format!("it has the folder {} and none called train", val[0].0));
        }
    } else if train.is_empty() || (val.is_empty() && others > 0) {
        return Ok(None);
    }
    if let [(a, _), (b, _), ..] = train[..] {
        return refuse(root, format!("it has the folders {a} and {b}: keep the one that is meant"));
    }
    let mut warnings = Vec::new();
    if val.len() > 1 {
        let names: Vec<&str> = val.iter().map(|(name, _)| name.as_str()).collect();
        let unused = counted(&val[1..])?;
        let unused = if unused.is_empty() { unused } else { format!("; images that are not read: {unused}") };
        warnings.push(format!(
            "{}: of the folders {}, {} is used for validation{unused}",
            root.shown(),
            names.join(" and "),
            names[0]
        ));
    }
    let used: Vec<&String> = train.iter().chain(&val).map(|(name, _)| name).collect();
    let others: Vec<&(String, PathBuf)> = listing.folders.iter().filter(|(name, _)| !used.contains(&name)).collect();
    let beside = counted(&others)?;
    if !beside.is_empty() || listing.images > 0 {
        let loose = if listing.images > 0 { format!("{} in no folder", listing.images) } else { String::new() };
        let parts: Vec<String> = [beside, loose].into_iter().filter(|part| !part.is_empty()).collect();
        warnings.push(format!(
            "{}: images beside the folders {} are not read ({})",
            root.shown(),
            listed(&used),
            parts.join(", ")
        ));
    }
    let path = |found: &[&(String, PathBuf)]| found.first().map(|(_, path)| path.clone());
    Ok(Some(Divided { train: path(&train), val: path(&val), warnings }))
}

/// Counts the images in each of these folders, and lists those that have any.
fn counted(folders: &[&(String, PathBuf)]) -> Result<String> {
    let mut parts = Vec::new();
    for (name, path) in folders {
        let images = images_below(path, &mut PassedBy::default())?.len();
        parts.extend((images > 0).then(|| format!("{images} in {}", name.shown())));
    }
    Ok(if parts.is_empty() { String::new() } else { listed(parts) })
}

/// Lists the images of each class folder in `folder`, and warns of images beside the folders.
fn classes_in(folder: &Path, mut listing: Listing, warnings: &mut Vec<String>) -> Result<Classes> {
    if listing.folders.is_empty() {
        let reason = match listing.images {
            0 => format!("it has no folder for each class{}", listing.passed.hint()),
            n => {
                let above = folder::with_images(folder.canonicalize().ok().as_deref().and_then(Path::parent));
                let above = above.filter(|(_, folders)| folders.len() > 1).map_or(String::new(), |(above, _)| {
                    format!(", or name the folder above, {}, if it is one of its classes", above.shown())
                });
                format!(
                    "it has {} without a class: put those of each class into a folder of its name{above}",
                    plural(n, "image", "images")
                )
            }
        };
        return refuse(folder, reason);
    }
    if listing.images > 0 {
        warnings.push(format!(
            "{}: {} beside the class folders {} left out",
            folder.shown(),
            plural(listing.images, "image", "images"),
            are(listing.images)
        ));
    }
    let mut classes = Vec::new();
    for (name, path) in listing.folders {
        classes.push((name, images_below(&path, &mut listing.passed)?));
    }
    warnings.extend(listing.passed.warnings(folder));
    Ok(classes)
}

/// Refuses a folder whose only class is itself a folder of classes.
fn refuse_nested(root: &Path, folder: &Path, classes: &Classes) -> Result<()> {
    let [(only, _)] = &classes[..] else { return Ok(()) };
    let mut inner = folder.join(only);
    // Links may form a circle.
    for _ in 0..8 {
        let [one] = &folder::subfolders(&inner)[..] else { break };
        inner = one.clone();
    }
    let Some((inner, classes)) = folder::with_images(Some(&inner)).filter(|(_, classes)| classes.len() > 1) else {
        return Ok(());
    };
    let names =
        listed(classes.iter().map(|class| class.file_name().unwrap_or_default().to_string_lossy().shown().to_string()));
    let way_out = match root == folder {
        true => format!("name that folder, {}", inner.shown()),
        false => format!("they must be directly in {}", folder.shown()),
    };
    refuse(
        folder,
        format!(
            "its only class would be {}, but the folders of the classes are below it ({names}): {way_out}",
            only.shown()
        ),
    )
}

/// Refuses a class without images: every class is trained.
fn refuse_empty(folder: &Path, classes: &Classes) -> Result<()> {
    match classes.iter().find(|(_, images)| images.is_empty()) {
        None => Ok(()),
        Some((name, _)) => refuse(
            &folder.join(name),
            format!("it has no image ({}): a class needs one, remove the folder if it is none", ENDINGS.join(", ")),
        ),
    }
}

fn samples(classes: Classes, names: &[String]) -> Vec<Sample> {
    let of_class = |(name, images): (String, Vec<PathBuf>)| {
        let label = names.binary_search(&name).map_or(u32::MAX, |label| label as u32);
        images.into_iter().map(move |path| Sample { image: ImageSource::File(path), label })
    };
    classes.into_iter().flat_map(of_class).collect()
}

fn names(classes: &Classes) -> Vec<String> {
    classes.iter().map(|(name, _)| name.clone()).collect()
}

/// Loads the folders.
///
/// # Errors
/// A folder cannot be read, is no class or has none; a class has no image, or images for validation only.
pub(super) fn load(root: &Path, options: &ClassOptions) -> Result<ClassDataset> {
    let listing = list(root)?;
    if let Some((name, _)) = listing.folders.iter().find(|(name, _)| name.starts_with("bounding_box_")) {
        return refuse(root, format!("its folder {name} is one of a re-identification data set: use `task` reid"));
    }
    let Some(Divided { train, val, warnings }) = divided(root, &listing, options.subsets)? else {
        return held_out(root, root, listing, options);
    };
    let Some(val) = val else {
        let train = train.unwrap_or_else(|| root.to_path_buf());
        let listing = list(&train)?;
        let mut dataset = held_out(root, &train, listing, options)?;
        dataset.warnings.extend(warnings);
        return Ok(dataset);
    };
    let mut dataset = ClassDataset { label: DatasetKind::ClassFolders.to_string(), ..ClassDataset::default() };
    dataset.warnings.extend(warnings);
    let mut val_classes = classes_in(&val, list(&val)?, &mut dataset.warnings)?;
    val_classes.retain(|(_, images)| !images.is_empty());
    match train {
        Some(train) if options.subsets == Subsets::All => {
            let classes = classes_in(&train, list(&train)?, &mut dataset.warnings)?;
            refuse_nested(root, &train, &classes)?;
            refuse_empty(&train, &classes)?;
            dataset.classes = names(&classes);
            dataset.train = samples(classes, &dataset.classes);
        }
        // Images for training need not be there, but their folders tell the classes.
        Some(train) => dataset.classes = list(&train)?.folders.into_iter().map(|(name, _)| name).collect(),
        None => dataset.classes = names(&val_classes),
    }
    if dataset.classes.is_empty() {
        dataset.classes = names(&val_classes);
    }
    same_text(val_classes.iter_mut().map(|(name, _)| name), &dataset.classes);
    let trained: BTreeSet<&str> = dataset.classes.iter().map(String::as_str).collect();
    let validated: BTreeSet<&str> = val_classes.iter().map(|(name, _)| name.as_str()).collect();
    let warning = split::agree(&trained, &validated).or_else(|reason| refuse(root, reason))?;
    dataset.warnings.extend(warning);
    dataset.val = samples(val_classes, &dataset.classes);
    Ok(dataset)
}

/// Loads class folders in `folder` that have no validation images of their own.
fn held_out(root: &Path, folder: &Path, listing: Listing, options: &ClassOptions) -> Result<ClassDataset> {
    let mut dataset = split::dataset(DatasetKind::ClassFolders, options.val_share);
    let classes = classes_in(folder, listing, &mut dataset.warnings)?;
    if options.subsets == Subsets::All {
        refuse_nested(root, folder, &classes)?;
    }
    refuse_empty(folder, &classes)?;
    dataset.classes = names(&classes);
    let split = split::stratified(samples(classes, &dataset.classes), &dataset.classes, options);
    (dataset.train, dataset.val) = (split.train, split.val);
    dataset.warnings.extend(split.warning);
    Ok(dataset)
}
