//! Tells the program how it was built, for `ptl-train info`. The CUDA sources in `kernels/` will be compiled here.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| "unknown".into());
    let rustc = Command::new(variable("RUSTC")).arg("--version").output().ok();
    let rustc = rustc.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=PTL_BUILD_RUSTC={}", rustc.trim());
    println!("cargo::rustc-env=PTL_BUILD_TARGET={}", variable("TARGET"));
    println!("cargo::rustc-env=PTL_BUILD_OPT_LEVEL={}", variable("OPT_LEVEL"));
}
