//! CUHK03 with its first protocol: random splits into 1,367 training and 100 test identities.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::input;
use crate::base::text::{Shown, plural};
use crate::data::dataset::{Dataset, ImageRecord, Protocol};
use crate::data::folder::by_bytes;
use crate::data::named::{UNPACK_AGAIN, below};
use crate::data::{DatasetKind, Subsets};
use crate::{Error, Result};

/// The file with the splits, beside the images.
pub(crate) const CLASSIC_FILE: &str = "splits.json";

/// Bytes of the largest such file.
const LARGEST_FILE: u64 = 256 << 20;

/// Content of [`CLASSIC_FILE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClassicSplits {
    pub dataset: DatasetKind,
    /// (path relative to the file, identity, camera)
    pub images: Vec<(PathBuf, i64, i64)>,
    /// Test identities of each split; all others are for training.
    pub splits: Vec<Vec<i64>>,
}

/// Loads one split. All images of test identities are both queries and gallery; the protocol selects pairs of them.
///
/// # Errors
/// The file is broken, has the other kind of boxes or too few splits, or an image is missing.
pub(super) fn load(root: &Path, kind: DatasetKind, split: usize, subsets: Subsets) -> Result<Dataset> {
    let path = root.join(CLASSIC_FILE);
    let bytes = input::read(&path, LARGEST_FILE)?;
    let refuse = |reason: String| Err(Error::NotADataset { path: path.clone(), reason });
    let splits: ClassicSplits = match serde_json::from_slice(&bytes) {
        Ok(splits) => splits,
        Err(error) => return refuse(format!("it is no file of splits ({error}): convert CUHK03 again")),
    };
    if kind != DatasetKind::Auto && kind != splits.dataset {
        return refuse(format!("it holds {}, not {kind}: name that, or the folder of the other", splits.dataset));
    }
    let Some(test) = splits.splits.get(split) else {
        return Err(Error::Setting {
            setting: "data.split".into(),
            value: split.to_string(),
            reason: format!("{} has {}, counted from 0", path.shown(), plural(splits.splits.len(), "split", "splits")),
        });
    };
    let test: BTreeSet<i64> = test.iter().copied().collect();
    let mut records = Vec::with_capacity(splits.images.len());
    for (image, pid, camid) in splits.images {
        let Ok(inner) = below(root, &image.to_string_lossy()) else {
            return refuse(format!("the path {} leaves the folder", image.shown()));
        };
        records.push(ImageRecord { path: root.join(inner), pid, camid });
    }
    records.sort_by(|a, b| by_bytes(&a.path, &b.path));
    let (test, mut train): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| test.contains(&record.pid));
    if train.is_empty() || test.is_empty() {
        return refuse(format!("split {split} has no training or no test image: convert CUHK03 again"));
    }
    if subsets == Subsets::Test {
        train.clear();
    }
    let used = || train.iter().chain(&test).map(|r| &r.path);
    let missing: Vec<&PathBuf> = used().filter(|image| !image.is_file()).collect();
    if let Some(&first) = missing.first() {
        let (missing, total, first) = (missing.len(), used().count(), first.clone());
        return Err(Error::MissingImages { list: path, missing, total, first, advice: UNPACK_AGAIN });
    }
    Ok(Dataset {
        kind: splits.dataset,
        label: format!("{} (split {split})", splits.dataset),
        train,
        query: test.clone(),
        gallery: test,
        protocol: Protocol::SingleGalleryShot,
        ..Dataset::default()
    })
}
