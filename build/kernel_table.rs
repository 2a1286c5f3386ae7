//! Prints the table of all kernels that the emulator's sources include; `scripts/emulate-kernels` compiles this file with rustc alone.

#[path = "signatures.rs"]
#[allow(dead_code, reason = "the build script uses the rest")]
mod signatures;

fn main() {
    print!("{}", signatures::table(&signatures::read(std::path::Path::new("kernels"))));
}
