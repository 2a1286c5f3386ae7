//! Settings from flags, and the check that each flag has an effect.
//!
//! Only flags are checked. A file may hold settings without effect: several commands, networks and tasks may share it, and the
//! config.toml of a run holds every setting.

use toml::Value;

use super::{Config, Setting};
use crate::base::settings::Chosen;
use crate::{Error, Result};

/// Settings from the command line, which override a file.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<(&'static Setting, Value)>);

impl Overrides {
    /// Adds the value `text` for the setting at `path`, such as `optim.lr`, as a flag does.
    ///
    /// # Errors
    /// There is no such setting, or `text` is not a value of it.
    pub fn add(&mut self, path: &str, text: &str) -> Result<()> {
        let refuse = |reason| Error::Setting { setting: path.into(), value: text.into(), reason };
        let setting = Config::setting(path).ok_or_else(|| refuse("there is no such setting".into()))?;
        self.push(setting, setting.kind.parse(text).map_err(refuse)?);
        Ok(())
    }

    /// Adds a value that [`Kind::parse`](super::Kind::parse) has read.
    pub fn push(&mut self, setting: &'static Setting, value: Value) {
        self.0.push((setting, value));
    }

    /// Returns whether there are no settings.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns every value with its setting.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Setting, &Value)> {
        self.0.iter().map(|(setting, value)| (*setting, value))
    }

    /// Returns whether the setting at `path` was given.
    pub fn has(&self, path: &str) -> bool {
        self.get(path).is_some()
    }

    /// Returns the value of `path` if it is a text.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path).and_then(Value::as_str)
    }

    /// Returns the value of `path`; if there are several, the last.
    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(setting, _)| setting.path == path).map(|(_, value)| value)
    }

    /// Refuses the flags of the settings at `paths`.
    ///
    /// # Errors
    /// [`Error::Setting`] with `reason`, for the first such flag that was given.
    pub fn refuse(&self, paths: &[&str], reason: &str) -> Result<()> {
        match self.iter().find(|(setting, _)| paths.contains(&setting.path)) {
            None => Ok(()),
            Some((setting, value)) => Err(Error::Setting {
                setting: format!("`{}`", setting.path),
                value: value.to_string(),
                reason: reason.into(),
            }),
        }
    }

    /// Refuses a flag that has no effect with the settings `config`; `init` says whether the weights come from a file. A switch that is
    /// off by default may be given as off.
    ///
    /// # Errors
    /// [`Error::Setting`] says what the first such flag needs.
    pub(crate) fn refuse_without_effect(&self, config: &Config, init: bool) -> Result<()> {
        let table = |config: &Config| config.to_table().expect("validated settings");
        let (chosen, defaults) = (Chosen { settings: &table(config), init }, table(&Config::default()));
        let off = Value::Boolean(false);
        let is_off = |setting: &Setting, value: &Value| *value == off && setting.value_in(&defaults) == Some(&off);
        for (setting, _) in self.iter().filter(|(setting, value)| !is_off(setting, value)) {
            if let Some(need) = setting.needs.iter().find(|need| !(need.holds)(&chosen)) {
                return Err(Error::Setting {
                    setting: format!("`{}`", setting.path),
                    value: config.shown(setting),
                    reason: format!("it has no effect {}", need.otherwise),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{DEFAULT_ARCH, TaskKind};

    /// Checks these flags.
    fn check(flags: &[(&str, &str)], init: bool) -> Result<()> {
        let mut overrides = Overrides::default();
        for (path, value) in flags {
            overrides.add(path, value).unwrap();
        }
        let config = Config::load_recipe(DEFAULT_ARCH, None, &overrides).unwrap();
        overrides.refuse_without_effect(&config, init)
    }

    type Flag = (&'static str, &'static str);

    const CLASSIFY: Flag = ("task", "classify");
    const PLAIN: Flag = ("model.arch", "resnet18");

    /// A flag, flags with which it is refused, and flags with which it is accepted.
    const CASES: &[(Flag, &[Flag], &[Flag])] = &[
        (("gpu.vendor", "never"), &[("device", "cpu")], &[]),
        (("gpu.graph", "false"), &[("device", "cpu")], &[]),
        (("gpu.bucket_mb", "5"), &[("device", "cpu")], &[]),
        (("model.last_stride", "2"), &[("model.arch", "osnet-x1-0")], &[]),
        (("ptl.stages", "2,3"), &[PLAIN], &[]),
        (("ptl.cell_width", "0.5"), &[PLAIN], &[]),
        (("ptl.cell_width", "0.5"), &[("ptl.cell_channels", "8,8,8,8")], &[]),
        (("ptl.cell_channels", "8,8,8,8"), &[PLAIN], &[]),
        (("ptl.block", "residual"), &[PLAIN], &[]),
        (("ptl.state_policy", "reset"), &[PLAIN], &[]),
        (("ptl.state_policy", "reset"), &[("ptl.block", "residual")], &[]),
        (("ptl.state_form", "mean"), &[PLAIN], &[]),
        (("ptl.state_steps", "2"), &[PLAIN], &[]),
        (("ptl.state_rate", "0.2"), &[PLAIN, ("ptl.state_form", "class")], &[("ptl.state_form", "class")]),
        (("ptl.state_rate", "0.2"), &[("ptl.state_form", "mean")], &[("ptl.state_form", "average")]),
        (("ptl.eval_state", "mean"), &[PLAIN], &[]),
        (("ptl.state_init", "normal"), &[PLAIN], &[]),
        (("data.target_kind", "market1501"), &[], &[("data.target", "x")]),
        (("data.msmt17_val", "false"), &[CLASSIFY], &[]),
        (("data.msmt17_val", "false"), &[("data.kind", "market1501"), ("data.target_kind", "market1501")], &[]),
        (("data.split", "2"), &[("data.kind", "market1501"), ("data.target_kind", "market1501")], &[]),
        (("data.split", "2"), &[CLASSIFY, ("data.kind", "cifar10")], &[CLASSIFY]),
        (("data.split", "2"), &[("data.kind", "msmt17"), ("data.target_kind", "msmt17")], &[("data.val_ids", "9")]),
        (("data.val_ids", "9"), &[CLASSIFY], &[]),
        (("data.same_camera", "keep"), &[CLASSIFY], &[]),
        (("data.name_pattern", "(?<id>a)"), &[CLASSIFY], &[]),
        (("data.name_pattern", "(?<id>a)"), &[("data.kind", "market1501")], &[("data.kind", "id-folders")]),
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
        (("loss.class_weights", "inverse"), &[], &[CLASSIFY]),
        (("loss.local_mining", "true"), &[("loss.triplet_weight", "0")], &[]),
        (
            ("loss.class_beta", "0.9"),
            &[CLASSIFY, ("loss.class_weights", "inverse")],
            &[CLASSIFY, ("loss.class_weights", "effective")],
        ),
        (
            ("loss.class_beta", "0.9"),
            &[("loss.class_weights", "effective")],
            &[CLASSIFY, ("loss.class_weights", "effective")],
        ),
        (("loss.focal_gamma", "2"), &[("loss.ce_weight", "0")], &[]),
        (("model.head", "arcface"), &[("loss.ce_weight", "0")], &[]),
        (("model.head_scale", "30"), &[], &[("model.head", "arcface")]),
        (("loss.head_margin", "0.3"), &[], &[("model.head", "circle")]),
        (
            ("loss.head_margin", "0.3"),
            &[("loss.ce_weight", "0"), ("model.head", "circle")],
            &[("model.head", "circle")],
        ),
        (("loss.triplet_margin", "0.5"), &[("loss.triplet_weight", "0")], &[]),
        (("loss.triplet_margin", "0.5"), &[CLASSIFY], &[]),
        (("loss.triplet_weight", "0.5"), &[CLASSIFY], &[]),
        (("loss.memory", "64"), &[("loss.triplet_weight", "0")], &[]),
        (("loss.memory", "64"), &[CLASSIFY], &[]),
        (("loss.memory_from", "5"), &[], &[("loss.memory", "64")]),
        (("loss.memory_from", "5"), &[("loss.memory", "64"), ("loss.triplet_weight", "0")], &[("loss.memory", "64")]),
        (("loss.center_weight", "5e-4"), &[CLASSIFY], &[]),
        (("loss.center_rate", "0.3"), &[], &[("loss.center_weight", "5e-4")]),
        (("loss.center_rate", "0.3"), &[("loss.center_weight", "5e-4"), CLASSIFY], &[("loss.center_weight", "5e-4")]),
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
            assert!(error.starts_with(&format!("`{}` = ", flag.0)) && error.contains(": it has no effect "), "{error}");
            check(&[&[*flag], *accepted].concat(), false).unwrap();
        }
        let of_init = [("train.keep_head", "true"), ("train.init_partial", "true"), ("train.weights_dict", "ema")];
        for flag in of_init {
            assert!(check(&[flag], false).unwrap_err().to_string().contains("without `init`"));
            check(&[flag], true).unwrap();
        }
        for setting in
            Config::settings().filter(|s| !s.needs.is_empty() && of_init.iter().all(|(path, _)| *path != s.path))
        {
            assert!(CASES.iter().any(|((path, _), ..)| *path == setting.path), "{} has no case", setting.path);
        }
    }

    #[test]
    fn a_switch_may_be_given_as_off() {
        for path in ["train.keep_head", "train.freeze_bn", "sampler.balanced", "optim.nesterov"] {
            check(&[(path, "false")], false).unwrap();
        }
    }

    /// Settings in a file or a run are not flags.
    #[test]
    fn files_may_hold_settings_without_effect() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.toml");
        std::fs::write(&file, Config::recipe(TaskKind::Classify, "resnet18").to_toml()).unwrap();
        let flags = Overrides::default();
        let config = Config::load_recipe(DEFAULT_ARCH, Some(&file), &flags).unwrap();
        flags.refuse_without_effect(&config, false).unwrap();
    }
}
