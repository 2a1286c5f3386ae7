//! Ranking and re-ranking of features.

use std::path::Path;

use ptl::engine::device::Device;
use ptl::eval::features_file::FeatureSet;
use ptl::eval::ranking::{RankingOptions, RankingReport, evaluate};
use ptl::eval::rerank::{RerankOptions, RerankVariant};
use ptl::eval::reranked_distances;
use ptl::io::checkpoint::File;

use crate::work::{Check, Run, Work};

/// Reads the queries and the gallery.
fn sets(folder: &Path) -> [FeatureSet; 2] {
    let file = File::open(&folder.join("inputs.safetensors")).expect("the file of inputs");
    ["query", "gallery"].map(|name| FeatureSet {
        features: file.f32(&format!("{name}.features")).expect("features"),
        dim: file.shape(&format!("{name}.features")).expect("features")[1],
        pids: file.i64(&format!("{name}.pids")).expect("identities"),
        camids: file.i64(&format!("{name}.camids")).expect("cameras"),
        ..FeatureSet::default()
    })
}

/// Distances, CMC and mAP.
pub struct Ranking([FeatureSet; 2]);

impl Ranking {
    /// Reads the features.
    pub fn new(folder: &Path) -> Ranking {
        Ranking(sets(folder))
    }

    fn rank(&self) -> RankingReport {
        let [query, gallery] = &self.0;
        let options = RankingOptions::default();
        let (labels, others) = (query.labels(), gallery.labels());
        evaluate(&query.features, labels, &gallery.features, others, query.dim, &options, &Device::cpu())
            .expect("every identity has both")
    }
}

impl Work for Ranking {
    fn check(&mut self) -> Check {
        let report = self.rank();
        [1, 5, 10].into_iter().fold(Check::default().scalar("mAP", report.map), |check, k| {
            check.scalar(format!("rank {k}"), report.rank(k).expect("a curve of 100 ranks"))
        })
    }

    fn run(&mut self) -> Run {
        Run::of(|| {
            self.rank();
        })
    }
}

/// Re-ranked distances of all queries to the gallery.
pub struct Reranking([FeatureSet; 2]);

impl Reranking {
    /// Reads the features.
    pub fn new(folder: &Path) -> Reranking {
        Reranking(sets(folder))
    }

    fn rerank(&self) -> Vec<f32> {
        let [query, gallery] = &self.0;
        let options = RerankOptions::new(RerankVariant::Zhong);
        reranked_distances(&query.features, &gallery.features, query.dim, options, &Device::cpu())
            .expect("finite features")
    }
}

impl Work for Reranking {
    fn check(&mut self) -> Check {
        Check::default().tensor("distances", &self.rerank())
    }

    fn run(&mut self) -> Run {
        Run::of(|| {
            self.rerank();
        })
    }
}
