//! Reads features with their labels.

use std::path::{Path, PathBuf};

use super::labels::ImageLabels;
use super::narrow::Narrow;
use super::{FeatureFormat, npy};
use crate::base::text::{Shown, plural};
use crate::base::{input, memory};
use crate::eval::extract::{normalize, zero_rows};
use crate::eval::ranking::Labels;
use crate::io::checkpoint;
use crate::{Error, Result};

/// Identity of images that are left out of every evaluation, as the authors of Market-1501 ask.
const JUNK: i64 = -1;

/// Features of images with known identity and camera, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureSet {
    /// Features, `[n, dim]`.
    pub features: Vec<f32>,
    /// Length of a feature.
    pub dim: usize,
    /// Identity of each image, `[n]`.
    pub pids: Vec<i64>,
    /// Camera of each image, `[n]`.
    pub camids: Vec<i64>,
    /// Path of each image, `[n]`; empty if the images have no names.
    pub paths: Vec<PathBuf>,
}

impl FeatureSet {
    /// Reads a `.safetensors` file (`features` `[n, dim]`, `pids` and `camids` `[n]`, as
    /// [`FeatureTable::write`](super::FeatureTable) writes them) or a `.npy` file (`[n, dim]`, f32, f64 or f16). Labels come from the first
    /// of these that exists: the file `labels`; the file itself; `NAME.csv` or `NAME.txt` beside it; the names of its images.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::FeatureFile`]: the format is another, there are no labels, or not as many labels as features.
    pub fn read(path: &Path, labels: Option<&Path>) -> Result<FeatureSet> {
        let bad = |reason: String| Error::FeatureFile { path: path.into(), reason };
        let mut set = match FeatureFormat::of(path)? {
            FeatureFormat::Safetensors => read_safetensors(path, labels.is_none()).map_err(|error| match error {
                Error::Checkpoint { path, reason } => Error::FeatureFile { path, reason },
                other => other,
            })?,
            FeatureFormat::Npy => {
                let (features, dim) = npy::read(path)?;
                FeatureSet { features, dim, ..FeatureSet::default() }
            }
        };
        if set.dim == 0 {
            return Err(bad("its features have no numbers".into()));
        }
        let rows = set.features.len() / set.dim;
        if set.pids.is_empty() && rows > 0 {
            let beside = ["csv", "txt"].map(|ending| path.with_extension(ending));
            let file = labels.map(Path::to_path_buf).or_else(|| beside.iter().find(|path| path.exists()).cloned());
            let (found, origin) = match file {
                Some(file) => (Some(ImageLabels::read(&file)?), file.shown().to_string()),
                None if !set.paths.is_empty() => (ImageLabels::of_names(&set.paths), "its list of paths".into()),
                None => (None, String::new()),
            };
            let found = found.ok_or_else(|| {
                bad(format!(
                    "it has no labels, and there is no {} or {}: name a CSV file with the header path,pid,camid \
                     (`query-labels`, `gallery-labels`)",
                    beside[0].shown(),
                    beside[1].shown()
                ))
            })?;
            if found.pids.len() != rows {
                return Err(bad(format!(
                    "it has {}, and {origin} has {}",
                    plural(rows, "feature", "features"),
                    plural(found.pids.len(), "image", "images")
                )));
            }
            (set.pids, set.camids, set.paths) = (found.pids, found.camids, found.paths);
        }
        Ok(set)
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.pids.len()
    }

    /// Returns whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.pids.is_empty()
    }

    /// Returns identities and cameras.
    pub fn labels(&self) -> Labels<'_> {
        Labels { pids: &self.pids, camids: &self.camids }
    }

    /// Returns the name of an image: its path, or `row-N` without paths.
    pub fn name(&self, row: usize) -> String {
        self.paths.get(row).map_or_else(|| format!("row-{row}"), |path| path.shown().to_string())
    }

    /// Removes images of identity -1. Returns how many there were.
    pub fn drop_junk(&mut self) -> usize {
        let keep: Vec<bool> = self.pids.iter().map(|pid| *pid != JUNK).collect();
        let before = self.len();
        let kept = |row: usize| keep[row];
        let mut rows = 0..;
        self.paths.retain(|_| rows.next().is_some_and(kept));
        let mut rows = 0..;
        self.camids.retain(|_| rows.next().is_some_and(kept));
        let mut values = 0..;
        let dim = self.dim;
        if keep.contains(&false) {
            self.features.retain(|_| values.next().is_some_and(|i: usize| keep[i / dim]));
        }
        self.pids.retain(|pid| *pid != JUNK);
        before - self.len()
    }

    /// Scales every row to unit length. Returns how many rows are all zeros, which have no direction and stay as they are.
    pub fn normalize(&mut self) -> usize {
        self.features.chunks_exact_mut(self.dim).for_each(normalize);
        zero_rows(&self.features, self.dim)
    }
}

fn read_safetensors(path: &Path, with_labels: bool) -> Result<FeatureSet> {
    let bad = |reason: String| Error::FeatureFile { path: path.into(), reason };
    let (_, length) = input::open(path)?;
    let file = checkpoint::File::open(path)?;
    let Some(shape) = file.shape("features") else {
        return Err(bad(format!("it has no tensor `features`, only {}", file.names().join(", "))));
    };
    let [rows, dim] = shape[..] else {
        return Err(bad(format!("its features have the shape {shape:?}, not [images, numbers of a feature]")));
    };
    // A number takes at least two bytes; a tensor that repeats a few numbers is no features.
    if rows.checked_mul(dim).is_none_or(|values| values as u64 > length / 2) {
        return Err(bad(format!("its features have the shape {shape:?}, too many for a file of {length} bytes")));
    }
    memory::ensure("the features", 4 * (rows * dim) as u64)?;
    let paths = file.metadata.get("paths").and_then(|list| serde_json::from_str::<Vec<PathBuf>>(list).ok());
    let paths = paths.filter(|paths| paths.len() == rows).unwrap_or_default();
    let features = match file.f64("features")? {
        None => file.f32("features")?,
        Some(wide) => {
            let mut narrow = Narrow::new(dim);
            let features = wide.into_iter().map(|x| narrow.next(x)).collect();
            narrow.check().map_err(bad)?;
            features
        }
    };
    let mut set = FeatureSet { features, dim, paths, ..FeatureSet::default() };
    if with_labels && file.shape("pids").is_some() && file.shape("camids").is_some() {
        (set.pids, set.camids) = (file.i64("pids")?, file.i64("camids")?);
        let (pids, camids) = (set.pids.len(), set.camids.len());
        if (pids, camids) != (rows, rows) {
            return Err(bad(format!(
                "it has {}, {} and {}",
                plural(rows, "feature", "features"),
                plural(pids, "identity", "identities"),
                plural(camids, "camera", "cameras")
            )));
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::FeatureTable;
    use super::*;

    fn example() -> FeatureSet {
        FeatureSet {
            features: vec![3.0, 4.0, -1.0, 0.5, 0.0, 0.0],
            dim: 2,
            pids: vec![1, -1, 7],
            camids: vec![1, 2, 12],
            paths: ["q/0001_c1s1.jpg", "q/-1_c2s1.jpg", "q/0007_c12s1.jpg"].map(PathBuf::from).to_vec(),
        }
    }

    fn write(set: &FeatureSet, path: &Path, labels: bool) {
        let labels = labels.then_some((&set.pids[..], &set.camids[..]));
        FeatureTable { features: &set.features, dim: set.dim, paths: &set.paths, labels }.write(path).unwrap();
    }

    #[test]
    fn both_formats_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        for (name, labels) in [("a.safetensors", true), ("b.npy", false), ("c.safetensors", false)] {
            let path = folder.path().join(name);
            write(&example(), &path, labels);
            assert_eq!(FeatureSet::read(&path, None).unwrap(), example(), "{name}");
            let csv = folder.path().join("other.csv");
            fs::write(&csv, "path,pid,camid\na,4,1\nb,5,2\nc,6,3\n").unwrap();
            let read = FeatureSet::read(&path, Some(&csv)).unwrap();
            assert_eq!((read.pids, read.camids, read.features), (vec![4, 5, 6], vec![1, 2, 3], example().features));
        }
    }

    #[test]
    fn junk_is_left_out_and_rows_are_scaled() {
        let mut set = example();
        assert_eq!(set.drop_junk(), 1);
        assert_eq!((set.pids.clone(), set.camids.clone(), set.len()), (vec![1, 7], vec![1, 12], 2));
        assert_eq!((set.features.clone(), set.name(1)), (vec![3.0, 4.0, 0.0, 0.0], "q/0007_c12s1.jpg".into()));
        assert_eq!(set.normalize(), 1);
        assert_eq!(set.features, [0.6, 0.8, 0.0, 0.0]);
        set.paths.clear();
        assert_eq!(set.name(1), "row-1");
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |name: &str, labels: Option<&str>| {
            let labels = labels.map(|name| folder.path().join(name));
            FeatureSet::read(&folder.path().join(name), labels.as_deref()).unwrap_err().to_string()
        };
        write(&example(), &folder.path().join("a.npy"), false);
        fs::write(folder.path().join("short.csv"), "path,pid,camid\na,4,1\n").unwrap();
        assert!(error("a.npy", Some("short.csv")).contains("it has 3 features, and"));
        fs::remove_file(folder.path().join("a.txt")).unwrap();
        assert!(error("a.npy", None).contains("it has no labels"));
        assert!(error("a.csv", None).contains(".safetensors or .npy"));
        assert!(error("none.npy", None).starts_with("cannot read"));
        fs::write(folder.path().join("broken.safetensors"), "x").unwrap();
        assert!(error("broken.safetensors", None).starts_with("features "));
    }
}
