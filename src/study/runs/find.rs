//! Where finished runs lie.

use std::fs;
use std::path::{Path, PathBuf};

use crate::base::error::IoContext;
use crate::run_dir::RunDir;
use crate::{Error, Result};

/// Levels of folders below a named one in which runs are looked for: a study has `seed-0/plain`.
const LEVELS: usize = 3;

/// The finished runs that `paths` are or hold, in this order, those of a folder by name; each once.
///
/// # Errors
/// A folder without runs, and a run that has not finished: [`Error::NotARun`]; [`Error::Io`].
pub(super) fn runs(paths: &[PathBuf]) -> Result<Vec<RunDir>> {
    let (mut found, mut seen) = (Vec::new(), Vec::new());
    for path in paths {
        let mut below = Vec::new();
        collect(path, LEVELS, &mut below)?;
        if below.is_empty() {
            // Says what is there instead.
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

/// Adds the runs at or below `folder`. Settings without results are those of a study where runs lie below, and else those
/// of a run that has not finished.
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
