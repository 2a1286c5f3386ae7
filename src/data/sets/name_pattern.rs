//! A pattern that tells identity, camera and split of an image from its name.

use regex::{Captures, Regex};

use crate::{Error, Result};

/// Names of the groups that a pattern may have.
const GROUPS: [&str; 4] = ["id", "camera", "sequence", "split"];

/// A regular expression with named groups.
#[derive(Clone, Debug)]
pub(super) struct NamePattern {
    regex: Regex,
}

/// What the name of an image tells.
pub(super) struct Told<'a> {
    pub id: Option<&'a str>,
    /// The camera, or the sequence if no camera is told.
    pub camera: Option<&'a str>,
    pub split: Option<&'a str>,
}

impl NamePattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`Error::Setting`]: it is no regular expression, has no group that is known, or another one.
    pub(super) fn new(pattern: &str) -> Result<NamePattern> {
        let refuse = |reason: String| {
            Err(Error::Setting { setting: "`data.name_pattern`".into(), value: format!("{pattern:?}"), reason })
        };
        let regex = match Regex::new(pattern) {
            Ok(regex) => regex,
            Err(error) => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string();
                return refuse(format!("it is no regular expression: {last}"));
            }
        };
        let named: Vec<&str> = regex.capture_names().flatten().collect();
        let example = r"such as '(?<id>\d+)_c(?<camera>\d+)'";
        if let Some(other) = named.iter().find(|name| !GROUPS.contains(name)) {
            return refuse(format!("it has the group {other}: groups are {}, {example}", GROUPS.join(", ")));
        }
        if named.is_empty() {
            return refuse(format!("it has no named group: name {}, {example}", GROUPS.join(", ")));
        }
        Ok(NamePattern { regex })
    }

    /// Returns what `name`, a path with `/` below the folder of the data set, tells; `None` if the pattern does not match it.
    pub(super) fn told<'a>(&self, name: &'a str) -> Option<Told<'a>> {
        let captures: Captures<'a> = self.regex.captures(name)?;
        let group = |group| captures.name(group).map(|found| found.as_str()).filter(|text| !text.is_empty());
        Some(Told { id: group("id"), camera: group("camera").or(group("sequence")), split: group("split") })
    }

    /// Returns whether it has a group of this name.
    pub(super) fn has(&self, group: &str) -> bool {
        self.regex.capture_names().flatten().any(|name| name == group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_tell_identity_camera_and_split() {
        let pattern = NamePattern::new(r"(?<split>\w+)/(?<id>[a-z]+)_c(?<camera>\d+)").unwrap();
        let told = pattern.told("train/zebra_c12_003.jpg").unwrap();
        assert_eq!((told.id, told.camera, told.split), (Some("zebra"), Some("12"), Some("train")));
        assert!(pattern.told("train/Zebra.jpg").is_none());
        assert!(pattern.has("id") && !pattern.has("sequence"));
        let told = NamePattern::new(r"(?<id>\d+)(?<camera>x)?(-(?<sequence>\d+))?").unwrap();
        let told = told.told("12-4.png").unwrap();
        assert_eq!((told.id, told.camera, told.split), (Some("12"), Some("4"), None));
    }

    #[test]
    fn wrong_patterns_are_refused_with_a_way_out() {
        for (pattern, reason) in [
            ("(?<id>", "it is no regular expression: "),
            (r"(?<person>\d+)", "it has the group person: groups are id, camera, sequence, split, such as "),
            (r"\d+", "it has no named group: name id, camera, sequence, split, such as "),
        ] {
            let error = NamePattern::new(pattern).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains('\n'), "{error}");
        }
    }
}
