//! Text lists of images, one on each line, as published data sets have them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::base::input;
use crate::base::text::Shown;
use crate::data::dataset::ImageRecord;
use crate::data::named::UNPACK_AGAIN;
use crate::{Error, Result};

/// Bytes of the largest list.
const LARGEST: u64 = 256 << 20;

/// Calls `parse` with each line of a list that is not empty, without the spaces around it.
///
/// # Errors
/// The file cannot be read or is no UTF-8 text; [`Error::ListLine`] with the reason that `parse` returned.
pub(super) fn each_line(list: &Path, mut parse: impl FnMut(&str) -> Result<(), String>) -> Result<()> {
    let Ok(text) = String::from_utf8(input::read(list, LARGEST)?) else {
        let reason = "it is no UTF-8 text: save it as UTF-8".into();
        return Err(Error::NotADataset { path: list.to_path_buf(), reason });
    };
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty()) {
        parse(line).map_err(|reason| Error::ListLine { path: list.to_path_buf(), line: index + 1, reason })?;
    }
    Ok(())
}

/// Reads a list with an image on each line. If it is `used`, its images must be there.
///
/// # Errors
/// As [`each_line`]; the list is empty; [`Error::MissingImages`].
pub(super) fn images(
    list: &Path,
    used: bool,
    parse: impl Fn(&str) -> Result<ImageRecord, String>,
) -> Result<Vec<ImageRecord>> {
    let mut records = Vec::new();
    let mut known: HashSet<PathBuf> = HashSet::new();
    each_line(list, |line| {
        let record = parse(line)?;
        if !known.insert(record.path.clone()) {
            return Err(format!("{} is in an earlier line, too: remove one of the two", record.path.shown()));
        }
        records.push(record);
        Ok(())
    })?;
    if records.is_empty() {
        return Err(Error::NotADataset { path: list.to_path_buf(), reason: "the list names no image".into() });
    }
    let missing: Vec<&PathBuf> = records.iter().map(|r| &r.path).filter(|path| used && !path.is_file()).collect();
    match missing.first() {
        Some(&first) => Err(Error::MissingImages {
            missing: missing.len(),
            total: records.len(),
            first: first.clone(),
            list: list.to_path_buf(),
            advice: UNPACK_AGAIN,
        }),
        None => Ok(records),
    }
}
