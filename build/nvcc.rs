//! Finds nvcc and compiles all kernels into one fat binary.
//!
//! The flags are in `kernels/nvcc.flags`: machine code for Ampere (sm_80, sm_86), Ada (sm_89) and Hopper (sm_90a), and PTX for later
//! architectures. `PTL_CUDA_ARCHS` replaces that list: `PTL_CUDA_ARCHS="90a"` or `"80 89+ptx"`, where `+ptx` adds portable code.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Writes `kernels.fatbin` into `out`. Returns what compiled it, or why there is none.
pub fn compile(out: &Path) -> Result<String, String> {
    for name in ["PTL_CUDA", "PTL_CUDA_ARCHS", "NVCC", "CUDA_HOME", "PATH", "VIRTUAL_ENV"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let mode = env::var("PTL_CUDA").unwrap_or_default();
    if mode == "off" {
        return Err("left out of this build (PTL_CUDA=off)".into());
    }
    assert!(["", "require"].contains(&mode.as_str()), "PTL_CUDA={mode}: known are `require` and `off`");
    let failure = match find() {
        Some(nvcc) => match run(&nvcc, out) {
            Ok(version) => return Ok(version),
            Err(reason) => reason,
        },
        None => "nvcc was not found by NVCC, CUDA_HOME, VIRTUAL_ENV, .nvcc or PATH".into(),
    };
    assert!(mode != "require", "PTL_CUDA=require: {failure}");
    println!(
        "cargo::warning=built for the CPU only, without CUDA kernels: {}",
        failure.lines().next().unwrap_or_default()
    );
    Err("no nvcc when this was built".into())
}

/// Looks for nvcc in this order: `NVCC` (the compiler's path), `CUDA_HOME`, a toolkit from pip in the active virtual environment, that
/// of `scripts/install-nvcc`, `PATH`.
fn find() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(nvcc) = folder("NVCC") {
        return Some(nvcc);
    }
    let in_cuda_home = folder("CUDA_HOME").map(|home| home.join("bin/nvcc"));
    let environments = folder("VIRTUAL_ENV").into_iter().chain([PathBuf::from(".nvcc")]);
    let in_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let candidates = in_cuda_home.into_iter().chain(environments.filter_map(|root| in_environment(&root)));
    candidates.chain(in_path.map(|folder| folder.join("nvcc"))).find(|path| path.is_file())
}

/// Returns the nvcc of a Python environment: `lib/python3.x/site-packages/nvidia/{cu13, cuda_nvcc}/bin/nvcc`.
fn in_environment(root: &Path) -> Option<PathBuf> {
    let pythons = fs::read_dir(root.join("lib")).ok()?.flatten().map(|entry| entry.path());
    let packages = pythons.map(|python| python.join("site-packages/nvidia"));
    packages
        .flat_map(|nvidia| ["cu13", "cuda_nvcc"].map(|part| nvidia.join(part).join("bin/nvcc")))
        .find(|p| p.is_file())
}

fn run(nvcc: &Path, out: &Path) -> Result<String, String> {
    let kernels = fs::canonicalize("kernels").expect("the folder of kernels");
    // One translation unit, hence one fat binary and one module to load.
    let mut sources: Vec<PathBuf> = fs::read_dir(&kernels).expect("readable").flatten().map(|e| e.path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    let unit: String = sources.iter().fold(String::new(), |mut text, path| {
        writeln!(text, "#include \"{}\"", path.display()).unwrap();
        text
    });
    let all = out.join("all.cu");
    fs::write(&all, unit).map_err(|error| error.to_string())?;

    let flags = fs::read_to_string("kernels/nvcc.flags").map_err(|error| error.to_string())?;
    let mut flags: Vec<String> = flags.split_whitespace().map(str::to_string).collect();
    if let Ok(list) = env::var("PTL_CUDA_ARCHS") {
        flags.retain(|flag| !flag.starts_with("-gencode"));
        flags.extend(architectures(&list));
    }
    let mut command = Command::new(nvcc);
    command.args(&flags).arg(&all).arg("-o").arg(out.join("kernels.fatbin"));
    let output = command.output().map_err(|error| format!("{} cannot be run: {error}", nvcc.display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let errors: Vec<&str> = log.lines().filter(|line| !line.starts_with("ptxas info")).collect();
        return Err(format!("{} failed: {}", nvcc.display(), errors.join("\n")));
    }
    let version = Command::new(nvcc).arg("--version").output().map_err(|error| error.to_string())?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let release =
        version.split("release ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("of unknown version");
    let codes: Vec<&str> = flags.iter().filter_map(|flag| flag.rsplit_once(",code=")).map(|(_, code)| code).collect();
    Ok(format!("nvcc {release}: {}", codes.join(", ")))
}

/// Returns the flags for a list like `80+ptx, 90a`.
fn architectures(list: &str) -> Vec<String> {
    let mut flags = Vec::new();
    for item in list.split([' ', ',']).filter(|item| !item.is_empty()) {
        let (arch, ptx) = item.strip_suffix("+ptx").map_or((item, false), |arch| (arch, true));
        let arch = arch.trim_start_matches("sm_");
        flags.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
        if ptx {
            flags.push(format!("-gencode=arch=compute_{arch},code=compute_{arch}"));
        }
    }
    flags
}
