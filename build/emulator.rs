//! Compiles the kernels as C++ together with the emulator that runs them on the CPU.

use std::fs;
use std::path::{Path, PathBuf};

use crate::signatures::{Kernel, table};

/// Compiles everything into a static library. Returns false if no C++ compiler works: the build then has no emulator, and the tests of it
/// say that they are skipped.
pub fn compile(kernels: &[Kernel]) -> bool {
    let out = PathBuf::from(crate::variable("OUT_DIR"));
    fs::write(out.join("table.inc"), table(kernels)).expect("a writable build folder");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).debug(false).warnings(false).cargo_warnings(false);
    build.include(&out);
    for folder in ["kernels", "kernels/emulator"] {
        for path in fs::read_dir(folder).expect("readable").flatten().map(|entry| entry.path()) {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("cpp") => drop(build.file(path)),
                // The compiler recognises C++ by the ending of the file's name.
                Some("cu") => drop(build.file(as_cpp(&path, &out))),
                _ => {}
            }
        }
    }
    match build.try_compile("ptl_emulator") {
        Ok(()) => true,
        Err(error) => {
            println!("cargo::warning=built without the emulator of the kernels, no C++17 compiler works: {error}");
            false
        }
    }
}

/// Writes a file `x.cpp` into `out` that includes `x.cu`, and returns its path.
fn as_cpp(source: &Path, out: &Path) -> PathBuf {
    let name = source.file_stem().expect("a file").to_string_lossy().into_owned() + ".cpp";
    let path = out.join(name);
    let source = fs::canonicalize(source).expect("listed just now");
    fs::write(&path, format!("#include \"{}\"\n", source.display())).expect("a writable build folder");
    path
}
