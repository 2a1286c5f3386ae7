//! The nearest images of every image, and the largest distance of each, from half of the blocks of all distances.
//!
//! Bounds choose the candidates; what is nearest, and how far the farthest is, is decided in f64.

use rayon::prelude::*;

use super::base::Base;
use crate::cpu::{PackedRows, matmul_nt};
use crate::eval::distance::block_rows;

/// Values that are compared with a bound at once.
const LANES: usize = 16;
/// Columns of one task.
const TASK_COLUMNS: usize = 512;
/// Candidates that are kept beside the nearest before distances are worked out in f64.
const SPARE: usize = 12;
/// Candidates for the farthest that are kept.
const FAR: usize = 8;

/// For each of n images.
pub(super) struct Neighbours {
    /// `[n, count]`: nearest other images, ascending by (distance, index), and their d.
    nearest: Vec<(u32, f64)>,
    count: usize,
    /// `[n]`: the largest d.
    pub max: Vec<f64>,
}

impl Neighbours {
    /// Up to `k` nearest others of `i` with their d, nearest first.
    pub fn nearest(&self, i: usize, k: usize) -> impl Iterator<Item = (u32, f64)> + '_ {
        self.nearest[i * self.count..][..k.min(self.count)].iter().copied()
    }

    /// Whether j ∈ N(i, k).
    pub fn contains(&self, i: usize, k: usize, j: u32) -> bool {
        i == j as usize || self.nearest(i, k).any(|(other, _)| other == j)
    }

    /// From a list of candidates for the nearest and one for the farthest of each image, which may leave out what is certainly neither.
    /// Vague images are candidates for the farthest of all others anyway.
    pub fn decide(base: &Base, count: usize, candidates: Vec<[Vec<u32>; 2]>) -> Neighbours {
        let vague: Vec<u32> = base.vague().map(|i| i as u32).collect();
        let decided = candidates.into_par_iter().enumerate().map(|(i, [near, far])| {
            let mut near: Vec<(u32, f64)> = near.iter().map(|&j| (j, base.exact(i, j as usize))).collect();
            near.sort_by(by_distance);
            near.truncate(count);
            debug_assert_eq!(near.len(), count);
            let others = far.iter().chain(&vague).filter(|j| **j as usize != i);
            (near, others.map(|&j| base.exact(i, j as usize)).fold(0.0, f64::max))
        });
        let (nearest, max): (Vec<Vec<(u32, f64)>>, Vec<f64>) = decided.unzip();
        Neighbours { nearest: nearest.concat(), count, max }
    }
}

fn by_distance(a: &(u32, f64), b: &(u32, f64)) -> std::cmp::Ordering {
    a.1.total_cmp(&b.1).then(a.0.cmp(&b.0))
}

/// Another image, and between which numbers its d lies.
#[derive(Clone, Copy)]
struct Candidate {
    least: f32,
    most: f32,
    other: u32,
}

/// What one image has seen so far.
#[derive(Default)]
struct Seen {
    /// By ascending `most`; all that may be among the nearest.
    near: Vec<Candidate>,
    /// All that may be the farthest.
    far: Vec<Candidate>,
}

/// What is still of interest to an image: lower bounds of d up to `near`, and from `far` on.
#[derive(Clone, Copy)]
struct Interest {
    near: f32,
    far: f32,
}

impl Seen {
    fn add(&mut self, base: &Base, count: usize, i: usize, other: usize, least: f32, interest: &mut Interest) {
        let candidate = Candidate { least, most: least + base.width(i, other), other: other as u32 };
        if least <= interest.near {
            let place = self.near.partition_point(|c| c.most <= candidate.most);
            self.near.insert(place, candidate);
            if self.near.len() > count + SPARE {
                self.keep_nearest(base, count, i);
            }
            if self.near.len() >= count {
                interest.near = self.near[count - 1].most;
            }
        }
        if least >= interest.far {
            self.far.push(candidate);
            if self.far.len() > FAR {
                self.keep_farthest(base, i);
            }
            interest.far = self.least_farthest() - base.widest(i);
        }
    }

    /// Drops what is certainly not among the nearest, if need be by distances in f64.
    fn keep_nearest(&mut self, base: &Base, count: usize, i: usize) {
        let bound = self.near[count - 1].most;
        self.near.retain(|c| c.least <= bound);
        if self.near.len() > count + SPARE / 2 {
            let mut exact: Vec<(u32, f64)> =
                self.near.iter().map(|c| (c.other, base.exact(i, c.other as usize))).collect();
            exact.sort_by(by_distance);
            exact.truncate(count);
            self.near = exact.into_iter().map(settled).collect();
        }
    }

    /// The same for the farthest.
    fn keep_farthest(&mut self, base: &Base, i: usize) {
        let bound = self.least_farthest();
        self.far.retain(|c| c.most >= bound);
        if self.far.len() > FAR / 2 {
            let exact = self.far.iter().map(|c| (c.other, base.exact(i, c.other as usize)));
            let farthest = exact.max_by(by_distance).expect("candidates");
            self.far = vec![settled(farthest)];
        }
    }

    /// The farthest is not nearer than this.
    fn least_farthest(&self) -> f32 {
        self.far.iter().map(|c| c.least).fold(0.0, f32::max)
    }

    /// Candidates for the nearest and for the farthest.
    fn candidates(self, count: usize) -> [Vec<u32>; 2] {
        let near = if count == 0 { f32::NEG_INFINITY } else { self.near[count - 1].most };
        let far = self.least_farthest();
        let near = self.near.iter().filter(|c| c.least <= near).map(|c| c.other).collect();
        [near, self.far.iter().filter(|c| c.most >= far).map(|c| c.other).collect()]
    }
}

/// An image whose d is known, between the numbers of f32 around it.
fn settled((other, d): (u32, f64)) -> Candidate {
    let d = d as f32;
    Candidate { least: d.next_down().max(0.0), most: d.next_up(), other }
}

/// The `count` (at most n - 1) nearest others of all rows, which `packed` holds too. The bounds of d_ij = d_ji are computed once.
pub(super) fn find(packed: &PackedRows, base: &Base, count: usize, done: &mut impl FnMut(usize)) -> Neighbours {
    let n = base.len();
    let mut seen: Vec<Seen> = (0..n).map(|_| Seen::default()).collect();
    let start = Interest { near: if count == 0 { f32::NEG_INFINITY } else { f32::INFINITY }, far: f32::NEG_INFINITY };
    let mut near = vec![start.near; n];
    let mut far = vec![start.far; n];
    let rows = block_rows(n);
    let mut block = vec![0.0; rows.min(n) * n];
    for start in (0..n).step_by(rows) {
        let end = (start + rows).min(n);
        let width = n - start;
        let block = &mut block[..(end - start) * width];
        matmul_nt(&base.conditioned().rows(start..end), packed, start..n, block);

        let own = seen.par_iter_mut().zip(&mut near).zip(&mut far).skip(start);
        block.par_chunks_mut(width).zip(own).enumerate().for_each(|(i, (row, ((seen, near), far)))| {
            base.to_bounds(start + i, start, row);
            let mut interest = Interest { near: *near, far: *far };
            add_row(row, base, count, start, start + i, seen, &mut interest);
            (*near, *far) = (interest.near, interest.far);
        });
        // The same distances, seen from the other side.
        let (_, near) = near.split_at_mut(end);
        let (_, far) = far.split_at_mut(end);
        let (_, seen) = seen.split_at_mut(end);
        let tasks = near.par_chunks_mut(TASK_COLUMNS).zip(far.par_chunks_mut(TASK_COLUMNS));
        tasks.zip(seen.par_chunks_mut(TASK_COLUMNS)).enumerate().for_each(|(task, ((near, far), seen))| {
            let first = end - start + task * TASK_COLUMNS;
            for (i, row) in block.chunks_exact(width).enumerate() {
                let part = &row[first..first + near.len()];
                add_column_part(part, base, count, [start + i, start + first], near, far, seen);
            }
        });
        done(end);
    }
    let candidates: Vec<[Vec<u32>; 2]> = seen.into_par_iter().map(|seen| seen.candidates(count)).collect();
    Neighbours::decide(base, count, candidates)
}

/// Image `own` sees the images from `first` on.
fn add_row(row: &[f32], base: &Base, count: usize, first: usize, own: usize, seen: &mut Seen, interest: &mut Interest) {
    for (c, values) in row.chunks(LANES).enumerate() {
        let mut of_interest = false;
        for d in values {
            of_interest |= (*d <= interest.near) | (*d >= interest.far);
        }
        if of_interest {
            for (lane, &d) in values.iter().enumerate() {
                let j = first + c * LANES + lane;
                if j != own && (d <= interest.near || d >= interest.far) {
                    seen.add(base, count, own, j, d, interest);
                }
            }
        }
    }
}

/// Each of some images, of which the first is `j`, sees image `i`, whose bounds are `row`.
fn add_column_part(
    row: &[f32],
    base: &Base,
    count: usize,
    [i, j]: [usize; 2],
    near: &mut [f32],
    far: &mut [f32],
    seen: &mut [Seen],
) {
    for (c, values) in row.chunks(LANES).enumerate() {
        let from = c * LANES;
        let mut of_interest = false;
        for ((d, near), far) in values.iter().zip(&near[from..]).zip(&far[from..]) {
            of_interest |= (*d <= *near) | (*d >= *far);
        }
        if of_interest {
            for (lane, &d) in values.iter().enumerate() {
                let at = from + lane;
                if d <= near[at] || d >= far[at] {
                    let mut interest = Interest { near: near[at], far: far[at] };
                    seen[at].add(base, count, j + at, i, d, &mut interest);
                    (near[at], far[at]) = (interest.near, interest.far);
                }
            }
        }
    }
}
