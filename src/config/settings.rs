//! The table of settings: path, flag, type, meaning.

use toml::Value;

use super::effect::{
    ADAM, CELL_WIDTHS, CELLS, CLASSES, COSINE, CROSS_ENTROPY, DROPS, FROZEN_BACKBONE, GPU, HELD_OUT, INIT, MIDDLE,
    MSMT17, MULTISTEP, Need, RAND_AUGMENT, RANDOM_CROP, REID, RERANK, SGD, SPLITS, STEP, TARGET, TRAINED_BACKBONE,
    TRIPLET, WARMUP,
};
use crate::data::DatasetKind;
use crate::nn::Arch;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// `section.key`, or the key alone at the top.
    pub path: &'static str,
    /// Short flag name, without the dashes; `--section.key` works too.
    pub alias: Option<&'static str>,
    pub kind: Kind,
    pub help: &'static str,
    /// What else must be chosen for it to have an effect; checked in this order.
    pub needs: &'static [Need],
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Whole number of at least 0.
    Count,
    Real,
    /// `true` or `false`; the flag alone means `true`.
    Switch,
    Path,
    /// Any text.
    Word,
    /// Whole numbers; `1,2,3` on the command line.
    Counts,
    /// Two numbers; `0.9,0.999` on the command line.
    Pair,
    /// One of these words.
    Choice(&'static [&'static str]),
}

const fn short(path: &'static str, alias: &'static str, kind: Kind, help: &'static str) -> Setting {
    Setting { path, alias: Some(alias), kind, help, needs: &[] }
}

const fn long(path: &'static str, kind: Kind, help: &'static str) -> Setting {
    Setting { path, alias: None, kind, help, needs: &[] }
}

use Kind::{Choice, Count, Counts, Pair, Path, Real, Switch, Word};

/// Every setting, section by section; a test holds it against the fields of [`Config`](super::Config).
pub const SETTINGS: &[Setting] = &[
    short(
        "task",
        "task",
        Choice(&["reid", "classify"]),
        "reid learns identities, classify classes of images; each brings defaults of its own, classify: SGD at 0.01 for 30 epochs, 224x224, random resized crops, smoothing 0.1",
    ),
    short("seed", "seed", Count, "Seed of everything drawn at random"),
    short("threads", "threads", Count, "Threads that compute; 0 takes all cores (results are the same)"),
    short(
        "device",
        "device",
        Choice(&["auto", "cpu", "cuda", "emulated"]),
        "What computes; auto takes a GPU where one can be used, emulated runs the CUDA kernels on the CPU (for tests)",
    ),
    short("precision", "precision", Choice(&["f32", "tf32", "bf16"]), "Arithmetic of convolutions on a GPU"),
    long("gpu.vendor", Switch, "Plain convolutions by cuDNN and cuBLASLt; false takes the crate's own kernels")
        .needs(&[GPU]),
    long("gpu.graph", Switch, "Record a training step as one CUDA graph and replay it").needs(&[GPU]),
    short(
        "model.arch",
        "arch",
        Choice(&Arch::NAMES),
        "Network; -ptl adds BConv-Cells. For mgn* the defaults are the published recipe: 384x128 images, 450 epochs, rate / 10 at 320, 360 and 400, margin 1.2",
    ),
    short("model.width", "width", Real, "Multiplier of the backbone's channel counts"),
    short("model.height", "height", Count, "Input height in pixels"),
    short("model.image_width", "image-width", Count, "Input width in pixels"),
    short(
        "model.stem",
        "stem",
        Choice(&["imagenet", "cifar"]),
        "How images enter: 7x7 stride 2 and max pool, or for small images 3x3 stride 1 (fixed for mgn* and cifar-*)",
    ),
    short("model.last_stride", "last-stride", Count, "Stride of the backbone's last stage, 1 or 2 (fixed for mgn*)"),
    short(
        "model.embedding",
        "embedding",
        Count,
        "Length of the embedding; 0: the pooled vector itself, for mgn* 256 x width for each of its eight",
    ),
    short("model.pool", "pool", Choice(&["avg", "max"]), "Global pooling (max for mgn*)"),
    short(
        "ptl.stages",
        "ptl-stages",
        Counts,
        "Stages (1 to 4, to 3 for cifar-*) with a BConv-Cell beside them (all for mgn*)",
    )
    .needs(&[CELLS]),
    short("ptl.cell_width", "cell-width", Real, "Width of the cells, relative to the default")
        .needs(&[CELLS, CELL_WIDTHS]),
    short(
        "ptl.cell_channels",
        "cell-channels",
        Counts,
        "Channels of the cell beside each of --ptl-stages; none: by --cell-width (not for mgn*)",
    )
    .needs(&[CELLS]),
    short(
        "ptl.state_policy",
        "state-policy",
        Choice(&["carry", "carry-epochs", "reset"]),
        "Training: latent states are reset at each epoch's start, never, or at every step",
    )
    .needs(&[CELLS]),
    short(
        "ptl.eval_state",
        "eval-state",
        Choice(&["zeros", "mean", "normal"]),
        "Evaluation starts from zeros, from the mean of the last training state, or from seeded noise",
    )
    .needs(&[CELLS]),
    short("ptl.state_init", "state-init", Choice(&["zeros", "normal"]), "What a state holds after a reset")
        .needs(&[CELLS]),
    short("data.root", "data", Path, "Folder of the data set, or the one that its download unpacks into"),
    short("data.kind", "dataset", Choice(DatasetKind::NAMES), "Which data set --data is; auto goes by the layout"),
    short("data.target", "target", Path, "Another data set to evaluate on"),
    short("data.target_kind", "target-dataset", Choice(DatasetKind::NAMES), "Which data set --target is")
        .needs(&[REID, TARGET]),
    short("data.msmt17_val", "msmt17-val", Switch, "MSMT17: train on list_val.txt too").needs(&[REID, MSMT17]),
    short(
        "data.split",
        "split",
        Count,
        "CUHK03 classic: the split, from 0; classes without a split of their own: seed of theirs",
    )
    .needs(&[SPLITS]),
    short(
        "data.val_share",
        "val-share",
        Real,
        "Classes without a split of their own: share of each class kept for validation",
    )
    .needs(&[CLASSES, HELD_OUT]),
    short("data.skip_broken", "skip-broken", Switch, "Leave broken images out, with a warning"),
    short(
        "data.exif_orientation",
        "exif-orientation",
        Switch,
        "Turn and mirror images as their EXIF data say (false for mgn*, as published)",
    ),
    long("data.cache_mb", Count, "Memory for decoded images, MiB"),
    long("augment.flip", Real, "Probability of mirroring"),
    long("augment.pad", Count, "Pixels added on each side before a random crop"),
    long("augment.random_erasing", Real, "Probability of erasing a rectangle"),
    long("augment.interpolation", Choice(&["bicubic", "bilinear"]), "Filter used to resize"),
    short(
        "augment.crop",
        "crop",
        Choice(&["squeeze", "center", "random-resized"]),
        "Part of an image that is seen: all, the middle, or a random part (in evaluation the middle)",
    ),
    long("augment.crop_scale", Pair, "random-resized: least and largest share of the area").needs(&[RANDOM_CROP]),
    long("augment.crop_ratio", Pair, "random-resized: least and largest width / height").needs(&[RANDOM_CROP]),
    long("augment.brightness", Real, "Colour jitter: brightness times 1 - this to 1 + this"),
    long("augment.contrast", Real, "Colour jitter: contrast times 1 - this to 1 + this"),
    long("augment.saturation", Real, "Colour jitter: saturation times 1 - this to 1 + this"),
    long("augment.hue", Real, "Colour jitter: hue turned by up to this share of the circle, at most 0.5"),
    short("augment.rand_ops", "rand-ops", Count, "RandAugment: operations for each image, 2 as published; 0 for none"),
    short("augment.rand_magnitude", "rand-magnitude", Count, "RandAugment: strength, 0 to 30").needs(&[RAND_AUGMENT]),
    short("augment.mixup", "mixup", Real, "Alpha of mixup (classify); 0 does not mix"),
    short("augment.cutmix", "cutmix", Real, "Alpha of CutMix (classify); 0 does not mix"),
    short("sampler.ids", "ids", Count, "P: identities in a batch").needs(&[REID]),
    short("sampler.images", "images", Count, "K: images of each identity in a batch").needs(&[REID]),
    short("sampler.passes", "passes", Count, "Times each identity is visited in an epoch").needs(&[REID]),
    short("sampler.batch", "batch", Count, "classify: images in a batch").needs(&[CLASSES]),
    short("sampler.balanced", "balanced", Switch, "classify: draw every class as often as the others")
        .needs(&[CLASSES]),
    short("optim.kind", "optim", Choice(&["adam", "adamw", "sgd"]), "Update rule"),
    short("optim.lr", "lr", Real, "Base learning rate"),
    long("optim.betas", Pair, "Adam, AdamW: decay of the two moments").needs(&[ADAM]),
    long("optim.eps", Real, "Adam, AdamW: added to the denominator").needs(&[ADAM]),
    short(
        "optim.weight_decay",
        "weight-decay",
        Real,
        "Weight decay: added to the gradient; decoupled from it in AdamW",
    ),
    long("optim.amsgrad", Switch, "Adam, AdamW: divide by the largest second moment so far").needs(&[ADAM]),
    short("optim.momentum", "momentum", Real, "SGD: momentum").needs(&[SGD]),
    long("optim.nesterov", Switch, "SGD: Nesterov's rule").needs(&[SGD]),
    short("optim.clip_norm", "clip-norm", Real, "Largest L2 norm of the gradient; 0 does not clip"),
    short("optim.ptl_lr", "ptl-lr", Real, "Multiplier of the learning rate in the PTL branch").needs(&[CELLS]),
    short("optim.head_lr", "head-lr", Real, "Multiplier of the learning rate in reduction, neck and classifier"),
    short("optim.backbone_lr", "backbone-lr", Real, "Multiplier of the learning rate in the pre-trained part")
        .needs(&[TRAINED_BACKBONE]),
    short(
        "optim.layer_decay",
        "layer-decay",
        Real,
        "Multiplier of the pre-trained part's rate for each stage from the last towards the image",
    )
    .needs(&[TRAINED_BACKBONE]),
    short("schedule.epochs", "epochs", Count, "Epochs to train"),
    short(
        "schedule.kind",
        "schedule",
        Choice(&["constant", "multistep", "step", "cosine"]),
        "Course of the learning rate",
    ),
    short("schedule.milestones", "milestones", Counts, "multistep: epochs, from 1, at whose start the rate drops")
        .needs(&[MULTISTEP]),
    long("schedule.gamma", Real, "multistep, step: factor of a drop").needs(&[DROPS]),
    long("schedule.step_size", Count, "step: epochs between drops").needs(&[STEP]),
    long("schedule.min_lr", Real, "cosine: rate at the end").needs(&[COSINE]),
    short("schedule.warmup_epochs", "warmup-epochs", Count, "Epochs of linear warm-up, fewer than --epochs"),
    long("schedule.warmup_factor", Real, "Share of the rate at the start of the warm-up").needs(&[WARMUP]),
    short("loss.label_smoothing", "label-smoothing", Real, "Share of the label spread over all identities")
        .needs(&[CROSS_ENTROPY]),
    short("loss.triplet_margin", "margin", Real, "Margin of the batch-hard triplet loss").needs(&[REID, TRIPLET]),
    long("loss.triplet_weight", Real, "Weight of the triplet loss").needs(&[REID]),
    long("loss.ce_weight", Real, "Weight of the cross-entropy"),
    short("train.freeze_backbone", "freeze-backbone", Switch, "Train everything but the backbone"),
    short("train.freeze_bn", "freeze-bn", Switch, "Stop the running statistics of a frozen backbone too")
        .needs(&[FROZEN_BACKBONE]),
    short("train.workers", "workers", Count, "Loader threads; 0 chooses"),
    long("train.checkpoint_every", Count, "Epochs between checkpoints"),
    short("train.eval_every", "eval-every", Count, "Epochs between evaluations; 0 evaluates at the end only"),
    long("train.log_every", Count, "Steps between two lines of metrics"),
    short(
        "train.accumulate",
        "accumulate",
        Count,
        "Batches whose gradients are averaged for one step; latent states move with every batch",
    ),
    short("train.ema", "ema", Real, "Decay of the moving average of weights that is evaluated and saved; 0 for none"),
    short(
        "train.patience",
        "patience",
        Count,
        "End after that many evaluations (--eval-every) without a better one, with the best weights; 0: never",
    ),
    short("train.keep_head", "keep-head", Switch, "Keep the classifier of --init, for the same classes").needs(&[INIT]),
    short(
        "train.init_partial",
        "init-partial",
        Switch,
        "Accept an --init that has only a part of the network's backbone",
    )
    .needs(&[INIT]),
    short(
        "train.weights_dict",
        "weights-dict",
        Word,
        "Of a file with several dictionaries of weights the one to take, such as state_dict_ema, or the first part of its names",
    )
    .needs(&[INIT]),
    short("train.max_steps", "max-steps", Count, "Stop after that many steps"),
    long("eval.flip", Switch, "Add the feature, or the prediction, of the mirrored image"),
    short("eval.batch", "eval-batch", Count, "Images in a batch"),
    long("eval.crop_share", Real, "The middle's share of the shorter side, where the middle is taken").needs(&[MIDDLE]),
    short(
        "eval.rerank",
        "rerank",
        Choice(&["none", "auto", "ptl", "zhong", "torchreid"]),
        "Re-ranked results beside the plain ones (evaluate, rank), with this code's numbers; the flag alone means auto",
    )
    .needs(&[REID]),
    short(
        "eval.raw_csv",
        "raw-csv",
        Switch,
        "CSV files hold names as they are, even those that a spreadsheet would compute, such as =1+1",
    ),
    short("eval.k1", "k1", Count, "Re-ranking: neighbours that may be reciprocal").needs(&[REID, RERANK]),
    short("eval.k2", "k2", Count, "Re-ranking: neighbours to average over; 1 averages nothing").needs(&[REID, RERANK]),
    short("eval.lambda", "lambda", Real, "Re-ranking: share of the original distance").needs(&[REID, RERANK]),
];

/// The setting at `path`.
pub fn setting(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.path == path)
}

/// A heading for the settings of a section (empty: the top).
pub fn section_title(section: &str) -> &'static str {
    match section {
        "gpu" => "GPU [gpu]",
        "model" => "Network [model]",
        "ptl" => "BConv-Cells [ptl]",
        "data" => "Data [data]",
        "augment" => "Augmentation [augment]",
        "sampler" => "Batches [sampler]",
        "optim" => "Optimiser [optim]",
        "schedule" => "Schedule [schedule]",
        "loss" => "Loss [loss]",
        "train" => "Training [train]",
        "eval" => "Evaluation [eval]",
        _ => "General",
    }
}

impl Setting {
    const fn needs(self, needs: &'static [Need]) -> Setting {
        Setting { needs, ..self }
    }

    /// Whether it says what the network is, apart from the size of its input: a trained model cannot change it.
    pub fn makes_network(&self) -> bool {
        let input = ["model.height", "model.image_width"];
        let branch = ["ptl.stages", "ptl.cell_width", "ptl.cell_channels"];
        self.path == "task" || (self.section() == "model" && !input.contains(&self.path)) || branch.contains(&self.path)
    }

    /// Whether another value may give other results. Device and threads are not counted: they change the last bits at most.
    pub fn changes_results(&self) -> bool {
        const SAME: [&str; 8] = [
            "threads",
            "device",
            "gpu.graph",
            "data.cache_mb",
            "train.workers",
            "train.checkpoint_every",
            "train.log_every",
            "eval.raw_csv",
        ];
        !SAME.contains(&self.path)
    }

    /// `optim` of `optim.lr`; empty at the top.
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    /// The flag shown first, without the dashes.
    pub fn flag(&self) -> &'static str {
        self.alias.unwrap_or(self.path)
    }
}

impl Kind {
    /// What a value must be, in words.
    pub fn expected(self) -> String {
        match self {
            Count => "a whole number of at least 0".into(),
            Real => "a number".into(),
            Switch => "true or false".into(),
            Path => "a path in quotes".into(),
            Word => "text in quotes".into(),
            Counts => "a list of whole numbers such as [1, 2]".into(),
            Pair => "two numbers such as [0.9, 0.999]".into(),
            Choice(words) => {
                let (last, rest) = words.split_last().expect("a choice has words");
                format!("{} or {last}", rest.join(", "))
            }
        }
    }

    /// Placeholder in help.
    pub fn placeholder(self) -> &'static str {
        match self {
            Count => "N",
            Real => "X",
            Switch => "BOOL",
            Path => "DIR",
            Word => "NAME",
            Counts => "N,N..",
            Pair => "X,X",
            Choice(_) => "WORD",
        }
    }

    /// Reads a value from the command line.
    ///
    /// # Errors
    /// What was expected, in words.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let list = || text.trim().trim_start_matches('[').trim_end_matches(']').split(',').map(str::trim);
        let value = match self {
            Count => text.parse().ok().map(Value::Integer),
            Real => text.parse().ok().map(Value::Float),
            Switch => text.parse().ok().map(Value::Boolean),
            Path | Word | Choice(_) => Some(Value::String(text.into())),
            Counts => list().map(|n| n.parse().ok().map(Value::Integer)).collect::<Option<_>>().map(Value::Array),
            Pair => list().map(|x| x.parse().ok().map(Value::Float)).collect::<Option<_>>().map(Value::Array),
        };
        value.filter(|value| self.fits(value)).ok_or_else(|| match self {
            Counts => "expected whole numbers such as 1,2".into(),
            Pair => "expected two numbers such as 0.9,0.999".into(),
            _ => format!("expected {}", self.expected()),
        })
    }

    /// Whether `value` has this form.
    pub fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Count, Value::Integer(n)) => *n >= 0,
            (Real, Value::Float(_) | Value::Integer(_)) | (Switch, Value::Boolean(_)) => true,
            (Path | Word, Value::String(_)) => true,
            (Counts, Value::Array(items)) => items.iter().all(|item| Count.fits(item)),
            (Pair, Value::Array(items)) => items.len() == 2 && items.iter().all(|item| Real.fits(item)),
            (Choice(words), Value::String(word)) => words.contains(&word.as_str()),
            _ => false,
        }
    }
}
