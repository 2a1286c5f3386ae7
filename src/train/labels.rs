//! Checks that a resumed run has the same classes or identities as before, in the same order.

use std::collections::HashSet;
use std::path::Path;

use crate::base::progress::Reporter;
use crate::base::text::Shown;
use crate::model::ModelHeader;
use crate::nn::TaskKind;
use crate::{Error, Result};

/// Refuses labels `now` that differ from those of the checkpoint `path`, with an example. A checkpoint of an earlier version may not
/// name its labels: then only their number is compared, with a warning.
///
/// # Errors
/// [`Error::Checkpoint`].
pub(super) fn check(
    path: &Path,
    header: &ModelHeader,
    now: &[String],
    task: TaskKind,
    reporter: &Reporter,
) -> Result<()> {
    let kind = match task {
        TaskKind::Reid => "identities",
        TaskKind::Classify => "classes",
    };
    let then = &header.class_names;
    let different = if then.is_empty() && header.classes == now.len() {
        reporter.warn(&format!(
            "the checkpoint is of an earlier version, which stored no {kind}: whether these are the run's own data cannot be \
             checked"
        ));
        return Ok(());
    } else if then == now {
        return Ok(());
    } else if then.is_empty() {
        format!("the data have {} {kind}, the run {}", now.len(), header.classes)
    } else {
        format!("the {kind} of the data differ from those of the run{}{}", counts(then, now), example(then, now))
    };
    let reason = format!("{different}: resume with its data, or start anew with `init`");
    Err(Error::Checkpoint { path: path.into(), reason })
}

/// Formats both numbers of labels, if they differ.
fn counts(then: &[String], now: &[String]) -> String {
    if then.len() == now.len() { String::new() } else { format!(" ({} instead of {})", now.len(), then.len()) }
}

/// Gives an example of a label that is new, is missing, or has another position.
fn example(then: &[String], now: &[String]) -> String {
    let not_in = |of: &[String], other: &[String]| {
        let other: HashSet<&String> = other.iter().collect();
        of.iter().find(|name| !other.contains(name)).map(|name| name.shown().to_string())
    };
    match (not_in(now, then), not_in(then, now)) {
        (Some(new), Some(old)) => format!(", for example {new} instead of {old}"),
        (Some(new), None) => format!(", for example {new} is new"),
        (None, Some(old)) => format!(", for example {old} is missing"),
        (None, None) => {
            let moved = now.iter().zip(then).find(|(now, then)| now != then);
            moved.map_or_else(String::new, |(now, then)| {
                format!(", for example {} instead of {}", now.shown(), then.shown())
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn checked(then: &[&str], classes: usize, now: &[&str]) -> Result<(), String> {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let header = ModelHeader { classes, class_names: names(then), config: Config::default() };
        check(Path::new("x"), &header, &names(now), TaskKind::Reid, &Reporter::silent()).map_err(|e| e.to_string())
    }

    #[test]
    fn other_labels_are_refused_with_an_example() {
        checked(&["1", "2"], 2, &["1", "2"]).unwrap();
        // A checkpoint of an earlier version.
        checked(&[], 2, &["1", "2"]).unwrap();
        let cases: [(&[&str], &[&str], &str); 5] = [
            (
                &["1", "2"],
                &["2", "99"],
                "the identities of the data differ from those of the run, for example 99 instead of 1",
            ),
            (&["1", "2"], &["1", "2", "3"], "from those of the run (3 instead of 2), for example 3 is new"),
            (&["1", "2"], &["2"], "from those of the run (1 instead of 2), for example 1 is missing"),
            (&["1", "2"], &["2", "1"], ", for example 2 instead of 1"),
            (&[], &["1", "2", "3"], "the data have 3 identities, the run 2"),
        ];
        for (then, now, expected) in cases {
            let error = checked(then, 2, now).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(error.ends_with(": resume with its data, or start anew with `init`"), "{error}");
        }
    }
}
