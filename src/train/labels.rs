//! Whose data these are: a run goes on with the classes or identities that it has learnt, in their order.

use std::collections::HashSet;
use std::path::Path;

use crate::base::progress::Reporter;
use crate::base::text::Shown;
use crate::model::ModelHeader;
use crate::nn::TaskKind;
use crate::{Error, Result};

/// Refuses labels `now` that are not those of the checkpoint `path`, with an example. One that names none, of an earlier version,
/// is taken with a warning if at least their number is the same.
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
            "the checkpoint is of an earlier version, which stored no {kind}: whether these data are the run's own cannot be \
             checked"
        ));
        return Ok(());
    } else if then == now {
        return Ok(());
    } else if then.is_empty() {
        format!("the data have {} {kind}, the run {}", now.len(), header.classes)
    } else {
        format!("the data have other {kind} than the run{}{}", counts(then, now), example(then, now))
    };
    let reason = format!("{different}: resume with its data, or start anew with `init`");
    Err(Error::Checkpoint { path: path.into(), reason })
}

fn counts(then: &[String], now: &[String]) -> String {
    if then.len() == now.len() { String::new() } else { format!(" ({} instead of {})", now.len(), then.len()) }
}

/// What has come, what has gone, or what has changed its place.
fn example(then: &[String], now: &[String]) -> String {
    let not_in = |of: &[String], other: &[String]| {
        let other: HashSet<&String> = other.iter().collect();
        of.iter().find(|name| !other.contains(name)).map(|name| name.shown().to_string())
    };
    match (not_in(now, then), not_in(then, now)) {
        (Some(new), Some(old)) => format!(", {new} in the place of {old} for one"),
        (Some(new), None) => format!(", {new} is new for one"),
        (None, Some(old)) => format!(", {old} is missing for one"),
        (None, None) => {
            let moved = now.iter().zip(then).find(|(now, then)| now != then);
            moved.map_or_else(String::new, |(now, then)| {
                format!(", {} in the place of {} for one", now.shown(), then.shown())
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
        // Of an earlier version.
        checked(&[], 2, &["1", "2"]).unwrap();
        let cases: [(&[&str], &[&str], &str); 5] = [
            (&["1", "2"], &["2", "99"], "the data have other identities than the run, 99 in the place of 1 for one"),
            (&["1", "2"], &["1", "2", "3"], "than the run (3 instead of 2), 3 is new for one"),
            (&["1", "2"], &["2"], "than the run (1 instead of 2), 1 is missing for one"),
            (&["1", "2"], &["2", "1"], ", 2 in the place of 1 for one"),
            (&[], &["1", "2", "3"], "the data have 3 identities, the run 2"),
        ];
        for (then, now, expected) in cases {
            let error = checked(then, 2, now).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(error.ends_with(": resume with its data, or start anew with `init`"), "{error}");
        }
    }
}
