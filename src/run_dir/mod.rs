//! The folder of a run: settings, log, metrics, checkpoints, summary. An existing run is never overwritten, files are replaced
//! atomically, and only one process at a time writes a run.

mod lock;
mod metrics;
mod tensorboard;

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::base::atomic::atomic_write;
use crate::base::error::IoContext;
use crate::base::utc::UtcTime;
use crate::config::{Config, Overrides};
use crate::eval::ITEMS_FILE;
use crate::eval::classification::{CONFUSION_FILE, PER_CLASS_FILE};
use crate::{Error, Result};
use lock::{LOCK_FILE, Lock};
pub(crate) use metrics::LARGEST;
pub use metrics::Metrics;

/// The folder, in the working directory, for runs for which no folder is named.
pub const RUNS: &str = "runs";

const CONFIG_FILE: &str = "config.toml";
const LOG_FILE: &str = "log.txt";
const METRICS_FILE: &str = "metrics.jsonl";
/// Folder of the event file for TensorBoard.
const TENSORBOARD: &str = "tensorboard";
const CHECKPOINTS: &str = "checkpoints";
const SUMMARY_FILE: &str = "summary.json";
/// Picture of the confusion matrix of a classifier.
pub(crate) const CONFUSION_PICTURE: &str = "confusion.svg";
/// Picture of the calibration of a classifier.
pub(crate) const CALIBRATION_PICTURE: &str = "calibration.svg";
/// What a run writes at its end; the last four for classes only.
const RESULTS: [&str; 6] =
    [SUMMARY_FILE, ITEMS_FILE, PER_CLASS_FILE, CONFUSION_FILE, CONFUSION_PICTURE, CALIBRATION_PICTURE];
/// What the folder of a run may hold before its first checkpoint.
const BEFORE_FIRST_CHECKPOINT: [&str; 6] =
    [LOCK_FILE, LOG_FILE, CONFIG_FILE, ".config.toml.tmp", METRICS_FILE, CHECKPOINTS];

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
    /// `None` if the run is only read.
    _lock: Option<Lock>,
    /// Whether another process writes the run, and what is written here is dropped.
    follows: bool,
    /// Folders that were created for the run, the innermost first: its own folder, and folders above it.
    made: Vec<PathBuf>,
}

impl RunDir {
    /// Creates the folder `path`, and those above it. Reuses a folder with only the remains of a run that ended before its first
    /// checkpoint, and continues its log.
    ///
    /// # Errors
    /// [`Error::RunExists`] if the folder holds a run, [`Error::FolderNotEmpty`] if it holds anything else; [`Error::RunBusy`] while
    /// another process writes it; [`Error::Io`].
    pub fn create(path: &Path) -> Result<RunDir> {
        let made = missing(path);
        match fs::read_dir(path) {
            Ok(_) => refuse_content(path)?,
            Err(e) if e.kind() == ErrorKind::NotFound => fs::create_dir_all(path).at("create", path)?,
            Err(e) => return Err(e).at("create a run in", path),
        }
        let run = RunDir { root: path.into(), _lock: Some(Lock::take(path)?), follows: false, made };
        // Another process may have begun a run before this one had the lock.
        refuse_content(path)?;
        for file in [run.config_path(), run.metrics_path()] {
            remove_if_there(&file)?;
        }
        let checkpoints = run.checkpoints();
        if checkpoints.exists() {
            fs::remove_dir_all(&checkpoints).at("remove", &checkpoints)?;
        }
        run.with_checkpoints()
    }

    /// Creates the folder `parent/DATE_TIME-name`, with a number at the end if that exists.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn create_in(parent: &Path, name: &str) -> Result<RunDir> {
        let mut made = missing(parent);
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
                created => {
                    created.at("create", &root)?;
                    made.insert(0, root.clone());
                    let _lock = Some(Lock::take(&root)?);
                    return RunDir { root, _lock, follows: false, made }.with_checkpoints();
                }
            }
        }
    }

    /// Opens an existing run to continue it. No other process can continue it until the returned value and all its clones are dropped.
    ///
    /// # Errors
    /// [`Error::NotARun`] if there is no folder with a config.toml; [`Error::RunBusy`] while another process writes it; [`Error::Io`].
    pub fn open(path: &Path) -> Result<RunDir> {
        let run = RunDir::view(path)?;
        RunDir { _lock: Some(Lock::take(path)?), ..run }.with_checkpoints()
    }

    /// Opens an existing run to read it. Creates nothing in it; another process may be writing it.
    ///
    /// # Errors
    /// [`Error::NotARun`] if there is no folder with a config.toml; [`Error::Io`].
    pub fn view(path: &Path) -> Result<RunDir> {
        let run = RunDir { root: path.into(), _lock: None, follows: false, made: Vec::new() };
        let reason = if !path.exists() {
            "it does not exist"
        } else if !path.is_dir() {
            "it is a file"
        } else if run.config_path().is_file() {
            return Ok(run);
        } else if names(path)?.is_empty() {
            "it is empty: start a run there, with this folder as `out`"
        } else if may_be_used(path)? {
            "it ended before its first checkpoint: start it again, with this folder as `out`"
        } else {
            "it has no config.toml: name the folder that a run was started with, its `out`"
        };
        Err(Error::NotARun { path: path.into(), reason: reason.into() })
    }

    /// Returns the run in the folder `root` for a process that trains together with the one that writes it: settings, metrics and results that
    /// are written here are dropped.
    pub fn follow(root: &Path) -> RunDir {
        RunDir { root: root.into(), _lock: None, follows: true, made: Vec::new() }
    }

    fn with_checkpoints(self) -> Result<RunDir> {
        let checkpoints = self.checkpoints();
        fs::create_dir_all(&checkpoints).at("create", checkpoints)?;
        Ok(self)
    }

    /// Removes the folder of a run that ended before its settings were written, for example because its weights did not fit, and the
    /// folders above it that were created for it. Ignores what cannot be removed.
    pub(crate) fn discard_unstarted(&self) {
        if !self.follows && !self.config_path().exists() {
            let _ = fs::remove_file(self.log_path());
            let _ = fs::remove_dir_all(self.checkpoints());
            let _ = fs::remove_file(self.file(LOCK_FILE));
            self.made.iter().take_while(|folder| fs::remove_dir(folder).is_ok()).count();
        }
    }

    /// Removes the results that a run wrote at an earlier end. If the run continues, they would be mistaken for its own.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn discard_results(&self) -> Result<()> {
        if self.follows {
            return Ok(());
        }
        RESULTS.iter().try_for_each(|name| remove_if_there(&self.file(name)))
    }

    /// Returns the path of the folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of the file `name` in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns the path of the folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.file(CHECKPOINTS)
    }

    /// Returns the path of the effective settings.
    pub fn config_path(&self) -> PathBuf {
        self.file(CONFIG_FILE)
    }

    /// Returns the path of the log: messages with times.
    pub fn log_path(&self) -> PathBuf {
        self.file(LOG_FILE)
    }

    /// Returns the path of the metrics: one JSON object per line.
    pub fn metrics_path(&self) -> PathBuf {
        self.file(METRICS_FILE)
    }

    /// Returns the path of the results for each image, which are written at the end of the run:
    /// [by class](crate::eval::classification::ClassificationReport::write_items_csv), or
    /// [by query](crate::eval::ranking::write_queries_csv).
    pub fn items_path(&self) -> PathBuf {
        self.file(ITEMS_FILE)
    }

    /// Returns the path of the summary of the results.
    pub fn summary_path(&self) -> PathBuf {
        self.file(SUMMARY_FILE)
    }

    /// Writes the effective settings.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_config(&self, config: &Config) -> Result<()> {
        if self.follows {
            return Ok(());
        }
        atomic_write(&self.config_path(), |file| file.write_all(config.to_toml().as_bytes()))
    }

    /// Returns the settings of the run, overridden by `flags`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read_config(&self, flags: &Overrides) -> Result<Config> {
        Config::load_stored(&self.config_path(), flags)
    }

    /// Writes the summary of the results.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_summary(&self, summary: &impl Serialize) -> Result<()> {
        if self.follows {
            return Ok(());
        }
        atomic_write(&self.summary_path(), |file| {
            serde_json::to_writer_pretty(&mut *file, summary)?;
            file.write_all(b"\n")
        })
    }

    /// Returns the folder of the event file for TensorBoard.
    pub fn tensorboard_path(&self) -> PathBuf {
        self.root.join(TENSORBOARD)
    }

    /// Opens the metrics to continue them after their first `length` bytes. If that length is not known, keeps the lines for which `keep`
    /// is true: see [`Metrics::resume`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn metrics(&self, length: Option<u64>, keep: impl Fn(&Value) -> bool) -> Result<Metrics> {
        if self.follows { Ok(Metrics::nowhere()) } else { Metrics::resume(self.metrics_path(), length, keep) }
    }
}

/// Returns `path` and the folders above it that do not exist, the innermost first.
fn missing(path: &Path) -> Vec<PathBuf> {
    let folders = path.ancestors().filter(|folder| !folder.as_os_str().is_empty());
    folders.take_while(|folder| !folder.exists()).map(Path::to_path_buf).collect()
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).at("remove", path),
        _ => Ok(()),
    }
}

/// Refuses a folder with content that a new run must not touch.
fn refuse_content(root: &Path) -> Result<()> {
    if may_be_used(root)? {
        Ok(())
    } else if root.join(CONFIG_FILE).is_file() {
        Err(Error::RunExists { path: root.into() })
    } else {
        Err(Error::FolderNotEmpty { path: root.into() })
    }
}

/// Returns whether the folder holds at most the remains of a run that ended before its first checkpoint. That checkpoint is complete
/// before the settings are written.
fn may_be_used(root: &Path) -> Result<bool> {
    let begun = root.join(CONFIG_FILE).exists();
    let (all, checkpoints) = (names(root)?, root.join(CHECKPOINTS));
    if !all.iter().all(|name| BEFORE_FIRST_CHECKPOINT.iter().any(|known| OsStr::new(known) == name)) {
        return Ok(false);
    }
    let inside = if checkpoints.is_dir() { names(&checkpoints)? } else { Vec::new() };
    Ok(inside.iter().all(|name| !begun && [".step-0.tmp", "step-0"].iter().any(|first| OsStr::new(first) == name)))
}

fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(folder).at("read", folder)?;
    entries.map(|entry| Ok(entry.at("read", folder)?.file_name())).collect()
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
        fs::create_dir(run.checkpoints().join("step-0")).unwrap();
        let error = RunDir::create(&path).unwrap_err();
        assert!(matches!(error, Error::RunExists { .. }));
        assert!(error.to_string().ends_with("choose another `out`, or continue that run with `resume`"), "{error}");
        let file = run.config_path();
        let before = fs::read(&file).unwrap();
        assert!(matches!(RunDir::create(&file), Err(Error::Io { .. })));
        assert_eq!(fs::read(&file).unwrap(), before);
        // An empty folder may be used.
        RunDir::create(&folder.path().join("a/c")).unwrap();
        fs::create_dir(folder.path().join("empty")).unwrap();
        RunDir::create(&folder.path().join("empty")).unwrap();
        let error = RunDir::create(folder.path()).unwrap_err();
        assert!(matches!(error, Error::FolderNotEmpty { .. }), "{error}");
    }

    /// A run without its first checkpoint and settings is started again; a run with them is resumed.
    #[test]
    fn a_run_that_never_started_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let run = RunDir::create(&path).unwrap();
        fs::write(run.log_path(), "said\n").unwrap();
        fs::create_dir(run.checkpoints().join("step-0")).unwrap();
        drop(run);
        let error = RunDir::open(&path).unwrap_err().to_string();
        assert!(error.ends_with("start it again, with this folder as `out`"), "{error}");
        let run = RunDir::create(&path).unwrap();
        assert_eq!(fs::read_to_string(run.log_path()).unwrap(), "said\n");
        assert_eq!(fs::read_dir(run.checkpoints()).unwrap().count(), 0);
        // Weights without settings are not overwritten.
        fs::create_dir(run.checkpoints().join("step-7")).unwrap();
        drop(run);
        assert!(matches!(RunDir::create(&path), Err(Error::FolderNotEmpty { .. })));
    }

    #[test]
    fn one_process_at_a_time_writes_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let run = RunDir::create(&path).unwrap();
        run.write_config(&Config::default()).unwrap();
        let clone = run.clone();
        drop(run);
        for refused in [RunDir::open(&path), RunDir::create(&path)] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::RunBusy { .. }), "{error}");
        }
        RunDir::view(&path).unwrap();
        drop(clone);
        RunDir::open(&path).unwrap();
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
        let run = RunDir::view(run.root()).unwrap();
        assert_eq!(run.read_config(&Overrides::default()).unwrap(), config);
    }

    #[test]
    fn open_says_why_not() {
        let [folder, full] = [0, 1].map(|_| tempfile::tempdir().unwrap());
        let other = full.path().to_path_buf();
        fs::write(other.join("notes.txt"), "").unwrap();
        for (path, reason) in [
            (folder.path().join("x"), "it does not exist"),
            (folder.path().into(), "it is empty: start a run there, with this folder as `out`"),
            (other, "it has no config.toml: name the folder that a run was started with, its `out`"),
        ] {
            let error = RunDir::open(&path).unwrap_err().to_string();
            assert!(error.ends_with(&format!("is not a run folder: {reason}")), "{error}");
        }
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
