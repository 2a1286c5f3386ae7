//! Finds the nearest images of a gallery that is larger than the memory: its features are read from a file, a block at a time.
//!
//! The answers are those of a ranking: by distance in f64, images at the same distance in the order of the gallery. Each block gives bounds of
//! its distances in f32, and only what may be among the nearest so far is computed in f64.

mod open_set;

use rayon::prelude::*;

pub use self::open_set::{Answer, FPIR_LEVELS, OpenSet, OpenSetPoint, open_set};
use super::distance::Distances;
use super::features_file::{FeatureFile, JUNK};
use super::products::Row;
use super::products::check_finite;
use crate::base::memory;
use crate::base::progress::Reporter;
use crate::base::text::Shown;
use crate::engine::cpu::squared_distances;
use crate::engine::device::Device;
use crate::{Error, Result};

/// Numbers of the gallery in memory at a time (8 MiB, which stay in a cache), unless the queries have more.
const BLOCK_VALUES: usize = 1 << 21;
/// Up to so many queries, all distances in f64 take less time than bounds of them.
const FEW: usize = 16;
/// Rows whose distances are computed at once.
const ROWS: usize = 4;

/// An image of the gallery that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Row of the gallery.
    pub row: usize,
    /// Euclidean distance to the query.
    pub distance: f64,
}

/// Returns the `top` nearest images of `gallery` for each of the queries `[queries, dim]`, the nearest first. Images of identity -1 are left
/// out.
///
/// # Errors
/// [`Error::FeatureLengths`]; a feature is NaN or infinite; there is no query, or no image in the gallery; the file cannot be read;
/// [`Error::OutOfMemory`]; the device fails.
///
/// # Panics
/// `query` is no whole number of features.
pub fn search(
    (query, dim): (&[f32], usize),
    gallery: &mut FeatureFile,
    top: usize,
    device: &Device,
    reporter: &Reporter,
) -> Result<Vec<Vec<Hit>>> {
    search_in_blocks((query, dim), gallery, top, BLOCK_VALUES.max(query.len()), device, reporter)
}

fn search_in_blocks(
    (query, dim): (&[f32], usize),
    gallery: &mut FeatureFile,
    top: usize,
    values: usize,
    device: &Device,
    reporter: &Reporter,
) -> Result<Vec<Vec<Hit>>> {
    if dim != gallery.dim() {
        return Err(Error::FeatureLengths { query: dim, gallery: gallery.dim() });
    }
    let count = gallery.len();
    if gallery.searched() == 0 {
        return Err(Error::NoImages { subset: "searchable", dataset: gallery.path().shown().to_string() });
    }
    assert!(query.len().is_multiple_of(dim), "whole features");
    if query.is_empty() {
        return Err(Error::NoImages { subset: "query", dataset: "the search".into() });
    }
    check_finite("query", query, dim, 0)?;
    // Lists grow by doubling, and answers are copied.
    let answers = (query.len() / dim).saturating_mul(top.min(count));
    memory::ensure_or(
        "the answers",
        64 * answers as u64,
        "search for fewer queries, or fewer images for each (`top`)",
    )?;
    let mut nearest = vec![Nearest::default(); query.len() / dim];
    let mut task = reporter.start("searching", count as u64, "images");
    let step = (values / dim).max(1);
    let mut features = Vec::new();
    for start in (0..count).step_by(step) {
        let rows = start..(start + step).min(count);
        gallery.read(rows.clone(), &mut features)?;
        check_finite("gallery", &features, dim, start)?;
        // Without labels, no image is left out.
        let pids = &gallery.pids;
        let kept = |item: &usize| pids.get(start + item) != Some(&JUNK);
        if nearest.len() <= FEW {
            for (nearest, query) in nearest.iter_mut().zip(query.chunks_exact(dim)) {
                nearest.add(all_distances(query, &features), start, top, kept);
            }
        } else {
            let distances = Distances::new([query, &features], dim, device)?;
            if start == 0 {
                distances.report_fallback(reporter);
            }
            let unit = distances.unit();
            distances.for_each_block(|first, of_block| {
                let add = |(nearest, row): (&mut Nearest, &Row)| nearest.add_row(row, start, top, unit, kept);
                nearest[first..].par_iter_mut().zip(of_block).for_each(add);
            })?;
        }
        task.advance(rows.len() as u64, "");
    }
    task.finish("");
    Ok(nearest.into_iter().map(Nearest::hits).collect())
}

/// Returns the Euclidean distance of two features, computed in f64 as all distances are.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    squared_distances(a, [b], 1.0)[0].sqrt()
}

/// Returns the squared distances of `query` to the rows of `features`.
fn all_distances(query: &[f32], features: &[f32]) -> Vec<f64> {
    let dim = query.len();
    let mut squared = vec![0.0; features.len() / dim];
    let rows = features.par_chunks(ROWS * dim);
    squared.par_chunks_mut(ROWS).zip(rows).with_min_len(64).for_each(|(squared, rows)| match squared {
        [_, _, _, _] => {
            let rows: [&[f32]; ROWS] = std::array::from_fn(|i| &rows[i * dim..][..dim]);
            squared.copy_from_slice(&squared_distances(query, rows, 1.0));
        }
        _ => {
            let each = squared.iter_mut().zip(rows.chunks_exact(dim));
            each.for_each(|(squared, row)| *squared = squared_distances(query, [row], 1.0)[0]);
        }
    });
    squared
}

/// The nearest images of one query so far: squared distance and row of each, sorted.
#[derive(Clone, Debug, Default)]
struct Nearest(Vec<(f64, usize)>);

impl Nearest {
    /// Returns the squared distance that an image must not exceed.
    fn limit(&self, top: usize) -> f64 {
        if self.0.len() < top { f64::INFINITY } else { self.0.last().map_or(-1.0, |last| last.0) }
    }

    /// Adds those images of a block that are among the `top` nearest, by their squared distances. The block starts at row `first` of the
    /// gallery.
    fn add(&mut self, squared: Vec<f64>, first: usize, top: usize, kept: impl Fn(&usize) -> bool) {
        let limit = self.limit(top);
        let near = squared.into_iter().enumerate().filter(|(item, squared)| *squared <= limit && kept(item));
        self.insert(near.map(|(item, squared)| (squared, first + item)).collect(), top);
    }

    /// Does the same for bounds of distances; `unit` is that of the distances.
    fn add_row(&mut self, row: &Row, first: usize, top: usize, unit: f64, kept: impl Fn(&usize) -> bool) {
        let squared_unit = unit * unit;
        let near: Vec<usize> = row.within(self.limit(top) * squared_unit).filter(kept).collect();
        let near = row.nearest_exact(near, top).into_iter().map(|(exact, item)| (exact / squared_unit, first + item));
        self.insert(near.collect(), top);
    }

    fn insert(&mut self, found: Vec<(f64, usize)>, top: usize) {
        if !found.is_empty() {
            self.0.extend(found);
            self.0.sort_by(|a, b| a.partial_cmp(b).expect("distances are not NaN"));
            self.0.truncate(top);
        }
    }

    fn hits(self) -> Vec<Hit> {
        self.0.into_iter().map(|(squared, row)| Hit { row, distance: squared.sqrt() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::eval::features_file::FeatureTable;

    const DIM: usize = 5;

    /// Writes features, every tenth of identity -1.
    fn written(folder: &tempfile::TempDir, features: &[f32]) -> FeatureFile {
        let path = folder.path().join("g.safetensors");
        let count = features.len() / DIM;
        let paths: Vec<PathBuf> = (0..count).map(|i| format!("{i}.jpg").into()).collect();
        let pids: Vec<i64> = (0..count as i64).map(|i| if i % 10 == 3 { JUNK } else { i }).collect();
        let labels = Some((&pids[..], &vec![1; count][..]));
        FeatureTable { features, dim: DIM, paths: &paths, labels, origin: None, names: None }.write(&path).unwrap();
        FeatureFile::open(&path, None).unwrap()
    }

    fn found(file: &mut FeatureFile, query: &[f32], top: usize, values: usize) -> Result<Vec<Vec<Hit>>> {
        search_in_blocks((query, DIM), file, top, values, &Device::cpu(), &Reporter::silent())
    }

    #[test]
    fn blocks_of_any_size_give_what_all_pairs_in_f64_give() {
        let count = 203;
        // Small whole numbers, so that many distances are equal; in each fifty rows much larger ones, so that blocks are scaled by other factors.
        let value = |i: usize| ((i * 7919 + i * i * 31) % 5) as f32;
        let gallery: Vec<f32> =
            (0..count * DIM).map(|i| value(i) * 2f32.powi(i as i32 / (50 * DIM as i32) * 9)).collect();
        // Few enough for all distances, and more.
        let query: Vec<f32> =
            (0..(FEW + 3) * DIM).map(|i| value(i + 3) * if i % 40 < 20 { 1.0 } else { 512.0 }).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut file = written(&folder, &gallery);
        let want = |q: usize, top: usize| -> Vec<(usize, f64)> {
            let squared = |g: usize| -> f64 {
                let pair = query[q * DIM..][..DIM].iter().zip(&gallery[g * DIM..][..DIM]);
                pair.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
            };
            let mut all: Vec<(f64, usize)> = (0..count).filter(|g| g % 10 != 3).map(|g| (squared(g), g)).collect();
            all.sort_by(|a, b| a.partial_cmp(b).unwrap());
            all.into_iter().take(top).map(|(squared, g)| (g, squared.sqrt())).collect()
        };
        let cases = [(1, 4), (7 * DIM, 1), (50 * DIM, 10), (1 << 20, 300)];
        for ((values, top), queries) in cases.iter().flat_map(|case| [(*case, 9), (*case, FEW + 3)]) {
            let found = found(&mut file, &query[..queries * DIM], top, values).unwrap();
            for (q, hits) in found.iter().enumerate() {
                // Sums of squares of whole numbers are exact.
                let hits: Vec<(usize, f64)> = hits.iter().map(|hit| (hit.row, hit.distance)).collect();
                assert_eq!(hits, want(q, top), "query {q} of {queries}, {values} values, {top} wanted");
            }
        }
    }

    #[test]
    fn what_cannot_be_searched_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut gallery = vec![0.5; 30 * DIM];
        gallery[17 * DIM + 2] = f32::INFINITY;
        let error = found(&mut written(&folder, &gallery), &[0.0; DIM], 1, 4 * DIM).unwrap_err().to_string();
        assert!(error.contains("row 17 of the gallery"), "{error}");
        let mut file = written(&folder, &gallery);
        file.pids.fill(JUNK);
        let error = found(&mut file, &[0.0; DIM], 1, 4 * DIM).unwrap_err().to_string();
        assert!(error.contains("g.safetensors"), "{error}");
        let other = search((&[0.0; 4], 4), &mut file, 1, &Device::cpu(), &Reporter::silent()).unwrap_err();
        assert!(matches!(other, Error::FeatureLengths { query: 4, gallery: DIM }));
    }
}
