//! `[data]`: the settings of data sets.

use std::path::PathBuf;

use super::DatasetKind;
use crate::base::settings::{
    CLASSES, HELD_OUT, MSMT17, NAMED_FILES, ON_DATA_SETS, ON_IMAGES, ON_PROTOCOLS, REID, SPLITS, TARGET, choice,
    settings,
};

settings! {
    /// `[data]`: the images.
    pub struct DataOptions in "data", "Data" {
        /// Folder of the data set, or the one that its download unpacks into.
        #[setting(flag("data").taken_by(ON_DATA_SETS).free_at_end())]
        pub root: PathBuf = PathBuf::new();
        /// Which data set --data is; auto goes by the layout.
        #[setting(flag("dataset").taken_by(ON_DATA_SETS))]
        pub kind: DatasetKind = DatasetKind::Auto;
        /// Another data set to evaluate on.
        #[setting(flag("target").free_at_end())]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub target: Option<PathBuf> = None;
        /// Which data set --target is.
        #[setting(flag("target-dataset").needs(&[REID, TARGET]))]
        pub target_kind: DatasetKind = DatasetKind::Auto;
        /// MSMT17: train on list_val.txt too.
        #[setting(flag("msmt17-val").needs(&[REID, MSMT17]).taken_by(ON_DATA_SETS))]
        pub msmt17_val: bool = true;
        /// CUHK03 classic: the split, from 0; else the seed of what is held out (--val-ids, classes) and of queries that are drawn.
        #[setting(flag("split").needs(&[SPLITS]).taken_by(ON_DATA_SETS))]
        pub split: usize = 0;
        /// Number of training identities to measure on, which are not trained; 0 measures the data set's own test.
        #[setting(flag("val-ids").needs(&[REID]).taken_by(ON_DATA_SETS))]
        pub val_ids: usize = 0;
        /// Whether images by the query's camera count: drop leaves those of its identity out, as protocols of several cameras do.
        #[setting(flag("same-camera").needs(&[REID]).taken_by(ON_PROTOCOLS))]
        pub same_camera: SameCamera = SameCamera::Drop;
        /// Regular expression whose groups id, camera, sequence and split tell these from the path of an image.
        #[setting(flag("name-pattern").needs(&[REID, NAMED_FILES]).taken_by(ON_DATA_SETS))]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub name_pattern: Option<String> = None;
        /// Classes without a split of their own: share of each class kept for validation.
        #[setting(flag("val-share").above(0.0).below(1.0).needs(&[CLASSES, HELD_OUT]).taken_by(ON_DATA_SETS))]
        pub val_share: f32 = 0.2;
        /// Leave broken images out, with a warning.
        #[setting(flag("skip-broken").taken_by(ON_IMAGES))]
        pub skip_broken: bool = false;
        /// Turn and mirror images as their EXIF data say (false for mgn*, as published).
        #[setting(flag("exif-orientation").taken_by(ON_IMAGES))]
        // A stored configuration that does not have it is of a run that did not turn images.
        #[serde(default)]
        pub exif_orientation: bool = true, Mgn => false;
        /// Memory for decoded images, MiB.
        #[setting(same_results())]
        pub cache_mb: usize = 1024;
    }
}

choice! {
    /// Whether gallery images by the camera of a query count.
    pub enum SameCamera {
        /// Images of the query's identity by its camera do not count.
        #[default]
        Drop = "drop",
        /// All images count, for data of one camera or of unknown ones.
        Keep = "keep",
    }
}

impl SameCamera {
    /// Returns the end of a message about identities that cannot be searched for: a way out, if there is one.
    pub(super) fn way_out(self) -> &'static str {
        match self {
            SameCamera::Drop => {
                ": for data of one camera or of unknown ones, `data.same_camera` keep counts all images"
            }
            SameCamera::Keep => "",
        }
    }

    /// Says after "an identity has" why none of its images can be a query.
    pub(super) fn alone(self) -> &'static str {
        match self {
            SameCamera::Drop => "images of one camera",
            SameCamera::Keep => "one image",
        }
    }
}

/// Which images are loaded; others need not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subsets {
    /// Training images and test images.
    #[default]
    All,
    /// Query and gallery, or the validation images of classes; the list of training images stays empty.
    Test,
}

/// Options for loading a re-identification data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Which images are loaded.
    pub subsets: Subsets,
    /// MSMT17: whether to train on `list_train.txt` and `list_val.txt`, not on the first alone.
    pub msmt17_val: bool,
    /// CUHK03 classic: which of the splits, from 0. Also the seed of the identities that `val_ids` holds out, and of drawn queries.
    pub split: usize,
    /// Number of training identities that take the place of query and gallery; 0 keeps the data set's own.
    pub val_ids: usize,
    /// Whether images by the query's camera count.
    pub same_camera: SameCamera,
    /// Regular expression that tells identities from names of files.
    pub name_pattern: Option<String>,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        DataOptions::default().load_options(Subsets::All)
    }
}

impl DataOptions {
    /// Returns the options for loading a re-identification data set.
    pub fn load_options(&self, subsets: Subsets) -> LoadOptions {
        LoadOptions {
            subsets,
            msmt17_val: self.msmt17_val,
            split: self.split,
            val_ids: self.val_ids,
            same_camera: self.same_camera,
            name_pattern: self.name_pattern.clone(),
        }
    }
}
