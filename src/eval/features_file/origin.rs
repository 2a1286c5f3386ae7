//! What made features: only features of the same network and settings have distances that mean something.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::text::Shown;
use crate::{Error, Result};

/// The weights and settings that features were computed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureOrigin {
    /// CRC-32 of the weights, the running statistics, and the latent states if features depend on them, as 8 hexadecimal digits.
    pub weights: String,
    /// Values of the settings that change features, by their keys in files.
    pub settings: BTreeMap<String, String>,
}

impl FeatureOrigin {
    /// Returns how this origin differs from `other`, the one of `other_name`; `None` if it does not. A setting that only one of the two has
    /// says nothing.
    pub fn difference(&self, other: &FeatureOrigin, other_name: &str) -> Option<String> {
        let differing = |(key, value): (&String, &String)| {
            let theirs = other.settings.get(key).filter(|theirs| *theirs != value)?;
            Some(format!("`{key}` is {} in its model, and {} in the other", value.shown(), theirs.shown()))
        };
        let difference = match self.settings.iter().find_map(differing) {
            Some(difference) => difference,
            None if self.weights != other.weights => {
                format!(
                    "its weights have the CRC-32 {}, and the others {}",
                    self.weights.shown(),
                    other.weights.shown()
                )
            }
            None => return None,
        };
        Some(format!("it does not belong to the features of {other_name}: {difference}; make both with the same model"))
    }

    /// Refuses two origins that differ. Where one of the two is not known, nothing can be said.
    ///
    /// # Errors
    /// [`Error::FeatureFile`] about `path`, the file with the first origin.
    pub fn check(path: &Path, here: Option<&FeatureOrigin>, there: Option<&FeatureOrigin>, name: &str) -> Result<()> {
        match here.zip(there).and_then(|(here, there)| here.difference(there, name)) {
            Some(reason) => Err(Error::FeatureFile { path: path.into(), reason }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let origin = |weights: &str, flip: &str| FeatureOrigin {
            weights: weights.into(),
            settings: BTreeMap::from([("eval.flip".to_string(), flip.to_string())]),
        };
        let a = origin("00000001", "true");
        assert_eq!(a.difference(&a, "b"), None);
        let settings = a.difference(&origin("00000002", "false"), "b").unwrap();
        assert!(settings.contains("of b: `eval.flip` is true in its model, and false in the other"), "{settings}");
        let weights = a.difference(&origin("00000002", "true"), "b").unwrap();
        assert!(weights.contains("its weights have the CRC-32 00000001, and the others 00000002"), "{weights}");
        assert!(FeatureOrigin::check(Path::new("a"), Some(&a), None, "b").is_ok());
        assert!(FeatureOrigin::check(Path::new("a"), Some(&a), Some(&origin("2", "true")), "b").is_err());
    }
}
