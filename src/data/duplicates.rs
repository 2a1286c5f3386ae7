//! Finds files with the same content, in two subsets or within one.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use crate::base::error::IoContext;
use crate::base::input;
use crate::base::text::{Shown, listed};

/// Bytes in the middle of a file; they differ between most files of equal size.
const SAMPLE: u64 = 4096;
/// Larger files are compared only by size and middle.
const LARGEST: u64 = 512 << 20;

/// Groups of files with the same content.
pub(super) struct Groups(Vec<Vec<usize>>);

impl Groups {
    /// Groups the indices of `files` with the same content, ascending within each group. Files are compared by size, then by a few KiB
    /// in their middle; only those that agree in both are read. Empty and unreadable files are in no group: decoding reports them.
    pub(super) fn new(files: &[&Path]) -> Groups {
        let size = |path: &Path| input::open(path).ok().map(|(_, len)| len).filter(|&len| len > 0);
        let alike = shared(files, (0..files.len()).collect(), size);
        let alike = shared(files, alike, |path| middle(path).ok().map(|middle| hash(&middle)));
        let keys: Vec<Option<u64>> = alike.par_iter().map(|&index| content(files[index])).collect();
        let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (index, key) in alike.into_iter().zip(keys) {
            if let Some(key) = key {
                groups.entry(key).or_default().push(index);
            }
        }
        Groups(groups.into_values().filter(|group| group.len() > 1).collect())
    }

    /// Returns the indices of files in the range `second` that are copies of files in the range `first`, ascending, each with that of the
    /// first such file. The same path in both is no copy.
    pub(super) fn copies(&self, files: &[&Path], first: Range<usize>, second: Range<usize>) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for group in &self.0 {
            let Some(&original) = group.iter().find(|index| first.contains(index)) else { continue };
            let others = group.iter().filter(|&index| second.contains(index) && files[*index] != files[original]);
            found.extend(others.map(|&copy| (copy, original)));
        }
        found.sort_unstable();
        found
    }
}

/// Writes some of the pairs that [`Groups::copies`] has found.
pub(super) fn named(files: &[&Path], copies: &[(usize, usize)]) -> String {
    listed(copies.iter().map(|&(copy, original)| format!("{} is {}", files[copy].shown(), files[original].shown())))
}

/// Returns the files whose key is that of another file, too.
fn shared(files: &[&Path], indices: Vec<usize>, key: impl Fn(&Path) -> Option<u64> + Sync) -> Vec<usize> {
    let keys: Vec<Option<u64>> = indices.par_iter().map(|&index| key(files[index])).collect();
    let mut counts: HashMap<u64, usize> = HashMap::new();
    keys.iter().flatten().for_each(|key| *counts.entry(*key).or_default() += 1);
    let both = indices.into_iter().zip(keys);
    both.filter(|(_, key)| key.is_some_and(|key| counts[&key] > 1)).map(|(index, _)| index).collect()
}

/// Reads the size of a file, and the bytes in its middle.
///
/// # Errors
/// It cannot be read, or is no regular file.
pub(crate) fn middle(path: &Path) -> crate::Result<(u64, Vec<u8>)> {
    let (mut file, len) = input::open(path)?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(len.saturating_sub(SAMPLE) / 2))
        .and_then(|_| file.take(SAMPLE).read_to_end(&mut bytes))
        .at("read", path)?;
    Ok((len, bytes))
}

fn content(path: &Path) -> Option<u64> {
    let (file, len) = input::open(path).ok()?;
    if len > LARGEST {
        return middle(path).ok().map(|middle| hash(&middle));
    }
    let (mut file, mut hasher) = (BufReader::with_capacity(1 << 16, file), DefaultHasher::new());
    loop {
        match file.fill_buf().ok()? {
            [] => return Some(hasher.finish()),
            bytes => {
                hasher.write(bytes);
                let read = bytes.len();
                file.consume(read);
            }
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn copies_are_found_by_content_whatever_their_names() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str, content: Vec<u8>| -> PathBuf {
            let path = root.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let long = |end: u8| [vec![7; 20_000], vec![end]].concat();
        let (a, b, c) = (file("a", long(1)), file("b", b"small".to_vec()), file("c", long(3)));
        // Of the same size and middle but another end, a copy, of the same size, the file itself, nothing.
        let (d, e, f, none) =
            (file("d", long(2)), file("e", long(1)), file("f", b"SMALL".to_vec()), root.path().join("g"));
        let files: [&Path; 8] = [&b, &a, &c, &d, &e, &f, &c, &none];
        let groups = Groups::new(&files);
        assert_eq!(groups.copies(&files, 0..3, 3..8), [(4, 1)]);
        assert_eq!(groups.copies(&files, 0..8, 0..8), [(4, 1)]);
        assert_eq!(groups.copies(&files, 0..0, 0..8), []);
    }
}
