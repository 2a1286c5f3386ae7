//! CIFAR-10 and CIFAR-100 as published: rows of bytes, or Python's pickles of numpy arrays.
//!
//! Source: <https://www.cs.toronto.edu/~kriz/cifar.html>.

mod binary;
mod python;

use std::path::{Path, PathBuf};

use super::packed::{numbers, samples};
use super::{ClassDataset, refuse};
use crate::Result;
use crate::base::text::{Shown, plural};
use crate::base::{input, memory};
use crate::data::{DatasetKind, PackedImages, Sample, Subsets};

/// Images are 32 pixels high and wide.
const SIDE: usize = 32;
/// Bytes of the largest file: the published ones have at most 184 MB.
const LARGEST: u64 = 1 << 30;
/// Bytes of an image.
const IMAGE: usize = 3 * SIDE * SIDE;

/// The two published archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Binary,
    Python,
}

/// Files of one archive.
struct Files {
    /// The folder to which it unpacks.
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// File with the names of the classes.
    names: &'static str,
}

/// A folder with the files of one of the archives.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub folder: PathBuf,
    kind: DatasetKind,
    version: Version,
}

fn files(kind: DatasetKind, version: Version) -> Files {
    match (kind, version) {
        (DatasetKind::Cifar100, Version::Binary) => {
            Files { folder: "cifar-100-binary", train: &["train.bin"], test: "test.bin", names: "fine_label_names.txt" }
        }
        (DatasetKind::Cifar100, Version::Python) => {
            Files { folder: "cifar-100-python", train: &["train"], test: "test", names: "meta" }
        }
        (_, Version::Binary) => Files {
            folder: "cifar-10-batches-bin",
            train: &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            test: "test_batch.bin",
            names: "batches.meta.txt",
        },
        (_, Version::Python) => Files {
            folder: "cifar-10-batches-py",
            train: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
            test: "test_batch",
            names: "batches.meta",
        },
    }
}

fn classes(kind: DatasetKind) -> usize {
    if kind == DatasetKind::Cifar100 { 100 } else { 10 }
}

/// Returns the expected files of `kind`, for errors.
pub(super) fn expected(kind: DatasetKind) -> String {
    let [binary, python] = [Version::Binary, Version::Python].map(|version| {
        let Files { folder, train, test, .. } = files(kind, version);
        format!("{} and {test} (folder {folder})", train.join(", "))
    });
    format!("the files {binary} or {python}")
}

/// Returns the folders that have files of `kind`: `root` itself and the usual ones below. If both archives are there, the binary one is
/// taken: both have the same images.
pub(super) fn places(root: &Path, kind: DatasetKind) -> Vec<Place> {
    let in_version = |version: Version| -> Vec<Place> {
        let files = files(kind, version);
        let holds = |folder: &PathBuf| {
            let mut images = files.train.iter().chain([&files.test]);
            let found = images.any(|name| folder.join(name).is_file());
            // The names `train` and `test` are so common that another sign is needed.
            let common = kind == DatasetKind::Cifar100 && version == Version::Python;
            found && (!common || folder.join(files.names).is_file() || folder.ends_with(files.folder))
        };
        let folders = [root.to_path_buf(), root.join(files.folder)].into_iter().filter(holds);
        folders.map(|folder| Place { folder, kind, version }).collect()
    };
    let binary = in_version(Version::Binary);
    if binary.is_empty() { in_version(Version::Python) } else { binary }
}

/// Loads the images: the batches for training, the test images for validation.
///
/// # Errors
/// A file is missing, truncated, or has other content.
pub(super) fn load(place: &Place, subsets: Subsets) -> Result<ClassDataset> {
    let Place { folder, kind, version } = place;
    let files = files(*kind, *version);
    let train = if subsets == Subsets::All { files.train } else { &[] };
    let missing: Vec<&str> =
        train.iter().chain([&files.test]).copied().filter(|name| !folder.join(name).is_file()).collect();
    if !missing.is_empty() {
        return refuse(folder, format!("{kind} needs {} too: unpack the archive again", missing.join(", ")));
    }
    let mut dataset = ClassDataset { label: kind.to_string(), ..ClassDataset::default() };
    let names = folder.join(files.names);
    dataset.classes = if names.is_file() {
        let found = match version {
            Version::Binary => binary::names(&names)?,
            Version::Python => python::names(&names, *kind)?,
        };
        if found.len() != classes(*kind) {
            return refuse(
                &names,
                format!("it names {}, {kind} has {}", plural(found.len(), "class", "classes"), classes(*kind)),
            );
        }
        found
    } else {
        dataset.warnings.push(format!(
            "{} is not there: classes are called 0 to {}",
            names.shown(),
            classes(*kind) - 1
        ));
        numbers(classes(*kind))
    };
    for name in train {
        dataset.train.extend(images(&folder.join(name), *kind, *version)?);
    }
    dataset.val = images(&folder.join(files.test), *kind, *version)?;
    Ok(dataset)
}

fn images(file: &Path, kind: DatasetKind, version: Version) -> Result<Vec<Sample>> {
    let bytes = read(file)?;
    let (labels, pixels) = match version {
        Version::Binary => binary::images(file, &bytes, kind)?,
        Version::Python => python::images(file, &bytes, kind)?,
    };
    let images = PackedImages { file: file.to_path_buf(), height: SIDE, width: SIDE, channels: 3, pixels };
    samples(images, &labels, classes(kind), file)
}

/// Reads a whole file, if there is enough memory for it and for its images.
fn read(file: &Path) -> Result<Vec<u8>> {
    let opened = input::open(file)?;
    memory::ensure("the data set", opened.1.saturating_mul(3))?;
    input::read_opened(file, opened, LARGEST)
}

/// Appends the image `[3, 32, 32]` to `pixels` as `[32, 32, 3]`.
fn interleave(planes: &[u8], pixels: &mut Vec<u8>) {
    let (red, rest) = planes.split_at(SIDE * SIDE);
    let (green, blue) = rest.split_at(SIDE * SIDE);
    pixels.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
}
