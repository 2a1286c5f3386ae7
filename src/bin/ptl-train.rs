//! Fine-tune re-identification models with Progressive Transfer Learning.

use std::process::ExitCode;

fn main() -> ExitCode {
    ptl::app::cli::run()
}
