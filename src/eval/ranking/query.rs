//! One query: where its matches stand in the filtered gallery.

use super::{Labels, QueryResult, RankingOptions};

/// A query's metrics and, for each of its matches in order, how many other items come before it.
pub(in crate::eval) struct RankedQuery {
    pub result: QueryResult,
    pub others_before: Vec<usize>,
}

/// Metrics of one query over the gallery items `items` (ascending), without sorting them: only the matches are sorted,
/// and each other item is counted where it falls between them. `distances` is the whole row. `None` if no match is
/// left.
pub(in crate::eval) fn rank_query(
    distances: &[f32],
    items: impl Iterator<Item = usize> + Clone,
    pid: i64,
    camid: i64,
    gallery: Labels,
    options: &RankingOptions,
) -> Option<RankedQuery> {
    let kept = || items.clone().filter(|&g| !options.filter.removes(pid, camid, gallery, g));
    let mut matches: Vec<(f32, usize)> =
        kept().filter(|&g| gallery.pids[g] == pid).map(|g| (distances[g], g)).collect();
    matches.sort_by(|a, b| a.partial_cmp(b).expect("distances are not NaN"));
    let (farthest, _) = *matches.last()?;

    // Other items by the first match that comes after them in rank, and by the first that is not nearer.
    let mut others_before = vec![0; matches.len()];
    let mut others_within = vec![0; matches.len()];
    for other in kept().filter(|&g| distances[g] <= farthest && gallery.pids[g] != pid) {
        let key = (distances[other], other);
        others_within[matches.partition_point(|m| m.0 < key.0)] += 1;
        if let Some(count) = others_before.get_mut(matches.partition_point(|m| *m < key)) {
            *count += 1;
        }
    }
    cumulate(&mut others_before);
    cumulate(&mut others_within);

    let n = matches.len() as f64;
    let (mut ap, mut ap_trapezoid, mut entered) = (0.0, 0.0, 0);
    for i in 0..matches.len() {
        let hits = i + 1;
        if matches.get(hits).is_none_or(|next| next.0 > matches[i].0) {
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
    let result = QueryResult {
        ap,
        ap_trapezoid,
        inp: n / last_rank as f64,
        matches: matches.len(),
        first_match_rank: 1 + others_before[0],
    };
    Some(RankedQuery { result, others_before })
}

fn cumulate(counts: &mut [usize]) {
    for i in 1..counts.len() {
        counts[i] += counts[i - 1];
    }
}
