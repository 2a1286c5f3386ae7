//! Files of the same content in both subsets: such a validation measures what was learned by heart.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use rayon::prelude::*;

use crate::data::dataset::listed;
use crate::data::{ImageSource, Sample};
use crate::text::Shown;

/// Bytes of a file's middle that tell most files of equal size apart.
const SAMPLE: u64 = 4096;

/// What to warn of, where validation files are copies of training files. Files are told apart by size, then by a few KiB of
/// their middle; only those that agree in both are read. A file that cannot be read is a copy of none: decoding reports it.
pub(super) fn warning(train: &[Sample], val: &[Sample]) -> Option<String> {
    let (train, val) = (files(train), files(val));
    let (train, val) = common(train, val, |path| fs::metadata(path).ok().map(|metadata| metadata.len()));
    let (train, val) = common(train, val, |path| middle(path).ok());
    let (_, copies) = common(train, val, |path| fs::read(path).ok().map(|bytes| hash(&bytes)));
    (!copies.is_empty()).then(|| {
        format!(
            "{} validation images have the content of a training image: they measure nothing ({})",
            copies.len(),
            listed(copies.iter().map(|path| path.shown()))
        )
    })
}

fn files<'s>(samples: &'s [Sample]) -> Vec<&'s Path> {
    let file = |sample: &'s Sample| match &sample.image {
        ImageSource::File(path) => Some(path.as_path()),
        ImageSource::Packed { .. } => None,
    };
    samples.iter().filter_map(file).collect()
}

/// Of each list the files whose key the other has too.
fn common<'p>(
    train: Vec<&'p Path>,
    val: Vec<&'p Path>,
    key: impl Fn(&Path) -> Option<u64> + Sync,
) -> (Vec<&'p Path>, Vec<&'p Path>) {
    let keys = |paths: &[&Path]| -> Vec<Option<u64>> { paths.par_iter().map(|path| key(path)).collect() };
    // Without validation files nothing is read.
    if train.is_empty() || val.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let keys = [keys(&train), keys(&val)];
    let sets = keys.each_ref().map(|keys| keys.iter().flatten().copied().collect::<HashSet<u64>>());
    let kept = |paths: Vec<&'p Path>, keys: &[Option<u64>], other: &HashSet<u64>| -> Vec<&'p Path> {
        let both = paths.into_iter().zip(keys);
        both.filter(|(_, key)| key.is_some_and(|key| other.contains(&key))).map(|(path, _)| path).collect()
    };
    (kept(train, &keys[0], &sets[1]), kept(val, &keys[1], &sets[0]))
}

/// A hash of size and middle.
fn middle(path: &Path) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(SAMPLE) / 2))?;
    let mut bytes = Vec::new();
    file.take(SAMPLE).read_to_end(&mut bytes)?;
    Ok(hash(&(len, bytes)))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
