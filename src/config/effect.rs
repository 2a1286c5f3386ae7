//! Which settings can change anything, beside the others that were chosen: a flag that cannot is refused.
//!
//! Files of settings may hold them all the same: one file serves several commands, networks and tasks, and a run's own
//! config.toml names every setting.

use toml::Value;

use super::{Config, OptimKind, Overrides, Rerank, ScheduleKind, Setting, TaskKind};
use crate::data::DatasetKind;
use crate::engine::device::DeviceKind;
use crate::{Error, Result};

/// What else a setting needs to have an effect.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    holds: fn(&Chosen<'_>) -> bool,
    /// Goes on after "it has no effect", with the way out.
    otherwise: &'static str,
}

/// What was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The effective settings.
    pub config: &'a Config,
    /// Whether the weights come from a file.
    pub init: bool,
}

const fn need(holds: fn(&Chosen<'_>) -> bool, otherwise: &'static str) -> Need {
    Need { holds, otherwise }
}

pub(super) const REID: Need = need(|c| c.config.task == TaskKind::Reid, "with --task classify: leave it out");
pub(super) const CLASSES: Need =
    need(|c| c.config.task == TaskKind::Classify, "with --task reid: leave it out, or add --task classify");
pub(super) const CELLS: Need = need(
    |c| c.config.model.arch.ends_with("-ptl"),
    "in a network without BConv-Cells: leave it out, or name an --arch that ends in -ptl",
);
pub(super) const GPU: Need = need(|c| c.config.device != DeviceKind::Cpu, "with --device cpu: leave it out");
pub(super) const CELL_WIDTHS: Need =
    need(|c| c.config.ptl.cell_channels.is_empty(), "beside --cell-channels: leave one of the two out");
pub(super) const TARGET: Need =
    need(|c| c.config.data.target.is_some(), "without --target: name that data set, or leave it out");
pub(super) const MSMT17: Need = need(
    |c| [c.config.data.kind, c.config.data.target_kind].iter().any(|kind| auto_or(*kind, &[DatasetKind::Msmt17])),
    "on another data set than msmt17: leave it out",
);
pub(super) const SPLITS: Need = need(
    |c| match c.config.task {
        TaskKind::Classify => divided_here(c),
        TaskKind::Reid => [c.config.data.kind, c.config.data.target_kind]
            .iter()
            .any(|kind| auto_or(*kind, &[DatasetKind::Cuhk03ClassicDetected, DatasetKind::Cuhk03ClassicLabeled])),
    },
    "on a data set with one split of its own: leave it out",
);
pub(super) const HELD_OUT: Need = need(divided_here, "on a data set with validation images of its own: leave it out");
pub(super) const RANDOM_CROP: Need = need(
    |c| c.config.augment.crop == crate::data::Crop::RandomResized,
    "without --crop random-resized: add that, or leave it out",
);
pub(super) const MIDDLE: Need = need(
    |c| c.config.augment.crop != crate::data::Crop::Squeeze,
    "with --crop squeeze, which takes the whole image: leave it out, or name another --crop",
);
pub(super) const RAND_AUGMENT: Need =
    need(|c| c.config.augment.rand_ops > 0, "without --rand-ops: add that, or leave it out");
pub(super) const ADAM: Need = need(|c| c.config.optim.kind != OptimKind::Sgd, "with --optim sgd: leave it out");
pub(super) const SGD: Need =
    need(|c| c.config.optim.kind == OptimKind::Sgd, "without --optim sgd: add that, or leave it out");
pub(super) const TRAINED_BACKBONE: Need =
    need(|c| !c.config.train.freeze_backbone, "with --freeze-backbone: leave one of the two out");
pub(super) const FROZEN_BACKBONE: Need =
    need(|c| c.config.train.freeze_backbone, "without --freeze-backbone: add that, or leave it out");
pub(super) const INIT: Need = need(|c| c.init, "without --init: name the weights to start from, or leave it out");
pub(super) const MULTISTEP: Need = need(
    |c| c.config.schedule.kind == ScheduleKind::MultiStep,
    "without --schedule multistep: add that, or leave it out",
);
pub(super) const STEP: Need =
    need(|c| c.config.schedule.kind == ScheduleKind::Step, "without --schedule step: add that, or leave it out");
pub(super) const DROPS: Need = need(
    |c| matches!(c.config.schedule.kind, ScheduleKind::Step | ScheduleKind::MultiStep),
    "without --schedule step or multistep: add one of them, or leave it out",
);
pub(super) const COSINE: Need =
    need(|c| c.config.schedule.kind == ScheduleKind::Cosine, "without --schedule cosine: add that, or leave it out");
pub(super) const WARMUP: Need =
    need(|c| c.config.schedule.warmup_epochs > 0, "without --warmup-epochs: add that, or leave it out");
pub(super) const TRIPLET: Need =
    need(|c| c.config.loss.triplet_weight > 0.0, "with --loss.triplet-weight 0: leave one of the two out");
pub(super) const CROSS_ENTROPY: Need =
    need(|c| c.config.loss.ce_weight > 0.0, "with --loss.ce-weight 0: leave one of the two out");
pub(super) const RERANK: Need =
    need(|c| c.config.eval.rerank != Rerank::None, "without --rerank: add that, or leave it out");

fn auto_or(kind: DatasetKind, kinds: &[DatasetKind]) -> bool {
    kind == DatasetKind::Auto || kinds.contains(&kind)
}

/// Whether the program itself may have to divide classes into training and validation images.
fn divided_here(chosen: &Chosen<'_>) -> bool {
    auto_or(chosen.config.data.kind, &[DatasetKind::ClassFolders, DatasetKind::Csv])
}

impl Overrides {
    /// Refuses the first of these flags that was given, for this reason.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn refuse(&self, paths: &[&str], reason: &str) -> Result<()> {
        match self.iter().find(|(setting, _)| paths.contains(&setting.path)) {
            None => Ok(()),
            Some((setting, value)) => Err(Error::Setting {
                setting: format!("--{}", setting.flag()),
                value: value.to_string(),
                reason: reason.into(),
            }),
        }
    }

    /// Refuses a flag that changes nothing beside what else was chosen. A switch that is off anyway may be named off.
    ///
    /// # Errors
    /// [`Error::Setting`] says what the first such flag needs.
    pub fn refuse_without_effect(&self, chosen: Chosen<'_>) -> Result<()> {
        for (setting, _) in self.iter().filter(|(setting, value)| !is_off(setting, value)) {
            if let Some(need) = setting.needs.iter().find(|need| !(need.holds)(&chosen)) {
                return Err(Error::Setting {
                    setting: format!("--{}", setting.flag()),
                    value: chosen.config.shown(setting),
                    reason: format!("it has no effect {}", need.otherwise),
                });
            }
        }
        Ok(())
    }
}

fn is_off(setting: &Setting, value: &Value) -> bool {
    *value == Value::Boolean(false) && Config::default().shown(setting) == "false"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DEFAULT_ARCH, SETTINGS, setting};

    /// The first flag beside the others.
    fn check(flags: &[(&str, &str)], init: bool) -> Result<()> {
        let mut overrides = Overrides::default();
        for (path, value) in flags {
            let setting = setting(path).unwrap();
            overrides.push(setting, setting.kind.parse(value).unwrap());
        }
        let config = Config::load_recipe(DEFAULT_ARCH, None, &overrides).unwrap();
        overrides.refuse_without_effect(Chosen { config: &config, init })
    }

    type Flag = (&'static str, &'static str);

    const CLASSIFY: Flag = ("task", "classify");
    const PLAIN: Flag = ("model.arch", "resnet18");

    /// A flag, beside which others it is refused, and beside which it is accepted.
    const CASES: &[(Flag, &[Flag], &[Flag])] = &[
        (("gpu.vendor", "false"), &[("device", "cpu")], &[]),
        (("gpu.graph", "false"), &[("device", "cpu")], &[]),
        (("ptl.stages", "2,3"), &[PLAIN], &[]),
        (("ptl.cell_width", "0.5"), &[PLAIN], &[]),
        (("ptl.cell_width", "0.5"), &[("ptl.cell_channels", "8,8,8,8")], &[]),
        (("ptl.cell_channels", "8,8,8,8"), &[PLAIN], &[]),
        (("ptl.state_policy", "reset"), &[PLAIN], &[]),
        (("ptl.eval_state", "mean"), &[PLAIN], &[]),
        (("ptl.state_init", "normal"), &[PLAIN], &[]),
        (("data.target_kind", "market1501"), &[], &[("data.target", "x")]),
        (("data.msmt17_val", "false"), &[CLASSIFY], &[]),
        (("data.msmt17_val", "false"), &[("data.kind", "market1501"), ("data.target_kind", "market1501")], &[]),
        (("data.split", "2"), &[("data.kind", "market1501"), ("data.target_kind", "market1501")], &[]),
        (("data.split", "2"), &[CLASSIFY, ("data.kind", "cifar10")], &[CLASSIFY]),
        (("data.val_share", "0.3"), &[], &[CLASSIFY]),
        (("data.val_share", "0.3"), &[CLASSIFY, ("data.kind", "mnist")], &[CLASSIFY, ("data.kind", "csv")]),
        (("augment.crop_scale", "0.5,1"), &[], &[CLASSIFY]),
        (("augment.crop_ratio", "0.5,1"), &[], &[("augment.crop", "random-resized")]),
        (("augment.rand_magnitude", "5"), &[], &[("augment.rand_ops", "2")]),
        (("sampler.ids", "4"), &[CLASSIFY], &[]),
        (("sampler.images", "4"), &[CLASSIFY], &[]),
        (("sampler.passes", "2"), &[CLASSIFY], &[]),
        (("sampler.batch", "8"), &[], &[CLASSIFY]),
        (("sampler.balanced", "true"), &[], &[CLASSIFY]),
        (("optim.betas", "0.8,0.9"), &[CLASSIFY], &[]),
        (("optim.eps", "1e-6"), &[("optim.kind", "sgd")], &[("optim.kind", "adamw")]),
        (("optim.amsgrad", "true"), &[CLASSIFY], &[]),
        (("optim.momentum", "0.5"), &[], &[CLASSIFY]),
        (("optim.nesterov", "true"), &[], &[("optim.kind", "sgd")]),
        (("optim.ptl_lr", "2"), &[PLAIN], &[]),
        (("optim.backbone_lr", "0.1"), &[("train.freeze_backbone", "true")], &[]),
        (("optim.layer_decay", "0.5"), &[("train.freeze_backbone", "true")], &[]),
        (("schedule.milestones", "3"), &[], &[("schedule.kind", "multistep")]),
        (("schedule.gamma", "0.5"), &[], &[("schedule.kind", "step")]),
        (("schedule.step_size", "3"), &[("schedule.kind", "multistep")], &[("schedule.kind", "step")]),
        (("schedule.min_lr", "1e-6"), &[("schedule.kind", "constant")], &[]),
        (("schedule.warmup_factor", "0.5"), &[], &[CLASSIFY]),
        (("loss.label_smoothing", "0.1"), &[("loss.ce_weight", "0")], &[]),
        (("loss.triplet_margin", "0.5"), &[("loss.triplet_weight", "0")], &[]),
        (("loss.triplet_margin", "0.5"), &[CLASSIFY], &[]),
        (("loss.triplet_weight", "0.5"), &[CLASSIFY], &[]),
        (("train.freeze_bn", "true"), &[], &[("train.freeze_backbone", "true")]),
        (("eval.crop_share", "0.5"), &[], &[CLASSIFY]),
        (("eval.rerank", "zhong"), &[CLASSIFY], &[]),
        (("eval.k1", "5"), &[], &[("eval.rerank", "auto")]),
        (("eval.k2", "5"), &[], &[("eval.rerank", "auto")]),
        (("eval.lambda", "0.5"), &[], &[("eval.rerank", "auto")]),
    ];

    #[test]
    fn a_flag_without_effect_is_refused_and_one_with_effect_is_not() {
        for (flag, refused, accepted) in CASES {
            let error = check(&[&[*flag], *refused].concat(), false).unwrap_err().to_string();
            let name = setting(flag.0).unwrap().flag();
            assert!(error.starts_with(&format!("--{name} = ")) && error.contains(": it has no effect "), "{error}");
            check(&[&[*flag], *accepted].concat(), false).unwrap();
        }
        let of_init = [("train.keep_head", "true"), ("train.init_partial", "true"), ("train.weights_dict", "ema")];
        for flag in of_init {
            assert!(check(&[flag], false).unwrap_err().to_string().contains("without --init"));
            check(&[flag], true).unwrap();
        }
        for setting in
            SETTINGS.iter().filter(|s| !s.needs.is_empty() && of_init.iter().all(|(path, _)| *path != s.path))
        {
            assert!(CASES.iter().any(|((path, _), ..)| *path == setting.path), "{} has no case", setting.path);
        }
    }

    #[test]
    fn a_switch_that_is_off_may_be_named_off() {
        for path in ["train.keep_head", "train.freeze_bn", "sampler.balanced", "optim.nesterov"] {
            check(&[(path, "false")], false).unwrap();
        }
    }

    /// What a file or a run holds is no flag.
    #[test]
    fn files_may_hold_settings_without_effect() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.toml");
        std::fs::write(&file, Config::recipe(TaskKind::Classify, "resnet18").to_toml()).unwrap();
        let flags = Overrides::default();
        let config = Config::load_recipe(DEFAULT_ARCH, Some(&file), &flags).unwrap();
        flags.refuse_without_effect(Chosen { config: &config, init: false }).unwrap();
    }
}
