//! One writer for each run folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::Arc;

use crate::base::error::IoContext;
use crate::{Error, Result};

/// The file that is locked. It stays in the folder of a run that has begun: to remove it would let two processes lock two files of this
/// name.
pub(super) const LOCK_FILE: &str = ".lock";

/// Held as long as one of its clones lives. The system gives it back when the process ends, however that ends.
#[derive(Clone, Debug)]
pub(super) struct Lock {
    _file: Arc<File>,
}

impl Lock {
    /// Takes the lock of the folder `root`. A file system that has no locks gives one that keeps nobody out.
    ///
    /// # Errors
    /// [`Error::RunBusy`] if another process has it, or another [`RunDir`](super::RunDir) of this one; [`Error::Io`].
    pub fn take(root: &Path) -> Result<Lock> {
        let path = root.join(LOCK_FILE);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).at("write", &path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::RunBusy { path: root.into() }),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Lock { _file: Arc::new(file) }),
        }
    }
}
