//! Folders in the layout of Market-1501 (`bounding_box_train`, `query`, `bounding_box_test`), as most re-identification data
//! sets come or are converted to.

use std::fs;
use std::path::Path;

use super::dataset::{Dataset, ImageRecord, listed};
use crate::error::IoContext;
use crate::{Error, Result};

/// Endings of image files, in lower case.
pub(super) const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "bmp", "ppm"];
/// Images that belong to nobody's evaluation: dropped, as the data set's authors ask.
const JUNK: i64 = -1;
/// False detections: they stay in the gallery and match nothing.
const DISTRACTOR: i64 = 0;

/// Identity and camera of a name like `0002_c1s1_000451_03.jpg`, `-1_c10s1_..` or `0001_c2_f0046182.jpg`.
pub(crate) fn parse_name(name: &str) -> Option<(i64, i64)> {
    let (pid, rest) = name.split_once('_')?;
    let camera = rest.strip_prefix(['c', 'C'])?;
    let digits = camera.len() - camera.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    Some((pid.parse().ok()?, camera[..digits].parse().ok()?))
}

/// Loads a data set; file names are sorted by their bytes, so labels and order never depend on the file system.
///
/// # Errors
/// The folder or a part of it is missing or unreadable, or holds no image.
pub fn load_market(root: &Path) -> Result<Dataset> {
    let mut dataset = Dataset { name: root.display().to_string(), ..Dataset::default() };
    if !root.is_dir() {
        return Err(Error::NotADataset { path: root.to_path_buf(), reason: "there is no such folder".into() });
    }
    for (subset, folder) in [("train", "bounding_box_train"), ("query", "query"), ("gallery", "bounding_box_test")] {
        let path = root.join(folder);
        if !path.is_dir() {
            return Err(Error::NotADataset {
                path: root.to_path_buf(),
                reason: format!(
                    "it has no folder {folder}; expected are bounding_box_train, query and bounding_box_test"
                ),
            });
        }
        let mut records = Vec::new();
        let mut unparsed = Vec::new();
        for entry in fs::read_dir(&path).at("read", &path)? {
            let entry = entry.at("read", &path)?;
            let (file, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let ending = file.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
            if name.starts_with('.') || !ENDINGS.contains(&ending.as_str()) || !file.is_file() {
                continue;
            }
            match parse_name(&name) {
                Some((JUNK, _)) => {}
                Some((DISTRACTOR, _)) if subset != "gallery" => {}
                Some((pid, camid)) if pid >= DISTRACTOR => records.push(ImageRecord { path: file, pid, camid }),
                _ => unparsed.push(name.into_owned()),
            }
        }
        if !unparsed.is_empty() {
            unparsed.sort();
            dataset.warnings.push(format!(
                "{}: {} names do not read as PPPP_cC..., they are left out ({})",
                path.display(),
                unparsed.len(),
                listed(&unparsed)
            ));
        }
        if records.is_empty() {
            let hint = if unparsed.is_empty() {
                "no image in it"
            } else {
                "no image with a name like 0002_c1s1_000451_03.jpg"
            };
            return Err(Error::NotADataset { path, reason: hint.into() });
        }
        records.sort_by(|a, b| a.path.as_os_str().as_encoded_bytes().cmp(b.path.as_os_str().as_encoded_bytes()));
        match subset {
            "train" => dataset.train = records,
            "query" => dataset.query = records,
            _ => dataset.gallery = records,
        }
    }
    dataset.warn_of_oddities();
    Ok(dataset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_identity_and_camera() {
        let cases = [
            ("0002_c1s1_000451_03.jpg", Some((2, 1))),
            ("-1_c3s2_000001_00.jpg", Some((-1, 3))),
            ("0000_c6s4_010_01.jpg", Some((0, 6))),
            ("0012_c10s1_000001_00.png", Some((12, 10))),
            ("0001_c2_f0046182.jpg", Some((1, 2))),
            ("0001_C12_x.JPG", Some((1, 12))),
            ("0001_s2.jpg", None),
            ("abc_c1.jpg", None),
            ("0001.jpg", None),
            ("0001_c_1.jpg", None),
        ];
        for (name, expected) in cases {
            assert_eq!(parse_name(name), expected, "{name}");
        }
    }

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for part in ["bounding_box_train", "query", "bounding_box_test"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        for file in files {
            fs::write(folder.path().join(file), b"").unwrap();
        }
        folder
    }

    #[test]
    fn junk_is_dropped_distractors_stay_in_the_gallery_and_oddities_are_named() {
        let folder = tree(&[
            "bounding_box_train/0003_c1s1_1_0.jpg",
            "bounding_box_train/0001_c2s1_1_0.jpg",
            "bounding_box_train/0001_c11s1_1_0.JPG",
            "bounding_box_train/0000_c1s1_1_0.jpg",
            "bounding_box_train/Thumbs.db",
            "bounding_box_train/holiday.jpg",
            "query/0002_c1s1_1_0.jpg",
            "query/0009_c1s1_1_0.jpg",
            "bounding_box_test/0002_c2s1_1_0.jpg",
            "bounding_box_test/0000_c2s1_1_0.jpg",
            "bounding_box_test/-1_c2s1_1_0.jpg",
            "bounding_box_test/0009_c1s1_2_0.jpg",
        ]);
        let dataset = load_market(folder.path()).unwrap();
        let ids = |records: &[ImageRecord]| records.iter().map(|r| (r.pid, r.camid)).collect::<Vec<_>>();
        assert_eq!(ids(&dataset.train), [(1, 11), (1, 2), (3, 1)]);
        assert_eq!(ids(&dataset.gallery), [(0, 2), (2, 2), (9, 1)]);
        assert_eq!(dataset.train_pids(), [1, 3]);
        let warnings = dataset.warnings.join("\n");
        for part in ["holiday.jpg", "1 training identities have one image", "1 queries (50.0 %)"] {
            assert!(warnings.contains(part), "{part} in\n{warnings}");
        }
        assert!(dataset.check_for_training(2).is_ok() && dataset.check_for_evaluation().is_ok());
        let error = dataset.check_for_training(3).unwrap_err().to_string();
        assert!(error.contains("2 training identities") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_wrong_folder_is_named_with_what_is_missing() {
        let error = |path: &Path| load_market(path).unwrap_err().to_string();
        let folder = tempfile::tempdir().unwrap();
        assert!(error(&folder.path().join("none")).contains("no such folder"));
        assert!(error(folder.path()).contains("no folder bounding_box_train"));
        assert!(error(tree(&[]).path()).contains("no image in it"));
    }

    #[test]
    fn queries_that_no_other_camera_saw_stop_the_evaluation() {
        let folder = tree(&[
            "bounding_box_train/0001_c2s1_1_0.jpg",
            "query/0002_c1s1_1_0.jpg",
            "bounding_box_test/0002_c1s1_1_0.jpg",
        ]);
        let error = load_market(folder.path()).unwrap().check_for_evaluation().unwrap_err().to_string();
        assert!(error.contains("another camera"), "{error}");
    }
}
