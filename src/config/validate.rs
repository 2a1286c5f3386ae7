//! Settings that cannot work, refused before any long work starts.

use super::{Config, OptimKind, ScheduleKind, TaskKind};
use crate::base::text::Shown;
use crate::eval::rerank::{RerankOptions, RerankVariant};
use crate::nn::{self, Family, Pool, StemKind};
use crate::{Error, Result};

/// Epochs of a run, at most: what is counted in steps must not overflow.
const MOST_EPOCHS: u64 = 1_000_000;

impl Config {
    /// Refuses values that cannot work, whatever the data.
    ///
    /// # Errors
    /// [`Error::Setting`] names the first one.
    pub fn validate(&self) -> Result<()> {
        self.validate_network()?;
        self.validate_batches()?;
        self.validate_training()?;
        // Those without an effect are not looked at above, and would have one as soon as another setting changes.
        let settings = || "configuration".to_string();
        let no_toml = |reason| Error::Setting { setting: settings(), value: settings(), reason };
        match self.not_finite().map_err(no_toml)? {
            None => Ok(()),
            Some(setting) => check(setting.path, self.shown(setting), false, "write a finite number"),
        }
    }

    /// Refuses a warm-up that lasts as long as the whole training, whose rate then never gets to be the one that was asked for. Runs of
    /// earlier versions may have one.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub(super) fn check_warmup(&self) -> Result<()> {
        let s = &self.schedule;
        let shorter =
            format!("the training ends after epoch {}: choose fewer --warmup-epochs or more --epochs", s.epochs);
        check("schedule.warmup_epochs", s.warmup_epochs, s.warmup_epochs < s.epochs as u64, &shorter)
    }

    fn validate_network(&self) -> Result<()> {
        let m = &self.model;
        let arch = self.arch()?;
        check("model.width", m.width, (0.02..=16.0).contains(&m.width), "choose from 0.02 to 16")?;
        for (setting, pixels) in [("model.height", m.height), ("model.image_width", m.image_width)] {
            check(setting, pixels, (16..=4096).contains(&pixels), "choose from 16 to 4096 pixels")?;
        }
        check("model.last_stride", m.last_stride, matches!(m.last_stride, 1 | 2), "choose 1 or 2")?;
        nn::check_image_size(arch, [m.height, m.image_width], m.stem, m.last_stride)?;
        check("model.embedding", m.embedding, m.embedding <= 1 << 16, "choose at most 65536")?;
        let classifier = arch.family == Family::Classifier;
        let target = self.data.target.as_deref().unwrap_or(std::path::Path::new(""));
        check(
            "data.target",
            target.shown(),
            !classifier || self.data.target.is_none(),
            "classes are measured on the validation images of --data: leave it out",
        )?;
        check("model.embedding", m.embedding, !classifier || m.embedding == 0, "a classifier has none")?;
        let small = arch.backbone.for_small_images();
        check("model.stem", "imagenet", !small || m.stem == StemKind::Cifar, "cifar-* take small images: cifar")?;
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
            "name from 1 to 16384 channels for each of --ptl-stages (mgn: --cell-width only)",
        )?;
        if arch.family == Family::Mgn {
            check("model.pool", "avg", m.pool == Pool::Max, "mgn pools by maximum")?;
            check("model.stem", "cifar", m.stem == StemKind::Imagenet, "mgn has that of ImageNet's networks")?;
            check(
                "model.last_stride",
                m.last_stride,
                m.last_stride == 1,
                "mgn has 2 in its first branch and 1 in the others",
            )?;
            check(
                "ptl.stages",
                format!("{stages:?}"),
                *stages == [1, 2, 3, 4],
                "mgn-ptl has cells beside all of them",
            )?;
        }
        let width = self.ptl.cell_width;
        check("ptl.cell_width", width, width > 0.0 && width <= 16.0, "choose more than 0 and at most 16")
    }

    fn validate_batches(&self) -> Result<()> {
        let a = &self.augment;
        for (setting, p) in [("augment.flip", a.flip), ("augment.random_erasing", a.random_erasing)] {
            check(setting, p, (0.0..=1.0).contains(&p), "a probability lies between 0 and 1")?;
        }
        let side = self.model.height.min(self.model.image_width);
        check("augment.pad", a.pad, a.pad < side, "choose less than the shorter side of the input")?;
        let between = |[low, high]: [f32; 2], least: f32, most: f32| least < low && low <= high && high <= most;
        let scale = format!("{:?}", a.crop_scale);
        check("augment.crop_scale", scale, between(a.crop_scale, 0.0, 1.0), "two shares, the smaller first")?;
        let ratio = format!("{:?}", a.crop_ratio);
        check("augment.crop_ratio", ratio, between(a.crop_ratio, 0.0, 100.0), "two numbers, the smaller first")?;
        for (setting, x) in [
            ("augment.brightness", a.brightness),
            ("augment.contrast", a.contrast),
            ("augment.saturation", a.saturation),
        ] {
            check(setting, x, (0.0..=1.0).contains(&x), "choose from 0 to 1")?;
        }
        check("augment.hue", a.hue, (0.0..=0.5).contains(&a.hue), "choose from 0 to 0.5")?;
        check("augment.rand_ops", a.rand_ops, a.rand_ops <= 14, "choose at most 14")?;
        check("augment.rand_magnitude", a.rand_magnitude, a.rand_magnitude <= 30, "choose at most 30")?;
        for (setting, alpha) in [("augment.mixup", a.mixup), ("augment.cutmix", a.cutmix)] {
            check(setting, alpha, (0.0..=100.0).contains(&alpha), "choose from 0 to 100")?;
            check(setting, alpha, alpha == 0.0 || self.task == TaskKind::Classify, "identities are not mixed")?;
        }
        let share = self.eval.crop_share;
        check("eval.crop_share", share, share > 0.0 && share <= 1.0, "choose more than 0 and at most 1")?;
        let s = &self.sampler;
        check("sampler.batch", s.batch, (2..=1 << 16).contains(&s.batch), "choose from 2 to 65536")?;
        let share = self.data.val_share;
        check("data.val_share", share, share > 0.0 && share < 1.0, "choose more than 0 and less than 1")?;
        check(
            "sampler.ids",
            s.ids,
            (2..=4096).contains(&s.ids),
            "choose from 2 to 4096 identities (a triplet needs two)",
        )?;
        check(
            "sampler.images",
            s.images,
            (2..=4096).contains(&s.images),
            "a triplet needs 2 images or more (at most 4096)",
        )?;
        let together = s.ids.saturating_mul(s.images);
        check("sampler.ids x sampler.images", together, together <= 1 << 16, "choose at most 65536 images in a batch")?;
        check("sampler.passes", s.passes, (1..=1 << 16).contains(&s.passes), "choose from 1 to 65536")?;
        check("eval.batch", self.eval.batch, (1..=65536).contains(&self.eval.batch), "choose from 1 to 65536")?;
        let e = &self.eval;
        RerankOptions { k1: e.k1, k2: e.k2, lambda: e.lambda, ..RerankOptions::new(RerankVariant::Ptl) }.validate()?;
        check("threads", self.threads, self.threads <= 1024, "choose at most 1024, or 0 for all cores")?;
        check("train.workers", self.train.workers, self.train.workers <= 1024, "choose at most 1024, or 0")
    }

    fn validate_training(&self) -> Result<()> {
        let o = &self.optim;
        o.optimizer().validate()?;
        check("optim.lr", o.lr, o.lr.is_finite() && o.lr > 0.0, "choose a number greater than 0")?;
        let factors = [
            ("optim.weight_decay", o.weight_decay),
            ("optim.clip_norm", o.clip_norm),
            ("optim.ptl_lr", o.ptl_lr),
            ("optim.head_lr", o.head_lr),
            ("optim.backbone_lr", o.backbone_lr),
            ("loss.triplet_margin", self.loss.triplet_margin),
            ("loss.triplet_weight", self.loss.triplet_weight),
            ("loss.ce_weight", self.loss.ce_weight),
        ];
        for (setting, x) in factors {
            check(setting, x, x.is_finite() && x >= 0.0, "choose a number of at least 0")?;
        }
        let decay = o.layer_decay;
        check("optim.layer_decay", decay, decay > 0.0 && decay <= 1.0, "choose more than 0 and at most 1")?;
        let ce = self.loss.ce_weight;
        check("loss.ce_weight", ce, ce > 0.0 || self.task == TaskKind::Reid, "nothing else trains a classifier")?;
        let weights = [self.loss.ce_weight, self.loss.triplet_weight];
        check("loss.ce_weight", 0, weights != [0.0, 0.0], "the triplet loss has weight 0 too, so nothing would train")?;
        let smoothing = self.loss.label_smoothing;
        check("loss.label_smoothing", smoothing, (0.0..1.0).contains(&smoothing), "choose from 0 to below 1")?;
        let decoupled = o.kind == OptimKind::AdamW && o.lr * f64::from(o.weight_decay) >= 1.0;
        check("optim.weight_decay", o.weight_decay, !decoupled, "lr times this must stay below 1 with AdamW")?;

        let s = &self.schedule;
        let epochs = 1..=MOST_EPOCHS;
        check("schedule.epochs", s.epochs, epochs.contains(&(s.epochs as u64)), "choose from 1 to 1000000")?;
        let warmup = s.warmup_epochs;
        check("schedule.warmup_epochs", warmup, warmup <= MOST_EPOCHS, "choose at most 1000000")?;
        let factor = |x: f64| x > 0.0 && x <= 1.0;
        check("schedule.gamma", s.gamma, factor(s.gamma), "choose more than 0 and at most 1")?;
        check("schedule.warmup_factor", s.warmup_factor, factor(s.warmup_factor), "choose more than 0 and at most 1")?;
        check("schedule.step_size", s.step_size, epochs.contains(&s.step_size), "choose from 1 to 1000000")?;
        check("schedule.min_lr", s.min_lr, s.min_lr >= 0.0 && s.min_lr <= o.lr, "choose from 0 to the learning rate")?;
        check(
            "schedule.milestones",
            format!("{:?}", s.milestones),
            s.kind != ScheduleKind::MultiStep || s.milestones.iter().all(|m| epochs.contains(m)),
            "epochs count from 1, up to 1000000",
        )?;
        let every = self.train.checkpoint_every;
        check("train.checkpoint_every", every, every >= 1, "choose at least 1")?;
        check("train.log_every", self.train.log_every, self.train.log_every >= 1, "choose at least 1")?;
        let t = &self.train;
        check("train.accumulate", t.accumulate, (1..=4096).contains(&t.accumulate), "choose from 1 to 4096")?;
        check("train.ema", t.ema, (0.0..1.0).contains(&t.ema), "choose from 0 to below 1")?;
        let evaluates = t.patience == 0 || t.eval_every > 0;
        check("train.patience", t.patience, evaluates, "it counts evaluations: set --eval-every too")?;
        check("train.max_steps", 0, self.train.max_steps != Some(0), "choose at least 1")
    }
}

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
    fn what_does_not_go_with_a_task_or_a_network_is_named() {
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
        assert!(mixed.validate().unwrap_err().to_string().contains("identities are not mixed"));
        let mut mgn = Config::recipe(TaskKind::Reid, "mgn-ptl");
        mgn.model.stem = StemKind::Cifar;
        assert!(mgn.validate().unwrap_err().to_string().starts_with("model.stem = cifar"));
    }

    /// Yu et al. (2019): epochs count from 1, the rate drops at the start of 320, 360 and 400.
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
            ("sampler.ids", |c| c.sampler.ids = 1),
            ("sampler.images", |c| c.sampler.images = 1),
            ("sampler.passes", |c| c.sampler.passes = 0),
            ("sampler.passes", |c| c.sampler.passes = usize::MAX),
            ("sampler.ids x sampler.images", |c| (c.sampler.ids, c.sampler.images) = (4096, 17)),
            ("schedule.epochs", |c| c.schedule.epochs = usize::MAX),
            ("schedule.warmup_epochs", |c| c.schedule.warmup_epochs = u64::MAX),
            ("schedule.step_size", |c| c.schedule.step_size = u64::MAX),
            ("eval.batch", |c| c.eval.batch = 0),
            // Without an effect on this kind of optimiser and schedule.
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
        let config =
            Config { model: super::super::Model { arch: "vgg".into(), ..Default::default() }, ..Config::default() };
        assert!(config.validate().unwrap_err().to_string().contains("vgg"));
    }

    /// The published recipe: epoch e, counted from 1, runs at lr · 0.1^#{m ≤ e}.
    #[test]
    fn milestones_count_epochs_from_one() {
        let mut config = Config::default();
        config.schedule.kind = ScheduleKind::MultiStep;
        config.schedule.milestones = vec![3, 5];
        let schedule = config.schedule.per_step(2);
        let rates: Vec<f64> = (0..10).map(|step| schedule.lr(1.0, step)).collect();
        for (got, want) in rates.iter().zip([1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]) {
            assert!((got - want).abs() < 1e-12, "{rates:?}");
        }
    }
}
