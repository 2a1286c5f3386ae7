//! Conditions under which a setting has an effect: a flag that can change nothing is refused.

use toml::{Table, Value};

use super::value_at;

/// A condition under which a setting has an effect.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Returns whether the condition is met.
    pub holds: fn(&Chosen<'_>) -> bool,
    /// How the message continues after "it has no effect"; names a way out.
    pub otherwise: &'static str,
}

/// The choices on which conditions depend.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The effective settings.
    pub settings: &'a Table,
    /// Whether the weights come from a file.
    pub init: bool,
}

impl<'a> Chosen<'a> {
    /// Returns whether the text of `path` is one of `words`.
    fn is(&self, path: &str, words: &[&str]) -> bool {
        words.contains(&self.text(path))
    }

    fn text(&self, path: &str) -> &'a str {
        self.value(path).and_then(Value::as_str).unwrap_or_default()
    }

    fn is_on(&self, path: &str) -> bool {
        self.value(path) == Some(&Value::Boolean(true))
    }

    fn is_positive(&self, path: &str) -> bool {
        match self.value(path) {
            Some(Value::Integer(number)) => *number > 0,
            Some(Value::Float(number)) => *number > 0.0,
            _ => false,
        }
    }

    /// Returns whether the program may have to divide classes into training and validation images.
    fn divides_classes(&self) -> bool {
        self.is("data.kind", &["auto", "class-folders", "csv"])
    }

    fn value(&self, path: &str) -> Option<&'a Value> {
        value_at(self.settings, path)
    }
}

const fn need(holds: fn(&Chosen<'_>) -> bool, otherwise: &'static str) -> Need {
    Need { holds, otherwise }
}

// The task and the data.

/// Has an effect in re-identification.
pub(crate) const REID: Need = need(|c| c.is("task", &["reid"]), "with `task` classify: leave it out");
/// Has an effect in classification.
pub const CLASSES: Need =
    need(|c| c.is("task", &["classify"]), "with `task` reid: leave it out, or add `task` classify");
/// Has an effect with a target data set.
pub const TARGET: Need =
    need(|c| !c.text("data.target").is_empty(), "without `data.target`: name that data set, or leave it out");
/// Has an effect on MSMT17.
pub const MSMT17: Need = need(
    |c| ["data.kind", "data.target_kind"].iter().any(|path| c.is(path, &["auto", "msmt17"])),
    "on another data set than msmt17: leave it out",
);
/// Has an effect on data sets whose layout does not tell identities by itself.
pub(crate) const NAMED_FILES: Need = need(
    |c| c.is("data.kind", &["auto", "id-folders"]),
    "on a data set that tells identities in another way: leave it out, or name `data.kind` id-folders",
);
/// Has an effect on data sets with several splits, on drawn queries, and on held-out identities.
pub(crate) const SPLITS: Need = need(
    |c| {
        let split = ["auto", "csv", "id-folders", "cuhk03-classic-detected", "cuhk03-classic-labeled"];
        match c.text("task") {
            "classify" => c.divides_classes(),
            _ => {
                c.is_positive("data.val_ids") || ["data.kind", "data.target_kind"].iter().any(|path| c.is(path, &split))
            }
        }
    },
    "on a data set with one split of its own: leave it out, or hold identities out by `data.val_ids`",
);
/// Has an effect if validation images are held out of the training images.
pub(crate) const HELD_OUT: Need =
    need(|c| c.divides_classes(), "on a data set with validation images of its own: leave it out");
/// Has an effect with random resized crops.
pub(crate) const RANDOM_CROP: Need = need(
    |c| c.is("augment.crop", &["random-resized"]),
    "without `augment.crop` random-resized: add that, or leave it out",
);
/// Has an effect if evaluation takes the middle of an image.
pub(crate) const MIDDLE: Need = need(
    |c| !c.is("augment.crop", &["squeeze"]),
    "with `augment.crop` squeeze, which takes the whole image: leave it out, or name another `augment.crop`",
);
/// Has an effect with RandAugment.
pub(crate) const RAND_AUGMENT: Need =
    need(|c| c.is_positive("augment.rand_ops"), "without `augment.rand_ops`: add that, or leave it out");

// The network and where it computes.

/// Has an effect in networks whose last stage may halve the map.
pub(crate) const LAST_STRIDE: Need = need(
    |c| !c.text("model.arch").starts_with("osnet-"),
    "in an OSNet, whose last stage always has stride 1: leave it out",
);
/// Has an effect in networks with a PTL branch.
pub(crate) const BRANCH: Need = need(
    |c| c.text("model.arch").ends_with("-ptl"),
    "in a network without BConv-Cells: leave it out, or name one that ends in -ptl by `model.arch`",
);
/// Has an effect in networks with BConv-Cells.
pub(crate) const CELLS: Need = need(
    |c| (BRANCH.holds)(c) && !c.is("ptl.block", &["residual"]),
    "in a network without BConv-Cells: leave it out, or name one that ends in -ptl by `model.arch`, without `ptl.block` residual",
);
/// Has an effect on latent states that are running averages.
pub(crate) const AVERAGED_STATES: Need = need(
    |c| c.is("ptl.state_form", &["average", "channel-average", "class"]),
    "without a running average: leave it out, or choose `ptl.state_form` average, channel-average or class",
);
/// Has an effect if the channels of the cells are not given.
pub(crate) const CELL_WIDTHS: Need = need(
    |c| c.value("ptl.cell_channels").and_then(Value::as_array).is_none_or(Vec::is_empty),
    "beside `ptl.cell_channels`: leave one of the two out",
);
/// Has an effect if logits are scaled cosines.
pub(crate) const COSINE_HEAD: Need = need(
    |c| c.is("model.head", &["arcface", "circle"]),
    "with `model.head` linear: leave it out, or name `model.head` arcface or circle",
);
/// Has an effect on a GPU.
pub const GPU: Need = need(|c| !c.is("device", &["cpu"]), "with `device` cpu: leave it out");
/// Has an effect if the weights come from a file.
pub(crate) const INIT: Need = need(|c| c.init, "without `init`: name the weights to start from, or leave it out");

// Training.

/// Has an effect with Adam and AdamW.
pub(crate) const ADAM: Need = need(|c| !c.is("optim.kind", &["sgd"]), "with `optim.kind` sgd: leave it out");
/// Has an effect with SGD.
pub(crate) const SGD: Need =
    need(|c| c.is("optim.kind", &["sgd"]), "without `optim.kind` sgd: add that, or leave it out");
/// Has an effect if the backbone is trained.
pub(crate) const TRAINED_BACKBONE: Need =
    need(|c| !c.is_on("train.freeze_backbone"), "with `train.freeze_backbone`: leave one of the two out");
/// Has an effect if the backbone is frozen.
pub(crate) const FROZEN_BACKBONE: Need =
    need(|c| c.is_on("train.freeze_backbone"), "without `train.freeze_backbone`: add that, or leave it out");
/// Has an effect with the multistep schedule.
pub(crate) const MULTISTEP: Need =
    need(|c| c.is("schedule.kind", &["multistep"]), "without `schedule.kind` multistep: add that, or leave it out");
/// Has an effect with the step schedule.
pub(crate) const STEP: Need =
    need(|c| c.is("schedule.kind", &["step"]), "without `schedule.kind` step: add that, or leave it out");
/// Has an effect if the learning rate drops in steps.
pub(crate) const DROPS: Need = need(
    |c| c.is("schedule.kind", &["step", "multistep"]),
    "without `schedule.kind` step or multistep: add one of them, or leave it out",
);
/// Has an effect with the cosine schedule.
pub(crate) const COSINE: Need =
    need(|c| c.is("schedule.kind", &["cosine"]), "without `schedule.kind` cosine: add that, or leave it out");
/// Has an effect with a warm-up.
pub(crate) const WARMUP: Need =
    need(|c| c.is_positive("schedule.warmup_epochs"), "without `schedule.warmup_epochs`: add that, or leave it out");
/// Has an effect with a triplet loss.
pub(crate) const TRIPLET: Need =
    need(|c| c.is_positive("loss.triplet_weight"), "with `loss.triplet_weight` 0: leave one of the two out");
/// Has an effect if the triplet loss remembers embeddings.
pub(crate) const MEMORY: Need =
    need(|c| c.is_positive("loss.memory"), "without `loss.memory`: add that, or leave it out");
/// Has an effect with a centre loss.
pub(crate) const CENTERS: Need =
    need(|c| c.is_positive("loss.center_weight"), "without `loss.center_weight`: add that, or leave it out");
/// Has an effect with a cross-entropy loss.
pub(crate) const CROSS_ENTROPY: Need =
    need(|c| c.is_positive("loss.ce_weight"), "with `loss.ce_weight` 0: leave one of the two out");
/// Has an effect if classes are weighted by effective numbers of images.
pub(crate) const EFFECTIVE: Need = need(
    |c| c.is("loss.class_weights", &["effective"]),
    "without `loss.class_weights` effective: add that, or leave it out",
);

// Evaluation.

/// Has an effect with re-ranking.
pub(crate) const RERANK: Need =
    need(|c| !c.is("eval.rerank", &["none"]), "without `eval.rerank`: add that, or leave it out");
