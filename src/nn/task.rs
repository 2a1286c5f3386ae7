//! What a network learns.

use serde::{Deserialize, Serialize};

/// What a network learns, and how it is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// Re-identification: features that find images of the same identity by other cameras.
    #[default]
    Reid,
    /// Classification of images.
    Classify,
}
