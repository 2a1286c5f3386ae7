//! What a network learns.

use crate::base::settings::choice;

choice! {
    /// What a network learns, and how it is measured.
    pub enum TaskKind {
        /// Re-identification: features that find images of the same identity by other cameras.
        #[default]
        Reid = "reid",
        /// Classification of images.
        Classify = "classify",
    }
}
