//! Names of data sets.

use crate::base::settings::choice;

choice! {
    /// Which data set a folder holds.
    pub enum DatasetKind {
        /// To be recognised by the layout of the folder.
        #[default]
        Auto = "auto",
        /// Market-1501 (Zheng et al., ICCV 2015).
        Market1501 = "market1501",
        /// DukeMTMC-reID (Zheng et al., ICCV 2017).
        DukeMtmcReid = "dukemtmcreid",
        /// MSMT17 (Wei et al., CVPR 2018).
        Msmt17 = "msmt17",
        /// CUHK03, the 767/700 protocol (Zhong et al., CVPR 2017) on boxes from a detector.
        Cuhk03NpDetected = "cuhk03-np-detected",
        /// CUHK03, the 767/700 protocol (Zhong et al., CVPR 2017) on hand-drawn boxes.
        Cuhk03NpLabeled = "cuhk03-np-labeled",
        /// CUHK03, the 1367/100 protocol (Li et al., CVPR 2014), 20 random splits, on boxes from a detector.
        Cuhk03ClassicDetected = "cuhk03-classic-detected",
        /// CUHK03, the 1367/100 protocol (Li et al., CVPR 2014) on hand-drawn boxes.
        Cuhk03ClassicLabeled = "cuhk03-classic-labeled",
        /// One folder of images for each class.
        ClassFolders = "class-folders",
        /// CIFAR-10, the binary or the Python version.
        Cifar10 = "cifar10",
        /// CIFAR-100, its 100 fine classes.
        Cifar100 = "cifar100",
        /// IDX files named as MNIST's and Fashion-MNIST's, gzipped or not.
        Mnist = "mnist",
        /// A CSV file of paths, classes and splits.
        Csv = "csv",
    }
}

impl DatasetKind {
    /// Returns whether it names a data set with classes: `Some(false)` for identities, `None` for [`DatasetKind::Auto`].
    pub fn has_classes(self) -> Option<bool> {
        use DatasetKind::*;
        match self {
            Auto => None,
            Market1501 | DukeMtmcReid | Msmt17 => Some(false),
            Cuhk03NpDetected | Cuhk03NpLabeled | Cuhk03ClassicDetected | Cuhk03ClassicLabeled => Some(false),
            ClassFolders | Cifar10 | Cifar100 | Mnist | Csv => Some(true),
        }
    }

    /// Returns the named re-identification data sets.
    pub fn reid() -> impl Iterator<Item = DatasetKind> {
        DatasetKind::ALL.iter().copied().filter(|kind| kind.has_classes() == Some(false))
    }
}
