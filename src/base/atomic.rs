//! Replaces files atomically.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::base::error::IoContext;
use crate::base::write_guard::WriteGuard;

/// Writes `path` through a file beside it that is synced and renamed, so that `path` always has the whole old or the whole new content.
/// A link is followed; a device or a pipe is written to directly.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) with `path`. The old file is unchanged then, and nothing is left beside it.
pub(crate) fn atomic_write(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if fs::metadata(&target).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return File::options().write(true).open(&target).and_then(|mut special| write(&mut special)).at("write", path);
    }
    let _guard = WriteGuard::begin();
    let temporary = temporary_name(&target);
    let written = write_synced(&temporary, write).and_then(|()| fs::rename(&temporary, &target));
    if written.is_err() {
        // Errors of removing are ignored: the first error is reported.
        let _ = fs::remove_file(&temporary);
    }
    written.at("write", path)?;
    sync_folder(&target);
    Ok(())
}

/// Creates `path` and writes it, and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    write(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Returns the path of the temporary file. It is hidden, and always the same for a path, so that the next write overwrites what a killed
/// process left.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Makes the creation, renaming or removal of `path` durable by syncing its folder. Errors are ignored, as some file systems cannot do
/// this.
pub(crate) fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        atomic_write(&path, |file| file.write_all(b"old")).unwrap();
        let error = atomic_write(&path, |file| {
            file.write_all(b"half of the n")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot write {}: ", path.display())), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        atomic_write(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_stay_devices() {
        let folder = tempfile::tempdir().unwrap();
        let [real, link] = ["real", "link"].map(|name| folder.path().join(name));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        atomic_write(&link, |file| file.write_all(b"new")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
        let null = Path::new("/dev/null");
        atomic_write(null, |file| file.write_all(b"gone")).unwrap();
        assert!(!fs::metadata(null).unwrap().is_file());
    }

    #[test]
    fn a_missing_folder_is_one_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(atomic_write(&folder.path().join("no/file"), |_| Ok(())).is_err());
    }
}
