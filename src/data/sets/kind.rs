//! The data sets that are known by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which data set a folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetKind {
    /// Recognised by the layout of the folder.
    #[default]
    Auto,
    Market1501,
    #[serde(rename = "dukemtmcreid")]
    DukeMtmcReid,
    Msmt17,
    /// The 767/700 protocol (Zhong et al., CVPR 2017) on boxes of a detector.
    Cuhk03NpDetected,
    /// The 767/700 protocol on boxes drawn by hand.
    Cuhk03NpLabeled,
    /// The 1367/100 protocol (Li et al., CVPR 2014), 20 random splits, on boxes of a detector.
    Cuhk03ClassicDetected,
    /// The 1367/100 protocol on boxes drawn by hand.
    Cuhk03ClassicLabeled,
}

impl DatasetKind {
    /// All kinds with a name of their own.
    pub const NAMED: [DatasetKind; 7] = [
        DatasetKind::Market1501,
        DatasetKind::DukeMtmcReid,
        DatasetKind::Msmt17,
        DatasetKind::Cuhk03NpDetected,
        DatasetKind::Cuhk03NpLabeled,
        DatasetKind::Cuhk03ClassicDetected,
        DatasetKind::Cuhk03ClassicLabeled,
    ];

    /// The name in settings, flags and labels.
    pub fn name(self) -> &'static str {
        match self {
            DatasetKind::Auto => "auto",
            DatasetKind::Market1501 => "market1501",
            DatasetKind::DukeMtmcReid => "dukemtmcreid",
            DatasetKind::Msmt17 => "msmt17",
            DatasetKind::Cuhk03NpDetected => "cuhk03-np-detected",
            DatasetKind::Cuhk03NpLabeled => "cuhk03-np-labeled",
            DatasetKind::Cuhk03ClassicDetected => "cuhk03-classic-detected",
            DatasetKind::Cuhk03ClassicLabeled => "cuhk03-classic-labeled",
        }
    }
}

impl FromStr for DatasetKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<DatasetKind> {
        let mut kinds = Self::NAMED.into_iter().chain([DatasetKind::Auto]);
        kinds.find(|kind| kind.name() == text).ok_or_else(|| Error::Setting {
            setting: "dataset".into(),
            value: text.into(),
            reason: format!("choose auto, {}", Self::NAMED.map(DatasetKind::name).join(", ")),
        })
    }
}

impl fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
