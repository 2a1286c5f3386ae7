//! Checks settings before any long work starts.

use toml::Value;

use super::{ClassWeights, Config};
use crate::base::settings::Bounds;
use crate::base::text::Shown;
use crate::engine::latent_state::StateForm;
use crate::engine::optim::OptimKind;
use crate::engine::schedule::{MOST_EPOCHS, ScheduleKind};
use crate::eval::rerank::{RerankOptions, RerankVariant};
use crate::nn::{self, BranchBlock, Family, HeadKind, Pool, StemKind, TaskKind};
use crate::{Error, Result};

impl Config {
    /// Refuses values that cannot work with any data.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first such value.
    pub fn validate(&self) -> Result<()> {
        self.validate_bounds()?;
        self.validate_network()?;
        self.validate_batches()?;
        self.validate_training()
    }

    /// Refuses numbers that are not finite or beyond the limits of their declaration.
    fn validate_bounds(&self) -> Result<()> {
        let too_large = |reason| Error::Setting { setting: "configuration".into(), value: "(given)".into(), reason };
        let table = self.to_table().map_err(too_large)?;
        for setting in Config::settings() {
            let value = setting.value_in(&table);
            let holds = value.is_none_or(|value| setting.bounds.hold(value));
            let shown = match value {
                // `0`, which TOML writes as `0.0`.
                Some(Value::Float(number)) => number.to_string(),
                other => other.map_or_else(String::new, Value::to_string),
            };
            let is_finite = value.and_then(Value::as_float).is_none_or(f64::is_finite);
            let advice = if is_finite { setting.bounds.to_string() } else { Bounds::NONE.to_string() };
            check(setting.path, shown, holds, &advice)?;
        }
        Ok(())
    }

    /// Refuses a warm-up as long as the whole training: the learning rate would never reach its value. Runs of earlier versions may
    /// have such a warm-up.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub(super) fn check_warmup(&self) -> Result<()> {
        let s = &self.schedule;
        let shorter = format!(
            "the training ends after epoch {}: choose fewer `schedule.warmup_epochs` or more `schedule.epochs`",
            s.epochs
        );
        check("schedule.warmup_epochs", s.warmup_epochs, s.warmup_epochs < s.epochs as u64, &shorter)
    }

    fn validate_network(&self) -> Result<()> {
        let m = &self.model;
        let arch = self.arch()?;
        nn::check_image_size(arch, [m.height, m.image_width], m.stem, m.last_stride)?;
        let classifier = arch.family == Family::Classifier;
        let target = self.data.target.as_deref().unwrap_or(std::path::Path::new(""));
        check(
            "data.target",
            target.shown(),
            !classifier || self.data.target.is_none(),
            "a classifier is measured on the validation images of `data.root`: leave it out",
        )?;
        check("model.embedding", m.embedding, !classifier || m.embedding == 0, "a classifier has no embedding")?;
        let small = arch.backbone.for_small_images();
        check("model.stem", m.stem, !small || m.stem == StemKind::Cifar, "cifar-* requires `model.stem` cifar")?;
        let (stages, last) = (&self.ptl.stages, arch.backbone.stages());
        let ascending = !stages.is_empty() && stages.is_sorted_by(|a, b| a < b);
        check(
            "ptl.stages",
            format!("{stages:?}"),
            ascending && stages.iter().all(|s| (1..=last).contains(s)),
            &format!("name one or more of the stages 1 to {last} in ascending order (or take an arch without -ptl)"),
        )?;
        let cells = &self.ptl.cell_channels;
        let one_each = cells.len() == stages.len() && cells.iter().all(|c| (1..=1 << 14).contains(c));
        check(
            "ptl.cell_channels",
            format!("{cells:?}"),
            cells.is_empty() || (one_each && arch.family != Family::Mgn),
            "name from 1 to 16384 channels for each of `ptl.stages` (mgn: `ptl.cell_width` only)",
        )?;
        if arch.family == Family::Mgn {
            check("model.pool", m.pool, m.pool == Pool::Max, "mgn pools by maximum")?;
            check("model.stem", m.stem, m.stem == StemKind::Imagenet, "mgn requires `model.stem` imagenet")?;
            check(
                "model.last_stride",
                m.last_stride,
                m.last_stride == 1,
                "mgn has stride 2 in its first branch and 1 in the others",
            )?;
            check(
                "ptl.stages",
                format!("{stages:?}"),
                *stages == [1, 2, 3, 4],
                "mgn-ptl has cells at all four stages",
            )?;
            check("ptl.block", self.ptl.block, self.ptl.block == BranchBlock::BConv, "mgn-ptl has BConv-Cells")?;
        }
        Ok(())
    }

    fn validate_batches(&self) -> Result<()> {
        let a = &self.augment;
        let side = self.model.height.min(self.model.image_width);
        check("augment.pad", a.pad, a.pad < side, "choose less than the shorter side of the input")?;
        for (setting, range) in [("augment.crop_scale", a.crop_scale), ("augment.crop_ratio", a.crop_ratio)] {
            check(setting, format!("{range:?}"), range[0] <= range[1], "write the smaller number first")?;
        }
        for (setting, alpha) in [("augment.mixup", a.mixup), ("augment.cutmix", a.cutmix)] {
            let holds = alpha == 0.0 || self.task == TaskKind::Classify;
            check(setting, alpha, holds, "mixup and CutMix need `task` classify")?;
        }
        let s = &self.sampler;
        let together = s.ids.saturating_mul(s.images);
        check("sampler.ids x sampler.images", together, together <= 1 << 16, "choose at most 65536 images in a batch")?;
        let p = &self.ptl;
        let divides = self.batch().is_multiple_of(p.state_steps);
        let reason = format!("a batch has {} images: choose a number that divides it", self.batch());
        check("ptl.state_steps", p.state_steps, divides, &reason)?;
        let slots = p.state_steps == 1 || p.state_form == StateForm::Slots;
        check(
            "ptl.state_steps",
            p.state_steps,
            slots,
            "only `ptl.state_form` slots has steps within a batch: leave one of the two out",
        )?;
        let e = &self.eval;
        RerankOptions { k1: e.k1, k2: e.k2, lambda: e.lambda, ..RerankOptions::new(RerankVariant::Ptl) }.validate()
    }

    fn validate_training(&self) -> Result<()> {
        let o = &self.optim;
        o.rule().validate()?;
        let ce = self.loss.ce_weight;
        check("loss.ce_weight", ce, ce > 0.0 || self.task == TaskKind::Reid, "a classifier has no other loss")?;
        let weights = [self.loss.ce_weight, self.loss.triplet_weight];
        check("loss.ce_weight", 0, weights != [0.0, 0.0], "the triplet loss has weight 0 too, so nothing would train")?;
        self.validate_cross_entropy()?;
        let (memory, batch) = (self.loss.memory, self.batch());
        let holds = memory == 0 || memory >= batch || self.task == TaskKind::Classify;
        check("loss.memory", memory, holds, &format!("choose 0, or at least the {batch} images of a batch"))?;
        let decoupled = o.kind == OptimKind::AdamW && o.lr * f64::from(o.weight_decay) >= 1.0;
        check("optim.weight_decay", o.weight_decay, !decoupled, "lr times this must stay below 1 with AdamW")?;
        let s = &self.schedule;
        check("schedule.min_lr", s.min_lr, s.min_lr <= o.lr, "choose at most the learning rate")?;
        let possible = |m: &u64| (1..=MOST_EPOCHS as u64).contains(m);
        check(
            "schedule.milestones",
            format!("{:?}", s.milestones),
            s.kind != ScheduleKind::MultiStep || s.milestones.iter().all(possible),
            "epochs count from 1, up to 1000000",
        )?;
        let t = &self.train;
        let evaluates = t.patience == 0 || t.eval_every > 0;
        check("train.patience", t.patience, evaluates, "it counts evaluations: set `train.eval_every` too")
    }

    /// Refuses parts of the cross-entropy that exclude each other.
    fn validate_cross_entropy(&self) -> Result<()> {
        let l = &self.loss;
        let mixed = "a mixed image has no single label: leave it out, or `augment.mixup` and `augment.cutmix`";
        let single = !self.mixes();
        check("loss.class_weights", l.class_weights, single || l.class_weights == ClassWeights::None, mixed)?;
        check("loss.focal_gamma", l.focal_gamma, single || l.focal_gamma == 0.0, mixed)?;
        check("model.head", self.model.head, single || self.model.head == HeadKind::Linear, mixed)?;
        let smoothed = l.focal_gamma > 0.0 && l.label_smoothing > 0.0;
        let reason =
            format!("the focal loss has no label smoothing: set `loss.label_smoothing` ({}) to 0", l.label_smoothing);
        check("loss.focal_gamma", l.focal_gamma, !smoothed, &reason)
    }
}

/// Refuses the value of `setting` with `reason`, unless `holds`.
fn check(setting: &str, value: impl ToString, holds: bool, reason: &str) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Setting { setting: setting.into(), value: value.to_string(), reason: reason.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Arch;

    #[test]
    fn recipes_work() {
        assert_eq!(Config::recipe(TaskKind::Reid, "resnet50-ptl"), Config::default());
        for arch in Arch::NAMES {
            Config::recipe(TaskKind::Reid, arch).validate().unwrap();
            let classifier = Config::recipe(TaskKind::Classify, arch).validate();
            assert_eq!(classifier.is_ok(), !arch.starts_with("mgn"), "{arch}");
        }
    }

    #[test]
    fn settings_that_do_not_fit_task_or_network_are_named() {
        type Change = fn(&mut Config);
        let cases: &[(&str, &str, Change)] = &[
            ("model.embedding", "resnet18", |c| c.model.embedding = 64),
            ("model.stem", "cifar-resnet20", |c| c.model.stem = StemKind::Imagenet),
            ("ptl.stages", "cifar-resnet20-ptl", |c| c.ptl.stages = vec![4]),
            ("ptl.cell_channels", "resnet18-ptl", |c| c.ptl.cell_channels = vec![8, 8]),
            ("ptl.cell_channels", "resnet18-ptl", |c| c.ptl.cell_channels = vec![8, 8, 8, 0]),
            ("data.target", "resnet18", |c| c.data.target = Some("other".into())),
            ("data.val_share", "resnet18", |c| c.data.val_share = 1.0),
            ("augment.crop_scale", "resnet18", |c| c.augment.crop_scale = [0.5, 0.2]),
            ("augment.crop_ratio", "resnet18", |c| c.augment.crop_ratio = [0.0, 1.0]),
            ("augment.brightness", "resnet18", |c| c.augment.brightness = 1.5),
            ("augment.hue", "resnet18", |c| c.augment.hue = 0.6),
            ("augment.rand_ops", "resnet18", |c| c.augment.rand_ops = 15),
            ("augment.rand_magnitude", "resnet18", |c| c.augment.rand_magnitude = 31),
            ("augment.mixup", "resnet18", |c| c.augment.mixup = -0.2),
            ("augment.cutmix", "resnet18", |c| c.augment.cutmix = f32::NAN),
            ("eval.crop_share", "resnet18", |c| c.eval.crop_share = 0.0),
            ("sampler.batch", "resnet18", |c| c.sampler.batch = 1),
            ("optim.backbone_lr", "resnet18", |c| c.optim.backbone_lr = -1.0),
            ("optim.layer_decay", "resnet18", |c| c.optim.layer_decay = 0.0),
            ("loss.ce_weight", "resnet18", |c| c.loss.ce_weight = 0.0),
            ("train.accumulate", "resnet18", |c| c.train.accumulate = 0),
            ("train.ema", "resnet18", |c| c.train.ema = 1.0),
            ("loss.focal_gamma", "resnet18", |c| c.loss.focal_gamma = 2.0),
            ("loss.focal_gamma", "resnet18", |c| {
                (c.loss.focal_gamma, c.loss.label_smoothing, c.augment.mixup) = (2.0, 0.0, 0.2);
            }),
            ("model.head", "resnet18", |c| (c.model.head, c.augment.mixup) = (HeadKind::ArcFace, 0.2)),
            ("loss.class_weights", "resnet18", |c| {
                (c.loss.class_weights, c.augment.cutmix) = (ClassWeights::Inverse, 0.2);
            }),
            ("train.patience", "resnet18", |c| (c.train.patience, c.train.eval_every) = (3, 0)),
        ];
        for (setting, arch, change) in cases {
            let mut config = Config::recipe(TaskKind::Classify, arch);
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{setting} = ")), "{setting}: {error}");
        }
        let mut mixed = Config::default();
        mixed.augment.mixup = 0.2;
        assert!(mixed.validate().unwrap_err().to_string().contains("need `task` classify"));
        let mut mgn = Config::recipe(TaskKind::Reid, "mgn-ptl");
        mgn.model.stem = StemKind::Cifar;
        assert!(mgn.validate().unwrap_err().to_string().starts_with("model.stem = cifar"));
        let mut mgn = Config::recipe(TaskKind::Reid, "mgn-ptl");
        mgn.ptl.block = BranchBlock::Residual;
        assert!(mgn.validate().unwrap_err().to_string().starts_with("ptl.block = residual"));
    }

    /// Checks the recipe of Yu et al. (2019): epochs count from 1, and the rate drops at the start of 320, 360 and 400.
    #[test]
    fn the_published_recipe() {
        let config = Config::recipe(TaskKind::Reid, "mgn-ptl");
        let schedule = config.schedule.per_step(187);
        let rate = |epoch: u64| schedule.lr(config.optim.lr, (epoch - 1) * 187);
        for (epoch, want) in [(1, 2e-4), (319, 2e-4), (320, 2e-5), (359, 2e-5), (360, 2e-6), (400, 2e-7), (450, 2e-7)] {
            assert!((rate(epoch) / want - 1.0).abs() < 1e-9, "epoch {epoch}: {}", rate(epoch));
        }
        let (o, s) = (&config.optim, &config.sampler);
        assert_eq!((o.kind, o.amsgrad, o.weight_decay, o.betas), (OptimKind::Adam, true, 5e-4, [0.9, 0.999]));
        assert_eq!((s.ids, s.images, s.passes, config.schedule.epochs), (4, 4, 1, 450));
        assert_eq!((config.loss.triplet_margin, config.loss.label_smoothing), (1.2, 0.0));
        assert_eq!((config.augment.flip, config.augment.random_erasing, config.augment.pad), (0.5, 0.5, 0));
    }

    #[test]
    fn impossible_values_are_named() {
        type Change = fn(&mut Config);
        let cases: &[(&str, Change)] = &[
            ("model.width", |c| c.model.width = 0.0),
            ("model.width", |c| c.model.width = f32::NAN),
            ("model.height", |c| c.model.height = 0),
            ("model.image_width", |c| c.model.image_width = 100_000),
            ("model.last_stride", |c| c.model.last_stride = 3),
            ("ptl.stages", |c| c.ptl.stages = vec![]),
            ("ptl.stages", |c| c.ptl.stages = vec![2, 2]),
            ("ptl.stages", |c| c.ptl.stages = vec![5]),
            ("ptl.cell_width", |c| c.ptl.cell_width = -1.0),
            ("augment.flip", |c| c.augment.flip = 1.5),
            ("augment.random_erasing", |c| c.augment.random_erasing = f32::NAN),
            ("augment.pad", |c| c.augment.pad = 128),
            ("ptl.state_steps", |c| c.ptl.state_steps = 0),
            ("ptl.state_steps", |c| c.ptl.state_steps = 3),
            ("ptl.state_steps", |c| (c.ptl.state_steps, c.ptl.state_form) = (2, StateForm::Mean)),
            ("sampler.ids", |c| c.sampler.ids = 1),
            ("sampler.images", |c| c.sampler.images = 1),
            ("sampler.passes", |c| c.sampler.passes = 0),
            ("sampler.passes", |c| c.sampler.passes = i64::MAX as usize),
            ("sampler.ids x sampler.images", |c| (c.sampler.ids, c.sampler.images) = (4096, 17)),
            ("schedule.epochs", |c| c.schedule.epochs = i64::MAX as usize),
            ("schedule.warmup_epochs", |c| c.schedule.warmup_epochs = i64::MAX as u64),
            ("schedule.step_size", |c| c.schedule.step_size = i64::MAX as u64),
            ("eval.batch", |c| c.eval.batch = 0),
            // Refused although they have no effect on this optimiser and schedule.
            ("optim.momentum", |c| c.optim.momentum = f64::NAN),
            ("schedule.gamma", |c| c.schedule.gamma = f64::INFINITY),
            ("configuration", |c| c.seed = u64::MAX),
            ("threads", |c| c.threads = 5000),
            ("eval.k1", |c| c.eval.k1 = 0),
            ("eval.lambda", |c| c.eval.lambda = 1.5),
            ("optim.lr", |c| c.optim.lr = -1.0),
            ("optim.lr", |c| c.optim.lr = f64::INFINITY),
            ("optim.betas", |c| c.optim.betas = [0.9, 1.0]),
            ("optim.eps", |c| c.optim.eps = 0.0),
            ("optim.weight_decay", |c| c.optim.weight_decay = -1e-3),
            ("optim.weight_decay", |c| {
                c.optim.kind = OptimKind::AdamW;
                c.optim.lr = 10.0;
                c.optim.weight_decay = 0.5;
            }),
            ("optim.ptl_lr", |c| c.optim.ptl_lr = f32::NAN),
            ("loss.triplet_margin", |c| c.loss.triplet_margin = -0.1),
            ("loss.ce_weight", |c| (c.loss.ce_weight, c.loss.triplet_weight) = (0.0, 0.0)),
            ("loss.label_smoothing", |c| c.loss.label_smoothing = 1.0),
            ("loss.memory", |c| (c.loss.memory, c.sampler.ids, c.sampler.images) = (15, 4, 4)),
            ("loss.memory", |c| c.loss.memory = 1 << 17),
            ("loss.focal_gamma", |c| (c.loss.focal_gamma, c.loss.label_smoothing) = (2.0, 0.1)),
            ("loss.class_beta", |c| c.loss.class_beta = 1.0),
            ("schedule.epochs", |c| c.schedule.epochs = 0),
            ("schedule.gamma", |c| c.schedule.gamma = 0.0),
            ("schedule.min_lr", |c| c.schedule.min_lr = 1.0),
            ("schedule.milestones", |c| {
                c.schedule.kind = ScheduleKind::MultiStep;
                c.schedule.milestones = vec![0, 3];
            }),
            ("train.log_every", |c| c.train.log_every = 0),
            ("train.max_steps", |c| c.train.max_steps = Some(0)),
        ];
        for (setting, change) in cases {
            let mut config = Config::default();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{setting} = ")), "{setting}: {error}");
        }
        for (setting, change) in [
            ("model.height x model.image_width", (|c| c.model.height = 256) as Change),
            ("model.pool", |c| c.model.pool = Pool::Avg),
            ("model.last_stride", |c| c.model.last_stride = 2),
            ("ptl.stages", |c| c.ptl.stages = vec![3, 4]),
        ] {
            let mut config = Config::recipe(TaskKind::Reid, "mgn-ptl");
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{setting} = ")), "{setting}: {error}");
        }
        let mut config = Config::default();
        config.model.arch = "vgg".into();
        assert!(config.validate().unwrap_err().to_string().contains("vgg"));
    }
}
