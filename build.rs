//! Compiles `kernels/*.cu` by nvcc into one fat binary, and by a C++ compiler for the emulator. Writes a typed launch function for each
//! kernel from its signature. Also records for the program how it was built.
//!
//! With `PTL_CUDA=require` it is an error if nvcc is missing; with `PTL_CUDA=off` nvcc is not looked for. `PTL_CUDA_ARCHS` is explained
//! in `build/nvcc.rs`.

#[path = "build/emulator.rs"]
#[cfg(feature = "emulator")]
mod emulator;
#[path = "build/launch.rs"]
mod launch;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/signatures.rs"]
mod signatures;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    for path in ["build.rs", "build", "kernels"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = PathBuf::from(variable("OUT_DIR"));
    let kernels = signatures::read(Path::new("kernels"));
    let sizes = signatures::read_struct(Path::new("kernels/conv_sizes.h"));
    launch::write(&kernels, &sizes, &out.join("launch.rs"));

    println!("cargo::rustc-check-cfg=cfg(ptl_cuda, ptl_emulator)");
    let nvcc = nvcc::compile(&out);
    if nvcc.is_ok() {
        println!("cargo::rustc-cfg=ptl_cuda");
    }
    println!("cargo::rustc-env=PTL_BUILD_CUDA={}", nvcc.unwrap_or_else(|reason| reason));
    #[cfg(feature = "emulator")]
    if emulator::compile(&kernels) {
        println!("cargo::rustc-cfg=ptl_emulator");
    }

    let rustc = Command::new(variable("RUSTC")).arg("--version").output().ok();
    let rustc = rustc.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=PTL_BUILD_RUSTC={}", rustc.trim());
    println!("cargo::rustc-env=PTL_BUILD_TARGET={}", variable("TARGET"));
    println!("cargo::rustc-env=PTL_BUILD_OPT_LEVEL={}", variable("OPT_LEVEL"));
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| "unknown".into())
}
