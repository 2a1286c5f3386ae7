//! Reads features with their labels.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::labels::{self, ImageLabels};
use super::matrix::Matrix;
use super::{FeatureFormat, FeatureOrigin, NAMES_KEY, ORIGIN_KEY, npy};
use crate::base::memory;
use crate::base::text::{Shown, plural};
use crate::eval::extract::{normalize, zero_rows};
use crate::eval::ranking::Labels;
use crate::io::checkpoint::TensorFile;
use crate::{Error, Result};

/// Identity of images that are left out of every evaluation, as the authors of Market-1501 ask.
pub(crate) const JUNK: i64 = -1;

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

/// A file of features whose rows are read when they are needed, and what is known about its images.
pub struct FeatureFile {
    path: PathBuf,
    matrix: Matrix,
    /// Identity of each image, `[n]`; empty if not known.
    pub pids: Vec<i64>,
    /// Camera of each image, `[n]`; empty if not known.
    pub camids: Vec<i64>,
    /// Path of each image, `[n]`; empty if the images have no names.
    pub paths: Vec<PathBuf>,
    /// What made the features; `None` if the file does not say it.
    pub origin: Option<FeatureOrigin>,
    /// Identities by their numbers, where the user's texts are others.
    pub names: BTreeMap<i64, String>,
    /// Why identities are not known.
    unlabelled: Option<Error>,
}

impl FeatureFile {
    /// Opens a `.safetensors` file (`features` `[n, dim]`, `pids` and `camids` `[n]`, as
    /// [`FeatureTable::write`](super::FeatureTable) writes them) or a `.npy` file (`[n, dim]`, f32, f64 or f16). Identities come from the
    /// first of these that exists: the file `labels`; the file itself; `NAME.csv` or `NAME.txt` beside it; the names of its images.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::FeatureFile`]: the format is another, or there are not as many labels or names as features.
    pub fn open(path: &Path, labels: Option<&Path>) -> Result<FeatureFile> {
        let mut file = match FeatureFormat::of(path)? {
            FeatureFormat::Safetensors => open_safetensors(path, labels.is_none()).map_err(|error| match error {
                Error::Checkpoint { path, reason } => Error::FeatureFile { path, reason },
                other => other,
            })?,
            FeatureFormat::Npy => FeatureFile::unnamed(path, npy::open(path)?),
        };
        if file.pids.is_empty() && !file.is_empty() {
            file.find_labels(labels)?;
        }
        Ok(file)
    }

    fn unnamed(path: &Path, matrix: Matrix) -> FeatureFile {
        let (pids, camids, paths) = (Vec::new(), Vec::new(), Vec::new());
        FeatureFile {
            path: path.into(),
            matrix,
            pids,
            camids,
            paths,
            origin: None,
            names: BTreeMap::new(),
            unlabelled: None,
        }
    }

    /// Looks for identities outside of the file.
    fn find_labels(&mut self, labels: Option<&Path>) -> Result<()> {
        let [csv, list] = ["csv", "txt"].map(|ending| self.path.with_extension(ending));
        let file = labels.map(Path::to_path_buf).or_else(|| Some(csv.clone()).filter(|csv| csv.exists()));
        let found = match file {
            Some(file) => Some((ImageLabels::read(&file)?, file.shown().to_string())),
            None if list.exists() => match ImageLabels::read(&list) {
                Ok(found) => Some((found, list.shown().to_string())),
                Err(error) => {
                    self.unlabelled = Some(error);
                    let paths = labels::names(&list)?;
                    self.check_count(paths.len(), &list.shown().to_string())?;
                    self.paths = paths;
                    None
                }
            },
            None => ImageLabels::of_names(&self.paths)
                .filter(|_| !self.paths.is_empty())
                .map(|found| (found, "its list of paths".into())),
        };
        match found {
            Some((found, origin)) => {
                self.check_count(found.pids.len(), &origin)?;
                (self.pids, self.camids, self.paths) = (found.pids, found.camids, found.paths);
            }
            None => {
                self.unlabelled.get_or_insert(Error::FeatureFile {
                    path: self.path.clone(),
                    reason: format!(
                        "it has no labels, and there is no {} or {}: name a CSV file with the header path,pid,camid \
                         (`query-labels`, `gallery-labels`)",
                        csv.shown(),
                        list.shown()
                    ),
                });
            }
        }
        Ok(())
    }

    fn check_count(&self, images: usize, origin: &str) -> Result<()> {
        if images == self.len() {
            return Ok(());
        }
        let (features, images) = (plural(self.len(), "feature", "features"), plural(images, "image", "images"));
        Err(Error::FeatureFile {
            path: self.path.clone(),
            reason: format!("it has {features}, and {origin} has {images}"),
        })
    }

    /// Returns the number of features.
    pub fn len(&self) -> usize {
        self.matrix.rows()
    }

    /// Returns whether there is no feature.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns why identities are not known; `None` if they are.
    pub fn why_unlabelled(&self) -> Option<&Error> {
        self.unlabelled.as_ref()
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of features that a search looks at: those of identity -1 are left out.
    pub fn searched(&self) -> usize {
        self.len() - self.pids.iter().filter(|pid| **pid == JUNK).count()
    }

    /// Returns the length of a feature.
    pub fn dim(&self) -> usize {
        self.matrix.dim()
    }

    /// Returns the name of an image: its path, or `row-N` without paths.
    pub fn name(&self, row: usize) -> String {
        name(&self.paths, row)
    }

    /// Returns the identity of an image as the user wrote it; `None` if it is not known.
    pub fn identity(&self, row: usize) -> Option<String> {
        let pid = self.pids.get(row)?;
        Some(self.names.get(pid).cloned().unwrap_or_else(|| pid.to_string()))
    }

    /// Reads some rows into `values` `[rows.len(), dim]`, in the place of what is there.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::FeatureFile`] if numbers in f64 are too large or too small for f32; [`Error::OutOfMemory`].
    ///
    /// # Panics
    /// There are no such rows.
    pub fn read(&mut self, rows: Range<usize>, values: &mut Vec<f32>) -> Result<()> {
        self.matrix.read(rows, values)
    }

    /// Reads all features: `[n, dim]`.
    ///
    /// # Errors
    /// As [`FeatureFile::read`].
    pub fn read_all(&mut self) -> Result<Vec<f32>> {
        memory::ensure("the features", 4 * (self.len() * self.dim()) as u64)?;
        let mut values = Vec::new();
        self.matrix.read(0..self.matrix.rows(), &mut values)?;
        Ok(values)
    }

    /// Reads all features. Their identities must be known.
    ///
    /// # Errors
    /// As [`FeatureFile::read_all`]; the reason why there are no identities.
    pub fn into_set(mut self) -> Result<FeatureSet> {
        if let Some(error) = self.unlabelled.take() {
            return Err(error);
        }
        let features = self.read_all()?;
        let FeatureFile { matrix, pids, camids, paths, .. } = self;
        Ok(FeatureSet { features, dim: matrix.dim(), pids, camids, paths })
    }
}

impl FeatureSet {
    /// Reads a file as [`FeatureFile::open`] does, with all its features.
    ///
    /// # Errors
    /// As [`FeatureFile::open`] and [`FeatureFile::into_set`].
    pub fn read(path: &Path, labels: Option<&Path>) -> Result<FeatureSet> {
        FeatureFile::open(path, labels)?.into_set()
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
        name(&self.paths, row)
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

fn name(paths: &[PathBuf], row: usize) -> String {
    paths.get(row).map_or_else(|| format!("row-{row}"), |path| path.shown().to_string())
}

fn open_safetensors(path: &Path, with_labels: bool) -> Result<FeatureFile> {
    let bad = |reason: String| Error::FeatureFile { path: path.into(), reason };
    let file = TensorFile::open(path)?;
    let Some(shape) = file.shape("features") else {
        return Err(bad(format!("it has no tensor `features`, only {}", file.names().join(", "))));
    };
    let [rows, dim] = shape[..] else {
        return Err(bad(format!("its features have the shape {shape:?}, not [images, numbers of a feature]")));
    };
    let paths = file.metadata.get("paths").map(|list| serde_json::from_str::<Vec<PathBuf>>(list)).transpose();
    let paths = paths.map_err(|e| bad(format!("its list of paths cannot be read ({e})")))?.unwrap_or_default();
    if !paths.is_empty() && paths.len() != rows {
        let (features, paths) = (plural(rows, "feature", "features"), plural(paths.len(), "path", "paths"));
        return Err(bad(format!("it has {features} and {paths}")));
    }
    let origin = file.metadata.get(ORIGIN_KEY).map(|text| serde_json::from_str(text)).transpose();
    let origin = origin.map_err(|e| bad(format!("what made its features cannot be read ({e})")))?;
    let names = file.metadata.get(NAMES_KEY).map(|text| serde_json::from_str(text)).transpose();
    let names = names.map_err(|e| bad(format!("its names of identities cannot be read ({e})")))?.unwrap_or_default();
    let mut labels = (Vec::new(), Vec::new());
    if with_labels && file.shape("pids").is_some() && file.shape("camids").is_some() {
        labels = (file.i64("pids")?, file.i64("camids")?);
        let (pids, camids) = (labels.0.len(), labels.1.len());
        if (pids, camids) != (rows, rows) {
            return Err(bad(format!(
                "it has {}, {} and {}",
                plural(rows, "feature", "features"),
                plural(pids, "identity", "identities"),
                plural(camids, "camera", "cameras")
            )));
        }
    }
    let matrix = Matrix::new(path, file.into_tensor("features")?, [rows, dim])?;
    let (pids, camids) = labels;
    Ok(FeatureFile { pids, camids, paths, origin, names, ..FeatureFile::unnamed(path, matrix) })
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
        FeatureTable { features: &set.features, dim: set.dim, paths: &set.paths, labels, origin: None, names: None }
            .write(path)
            .unwrap();
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
    fn parts_are_read_and_names_without_identities_are_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.safetensors", "b.npy"] {
            let path = folder.path().join(name);
            let paths = ["a b.jpg", "c.jpg", "d.jpg"].map(PathBuf::from);
            let features = example().features;
            FeatureTable { features: &features, dim: 2, paths: &paths, labels: None, origin: None, names: None }
                .write(&path)
                .unwrap();
            let mut file = FeatureFile::open(&path, None).unwrap();
            assert_eq!((file.len(), file.dim(), file.pids.len(), file.name(0)), (3, 2, 0, "a b.jpg".into()), "{name}");
            let mut rows = vec![9.0; 3];
            file.read(1..3, &mut rows).unwrap();
            assert_eq!(rows, features[2..]);
            file.read(0..1, &mut rows).unwrap();
            assert_eq!(rows, features[..2]);
            let error = file.into_set().unwrap_err().to_string();
            assert!(
                error.contains("has no labels") || error.contains("line 1, `a b.jpg`, has no name like"),
                "{error}"
            );
        }
        fs::write(folder.path().join("b.txt"), "a.jpg\n").unwrap();
        let error = FeatureFile::open(&folder.path().join("b.npy"), None).err().unwrap().to_string();
        assert!(error.contains("it has 3 features, and") && error.contains("has 1 image"), "{error}");
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
