//! Every setting of a run: one struct that a TOML file, the command line and a run folder share.
//!
//! [`SETTINGS`] names each field once more, with its flag, its type and its meaning; flags, file checks and help are made
//! from that table.

mod effect;
mod load;
mod recipe;
mod settings;
mod validate;

pub use effect::{Chosen, Need};
pub use load::{Overrides, whole_path};
pub use settings::{Kind, SETTINGS, Setting, section_title, setting};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::csv_out::Cells;
use crate::data::{Augment, DatasetKind, LoadOptions, Transform};
use crate::engine::device::{DeviceKind, DeviceOptions, Precision};
use crate::engine::latent_state::{EvalState, StateInit, StatePolicy};
use crate::engine::optim::OptimConfig;
use crate::engine::schedule::{self, Decay, Warmup};
use crate::eval::EvalOptions;
use crate::eval::rerank::{RerankOptions, RerankVariant};
use crate::nn::{Arch, NetworkConfig, Pool, PtlConfig, StemKind, TaskKind};

/// The network that is trained where none is named.
pub const DEFAULT_ARCH: &str = "resnet50-ptl";

/// All settings. [`Default`] is the recipe of `resnet50-ptl`, [`Config::recipe`] that of any network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is learnt: identities, or classes.
    pub task: TaskKind,
    /// Seed of everything that is drawn at random.
    pub seed: u64,
    /// Threads that compute; 0 takes all cores.
    pub threads: usize,
    pub device: DeviceKind,
    pub precision: Precision,
    pub gpu: Gpu,
    pub model: Model,
    pub ptl: Ptl,
    pub data: Data,
    pub augment: Augment,
    pub sampler: Sampler,
    pub optim: Optim,
    pub schedule: Schedule,
    pub loss: Loss,
    pub train: Train,
    pub eval: Eval,
}

/// `[gpu]`: how a GPU is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gpu {
    /// Plain convolutions by cuDNN and cuBLASLt, not by our own kernels.
    pub vendor: bool,
    /// Record a training step once and replay it.
    pub graph: bool,
}

/// `[model]`: the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// One of [`Arch::NAMES`]; with `-ptl`, BConv-Cells stand beside it.
    pub arch: String,
    /// Multiplier of all channel counts of the backbone.
    pub width: f32,
    /// Input height, pixels.
    pub height: usize,
    /// Input width, pixels.
    pub image_width: usize,
    /// How images enter the backbone.
    pub stem: StemKind,
    /// Stride of the backbone's last stage, 1 or 2.
    pub last_stride: usize,
    /// Length of the embedding; 0 takes the network's own (see [`NetworkConfig`]).
    pub embedding: usize,
    pub pool: Pool,
}

/// `[ptl]`: the BConv-Cells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ptl {
    /// Stages (1 to 4, ascending) with a cell beside them.
    pub stages: Vec<usize>,
    /// Width of the cells, relative to the default.
    pub cell_width: f32,
    /// Channels of the cell beside each of `stages`, instead of `cell_width`; empty for that.
    pub cell_channels: Vec<usize>,
    pub state_policy: StatePolicy,
    pub eval_state: EvalState,
    pub state_init: StateInit,
}

/// `[data]`: the images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Folder of the data set; empty while none is named.
    pub root: PathBuf,
    /// Which data set `root` holds.
    pub kind: DatasetKind,
    /// Another data set to evaluate on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<PathBuf>,
    /// Which data set `target` holds.
    pub target_kind: DatasetKind,
    /// MSMT17: train on the validation list too.
    pub msmt17_val: bool,
    /// Classic CUHK03: the split, from 0. Classes without a split of their own: seed of the one that is made.
    pub split: usize,
    /// Classes without a split of their own: share of each class that is kept for validation.
    pub val_share: f32,
    /// Leave broken images out, with a warning, instead of refusing them.
    pub skip_broken: bool,
    /// Turn and mirror images as their EXIF data say. A stored configuration that does not have it is of a run that did not.
    #[serde(default)]
    pub exif_orientation: bool,
    /// Memory for decoded images, MiB.
    pub cache_mb: usize,
}

/// `[sampler]`: P identities x K images, or any images for classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampler {
    /// P: identities in a batch.
    pub ids: usize,
    /// K: images of each.
    pub images: usize,
    /// Times each identity is visited in an epoch.
    pub passes: usize,
    /// Classification: images in a batch.
    pub batch: usize,
    /// Classification: every class is seen as often as the others.
    pub balanced: bool,
}

/// `[optim]`: the optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Optim {
    pub kind: OptimKind,
    /// Base learning rate.
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f32,
    pub amsgrad: bool,
    pub momentum: f64,
    pub nesterov: bool,
    /// Largest L2 norm of the gradient; 0 does not clip.
    pub clip_norm: f32,
    /// Multiplier of the learning rate in the PTL branch.
    pub ptl_lr: f32,
    /// Multiplier of the learning rate behind the pooled vector: reduction, neck, classifier.
    pub head_lr: f32,
    /// Multiplier of the learning rate in the pre-trained part.
    pub backbone_lr: f32,
    /// Multiplier of the pre-trained part's learning rate for each stage from the last towards the image.
    pub layer_decay: f32,
}

/// Update rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimKind {
    #[default]
    Adam,
    AdamW,
    Sgd,
}

/// `[schedule]`: length of the training and learning rate, by epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    pub epochs: usize,
    pub kind: ScheduleKind,
    /// Epochs (1-based) from whose start on the rate is multiplied by `gamma`.
    pub milestones: Vec<u64>,
    pub gamma: f64,
    /// Epochs between two drops of `step`.
    pub step_size: u64,
    /// Rate at the end of `cosine`.
    pub min_lr: f64,
    /// Epochs of linear warm-up.
    pub warmup_epochs: u64,
    /// Share of the rate at the start of the warm-up.
    pub warmup_factor: f64,
}

/// Course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    Constant,
    MultiStep,
    Step,
    #[default]
    Cosine,
}

/// `[loss]`: cross-entropy and batch-hard triplet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Loss {
    pub label_smoothing: f32,
    pub triplet_margin: f32,
    pub triplet_weight: f32,
    pub ce_weight: f32,
}

/// `[train]`: the loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    pub freeze_backbone: bool,
    pub freeze_bn: bool,
    /// Loader threads; 0 chooses.
    pub workers: usize,
    /// Epochs between checkpoints.
    pub checkpoint_every: usize,
    /// Epochs between evaluations; 0 evaluates at the end only.
    pub eval_every: usize,
    /// Steps between two lines of metrics.
    pub log_every: usize,
    /// Batches whose gradients are averaged for one step of the optimiser.
    pub accumulate: usize,
    /// Decay of the moving average of the weights that is evaluated and saved; 0 keeps none.
    pub ema: f32,
    /// Evaluations without a better result before training ends; 0 trains all epochs.
    pub patience: usize,
    /// Keep the classifier of the weights that training starts from.
    pub keep_head: bool,
    /// Start from weights that have only a part of the backbone.
    pub init_partial: bool,
    /// The dictionary of weights in a file that has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_dict: Option<String>,
    /// Stop after that many steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
}

/// `[eval]`: features and predictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eval {
    /// Add the feature, or the prediction, of the mirrored image.
    pub flip: bool,
    pub batch: usize,
    /// Where the middle of images is taken: its share of the shorter side.
    pub crop_share: f32,
    pub rerank: Rerank,
    /// CSV files hold names as they are, even those that a spreadsheet would compute.
    pub raw_csv: bool,
    /// Re-ranking: neighbours that may be reciprocal.
    pub k1: usize,
    /// Re-ranking: neighbours that an encoding is averaged over.
    pub k2: usize,
    /// Re-ranking: share of the original distance.
    pub lambda: f32,
}

/// Whether results are re-ranked too, and whose numbers come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rerank {
    #[default]
    None,
    /// That of the network's publication: `ptl` for MGN networks, else `zhong`.
    Auto,
    Ptl,
    Zhong,
    Torchreid,
}

impl Config {
    /// The network's name, taken apart.
    ///
    /// # Errors
    /// There is no such network, or not for this task.
    pub fn arch(&self) -> crate::Result<Arch> {
        Arch::new(&self.model.arch, self.task)
    }

    /// Images in a training batch.
    pub fn batch(&self) -> usize {
        match self.task {
            TaskKind::Reid => self.sampler.ids * self.sampler.images,
            TaskKind::Classify => self.sampler.batch,
        }
    }

    /// What becomes of an image on its way to the network, in training and in evaluation.
    pub fn transform(&self) -> Transform {
        let Config { model, augment, .. } = self;
        Transform {
            height: model.height,
            width: model.image_width,
            upright: self.data.exif_orientation,
            interpolation: augment.interpolation,
            crop: augment.crop,
            crop_share: self.eval.crop_share,
            crop_scale: augment.crop_scale,
            crop_ratio: augment.crop_ratio,
        }
    }

    /// Loader threads: what the settings say, or two.
    pub fn workers(&self) -> usize {
        if self.train.workers == 0 { 2 } else { self.train.workers }
    }

    /// How the network is measured.
    pub fn eval_options(&self) -> EvalOptions {
        EvalOptions {
            transform: self.transform(),
            workers: self.workers(),
            flip: self.eval.flip,
            batch: self.eval.batch,
            eval_state: self.ptl.eval_state,
            seed: self.seed,
        }
    }

    /// How results are re-ranked, if they are.
    pub fn rerank_options(&self) -> Option<RerankOptions> {
        let variant = match self.eval.rerank {
            Rerank::None => return None,
            Rerank::Auto if self.model.arch.starts_with("mgn") => RerankVariant::Ptl,
            Rerank::Auto | Rerank::Zhong => RerankVariant::Zhong,
            Rerank::Ptl => RerankVariant::Ptl,
            Rerank::Torchreid => RerankVariant::Torchreid,
        };
        let Eval { k1, k2, lambda, .. } = self.eval;
        Some(RerankOptions { variant, k1, k2, lambda })
    }

    /// The network that these settings make, for so many classes or identities.
    ///
    /// # Errors
    /// As [`Config::arch`].
    pub fn network(&self, classes: usize) -> crate::Result<NetworkConfig> {
        let model = &self.model;
        Ok(NetworkConfig {
            arch: self.arch()?,
            stem: model.stem,
            width: model.width,
            last_stride: model.last_stride,
            embedding: model.embedding,
            pool: model.pool,
            cells: self.ptl.branch(),
            classes,
        })
    }

    /// What computes.
    pub fn device_options(&self) -> DeviceOptions {
        DeviceOptions { kind: self.device, precision: self.precision, vendor: self.gpu.vendor }
    }
}

impl Ptl {
    /// Where cells sit and how wide they are.
    pub fn branch(&self) -> PtlConfig {
        PtlConfig {
            stages: self.stages.clone(),
            cell_width: self.cell_width,
            cell_channels: self.cell_channels.clone(),
        }
    }
}

impl Eval {
    /// How cells of CSV files are written.
    pub fn cells(&self) -> Cells {
        if self.raw_csv { Cells::Raw } else { Cells::Guarded }
    }
}

impl Data {
    /// What loading needs beside folder and kind.
    pub fn options(&self) -> LoadOptions {
        LoadOptions { msmt17_val: self.msmt17_val, split: self.split, ..LoadOptions::default() }
    }
}

impl Optim {
    /// The update rule with what belongs to it.
    pub fn optimizer(&self) -> OptimConfig {
        let Optim { betas, eps, amsgrad, momentum, nesterov, .. } = *self;
        match self.kind {
            OptimKind::Adam => OptimConfig::Adam { betas, eps, amsgrad },
            OptimKind::AdamW => OptimConfig::AdamW { betas, eps, amsgrad },
            OptimKind::Sgd => OptimConfig::Sgd { momentum, nesterov },
        }
    }
}

impl Schedule {
    /// The schedule over steps (from 0), for epochs of `steps` batches. Milestones count epochs from 1, as in the published
    /// recipe: epoch e runs at lr · gamma^#{m ≤ e}.
    pub fn per_step(&self, steps: u64) -> schedule::Schedule {
        let warmup = (self.warmup_epochs > 0)
            .then_some(Warmup { iters: self.warmup_epochs * steps, start_factor: self.warmup_factor });
        let decay = match self.kind {
            ScheduleKind::Constant => Decay::Constant,
            ScheduleKind::Step => Decay::Step { step_size: self.step_size * steps, gamma: self.gamma },
            ScheduleKind::MultiStep => Decay::MultiStep {
                milestones: self.milestones.iter().map(|m| m.saturating_sub(1) * steps).collect(),
                gamma: self.gamma,
            },
            ScheduleKind::Cosine => Decay::Cosine {
                t_max: ((self.epochs as u64).saturating_sub(self.warmup_epochs) * steps).max(1),
                eta_min: self.min_lr,
            },
        };
        schedule::Schedule { warmup, decay }
    }
}
