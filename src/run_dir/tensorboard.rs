//! An event file for TensorBoard, with the numbers of metrics.jsonl as scalars.
//!
//! An event file is a list of records: the length as u64, the masked checksum of these 8 bytes, the bytes, and their masked checksum (TFRecord;
//! CRC-32C). The bytes are a message `tensorflow.Event` of Protocol Buffers.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use serde_json::Value as Json;

use crate::Result;
use crate::base::error::IoContext;

/// What the name of an event file contains, by which TensorBoard finds it.
const MARK: &str = ".tfevents.";
/// Keys of a line of metrics that are no figures.
const NO_FIGURES: [&str; 2] = ["step", "epoch"];

/// `tensorflow.Event`, as far as it is written.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorflow.Summary.Value` of a scalar.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// An open event file.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates an event file in `folder`, which is made if needed, and removes those of earlier starts.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub(super) fn create(folder: &Path) -> Result<EventFile> {
        fs::create_dir_all(folder).at("create", folder)?;
        for entry in fs::read_dir(folder).at("read", folder)? {
            let path = entry.at("read", folder)?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().contains(MARK)) {
                fs::remove_file(&path).at("remove", &path)?;
            }
        }
        let path = folder.join(format!("events.out{MARK}{}.ptl", seconds() as u64));
        let file = File::create(&path).at("create", &path)?;
        let mut events = EventFile { path, file };
        let version = Some("brain.Event:2".into());
        events.append(&Event { wall_time: seconds(), file_version: version, ..Event::default() })?;
        Ok(events)
    }

    /// Writes the figures of a line of metrics at its step, under `TYPE/NAME`, or `TYPE/NAME/KEY` for those of an object.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub(super) fn write(&mut self, line: &Json) -> Result<()> {
        let kind = match line["type"].as_str() {
            Some("step") => "train",
            Some("evaluation") => "eval",
            Some(other) => other,
            None => return Ok(()),
        };
        let (Some(step), Some(figures)) = (line["step"].as_u64(), line.as_object()) else { return Ok(()) };
        let mut value = Vec::new();
        for (name, figure) in figures.iter().filter(|(name, _)| !NO_FIGURES.contains(&name.as_str())) {
            let mut add = |tag: String, figure: &Json| {
                value.extend(figure.as_f64().map(|figure| Value { tag, simple_value: Some(figure as f32) }));
            };
            match figure.as_object() {
                Some(group) => group.iter().for_each(|(key, figure)| add(format!("{kind}/{name}/{key}"), figure)),
                None => add(format!("{kind}/{name}"), figure),
            }
        }
        if value.is_empty() {
            return Ok(());
        }
        let (wall_time, step, summary) = (seconds(), step as i64, Some(Summary { value }));
        self.append(&Event { wall_time, step, summary, file_version: None })
    }

    fn append(&mut self, event: &Event) -> Result<()> {
        let bytes = event.encode_to_vec();
        let length = (bytes.len() as u64).to_le_bytes();
        let record = [&length, &masked(&length).to_le_bytes()[..], &bytes, &masked(&bytes).to_le_bytes()].concat();
        self.file.write_all(&record).at("write", &self.path)
    }
}

/// Returns the seconds since 1970.
fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Returns the checksum as TFRecord stores it.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Returns the CRC-32C (Castagnoli) of a few bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let of_byte = |crc: u32, byte: &u8| {
        let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        (0..8).fold(crc ^ u32::from(*byte), bit)
    };
    !bytes.iter().fold(!0, of_byte)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checksums_follow_their_format() {
        // The check value of CRC-32C, and RFC 3720's 32 zeros.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn figures_are_written_as_scalars() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("events.out.tfevents.1.ptl");
        fs::write(&old, "of an earlier start").unwrap();
        let mut events = EventFile::create(folder.path()).unwrap();
        events.write(&json!({ "type": "step", "step": 300, "epoch": 2, "loss": 0.5, "grad_norm": null })).unwrap();
        events.write(&json!({ "type": "evaluation", "step": 301, "note": "no number" })).unwrap();
        assert!(!old.exists());
        let bytes = fs::read(&events.path).unwrap();
        let mut records = Vec::new();
        let mut rest = &bytes[..];
        while let Some((length, after)) = rest.split_first_chunk() {
            let (record, after) = after[4..].split_at(u64::from_le_bytes(*length) as usize);
            records.push(Event::decode(record).unwrap());
            rest = &after[4..];
        }
        let [first, second] = &records[..] else { panic!("no record for a line without figures: {records:?}") };
        assert_eq!((first.step, first.file_version.as_deref()), (0, Some("brain.Event:2")));
        let scalar = Value { tag: "train/loss".into(), simple_value: Some(0.5) };
        assert_eq!((second.step, &second.summary), (300, &Some(Summary { value: vec![scalar] })));
    }
}
