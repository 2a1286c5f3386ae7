//! Fuzzes files of features, and their labels.

use std::path::Path;

use ptl::eval::features_file::{FeatureSet, FeatureTable};

use super::{fuzz, written};

const NAMES: [&str; 3] = ["query/0002_c1s1_000451_03.jpg", "-1_c3.png", "a, \"b\"/0007_c2s1.jpg"];

fn read(path: &Path, labels: Option<&Path>) -> ptl::Result<()> {
    let mut set = FeatureSet::read(path, labels)?;
    assert_eq!((set.features.len(), set.camids.len()), (set.len() * set.dim, set.len()));
    assert!(set.paths.is_empty() || set.paths.len() == set.len());
    set.drop_junk();
    set.normalize();
    assert_eq!((set.features.len(), set.camids.len()), (set.len() * set.dim, set.len()));
    Ok(())
}

/// Returns three features as this program writes them.
fn seed(name: &str, labels: bool) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let features: Vec<f32> = (0..12).map(|i| i as f32 - 5.5).collect();
    let labels = labels.then_some((&[2, -1, 7][..], &[1, 3, 2][..]));
    FeatureTable { features: &features, dim: 4, paths: &NAMES.map(Into::into), labels }.write(&path).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn npy_files() {
    let dict = b"{'descr': '<f2', 'fortran_order': False, 'shape': (3, 1), }\n";
    let f2 = [&b"\x93NUMPY\x02\x00"[..], &(dict.len() as u32).to_le_bytes(), dict, &[0x3c; 6]];
    fuzz("npy", &[seed("f.npy", false), f2.concat()], |folder, bytes| {
        let labels = written(folder, "f.txt", NAMES.join("\n"));
        read(&written(folder, "f.npy", bytes), Some(&labels))
    });
}

#[test]
fn feature_files_of_safetensors() {
    fuzz(
        "feature-safetensors",
        &["a", "b"].map(|name| seed(&format!("{name}.safetensors"), name == "a")),
        |folder, bytes| read(&written(folder, "f.safetensors", bytes), None),
    );
}

#[test]
fn labels_of_features() {
    let csv = "path,pid,camid\r\nquery/a.jpg,1,1\r\n\"b, \"\"c\"\".png\", -1, 12\r\nd,e.jpg,5,6\n";
    let features = seed("f.npy", false);
    fuzz("feature-labels", &[csv.into(), NAMES.join("\n").into()], |folder, bytes| {
        read(&written(folder, "f.npy", &features), Some(&written(folder, "labels.csv", bytes)))
    });
}
