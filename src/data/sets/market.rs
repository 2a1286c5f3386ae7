//! The layout of Market-1501 (folders `bounding_box_train`, `query`, `bounding_box_test`), flat or with a folder for each identity. Most
//! re-identification data sets have it or are converted to it. VeRi-776 differs in the names of the folders.

use std::ops::RangeInclusive;
use std::path::Path;

use crate::base::text::{Shown, are, listed, plural};
use crate::data::dataset::{Dataset, ImageRecord};
use crate::data::folder::{Entry, PassedBy, entries, entry, images_below};
use crate::data::{DatasetKind, Subsets};
use crate::{Error, Result};

/// Subsets and their folders: training, query, gallery.
pub(super) type Folders = [(&'static str, &'static str); 3];
/// Those of Market-1501.
pub(super) const MARKET: Folders =
    [("train", "bounding_box_train"), ("query", "query"), ("gallery", "bounding_box_test")];
/// Those of VeRi-776.
pub(super) const VERI: Folders = [("train", "image_train"), ("query", "image_query"), ("gallery", "image_test")];
/// Folders of published data sets that are not needed: Market-1501's hand-drawn boxes.
const UNUSED: [&str; 2] = ["gt_bbox", "gt_query"];
/// Identity of images that are left out of every evaluation, as the data set's authors ask.
const JUNK: i64 = -1;
/// Identity of false detections: they stay in the gallery and match nothing.
const DISTRACTOR: i64 = 0;

/// Reads identity and camera from a name like `0002_c1s1_000451_03.jpg`, `-1_c10s1_..` or `0001_c2_f0046182.jpg`.
pub(crate) fn parse_name(name: &str) -> Option<(i64, i64)> {
    let (pid, rest) = name.split_once('_')?;
    let camera = rest.strip_prefix(['c', 'C'])?;
    let digits = camera.len() - camera.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    Some((pid.parse().ok()?, camera[..digits].parse().ok()?))
}

/// Returns the identities and cameras that the data set has. Converted CUHK03 numbers the cameras of all pairs from 1 to 10.
fn bounds(kind: DatasetKind) -> Option<[RangeInclusive<i64>; 2]> {
    match kind {
        DatasetKind::Market1501 => Some([0..=1501, 1..=6]),
        DatasetKind::DukeMtmcReid => Some([1..=7140, 1..=8]),
        DatasetKind::Cuhk03NpDetected | DatasetKind::Cuhk03NpLabeled => Some([1..=1467, 1..=10]),
        DatasetKind::Veri776 => Some([1..=776, 1..=20]),
        _ => None,
    }
}

/// Returns the names and folders of the given subsets.
pub(super) fn folders(all: &'static Folders, subsets: Subsets) -> &'static [(&'static str, &'static str)] {
    match subsets {
        Subsets::All => all,
        Subsets::Test => &all[1..],
    }
}

/// Loads the folders.
///
/// # Errors
/// A folder cannot be read, or has no image with a name that tells identity and camera.
pub(super) fn load(root: &Path, kind: DatasetKind, all: &'static Folders, subsets: Subsets) -> Result<Dataset> {
    let label = match kind {
        DatasetKind::Auto if *all == MARKET => "Market-1501 layout".to_string(),
        DatasetKind::Auto => "VeRi-776 layout".to_string(),
        kind => kind.to_string(),
    };
    let mut dataset = Dataset { kind, label, ..Dataset::default() };
    let mut passed = PassedBy::default();
    for &(subset, folder) in folders(all, subsets) {
        let path = root.join(folder);
        let mut records = Vec::new();
        let mut unparsed = Vec::new();
        let mut distractors = 0;
        for file in images_below(&path, &mut passed)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            match parse_name(&name) {
                Some((JUNK, _)) => {}
                Some((DISTRACTOR, _)) if subset != "gallery" => distractors += 1,
                Some((pid, camid)) if pid >= DISTRACTOR => records.push(ImageRecord { path: file, pid, camid }),
                _ => unparsed.push(name.into_owned()),
            }
        }
        if records.is_empty() {
            let hint = match unparsed.first() {
                None => format!("no image in it{}", passed.hint()),
                Some(name) => format!("no image with a name like 0002_c1s1_000451_03.jpg (the first is {name})"),
            };
            return Err(Error::NotADataset { path, reason: hint });
        }
        if distractors > 0 {
            dataset.warnings.push(format!(
                "{}: {} of identity 0 {} left out: 0 means a false detection in this layout, number identities from 1",
                path.shown(),
                plural(distractors, "image", "images"),
                are(distractors)
            ));
        }
        if !unparsed.is_empty() {
            dataset.warnings.push(format!(
                "{}: {} not read as PPPP_cC... and {} left out ({})",
                path.shown(),
                plural(unparsed.len(), "name does", "names do"),
                are(unparsed.len()),
                listed(&unparsed)
            ));
        }
        if let Some([pids, camids]) = bounds(kind) {
            let beyond = |r: &&ImageRecord| !pids.contains(&r.pid) || !camids.contains(&r.camid);
            let strange: Vec<_> = records.iter().filter(beyond).map(|r| r.path.shown()).collect();
            if !strange.is_empty() {
                dataset.warnings.push(format!(
                    "{}: {} an identity or camera that {kind} does not have: {} to {} and {} to {} ({})",
                    path.shown(),
                    plural(strange.len(), "image has", "images have"),
                    pids.start(),
                    pids.end(),
                    camids.start(),
                    camids.end(),
                    listed(strange)
                ));
            }
        }
        match subset {
            "train" => dataset.train = records,
            "query" => dataset.query = records,
            _ => dataset.gallery = records,
        }
    }
    dataset.warnings.extend(passed.warnings(root));
    dataset.warnings.extend(elsewhere(root, all)?);
    Ok(dataset)
}

/// Returns a warning if there are images beside the three folders.
fn elsewhere(root: &Path, all: &Folders) -> Result<Option<String>> {
    let mut found = Vec::new();
    let mut loose = 0;
    for (path, kind) in entries(root)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match entry(&path, kind, &mut PassedBy::default()) {
            Entry::Folder | Entry::LinkedFolder => {
                if !all.iter().any(|(_, folder)| *folder == name) && !UNUSED.contains(&name.as_str()) {
                    let images = images_below(&path, &mut PassedBy::default())?.len();
                    if images > 0 {
                        found.push((name, images));
                    }
                }
            }
            Entry::Image => loose += 1,
            Entry::Other => {}
        }
    }
    found.sort();
    let mut parts: Vec<String> = found.iter().map(|(name, images)| format!("{images} in {}", name.shown())).collect();
    parts.extend((loose > 0).then(|| format!("{loose} in no folder")));
    Ok((!parts.is_empty()).then(|| {
        format!("{}: images outside of the folders of this layout are not read ({})", root.shown(), listed(parts))
    }))
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
}
