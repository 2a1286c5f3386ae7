//! Collects the metrics of queries, a block at a time, into a report.

use rayon::prelude::*;

use super::query::rank_query;
use super::random_gallery::Galleries;
use super::single_shot::{self, Draws};
use super::{Labels, QueryResult, RankingOptions, RankingReport};
use crate::data::Protocol;
use crate::eval::products::Row;
use crate::{Error, Result};

/// Ranks queries in the order of the distance matrix.
pub(in crate::eval) struct Ranker<'a> {
    query: Labels<'a>,
    gallery: Labels<'a>,
    options: &'a RankingOptions,
    ranked: Vec<Option<QueryResult>>,
    draws: Vec<Option<Draws>>,
    /// For [`Protocol::RandomGallery`].
    galleries: Option<Galleries>,
}

impl<'a> Ranker<'a> {
    pub(crate) fn new(query: Labels<'a>, gallery: Labels<'a>, options: &'a RankingOptions) -> Ranker<'a> {
        let galleries = (options.protocol == Protocol::RandomGallery).then(|| Galleries::new(gallery, options.seed));
        Ranker { query, gallery, options, ranked: Vec::new(), draws: Vec::new(), galleries }
    }

    /// Ranks the next queries.
    pub(crate) fn add(&mut self, rows: &[Row]) {
        let (query, gallery, options) = (self.query, self.gallery, self.options);
        let first = self.ranked.len().max(self.draws.len());
        let rows = rows.par_iter().enumerate().map(|(i, row)| (first + i, *row));
        match options.protocol {
            Protocol::CrossCamera | Protocol::AnyCamera => self.ranked.par_extend(
                rows.map(|(q, row)| rank_query(row, 0..row.len(), query.pids[q], query.camids[q], gallery, options)),
            ),
            Protocol::RandomGallery => {
                let galleries = self.galleries.as_ref().expect("drawn for this protocol");
                self.draws.par_extend(rows.map(|(q, row)| galleries.rank(row, q, query.pids[q], gallery, options)));
            }
            Protocol::SingleGalleryShot => self.draws.par_extend(
                rows.map(|(q, row)| single_shot::rank(row, q, query.pids[q], query.camids[q], gallery, options)),
            ),
        }
    }

    /// Returns the report over all queries.
    ///
    /// # Errors
    /// [`Error::NoValidQuery`].
    pub(crate) fn finish(self) -> Result<RankingReport> {
        let queries = self.query.pids.len();
        match self.options.protocol {
            Protocol::CrossCamera | Protocol::AnyCamera => summarise(self.ranked, queries, self.options),
            Protocol::SingleGalleryShot | Protocol::RandomGallery => {
                summarise_draws(&self.draws, queries, self.options)
            }
        }
    }
}

/// Returns the cumulative sums of counts as shares of `whole`.
fn curve(counts: Vec<f64>, whole: f64) -> Vec<f64> {
    let mut sum = 0.0;
    let share = |count| {
        sum += count;
        sum / whole
    };
    counts.into_iter().map(share).collect()
}

fn summarise(per_query: Vec<Option<QueryResult>>, queries: usize, options: &RankingOptions) -> Result<RankingReport> {
    let valid_queries = per_query.iter().flatten().count();
    if valid_queries == 0 {
        return Err(Error::NoValidQuery { queries });
    }
    let mut counts = vec![0.0; options.max_rank];
    for query in per_query.iter().flatten() {
        if let Some(count) = counts.get_mut(query.first_match_rank - 1) {
            *count += 1.0;
        }
    }
    let mean =
        |metric: fn(&QueryResult) -> f64| per_query.iter().flatten().map(metric).sum::<f64>() / valid_queries as f64;
    Ok(RankingReport {
        protocol: options.protocol,
        map: mean(|q| q.ap),
        map_trapezoid: mean(|q| q.ap_trapezoid),
        minp: mean(|q| q.inp),
        cmc: curve(counts, valid_queries as f64),
        valid_queries,
        skipped_queries: per_query.len() - valid_queries,
        per_query,
    })
}

fn summarise_draws(draws: &[Option<Draws>], queries: usize, options: &RankingOptions) -> Result<RankingReport> {
    let valid_queries = draws.iter().flatten().count();
    if valid_queries == 0 {
        return Err(Error::NoValidQuery { queries });
    }
    let mut counts = vec![0.0; options.max_rank];
    let (mut ranked, mut precisions) = (0.0, 0.0);
    for &position in draws.iter().flatten().flatten().flatten() {
        if let Some(count) = counts.get_mut(position as usize) {
            *count += 1.0;
        }
        ranked += 1.0;
        precisions += 1.0 / f64::from(position + 1);
    }
    Ok(RankingReport {
        protocol: options.protocol,
        // With one match, the average precision is that of its rank.
        map: if options.protocol == Protocol::RandomGallery { precisions / ranked } else { f64::NAN },
        map_trapezoid: f64::NAN,
        minp: f64::NAN,
        cmc: curve(counts, ranked),
        valid_queries,
        skipped_queries: draws.len() - valid_queries,
        per_query: Vec::new(),
    })
}
