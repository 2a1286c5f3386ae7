//! Reads and writes model weights: safetensors with torch's names, shapes and order (OIHW). Reads torch's own `.pth`, too.

mod backbone;
mod file;
mod kind;
mod load;
mod place;
mod report;
mod safetensors_in;
mod safetensors_out;
mod tensor;
mod tensor_file;
mod torch;
mod words;

pub use file::File;
pub(crate) use load::fits_exactly;
pub use load::{FineTune, fine_tune, load_exact};
pub use place::{Place, TensorNames};
pub use report::{LoadReport, Unused};
pub use safetensors_out::{Tensor, state_dict, write};
pub(crate) use tensor_file::{TensorFile, TensorPlace};

use std::path::Path;

use crate::Error;

fn bad_file(path: &Path, reason: String) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), reason }
}

#[cfg(test)]
mod tests;
