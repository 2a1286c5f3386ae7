//! Defaults: the recipe of the baseline, section by section, and those of the other networks.

use std::path::PathBuf;

use super::{
    Augment, Config, DEFAULT_ARCH, Data, Eval, Gpu, Interpolation, Loss, Model, Optim, OptimKind, Ptl, Rerank, Sampler,
    Schedule, ScheduleKind, Train,
};
use crate::data::{DatasetKind, LoadOptions};
use crate::latent_state::{EvalState, StateInit, StatePolicy};
use crate::nn::{Arch, Family, Pool, PtlConfig};

impl Default for Model {
    fn default() -> Model {
        Model {
            arch: DEFAULT_ARCH.into(),
            width: 1.0,
            height: 256,
            image_width: 128,
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
        let PtlConfig { stages, cell_width } = PtlConfig::default();
        Ptl {
            stages,
            cell_width,
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
            skip_broken: false,
            cache_mb: 1024,
        }
    }
}

impl Default for Augment {
    fn default() -> Augment {
        Augment { flip: 0.5, pad: 0, random_erasing: 0.5, interpolation: Interpolation::Bicubic }
    }
}

impl Default for Sampler {
    fn default() -> Sampler {
        Sampler { ids: 4, images: 4, passes: 1 }
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
            max_steps: None,
        }
    }
}

impl Default for Eval {
    fn default() -> Eval {
        Eval { flip: true, batch: 64, rerank: Rerank::None, k1: 20, k2: 6, lambda: 0.3 }
    }
}

impl Config {
    /// The defaults of the network `arch`: for `mgn` and its relatives the published recipe (Yu et al., 2019, and their code).
    pub fn recipe(arch: &str) -> Config {
        let mut config = Config::default();
        config.model.arch = arch.into();
        if arch.parse().is_ok_and(|arch: Arch| arch.family == Family::Mgn) {
            (config.model.height, config.model.image_width) = (384, 128);
            config.model.pool = Pool::Max;
            config.schedule.epochs = 450;
            config.schedule.kind = ScheduleKind::MultiStep;
            config.schedule.milestones = vec![320, 360, 400];
            config.loss.triplet_margin = 1.2;
        }
        config
    }
}
