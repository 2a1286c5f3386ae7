//! The nearest images of every image, and the largest distance of each, from half of the blocks of all distances.

use rayon::prelude::*;

use super::base::Base;
use crate::cpu::{PackedRows, matmul_nt};
use crate::eval::distance::block_rows;

/// Values that are compared with a bound at once.
const LANES: usize = 16;
/// Columns of one task.
const TASK_COLUMNS: usize = 512;
/// No neighbour yet: after every (distance, index).
const NONE: u64 = u64::MAX;

/// For each of n images.
pub(super) struct Neighbours {
    /// `[n, count]`: nearest other images, ascending by (distance, index). Bits of the distance, then the index:
    /// distances are not negative, so their bits are ordered as they are.
    keys: Vec<u64>,
    count: usize,
    /// `[n]`: the largest d.
    pub max: Vec<f32>,
}

impl Neighbours {
    /// Up to `k` nearest others of `i` with their d, nearest first.
    pub fn nearest(&self, i: usize, k: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let keys = &self.keys[i * self.count..][..k.min(self.count)];
        keys.iter().map(|&key| (key as u32, f32::from_bits((key >> 32) as u32)))
    }

    /// Whether j ∈ N(i, k).
    pub fn contains(&self, i: usize, k: usize, j: u32) -> bool {
        i == j as usize || self.nearest(i, k).any(|(other, _)| other == j)
    }
}

/// What one image has seen so far.
struct Seen<'a> {
    keys: &'a mut [u64],
    max: &'a mut f32,
    /// Farthest of the nearest.
    bound: &'a mut f32,
}

impl Seen<'_> {
    fn add(&mut self, d: f32, index: usize) {
        let key = u64::from(d.to_bits()) << 32 | index as u64;
        let Some(last) = self.keys.last() else { return };
        if key < *last {
            let place = self.keys.partition_point(|k| *k < key);
            self.keys[place..].rotate_right(1);
            self.keys[place] = key;
            let last = self.keys[self.keys.len() - 1];
            *self.bound = if last == NONE { f32::INFINITY } else { f32::from_bits((last >> 32) as u32) };
        }
    }
}

/// The `count` (at most n - 1) nearest others of all rows of `features`, which `packed` holds too. d_ij = d_ji is
/// computed once.
pub(super) fn find(
    features: &[f32],
    packed: &PackedRows,
    base: &Base,
    count: usize,
    done: &mut impl FnMut(usize),
) -> Neighbours {
    let (n, dim) = (base.len(), packed.depth());
    let mut keys = vec![NONE; n * count];
    let mut max = vec![0f32; n];
    let mut bound = vec![f32::INFINITY; n];
    let rows = block_rows(n);
    let mut block = vec![0.0; rows.min(n) * n];
    for start in (0..n).step_by(rows) {
        let end = (start + rows).min(n);
        let width = n - start;
        let block = &mut block[..(end - start) * width];
        matmul_nt(&features[start * dim..end * dim], packed, start..n, block);

        let own = keys.par_chunks_mut(count.max(1)).zip(&mut max).zip(&mut bound).skip(start);
        block.par_chunks_mut(width).zip(own).enumerate().for_each(|(i, (row, ((keys, max), bound)))| {
            base.to_base(start + i, start, row);
            add_row(row, start, start + i, Seen { keys, max, bound });
        });
        // The same distances, seen from the other side.
        let (_, max) = max.split_at_mut(end);
        let (_, bound) = bound.split_at_mut(end);
        let (_, keys) = keys.split_at_mut(end * count);
        let tasks = max.par_chunks_mut(TASK_COLUMNS).zip(bound.par_chunks_mut(TASK_COLUMNS));
        tasks.zip(keys.par_chunks_mut(TASK_COLUMNS * count.max(1))).enumerate().for_each(
            |(task, ((max, bound), keys))| {
                let first = end - start + task * TASK_COLUMNS;
                for (i, row) in block.chunks_exact(width).enumerate() {
                    add_column_part(&row[first..first + max.len()], start + i, count, max, bound, keys);
                }
            },
        );
        done(end);
    }
    Neighbours { keys, count, max }
}

/// Image `own` sees the images from `first` on.
fn add_row(row: &[f32], first: usize, own: usize, mut seen: Seen) {
    let mut largest = [0f32; LANES];
    for (c, values) in row.chunks(LANES).enumerate() {
        let mut near = false;
        for (m, d) in largest.iter_mut().zip(values) {
            *m = m.max(*d);
            near |= *d <= *seen.bound;
        }
        if near {
            for (lane, &d) in values.iter().enumerate() {
                let j = first + c * LANES + lane;
                if d <= *seen.bound && j != own {
                    seen.add(d, j);
                }
            }
        }
    }
    *seen.max = largest.iter().fold(*seen.max, |m, d| m.max(*d));
}

/// Each of some images sees image `i`, at distance `row[its place]`.
fn add_column_part(row: &[f32], i: usize, count: usize, max: &mut [f32], bound: &mut [f32], keys: &mut [u64]) {
    for (c, values) in row.chunks(LANES).enumerate() {
        let from = c * LANES;
        let mut near = false;
        for ((d, m), b) in values.iter().zip(&mut max[from..]).zip(&bound[from..]) {
            *m = m.max(*d);
            near |= *d <= *b;
        }
        if near {
            for (lane, &d) in values.iter().enumerate() {
                let j = from + lane;
                if d <= bound[j] {
                    let keys = &mut keys[j * count..][..count];
                    Seen { keys, max: &mut max[j], bound: &mut bound[j] }.add(d, i);
                }
            }
        }
    }
}
