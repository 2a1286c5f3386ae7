//! Fuzzes files of features, and their labels.

use std::path::Path;

use ptl::base::progress::Reporter;
use ptl::engine::device::Device;
use ptl::eval::calibration::{Calibration, CalibrationInput, CalibrationRates, WantedRate, calibrate};
use ptl::eval::features_file::{FeatureFile, FeatureOrigin, FeatureSet, FeatureTable};
use ptl::eval::ranking::RankingOptions;

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
    FeatureTable { features: &features, dim: 4, paths: &NAMES.map(Into::into), labels, origin: None, names: None }
        .write(&path)
        .unwrap();
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
fn origins_of_features() {
    let origin =
        FeatureOrigin { weights: "0123abcd".into(), settings: [("eval.flip".to_string(), "true".to_string())].into() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.safetensors");
    let (features, paths) = ([0.5; 12], NAMES.map(Into::into));
    FeatureTable { features: &features, dim: 4, paths: &paths, labels: None, origin: Some(&origin), names: None }
        .write(&path)
        .unwrap();
    fuzz("feature-origin", &[std::fs::read(path).unwrap()], |folder, bytes| {
        let mut file = FeatureFile::open(&written(folder, "f.safetensors", bytes), None)?;
        let mut rows = Vec::new();
        file.read(0..file.len().min(1), &mut rows)?;
        assert_eq!(rows.len(), file.len().min(1) * file.dim());
        if let Some(other) = &file.origin {
            let same = FeatureOrigin::check(Path::new("f"), Some(&origin), Some(other), "other").is_ok();
            let flip = other.settings.get("eval.flip").is_none_or(|flip| flip == "true");
            assert_eq!(same, flip && other.weights == origin.weights);
        }
        Ok(())
    });
}

#[test]
fn calibrations() {
    let set = |seed: usize| {
        let features = (0..40).map(|i| ((i * 37 + seed) % 11) as f32 + (i / 8) as f32).collect();
        let pids = (0..20).map(|i| i / 4).collect();
        FeatureSet { features, dim: 2, pids, camids: vec![seed as i64; 20], paths: Vec::new() }
    };
    let rates = CalibrationRates { fmr: vec![0.2], fpir: vec![0.5] };
    let origin = FeatureOrigin { weights: "0123abcd".into(), settings: Default::default() };
    let input = CalibrationInput { query: &set(1), gallery: &set(2), origin: &origin, name: "data" };
    let made = calibrate(input, RankingOptions::default(), &rates, &Device::cpu(), &Reporter::silent()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    made.write(&path).unwrap();
    assert_eq!(Calibration::read(&path).unwrap(), made);
    fuzz("calibration", &[std::fs::read(path).unwrap()], |folder, bytes| {
        let read = Calibration::read(&written(folder, "c.json", bytes))?;
        assert!(read.tables().contains("pairs: "));
        let threshold = read.threshold(WantedRate::Fmr(0.2)).unwrap_or(0.5);
        assert!(read.histogram.rates(threshold).iter().all(|rate| (0.0..=1.0).contains(rate)));
        let again = folder.join("again.json");
        read.write(&again).unwrap();
        assert_eq!(Calibration::read(&again).unwrap(), read);
        Ok(())
    });
}

#[test]
fn labels_of_features() {
    let csv = "path,pid,camid\r\nquery/a.jpg,1,1\r\n\"b, \"\"c\"\".png\", -1, 12\r\nd,e.jpg,5,6\n";
    let features = seed("f.npy", false);
    fuzz("feature-labels", &[csv.into(), NAMES.join("\n").into()], |folder, bytes| {
        read(&written(folder, "f.npy", &features), Some(&written(folder, "labels.csv", bytes)))
    });
}
