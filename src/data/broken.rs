//! Finds images that cannot be decoded before a long run starts. Such images are refused, or left out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::base::text::{Shown, are, listed, plural};
use crate::{Error, Result};

/// Decodes the image of every record once. Broken ones are an error; with `skip` their records are removed, and a warning is returned.
/// `each` is called after every image.
///
/// # Errors
/// An image is broken, and `skip` is not set.
pub(super) fn drop_or_refuse<R: Sync>(
    records: &mut Vec<R>,
    decode: impl Fn(&R) -> Result<()> + Sync,
    path: impl Fn(&R) -> PathBuf + Sync,
    skip: bool,
    each: &(dyn Fn() + Sync),
) -> Result<Option<String>> {
    let check = |(index, record): (usize, &R)| {
        let decoded = decode(record);
        each();
        decoded.err().map(|error| match error {
            Error::Image { reason, .. } => (index, path(record), reason),
            other => (index, path(record), other.to_string()),
        })
    };
    let broken: Vec<(usize, PathBuf, String)> = records.par_iter().enumerate().filter_map(check).collect();
    let Some((_, first, reason)) = broken.first() else { return Ok(None) };
    let (count, total) = (broken.len(), records.len());
    if !skip {
        return Err(Error::BrokenImages { count, total, path: first.clone(), reason: reason.clone() });
    }
    let names = listed(broken.iter().map(|(_, path, _)| path.shown()));
    let bad: BTreeSet<usize> = broken.iter().map(|&(index, ..)| index).collect();
    let mut index = 0;
    records.retain(|_| {
        index += 1;
        !bad.contains(&(index - 1))
    });
    Ok(Some(format!(
        "{count} of {} cannot be decoded and {} left out ({names})",
        plural(total, "image", "images"),
        are(count)
    )))
}
