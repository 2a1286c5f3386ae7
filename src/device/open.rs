//! Which device a run computes on.

use serde::{Deserialize, Serialize};

use super::{Gpu, Precision};
use crate::{Error, Result};

/// A name of a device (`--device`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A GPU where one can be used, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// The CUDA kernels, run by the CPU: for tests.
    Emulated,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceOptions {
    pub kind: DeviceKind,
    pub precision: Precision,
    /// Plain convolutions by cuDNN and cuBLASLt instead of our own kernels.
    pub vendor: bool,
}

/// Where a session computes.
#[derive(Clone, Debug)]
pub enum Device {
    Cpu,
    Gpu(Gpu),
}

impl Device {
    /// Opens the device. The second result says which one [`DeviceKind::Auto`] took, and why.
    ///
    /// # Errors
    /// [`Error::NoDevice`] says what is missing; a precision that the CPU does not have.
    pub fn open(options: &DeviceOptions) -> Result<(Device, String)> {
        match options.kind {
            DeviceKind::Cpu => Ok((Device::cpu(options.precision)?, "CPU".into())),
            DeviceKind::Cuda => described(cuda(options)?),
            DeviceKind::Emulated => described(emulated(options.precision)?),
            DeviceKind::Auto => match cuda(options) {
                Ok(gpu) => described(gpu),
                Err(reason) => Ok((Device::cpu(options.precision)?, format!("CPU, because there is no GPU to use ({reason})"))),
            },
        }
    }

    fn cpu(precision: Precision) -> Result<Device> {
        if precision != Precision::F32 {
            return Err(Error::Setting {
                setting: "device.precision".into(),
                value: format!("{precision:?}").to_lowercase(),
                reason: "the CPU computes in f32; tf32 and bf16 need --device cuda".into(),
            });
        }
        Ok(Device::Cpu)
    }

    /// The GPU, if it is one.
    pub fn gpu(&self) -> Option<&Gpu> {
        match self {
            Device::Cpu => None,
            Device::Gpu(gpu) => Some(gpu),
        }
    }
}

fn described(gpu: Gpu) -> Result<(Device, String)> {
    let text = gpu.description();
    Ok((Device::Gpu(gpu), text))
}

fn cuda(_options: &DeviceOptions) -> Result<Gpu> {
    Err(Error::NoDevice { device: "cuda", reason: "not there yet".into() })
}

#[cfg(ptl_emulator)]
fn emulated(precision: Precision) -> Result<Gpu> {
    Ok(Gpu::new(std::sync::Arc::new(super::emulator::Emulator::default()), precision))
}

#[cfg(not(ptl_emulator))]
fn emulated(_precision: Precision) -> Result<Gpu> {
    let reason = "this build has no emulator: build with --features emulator and a C++17 compiler".into();
    Err(Error::NoDevice { device: "emulated", reason })
}
