//! Fine-tunes person re-identification networks and image classifiers by Progressive Transfer Learning.

use std::process::ExitCode;

fn main() -> ExitCode {
    ptl::app::cli::run(std::env::args_os()).into()
}
