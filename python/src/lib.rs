//! The compiled half of the Python package `ptl`. Arrays come and go as bytes; `ptl/__init__.py` makes NumPy's arrays of them.

use std::borrow::Cow;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, mpsc};
use std::thread;
use std::time::Duration;

use ptl::base::progress::Reporter;
use ptl::base::stop::StopFlag;
use ptl::config::{Command, Config, Overrides};
use ptl::data::{ImageSource, PackedImages, Protocol, Sample};
use ptl::engine::device::Device;
use ptl::eval::ranking::{self, Labels, RankingOptions};
use ptl::eval::rerank::{RerankOptions, RerankVariant};
use ptl::eval::{Output, reranked_distances};
use ptl::model::TrainedModel;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyUserWarning};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyByteArray;

/// Time between two looks for an interrupt.
const LOOK_AFTER: Duration = Duration::from_millis(50);

create_exception!(ptl, Error, PyException, "What went wrong, in one sentence, and what to do.");

/// Turns an error of the library into an exception. Settings are named by their keys.
fn exception(error: ptl::Error) -> PyErr {
    Error::new_err(error.to_string().replace('`', ""))
}

/// An image: the path of a file, or bytes `[height, width, channels]` with height, width and channels.
#[derive(FromPyObject)]
enum Image {
    Path(PathBuf),
    Bytes(Vec<u8>, usize, usize, usize),
}

impl Image {
    /// Returns the image as the library takes it; `index` is its place in the list, for messages.
    fn sample(self, index: usize) -> Sample {
        let image = match self {
            Image::Path(path) => ImageSource::File(path),
            Image::Bytes(pixels, height, width, channels) => {
                let file = PathBuf::from(format!("image {index} of the list"));
                ImageSource::Packed {
                    images: Arc::new(PackedImages { file, height, width, channels, pixels }),
                    index: 0,
                }
            }
        };
        Sample { image, label: 0 }
    }
}

/// Keeps the warnings of a computation.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<u8>>>);

impl Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Warnings {
    /// Returns a reporter whose lines are kept. Progress, which has a line after that time only, is left out.
    fn reporter(&self) -> Reporter {
        Reporter::lines(self.clone(), Duration::MAX)
    }

    /// Issues Python's warnings.
    fn issue(&self, py: Python<'_>) -> PyResult<()> {
        let text = String::from_utf8_lossy(&lock(&self.0)).into_owned();
        for warning in text.lines().filter_map(|line| line.strip_prefix("warning: ")) {
            let message = std::ffi::CString::new(warning).unwrap_or_default();
            // The caller of embed.
            PyErr::warn(py, &py.get_type::<PyUserWarning>(), &message, 3)?;
        }
        Ok(())
    }
}

/// Runs `work` on another thread, so that Python can be interrupted (Ctrl-C) meanwhile: the flag then asks for the end.
fn interruptible<T: Send>(py: Python<'_>, work: impl FnOnce(&StopFlag) -> ptl::Result<T> + Send) -> PyResult<T> {
    let stop = StopFlag::default();
    // Other threads of Python run all the time.
    py.detach(|| {
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let flag = &stop;
            let worker = scope.spawn(move || sender.send(work(flag)));
            loop {
                match receiver.recv_timeout(LOOK_AFTER) {
                    Ok(result) => return result.map_err(exception),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    // A panic is a bug, which Python shows as such.
                    Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
                        Err(panic) => resume_unwind(panic),
                        Ok(_) => unreachable!("the worker sends a result, or panics"),
                    },
                }
                if let Err(interrupt) = Python::attach(|py| py.check_signals()) {
                    stop.request();
                    return Err(interrupt);
                }
            }
        })
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A trained model.
#[pyclass(module = "ptl._ptl")]
struct Model {
    trained: Mutex<TrainedModel>,
    /// The settings, as TOML.
    #[pyo3(get)]
    settings: String,
    /// Number of training identities or classes.
    #[pyo3(get)]
    class_count: usize,
    /// Names of the classes or identities; empty if the file has none.
    #[pyo3(get)]
    class_names: Vec<String>,
    /// Name of the device that computes.
    #[pyo3(get)]
    device: String,
}

#[pymethods]
impl Model {
    /// Loads a checkpoint or a run; `settings` are keys and values, as in a file of settings.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf, settings: Vec<(String, String)>) -> PyResult<Model> {
        let open = || {
            let mut flags = Overrides::default();
            settings.iter().try_for_each(|(key, value)| has_effect(key, value).and_then(|()| flags.add(key, value)))?;
            TrainedModel::open(&path, &flags)
        };
        let trained = py.detach(open).map_err(exception)?;
        Ok(Model {
            settings: trained.config.to_toml(),
            class_count: trained.classes,
            class_names: trained.class_names.clone(),
            device: trained.device.to_string(),
            trained: Mutex::new(trained),
        })
    }

    /// Computes features of unit length, or the probabilities of classes: f32 `[images, dim]` as bytes, and `dim`.
    fn run<'py>(
        &self,
        py: Python<'py>,
        images: Vec<Image>,
        probabilities: bool,
    ) -> PyResult<(Bound<'py, PyByteArray>, usize)> {
        let samples: Arc<[Sample]> = images.into_iter().enumerate().map(|(i, image)| image.sample(i)).collect();
        let output = if probabilities { Output::Probabilities } else { Output::Feature };
        let warnings = Warnings::default();
        let reporter = warnings.reporter();
        let compute = |stop: &StopFlag| {
            let mut trained = self.wait(stop)?;
            let mut model = trained.model(&reporter);
            model.stop = stop.clone();
            model.run(samples, output)
        };
        let (rows, dim) = interruptible(py, compute)?;
        warnings.issue(py)?;
        Ok((bytes(py, &rows), dim))
    }
}

impl Model {
    /// Waits until no other thread uses the model, or a stop is requested.
    fn wait(&self, stop: &StopFlag) -> ptl::Result<MutexGuard<'_, TrainedModel>> {
        loop {
            match self.trained.try_lock() {
                Ok(trained) => return Ok(trained),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if stop.requested() => return Err(ptl::Error::Stopped),
                Err(TryLockError::WouldBlock) => thread::sleep(LOOK_AFTER),
            }
        }
    }
}

/// Refuses settings that do not change what a model computes. An unknown one is left to [`Overrides::add`].
fn has_effect(key: &str, value: &str) -> ptl::Result<()> {
    let reason = match key {
        "threads" => "here the environment variable RAYON_NUM_THREADS sets it, before anything is computed",
        "data.skip_broken" => "an image that cannot be read is always an exception",
        // The command that takes the settings of a model on images, and no other ones.
        _ if Config::setting(key).is_some_and(|setting| !setting.commands.contains(&Command::CompareImages)) => {
            "it has no effect on what a trained model computes: leave it out"
        }
        _ => return Ok(()),
    };
    Err(ptl::Error::Setting { setting: key.into(), value: value.into(), reason: reason.into() })
}

/// Returns numbers as bytes that Python owns.
fn bytes<'py>(py: Python<'py>, numbers: &[f32]) -> Bound<'py, PyByteArray> {
    PyByteArray::new(py, bytemuck::cast_slice(numbers))
}

/// Returns the numbers of the bytes of f32, without a copy where they are aligned.
fn numbers(bytes: &[u8]) -> Cow<'_, [f32]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(numbers) => Cow::Borrowed(numbers),
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
    }
}

/// Ranks features, bytes of f32 `[n, dim]` for queries and gallery, each with identities and cameras `[n]`. Returns the measures as JSON.
#[pyfunction]
fn rank(
    py: Python<'_>,
    features: [PyBackedBytes; 2],
    dim: usize,
    labels: [(Vec<i64>, Vec<i64>); 2],
    keep_same_camera: bool,
    max_rank: usize,
) -> PyResult<String> {
    let ([query, gallery], [q, g], device) = (features.each_ref().map(|bytes| numbers(bytes)), labels, Device::cpu());
    let protocol = if keep_same_camera { Protocol::AnyCamera } else { Protocol::CrossCamera };
    let options = RankingOptions { protocol, max_rank, ..RankingOptions::default() };
    let compute = || {
        let (q, g) = (Labels { pids: &q.0, camids: &q.1 }, Labels { pids: &g.0, camids: &g.1 });
        ranking::evaluate(&query, q, &gallery, g, dim, &options, &device)
    };
    let report = py.detach(compute).map_err(exception)?;
    serde_json::to_string(&report).map_err(|error| Error::new_err(error.to_string()))
}

/// Re-ranks features, bytes of f32 `[n, dim]` for queries and gallery. Returns distances `[queries, gallery]` as bytes of f32.
#[pyfunction]
fn rerank<'py>(
    py: Python<'py>,
    features: [PyBackedBytes; 2],
    dim: usize,
    k: (usize, usize),
    lambda: f32,
    variant: &str,
) -> PyResult<Bound<'py, PyByteArray>> {
    let variant = match variant {
        "zhong" => RerankVariant::Zhong,
        "ptl" => RerankVariant::Ptl,
        "torchreid" => RerankVariant::Torchreid,
        other => return Err(Error::new_err(format!("variant = {other}: known are zhong, ptl and torchreid"))),
    };
    let options = RerankOptions { variant, k1: k.0, k2: k.1, lambda };
    let ([query, gallery], device) = (features.each_ref().map(|bytes| numbers(bytes)), Device::cpu());
    let distances = py.detach(|| reranked_distances(&query, &gallery, dim, options, &device)).map_err(exception)?;
    Ok(bytes(py, &distances))
}

/// Runs the program `ptl-train` with these arguments, of which the first is its name. Returns the exit code.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<std::ffi::OsString>) -> u8 {
    py.detach(|| ptl::app::cli::run(args).number())
}

#[pymodule]
fn _ptl(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("Error", module.py().get_type::<Error>())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Model>()?;
    module.add_function(wrap_pyfunction!(rank, module)?)?;
    module.add_function(wrap_pyfunction!(rerank, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)
}
