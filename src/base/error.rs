//! The crate's one error type. Variants carry the operands; `Display` says in one sentence what happened and what to do.

use crate::base::text::{Shown, are, plural, shortened};
use std::path::PathBuf;

/// Everything that can go wrong, from a bad flag to a full disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing a file or folder failed.
    #[error("cannot {action} {}: {source}", path.shown())]
    Io {
        /// Verb phrase: "read", "create", "write".
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// A setting has a value that cannot work.
    #[error("{setting} = {}: {reason}", shortened(value))]
    Setting { setting: String, value: String, reason: String },
    /// A file is expected, and there is something else.
    #[error("{} is {what}: name a regular file", path.shown())]
    NotAFile {
        path: PathBuf,
        /// With its article: "a pipe".
        what: &'static str,
    },
    /// A file is larger than anything of its kind.
    #[error("{} is larger than {} MiB: nothing of its kind is", path.shown(), limit >> 20)]
    FileTooLarge {
        path: PathBuf,
        /// Bytes.
        limit: u64,
    },
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
    /// More memory is needed than this process may still take.
    #[error("{purpose} needs {} MiB, {} MiB are available ({limit}): {advice}", needed.div_ceil(1 << 20), available >> 20)]
    OutOfMemory {
        purpose: String,
        needed: u64,
        available: u64,
        /// Who sets the limit.
        limit: &'static str,
        advice: String,
    },
    /// The loss or the gradient is NaN or infinite.
    #[error(
        "the {what} became {value} at learning rate {lr:e}: lower `optim.lr`, add `schedule.warmup_epochs` or clip the gradient with \
         `optim.clip_norm` (batch: {})", files.join(", ")
    )]
    NonFinite { what: &'static str, value: f64, lr: f64, files: Vec<String> },
    // --- devices ---
    /// A device cannot be used: no driver, an old library, a build without kernels.
    #[error("{device}: {reason}")]
    NoDevice { device: &'static str, reason: String },
    /// Work on a device failed.
    #[error("{device}, {action}: {reason}")]
    Device { device: &'static str, action: String, reason: String },
    /// A device's memory is too small.
    #[error(
        "{purpose} needs {} MiB on the GPU, {} of {} MiB are free: {advice}", needed >> 20, free >> 20, total >> 20
    )]
    DeviceMemory { purpose: String, needed: u64, free: u64, total: u64, advice: String },
    // --- data ---
    /// A folder that is no data set.
    #[error("{} cannot be read as a data set: {reason}", path.shown())]
    NotADataset { path: PathBuf, reason: String },
    /// A line of a list of images that says something else.
    #[error("{}, line {line}: {reason}", path.shown())]
    ListLine { path: PathBuf, line: usize, reason: String },
    /// A list names images that are not there.
    #[error(
        "{missing} of {} that {} names {} not there, the first is {}: {advice}",
        plural(*total, "image", "images"), list.shown(), are(*missing), first.shown()
    )]
    MissingImages {
        list: PathBuf,
        missing: usize,
        total: usize,
        first: PathBuf,
        /// What may be done.
        advice: &'static str,
    },
    /// A MATLAB file that is broken, of another version, or holds something else.
    #[error("MATLAB file {}: {reason}", path.shown())]
    MatFile { path: PathBuf, reason: String },
    /// A subset without images.
    #[error("{dataset} has no {subset} images")]
    NoImages { subset: &'static str, dataset: String },
    /// Classes of one image each, of which none can be held out.
    #[error(
        "{dataset} has one image of each class, which is needed for training: give two or more of a class, or images for validation"
    )]
    SingleImages { dataset: String },
    /// A batch needs more identities than there are.
    #[error("{dataset} has {}, a batch needs {needed}: lower `sampler.ids`", plural(*found, "training identity", "training identities"))]
    TooFewIdentities { dataset: String, found: usize, needed: usize },
    /// A classifier of one class has nothing to learn.
    #[error(
        "{dataset} has {} with training images, a classifier needs at least 2: name the folder that holds a folder for each class, or add classes",
        plural(*found, "class", "classes")
    )]
    TooFewClasses { dataset: String, found: usize },
    /// A batch is larger than the training set.
    #[error(
        "a batch has {batch} images, {dataset} has {images} for training: lower `sampler.batch` to at most {images}"
    )]
    BatchTooLarge { dataset: String, batch: usize, images: usize },
    /// Nothing can be measured.
    #[error("none of the queries of {dataset} ({queries} in all) has a match from another camera in the gallery")]
    NoCrossCameraMatch { dataset: String, queries: usize },
    /// Files that cannot be decoded.
    #[error(
        "{count} of {} cannot be decoded, the first is {} ({reason}): repair or remove them, or pass `data.skip_broken`",
        plural(*total, "image", "images"), path.shown()
    )]
    BrokenImages { count: usize, total: usize, path: PathBuf, reason: String },
    /// A file that cannot be decoded.
    #[error("image {}: {reason}", path.shown())]
    Image { path: PathBuf, reason: String },
    /// A data set is to be written where something is already.
    #[error("folder {} is not empty: name a new or an empty folder", path.shown())]
    FolderNotEmpty { path: PathBuf },
    // --- evaluation ---
    /// Features, identities and cameras of a query or gallery set differ in number.
    #[error(
        "{set}: {values} feature values in rows of {dim}, {pids} identities and {camids} cameras do not belong together: \
         give one row, one identity and one camera for each image"
    )]
    FeatureRows {
        /// "query" or "gallery".
        set: &'static str,
        values: usize,
        dim: usize,
        pids: usize,
        camids: usize,
    },
    /// A feature is NaN or infinite.
    #[error(
        "row {row} of the {set} features is not finite: the network that made it has diverged or its image is broken"
    )]
    NotFiniteFeature { set: &'static str, row: usize },
    /// A network gives NaN or infinity for an image.
    #[error(
        "the {what} of image {} are not finite: the network has diverged or its numbers overflow, so take a checkpoint from before",
        image.shown()
    )]
    NotFiniteOutput {
        /// "features" or "predictions".
        what: &'static str,
        image: String,
    },
    /// Nothing to average over.
    #[error(
        "none of the queries ({queries} in all) has a match in the gallery that counts: query and gallery need images of the same \
         identities from different cameras"
    )]
    NoValidQuery { queries: usize },
    /// A file of features or of their labels that cannot be used.
    #[error("features {}: {reason}", path.shown())]
    FeatureFile { path: PathBuf, reason: String },
    /// Predictions, labels and classes that do not belong together, or none at all.
    #[error("predictions cannot be measured: {reason}")]
    Predictions { reason: String },
    /// A prediction that is NaN, infinite, or no probability.
    #[error(
        "the prediction for image {image} is not made of finite probabilities: the network has diverged or the image is broken"
    )]
    NotAProbability {
        /// 0-based.
        image: usize,
    },
    /// Features of different networks.
    #[error(
        "the query features have {query} numbers each, those of the gallery {gallery}: both must come from the same network"
    )]
    FeatureLengths { query: usize, gallery: usize },
    // --- run folder, checkpoints ---
    /// A configuration file says something that is no setting.
    #[error("{}, line {line}: {message}", path.shown())]
    ConfigFile { path: PathBuf, line: usize, message: String },
    /// A new run would go into a folder that already has something in it.
    #[error("{} is not empty: choose another `out`, or continue that run with `resume`", path.shown())]
    RunExists { path: PathBuf },
    /// Another process writes a run.
    #[error("{} is being written by another ptl-train: wait until that has ended, or stop it", path.shown())]
    RunBusy { path: PathBuf },
    /// Work ended before its time, because somebody asked for it.
    #[error("stopped on request")]
    Stopped,
    /// A folder that was named as a run is none.
    #[error("{} is not a run folder: {reason}", path.shown())]
    NotARun { path: PathBuf, reason: String },
    /// Runs that cannot be compared were measured on different images.
    #[error(
        "{} was measured on other images than {}: {missing} of {} (with their labels) {} missing, {added} {} new: compare runs \
         that were measured on the same data set",
        run.shown(), first.shown(), plural(*total, "image", "images"), are(*missing), are(*added)
    )]
    OtherImages {
        run: PathBuf,
        /// The run that it is held against.
        first: PathBuf,
        /// Images of `first`, with their labels.
        total: usize,
        /// Those of them that `run` lacks.
        missing: usize,
        added: usize,
    },
    /// Runs that cannot be compared.
    #[error("these runs cannot be compared: {reason}")]
    NotComparable { reason: String },
    /// A run was stopped within an epoch and is resumed with epochs of another length.
    #[error(
        "the run was stopped after batch {batch} of an epoch of {}, and now an epoch has {now}: resume with the \
         same data and the same batches (`sampler.ids`, `sampler.images`, `sampler.passes`; for classes `sampler.batch`)",
        plural(*then, "batch", "batches")
    )]
    OtherEpoch { batch: usize, then: usize, now: usize },
    /// A checkpoint is broken or belongs to something else.
    #[error("checkpoint {}: {reason}", path.shown())]
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

impl Error {
    /// Names the `settings` by which a batch becomes smaller, where a GPU's memory is too small.
    pub(crate) fn with_batch_settings(self, settings: &str) -> Error {
        match self {
            Error::DeviceMemory { purpose, needed, free, total, advice } => {
                let advice = format!("{advice}; a batch is set by {settings}");
                Error::DeviceMemory { purpose, needed, free, total, advice }
            }
            other => other,
        }
    }
}

/// `std::result::Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Attaches the path and the verb to an I/O error.
pub(crate) trait IoContext<T> {
    /// `action` is a verb phrase such as "read" or "create".
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.into(), source })
    }
}
