//! Tests every form on disk with files that the tests write byte by byte, and the messages of refusals.

mod checks;
mod cifar;
mod csv_list;
mod folders;
mod mnist;

use std::fs;
use std::path::Path;

use super::{ClassDataset, ClassOptions, load_classes};
use crate::data::{DatasetKind, ImageSource, Sample, Subsets};

const ALL: ClassOptions = ClassOptions { val_share: Some(0.2), seed: 7, subsets: Subsets::All };
const TEST: ClassOptions = ClassOptions { subsets: Subsets::Test, ..ALL };

/// Writes a file, and the folders above it.
fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Writes files whose content is their name.
fn touch(root: &Path, names: &[&str]) {
    names.iter().for_each(|name| write(root, name, name));
}

fn load(root: &Path, kind: DatasetKind) -> ClassDataset {
    load_classes(root, kind, &ALL).unwrap()
}

#[track_caller]
fn refused(root: &Path, kind: DatasetKind, parts: &[&str]) {
    let error = load_classes(root, kind, &ALL).expect_err("it should be refused").to_string();
    parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in: {error}"));
}

/// Paths below `root` with labels.
fn shown(root: &Path, samples: &[Sample]) -> Vec<(String, u32)> {
    let path = |sample: &Sample| sample.image.file().strip_prefix(root).unwrap().to_str().unwrap().to_string();
    samples.iter().map(|sample| (path(sample), sample.label)).collect()
}

fn labels(samples: &[Sample]) -> Vec<u32> {
    samples.iter().map(|sample| sample.label).collect()
}

/// Returns the decoded pixels.
fn pixels(sample: &Sample) -> Vec<u8> {
    assert!(matches!(sample.image, ImageSource::Packed { .. }));
    sample.image.decode(false).unwrap().0.pixels
}

#[test]
fn a_folder_of_nothing_known_and_kinds_of_identities_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let auto = DatasetKind::Auto;
    refused(root, auto, &["no folder for each class", "columns path and label", "CIFAR or MNIST"]);
    refused(&root.join("none"), auto, &["there is no such folder or file"]);
    refused(root, DatasetKind::Market1501, &["market1501 has identities", "`task` reid"]);
    refused(root, DatasetKind::Cifar10, &["cifar10 needs", "test_batch.bin", "cifar-10-batches-py", "unpack"]);
    refused(root, DatasetKind::Cifar100, &["cifar100 needs", "train.bin", "cifar-100-python"]);
    refused(root, DatasetKind::Mnist, &["mnist needs", "t10k-labels-idx1-ubyte", "FashionMNIST/raw"]);
    refused(root, DatasetKind::ClassFolders, &["no folder for each class"]);
    touch(root, &["bounding_box_train/0001_c1.jpg", "query/0001_c2.jpg", "bounding_box_test/0001_c1.jpg", "a.jpg"]);
    refused(root, auto, &["bounding_box_test", "`task` reid"]);
    refused(&root.join("a.jpg"), DatasetKind::Mnist, &["it is a file", "name the folder"]);
}

#[test]
fn two_known_data_sets_in_one_folder_must_be_named() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    touch(root, &["cifar-10-batches-bin/test_batch.bin", "MNIST/raw/t10k-images-idx3-ubyte"]);
    refused(root, DatasetKind::Auto, &["it holds cifar10 and mnist", "`data.kind`"]);
    touch(root, &["FashionMNIST/raw/t10k-images-idx3-ubyte"]);
    refused(root, DatasetKind::Mnist, &["more than once", "MNIST/raw", "FashionMNIST/raw"]);
}
