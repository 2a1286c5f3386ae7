//! Converts CUHK03 from its published files to folders: `cuhk-03.mat` (images, splits of the classic protocol) and two lists of the new
//! protocol.
//!
//! ```text
//! OUT/detected/{bounding_box_train,bounding_box_test,query}/LLLL/LLLL_cC_VV.jpg    cuhk03-np-detected
//! OUT/labeled/...                                                                  cuhk03-np-labeled
//! OUT/classic/detected/{splits.json,images/P_III_V_NN.jpg}                         cuhk03-classic-detected
//! OUT/classic/labeled/...                                                          cuhk03-classic-labeled
//! ```
//!
//! In the names, L is the identity, C the camera (1 to 10 over all pairs) and V the number of the image; in the classic ones, P is the
//! camera pair, I the person in the pair, V the view and N the number of the image.

mod images;
mod protocol;
mod write;

use std::path::{Path, PathBuf};

use crate::data::DatasetKind;

pub use images::{ImageKey, Images, MatFile};
pub use protocol::{Listed, NewProtocol};
pub use write::{Job, Outcome, convert};

/// Number of camera pairs.
pub(crate) const PAIRS: usize = 5;

/// Who drew the boxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoxKind {
    /// By a pedestrian detector.
    Detected,
    /// By hand.
    Labeled,
}

impl BoxKind {
    /// Both kinds; arrays with one entry for each kind have this order.
    pub const ALL: [BoxKind; 2] = [BoxKind::Detected, BoxKind::Labeled];

    /// Returns the name in files and folders.
    pub fn name(self) -> &'static str {
        match self {
            BoxKind::Detected => "detected",
            BoxKind::Labeled => "labeled",
        }
    }

    /// Returns the path of the new protocol's lists, beside the file of images.
    pub fn config_beside(self, mat: &Path) -> PathBuf {
        mat.with_file_name(format!("cuhk03_new_protocol_config_{}.mat", self.name()))
    }

    fn classic(self) -> DatasetKind {
        match self {
            BoxKind::Detected => DatasetKind::Cuhk03ClassicDetected,
            BoxKind::Labeled => DatasetKind::Cuhk03ClassicLabeled,
        }
    }
}

#[cfg(test)]
mod tests;
