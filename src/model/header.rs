//! What a model file says of itself.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::text::{Shown, shortened};
use crate::config::Config;
use crate::io::checkpoint;
use crate::{Error, Result};

/// Weights, under torch's names.
pub const MODEL_FILE: &str = "model.safetensors";

/// What a model file says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelHeader {
    /// Number of training identities, or classes.
    pub classes: usize,
    /// Names of the classes or identities by label; earlier versions stored no identities.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// The run's settings.
    pub config: Config,
}

impl ModelHeader {
    /// Whether its labels have these names, as far as it says.
    pub fn names_fit(&self, names: &[String]) -> bool {
        self.class_names.is_empty() || self.class_names == names
    }
}

/// Whether the file says of itself what it is; files from elsewhere do not.
pub fn has_header(file: &checkpoint::File) -> bool {
    file.metadata.contains_key("ptl")
}

/// Reads what a model file says of itself.
///
/// # Errors
/// The file was not written by this program.
pub fn model_header(path: &Path, file: &checkpoint::File) -> Result<ModelHeader> {
    let header: ModelHeader = read_header(path, &file.metadata)?;
    header.config.to_table().map_err(|reason| bad(path, format!("its description cannot be used: {reason}")))?;
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

/// Reads what a file that this program wrote says of itself.
///
/// # Errors
/// It says nothing, or something else.
pub(crate) fn read_header<T: for<'de> Deserialize<'de>>(path: &Path, metadata: &HashMap<String, String>) -> Result<T> {
    let Some(text) = metadata.get("ptl") else {
        return Err(bad(
            path,
            "it was not written by ptl-train: give the model's settings and load it with `init`".into(),
        ));
    };
    serde_json::from_str(text)
        .map_err(|e| bad(path, format!("its description cannot be read ({})", shortened(&e.to_string()))))
}

pub(crate) fn bad(path: &Path, reason: String) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), reason }
}
