//! A whole evaluation of query and gallery features: plain and re-ranked ranking, pairs of cameras, and verification. Writes the
//! results as text and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::camera_pairs::{CameraPair, CameraPairs};
use super::distance::DistanceBlock;
use super::features_file::FeatureSet;
use super::ranking::{REPEATS, Ranker, RankingOptions, RankingReport, comparison};
use super::rerank::RerankOptions;
use super::roc::{EXACT_PAIRS, FALSE_POSITIVE_RATES, Roc, RocBuilder};
use super::sets::Sets;
use crate::base::progress::Reporter;
use crate::engine::device::Device;
use crate::{Error, Result};

/// Checked features, prepared for ranking.
pub struct Evaluation<'a> {
    query: &'a FeatureSet,
    gallery: &'a FeatureSet,
    sets: Sets<'a>,
    ranking: RankingOptions,
    rerank: Option<RerankOptions>,
}

/// Which results are computed beside the ranking.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details {
    /// Whether to compute the figures of the receiver operating characteristic.
    pub roc: bool,
    /// Whether to compute metrics by pairs of cameras. Protocols that [draw galleries](crate::data::Protocol::draws_galleries) have none.
    pub camera_pairs: bool,
}

/// Results of an [`Evaluation`].
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Metrics of the ranking by distance.
    pub plain: RankingReport,
    /// Settings of the re-ranking and metrics of its ranking, if one was asked for.
    pub reranked: Option<(RerankOptions, RankingReport)>,
    /// Figures of the receiver operating characteristic, from the plain distances: re-ranked distances of different queries are not
    /// comparable. `None` unless they were asked for and there are pairs of one identity and of two.
    pub roc: Option<Roc>,
    /// Metrics by pairs of cameras; `None` unless they were asked for and the protocol has them.
    pub camera_pairs: Option<Vec<CameraPair>>,
}

impl<'a> Evaluation<'a> {
    /// Checks the features, and prepares the re-ranking if `rerank` is given. `device` computes distances and encodings.
    ///
    /// # Errors
    /// [`Error::FeatureLengths`], [`Error::FeatureRows`], [`Error::NotFiniteFeature`], [`Error::NoValidQuery`] without
    /// a gallery; settings of the re-ranking that cannot work; the device fails.
    pub fn new(
        query: &'a FeatureSet,
        gallery: &'a FeatureSet,
        ranking: RankingOptions,
        rerank: Option<RerankOptions>,
        device: &Device,
        reporter: &Reporter,
    ) -> Result<Evaluation<'a>> {
        if query.dim != gallery.dim {
            return Err(Error::FeatureLengths { query: query.dim, gallery: gallery.dim });
        }
        if rerank.is_some() && ranking.protocol.draws_galleries() {
            return Err(Error::Setting {
                setting: "`eval.rerank`".into(),
                value: "(given)".into(),
                reason: "queries and gallery are the same images where galleries are drawn, and each would be its own neighbour: \
                         leave it out"
                    .into(),
            });
        }
        let (query_labels, gallery_labels) = (query.labels(), gallery.labels());
        let mut sets = Sets::new(&query.features, query_labels, &gallery.features, gallery_labels, query.dim, device)?;
        sets.distances.report_notices(reporter);
        if let Some(options) = rerank {
            sets.distances.prepare_reranking(options, reporter)?;
        }
        Ok(Evaluation { query, gallery, sets, ranking, rerank })
    }

    /// Ranks all queries, a block at a time.
    ///
    /// # Errors
    /// [`Error::NoValidQuery`]; the device fails.
    pub fn run(&self, details: Details, reporter: &Reporter) -> Result<Outcome> {
        let Sets { query_labels, gallery_labels, .. } = self.sets;
        let options = &self.ranking;
        let mut plain = Ranker::new(query_labels, gallery_labels, options);
        let mut reranked = Ranker::new(query_labels, gallery_labels, options);
        let distances = &self.sets.distances;
        let (filter, largest) = (options.effective_filter(), distances.largest());
        let roc = || RocBuilder::new(query_labels, gallery_labels, filter, largest, EXACT_PAIRS);
        let mut roc = details.roc.then(roc);
        let by_camera = details.camera_pairs && !options.protocol.draws_galleries();
        if details.camera_pairs && !by_camera {
            reporter.message("no table of camera pairs: galleries are drawn from all images");
        }
        let mut pairs = by_camera.then(|| CameraPairs::new(query_labels, gallery_labels, options));
        let mut task = reporter.start("ranking", self.query.len() as u64, "queries");
        let mut block = DistanceBlock::default();
        for rows in distances.blocks() {
            distances.fill(rows.clone(), &mut block)?;
            reranked.add(&distances.reranked(rows.clone(), &block));
            let by_distance = distances.plain(rows.clone(), &block);
            plain.add(&by_distance);
            roc.iter_mut().for_each(|roc| roc.add(&by_distance));
            pairs.iter_mut().for_each(|pairs| pairs.add(&by_distance));
            task.advance(rows.len() as u64, "");
        }
        task.finish("");
        Ok(Outcome {
            plain: plain.finish()?,
            reranked: self.rerank.map(|options| Ok((options, reranked.finish()?))).transpose()?,
            roc: roc.and_then(|roc| roc.finish(distances.pairs(), &FALSE_POSITIVE_RATES)),
            camera_pairs: pairs.map(CameraPairs::finish),
        })
    }

    /// Returns the `count` nearest gallery items of a query with their distances, without those that the filter removes; re-ranked if
    /// a re-ranking was prepared.
    ///
    /// # Errors
    /// The device fails.
    pub fn nearest(&self, query: usize, count: usize) -> Result<Vec<(usize, f32)>> {
        let (distances, mut block) = (&self.sets.distances, DistanceBlock::default());
        distances.fill(query..query + 1, &mut block)?;
        let one = query..query + 1;
        let rows = if self.rerank.is_some() { distances.reranked(one, &block) } else { distances.plain(one, &block) };
        let (pid, camid) = (self.query.pids[query], self.query.camids[query]);
        let kept = |g: &usize| !self.ranking.effective_filter().removes(pid, camid, self.sets.gallery_labels, *g);
        Ok(rows.first().map_or_else(Vec::new, |row| row.nearest((0..row.len()).filter(kept), count)))
    }

    /// Returns all results as JSON. `trained_on` and `evaluated_on` are names of data sets or files.
    pub fn to_json(&self, outcome: &Outcome, trained_on: Option<&str>, evaluated_on: &str) -> Value {
        let summary = |report: &RankingReport| {
            let mut value = serde_json::to_value(report).expect("numbers and lists");
            value.as_object_mut().expect("a struct").remove("per_query");
            value
        };
        let draws = self.ranking.protocol.draws_galleries();
        let queries = (0..self.query.len()).map(|q| {
            let result = |report: &RankingReport| json!(report.per_query.get(q).and_then(Option::as_ref));
            let mut entry = json!({
                "image": self.query.name(q), "pid": self.query.pids[q], "camid": self.query.camids[q],
            });
            // Random galleries have no metrics of a single query.
            if !draws {
                entry["plain"] = result(&outcome.plain);
                if let Some((_, report)) = &outcome.reranked {
                    entry["reranked"] = result(report);
                }
            }
            entry
        });
        let mut value = json!({
            "trained_on": trained_on,
            "evaluated_on": evaluated_on,
            "images": { "query": self.query.len(), "gallery": self.gallery.len(), "feature_length": self.query.dim },
            "protocol": self.ranking.protocol,
            "filter": self.ranking.effective_filter(),
            "cmc": "first-match",
            "ties": if self.ranking.pessimistic_ties { "pessimistic" } else { "distance, then gallery order" },
            "distance": "euclidean",
            "plain": summary(&outcome.plain),
            "queries": queries.collect::<Vec<_>>(),
        });
        if draws {
            value["draws"] = json!({ "repeats": REPEATS, "seed": self.ranking.seed });
            if !outcome.plain.map.is_nan() {
                value["formulas"] = json!({ "mAP": "1 / rank of the only match" });
            }
        } else {
            value["formulas"] = json!({
                "mAP": "sum of (R_k - R_k-1) P_k over distinct distances: tied items enter together",
                "mAP_trapezoid": "trapezoid rule of Market-1501's own evaluation",
                "mINP": "matches / rank of the last match",
            });
        }
        if let Some((options, report)) = &outcome.reranked {
            value["rerank"] = json!(options);
            value["reranked"] = summary(report);
        }
        if let Some(roc) = &outcome.roc {
            value["roc"] = json!(roc);
        }
        if let Some(pairs) = &outcome.camera_pairs {
            value["camera_pairs"] = json!(pairs);
        }
        value
    }
}

/// The metrics in one table, plain and re-ranked side by side.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reranked {
            None => write!(f, "{}", self.plain),
            Some((options, report)) => {
                let table = comparison(&[("%", &self.plain), ("re-ranked %", report)]);
                write!(f, "{table}\nre-ranking: {options}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Protocol;
    use crate::eval::ranking::evaluate_distances;
    use crate::eval::rerank::RerankVariant;
    use crate::eval::reranked_distances;

    /// Returns features of `n` images of 8 identities by 3 cameras, in 6 dimensions.
    fn set(n: usize, seed: f32) -> FeatureSet {
        let pids: Vec<i64> = (0..n).map(|i| 1 + (i % 8) as i64).collect();
        let value =
            |i: usize, k: usize| ((i % 8) as f32 * (k + 1) as f32).sin() + (seed + (i * 6 + k) as f32 * 1.7).cos();
        let features = (0..n * 6).map(|at| value(at / 6, at % 6)).collect();
        let mut set =
            FeatureSet { features, dim: 6, pids, camids: (0..n).map(|i| (i % 3) as i64).collect(), paths: Vec::new() };
        set.normalize();
        set
    }

    #[test]
    fn plain_and_reranked_are_what_whole_matrices_give() {
        let (query, gallery) = (set(20, 0.0), set(90, 5.0));
        let options = RerankOptions { k1: 6, k2: 3, ..RerankOptions::new(RerankVariant::Ptl) };
        let silent = Reporter::silent();
        let evaluation =
            Evaluation::new(&query, &gallery, RankingOptions::default(), Some(options), &Device::cpu(), &silent)
                .unwrap();
        let outcome = evaluation.run(Details { roc: true, camera_pairs: true }, &silent).unwrap();
        let distances = reranked_distances(&query.features, &gallery.features, 6, options, &Device::cpu()).unwrap();
        let want =
            evaluate_distances(&distances, query.labels(), gallery.labels(), &RankingOptions::default()).unwrap();
        let (_, reranked) = outcome.reranked.as_ref().unwrap();
        assert_eq!(*reranked, want);
        assert_ne!(outcome.plain.map, want.map);
        let nearest = evaluation.nearest(3, 5).unwrap();
        assert!((nearest[0].1 - distances[3 * 90 + nearest[0].0]).abs() < 1e-6);
        assert!(nearest.is_sorted_by(|a, b| a.1 <= b.1) && nearest.len() == 5);
        assert!(
            nearest.iter().all(|(g, _)| gallery.pids[*g] != query.pids[3] || gallery.camids[*g] != query.camids[3])
        );

        let text = outcome.to_string();
        for part in ["re-ranked %", "mAP (step", "Rank-1", "re-ranking: ptl, k1 6, k2 3, lambda 0.3"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let json = evaluation.to_json(&outcome, Some("A"), "B");
        assert_eq!(json["queries"].as_array().unwrap().len(), 20);
        assert_eq!(json["rerank"]["variant"], "ptl");
        assert_eq!(json["reranked"]["mAP"].as_f64(), Some(want.map));
        assert_eq!((&json["trained_on"], &json["evaluated_on"]), (&json!("A"), &json!("B")));
        assert!(json["queries"][0]["plain"]["ap"].is_f64() && json["plain"].get("per_query").is_none());
        assert!(json["roc"]["eer"].is_f64() && !json["camera_pairs"].as_array().unwrap().is_empty());
        assert!(json["formulas"]["mAP"].is_string());
    }

    #[test]
    fn a_single_shot_report_has_no_map_anywhere() {
        let set = set(60, 0.0);
        let ranking = RankingOptions { protocol: Protocol::SingleGalleryShot, ..RankingOptions::default() };
        let silent = Reporter::silent();
        let options = RerankOptions::new(RerankVariant::Zhong);
        assert!(Evaluation::new(&set, &set, ranking, Some(options), &Device::cpu(), &silent).is_err());
        let evaluation = Evaluation::new(&set, &set, ranking, None, &Device::cpu(), &silent).unwrap();
        let outcome = evaluation.run(Details { roc: true, camera_pairs: true }, &silent).unwrap();
        let json = evaluation.to_json(&outcome, None, "B").to_string();
        assert!(
            !json.contains("mAP") && json.contains("single-gallery-shot") && json.contains("\"repeats\":10"),
            "{json}"
        );
        assert!(!outcome.to_string().contains("mINP"), "{outcome}");
    }

    #[test]
    fn features_of_two_networks_are_refused() {
        let (query, gallery) = (set(8, 0.0), FeatureSet { dim: 3, ..set(8, 0.0) });
        let error =
            Evaluation::new(&query, &gallery, RankingOptions::default(), None, &Device::cpu(), &Reporter::silent())
                .err()
                .unwrap();
        assert!(error.to_string().contains("have 6 numbers each, those of the gallery 3"), "{error}");
    }
}
