//! Which device a run computes on.

use std::fmt;
use std::str::FromStr;

use super::{Gpu, Vendor, VendorUse};
use crate::base::progress::Reporter;
use crate::base::settings::{GPU, Kind, ON_IMAGES, SettingType, gpu_number, settings};
use crate::engine::cpu::InstructionSet;
use crate::engine::precision::Precision;
use crate::{Error, Result};

/// Which device computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceKind {
    /// The first GPU if it can be used, else the CPU: `auto`.
    #[default]
    Auto,
    /// The CPU: `cpu`.
    Cpu,
    /// The NVIDIA GPU with this number in the driver's order: `cuda` is the first one, `cuda:1` the second.
    Cuda(usize),
    /// The CUDA kernels, run by the CPU, for tests: `emulated`.
    Emulated,
}

impl SettingType for DeviceKind {
    const KIND: Kind = Kind::Device(&["auto", "cpu", "cuda", "emulated"]);
}

impl FromStr for DeviceKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<DeviceKind, String> {
        match text {
            "auto" => Ok(DeviceKind::Auto),
            "cpu" => Ok(DeviceKind::Cpu),
            "cuda" => Ok(DeviceKind::Cuda(0)),
            "emulated" => Ok(DeviceKind::Emulated),
            _ => gpu_number(text)
                .map(DeviceKind::Cuda)
                .ok_or_else(|| format!("expected {}", DeviceKind::KIND.expected())),
        }
    }
}

impl TryFrom<String> for DeviceKind {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<DeviceKind, String> {
        text.parse()
    }
}

impl From<DeviceKind> for String {
    fn from(kind: DeviceKind) -> String {
        kind.to_string()
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceKind::Auto => f.write_str("auto"),
            DeviceKind::Cpu => f.write_str("cpu"),
            DeviceKind::Cuda(0) => f.write_str("cuda"),
            DeviceKind::Cuda(number) => write!(f, "cuda:{number}"),
            DeviceKind::Emulated => f.write_str("emulated"),
        }
    }
}

settings! {
    /// `[gpu]`: how a GPU is used.
    pub struct GpuOptions in "gpu", "GPU" {
        /// Convolutions by cuDNN and cuBLASLt, or by the crate's own kernels. `auto` measures each pass on the GPU, takes the faster, and
        /// remembers the times in `~/.cache/ptl/times.json`.
        #[setting(needs(&[GPU]).taken_by(ON_IMAGES))]
        pub vendor: VendorUse = VendorUse::Auto;
        /// Record a training step as one CUDA graph and replay it.
        #[setting(needs(&[GPU]).same_results())]
        pub graph: bool = true;
        /// Mebibytes of gradients that the GPUs of several processes begin to add up while backward goes on, as `bucket_cap_mb` in PyTorch's
        /// DistributedDataParallel.
        #[setting(above(0.0).needs(&[GPU]))]
        pub bucket_mb: f32 = 25.0;
    }
}

/// The device that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Which device computes.
    pub kind: DeviceKind,
    /// What convolutions compute in.
    pub precision: Precision,
    /// Which passes of convolutions and cells cuDNN and cuBLASLt compute, instead of the crate's own kernels. An emulated GPU has a
    /// substitute for them.
    pub vendor: VendorUse,
    /// The number of this process among those of a training on this machine: it takes the GPU so many after that of `kind`.
    pub local_rank: usize,
}

/// Where a session computes.
#[derive(Clone, Debug)]
pub enum Device {
    /// The CPU.
    Cpu(Cpu),
    /// A GPU, real or emulated.
    Gpu(Gpu),
}

/// The CPU as a device.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    precision: Precision,
    /// Why no GPU is used, if one was wanted.
    no_gpu: Option<String>,
}

impl Cpu {
    /// Returns the CPU, which computes in `precision`.
    ///
    /// # Errors
    /// [`Error::Setting`] if this processor does not have it.
    pub fn new(precision: Precision) -> Result<Cpu> {
        let reason = match precision {
            Precision::Bf16 if InstructionSet::bf16_is_forbidden() => {
                "the environment variable PTL_MAX_ISA forbids this CPU's dot products of bf16 (AVX-512 BF16): unset it, or pass `precision` f32"
            }
            Precision::Bf16 if !InstructionSet::has_bf16() => {
                "this CPU has no dot products of bf16 (AVX-512 BF16), without which bf16 would be slower than f32: pass `precision` f32, or take a \
                 GPU (`device` cuda)"
            }
            Precision::Tf32 => "tf32 needs a GPU (`device` cuda): pass `precision` f32",
            Precision::F32 | Precision::Bf16 => return Ok(Cpu { precision, no_gpu: None }),
        };
        Err(Error::Setting { setting: "precision".into(), value: precision.to_string(), reason: reason.into() })
    }

    /// Returns what convolutions compute in.
    pub fn precision(&self) -> Precision {
        self.precision
    }
}

/// The CPU, in f32.
impl Default for Device {
    fn default() -> Device {
        Device::cpu()
    }
}

impl Device {
    /// Returns the CPU, in f32.
    pub fn cpu() -> Device {
        Device::Cpu(Cpu::default())
    }

    /// Opens a device; [`DeviceKind::Auto`] takes the CPU if no GPU can be used.
    ///
    /// # Errors
    /// [`Error::NoDevice`] says what is missing; [`Error::Setting`] refuses a precision that the CPU does not have;
    /// [`Error::Device`] if the driver fails.
    pub fn open(options: &DeviceOptions) -> Result<Device> {
        match options.kind {
            DeviceKind::Cpu => Cpu::new(options.precision).map(Device::Cpu),
            DeviceKind::Cuda(number) => Ok(Device::Gpu(cuda(number + options.local_rank, options)?)),
            DeviceKind::Emulated => Ok(Device::Gpu(emulated(options)?)),
            DeviceKind::Auto => match cuda(options.local_rank, options) {
                Ok(gpu) => Ok(Device::Gpu(gpu)),
                Err(error) => {
                    let text = error.to_string();
                    // Keeps what is missing, and drops how to get it: nobody asked for a GPU.
                    let reason = text.trim_start_matches("cuda: ").split(": ").next().unwrap_or_default();
                    let cpu = Cpu::new(options.precision).map_err(|error| because_of(error, reason))?;
                    Ok(Device::Cpu(Cpu { no_gpu: Some(reason.into()), ..cpu }))
                }
            },
        }
    }

    /// Returns a warning if the CPU was chosen although this machine has an NVIDIA GPU.
    pub(crate) fn unused_gpu(&self) -> Option<String> {
        let Device::Cpu(Cpu { no_gpu: Some(reason), .. }) = self else { return None };
        // The driver's list of GPUs, and the one GPU of WSL.
        let listed = std::fs::read_dir("/proc/driver/nvidia/gpus").is_ok_and(|mut gpus| gpus.next().is_some());
        (listed || std::path::Path::new("/dev/dxg").exists()).then(|| {
            format!("the CPU computes, although this machine has an NVIDIA GPU ({reason}): `device` cuda says what to do, and `device` cpu \
                     asks for the CPU")
        })
    }

    /// Reports what a GPU chose since the last call: who computes the passes that it measured, and which passes the vendor's libraries refused,
    /// so that ptl's own kernels compute them.
    pub fn report_choices(&self, reporter: &Reporter) {
        self.gpu().map(Gpu::take_news).unwrap_or_default().iter().for_each(|news| reporter.message(news));
    }

    /// Returns the GPU, or `None` for the CPU.
    pub fn gpu(&self) -> Option<&Gpu> {
        match self {
            Device::Cpu(_) => None,
            Device::Gpu(gpu) => Some(gpu),
        }
    }
}

/// Writes what computes, and for a CPU why no GPU does.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu(Cpu { precision, no_gpu }) => {
                write!(f, "CPU, {precision}")?;
                no_gpu.as_ref().map_or(Ok(()), |reason| write!(f, " (no GPU: {reason})"))
            }
            Device::Gpu(gpu) => {
                let vendor = gpu.vendor().map_or_else(|| "ptl's own kernels".into(), Vendor::description);
                write!(f, "{}, {}, convolutions by {vendor}", gpu.description(), gpu.precision())
            }
        }
    }
}

/// Adds to an error of the CPU why no GPU is used.
fn because_of(error: Error, no_gpu: &str) -> Error {
    match error {
        Error::Setting { setting, value, reason } => {
            Error::Setting { setting, value, reason: format!("{reason} (no GPU: {no_gpu})") }
        }
        other => other,
    }
}

#[cfg(ptl_cuda)]
fn cuda(number: usize, options: &DeviceOptions) -> Result<Gpu> {
    // The fat binary that the build script made.
    static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));
    let cuda = super::cuda::Cuda::open(number, KERNELS, super::kernels::ALL, options.vendor != VendorUse::Never)?;
    Ok(Gpu::new(std::sync::Arc::new(cuda), options.precision).with_vendor(options.vendor).keeping_times(KERNELS))
}

#[cfg(not(ptl_cuda))]
fn cuda(_number: usize, _options: &DeviceOptions) -> Result<Gpu> {
    let reason = format!(
        "this program has no CUDA kernels ({}): run scripts/install-nvcc, or set NVCC or CUDA_HOME, and build it with PTL_CUDA=require, or use `device` cpu",
        env!("PTL_BUILD_CUDA")
    );
    Err(Error::NoDevice { device: "cuda", reason })
}

#[cfg(ptl_emulator)]
fn emulated(options: &DeviceOptions) -> Result<Gpu> {
    let vendor = options.vendor != VendorUse::Never;
    let emulator = super::emulator::Emulator::new(vendor.then_some(|_| super::Simulated::Takes));
    Ok(Gpu::new(std::sync::Arc::new(emulator), options.precision).with_vendor(options.vendor))
}

#[cfg(not(ptl_emulator))]
fn emulated(_options: &DeviceOptions) -> Result<Gpu> {
    let reason = "this build has no emulator: build with --features emulator and a C++17 compiler".into();
    Err(Error::NoDevice { device: "emulated", reason })
}
