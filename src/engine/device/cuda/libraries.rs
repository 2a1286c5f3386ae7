//! Finds and checks the driver, cuBLASLt, cuDNN and NCCL before any function of them is called.
//!
//! cudarc opens libraries by bare name at the first call, and panics if there is none. So each is looked for first, and opened by its path
//! if [`Places`] has it: the loader then finds the open library by its name (`libcudnn.so.9`). A development link (`libcudnn.so`) in the
//! loader's own path still comes first, so the version is checked that the library itself reports.

use std::ffi::{OsStr, c_int};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use cudarc::{cublaslt::sys as cublaslt, cudnn::sys as cudnn, driver::sys as driver, nccl::sys as nccl};
use libloading::Library;

use super::calls;
use super::places::{Places, mapped_file};
use super::status::{DriverStatus, Status, no_device};
use crate::Result;
use crate::base::text::Shown;

/// CUDA 12.0: the oldest driver whose functions are called.
const OLDEST_DRIVER: usize = 12_000;

/// Folders of the driver that are not in every loader's path, on WSL and NixOS.
const DRIVER_FOLDERS: [&str; 2] = ["/usr/lib/wsl/lib", "/run/opengl-driver/lib"];

/// A library that is used in addition to the driver.
pub(super) struct Needed {
    pub name: &'static str,
    /// The major versions that have the functions that are called.
    pub majors: RangeInclusive<usize>,
    /// The pip packages for CUDA 12 and for CUDA 13.
    pub packages: [&'static str; 2],
    /// The Debian package in NVIDIA's repository, without the version of CUDA at its end.
    pub apt: &'static str,
    /// How much of the version of CUDA is a part of that name: nothing, the major version, or major and minor.
    pub apt_parts: usize,
}

pub(super) const CUBLASLT: Needed = Needed {
    name: "cuBLASLt",
    majors: 12..=13,
    packages: ["nvidia-cublas-cu12", "nvidia-cublas"],
    apt: "libcublas-",
    apt_parts: 2,
};

pub(super) const CUDNN: Needed = Needed {
    name: "cuDNN",
    majors: 9..=9,
    packages: ["nvidia-cudnn-cu12", "nvidia-cudnn-cu13"],
    apt: "libcudnn9-cuda-",
    apt_parts: 1,
};

pub(super) const NCCL: Needed = Needed {
    name: "NCCL",
    majors: 2..=2,
    packages: ["nvidia-nccl-cu12", "nvidia-nccl-cu13"],
    apt: "libnccl2",
    apt_parts: 0,
};

/// The versions that a library reports.
pub(super) struct Found {
    /// Major, minor, patch.
    pub version: [usize; 3],
    /// The CUDA version that it was made for: 12040 is 12.4.
    pub cuda: usize,
    pub file: Option<PathBuf>,
}

/// Loads and initialises the driver, and returns its CUDA version (12040 is 12.4).
///
/// # Errors
/// [`crate::Error::NoDevice`] if it is missing, too old or unusable.
pub(super) fn open_driver() -> Result<usize> {
    if !open_named("libcuda.so.1") {
        open_first(DRIVER_FOLDERS.iter().map(|folder| Path::new(folder).join("libcuda.so.1")));
    }
    // SAFETY: opening NVIDIA's driver runs its initialisers, which have no preconditions.
    if !unsafe { driver::is_culib_present() } {
        return Err(no_device(
            "libcuda.so.1, a part of NVIDIA's driver, was not found: install the driver (https://www.nvidia.com/drivers), give a \
             container the GPU (`docker run --gpus all`), or use `device` cpu"
                .to_string(),
        ));
    }
    // SAFETY: the driver is loaded, and this is the first call to it. It may be called again.
    let status = unsafe { calls::cuInit(0) };
    if let Some(reason) = status.reason() {
        // SAFETY: the library is present, so this returns it.
        let file = file_of(unsafe { driver::culib() }, b"cuInit");
        return Err(no_device(initialisation_failed(status, &reason, file.as_deref())));
    }
    let mut version: c_int = 0;
    // SAFETY: the version is written to.
    unsafe { calls::cuDriverGetVersion(&mut version) }.check("asking for the driver's version")?;
    let version = usize::try_from(version).unwrap_or(0);
    judge_driver(version, oldest_driver(env!("PTL_BUILD_CUDA")))?;
    Ok(version)
}

/// Loads cuBLASLt in a version that a driver for CUDA `driver` can run, and returns its name and version.
///
/// # Errors
/// [`crate::Error::NoDevice`] if it is missing, or has a version that does not fit.
pub(super) fn open_cublaslt(places: &Places, driver: usize) -> Result<String> {
    // Libraries for CUDA 13 do not run on a driver for CUDA 12.
    let names: &[&str] =
        if driver >= 13_000 { &["libcublasLt.so.13", "libcublasLt.so.12"] } else { &["libcublasLt.so.12"] };
    open_first(places.find(names));
    // SAFETY: opening it runs its initialisers, which have no preconditions.
    if !unsafe { cublaslt::is_culib_present() } {
        return Err(missing(&CUBLASLT, driver));
    }
    // SAFETY: it is present, and these calls only return numbers.
    let (cuda, library) = unsafe { (cublaslt::cublasLtGetCudartVersion(), cublaslt::culib()) };
    let file = file_of(library, b"cublasLtGetProperty");
    judge(&CUBLASLT, &Found { version: cublaslt_version()?, cuda, file }, driver)
}

/// Loads cuDNN as [`open_cublaslt`] does cuBLASLt.
///
/// # Errors
/// As there.
pub(super) fn open_cudnn(places: &Places, driver: usize) -> Result<String> {
    open_first(places.find(&["libcudnn.so.9"]));
    // SAFETY: as for cuBLASLt, here and below.
    if !unsafe { cudnn::is_culib_present() } {
        return Err(missing(&CUDNN, driver));
    }
    // SAFETY: as above.
    let (version, cuda, library) =
        unsafe { (cudnn::cudnnGetVersion(), cudnn::cudnnGetCudartVersion(), cudnn::culib()) };
    let file = file_of(library, b"cudnnGetVersion");
    judge(&CUDNN, &Found { version: cudnn_version(version), cuda, file }, driver)
}

/// Loads NCCL as [`open_cublaslt`] does cuBLASLt.
///
/// # Errors
/// As there.
pub(super) fn open_nccl(driver: usize) -> Result<String> {
    open_first(Places::here().find(&["libnccl.so.2"]));
    // SAFETY: as for cuBLASLt, here and below.
    if !unsafe { nccl::is_culib_present() } {
        return Err(missing(&NCCL, driver));
    }
    let mut version: c_int = 0;
    // SAFETY: the version is written to.
    unsafe { calls::ncclGetVersion(&mut version) }.check("asking for NCCL's version")?;
    // SAFETY: the library is present.
    let file = file_of(unsafe { nccl::culib() }, b"ncclGetVersion");
    // NCCL does not say which CUDA it was made for: that of the driver is assumed.
    let version = nccl_version(usize::try_from(version).unwrap_or(0));
    let found = judge(&NCCL, &Found { version, cuda: driver, file }, driver)?;
    // Means are new in 2.10.
    if version < [2, 10, 0] {
        Err(no_device(format!("{found} is too old, 2.10 is needed: {}", how_to_get(&NCCL, driver))))
    } else {
        Ok(found)
    }
}

/// Returns the parts of NCCL's version: 22307 is 2.23.7, and before version 2.9, 2804 is 2.8.4.
pub(super) fn nccl_version(version: usize) -> [usize; 3] {
    let unit = if version < 10_000 { 1000 } else { 10_000 };
    [version / unit, version % unit / 100, version % 100]
}

/// Returns cuBLASLt's version: major, minor, patch. The library must be present.
fn cublaslt_version() -> Result<[usize; 3]> {
    use cublaslt::libraryPropertyType::{MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
    let mut version = [0; 3];
    for (property, part) in [MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL].into_iter().zip(&mut version) {
        let mut value: c_int = 0;
        // SAFETY: the value is written to.
        unsafe { calls::cublasLtGetProperty(property, &mut value) }.check("asking for cuBLASLt's version")?;
        *part = usize::try_from(value).unwrap_or(0);
    }
    Ok(version)
}

/// Returns the parts of cuDNN's version: 90100 is 9.1.0, and before version 9, 8907 is 8.9.7. (cuDNN can return the parts itself, but with
/// a status whose codes have changed.)
pub(super) fn cudnn_version(version: usize) -> [usize; 3] {
    let unit = if version < 10_000 { 1000 } else { 10_000 };
    [version / unit, version % unit / 100, version % 100]
}

impl Found {
    fn place(&self) -> String {
        self.file.as_ref().map(|file| format!(" ({})", file.shown())).unwrap_or_default()
    }
}

/// Returns the CUDA version of the oldest driver for kernels that were built as `built` says (`nvcc 13.0: sm_80, sm_90a`): one for the same
/// major version as nvcc's, since a driver loads code of any newer minor version, but of no newer major version.
pub(super) fn oldest_driver(built: &str) -> usize {
    let major = built.strip_prefix("nvcc ").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    major.map_or(OLDEST_DRIVER, |major| OLDEST_DRIVER.max(1000 * major))
}

/// Checks the CUDA version of the driver.
///
/// # Errors
/// The driver is older than `oldest`.
pub(super) fn judge_driver(version: usize, oldest: usize) -> Result<()> {
    if version >= oldest {
        return Ok(());
    }
    Err(no_device(format!(
        "NVIDIA's driver is for CUDA {}.{}, {}.{} or newer is needed: install a newer one (https://www.nvidia.com/drivers)",
        version / 1000,
        version % 1000 / 10,
        oldest / 1000,
        oldest % 1000 / 10
    )))
}

/// Checks the version of a library, and returns its name and version.
///
/// # Errors
/// The version has other functions, or needs a newer driver.
pub(super) fn judge(needed: &Needed, found: &Found, driver: usize) -> Result<String> {
    let [major, minor, patch] = found.version;
    let (name, place) = (needed.name, found.place());
    if !needed.majors.contains(&major) {
        let (first, last) = (needed.majors.start(), needed.majors.end());
        let wanted = if first == last { first.to_string() } else { format!("{first} or {last}") };
        return Err(no_device(format!(
            "{name} {major}.{minor}.{patch} was found{place}, {name} {wanted} is needed: {}",
            how_to_get(needed, driver)
        )));
    }
    if found.cuda / 1000 > driver / 1000 {
        return Err(no_device(format!(
            "{name} {major}.{minor}.{patch}{place} is for CUDA {}, the driver for CUDA {}.{}: install a newer driver \
             (https://www.nvidia.com/drivers), or {}",
            found.cuda / 1000,
            driver / 1000,
            driver % 1000 / 10,
            how_to_get(needed, driver)
        )));
    }
    Ok(format!("{name} {major}.{minor}.{patch}"))
}

/// Returns the error for a library that was not found anywhere.
pub(super) fn missing(needed: &Needed, driver: usize) -> crate::Error {
    no_device(format!(
        "{} was not found (in VIRTUAL_ENV, CONDA_PREFIX, the folders of python3, CUDA_HOME, the system's folders, LD_LIBRARY_PATH): {}",
        needed.name,
        how_to_get(needed, driver)
    ))
}

fn how_to_get(needed: &Needed, driver: usize) -> String {
    let cuda = if driver >= 13_000 { 13 } else { 12 };
    let (package, apt) = (needed.packages[cuda - 12], needed.apt);
    let version = match needed.apt_parts {
        0 => String::new(),
        1 => cuda.to_string(),
        _ => format!("{cuda}-{}", driver % 1000 / 10),
    };
    format!(
        "`pip install {package}` in an active environment, or `apt install {apt}{version}` from NVIDIA's repository"
    )
}

/// Returns the reason why the driver does not start.
fn initialisation_failed(status: DriverStatus, reason: &str, file: Option<&Path>) -> String {
    let file = file.map_or("libcuda".to_string(), |file| file.shown().to_string());
    match status {
        DriverStatus::CUDA_ERROR_STUB_LIBRARY => {
            format!("{file} is the toolkit's stub, not the driver: take its folder out of LD_LIBRARY_PATH")
        }
        DriverStatus::CUDA_ERROR_NO_DEVICE => {
            format!(
                "NVIDIA's driver ({file}) finds no GPU: see `nvidia-smi`, CUDA_VISIBLE_DEVICES, or use `device` cpu"
            )
        }
        DriverStatus::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            format!("{file} and the driver's kernel module have different versions: restart the machine")
        }
        _ => format!("NVIDIA's driver ({file}) does not start, {reason}: see `nvidia-smi`"),
    }
}

/// Opens a library by the loader's own search, until the process ends.
fn open_named(name: impl AsRef<OsStr>) -> bool {
    // SAFETY: the names and paths are those of NVIDIA's libraries; opening them runs their initialisers, which have no
    // preconditions.
    match unsafe { Library::new(name.as_ref()) } {
        Ok(library) => {
            // Never closed: functions of it are called until the process ends.
            std::mem::forget(library);
            true
        }
        Err(_) => false,
    }
}

/// Opens the first file that can be opened; one may be for another processor. It is no error if there is none, since the loader's own
/// search follows.
fn open_first(files: impl IntoIterator<Item = PathBuf>) {
    files.into_iter().any(open_named);
}

/// Returns the path of an open library, for messages.
fn file_of(library: &Library, function: &[u8]) -> Option<PathBuf> {
    // SAFETY: only the address is used.
    let address = *unsafe { library.get::<*const ()>(function) }.ok()? as usize;
    mapped_file(&fs::read_to_string("/proc/self/maps").ok()?, address)
}
