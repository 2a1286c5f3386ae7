//! The pairs of a query and a gallery image that count for verification.

use super::{GalleryFilter, Labels};

/// Returns the gallery images that the filter keeps for query number `query`, each with whether it is of the query's identity. Returns none for
/// a query without such a match, as in the ranking.
pub(in crate::eval) fn counted_pairs<'a>(
    query: usize,
    queries: Labels<'a>,
    gallery: Labels<'a>,
    filter: GalleryFilter,
) -> impl Iterator<Item = (usize, bool)> + use<'a> {
    let (pid, camid) = (queries.pids[query], queries.camids[query]);
    let kept = move |g: &usize| !filter.removes(pid, camid, gallery, *g);
    let all = 0..gallery.pids.len();
    let valid = all.clone().any(|g| gallery.pids[g] == pid && kept(&g));
    (if valid { all } else { 0..0 }).filter(kept).map(move |g| (g, gallery.pids[g] == pid))
}
