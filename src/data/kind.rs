//! Names of data sets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::base::text::Shown;
use crate::{Error, Result};

/// Which data set a folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetKind {
    /// To be recognised by the layout of the folder.
    #[default]
    Auto,
    /// Market-1501.
    Market1501,
    /// DukeMTMC-reID.
    #[serde(rename = "dukemtmcreid")]
    DukeMtmcReid,
    /// MSMT17.
    Msmt17,
    /// The 767/700 protocol (Zhong et al., CVPR 2017) on boxes from a detector.
    Cuhk03NpDetected,
    /// The 767/700 protocol (Zhong et al., CVPR 2017) on hand-drawn boxes.
    Cuhk03NpLabeled,
    /// The 1367/100 protocol (Li et al., CVPR 2014), 20 random splits, on boxes from a detector.
    Cuhk03ClassicDetected,
    /// The 1367/100 protocol (Li et al., CVPR 2014) on hand-drawn boxes.
    Cuhk03ClassicLabeled,
    /// One folder of images for each class.
    ClassFolders,
    /// CIFAR-10, the binary or the Python version.
    Cifar10,
    /// CIFAR-100, its 100 fine classes.
    Cifar100,
    /// IDX files named as MNIST's and Fashion-MNIST's, gzipped or not.
    Mnist,
    /// A CSV file of paths, classes and splits.
    Csv,
}

/// All kinds with their names in settings, flags and labels.
const NAMES: [(DatasetKind, &str); 13] = [
    (DatasetKind::Auto, "auto"),
    (DatasetKind::Market1501, "market1501"),
    (DatasetKind::DukeMtmcReid, "dukemtmcreid"),
    (DatasetKind::Msmt17, "msmt17"),
    (DatasetKind::Cuhk03NpDetected, "cuhk03-np-detected"),
    (DatasetKind::Cuhk03NpLabeled, "cuhk03-np-labeled"),
    (DatasetKind::Cuhk03ClassicDetected, "cuhk03-classic-detected"),
    (DatasetKind::Cuhk03ClassicLabeled, "cuhk03-classic-labeled"),
    (DatasetKind::ClassFolders, "class-folders"),
    (DatasetKind::Cifar10, "cifar10"),
    (DatasetKind::Cifar100, "cifar100"),
    (DatasetKind::Mnist, "mnist"),
    (DatasetKind::Csv, "csv"),
];

impl DatasetKind {
    /// The named re-identification data sets.
    pub(crate) const REID: [DatasetKind; 7] = [
        DatasetKind::Market1501,
        DatasetKind::DukeMtmcReid,
        DatasetKind::Msmt17,
        DatasetKind::Cuhk03NpDetected,
        DatasetKind::Cuhk03NpLabeled,
        DatasetKind::Cuhk03ClassicDetected,
        DatasetKind::Cuhk03ClassicLabeled,
    ];
    /// The forms of data sets with classes.
    pub const CLASSES: [DatasetKind; 5] =
        [DatasetKind::ClassFolders, DatasetKind::Cifar10, DatasetKind::Cifar100, DatasetKind::Mnist, DatasetKind::Csv];
    /// All names.
    pub const NAMES: &[&str] = &{
        let mut names = [""; NAMES.len()];
        let mut i = 0;
        while i < names.len() {
            names[i] = NAMES[i].1;
            i += 1;
        }
        names
    };

    /// Returns the name in settings, flags and labels.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for DatasetKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<DatasetKind> {
        let found = NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(kind, _)| *kind).ok_or_else(|| Error::Setting {
            setting: "dataset".into(),
            value: text.shown().to_string(),
            reason: format!("choose {}", DatasetKind::NAMES.join(", ")),
        })
    }
}

impl fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
