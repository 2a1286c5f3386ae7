//! Files of the same content, in two subsets or within one.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use rayon::prelude::*;

use crate::base::input;

/// Bytes of a file's middle that tell most files of equal size apart.
const SAMPLE: u64 = 4096;
/// Larger files are compared by size and middle alone.
const LARGEST: u64 = 512 << 20;

/// The copies among `second` of files of `first`: their indices in `second`, each with that of the first file in `first` of the same content.
/// A path that stands in both is no copy. Files are told apart by size, then by a few KiB of their middle; only those that agree in
/// both are read. A file that cannot be read, or is empty, is a copy of none: decoding reports it.
pub(super) fn copies(first: &[&Path], second: &[&Path]) -> Vec<(usize, usize)> {
    let sides = [first, second].map(|paths| (0..paths.len()).collect::<Vec<usize>>());
    let sides =
        common([first, second], sides, |path| input::open(path).ok().map(|(_, len)| len).filter(|&len| len > 0));
    let sides = common([first, second], sides, |path| middle(path).ok());
    if sides[1].is_empty() {
        return Vec::new();
    }
    let keys = keys([first, second], &sides, content);
    let mut originals: HashMap<u64, usize> = HashMap::new();
    for (&index, key) in sides[0].iter().zip(&keys[0]) {
        if let Some(key) = *key {
            originals.entry(key).or_insert(index);
        }
    }
    let original = |key: &Option<u64>| key.and_then(|key| originals.get(&key)).copied();
    let found = sides[1].iter().zip(&keys[1]).filter_map(|(&index, key)| Some((index, original(key)?)));
    found.filter(|&(copy, original)| second[copy] != first[original]).collect()
}

/// As [`copies`] within one list: the indices of files, each with that of the first file before it of the same content.
pub(super) fn repeats(files: &[&Path]) -> Vec<(usize, usize)> {
    let mut left: Vec<usize> = (0..files.len()).collect();
    left = shared(files, left, |path| input::open(path).ok().map(|(_, len)| len).filter(|&len| len > 0));
    left = shared(files, left, |path| middle(path).ok());
    let keys: Vec<Option<u64>> = left.par_iter().map(|&index| content(files[index])).collect();
    let mut originals: HashMap<u64, usize> = HashMap::new();
    let mut found = Vec::new();
    for (index, key) in left.into_iter().zip(keys) {
        match key.map(|key| *originals.entry(key).or_insert(index)) {
            Some(original) if files[original] != files[index] => found.push((index, original)),
            _ => {}
        }
    }
    found
}

/// The files whose key another one has, too.
fn shared(files: &[&Path], indices: Vec<usize>, key: impl Fn(&Path) -> Option<u64> + Sync) -> Vec<usize> {
    let keys: Vec<Option<u64>> = indices.par_iter().map(|&index| key(files[index])).collect();
    let mut counts: HashMap<u64, usize> = HashMap::new();
    keys.iter().flatten().for_each(|key| *counts.entry(*key).or_default() += 1);
    let both = indices.into_iter().zip(keys);
    both.filter(|(_, key)| key.is_some_and(|key| counts[&key] > 1)).map(|(index, _)| index).collect()
}

fn keys(
    paths: [&[&Path]; 2],
    sides: &[Vec<usize>; 2],
    key: impl Fn(&Path) -> Option<u64> + Sync,
) -> [Vec<Option<u64>>; 2] {
    [0, 1].map(|side| sides[side].par_iter().map(|&index| key(paths[side][index])).collect())
}

/// Of each side the files whose key the other has too.
fn common(paths: [&[&Path]; 2], sides: [Vec<usize>; 2], key: impl Fn(&Path) -> Option<u64> + Sync) -> [Vec<usize>; 2] {
    // With nothing on one side nothing is read.
    if sides.iter().any(Vec::is_empty) {
        return [Vec::new(), Vec::new()];
    }
    let keys = keys(paths, &sides, key);
    let sets = keys.each_ref().map(|keys| keys.iter().flatten().copied().collect::<HashSet<u64>>());
    let kept = |side: usize| {
        let both = sides[side].iter().zip(&keys[side]);
        both.filter(|(_, key)| key.is_some_and(|key| sets[1 - side].contains(&key))).map(|(&index, _)| index).collect()
    };
    [kept(0), kept(1)]
}

/// A hash of size and middle.
fn middle(path: &Path) -> crate::Result<u64> {
    let (mut file, len) = input::open(path)?;
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(len.saturating_sub(SAMPLE) / 2))
        .and_then(|_| file.take(SAMPLE).read_to_end(&mut bytes));
    read.map(|_| hash(&(len, bytes))).map_err(|source| crate::Error::Io { action: "read", path: path.into(), source })
}

fn content(path: &Path) -> Option<u64> {
    let (file, len) = input::open(path).ok()?;
    if len > LARGEST {
        return middle(path).ok();
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
        let found = copies(&[&b, &a, &c], &[&d, &e, &f, &c, &none]);
        assert_eq!(found, [(1, 1)]);
        assert_eq!(copies(&[], &[&d]), []);
        assert_eq!(repeats(&[&b, &a, &c, &d, &e, &f, &c, &none, &b]), [(4, 1)]);
    }
}
