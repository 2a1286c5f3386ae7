//! The crate's one error type. Variants carry the operands; `Display` says in one sentence what happened and what to do.

use std::path::PathBuf;

/// Everything that can go wrong, from a bad flag to a full disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing a file or folder failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Verb phrase: "read", "create", "write".
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// A setting has a value that cannot work.
    #[error("{setting} = {value}: {reason}")]
    Setting { setting: String, value: String, reason: String },
    // --- engine ---
    /// An op cannot take operands of these shapes.
    #[error("{op}: {detail}")]
    Shape { op: &'static str, detail: String },
    /// Evaluation from the mean latent state, but none was ever stored.
    #[error(
        "no latent state is stored for {cell}: evaluate with eval-state `zeros` or `normal`, or use the checkpoint of a \
         training run"
    )]
    NoLatentState { cell: String },
    // --- data ---
    // --- evaluation ---
    // --- run folder, checkpoints ---
    /// A configuration file says something that is no setting.
    #[error("{}, line {line}: {message}", path.display())]
    ConfigFile { path: PathBuf, line: usize, message: String },
    /// A new run would go into a folder that already has something in it.
    #[error("{} is not empty: choose another --out, or continue that run with --resume", path.display())]
    RunExists { path: PathBuf },
    /// A folder that was named as a run is none.
    #[error("{} is not a run folder: {reason}", path.display())]
    NotARun { path: PathBuf, reason: String },
    /// A checkpoint is broken or belongs to something else.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint { path: PathBuf, reason: String },
    /// The stored optimiser state belongs to another optimiser or network.
    #[error(
        "the stored optimiser state has {found}, but {needed} is needed: resume with the optimiser and network of that run"
    )]
    OptimizerState {
        /// Buffers and their lengths.
        needed: String,
        found: String,
    },
}

/// `std::result::Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Attaches the path and the verb to an I/O error.
pub trait IoContext<T> {
    /// `action` is a verb phrase such as "read" or "create".
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.into(), source })
    }
}
