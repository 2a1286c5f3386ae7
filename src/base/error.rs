//! The crate's one error type. Variants carry the values concerned; `Display` says in one sentence what happened and what to do.

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
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A setting has a value that cannot work.
    #[error("{setting} = {}: {reason}", shortened(value))]
    Setting {
        /// Name of the setting or flag, e.g. `optim.lr`.
        setting: String,
        /// The value that was given, as text.
        value: String,
        /// Why it cannot work, and which values can.
        reason: String,
    },
    /// A file is expected, and there is something else.
    #[error("{} is {what}: name a regular file", path.shown())]
    NotAFile {
        /// What was named instead of a file.
        path: PathBuf,
        /// What it is, with the article: "a pipe".
        what: &'static str,
    },
    /// A file is larger than a file of its kind can be.
    #[error("{} is larger than {} MiB: nothing of its kind is", path.shown(), limit >> 20)]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The largest size, bytes.
        limit: u64,
    },
    // --- engine ---
    /// An op cannot take operands of these shapes.
    #[error("{op}: {detail}")]
    Shape {
        /// Name of the op, e.g. "conv2d".
        op: &'static str,
        /// The shapes, and why they do not fit.
        detail: String,
    },
    /// A network cannot be written as ONNX, or an ONNX file computes something else than the network.
    #[error("ONNX: {reason}")]
    Onnx {
        /// What stands against it, and what may be done.
        reason: String,
    },
    /// Evaluation from the mean latent state, but none was ever stored.
    #[error(
        "no latent state is stored for {cell}: evaluate with eval-state `zeros` or `normal`, or use the checkpoint of a \
         training run"
    )]
    NoLatentState {
        /// Name of the latent state that a cell needs.
        cell: String,
    },
    /// More memory is needed than this process may still take.
    #[error("{purpose} needs {} MiB, {} MiB are available ({limit}): {advice}", needed.div_ceil(1 << 20), available >> 20)]
    OutOfMemory {
        /// What the memory is for.
        purpose: String,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that the process may still take.
        available: u64,
        /// Who sets the limit.
        limit: &'static str,
        /// What may be done.
        advice: String,
    },
    /// The loss or the gradient is NaN or infinite.
    #[error(
        "the {what} became {value} at learning rate {lr:e}: lower `optim.lr`, add `schedule.warmup_epochs` or clip the gradient with \
         `optim.clip_norm` (batch: {})", files.join(", ")
    )]
    NonFinite {
        /// "loss" or "gradient norm".
        what: &'static str,
        /// Its value: NaN or infinite.
        value: f64,
        /// Learning rate of the step.
        lr: f64,
        /// Up to four images of the batch.
        files: Vec<String>,
    },
    // --- devices ---
    /// A device cannot be used: no driver, an old library, a build without kernels.
    #[error("{device}: {reason}")]
    NoDevice {
        /// Name of the device.
        device: &'static str,
        /// What is missing, and how to get it.
        reason: String,
    },
    /// Work on a device failed.
    #[error("{device}, {action}: {reason}")]
    Device {
        /// Name of the device.
        device: &'static str,
        /// What it was doing, e.g. "launch of" a kernel.
        action: String,
        /// What went wrong.
        reason: String,
    },
    /// A device's memory is too small.
    #[error(
        "{purpose} needs {} MiB on the GPU, {} of {} MiB are free: {advice}", needed >> 20, free >> 20, total >> 20
    )]
    DeviceMemory {
        /// What the memory is for.
        purpose: String,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free on the GPU.
        free: u64,
        /// Bytes of all memory of the GPU.
        total: u64,
        /// What may be done.
        advice: String,
    },
    // --- data ---
    /// A folder that is no data set.
    #[error("{} cannot be read as a data set: {reason}", path.shown())]
    NotADataset {
        /// The folder or file that was named.
        path: PathBuf,
        /// What is missing or unexpected in it.
        reason: String,
    },
    /// A line of a list of images is wrong.
    #[error("{}, line {line}: {reason}", path.shown())]
    ListLine {
        /// The file with the list.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with the line.
        reason: String,
    },
    /// A list names images that are not there.
    #[error(
        "{missing} of {} that {} names {} not there, the first is {}: {advice}",
        plural(*total, "image", "images"), list.shown(), are(*missing), first.shown()
    )]
    MissingImages {
        /// The file with the list.
        list: PathBuf,
        /// Number of images that are not there.
        missing: usize,
        /// Number of images of the list that are used.
        total: usize,
        /// The first image that is not there.
        first: PathBuf,
        /// What may be done.
        advice: &'static str,
    },
    /// A MATLAB file is broken, of another version, or does not hold the data set.
    #[error("MATLAB file {}: {reason}", path.shown())]
    MatFile {
        /// The MATLAB file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A subset without images.
    #[error("{dataset} has no {subset} images")]
    NoImages {
        /// The subset that is empty, e.g. "train".
        subset: &'static str,
        /// Name or folder of the data set.
        dataset: String,
    },
    /// Every class has one image only, so none can be held out for validation.
    #[error(
        "{dataset} has one image of each class, which is needed for training: give two or more of a class, or images for validation"
    )]
    SingleImages {
        /// Name or folder of the data set.
        dataset: String,
    },
    /// A batch needs more identities than there are.
    #[error("{dataset} has {}, a batch needs {needed}: lower `sampler.ids`", plural(*found, "training identity", "training identities"))]
    TooFewIdentities {
        /// Name of the data set.
        dataset: String,
        /// Number of training identities.
        found: usize,
        /// Number of identities that a batch takes.
        needed: usize,
    },
    /// A classifier of one class has nothing to learn.
    #[error(
        "{dataset} has {} with training images, a classifier needs at least 2: name the folder that holds a folder for each class, or add classes",
        plural(*found, "class", "classes")
    )]
    TooFewClasses {
        /// Name or folder of the data set.
        dataset: String,
        /// Number of classes with training images.
        found: usize,
    },
    /// A batch is larger than the training set.
    #[error(
        "a batch has {batch} images, {dataset} has {images} for training: lower `sampler.batch` to at most {images}"
    )]
    BatchTooLarge {
        /// Name or folder of the data set.
        dataset: String,
        /// Images of a batch.
        batch: usize,
        /// Number of training images.
        images: usize,
    },
    /// No query of a data set has a match from another camera, so nothing can be measured.
    #[error(
        "none of the queries of {dataset} ({queries} in all) has a match from another camera in the gallery: for data of one camera or of \
         unknown ones, `data.same_camera` keep counts all images"
    )]
    NoCrossCameraMatch {
        /// Name of the data set.
        dataset: String,
        /// Number of queries.
        queries: usize,
    },
    /// No query of a data set has a match, so nothing can be measured.
    #[error("none of the queries of {dataset} ({queries} in all) has a match in the gallery")]
    NoMatch {
        /// Name of the data set.
        dataset: String,
        /// Number of queries.
        queries: usize,
    },
    /// Nothing of a data set is for a test.
    #[error(
        "{dataset} has no images for a test: hold identities out by `data.val_ids`, name another data set by `data.target`, or add a split with \
         query and gallery, or test"
    )]
    NoTest {
        /// Name of the data set.
        dataset: String,
    },
    /// Files that cannot be decoded.
    #[error(
        "{count} of {} cannot be decoded, the first is {} ({reason}): repair or remove them, or pass `data.skip_broken`",
        plural(*total, "image", "images"), path.shown()
    )]
    BrokenImages {
        /// Number of images that cannot be decoded.
        count: usize,
        /// Number of all images that were checked.
        total: usize,
        /// The first broken image.
        path: PathBuf,
        /// Why that one cannot be decoded.
        reason: String,
    },
    /// A file that cannot be decoded.
    #[error("image {}: {reason}", path.shown())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why it cannot be decoded.
        reason: String,
    },
    /// A data set is to be written where something is already.
    #[error("folder {} is not empty: name a new or an empty folder", path.shown())]
    FolderNotEmpty {
        /// The folder.
        path: PathBuf,
    },
    // --- evaluation ---
    /// Features, identities and cameras of a query or gallery set differ in number.
    #[error(
        "{set}: {values} feature values in rows of {dim}, {pids} identities and {camids} cameras do not belong together: \
         give one row, one identity and one camera for each image"
    )]
    FeatureRows {
        /// "query" or "gallery".
        set: &'static str,
        /// Number of feature values.
        values: usize,
        /// Length of a feature.
        dim: usize,
        /// Number of identities.
        pids: usize,
        /// Number of cameras given, one for each image.
        camids: usize,
    },
    /// A feature is NaN or infinite.
    #[error(
        "row {row} of the {set} features is not finite: the network that made it has diverged or its image is broken"
    )]
    NotFiniteFeature {
        /// "query" or "gallery".
        set: &'static str,
        /// Row of the first such feature, from 0.
        row: usize,
    },
    /// A network gives NaN or infinity for an image.
    #[error(
        "the {what} of image {} are not finite: the network has diverged or its numbers overflow, so take a checkpoint from before",
        image.shown()
    )]
    NotFiniteOutput {
        /// "features" or "predictions".
        what: &'static str,
        /// The image that it was given.
        image: String,
    },
    /// No query has a match that counts, so there is nothing to average over.
    #[error(
        "none of the queries ({queries} in all) has a match in the gallery that counts: query and gallery need images of the same \
         identities from different cameras, or `data.same_camera` keep"
    )]
    NoValidQuery {
        /// Number of queries.
        queries: usize,
    },
    /// A file of features or of their labels that cannot be used.
    #[error("features {}: {reason}", path.shown())]
    FeatureFile {
        /// The file of features or labels.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Pairs of two identities are needed, and there are none.
    #[error("all images that can be compared are of one identity: thresholds need images of two or more")]
    OneIdentity,
    /// A file of thresholds that cannot be used.
    #[error("calibration {}: {reason}", path.shown())]
    Calibration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Predictions, labels and classes that do not belong together, or none at all.
    #[error("predictions cannot be measured: {reason}")]
    Predictions {
        /// What does not belong together, or is missing.
        reason: String,
    },
    /// A prediction that is NaN, infinite, or no probability.
    #[error(
        "the prediction for image {image} is not made of finite probabilities: the network has diverged or the image is broken"
    )]
    NotAProbability {
        /// Index of the image, from 0.
        image: usize,
    },
    /// Features of different networks.
    #[error(
        "the query features have {query} numbers each, those of the gallery {gallery}: both must come from the same network"
    )]
    FeatureLengths {
        /// Length of a query feature.
        query: usize,
        /// Length of a gallery feature.
        gallery: usize,
    },
    // --- run folder, checkpoints ---
    /// A line of a configuration file is wrong.
    #[error("{}, line {line}: {message}", path.shown())]
    ConfigFile {
        /// The configuration file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A new run would go into a folder that already has something in it.
    #[error("{} is not empty: choose another `out`, or continue that run with `resume`", path.shown())]
    RunExists {
        /// Folder of the run.
        path: PathBuf,
    },
    /// Another process writes a run.
    #[error("{} is being written by another ptl-train: wait until that has ended, or stop it", path.shown())]
    RunBusy {
        /// Folder of the run.
        path: PathBuf,
    },
    /// Work ended before its time, because somebody asked for it.
    #[error("stopped on request")]
    Stopped,
    /// The named folder is no run folder.
    #[error("{} is not a run folder: {reason}", path.shown())]
    NotARun {
        /// The folder that was named.
        path: PathBuf,
        /// Why it is none.
        reason: String,
    },
    /// Runs that cannot be compared were measured on different images.
    #[error(
        "{} was measured on other images than {}: {missing} of {} (with their labels) {} missing, {added} {} new: compare runs \
         that were measured on the same data set",
        run.shown(), first.shown(), plural(*total, "image", "images"), are(*missing), are(*added)
    )]
    OtherImages {
        /// The run with other images.
        run: PathBuf,
        /// The run that it is compared with.
        first: PathBuf,
        /// Images of `first`, with their labels.
        total: usize,
        /// Those of them that `run` lacks.
        missing: usize,
        /// Images of `run`, with their labels, that `first` lacks.
        added: usize,
    },
    /// Several processes cannot work together on this.
    #[error("{reason}")]
    Ranks {
        /// What does not fit, and the way out.
        reason: String,
    },
    /// Runs that cannot be compared.
    #[error("these runs cannot be compared: {reason}")]
    NotComparable {
        /// What differs between the runs, or is missing.
        reason: String,
    },
    /// A run was stopped within an epoch and is resumed with epochs of another length.
    #[error(
        "the run was stopped after batch {batch} of an epoch of {}, and now an epoch has {now}: resume with the \
         same data and the same batches (`sampler.ids`, `sampler.images`, `sampler.passes`; for classes `sampler.batch`)",
        plural(*then, "batch", "batches")
    )]
    OtherEpoch {
        /// Number of batches of the epoch that were done.
        batch: usize,
        /// Batches of an epoch when the run was stopped.
        then: usize,
        /// Batches of an epoch with the settings and data given now.
        now: usize,
    },
    /// A checkpoint is broken or belongs to something else.
    #[error("checkpoint {}: {reason}", path.shown())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The stored optimiser state belongs to another optimiser or network.
    #[error(
        "the stored optimiser state has {found}, but {needed} is needed: resume with the optimiser and network of that run"
    )]
    OptimizerState {
        /// Buffers and their lengths.
        needed: String,
        /// Buffers and lengths that are stored.
        found: String,
    },
}

impl Error {
    /// Adds to [`Error::DeviceMemory`] which `settings` make a batch smaller; returns other errors unchanged.
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
    /// Adds `action`, a verb phrase such as "read" or "create", and `path` to the error.
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.into(), source })
    }
}
