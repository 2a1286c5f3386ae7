//! Reads and writes features, which other programs may read and write too: safetensors with labels and paths inside, or .npy with the
//! paths in a file beside it.

mod labels;
mod matrix;
mod narrow;
mod npy;
mod origin;
mod read;

pub use origin::FeatureOrigin;
pub(crate) use read::JUNK;
pub use read::{FeatureFile, FeatureSet};

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::base::atomic::atomic_write;
use crate::base::write_guard::WriteGuard;
use crate::{Error, Result};

/// Key of the metadata of a `.safetensors` file that says what made its features.
const ORIGIN_KEY: &str = "ptl";

/// Key of the metadata that names identities.
const NAMES_KEY: &str = "identities";

/// Bytes of the longest list of names in the header of a `.safetensors` file, of which readers accept 100 MB: quotes are escaped in it again.
const LONGEST_NAMES: usize = 80_000_000;

/// Format of a file, by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeatureFormat {
    Safetensors,
    Npy,
}

impl FeatureFormat {
    /// Tells the format by the ending of a file's name.
    ///
    /// # Errors
    /// [`Error::FeatureFile`] for any other ending than `.safetensors` and `.npy`.
    pub(crate) fn of(path: &Path) -> Result<FeatureFormat> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Ok(FeatureFormat::Safetensors),
            Some("npy") => Ok(FeatureFormat::Npy),
            _ => Err(Error::FeatureFile {
                path: path.into(),
                reason: "its name must end in .safetensors or .npy".into(),
            }),
        }
    }

    /// Refuses paths that could not be read back: those that are no UTF-8 text; for `.npy`, whose list has a path on each line, those with a line
    /// break; for `.safetensors`, more than fit into its header.
    ///
    /// # Errors
    /// [`Error::FeatureFile`] with the first such path.
    pub(crate) fn check_paths(self, paths: &[PathBuf]) -> Result<()> {
        if self == FeatureFormat::Safetensors && path_list(paths).len() > LONGEST_NAMES {
            let first = paths.first().cloned().unwrap_or_default();
            let reason = format!(
                "the names of {} images, this one and the others, are too long for the header of a .safetensors file: write .npy",
                paths.len()
            );
            return Err(Error::FeatureFile { path: first, reason });
        }
        let broken = |path: &Path| path.to_string_lossy().contains(['\n', '\r']);
        let bad = |path: &&PathBuf| path.to_str().is_none() || (self == FeatureFormat::Npy && broken(path));
        let Some(path) = paths.iter().find(bad) else { return Ok(()) };
        let reason = match path.to_str() {
            None => "the name of this image is no UTF-8 text, which feature files need: rename it",
            Some(_) => {
                "the name of this image has a line break, and the list beside an .npy has a name on each line: rename it, or \
                 write .safetensors"
            }
        };
        Err(Error::FeatureFile { path: path.clone(), reason: reason.into() })
    }
}

/// Features of images, row by row.
#[derive(Clone, Copy, Debug)]
pub struct FeatureTable<'a> {
    /// Features, `[n, dim]` with n the number of `paths`.
    pub features: &'a [f32],
    /// Length of a feature.
    pub dim: usize,
    /// Path of each image.
    pub paths: &'a [PathBuf],
    /// Identities and cameras of the images, `[n]` each, if known.
    pub labels: Option<(&'a [i64], &'a [i64])>,
    /// What made the features, if known.
    pub origin: Option<&'a FeatureOrigin>,
    /// Identities by their numbers, where the user's texts are others. Only `.safetensors` holds them.
    pub names: Option<&'a BTreeMap<i64, String>>,
}

impl FeatureTable<'_> {
    /// Writes the features to `path`, in the format of its ending.
    ///
    /// - `.safetensors`: `features` f32 `[n, dim]`, `pids` and `camids` i64 `[n]` if known; the metadata `paths` is a JSON list, `ptl` the
    ///   [`FeatureOrigin`] as JSON, and `identities` the names of identities by their numbers.
    /// - `.npy`: f32 `[n, dim]` in C order; the paths are in a file beside it that ends in `.txt`, one on each line, and the labels, if known, in
    ///   one that ends in `.csv`, with the columns `path`, `pid` and `camid`.
    ///
    /// # Errors
    /// [`Error::FeatureFile`] for another ending, or a path that could not be read back: it is no UTF-8 text, or for `.npy` has a line
    /// break; [`Error::Io`].
    ///
    /// # Panics
    /// The numbers of rows differ.
    pub fn write(&self, path: &Path) -> Result<()> {
        let rows = self.paths.len();
        assert_eq!(self.features.len(), rows * self.dim, "one feature for each path");
        assert!(self.labels.is_none_or(|(pids, camids)| pids.len() == rows && camids.len() == rows));
        let format = FeatureFormat::of(path)?;
        format.check_paths(self.paths)?;
        match format {
            FeatureFormat::Safetensors => self.write_safetensors(path),
            FeatureFormat::Npy => {
                let _all_files = WriteGuard::begin();
                self.write_labels(&path.with_extension("csv"))?;
                atomic_write(&path.with_extension("txt"), |file| {
                    self.paths.iter().try_for_each(|path| writeln!(file, "{}", path.to_string_lossy()))
                })?;
                atomic_write(path, |file| {
                    file.write_all(&npy::header([rows, self.dim]))?;
                    write_little_endian(file, self.features)
                })
            }
        }
    }

    /// Writes paths and labels as CSV.
    ///
    /// # Errors
    /// There are no labels, but a file that would be read as theirs.
    fn write_labels(&self, path: &Path) -> Result<()> {
        let Some((pids, camids)) = self.labels else {
            let reason =
                "it would be read as the labels of the new features, which have none: move it, or name another output";
            return match path.exists() {
                true => Err(Error::FeatureFile { path: path.into(), reason: reason.into() }),
                false => Ok(()),
            };
        };
        atomic_write(path, |file| {
            let mut table = csv::Writer::from_writer(file);
            table.write_record(["path", "pid", "camid"])?;
            for ((path, pid), camid) in self.paths.iter().zip(pids).zip(camids) {
                table.write_record([path.to_string_lossy().as_ref(), &pid.to_string(), &camid.to_string()])?;
            }
            table.flush()
        })
    }

    fn write_safetensors(&self, path: &Path) -> Result<()> {
        let rows = self.paths.len();
        let mut end = 0;
        let mut place = |name: &str, dtype, shape: &[usize], size: usize| {
            let start = end;
            end += size;
            (name.to_owned(), TensorInfo { dtype, shape: shape.to_vec(), data_offsets: (start, end) })
        };
        let mut tensors = vec![place("features", Dtype::F32, &[rows, self.dim], size_of_val(self.features))];
        if let Some((pids, camids)) = self.labels {
            for (name, labels) in [("pids", pids), ("camids", camids)] {
                tensors.push(place(name, Dtype::I64, &[rows], size_of_val(labels)));
            }
        }
        let mut metadata = HashMap::from([("paths".to_owned(), path_list(self.paths))]);
        if let Some(origin) = self.origin {
            metadata.insert(ORIGIN_KEY.to_owned(), serde_json::to_string(origin).expect("texts"));
        }
        if let Some(names) = self.names.filter(|names| !names.is_empty()) {
            metadata.insert(NAMES_KEY.to_owned(), serde_json::to_string(names).expect("texts"));
        }
        let header = Metadata::new(Some(metadata), tensors).expect("tensors that follow one another");
        atomic_write(path, |file| {
            let mut header = serde_json::to_vec(&header)?;
            header.resize(header.len().next_multiple_of(8), b' ');
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            write_little_endian(file, self.features)?;
            let (pids, camids) = self.labels.unwrap_or_default();
            pids.iter().chain(camids).try_for_each(|label| file.write_all(&label.to_le_bytes()))
        })
    }
}

fn path_list(paths: &[PathBuf]) -> String {
    let paths: Vec<Cow<'_, str>> = paths.iter().map(|path| path.to_string_lossy()).collect();
    serde_json::to_string(&paths).expect("texts")
}

fn write_little_endian(file: &mut dyn Write, values: &[f32]) -> io::Result<()> {
    values.iter().try_for_each(|x| file.write_all(&x.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::SafeTensors;

    use super::*;

    fn paths() -> Vec<PathBuf> {
        vec!["query/0001_c1.jpg".into(), "query/\"odd\" ü_c2.jpg".into()]
    }

    #[test]
    fn safetensors_holds_everything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.safetensors");
        let (features, paths) = ([0.5, -1.0, 2.0, 3.0, 4.0, 5.0], paths());
        let labels: Option<(&[i64], &[i64])> = Some((&[1, 7], &[1, 12]));
        FeatureTable { features: &features, dim: 3, paths: &paths, labels, origin: None, names: None }
            .write(&path)
            .unwrap();
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.names().len(), 3);
        let view = file.tensor("features").unwrap();
        assert_eq!((view.dtype(), view.shape()), (Dtype::F32, &[2, 3][..]));
        assert_eq!(view.data(), features.iter().flat_map(|x: &f32| x.to_le_bytes()).collect::<Vec<u8>>());
        assert_eq!(file.tensor("camids").unwrap().data()[8..], 12i64.to_le_bytes());
        assert_eq!(file.tensor("pids").unwrap().shape(), [2]);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let read: Vec<PathBuf> = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["paths"]).unwrap();
        assert_eq!(read, paths);
    }

    #[test]
    fn npy_follows_the_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.npy");
        let (features, paths) = ([0.5, -1.0, 2.0, 3.0], paths());
        FeatureTable { features: &features, dim: 2, paths: &paths, labels: None, origin: None, names: None }
            .write(&path)
            .unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + length) % 64, 0);
        let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
        assert_eq!(header.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }");
        assert!(header.ends_with(" \n"));
        assert_eq!(bytes[10 + length..], features.iter().flat_map(|x: &f32| x.to_le_bytes()).collect::<Vec<u8>>());
        let lines = fs::read_to_string(folder.path().join("f.txt")).unwrap();
        assert_eq!(lines.lines().map(PathBuf::from).collect::<Vec<_>>(), paths);
    }

    #[test]
    fn labels_lie_beside_npy_and_are_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.npy");
        let (features, paths) = ([0.5, -1.0], paths());
        let table =
            |labels| FeatureTable { features: &features, dim: 1, paths: &paths, labels, origin: None, names: None };
        table(Some((&[1, 7], &[1, 12]))).write(&path).unwrap();
        let read = FeatureSet::read(&path, None).unwrap();
        assert_eq!((read.pids, read.camids, read.paths), (vec![1, 7], vec![1, 12], paths.clone()));
        let refused = table(None).write(&path).unwrap_err().to_string();
        assert!(
            refused.contains("f.csv: it would be read as the labels of the new features, which have none"),
            "{refused}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_would_not_come_back_is_refused_before_anything_is_written() {
        use std::os::unix::ffi::OsStringExt;
        let folder = tempfile::tempdir().unwrap();
        let written = |file: &str, image: &[u8]| {
            let paths = [PathBuf::from(std::ffi::OsString::from_vec(image.to_vec()))];
            let path = folder.path().join(file);
            FeatureTable { features: &[1.0], dim: 1, paths: &paths, labels: None, origin: None, names: None }
                .write(&path)
        };
        for image in [&b"a\nb.jpg"[..], b"a\rb.jpg", b"a.jpg\n0001_c1.jpg"] {
            let error = written("f.npy", image).unwrap_err().to_string();
            assert!(error.contains("line break") && !error.contains(['\n', '\r']), "{error}");
            written(&format!("{}.safetensors", image.len()), image).unwrap();
        }
        for file in ["f.npy", "f.safetensors"] {
            assert!(written(file, b"a\xff.jpg").unwrap_err().to_string().contains("no UTF-8 text"));
            assert!(!folder.path().join(file).exists() && !folder.path().join("f.txt").exists());
        }
        written("g.npy", "ü \u{1b}[2J.jpg".as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("g.txt")).unwrap(), "ü \u{1b}[2J.jpg\n");
    }

    #[test]
    fn other_endings_are_refused() {
        let error = FeatureFormat::of(Path::new("f.csv")).unwrap_err();
        assert_eq!(error.to_string(), "features f.csv: its name must end in .safetensors or .npy");
    }
}
