//! The checkpoints of a run. Each is a folder `step-N` that is created and removed atomically. If a process is killed while it does so,
//! the process that resumes the run repairs what it left (`heal`).

use std::fs;
use std::path::{Path, PathBuf};

use super::record::{Best, Record};
use super::saved::is_whole;
use crate::Result;
use crate::base::atomic::sync_folder;
use crate::base::error::IoContext;

/// Folder in which earlier versions kept a copy of the best checkpoint.
const BEST: &str = "best";

/// Returns the name of the checkpoint after `step` updates. The checkpoint of step 0 holds the initial weights; it is removed once
/// there is a newer one.
pub(crate) fn name(step: u64) -> String {
    format!("step-{step}")
}

/// Returns the path of the best checkpoint in `folder`.
pub fn of_best(folder: &Path, best: &Best) -> PathBuf {
    folder.join(best.step.map_or_else(|| BEST.into(), name))
}

/// Returns the checkpoint in `folder` with the most steps.
pub fn newest(folder: &Path) -> Option<PathBuf> {
    all(folder).pop().map(|(_, path)| path)
}

/// Returns the best checkpoint in `folder` if the run looked for one, else the newest; `None` before the first update.
///
/// # Errors
/// The record of the newest checkpoint cannot be read.
pub fn newest_or_best(folder: &Path) -> Result<Option<PathBuf>> {
    let Some((_, newest)) = all(folder).pop().filter(|(step, _)| *step > 0) else { return Ok(None) };
    let best = match Record::read(&newest)? {
        Some(record) => record.best.map(|best| of_best(folder, &best)),
        None => Some(folder.join(BEST)).filter(|best| best.is_dir()),
    };
    Ok(Some(best.unwrap_or(newest)))
}

/// Lets `write` fill a temporary folder, renames it to `name` in `folder`, and returns its path.
///
/// # Errors
/// `write` fails, or the disk is full or not writable. Existing checkpoints are not touched.
pub(crate) fn place(folder: &Path, name: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let (temporary, target) = (folder.join(format!(".{name}.tmp")), folder.join(name));
    if temporary.exists() {
        fs::remove_dir_all(&temporary).at("remove", &temporary)?;
    }
    fs::create_dir_all(&temporary).at("create", &temporary)?;
    if let Err(error) = write(&temporary) {
        // Frees the space; the first error is the one that matters.
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    // A run never saves a step twice. If the folder exists all the same, `heal` repairs an interruption between these two calls.
    remove(&target)?;
    fs::rename(&temporary, &target).at("create", &target)?;
    sync_folder(&target);
    Ok(target)
}

/// Removes a checkpoint if it exists. Renames it first: a folder with the name of a checkpoint is always complete.
fn remove(path: &Path) -> Result<()> {
    let Some(name) = path.file_name().filter(|_| path.exists()) else { return Ok(()) };
    let old = path.with_file_name(format!(".{}.old", name.to_string_lossy()));
    if old.exists() {
        fs::remove_dir_all(&old).at("remove", &old)?;
    }
    fs::rename(path, &old).at("remove", path)?;
    fs::remove_dir_all(&old).at("remove", &old)
}

/// Repairs what a killed process left: gives a complete checkpoint its name if no other has it, and removes the rest.
///
/// # Errors
/// A folder cannot be renamed or removed.
pub(crate) fn heal(folder: &Path) -> Result<()> {
    // `.tmp` first: it is newer than the `.old` that it was to replace.
    for ending in [".tmp", ".old"] {
        for path in folders(folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(name) = name.strip_prefix('.').and_then(|name| name.strip_suffix(ending)) else { continue };
            if name != BEST && step(name).is_none() {
                continue;
            }
            let target = folder.join(name);
            if !target.exists() && is_whole(&path) {
                fs::rename(&path, &target).at("create", &target)?;
            } else {
                fs::remove_dir_all(&path).at("remove", &path)?;
            }
        }
    }
    sync_folder(&folder.join(BEST));
    Ok(())
}

/// Removes all checkpoints but the newest `keep` and the best.
///
/// # Errors
/// A folder cannot be removed.
pub(crate) fn prune(folder: &Path, keep: usize, best: Option<&Best>) -> Result<()> {
    let best = best.map(|best| of_best(folder, best));
    let all = all(folder);
    let trained = all.iter().filter(|(step, _)| *step > 0).count();
    for (at, (step, path)) in all.iter().enumerate() {
        let newest = at + keep >= all.len() && (*step > 0 || trained == 0);
        if !newest && best.as_ref() != Some(path) {
            remove(path)?;
        }
    }
    let copy = folder.join(BEST);
    if best.as_ref() != Some(&copy) { remove(&copy) } else { Ok(()) }
}

fn step(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Returns the checkpoints with their steps, in ascending order.
fn all(folder: &Path) -> Vec<(u64, PathBuf)> {
    let folders = folders(folder).into_iter();
    let mut found: Vec<(u64, PathBuf)> =
        folders.filter_map(|path| Some((step(path.file_name()?.to_str()?)?, path))).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MODEL_FILE, Position, TRAINING_FILE};

    fn checkpoint(path: &Path, whole: bool) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join(MODEL_FILE), "weights").unwrap();
        if whole {
            fs::write(path.join(TRAINING_FILE), "moments").unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let step = name.strip_prefix("step-").map_or(0, |step| step.parse().unwrap_or(0));
            Record { position: Position { step, ..Position::default() }, ..Record::default() }.write(path).unwrap();
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            folders(folder).iter().map(|path| path.file_name().unwrap().to_string_lossy().into()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_kill_left_is_used_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let left = [(".step-2.old", true), (".step-2.tmp", true), (".step-4.tmp", false), (".step-1.old", false)];
        left.into_iter().for_each(|(name, whole)| checkpoint(&path.join(name), whole));
        checkpoint(&path.join("step-3"), true);
        checkpoint(&path.join(".step-3.tmp"), true);
        checkpoint(&path.join(".another.tmp"), true);
        fs::write(path.join(".step-2.tmp/new"), "").unwrap();
        heal(path).unwrap();
        assert_eq!(names(path), [".another.tmp", "step-2", "step-3"]);
        assert!(path.join("step-2/new").exists(), "the newer of two");
    }

    #[test]
    fn the_newest_and_the_best_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        ["step-0", "step-9", "step-10", "step-11", "best"].iter().for_each(|name| checkpoint(&path.join(name), true));
        let best = |step| Best { score: 0.5, epoch: 1, evaluations_since: 1, step };
        prune(path, 2, Some(&best(None))).unwrap();
        assert_eq!(names(path), ["best", "step-10", "step-11"]);
        prune(path, 1, Some(&best(Some(10)))).unwrap();
        assert_eq!(names(path), ["step-10", "step-11"]);
        prune(path, 1, None).unwrap();
        assert_eq!(names(path), ["step-11"]);
    }

    #[test]
    fn step_0_is_no_trained_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        checkpoint(&path.join("step-0"), true);
        prune(path, 2, None).unwrap();
        assert_eq!(newest(path), Some(path.join("step-0")));
        assert_eq!(newest_or_best(path).unwrap(), None);
        checkpoint(&path.join("step-5"), true);
        assert_eq!(newest_or_best(path).unwrap(), Some(path.join("step-5")));
        let best = Some(Best { score: 0.5, epoch: 1, evaluations_since: 1, step: Some(3) });
        let position = Position { step: 5, ..Position::default() };
        Record { best, position, ..Record::default() }.write(&path.join("step-5")).unwrap();
        assert_eq!(newest_or_best(path).unwrap(), Some(path.join("step-3")));
    }
}
