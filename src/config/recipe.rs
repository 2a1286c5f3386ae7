//! Defaults: the recipe of the baseline, section by section, and those of the other networks.

use std::path::PathBuf;

use super::{
    Config, DEFAULT_ARCH, Data, Eval, Gpu, Loss, Model, Optim, OptimKind, Ptl, Rerank, Sampler, Schedule, ScheduleKind,
    Train,
};
use crate::data::{Augment, Crop, DatasetKind, Interpolation, LoadOptions};
use crate::engine::latent_state::{EvalState, StateInit, StatePolicy};
use crate::nn::{Arch, Family, Pool, PtlConfig, StemKind, TaskKind};

impl Default for Model {
    fn default() -> Model {
        Model {
            arch: DEFAULT_ARCH.into(),
            width: 1.0,
            height: 256,
            image_width: 128,
            stem: StemKind::Imagenet,
            last_stride: 1,
            embedding: 0,
            pool: Pool::Avg,
        }
    }
}

impl Default for Gpu {
    fn default() -> Gpu {
        Gpu { vendor: true, graph: true }
    }
}

impl Default for Ptl {
    fn default() -> Ptl {
        let PtlConfig { stages, cell_width, cell_channels } = PtlConfig::default();
        Ptl {
            stages,
            cell_width,
            cell_channels,
            state_policy: StatePolicy::default(),
            eval_state: EvalState::default(),
            state_init: StateInit::default(),
        }
    }
}

impl Default for Data {
    fn default() -> Data {
        let LoadOptions { msmt17_val, split, .. } = LoadOptions::default();
        Data {
            root: PathBuf::new(),
            kind: DatasetKind::Auto,
            target: None,
            target_kind: DatasetKind::Auto,
            msmt17_val,
            split,
            val_share: 0.2,
            skip_broken: false,
            exif_orientation: true,
            cache_mb: 1024,
        }
    }
}

impl Default for Augment {
    fn default() -> Augment {
        Augment { flip: 0.5, random_erasing: 0.5, ..Augment::NONE }
    }
}

impl Default for Sampler {
    fn default() -> Sampler {
        Sampler { ids: 4, images: 4, passes: 1, batch: 64, balanced: false }
    }
}

impl Default for Optim {
    fn default() -> Optim {
        Optim {
            kind: OptimKind::Adam,
            lr: 2e-4,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 5e-4,
            amsgrad: true,
            momentum: 0.9,
            nesterov: false,
            clip_norm: 0.0,
            ptl_lr: 1.0,
            head_lr: 1.0,
            backbone_lr: 1.0,
            layer_decay: 1.0,
        }
    }
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule {
            epochs: 60,
            kind: ScheduleKind::Cosine,
            milestones: vec![40, 50],
            gamma: 0.1,
            step_size: 20,
            min_lr: 0.0,
            warmup_epochs: 0,
            warmup_factor: 0.1,
        }
    }
}

impl Default for Loss {
    fn default() -> Loss {
        Loss { label_smoothing: 0.0, triplet_margin: 0.3, triplet_weight: 1.0, ce_weight: 1.0 }
    }
}

impl Default for Train {
    fn default() -> Train {
        Train {
            freeze_backbone: false,
            freeze_bn: false,
            workers: 0,
            checkpoint_every: 10,
            eval_every: 0,
            log_every: 10,
            accumulate: 1,
            ema: 0.0,
            patience: 0,
            keep_head: false,
            init_partial: false,
            weights_dict: None,
            max_steps: None,
        }
    }
}

impl Default for Eval {
    fn default() -> Eval {
        Eval {
            flip: true,
            batch: 64,
            crop_share: 0.875,
            rerank: Rerank::None,
            raw_csv: false,
            k1: 20,
            k2: 6,
            lambda: 0.3,
        }
    }
}

impl Config {
    /// The defaults of the network `arch` for `task`: for `mgn` and its relatives the published recipe (Yu et al., 2019, and
    /// their code).
    pub fn recipe(task: TaskKind, arch: &str) -> Config {
        let mut config = Config { task, ..Config::default() };
        config.model.arch = arch.into();
        match (Arch::new(arch, task).map(|arch| arch.family), task) {
            (Ok(Family::Mgn), _) => published(&mut config),
            (_, TaskKind::Classify) => classification(&mut config),
            _ => {}
        }
        if Arch::new(arch, task).is_ok_and(|arch| arch.backbone.for_small_images()) {
            config.for_small_images();
            config.ptl.stages = vec![1, 2, 3];
        }
        config
    }

    /// Images of 32 pixels, whose objects fill them.
    pub(super) fn for_small_images(&mut self) {
        (self.model.height, self.model.image_width) = (32, 32);
        self.model.stem = StemKind::Cifar;
        self.model.last_stride = 2;
        self.augment.crop = Crop::Squeeze;
        self.augment.pad = 4;
    }
}

fn published(config: &mut Config) {
    (config.model.height, config.model.image_width) = (384, 128);
    config.model.pool = Pool::Max;
    config.schedule.epochs = 450;
    config.schedule.kind = ScheduleKind::MultiStep;
    config.schedule.milestones = vec![320, 360, 400];
    config.loss.triplet_margin = 1.2;
    config.data.exif_orientation = false;
}

/// Fine-tuning of a classifier that was trained on ImageNet.
fn classification(config: &mut Config) {
    (config.model.height, config.model.image_width) = (224, 224);
    config.model.last_stride = 2;
    let augment = &mut config.augment;
    augment.crop = Crop::RandomResized;
    augment.random_erasing = 0.0;
    augment.interpolation = Interpolation::Bilinear;
    config.optim.kind = OptimKind::Sgd;
    config.optim.lr = 0.01;
    config.optim.weight_decay = 1e-4;
    config.optim.amsgrad = false;
    config.schedule.epochs = 30;
    config.schedule.warmup_epochs = 1;
    config.loss.label_smoothing = 0.1;
    config.train.eval_every = 1;
    config.eval.flip = false;
}
