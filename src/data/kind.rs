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
        /// VeRi-776 (Liu et al., ECCV 2016): vehicles.
        Veri776 = "veri776",
        /// VehicleID (Liu et al., CVPR 2016): vehicles, the test of 800.
        VehicleId800 = "vehicleid-800",
        /// VehicleID, the test of 1,600 vehicles.
        VehicleId1600 = "vehicleid-1600",
        /// VehicleID, the test of 2,400 vehicles.
        VehicleId2400 = "vehicleid-2400",
        /// VERI-Wild (Lou et al., CVPR 2019): vehicles, the test of 3,000.
        VeriWild3000 = "veri-wild-3000",
        /// VERI-Wild, the test of 5,000 vehicles.
        VeriWild5000 = "veri-wild-5000",
        /// VERI-Wild, the test of 10,000 vehicles.
        VeriWild10000 = "veri-wild-10000",
        /// A folder of images for each identity, or names of files that tell it.
        IdFolders = "id-folders",
        /// One folder of images for each class.
        ClassFolders = "class-folders",
        /// CIFAR-10, the binary or the Python version.
        Cifar10 = "cifar10",
        /// CIFAR-100, its 100 fine classes.
        Cifar100 = "cifar100",
        /// IDX files named as MNIST's and Fashion-MNIST's, gzipped or not.
        Mnist = "mnist",
        /// A CSV or TSV file of paths, of identities or classes, and perhaps of cameras and splits.
        Csv = "csv",
    }
}

impl DatasetKind {
    /// Returns whether it names a data set with classes: `Some(false)` for identities, `None` where the task decides.
    pub fn has_classes(self) -> Option<bool> {
        use DatasetKind::*;
        match self {
            Auto | Csv => None,
            Market1501 | DukeMtmcReid | Msmt17 | Veri776 => Some(false),
            VehicleId800 | VehicleId1600 | VehicleId2400 => Some(false),
            VeriWild3000 | VeriWild5000 | VeriWild10000 => Some(false),
            Cuhk03NpDetected | Cuhk03NpLabeled | Cuhk03ClassicDetected | Cuhk03ClassicLabeled | IdFolders => {
                Some(false)
            }
            ClassFolders | Cifar10 | Cifar100 | Mnist => Some(true),
        }
    }

    /// Returns the named re-identification data sets.
    pub fn reid() -> impl Iterator<Item = DatasetKind> {
        DatasetKind::ALL.iter().copied().filter(|kind| kind.has_classes() == Some(false))
    }
}
