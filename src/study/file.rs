//! The file `study.toml`, which is written into the folder of a study before its first arm. An interrupted study continues from it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::atomic::atomic_write;
use crate::base::input;
use crate::config::{Config, Overrides};
use crate::run_dir::RunDir;
use crate::{Error, Result};

/// The file's name in the study's folder.
const FILE: &str = "study.toml";
/// Largest accepted file, bytes; settings take a few KiB.
const MOST_BYTES: u64 = 1 << 20;

/// The command that makes a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StudyKind {
    /// `ptl-train compare`.
    Compare,
    /// `ptl-train demo`.
    Demo,
    /// `ptl-train ablate`.
    Ablate,
}

impl fmt::Display for StudyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StudyKind::Compare => "compare",
            StudyKind::Demo => "demo",
            StudyKind::Ablate => "ablate",
        })
    }
}

/// Everything that determines the results of a study, except the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyFile {
    /// The command that made the study.
    pub kind: StudyKind,
    /// Seeds; every arm is trained once with each.
    pub seeds: Vec<u64>,
    /// Whether a demo trains only a few steps.
    #[serde(default)]
    pub quick: bool,
    /// Initial weights of every arm of an ablation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Settings that the arms share.
    pub config: Config,
    /// Settings of the pre-training, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretraining: Option<Config>,
}

impl StudyFile {
    /// Writes the study into its folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, run: &RunDir) -> Result<()> {
        let text = toml::to_string(self).expect("settings, numbers and paths of UTF-8 text");
        atomic_write(&run.file(FILE), |file| file.write_all(text.as_bytes()))?;
        run.write_config(&self.config)
    }

    /// Opens the study in `folder` to continue it. `flags` may only change settings that cannot change its results.
    ///
    /// # Errors
    /// [`Error::NotARun`]: there is no study, or one of another kind; [`Error::Setting`]: a flag contradicts the study.
    pub fn resume(folder: &Path, kind: StudyKind, flags: &Overrides) -> Result<(RunDir, StudyFile)> {
        let no = |reason: String| Error::NotARun { path: folder.into(), reason };
        if !folder.exists() {
            return Err(no("it does not exist".into()));
        }
        if !Self::is_in(folder) {
            return Err(no(format!(
                "it has no {FILE}, so it is not a study: continue a single run with train `resume`"
            )));
        }
        let bytes = input::read(&folder.join(FILE), MOST_BYTES)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut study: StudyFile =
            toml::from_str(&text).map_err(|error| no(format!("its {FILE} cannot be read ({})", error.message())))?;
        if study.kind != kind {
            return Err(no(format!("it is a study of {0}: continue it with ptl-train {0} `resume`", study.kind)));
        }
        study.check().map_err(|reason| no(format!("its {FILE} {reason}")))?;
        study.take(flags)?;
        // A study that was killed right after its start may lack this file.
        let config = folder.join("config.toml");
        if !config.exists() {
            atomic_write(&config, |file| file.write_all(study.config.to_toml().as_bytes()))?;
        }
        let run = RunDir::open(folder)?;
        run.write_config(&study.config)?;
        Ok((run, study))
    }

    /// Refuses settings that no study of its kind can have.
    fn check(&self) -> Result<(), String> {
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() || seeds.len() < self.seeds.len() {
            return Err(format!("names the seeds {:?}: a study has at least one, and each once", self.seeds));
        }
        if let Some(seed) = seeds.last().filter(|seed| **seed > i64::MAX as u64) {
            return Err(format!("names the seed {seed}: the largest is {}", i64::MAX));
        }
        let pretrains = self.kind != StudyKind::Ablate;
        if pretrains != self.pretraining.is_some() {
            let has = if pretrains { "no" } else { "a" };
            return Err(format!("has {has} section [pretraining], which is impossible for a study of {}", self.kind));
        }
        if self.kind == StudyKind::Compare && self.config.data.target.is_none() {
            return Err("names no data.target, on which a comparison is measured".into());
        }
        Ok(())
    }

    /// Returns whether `folder` holds a study.
    pub(crate) fn is_in(folder: &Path) -> bool {
        folder.join(FILE).is_file()
    }

    /// Applies flags that cannot change results, and refuses others whose values differ from the study's.
    fn take(&mut self, flags: &Overrides) -> Result<()> {
        let given = Config::load(&self.config, None, flags)?;
        let mut harmless = Overrides::default();
        for (setting, value) in flags.iter() {
            let (old, new) = (self.config.shown(setting), given.shown(setting));
            if !setting.changes_results {
                harmless.push(setting, value.clone());
            } else if old != new {
                return Err(Error::Setting {
                    setting: format!("`{}`", setting.path),
                    value: new,
                    reason: format!("the study has {old}: leave it out, or start another study in a new folder"),
                });
            }
        }
        self.config = Config::load(&self.config, None, &harmless)?;
        if let Some(config) = &mut self.pretraining {
            *config = Config::load(config, None, &harmless)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(path: &str, value: &str) -> Overrides {
        let mut flags = Overrides::default();
        flags.add(path, value).unwrap();
        flags
    }

    fn study() -> StudyFile {
        let mut pretraining = Config::default();
        pretraining.optim.lr = 1.0 / 3.0;
        pretraining.data.root = "/data/source".into();
        let mut config = Config { seed: 7, ..Config::default() };
        config.data.target = Some("/data/the \"target\"".into());
        config.model.width = 0.1;
        StudyFile {
            kind: StudyKind::Compare,
            seeds: vec![0, 1 << 62],
            quick: false,
            init: Some("w.pth".into()),
            config,
            pretraining: Some(pretraining),
        }
    }

    #[test]
    fn a_study_is_restored_and_refuses_other_settings() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("study");
        let run = RunDir::create(&root).unwrap();
        study().write(&run).unwrap();
        let resume = |flags: &Overrides| StudyFile::resume(&root, StudyKind::Compare, flags).map(|(_, study)| study);
        assert!(matches!(resume(&Overrides::default()), Err(Error::RunBusy { .. })));
        drop(run);
        assert_eq!(resume(&Overrides::default()).unwrap(), study());
        assert_eq!(resume(&flag("optim.lr", "2e-4")).unwrap(), study());
        let threads = resume(&flag("threads", "3")).unwrap();
        assert_eq!([threads.config.threads, threads.pretraining.unwrap().threads], [3, 3]);
        let error = resume(&flag("optim.lr", "0.5")).unwrap_err().to_string();
        assert!(error.starts_with("`optim.lr` = 0.5: the study has 0.0002: "), "{error}");
    }

    #[test]
    fn a_folder_without_a_study_of_that_kind_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(&folder.path().join("run")).unwrap();
        let resume = |folder: &Path, kind| {
            StudyFile::resume(folder, kind, &Overrides::default()).map(drop).unwrap_err().to_string()
        };
        assert!(resume(&folder.path().join("none"), StudyKind::Demo).contains("it does not exist"));
        assert!(resume(run.root(), StudyKind::Demo).contains("train `resume`"));
        study().write(&run).unwrap();
        assert!(resume(run.root(), StudyKind::Ablate).contains("ptl-train compare `resume`"));
        std::fs::write(run.file(FILE), "seeds = 3\n").unwrap();
        assert!(resume(run.root(), StudyKind::Compare).contains("cannot be read"));
    }
}
