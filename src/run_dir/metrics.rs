//! The metrics of a run: one JSON object per line.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::tensorboard::EventFile;
use crate::Result;
use crate::base::atomic::{atomic_write, sync_folder};
use crate::base::error::IoContext;
use crate::base::input;

/// Largest accepted metrics.jsonl, bytes.
pub(crate) const LARGEST: u64 = 4 << 30;

/// An open metrics.jsonl.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    /// `None` if the metrics are dropped.
    file: Option<File>,
    /// Takes the same figures, if they are wanted for TensorBoard.
    events: Option<EventFile>,
}

impl Metrics {
    /// Opens the file `path` and keeps its first `length` bytes: a run that resumes from a checkpoint writes the rest again. If the length
    /// is `None` or does not end a line of the file, keeps the complete lines for which `keep` is true.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn resume(path: PathBuf, length: Option<u64>, keep: impl Fn(&Value) -> bool) -> Result<Metrics> {
        if path.exists() {
            let bytes = input::read(&path, LARGEST)?;
            let known = length.map(|length| length as usize);
            let known = known.filter(|&length| length == 0 || bytes.get(length - 1) == Some(&b'\n'));
            let kept = match known {
                Some(length) => bytes[..length].to_vec(),
                None => {
                    let whole = |line: &&[u8]| {
                        line.ends_with(b"\n") && serde_json::from_slice(line).is_ok_and(|value| keep(&value))
                    };
                    bytes.split_inclusive(|&byte| byte == b'\n').filter(whole).flatten().copied().collect()
                }
            };
            if kept != bytes {
                atomic_write(&path, |file| file.write_all(&kept))?;
            }
        }
        let metrics = Metrics::append_to(path)?;
        sync_folder(&metrics.path);
        Ok(metrics)
    }

    /// Returns metrics that are dropped.
    pub(super) fn nowhere() -> Metrics {
        Metrics { path: PathBuf::new(), file: None, events: None }
    }

    fn append_to(path: PathBuf) -> Result<Metrics> {
        let file = OpenOptions::new().create(true).append(true).open(&path).at("write", &path)?;
        Ok(Metrics { path, file: Some(file), events: None })
    }

    /// Also writes all figures, those of the lines so far and those to come, to an event file for TensorBoard in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn with_tensorboard(mut self, folder: &Path) -> Result<Metrics> {
        if self.file.is_none() {
            return Ok(self);
        }
        let mut events = EventFile::create(folder)?;
        let bytes = input::read(&self.path, LARGEST)?;
        let lines = bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        lines.into_iter().try_for_each(|line: Value| events.write(&line))?;
        self.events = Some(events);
        Ok(self)
    }

    /// Appends `record` as one line, with one write.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), such as a full disk.
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let line = serde_json::to_value(record).map_err(std::io::Error::from).at("write", &self.path)?;
        file.write_all(format!("{line}\n").as_bytes()).at("write", &self.path)?;
        self.events.as_mut().map_or(Ok(()), |events| events.write(&line))
    }

    /// Makes sure that all lines are on the disk, and returns the length of the file in bytes.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn sync(&mut self) -> Result<u64> {
        let Some(file) = &self.file else { return Ok(0) };
        file.sync_all().at("write", &self.path)?;
        Ok(file.metadata().at("read", &self.path)?.len())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn metrics_continue_after_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let text = || fs::read_to_string(&path).unwrap();
        let mut metrics = Metrics::resume(path.clone(), Some(0), |_| true).unwrap();
        let mut lengths = vec![0];
        for step in 1..=3 {
            metrics.write(&json!({"step": step})).unwrap();
            lengths.push(metrics.sync().unwrap());
        }
        metrics.file.as_mut().unwrap().write_all(b"{\"step\": 4, \"lo").unwrap();
        drop(metrics);
        let mut metrics =
            Metrics::resume(path.clone(), Some(lengths[3]), |_| unreachable!("the length says it")).unwrap();
        assert_eq!(text(), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
        metrics.file.as_mut().unwrap().write_all(b"{\"step\": 4, \"lo").unwrap();
        // With another or an unknown length, the file is filtered line by line.
        for length in [Some(1000), Some(lengths[2] - 1), None] {
            let mut metrics =
                Metrics::resume(path.clone(), length, |record| record["step"].as_u64() <= Some(2)).unwrap();
            metrics.write(&json!({"step": 3, "again": true})).unwrap();
            assert_eq!(text(), "{\"step\":1}\n{\"step\":2}\n{\"again\":true,\"step\":3}\n");
        }
        Metrics::resume(path.clone(), Some(0), |_| true).unwrap();
        assert_eq!(text(), "");
    }
}
