//! `[eval]`: the settings of evaluation.

use super::rerank::{RerankOptions, RerankVariant};
use crate::base::csv_out::Cells;
use crate::base::settings::{MIDDLE, ON_CSV, ON_IMAGES, ON_RANKINGS, ON_RUNS, REID, RERANK, choice, settings};

choice! {
    /// Whether results are re-ranked too, and which published implementation the numbers match.
    pub enum Rerank {
        /// They are not.
        #[default]
        None = "none",
        /// That of the network's publication: `ptl` for MGN networks, else `zhong`.
        Auto = "auto",
        /// The code published with PTL.
        Ptl = "ptl",
        /// The code of Zhong et al., CVPR 2017.
        Zhong = "zhong",
        /// Torchreid's code.
        Torchreid = "torchreid",
    }
}

settings! {
    /// `[eval]`: features and predictions.
    pub struct EvalOptions in "eval", "Evaluation" {
        /// Add the feature, or the prediction, of the mirrored image.
        #[setting(taken_by(ON_RUNS))]
        pub flip: bool = true, Classify => false;
        /// Images in a batch.
        #[setting(flag("eval-batch").at_least(1.0).at_most(65536.0).taken_by(ON_RUNS))]
        pub batch: usize = 64;
        /// The middle's share of the shorter side, where the middle is taken.
        #[setting(above(0.0).at_most(1.0).needs(&[MIDDLE]).taken_by(ON_IMAGES))]
        pub crop_share: f32 = 0.875;
        /// Re-ranked results beside the plain ones (evaluate, rank), and which published implementation to match; the flag alone means
        /// auto.
        #[setting(flag("rerank").bare("auto").needs(&[REID]).taken_by(ON_RANKINGS))]
        pub rerank: Rerank = Rerank::None;
        /// CSV files hold names as they are, even those that a spreadsheet would compute, such as =1+1.
        #[setting(flag("raw-csv").same_results().taken_by(ON_CSV))]
        pub raw_csv: bool = false;
        /// Re-ranking: neighbours that may be reciprocal.
        #[setting(flag("k1").needs(&[REID, RERANK]).taken_by(ON_RANKINGS))]
        pub k1: usize = 20;
        /// Re-ranking: neighbours to average over; 1 averages nothing.
        #[setting(flag("k2").needs(&[REID, RERANK]).taken_by(ON_RANKINGS))]
        pub k2: usize = 6;
        /// Re-ranking: share of the original distance.
        #[setting(flag("lambda").needs(&[REID, RERANK]).taken_by(ON_RANKINGS))]
        pub lambda: f32 = 0.3;
    }
}

impl EvalOptions {
    /// Returns how cells of CSV files are written.
    pub fn cells(&self) -> Cells {
        if self.raw_csv { Cells::Raw } else { Cells::Guarded }
    }

    /// Returns how results are re-ranked; `None` if they are not. `published` is the implementation that [`Rerank::Auto`] matches.
    pub fn rerank_options(&self, published: RerankVariant) -> Option<RerankOptions> {
        let variant = match self.rerank {
            Rerank::None => return None,
            Rerank::Auto => published,
            Rerank::Zhong => RerankVariant::Zhong,
            Rerank::Ptl => RerankVariant::Ptl,
            Rerank::Torchreid => RerankVariant::Torchreid,
        };
        let EvalOptions { k1, k2, lambda, .. } = *self;
        Some(RerankOptions { variant, k1, k2, lambda })
    }
}
