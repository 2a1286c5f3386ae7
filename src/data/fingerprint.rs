//! Whether the files of images are the same as elsewhere or before.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use flate2::Crc;
use rayon::prelude::*;

use super::{Sample, middle};

/// Returns the size of each file of `samples`, and the CRC-32 of bytes from its middle; zeros if it cannot be read, which decoding reports.
pub(crate) fn fingerprints(samples: &[Sample]) -> HashMap<&Path, (u64, u32)> {
    let files: HashSet<&Path> = samples.iter().map(|sample| sample.image.file()).collect();
    files.into_par_iter().map(|path| (path, fingerprint(path))).collect()
}

fn fingerprint(path: &Path) -> (u64, u32) {
    let (size, bytes) = middle(path).unwrap_or_default();
    let mut crc = Crc::new();
    crc.update(&bytes);
    (size, crc.sum())
}
