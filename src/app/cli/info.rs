//! Information about the build, the machine and the GPU, as `ptl-train info` prints it: for problem reports.

use std::env::consts::{ARCH, OS};
use std::fs;
use std::thread::available_parallelism;

use crate::engine::device::{Device, DeviceKind, DeviceOptions};

/// Returns the information, with one `name: value` per line.
pub(super) fn text() -> String {
    let cores = available_parallelism().map_or_else(|_| "unknown".into(), |n| n.to_string());
    let lines = [
        ("version", format!("ptl-train {}", env!("CARGO_PKG_VERSION"))),
        (
            "build",
            format!(
                "{}, {}, optimisation level {}",
                env!("PTL_BUILD_RUSTC"),
                env!("PTL_BUILD_TARGET"),
                env!("PTL_BUILD_OPT_LEVEL")
            ),
        ),
        ("system", format!("{OS} {ARCH}")),
        ("processor", field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into())),
        ("cores", format!("{cores} (threads used by default)")),
        (
            "instructions",
            format!("{} (matrix products use {})", instructions().join(", "), crate::engine::cpu::isa_name()),
        ),
        ("memory", memory()),
        ("CUDA kernels", env!("PTL_BUILD_CUDA").into()),
        ("GPU", gpu()),
        ("emulated GPU", if cfg!(ptl_emulator) { "yes" } else { "not built in (feature emulator)" }.into()),
    ];
    lines.iter().map(|(name, value)| format!("{:<14}{value}\n", format!("{name}:"))).collect()
}

/// Returns the vector instructions of this processor that matter for speed.
fn instructions() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let x86 = [
            ("AVX2", is_x86_feature_detected!("avx2")),
            ("FMA", is_x86_feature_detected!("fma")),
            ("AVX-512F", is_x86_feature_detected!("avx512f")),
            ("AVX-512BW/DQ/VL", {
                is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }),
            ("AVX-512 BF16", is_x86_feature_detected!("avx512bf16")),
        ];
        found.extend(x86.iter().filter(|(_, present)| *present).map(|(name, _)| *name));
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        found.push("NEON");
    }
    if found.is_empty() {
        found.push("the baseline only");
    }
    found
}

/// Describes the GPU that `--device cuda` takes, or says why there is none.
fn gpu() -> String {
    let options = DeviceOptions { kind: DeviceKind::Cuda(0), ..DeviceOptions::default() };
    Device::open(&options).map_or_else(|error| error.to_string(), |device| device.to_string())
}

/// Describes the memory of the machine.
fn memory() -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    match crate::base::memory::total_and_available() {
        Some((total, free)) => format!("{:.1} GiB, {:.1} GiB of it available", gib(total), gib(free)),
        None => "unknown".into(),
    }
}

/// Returns the value of the first line `key: value` in a file of the Linux kernel.
fn field(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let (_, value) = text.lines().filter_map(|line| line.split_once(':')).find(|(k, _)| k.trim() == key)?;
    Some(value.trim().to_owned())
}
