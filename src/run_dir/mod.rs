//! The folder of a run: settings, log, metrics, checkpoints, summary. An existing run is never overwritten, and every file
//! that replaces another one does so in one step.

mod atomic;
mod utc;

pub use atomic::{atomic_write, write_csv};
pub use utc::UtcTime;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::config::{Config, Overrides};
use crate::error::IoContext;
use crate::{Error, Result};

/// Where runs go that are given no folder.
pub const RUNS: &str = "runs";

/// A line for each image or query that was measured.
pub const ITEMS_FILE: &str = "items.csv";

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// Makes the folder `path`, and those above it.
    ///
    /// # Errors
    /// [`Error::RunExists`] if there is a file or a folder that is not empty; [`Error::Io`].
    pub fn create(path: &Path) -> Result<RunDir> {
        match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(Error::RunExists { path: path.into() });
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => fs::create_dir_all(path).at("create", path)?,
            Err(e) => return Err(e).at("create a run in", path),
        }
        RunDir { root: path.into() }.with_checkpoints()
    }

    /// Makes `parent/DATE_TIME-name`, with a number behind it where that is taken.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create_in(parent: &Path, name: &str) -> Result<RunDir> {
        fs::create_dir_all(parent).at("create", parent)?;
        let stem = format!("{}-{name}", UtcTime::now().file_stamp());
        let mut root = parent.join(&stem);
        let mut number = 2;
        loop {
            match fs::create_dir(&root) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    root = parent.join(format!("{stem}-{number}"));
                    number += 1;
                }
                made => {
                    made.at("create", &root)?;
                    return RunDir { root }.with_checkpoints();
                }
            }
        }
    }

    /// An existing run, to continue or evaluate.
    ///
    /// # Errors
    /// [`Error::NotARun`] where there is no folder with a config.toml.
    pub fn open(path: &Path) -> Result<RunDir> {
        RunDir::view(path)?.with_checkpoints()
    }

    /// An existing run, only to be read: nothing is made in it.
    ///
    /// # Errors
    /// As [`RunDir::open`].
    pub fn view(path: &Path) -> Result<RunDir> {
        let run = RunDir { root: path.into() };
        let reason = if !path.exists() {
            "there is nothing of that name"
        } else if !path.is_dir() {
            "it is a file"
        } else if !run.config_path().is_file() {
            "it has no config.toml"
        } else {
            return Ok(run);
        };
        Err(Error::NotARun { path: path.into(), reason: reason.into() })
    }

    fn with_checkpoints(self) -> Result<RunDir> {
        let checkpoints = self.checkpoints();
        fs::create_dir_all(&checkpoints).at("create", checkpoints)?;
        Ok(self)
    }

    /// Removes a run that ended before it had settings: its weights did not fit, for one. The next try may have the folder.
    /// What cannot be removed stays.
    pub fn discard_unstarted(&self) {
        if !self.config_path().exists() {
            let _ = fs::remove_file(self.log_path());
            let _ = fs::remove_dir(self.checkpoints());
            let _ = fs::remove_dir(&self.root);
        }
    }

    /// Removes the results of an earlier end of the run: it goes on, and they would be taken for its own.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard_results(&self) -> Result<()> {
        for path in [self.summary_path(), self.items_path()] {
            if path.exists() {
                fs::remove_file(&path).at("remove", &path)?;
            }
        }
        Ok(())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder of the checkpoints; it exists.
    pub fn checkpoints(&self) -> PathBuf {
        self.file("checkpoints")
    }

    /// The effective settings.
    pub fn config_path(&self) -> PathBuf {
        self.file("config.toml")
    }

    /// What the reporter said, with times.
    pub fn log_path(&self) -> PathBuf {
        self.file("log.txt")
    }

    /// One JSON object a line.
    pub fn metrics_path(&self) -> PathBuf {
        self.file("metrics.jsonl")
    }

    /// The picture of the losses.
    pub fn curves_path(&self) -> PathBuf {
        self.file("curves.svg")
    }

    /// What became of each image that was measured, written at the run's end:
    /// [by class](crate::eval::classification::ClassificationReport::write_items_csv), or
    /// [by query](crate::eval::ranking::write_queries_csv).
    pub fn items_path(&self) -> PathBuf {
        self.file(ITEMS_FILE)
    }

    /// The results.
    pub fn summary_path(&self) -> PathBuf {
        self.file("summary.json")
    }

    /// Writes the effective settings.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_config(&self, config: &Config) -> Result<()> {
        atomic_write(&self.config_path(), |file| file.write_all(config.to_toml().as_bytes()))
    }

    /// The settings the run was started with, with `flags` over them.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read_config(&self, flags: &Overrides) -> Result<Config> {
        Config::load_stored(&self.config_path(), flags)
    }

    /// Writes the results.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_summary(&self, summary: &impl Serialize) -> Result<()> {
        atomic_write(&self.summary_path(), |file| {
            serde_json::to_writer_pretty(&mut *file, summary)?;
            file.write_all(b"\n")
        })
    }

    /// The metrics, to be continued. Lines for which `keep` is false are dropped, and so is one that was cut off: a run that
    /// resumes from a checkpoint repeats what came after it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn metrics(&self, keep: impl Fn(&Value) -> bool) -> Result<Metrics> {
        let path = self.metrics_path();
        if path.exists() {
            let text = fs::read_to_string(&path).at("read", &path)?;
            let kept: String = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n') && serde_json::from_str(line).is_ok_and(|value| keep(&value)))
                .collect();
            if kept != text {
                atomic_write(&path, |file| file.write_all(kept.as_bytes()))?;
            }
        }
        Metrics::append_to(path)
    }
}

/// An open metrics.jsonl.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    fn append_to(path: PathBuf) -> Result<Metrics> {
        let file = OpenOptions::new().create(true).append(true).open(&path).at("write", &path)?;
        Ok(Metrics { path, file })
    }

    /// Appends `record` as one line, with one write.
    ///
    /// # Errors
    /// [`Error::Io`]: the disk is full, for one.
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(record).map_err(std::io::Error::from).at("write", &self.path)?;
        self.file.write_all(format!("{line}\n").as_bytes()).at("write", &self.path)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_existing_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let run = RunDir::create(&path).unwrap();
        run.write_config(&Config::default()).unwrap();
        let error = RunDir::create(&path).unwrap_err();
        assert!(matches!(error, Error::RunExists { .. }));
        assert!(error.to_string().ends_with("choose another --out, or continue that run with --resume"), "{error}");
        let file = run.config_path();
        let before = fs::read(&file).unwrap();
        assert!(matches!(RunDir::create(&file), Err(Error::Io { .. })));
        assert_eq!(fs::read(&file).unwrap(), before);
        // An empty folder is as good as none.
        RunDir::create(&folder.path().join("a/c")).unwrap();
        fs::create_dir(folder.path().join("empty")).unwrap();
        RunDir::create(&folder.path().join("empty")).unwrap();
    }

    #[test]
    fn default_names_never_collide() {
        let folder = tempfile::tempdir().unwrap();
        let parent = folder.path().join("runs");
        let roots: Vec<PathBuf> =
            (0..4).map(|_| RunDir::create_in(&parent, "train").unwrap().root().to_owned()).collect();
        for (i, root) in roots.iter().enumerate() {
            assert!(root.join("checkpoints").is_dir());
            assert!(!roots[..i].contains(root));
        }
    }

    #[test]
    fn config_survives() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(&folder.path().join("run")).unwrap();
        let mut config = Config { seed: 9, ..Config::default() };
        config.model.arch = "resnet18-ptl".into();
        run.write_config(&config).unwrap();
        let run = RunDir::open(run.root()).unwrap();
        assert_eq!(run.read_config(&Overrides::default()).unwrap(), config);
    }

    #[test]
    fn open_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        for (path, reason) in [
            (folder.path().join("x"), "there is nothing of that name"),
            (folder.path().into(), "it has no config.toml"),
        ] {
            let error = RunDir::open(&path).unwrap_err().to_string();
            assert!(error.ends_with(&format!("is not a run folder: {reason}")), "{error}");
        }
    }

    #[test]
    fn metrics_continue_behind_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(&folder.path().join("run")).unwrap();
        let mut metrics = run.metrics(|_| true).unwrap();
        for step in 1..=3 {
            metrics.write(&json!({"step": step})).unwrap();
        }
        metrics.file.write_all(b"{\"step\": 4, \"lo").unwrap();
        drop(metrics);
        let mut metrics = run.metrics(|record| record["step"].as_u64() <= Some(2)).unwrap();
        metrics.write(&json!({"step": 3, "again": true})).unwrap();
        let text = fs::read_to_string(run.metrics_path()).unwrap();
        assert_eq!(text, "{\"step\":1}\n{\"step\":2}\n{\"again\":true,\"step\":3}\n");
    }

    #[test]
    fn summary_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(&folder.path().join("run")).unwrap();
        for map in [12.5, 30.0] {
            run.write_summary(&json!({"plain": {"mAP": map}})).unwrap();
            let read: Value = serde_json::from_slice(&fs::read(run.summary_path()).unwrap()).unwrap();
            assert_eq!(read["plain"]["mAP"], map);
        }
    }
}
