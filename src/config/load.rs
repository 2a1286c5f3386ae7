//! Loads settings: defaults, overridden by a TOML file, then by flags. They are merged as TOML tables and parsed once.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::{Config, DataOptions, Overrides, Setting};
use crate::base::input;
use crate::base::settings::value_at;
use crate::base::text::Shown;
use crate::nn::DEFAULT_ARCH;
use crate::{Error, Result};

/// Largest accepted file, bytes.
const LARGEST: u64 = 1 << 20;

/// The reason why settings are refused that TOML cannot hold: its integers have 64 bits with a sign.
const TOO_LARGE: &str = "one of the settings is an integer of 2^63 or more, which a TOML file cannot hold";

impl Config {
    /// Loads settings as [`Config::load`] does, from the recipe of the task and network that flags or file name; `arch` is the network if
    /// they name none.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_recipe(arch: &str, file: Option<&Path>, flags: &Overrides) -> Result<Config> {
        let config = Config::load(&Config::recipe_of(arch, file, flags), file, flags)?;
        config.check_warmup()?;
        Ok(config)
    }

    /// Loads the settings that a run has stored in `file`; `flags` override them. A file of an earlier version
    /// lacks newer settings: these get the values with which that version worked.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(crate) fn load_stored(file: &Path, flags: &Overrides) -> Result<Config> {
        let mut base = Config::recipe_of(DEFAULT_ARCH, Some(file), flags);
        base.data.exif_orientation = false;
        let config = Config::load(&base, Some(file), flags)?;
        if flags.has("schedule.warmup_epochs") {
            config.check_warmup()?;
        }
        Ok(config)
    }

    /// Returns the recipe of the task and network that flags or file name; `arch` is the network if they name none.
    fn recipe_of(arch: &str, file: Option<&Path>, flags: &Overrides) -> Config {
        // `load` reports what is wrong with the file.
        let text = file.and_then(|file| input::read_text(file, LARGEST).ok());
        let table: Table = text.and_then(|text| toml::from_str(&text).ok()).unwrap_or_default();
        let named = |path: &str| flags.get(path).or_else(|| value_at(&table, path));
        let task = named("task").and_then(|task| task.clone().try_into().ok()).unwrap_or_default();
        let arch = named("model.arch").and_then(Value::as_str).unwrap_or(arch);
        let small_images = named("model.stem").and_then(Value::as_str) == Some("cifar");
        let mut recipe = Config::recipe_for(task, arch, small_images);
        // A training no longer than the warm-up of its recipe has none.
        let epochs = named("schedule.epochs").and_then(Value::as_integer);
        if epochs.is_some_and(|epochs| epochs <= recipe.schedule.warmup_epochs as i64) {
            recipe.schedule.warmup_epochs = 0;
        }
        recipe
    }

    /// Loads settings: `base`, overridden by `file`, then by `flags`; [validates](Config::validate) the result.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has an unknown key or a value of the wrong form (each with its line); a value cannot
    /// work.
    pub fn load(base: &Config, file: Option<&Path>, flags: &Overrides) -> Result<Config> {
        let mut tree = base.to_table().map_err(|reason| Error::Setting {
            setting: "configuration".into(),
            value: "stored settings".into(),
            reason,
        })?;
        if let Some(file) = file {
            let text = input::read_text(file, LARGEST)?;
            check_file(&text, file)?;
            merge(&mut tree, toml::from_str(&text).map_err(|e| syntax_error(&text, file, &e))?);
        }
        for (setting, value) in flags.iter() {
            insert(&mut tree, setting.path, value.clone());
        }
        let mut config: Config = tree.try_into().map_err(|e: toml::de::Error| Error::Setting {
            setting: "configuration".into(),
            value: file.map_or("flags".into(), |file| file.shown().to_string()),
            reason: e.message().into(),
        })?;
        let DataOptions { root, target, .. } = &mut config.data;
        if !root.as_os_str().is_empty() {
            *root = whole_path("data.root", root)?;
        }
        if let Some(target) = target {
            *target = whole_path("data.target", target)?;
        }
        config.validate()?;
        Ok(config)
    }

    /// Returns the value of a setting as in a TOML file, but without quotes; empty if it is not set.
    pub(crate) fn shown(&self, setting: &Setting) -> String {
        let table = self.to_table().expect("validated settings");
        setting
            .value_in(&table)
            .map_or_else(String::new, |value| value.as_str().map_or_else(|| value.to_string(), str::to_string))
    }

    /// Returns the value of a setting for a sentence, also where it is not set.
    pub(crate) fn said(&self, setting: &Setting) -> String {
        Some(self.shown(setting)).filter(|value| !value.is_empty()).unwrap_or_else(|| "the default".into())
    }

    /// Returns the settings as a TOML table. Converts through text, because 0.3 as f32 is 0.30000001192092896 as f64.
    ///
    /// # Errors
    /// A sentence about an integer that a TOML file cannot hold.
    pub(crate) fn to_table(&self) -> Result<Table, String> {
        let text = toml::to_string(self).map_err(|_| TOO_LARGE)?;
        toml::from_str(&text).map_err(|_| TOO_LARGE.into())
    }

    /// Returns the settings as the text of a TOML file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("plain sections serialise")
    }
}

/// Returns `path` as an absolute path, so that a run can be resumed and measured from any folder. `setting` names the setting in errors.
///
/// # Errors
/// [`Error::Setting`]: the path is not UTF-8.
pub(crate) fn whole_path(setting: &str, path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path).ok().filter(|whole| whole.to_str().is_some());
    match whole {
        Some(whole) => Ok(whole),
        None if path.to_str().is_some() => Ok(path.into()),
        None => Err(Error::Setting {
            setting: setting.into(),
            value: path.shown().to_string(),
            reason: "the path is no UTF-8 text, so settings cannot store it: rename it".into(),
        }),
    }
}

/// Replaces values of `tree` by those of `over`, and merges tables key by key.
fn merge(tree: &mut Table, over: Table) {
    for (key, value) in over {
        match (tree.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => merge(inner, value),
            (_, value) => drop(tree.insert(key, value)),
        }
    }
}

/// Sets the value at `path`.
fn insert(tree: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(tree.insert(path.into(), value)),
        Some((section, key)) => {
            let section = tree.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(key.into(), value);
            }
        }
    }
}

/// Checks every key and value of a file against the declared settings, so that an error names the line.
fn check_file(text: &str, file: &Path) -> Result<()> {
    let table = DeTable::parse(text).map_err(|e| syntax_error(text, file, &e))?;
    check_table(text, file, "", table.get_ref())
}

/// Checks the keys and values of `table`, which is the section `section` of the file; the top of the file has no name.
fn check_table(text: &str, file: &Path, section: &str, table: &DeTable<'_>) -> Result<()> {
    for (key, value) in table {
        let path = if section.is_empty() { key.get_ref().to_string() } else { format!("{section}.{}", key.get_ref()) };
        let wrong =
            |at: usize, message: String| Err(Error::ConfigFile { path: file.into(), line: line_of(text, at), message });
        let is_section = Config::settings().any(|s| s.section() == path);
        match (Config::setting(&path), value.get_ref()) {
            (None, DeValue::Table(inner)) if is_section => check_table(text, file, &path, inner)?,
            (None, _) if is_section => {
                return wrong(
                    value.span().start,
                    format!("`{path}` is a section: write [{path}] on a line of its own"),
                );
            }
            (None, _) => {
                return wrong(key.span().start, format!("unknown key `{}`{}", path.shown(), suggestion(&path)));
            }
            (Some(setting), _) => {
                let source = &text[value.span()];
                let read: Option<Value> = source.parse().ok();
                if !read.is_some_and(|value| setting.kind.fits(&value)) {
                    let expected = setting.kind.expected();
                    return wrong(value.span().start, format!("`{path} = {}`: expected {expected}", source.shown()));
                }
            }
        }
    }
    Ok(())
}

/// Returns "; did you mean `optim.lr`?" if a setting or section has a similar name or key; otherwise names the command that lists all.
fn suggestion(path: &str) -> String {
    let near = |section: &&str| strsim::damerau_levenshtein(section, path) <= 2;
    if let Some(section) = Config::settings().map(Setting::section).filter(|s| !s.is_empty()).find(near) {
        return format!("; did you mean the section [{section}]?");
    }
    let key = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let similar = |s: &&Setting| {
        let distance = strsim::damerau_levenshtein(s.path, path);
        let same_name = key(s.path) == key(path) || s.alias.is_some_and(|alias| alias.replace('-', "_") == key(path));
        if same_name { 0 } else { distance }
    };
    match Config::settings().min_by_key(similar).filter(|s| similar(s) <= 3) {
        Some(s) => format!("; did you mean `{}`?", s.path),
        None => "; `ptl-train train --help` lists all settings".into(),
    }
}

/// Returns the error for a file that is not TOML.
fn syntax_error(text: &str, file: &Path, error: &toml::de::Error) -> Error {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    Error::ConfigFile { path: file.into(), line, message: error.message().replace('\n', ", ") }
}

/// Returns the 1-based line of a byte offset.
fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|&&b| b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::config::Kind;
    use crate::nn::TaskKind;

    fn load(text: &str) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        fs::write(&file, text).unwrap();
        Config::load(&Config::default(), Some(&file), &Overrides::default())
    }

    fn message(text: &str) -> String {
        let text = load(text).unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
        text[text.find("run.toml").unwrap_or(0)..].to_owned()
    }

    fn flag(path: &str, value: &str) -> Overrides {
        let mut flags = Overrides::default();
        flags.add(path, value).unwrap();
        flags
    }

    #[test]
    fn round_trip() {
        let mut config = Config::default();
        config.model.width = 0.3;
        config.optim.lr = 3.5e-4;
        config.optim.betas = [0.5, 0.99];
        config.schedule.milestones = vec![3, 5];
        config.data.root = PathBuf::from("/some \"folder\"");
        config.data.target = Some("/other".into());
        config.train.max_steps = Some(12);
        config.ptl.state_policy = crate::engine::latent_state::StatePolicy::CarryEpochs;
        let text = config.to_toml();
        assert!(text.contains("width = 0.3\n"), "{text}");
        assert_eq!(config.shown(Config::setting("model.width").unwrap()), "0.3");
        assert_eq!(load(&text).unwrap(), config);
        assert_eq!(load("").unwrap(), Config::default());
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        fs::write(&file, "seed = 7\n[optim]\nlr = 1e-3\nweight_decay = 0\n[ptl]\nstages = [1, 2]\n").unwrap();
        let mut flags = flag("optim.lr", "0.5");
        flags.add("ptl.stages", "3,4").unwrap();
        flags.add("train.freeze_bn", "true").unwrap();
        let config = Config::load(&Config::default(), Some(&file), &flags).unwrap();
        assert_eq!((config.seed, config.optim.lr, config.optim.weight_decay), (7, 0.5, 0.0));
        assert_eq!((config.ptl.stages, config.train.freeze_bn), (vec![3, 4], true));
        assert_eq!(config.optim.momentum, 0.9);
    }

    #[test]
    fn the_network_brings_its_recipe_wherever_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        fs::write(&file, "[model]\narch = \"mgn\"\n[schedule]\nepochs = 3\n").unwrap();
        let load = |file, flags: &Overrides| Config::load_recipe(DEFAULT_ARCH, file, flags).unwrap();
        let mgn = load(Some(file.as_path()), &Overrides::default());
        assert_eq!((mgn.model.height, mgn.schedule.epochs, mgn.loss.triplet_margin), (384, 3, 1.2));
        let resnet = load(Some(file.as_path()), &flag("model.arch", "resnet18"));
        assert_eq!((resnet.model.height, resnet.schedule.epochs), (256, 3));
        assert_eq!(load(None, &flag("model.arch", "mgn-ptl")), Config::recipe(TaskKind::Reid, "mgn-ptl"));
        assert_eq!(load(None, &Overrides::default()), Config::default());
        let classifier = load(None, &flag("task", "classify"));
        assert_eq!((classifier.task, classifier.optim.lr, classifier.model.height), (TaskKind::Classify, 0.01, 224));
        let mut long = flag("task", "classify");
        long.add("schedule.warmup_epochs", "1").unwrap();
        long.add("schedule.epochs", "1").unwrap();
        let error = Config::load_recipe(DEFAULT_ARCH, None, &long).unwrap_err().to_string();
        assert!(error.starts_with("schedule.warmup_epochs = 1: the training ends after epoch 1"), "{error}");
        let mut one_epoch = flag("task", "classify");
        one_epoch.add("schedule.epochs", "1").unwrap();
        assert_eq!((classifier.schedule.warmup_epochs, load(None, &one_epoch).schedule.warmup_epochs), (1, 0));
        fs::write(&file, "task = \"classify\"\n[model]\narch = \"cifar-resnet20-ptl\"\n").unwrap();
        let small = load(Some(file.as_path()), &Overrides::default());
        assert_eq!((small.model.height, small.augment.pad, small.ptl.stages), (32, 4, vec![1, 2, 3]));
        let mut flags = flag("task", "classify");
        flags.add("model.stem", "cifar").unwrap();
        assert_eq!(load(None, &flags).model.height, 32);
    }

    #[test]
    fn a_stored_file_without_a_setting_has_its_old_value() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let new = Config::default();
        assert!(new.data.exif_orientation && !Config::recipe(TaskKind::Reid, "mgn-ptl").data.exif_orientation);
        assert!(Config::recipe(TaskKind::Classify, "resnet18").data.exif_orientation);
        let stored = |text: &str| {
            fs::write(&file, text).unwrap();
            Config::load_stored(&file, &Overrides::default()).unwrap().data.exif_orientation
        };
        let before: String =
            new.to_toml().lines().filter(|l| !l.starts_with("exif")).map(|l| format!("{l}\n")).collect();
        assert!(stored(&new.to_toml()) && !stored(&before));
        // Read as from the header of a checkpoint.
        let read = |text: &str| toml::from_str::<Config>(text).unwrap().data.exif_orientation;
        assert!(read(&new.to_toml()) && !read(&before));
        // A file for a new run has the new default.
        let flags = Overrides::default();
        assert!(Config::load_recipe(DEFAULT_ARCH, Some(&file), &flags).unwrap().data.exif_orientation);
        assert!(Config::load_stored(&file, &flag("data.exif_orientation", "true")).unwrap().data.exif_orientation);
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let cases = [
            ("seed = 1\n[optim]\nlrr = 1\n", "run.toml, line 3: unknown key `optim.lrr`; did you mean `optim.lr`?"),
            ("[optim]\nepochs = 1\n", "run.toml, line 2: unknown key `optim.epochs`; did you mean `schedule.epochs`?"),
            ("margin = 1\n", "run.toml, line 1: unknown key `margin`; did you mean `loss.triplet_margin`?"),
            (
                "\n[colour]\nx = 1\n",
                "run.toml, line 2: unknown key `colour`; `ptl-train train --help` lists all settings",
            ),
            ("optim = 3\n", "run.toml, line 1: `optim` is a section: write [optim] on a line of its own"),
            ("[optim]\nlr = \"fast\"\n", "run.toml, line 2: `optim.lr = \"fast\"`: expected a number"),
            ("[sampler]\nids = -4\n", "run.toml, line 2: `sampler.ids = -4`: expected a whole number of at least 0"),
            ("[ptl]\neval_state = \"media\"\n", "`ptl.eval_state = \"media\"`: expected zeros, mean or normal"),
            ("[optim]\nbetas = [0.9]\n", "line 2: `optim.betas = [0.9]`: expected two numbers such as [0.9, 0.999]"),
            (
                "device = \"gpu\"\n",
                "run.toml, line 1: `device = \"gpu\"`: expected auto, cpu, cuda, emulated, or the number of a GPU such as cuda:1",
            ),
            ("seed = 1\nseed = 2\n", "run.toml, line 2: "),
            ("seed 1\n", "run.toml, line 1: "),
        ];
        for (text, expected) in cases {
            let found = message(text);
            assert!(found.contains(expected), "{text:?} gave\n{found}\nnot\n{expected}");
        }
        let missing = Config::load(&Config::default(), Some(Path::new("no-such.toml")), &Overrides::default());
        assert!(missing.unwrap_err().to_string().starts_with("cannot read no-such.toml: "));
    }

    /// Returns the fields of a section from serde's own list ("expected one of `a`, `b`"), which includes unset options.
    fn fields(section: &str) -> BTreeSet<String> {
        let text = if section.is_empty() { "_ = 1".to_owned() } else { format!("[{section}]\n_ = 1") };
        let error = toml::from_str::<Config>(&text).unwrap_err();
        let list = error.message().split_once("expected").unwrap().1;
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_table_names_every_field_once() {
        let sections: BTreeSet<&str> = Config::settings().map(Setting::section).filter(|s| !s.is_empty()).collect();
        let mut paths = BTreeSet::new();
        for field in fields("") {
            if sections.contains(field.as_str()) {
                paths.extend(fields(&field).into_iter().map(|key| format!("{field}.{key}")));
            } else {
                paths.insert(field);
            }
        }
        let table: Vec<String> = Config::settings().map(|s| s.path.to_owned()).collect();
        assert_eq!(table.len(), table.iter().collect::<BTreeSet<_>>().len(), "a path occurs twice");
        assert_eq!(table.into_iter().collect::<BTreeSet<_>>(), paths);
        let aliases: Vec<&str> = Config::settings().filter_map(|s| s.alias).collect();
        assert_eq!(aliases.len(), aliases.iter().collect::<BTreeSet<_>>().len(), "an alias occurs twice");
        assert!(Config::settings().all(|s| !s.help().is_empty()));
    }

    #[test]
    fn kinds_agree_with_the_fields() {
        let defaults: Table = toml::from_str(&Config::default().to_toml()).unwrap();
        for s in Config::settings() {
            if let Some(value) = s.value_in(&defaults) {
                assert!(s.kind.fits(value), "{}: {value}", s.path);
            }
            if let Kind::Choice(words) | Kind::Device(words) = s.kind {
                for word in words {
                    Config::load_recipe(DEFAULT_ARCH, None, &flag(s.path, word)).unwrap();
                }
            }
        }
    }

    #[test]
    fn flag_values() {
        assert_eq!(Kind::Counts.parse("[1, 2]"), Kind::Counts.parse("1,2"));
        assert_eq!(Kind::Path.parse("12"), Ok(Value::String("12".into())));
        for (kind, text) in [
            (Kind::Count, "-1"),
            (Kind::Count, "1.5"),
            (Kind::Real, "x"),
            (Kind::Switch, "yes"),
            (Kind::Counts, "1,,2"),
            (Kind::Pair, ""),
            (Kind::Pair, "0.9"),
            (Kind::Choice(&["a", "b"]), "c"),
            (Kind::Device(&["cpu"]), "cuda"),
            (Kind::Device(&["cpu"]), "cuda:"),
            (Kind::Device(&["cpu"]), "cuda:+1"),
            (Kind::Device(&["cpu"]), "cuda:1x"),
        ] {
            assert!(kind.parse(text).unwrap_err().starts_with("expected "), "{kind:?} {text}");
        }
    }
}
