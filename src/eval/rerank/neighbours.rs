//! The nearest images of every image, and the largest distance of each. As d is symmetric, half of the blocks of all distances are
//! computed.
//!
//! Bounds select the candidates; exact distances in f64 decide which are nearest, and how far the farthest is.

use rayon::prelude::*;

use super::base::BaseDistance;
use crate::engine::cpu::{PackedRows, matmul_nt};
use crate::eval::products::block_rows;

/// Values that are compared with a bound at once.
const LANES: usize = 16;
/// Columns of one task.
const TASK_COLUMNS: usize = 512;
/// Candidates that are kept beyond the wanted number before exact distances are computed.
const SPARE: usize = 12;
/// Marks an empty slot; ordered after all candidates.
const NONE: u64 = u64::MAX;

/// The nearest images of each of n images.
pub(super) struct Neighbours {
    /// `[n, count]`: nearest other images, ascending by (distance, index).
    nearest: Vec<u32>,
    count: usize,
    /// `[n]`: the largest d.
    pub max: Vec<f64>,
}

impl Neighbours {
    /// Returns up to `k` nearest others of `i`, nearest first.
    pub(super) fn nearest(&self, i: usize, k: usize) -> &[u32] {
        &self.nearest[i * self.count..][..k.min(self.count)]
    }

    /// Returns whether j ∈ N(i, k).
    pub(super) fn contains(&self, i: usize, k: usize, j: u32) -> bool {
        i == j as usize || self.nearest(i, k).contains(&j)
    }

    /// Selects the nearest images and the largest distances from candidates for the nearest and for the farthest of each image, which
    /// include all that may be one. Images without bounds are always candidates for the farthest.
    pub(crate) fn decide(base: &BaseDistance, count: usize, candidates: Vec<[Vec<Candidate>; 2]>) -> Neighbours {
        let unbounded: Vec<u32> = base.unbounded().map(|i| i as u32).collect();
        let decided = candidates.into_par_iter().enumerate().map(|(i, [near, far])| {
            let near = in_order(base, i, near, count);
            debug_assert_eq!(near.len(), count);
            let others = far.iter().map(|c| c.other).chain(unbounded.iter().copied()).filter(|j| *j as usize != i);
            (near, others.map(|j| base.exact(i, j as usize)).fold(0.0, f64::max))
        });
        let (nearest, max): (Vec<Vec<u32>>, Vec<f64>) = decided.unzip();
        Neighbours { nearest: nearest.concat(), count, max }
    }
}

/// Returns the first `count` of `candidates` by (distance to image `i`, index). Exact distances are computed only where bounds overlap.
fn in_order(base: &BaseDistance, i: usize, mut candidates: Vec<Candidate>, count: usize) -> Vec<u32> {
    candidates.sort_unstable_by(|a, b| a.lower.total_cmp(&b.lower));
    let mut ordered = Vec::with_capacity(candidates.len());
    let mut rest = &candidates[..];
    while ordered.len() < count && !rest.is_empty() {
        // The group ends before the first candidate that is certainly farther than all before it.
        let mut upper = rest[0].upper;
        let others = rest[1..].iter().take_while(|c| {
            let overlaps = c.lower <= upper;
            upper = upper.max(c.upper);
            overlaps
        });
        let (group, after) = rest.split_at(1 + others.count());
        match group {
            [one] => ordered.push(one.other),
            group => {
                let mut exact: Vec<(u32, f64)> =
                    group.iter().map(|c| (c.other, base.exact(i, c.other as usize))).collect();
                exact.sort_unstable_by(by_distance);
                ordered.extend(exact.iter().map(|(other, _)| *other));
            }
        }
        rest = after;
    }
    ordered.truncate(count);
    ordered
}

fn by_distance(a: &(u32, f64), b: &(u32, f64)) -> std::cmp::Ordering {
    a.1.total_cmp(&b.1).then(a.0.cmp(&b.0))
}

/// Another image, and bounds of its d.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    lower: f32,
    upper: f32,
    other: u32,
}

impl Candidate {
    /// Creates a candidate of image `i` from the lower bound of its d.
    pub(super) fn new(base: &BaseDistance, i: usize, other: usize, lower: f32) -> Candidate {
        Candidate { lower, upper: lower + base.width(i, other), other: other as u32 }
    }

    /// Creates a candidate without bounds.
    pub(super) fn unknown(other: usize) -> Candidate {
        Candidate { lower: 0.0, upper: f32::INFINITY, other: other as u32 }
    }
}

/// Which candidates are sought.
#[derive(Clone, Copy)]
enum Side {
    Near,
    Far,
}

impl Side {
    const BOTH: [Side; 2] = [Side::Near, Side::Far];

    /// Packs a lower bound of d and the index of its image into a key. Keys ascend in the order of this side. Bounds are not negative,
    /// so their bits are ordered as the bounds are.
    fn key(self, lower: f32, other: u32) -> u64 {
        u64::from(lower.to_bits() ^ self.mask()) << 32 | u64::from(other)
    }

    fn lower(self, key: u64) -> f32 {
        f32::from_bits((key >> 32) as u32 ^ self.mask())
    }

    fn mask(self) -> u32 {
        match self {
            Side::Near => 0,
            Side::Far => i32::MAX as u32,
        }
    }

    /// Returns whether a candidate with this lower bound may be one of those that are sought.
    fn is_of_interest(self, lower: f32, bound: f32) -> bool {
        match self {
            Side::Near => lower <= bound,
            Side::Far => lower >= bound,
        }
    }
}

/// How many images are sought on each side.
#[derive(Clone, Copy)]
struct Counts([usize; 2]);

impl Counts {
    fn of(self, side: Side) -> usize {
        self.0[side as usize]
    }

    fn room(self, side: Side) -> usize {
        self.of(side) + SPARE
    }
}

/// The candidates of m images so far: those that may be among the nearest, or the farthest.
struct Seen<'a> {
    /// For each side, keys of candidates, `[m, room]`, ascending.
    keys: [&'a mut [u64]; 2],
    /// For each side, the limit for lower bounds of new candidates, `[m]`.
    bounds: [&'a mut [f32]; 2],
}

impl Seen<'_> {
    /// Splits the images from `first` on into groups of `size`.
    fn split(&mut self, counts: Counts, first: usize, size: usize) -> impl IndexedParallelIterator<Item = Seen<'_>> {
        let [near, far] = &mut self.keys;
        let [near_room, far_room] = Side::BOTH.map(|side| counts.room(side));
        let near = near[first * near_room..].par_chunks_mut(size * near_room);
        let keys = near.zip(far[first * far_room..].par_chunks_mut(size * far_room));
        let [near, far] = &mut self.bounds;
        let bounds = near[first..].par_chunks_mut(size).zip(far[first..].par_chunks_mut(size));
        keys.zip(bounds).map(|(keys, bounds)| Seen { keys: keys.into(), bounds: bounds.into() })
    }

    /// Adds image `other` to the candidates of image `own`, which has the index `at` in `self`.
    fn add(&mut self, base: &BaseDistance, counts: Counts, at: usize, own: usize, other: usize, lower: f32) {
        // Images without bounds are candidates anyway.
        if base.has_unbounded() && (base.is_unbounded(own) || base.is_unbounded(other)) {
            return;
        }
        for side in Side::BOTH {
            let bound = &mut self.bounds[side as usize][at];
            if !side.is_of_interest(lower, *bound) {
                continue;
            }
            let room = counts.room(side);
            let keys = &mut self.keys[side as usize][at * room..][..room];
            let key = side.key(lower, other as u32);
            let place = keys.partition_point(|k| *k < key);
            keys.copy_within(place..room - 1, place + 1);
            keys[place] = key;
            if keys[room - 1] != NONE {
                keep(keys, base, side, counts.of(side), own);
            }
            *bound = bound_of(keys, base, side, counts.of(side), own);
        }
    }
}

/// Returns the limit for lower bounds of new candidates of image `own`, whose present candidates have these keys.
fn bound_of(keys: &[u64], base: &BaseDistance, side: Side, count: usize, own: usize) -> f32 {
    match (side, keys[count - 1]) {
        (Side::Near, NONE) => f32::INFINITY,
        (Side::Far, NONE) => f32::NEG_INFINITY,
        (Side::Near, last) => side.lower(last) + base.widest(own),
        (Side::Far, last) => side.lower(last) - base.widest(own),
    }
}

/// Drops candidates that are certainly not sought, by exact distances if necessary, so that there is room again.
fn keep(keys: &mut [u64], base: &BaseDistance, side: Side, count: usize, own: usize) {
    let bound = bound_of(keys, base, side, count, own);
    let kept = keys.partition_point(|key| side.is_of_interest(side.lower(*key), bound));
    keys[kept..].fill(NONE);
    if kept > count + SPARE / 2 {
        let others: Vec<u32> = keys[..kept].iter().map(|key| *key as u32).collect();
        let mut exact: Vec<(u32, f64)> = others.iter().copied().zip(base.exact_of(own, &others)).collect();
        exact.sort_unstable_by(|a, b| match side {
            Side::Near => by_distance(a, b),
            Side::Far => by_distance(b, a),
        });
        keys.fill(NONE);
        for (key, (other, d)) in keys.iter_mut().zip(&exact[..count]) {
            // Still a lower bound, and closer to d than those from products.
            *key = side.key((*d as f32).next_down().max(0.0), *other);
        }
        keys[..count].sort_unstable();
    }
}

/// Finds the `count` (at most n - 1) nearest others of all rows; `packed` has the same rows. Bounds of d_ij = d_ji are computed once.
/// After each block, `done` is called with the number of images that have been compared with all others.
pub(super) fn find(packed: &PackedRows, base: &BaseDistance, count: usize, done: &mut impl FnMut(usize)) -> Neighbours {
    let n = base.len();
    let counts = Counts([count, 1]);
    let [mut near, mut far] = Side::BOTH.map(|side| vec![NONE; n * counts.room(side)]);
    let nothing = if count == 0 { f32::NEG_INFINITY } else { f32::INFINITY };
    let [mut near_bounds, mut far_bounds] = [vec![nothing; n], vec![f32::NEG_INFINITY; n]];
    let mut all = Seen { keys: [&mut near, &mut far], bounds: [&mut near_bounds, &mut far_bounds] };
    let rows = block_rows(n);
    let mut block = vec![0.0; rows.min(n) * n];
    for start in (0..n).step_by(rows) {
        let end = (start + rows).min(n);
        let width = n - start;
        let block = &mut block[..(end - start) * width];
        matmul_nt(&base.conditioned().rows(start..end), packed, start..n, block);

        block.par_chunks_mut(width).zip(all.split(counts, start, 1)).enumerate().for_each(|(i, (row, seen))| {
            base.to_bounds(start + i, start, row);
            add_row(row, base, counts, start, start + i, seen);
        });
        // The same distances for the columns.
        all.split(counts, end, TASK_COLUMNS).enumerate().for_each(|(task, mut seen)| {
            let first = end - start + task * TASK_COLUMNS;
            for (i, row) in block.chunks_exact(width).enumerate() {
                let part = &row[first..first + seen.bounds[0].len()];
                add_column_part(part, base, counts, [start + i, start + first], &mut seen);
            }
        });
        done(end);
    }
    let unbounded: Vec<usize> = base.unbounded().collect();
    let [near, far] = [(Side::Near, &near), (Side::Far, &far)].map(|(side, keys)| keys.par_chunks(counts.room(side)));
    let candidates = near.zip(far).enumerate().map(|(i, keys)| {
        if base.is_unbounded(i) {
            return [0, 1].map(|_| (0..n).filter(|j| *j != i).map(Candidate::unknown).collect());
        }
        let [mut near, far] = [(Side::Near, keys.0), (Side::Far, keys.1)].map(|(side, keys)| {
            let count = counts.of(side);
            let bound = if count == 0 { nothing } else { bound_of(keys, base, side, count, i) };
            let kept = keys.iter().filter(|key| **key != NONE && side.is_of_interest(side.lower(**key), bound));
            kept.map(|key| Candidate::new(base, i, *key as u32 as usize, side.lower(*key))).collect::<Vec<_>>()
        });
        near.extend(unbounded.iter().copied().map(Candidate::unknown));
        [near, far]
    });
    Neighbours::decide(base, count, candidates.collect())
}

/// Adds the images from `first` on to the candidates of image `own`, the only one of `seen`.
fn add_row(row: &[f32], base: &BaseDistance, counts: Counts, first: usize, own: usize, mut seen: Seen) {
    for (c, values) in row.chunks(LANES).enumerate() {
        let bounds = [seen.bounds[0][0], seen.bounds[1][0]];
        let mut of_interest = false;
        for d in values {
            of_interest |= (*d <= bounds[0]) | (*d >= bounds[1]);
        }
        if of_interest {
            for (lane, &d) in values.iter().enumerate() {
                let j = first + c * LANES + lane;
                if j != own && (d <= seen.bounds[0][0] || d >= seen.bounds[1][0]) {
                    seen.add(base, counts, 0, own, j, d);
                }
            }
        }
    }
}

/// Adds image `i` to the candidates of each image of `seen`, the first of which is `j`; `row` has its bounds.
fn add_column_part(row: &[f32], base: &BaseDistance, counts: Counts, [i, j]: [usize; 2], seen: &mut Seen) {
    for (c, values) in row.chunks(LANES).enumerate() {
        let from = c * LANES;
        let mut of_interest = false;
        for ((d, near), far) in values.iter().zip(&seen.bounds[0][from..]).zip(&seen.bounds[1][from..]) {
            of_interest |= (*d <= *near) | (*d >= *far);
        }
        if of_interest {
            for (lane, &d) in values.iter().enumerate() {
                let at = from + lane;
                if d <= seen.bounds[0][at] || d >= seen.bounds[1][at] {
                    seen.add(base, counts, at, j + at, i, d);
                }
            }
        }
    }
}
