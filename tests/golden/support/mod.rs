//! What the golden tests share: finding files, reading tensors, formula numbers, comparison.

mod check;
mod device;
mod file;
mod formula;
mod net;

pub use check::Checker;
pub use device::{Variant, all_precisions, by_default, exact};
pub use file::{GoldenFile, bytes, files, folders};
pub use formula::{fnv1a64, formula, formula_tensor};
pub use net::{Summary, input, state_dict_tensor};
