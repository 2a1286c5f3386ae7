//! Model weights in and out: safetensors under torch's names, shapes and order (OIHW) both ways, torch's own `.pth` inwards.

mod file;
mod load;
mod report;
mod safetensors_in;
mod safetensors_out;
mod tensor;
mod torch;

pub use file::File;
pub use load::{fine_tune, load_exact};
pub use report::LoadReport;
pub use safetensors_out::{Tensor, state_dict, write};
pub use tensor::Dtype;

use std::path::Path;

use crate::Error;

fn bad_file(path: &Path, reason: String) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), reason }
}

#[cfg(test)]
mod damage;
