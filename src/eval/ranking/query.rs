//! One query: where its matches stand in the filtered gallery.

use super::places::Places;
use super::{Labels, QueryResult, RankingOptions};
use crate::eval::products::Row;

/// A match while its place is looked for.
struct Match {
    /// Lower bound, or the exact value where that matters.
    key: f64,
    item: usize,
    /// Upper bound of this one and of all before it.
    most: f32,
    exact: bool,
}

/// Metrics of one query over the gallery items `items` (ascending), without sorting them: only the matches are sorted,
/// and each other item is counted where it falls between them. `row` is the whole gallery's; what its bounds leave open is
/// decided by exact distances. `None` if no match is left.
pub(in crate::eval) fn rank_query(
    row: Row,
    items: impl Iterator<Item = usize> + Clone,
    pid: i64,
    camid: i64,
    gallery: Labels,
    options: &RankingOptions,
) -> Option<QueryResult> {
    let kept = || items.clone().filter(|&g| !options.filter.removes(pid, camid, gallery, g));
    let of_item = |item| Match { key: f64::from(row.least(item)), item, most: row.most(item), exact: false };
    let mut matches: Vec<Match> = kept().filter(|&g| gallery.pids[g] == pid).map(of_item).collect();
    by_distance(&mut matches);
    let mut farthest = f32::NEG_INFINITY;
    for i in 0..matches.len() {
        let overlaps = i > 0 && matches[i].key <= f64::from(farthest);
        farthest = farthest.max(matches[i].most);
        matches[i].most = farthest;
        if overlaps {
            settle(&mut matches[..=i], row);
        }
    }
    if matches.is_empty() {
        return None;
    }

    // Other items by the first match that comes after them in rank; behind the last match they do not matter.
    let mut others_before = vec![0; matches.len() + 1];
    let mut open = Vec::new();
    let bounds: Vec<[f32; 2]> = matches.iter().map(|m| [row.least(m.item), m.most]).collect();
    let places = Places::new(&bounds);
    for other in kept().filter(|&g| row.least(g) <= farthest && gallery.pids[g] != pid) {
        let [least, most] = [row.least(other), row.most(other)];
        if let Some(nearer) = places.nearer(least, most) {
            others_before[nearer] += 1;
            continue;
        }
        // Matches behind the first `end` are farther; those before are nearer if even the largest of their bounds is less.
        let end = bounds.partition_point(|[least, _]| *least <= most);
        if end > 0 && bounds[end - 1][1] >= least {
            open.push((other, end));
        } else {
            others_before[end] += 1;
        }
    }
    others_before.truncate(matches.len());
    let mut others_within = others_before.clone();
    for &(other, end) in &open {
        let nearer = bounds[..end].partition_point(|[_, most]| *most < row.least(other));
        matches[nearer..end].iter_mut().for_each(|m| m.settle(row));
    }
    by_distance(&mut matches);
    for (other, _) in open {
        let distance = row.exact(other);
        let within = matches.partition_point(|m| m.key < distance);
        let before = matches.partition_point(|m| (m.key, m.item) < (distance, other));
        for (counts, place) in [(&mut others_within, within), (&mut others_before, before)] {
            if let Some(count) = counts.get_mut(place) {
                *count += 1;
            }
        }
    }
    cumulate(&mut others_before);
    cumulate(&mut others_within);

    let n = matches.len() as f64;
    let (mut ap, mut ap_trapezoid, mut entered) = (0.0, 0.0, 0);
    for i in 0..matches.len() {
        let hits = i + 1;
        if matches.get(hits).is_none_or(|next| next.key > matches[i].key) {
            ap += (hits - entered) as f64 / n * hits as f64 / (hits + others_within[i]) as f64;
            entered = hits;
        }
        let before = i + others_before[i];
        let precision_before = if before == 0 { 1.0 } else { i as f64 / before as f64 };
        ap_trapezoid += (hits as f64 / (before + 1) as f64 + precision_before) / (2.0 * n);
    }
    if options.pessimistic_ties {
        others_before = others_within;
    }
    let last_rank = matches.len() + others_before[matches.len() - 1];
    Some(QueryResult {
        ap,
        ap_trapezoid,
        inp: n / last_rank as f64,
        matches: matches.len(),
        first_match_rank: 1 + others_before[0],
    })
}

impl Match {
    fn settle(&mut self, row: Row) {
        if !self.exact {
            (self.key, self.exact) = (row.exact(self.item), true);
        }
    }
}

/// Looks up the last of `matches`, whose lower bound lies below an upper bound of those before it, and all that it may be as near
/// as.
fn settle(matches: &mut [Match], row: Row) {
    let (last, before) = matches.split_last_mut().expect("at least one match");
    let least = row.least(last.item);
    last.settle(row);
    // Upper bounds of `most` are of all before, too: they ascend.
    let first = before.partition_point(|m| m.most < least);
    before[first..].iter_mut().for_each(|m| m.settle(row));
}

fn by_distance(matches: &mut [Match]) {
    matches.sort_by(|a, b| (a.key, a.item).partial_cmp(&(b.key, b.item)).expect("distances are not NaN"));
}

fn cumulate(counts: &mut [usize]) {
    for i in 1..counts.len() {
        counts[i] += counts[i - 1];
    }
}
