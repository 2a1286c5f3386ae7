//! Finds finished runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::base::error::IoContext;
use crate::run_dir::RunDir;
use crate::{Error, Result};

/// Levels of folders that are searched below a given one: a study has `seed-0/plain`.
const LEVELS: usize = 3;

/// Returns the finished runs in `paths`, each once. A path is a run or a folder of runs. Keeps the order of `paths`, and sorts the runs
/// of a folder by name.
///
/// # Errors
/// [`Error::NotARun`]: a folder without runs, or a run that has not finished; [`Error::Io`].
pub(super) fn runs(paths: &[PathBuf]) -> Result<Vec<RunDir>> {
    let (mut found, mut seen) = (Vec::new(), Vec::new());
    for path in paths {
        let mut below = Vec::new();
        collect(path, LEVELS, &mut below)?;
        if below.is_empty() {
            // Returns an error that says what is there.
            RunDir::view(path)?;
        }
        for run in below {
            let real = fs::canonicalize(run.root()).at("read", run.root())?;
            if !seen.contains(&real) {
                seen.push(real);
                found.push(run);
            }
        }
    }
    Ok(found)
}

/// Adds the runs at or below `folder`. A folder with settings but without results is a study if there are runs below it, and else a run
/// that has not finished.
fn collect(folder: &Path, levels: usize, found: &mut Vec<RunDir>) -> Result<()> {
    let run = RunDir::view(folder);
    if let Ok(run) = &run
        && run.items_path().is_file()
    {
        found.push(run.clone());
        return Ok(());
    }
    let before = found.len();
    if levels > 0 && folder.is_dir() {
        let entries = fs::read_dir(folder).at("read", folder)?;
        let mut below =
            entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().at("read", folder)?;
        below.sort();
        below.iter().filter(|path| path.is_dir()).try_for_each(|path| collect(path, levels - 1, found))?;
    }
    match run {
        Ok(_) if found.len() == before => Err(Error::NotARun {
            path: folder.into(),
            reason: "it has no items.csv, so it has not finished, or an older version made it: finish it with \
                     train `resume`"
                .into(),
        }),
        _ => Ok(()),
    }
}
