//! The metrics of one query, from the ranks of its matches in the filtered gallery.

use super::match_table::MatchTable;
use super::{Labels, QueryResult, RankingOptions};
use crate::eval::products::Row;

/// A match whose rank is being determined.
struct Match {
    /// Lower bound, or the exact value where `exact` is set.
    key: f64,
    item: usize,
    /// Largest upper bound of this match and of all before it.
    upper: f32,
    exact: bool,
}

/// Computes the metrics of one query over the gallery items `items` (ascending). Sorts only the matches, and counts the other items that
/// lie between them. `row` has the distances to the whole gallery; where its bounds overlap, exact distances decide. Returns `None` if the
/// filter leaves no match.
pub(in crate::eval) fn rank_query(
    row: Row,
    items: impl Iterator<Item = usize> + Clone,
    pid: i64,
    camid: i64,
    gallery: Labels,
    options: &RankingOptions,
) -> Option<QueryResult> {
    let filter = options.effective_filter();
    let kept = || items.clone().filter(|&g| !filter.removes(pid, camid, gallery, g));
    let of_item = |item| Match { key: f64::from(row.lower(item)), item, upper: row.upper(item), exact: false };
    let mut matches: Vec<Match> = kept().filter(|&g| gallery.pids[g] == pid).map(of_item).collect();
    by_distance(&mut matches);
    let mut farthest = f32::NEG_INFINITY;
    for i in 0..matches.len() {
        let overlaps = i > 0 && matches[i].key <= f64::from(farthest);
        farthest = farthest.max(matches[i].upper);
        matches[i].upper = farthest;
        if overlaps {
            make_exact(&mut matches[..=i], row);
        }
    }
    if matches.is_empty() {
        return None;
    }

    // Counts other items by the first match that is ranked after them. Those behind the last match do not matter.
    let mut others_before = vec![0; matches.len() + 1];
    let mut open = Vec::new();
    let bounds: Vec<[f32; 2]> = matches.iter().map(|m| [row.lower(m.item), m.upper]).collect();
    let table = MatchTable::new(&bounds);
    for other in kept().filter(|&g| row.lower(g) <= farthest && gallery.pids[g] != pid) {
        let [lower, upper] = [row.lower(other), row.upper(other)];
        if let Some(nearer) = table.nearer(lower, upper) {
            others_before[nearer] += 1;
            continue;
        }
        // The first `end` matches may be nearer, the others are farther. The former are certainly nearer if the largest of their upper
        // bounds is below the item's lower bound.
        let end = bounds.partition_point(|[lower, _]| *lower <= upper);
        if end > 0 && bounds[end - 1][1] >= lower {
            open.push((other, end));
        } else {
            others_before[end] += 1;
        }
    }
    others_before.truncate(matches.len());
    let mut others_within = others_before.clone();
    for &(other, end) in &open {
        let nearer = bounds[..end].partition_point(|[_, upper]| *upper < row.lower(other));
        matches[nearer..end].iter_mut().for_each(|m| m.make_exact(row));
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
    fn make_exact(&mut self, row: Row) {
        if !self.exact {
            (self.key, self.exact) = (row.exact(self.item), true);
        }
    }
}

/// Computes the exact distances of the last of `matches`, whose lower bound is not above all upper bounds before it, and of all
/// matches that it overlaps with.
fn make_exact(matches: &mut [Match], row: Row) {
    let (last, before) = matches.split_last_mut().expect("at least one match");
    let lower = row.lower(last.item);
    last.make_exact(row);
    // Each `upper` is the largest so far, so they ascend.
    let first = before.partition_point(|m| m.upper < lower);
    before[first..].iter_mut().for_each(|m| m.make_exact(row));
}

fn by_distance(matches: &mut [Match]) {
    matches.sort_by(|a, b| (a.key, a.item).partial_cmp(&(b.key, b.item)).expect("distances are not NaN"));
}

fn cumulate(counts: &mut [usize]) {
    for i in 1..counts.len() {
        counts[i] += counts[i - 1];
    }
}
