//! MSMT17: image folders and four lists, in the first edition and in the second one, which has blurred faces.

use std::collections::BTreeSet;
use std::path::Path;

use super::lists;
use crate::base::text::listed;
use crate::data::dataset::{Dataset, ImageRecord};
use crate::data::folder::by_bytes;
use crate::data::named::below;
use crate::data::{DatasetKind, Subsets};
use crate::{Error, Result};

/// Lists of `path identity` lines.
pub(super) const LISTS: [&str; 4] = ["list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt"];
/// Folders of training and test images in the first edition, and in the second.
const FOLDERS: [[&str; 2]; 2] = [["train", "test"], ["mask_train_v2", "mask_test_v2"]];
const CAMERAS: std::ops::RangeInclusive<i64> = 1..=15;

/// Loads the lists. Identities of the test lists start from 0 again, so they are moved behind those of the training lists. The training
/// list is read even if it is not used, so that test identities do not depend on `subsets`. Without `with_val`, the validation list is
/// not read. Only images that are used must be there.
///
/// # Errors
/// A list or folder is missing, a line is not a path and an identity, or an image is missing.
pub(super) fn load(root: &Path, with_val: bool, subsets: Subsets) -> Result<Dataset> {
    let refuse = |reason: String| Err(Error::NotADataset { path: root.to_path_buf(), reason });
    let for_training = subsets == Subsets::All;
    let with_val_images = with_val && for_training;
    let needed = LISTS.into_iter().filter(|list| with_val_images || *list != "list_val.txt");
    let missing: Vec<&str> = needed.filter(|list| !root.join(list).is_file()).collect();
    if !missing.is_empty() {
        let way_out = if missing == ["list_val.txt"] { "; `data.msmt17_val` false trains without it" } else { "" };
        return refuse(format!("MSMT17 needs {}, missing {}{way_out}", LISTS.join(", "), missing.join(", ")));
    }
    let is_there = |[train, test]: &[&str; 2]| root.join(test).is_dir() && (!for_training || root.join(train).is_dir());
    let Some([train, test]) = FOLDERS.into_iter().find(is_there) else {
        return refuse(match subsets {
            Subsets::All => "MSMT17 needs the image folders train and test, or mask_train_v2 and mask_test_v2".into(),
            Subsets::Test => "MSMT17's test images are in the folder test or mask_test_v2, there is neither".into(),
        });
    };
    let mut records = read_list(root, train, "list_train.txt", for_training)?;
    let has_val = with_val && root.join("list_val.txt").is_file();
    let val = if has_val { read_list(root, train, "list_val.txt", with_val_images)? } else { Vec::new() };
    let first_test_id = records.iter().chain(&val).map(|r| r.pid + 1).max().unwrap_or(0);
    records.extend(val);
    let moved = |mut records: Vec<ImageRecord>| {
        records.iter_mut().for_each(|r| r.pid += first_test_id);
        records.sort_by(|a, b| by_bytes(&a.path, &b.path));
        records
    };
    let variant = if with_val { "train+val" } else { "train" };
    let mut dataset = Dataset {
        kind: DatasetKind::Msmt17,
        variant,
        label: format!("msmt17 ({}, {variant})", edition(root, train)),
        query: moved(read_list(root, test, "list_query.txt", true)?),
        gallery: moved(read_list(root, test, "list_gallery.txt", true)?),
        ..Dataset::default()
    };
    if for_training {
        records.sort_by(|a, b| by_bytes(&a.path, &b.path));
        dataset.train = records;
    }
    let all = || dataset.train.iter().chain(&dataset.query).chain(&dataset.gallery);
    let strange: BTreeSet<i64> = all().map(|r| r.camid).filter(|camid| !CAMERAS.contains(camid)).collect();
    if !strange.is_empty() {
        dataset.warnings.push(format!("MSMT17 has cameras 1 to 15, but names of files have {}", listed(strange)));
    }
    Ok(dataset)
}

/// Returns `V1` or `V2`. Both editions have the same lists; only the names of folders differ, and some instructions say to rename those
/// of the second edition to `train` and `test`.
fn edition(root: &Path, train: &str) -> &'static str {
    let root = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
    let name = root.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match (train, name.contains("v1"), name.contains("v2")) {
        ("train", false, false) => "V1 by its folders",
        ("train", true, _) => "V1",
        _ => "V2",
    }
}

/// Reads one list. If it is `used`, its images must be there.
fn read_list(root: &Path, folder: &str, list: &str, used: bool) -> Result<Vec<ImageRecord>> {
    let folder = root.join(folder);
    lists::images(&root.join(list), used, |line| {
        let record = parse_line(&folder, line)?;
        Ok(ImageRecord { path: folder.join(&record.path), ..record })
    })
}

/// Parses a line like `0000/0000_045_12_0303morning_0006_2.jpg 0`; the third field of the name is the camera.
fn parse_line(folder: &Path, line: &str) -> std::result::Result<ImageRecord, String> {
    let (name, pid) = line.trim().rsplit_once(char::is_whitespace).ok_or("expected a path and an identity")?;
    let pid = pid.parse::<u32>().map_err(|_| format!("{pid} is no identity: expected a whole number of at least 0"))?;
    let path = below(folder, name.trim_end())?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let camid = file.split('_').nth(2).and_then(|field| field.parse::<u16>().ok()).map(i64::from);
    let camid = camid.ok_or_else(|| format!("{file} has no camera as the third field of its name"))?;
    Ok(ImageRecord { path, pid: i64::from(pid), camid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_give_path_identity_and_camera() {
        let line = "0000/0000_045_12_0303morning_0006_2_ex.jpg 17";
        let record = parse_line(Path::new("/data/train"), line).unwrap();
        assert_eq!((record.pid, record.camid), (17, 12));
        assert_eq!(record.path, Path::new("0000/0000_045_12_0303morning_0006_2_ex.jpg"));
        for line in
            ["./0000/0000_045_12_a.jpg 17", "0000\\0000_045_12_a.jpg 17", "/data/train/0000/0000_045_12_a.jpg 17"]
        {
            let record = parse_line(Path::new("/data/train"), line).unwrap();
            assert_eq!((record.camid, record.path.as_path()), (12, Path::new("0000/0000_045_12_a.jpg")), "{line}");
        }
        for (line, part) in [
            ("0000/0000_045_12_a.jpg", "expected a path and an identity"),
            ("0000/0000_045_12_a.jpg x", "x is no identity"),
            ("0000/0000_045_12_a.jpg -1", "-1 is no identity"),
            ("0000/0000.jpg 3", "no camera"),
            ("../0000_045_12_a.jpg 3", "leaves the image folder"),
            ("/0000_045_12_a.jpg 3", "outside of the image folder"),
        ] {
            assert!(parse_line(Path::new("/data/train"), line).unwrap_err().contains(part), "{line}");
        }
    }
}
