//! A lock that lets one process at a time write a run folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::Arc;

use crate::base::error::IoContext;
use crate::{Error, Result};

/// The locked file. It stays in the folder of a run: if it were removed, two processes could lock two files of this name.
pub(super) const LOCK_FILE: &str = ".lock";

/// A lock that is held until its last clone is dropped. The system releases it when the process ends.
#[derive(Clone, Debug)]
pub(super) struct Lock {
    _file: Arc<File>,
}

impl Lock {
    /// Locks the folder `root`. On a file system without locks, it does nothing.
    ///
    /// # Errors
    /// [`Error::RunBusy`] if another process, or another [`RunDir`](super::RunDir) of this one, holds the lock; [`Error::Io`].
    pub(super) fn take(root: &Path) -> Result<Lock> {
        let path = root.join(LOCK_FILE);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).at("write", &path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::RunBusy { path: root.into() }),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Lock { _file: Arc::new(file) }),
        }
    }
}
