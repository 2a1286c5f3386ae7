//! The header of a model file: classes and settings as JSON, in the metadata `ptl` of the safetensors file.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::text::{Shown, shortened};
use crate::config::Config;
use crate::io::checkpoint;
use crate::{Error, Result};

/// File of a checkpoint that holds the weights, under PyTorch's names.
pub const MODEL_FILE: &str = "model.safetensors";

/// The header of a model file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelHeader {
    /// Number of training identities, or classes.
    pub classes: usize,
    /// Names of the classes or identities by label; empty if an earlier version did not store them.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// Settings of the run.
    pub config: Config,
}

impl ModelHeader {
    /// Returns whether the labels have these names; true if the header has no names.
    pub(crate) fn names_fit(&self, names: &[String]) -> bool {
        self.class_names.is_empty() || self.class_names == names
    }
}

/// Returns whether the file has a header; files of other programs have none.
pub(crate) fn has_header(file: &checkpoint::File) -> bool {
    file.metadata.contains_key("ptl")
}

/// Reads the header of a model file.
///
/// # Errors
/// [`Error::Checkpoint`]: the file has no header, or one that cannot be parsed or used.
pub fn model_header(path: &Path, file: &checkpoint::File) -> Result<ModelHeader> {
    let header: ModelHeader = read_header(path, &file.metadata)?;
    header.config.to_table().map_err(|reason| bad(path, format!("its header cannot be used: {reason}")))?;
    let ModelHeader { classes, class_names: names, .. } = &header;
    if !names.is_empty() && names.len() != *classes {
        return Err(bad(path, format!("its header has {classes} classes and names {}", names.len())));
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(bad(path, format!("its header names the class {} twice", twice[0].shown())));
    }
    Ok(header)
}

/// Parses the header of a file that this program wrote.
///
/// # Errors
/// [`Error::Checkpoint`]: the file has no header, or one of another form.
pub(crate) fn read_header<T: for<'de> Deserialize<'de>>(path: &Path, metadata: &HashMap<String, String>) -> Result<T> {
    let Some(text) = metadata.get("ptl") else {
        return Err(bad(
            path,
            "it was not written by ptl-train: give the model's settings and load it with `init`".into(),
        ));
    };
    serde_json::from_str(text)
        .map_err(|e| bad(path, format!("its header cannot be read ({})", shortened(&e.to_string()))))
}

/// Returns [`Error::Checkpoint`] for the file `path`.
pub(crate) fn bad(path: &Path, reason: String) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), reason }
}
