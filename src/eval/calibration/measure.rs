//! Measures thresholds in two passes over all pairs: one finds about where they are; the other counts what each identity contributes, and
//! decides the thresholds exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use rayon::prelude::*;

use super::{Calibration, CalibrationData, Histogram, PairThreshold, VERSION};
use crate::base::progress::Reporter;
use crate::data::Protocol;
use crate::engine::device::Device;
use crate::eval::features_file::{FeatureOrigin, FeatureSet};
use crate::eval::interval::{Proportion, jackknife};
use crate::eval::labels::Labels;
use crate::eval::products::Row;
use crate::eval::ranking::{GalleryFilter, RankingOptions, counted_pairs};
use crate::eval::roc::{BINS_OFF, EXACT_PAIRS, RocBuilder};
use crate::eval::search::{Answer, open_set};
use crate::eval::sets::Sets;
use crate::{Error, Result};

/// Number of bins of the histogram.
const HISTOGRAM_BINS: usize = 2000;
const GENUINE: usize = 0;
const IMPOSTOR: usize = 1;

/// The rates for which thresholds are wanted, each above 0 and below 1.
#[derive(Clone, Debug)]
pub struct CalibrationRates {
    /// False match rates of pairs.
    pub fmr: Vec<f64>,
    /// False positive identification rates of searches.
    pub fpir: Vec<f64>,
}

impl CalibrationRates {
    fn check(&self) -> Result<()> {
        let named = [("fmr", &self.fmr), ("fpir", &self.fpir)];
        for (name, rates) in named {
            if let Some(odd) = rates.iter().find(|rate| !(**rate > 0.0 && **rate < 1.0)) {
                let reason = "a rate is above 0 and below 1".into();
                return Err(Error::Setting { setting: format!("`{name}`"), value: odd.to_string(), reason });
            }
        }
        Ok(())
    }
}

/// Features to measure thresholds on. Their identities must not be those that the model was trained on.
#[derive(Clone, Copy, Debug)]
pub struct CalibrationInput<'a> {
    /// The queries.
    pub query: &'a FeatureSet,
    /// The gallery.
    pub gallery: &'a FeatureSet,
    /// What made the features.
    pub origin: &'a FeatureOrigin,
    /// Name of the data set.
    pub name: &'a str,
}

/// Measures thresholds. A rate that is too small for the number of pairs or queries has no threshold, and is left out.
///
/// # Errors
/// As [`Evaluation::new`](crate::eval::report::Evaluation::new); [`Error::NoValidQuery`]; [`Error::OneIdentity`]; a rate that is none; the
/// protocol [draws galleries](Protocol::draws_galleries).
pub fn calibrate(
    input: CalibrationInput,
    options: RankingOptions,
    rates: &CalibrationRates,
    device: &Device,
    reporter: &Reporter,
) -> Result<Calibration> {
    calibrate_with(input, options, rates, EXACT_PAIRS, device, reporter)
}

/// Does the same; above `exact_pairs` pairs, the first pass counts distances in bins.
fn calibrate_with(
    input: CalibrationInput,
    options: RankingOptions,
    rates: &CalibrationRates,
    exact_pairs: usize,
    device: &Device,
    reporter: &Reporter,
) -> Result<Calibration> {
    let CalibrationInput { query, gallery, origin, name } = input;
    rates.check()?;
    if query.dim != gallery.dim {
        return Err(Error::FeatureLengths { query: query.dim, gallery: gallery.dim });
    }
    let (Protocol::CrossCamera | Protocol::AnyCamera) = options.protocol else {
        return Err(Error::Setting {
            setting: "`data.kind`".into(),
            value: name.into(),
            reason: "its protocol draws galleries: hold out identities of its training part instead (`data.val_ids`)"
                .into(),
        });
    };
    let (of_queries, of_gallery, filter) = (query.labels(), gallery.labels(), options.effective_filter());
    let sets = Sets::new(&query.features, of_queries, &gallery.features, of_gallery, query.dim, device)?;
    sets.distances.report_notices(reporter);
    let distances = &sets.distances;
    let mut task = reporter.start("calibrating, two passes", 2 * query.len() as u64, "queries");
    let mut roc = RocBuilder::new(of_queries, of_gallery, filter, distances.largest(), exact_pairs);
    distances.for_each_block(|_, rows| {
        roc.add(rows);
        task.advance(rows.len() as u64, "");
    })?;
    let Some(roc) = roc.finish(distances.pairs(), &rates.fmr) else {
        let has_match = (0..query.len()).any(|q| counted_pairs(q, of_queries, of_gallery, filter).next().is_some());
        return Err(if has_match { Error::OneIdentity } else { Error::NoValidQuery { queries: query.len() } });
    };
    // Counted in bins, a distance is off by a few of them, and so is a threshold.
    let off = roc.bin_width.map_or(0.0, |width| (BINS_OFF + 2.0) * width);
    let mut near: Vec<Near> = roc.points.iter().map(|point| Near::new(point.fpr, point.threshold, off)).collect();
    near.sort_by(|a, b| a.range.start().total_cmp(b.range.start()));
    let labels = PairLabels { queries: of_queries, gallery: of_gallery, filter };
    let bin_width = distances.largest().max(f64::MIN_POSITIVE) / HISTOGRAM_BINS as f64;
    let identities = Identities::new(of_queries, of_gallery);
    let empty = || (Counts::new(near.len(), identities.len()), Vec::new());
    let (mut counts, mut answers) = empty();
    distances.for_each_block(|first, rows| {
        let each = |(mut counts, mut answers): (Counts, Vec<Answer>), (row, q): (&Row, usize)| {
            counts.add(row, q, labels, &identities, &near, bin_width);
            answers.extend(as_known_and_unknown(row, q, labels));
            (counts, answers)
        };
        let both = |(mut counts, mut answers): (Counts, Vec<Answer>), (more, others)| {
            counts.add_all(more);
            answers.extend(others);
            (counts, answers)
        };
        let numbered = rows.par_iter().zip(first..first + rows.len());
        let (more, others) = numbered.fold(empty, each).reduce(empty, both);
        counts.add_all(more);
        answers.extend(others);
        task.advance(rows.len() as u64, "");
    })?;
    task.finish("");
    let thresholds = near.iter().enumerate().filter_map(|(at, near)| counts.threshold(at, near));
    let mut verification: Vec<PairThreshold> = thresholds.collect();
    verification.sort_by(|a, b| b.wanted_fmr.total_cmp(&a.wanted_fmr));
    let data = CalibrationData {
        name: name.into(),
        queries: answers.len() / 2,
        gallery: gallery.len(),
        gallery_identities: gallery.pids.iter().collect::<BTreeSet<_>>().len(),
        filter,
    };
    let identification = open_set(&answers, &rates.fpir, &[]).ok_or(Error::OneIdentity)?;
    let [genuine, impostors] = counts.histogram;
    let histogram = Histogram { bin_width, genuine, impostors };
    Ok(Calibration { version: VERSION, origin: origin.clone(), data, verification, identification, histogram })
}

/// Where the threshold of a wanted FMR is.
struct Near {
    wanted: f64,
    /// Distances, among them that of the threshold.
    range: RangeInclusive<f64>,
}

impl Near {
    fn new(wanted: f64, threshold: f64, off: f64) -> Near {
        Near { wanted, range: threshold - off..=threshold + off }
    }
}

/// Identities, cameras and the filter of pairs.
#[derive(Clone, Copy)]
struct PairLabels<'a> {
    queries: Labels<'a>,
    gallery: Labels<'a>,
    filter: GalleryFilter,
}

impl<'a> PairLabels<'a> {
    /// Returns the pairs of a query that count, each with whether it is of one identity.
    fn of_query(self, query: usize) -> impl Iterator<Item = (usize, bool)> + use<'a> {
        counted_pairs(query, self.queries, self.gallery, self.filter)
    }
}

/// Returns the answers to a query in the whole gallery, and in the gallery without its identity; none if it has no match.
fn as_known_and_unknown(row: &Row, query: usize, labels: PairLabels) -> Vec<Answer> {
    let nearest = |genuine: bool| {
        let items = labels.of_query(query).filter(|(_, own)| *own == genuine);
        row.nearest_exact(items.map(|(g, _)| g).collect(), 1).first().copied()
    };
    let Some(own) = nearest(true) else { return Vec::new() };
    let (pid, other) = (labels.queries.pids[query], nearest(false));
    let distance = |(exact, _): (f64, usize)| row.distance(exact);
    let is_own = other.is_none_or(|other| own < other);
    let first = other.filter(|_| !is_own).unwrap_or(own);
    vec![
        Answer { pid, known: true, nearest: Some((distance(first), is_own)) },
        Answer { pid, known: false, nearest: other.map(|other| (distance(other), false)) },
    ]
}

/// Numbers the identities of queries and gallery.
struct Identities(BTreeMap<i64, usize>);

impl Identities {
    fn new(queries: Labels, gallery: Labels) -> Identities {
        let all: BTreeSet<i64> = queries.pids.iter().chain(gallery.pids).copied().collect();
        Identities(all.into_iter().zip(0..).collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// A pair whose distance is near a threshold.
#[derive(Clone, Copy)]
struct NearPair {
    distance: f64,
    which: usize,
    /// Its identities, the same for a genuine pair.
    identities: [usize; 2],
}

/// Numbers of pairs: of one identity, and of two. A pair of two identities counts for both.
struct Counts {
    /// Pairs by distance.
    histogram: [Vec<u64>; 2],
    /// All pairs that an identity is part of, `[identities]`.
    pairs: [Vec<u64>; 2],
    /// The same for the pairs below the range of each threshold, `[thresholds][identities]`.
    below: [Vec<Vec<u64>>; 2],
    /// The pairs in the range of each threshold.
    near: Vec<Vec<NearPair>>,
}

impl Counts {
    fn new(thresholds: usize, identities: usize) -> Counts {
        let below = || vec![vec![0; identities]; thresholds];
        Counts {
            histogram: [0, 1].map(|_| vec![0; HISTOGRAM_BINS]),
            pairs: [0, 1].map(|_| vec![0; identities]),
            below: [below(), below()],
            near: vec![Vec::new(); thresholds],
        }
    }

    /// Adds the pairs of a query. `near` is sorted by distance.
    fn add(
        &mut self,
        row: &Row,
        query: usize,
        labels: PairLabels,
        identities: &Identities,
        near: &[Near],
        bin_width: f64,
    ) {
        let own = identities.0[&labels.queries.pids[query]];
        for (g, genuine) in labels.of_query(query) {
            let which = if genuine { GENUINE } else { IMPOSTOR };
            let other = if genuine { own } else { identities.0[&labels.gallery.pids[g]] };
            let [low, high] = [row.lower(g), row.upper(g)].map(|bound| row.distance(f64::from(bound)));
            let is_clear = near.iter().all(|near| high < *near.range.start() || low > *near.range.end());
            let distance = if is_clear { 0.5 * (low + high) } else { row.distance(row.exact(g)) };
            self.histogram[which][((distance / bin_width) as usize).min(HISTOGRAM_BINS - 1)] += 1;
            count(&mut self.pairs[which], [own, other]);
            for (at, near) in near.iter().enumerate() {
                if distance < *near.range.start() {
                    count(&mut self.below[which][at], [own, other]);
                } else if near.range.contains(&distance) {
                    self.near[at].push(NearPair { distance, which, identities: [own, other] });
                }
            }
        }
    }

    fn add_all(&mut self, other: Counts) {
        let add = |into: &mut [u64], from: &[u64]| into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        for which in [GENUINE, IMPOSTOR] {
            add(&mut self.histogram[which], &other.histogram[which]);
            add(&mut self.pairs[which], &other.pairs[which]);
            self.below[which].iter_mut().zip(&other.below[which]).for_each(|(into, from)| add(into, from));
        }
        self.near.iter_mut().zip(other.near).for_each(|(into, from)| into.extend(from));
    }

    /// Returns threshold number `at`: the largest distance whose FMR is at most the wanted one. Returns `None` if it has no false match, which
    /// would say nothing about its rate.
    fn threshold(&self, at: usize, near: &Near) -> Option<PairThreshold> {
        let mut accepted = [GENUINE, IMPOSTOR].map(|which| self.below[which][at].clone());
        let total = |counts: &[u64]| counts.iter().sum::<u64>() / 2;
        let allowed = (near.wanted * total(&self.pairs[IMPOSTOR]) as f64 + 1e-9).floor() as u64;
        let mut pairs = self.near[at].clone();
        pairs.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        let mut impostors = total(&accepted[IMPOSTOR]);
        // Without a pair in the range, the threshold is just below it.
        let mut threshold = near.range.start().next_down();
        // Pairs at the same distance are accepted together.
        for same in pairs.chunk_by(|a, b| a.distance == b.distance) {
            impostors += same.iter().filter(|pair| pair.which == IMPOSTOR).count() as u64;
            if impostors > allowed {
                break;
            }
            same.iter().for_each(|pair| count(&mut accepted[pair.which], pair.identities));
            threshold = same[0].distance;
        }
        let [tmr, fmr] = [GENUINE, IMPOSTOR].map(|which| self.proportion(which, &accepted[which]));
        (fmr.count > 0).then_some(PairThreshold { wanted_fmr: near.wanted, threshold, fmr, tmr })
    }

    /// Returns the share of pairs that are `accepted`, `[identities]`.
    fn proportion(&self, which: usize, accepted: &[u64]) -> Proportion {
        let pairs = &self.pairs[which];
        // A pair of one identity was counted twice for it.
        let times = if which == GENUINE { 2 } else { 1 };
        // Identities without a pair say nothing.
        let has_pairs = |(_, of): &(&u64, &u64)| **of > 0;
        let groups = accepted.iter().zip(pairs).filter(has_pairs).map(|(count, of)| [count / times, of / times]);
        let groups: Vec<[u64; 2]> = groups.collect();
        let total = |counts: &[u64]| counts.iter().sum::<u64>() / 2;
        jackknife(total(accepted), total(pairs), groups.into_iter())
    }
}

fn count(of_identity: &mut [u64], identities: [usize; 2]) {
    identities.iter().for_each(|identity| of_identity[*identity] += 1);
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::base::rng::{Purpose, stream};

    fn set(rows: &[(i64, f32)], camera: i64) -> FeatureSet {
        let features = rows.iter().map(|row| row.1).collect();
        let pids: Vec<i64> = rows.iter().map(|row| row.0).collect();
        FeatureSet { features, dim: 1, camids: vec![camera; pids.len()], pids, paths: Vec::new() }
    }

    fn calibrated(query: &FeatureSet, gallery: &FeatureSet, fmr: &[f64], exact_pairs: usize) -> Result<Calibration> {
        let origin = FeatureOrigin { weights: "0".into(), settings: BTreeMap::default() };
        let input = CalibrationInput { query, gallery, origin: &origin, name: "test" };
        let rates = CalibrationRates { fmr: fmr.to_vec(), fpir: vec![0.5] };
        let options = RankingOptions::default();
        calibrate_with(input, options, &rates, exact_pairs, &Device::cpu(), &Reporter::silent())
    }

    #[test]
    fn thresholds_by_hand() {
        let (query, gallery) = (set(&[(1, 0.0), (2, 10.0)], 1), set(&[(1, -1.0), (1, 5.0), (2, 8.0), (3, 3.0)], 2));
        // Query 1: genuine 1 and 5, impostors 8 and 3. Query 2: genuine 2, impostors 11, 5 and 7.
        for exact_pairs in [100, 0] {
            let made = calibrated(&query, &gallery, &[0.6, 0.2, 0.1], exact_pairs).unwrap();
            let found: Vec<_> = made
                .verification
                .iter()
                .map(|point| (point.wanted_fmr, point.threshold, point.fmr.count, point.tmr.count))
                .collect();
            // Three of five impostors are at 7 or nearer; at 3 there is one, and the genuine pair at 5 comes with the second.
            assert_eq!(found, [(0.6, 7.0, 3, 3), (0.2, 3.0, 1, 2)], "{exact_pairs}");
            assert_eq!((made.verification[0].fmr.of, made.verification[0].tmr.of), (5, 3));
        }
    }

    #[test]
    fn impostors_at_one_distance_enter_together_and_none_is_no_threshold() {
        let (query, gallery) = (set(&[(1, 0.0), (2, 10.0)], 1), set(&[(1, 1.0), (2, 9.0)], 2));
        // Both impostors are at 9.
        for exact_pairs in [100, 0] {
            assert_eq!(calibrated(&query, &gallery, &[0.5], exact_pairs).unwrap().verification, []);
        }
        let alone = [set(&[(1, 0.0)], 1), set(&[(1, 1.0)], 2)];
        assert!(matches!(calibrated(&alone[0], &alone[1], &[0.5], 100), Err(Error::OneIdentity)));
        let apart = [set(&[(1, 0.0)], 1), set(&[(2, 1.0)], 2)];
        assert!(matches!(calibrated(&apart[0], &apart[1], &[0.5], 100), Err(Error::NoValidQuery { queries: 1 })));
        for rate in [0.0, 1.0, f64::NAN] {
            assert!(calibrated(&query, &gallery, &[rate], 100).is_err());
        }
    }

    #[test]
    fn many_pairs_have_the_same_thresholds_as_few() {
        let mut rng = stream(3, Purpose::Test, 0, 0);
        let mut rows = |n: i64| -> Vec<(i64, f32)> {
            (0..n).map(|i| (i % 12, (i % 12) as f32 + rng.random_range(-1.5f32..1.5))).collect()
        };
        let (query, gallery) = (set(&rows(60), 1), set(&rows(240), 2));
        let rates = [0.3, 0.05, 0.01, 0.002];
        let [exact, binned] = [1 << 20, 0].map(|pairs| calibrated(&query, &gallery, &rates, pairs).unwrap());
        assert_eq!(exact.verification.len(), 4);
        assert_eq!((&exact.verification, &exact.identification), (&binned.verification, &binned.identification));
    }
}
