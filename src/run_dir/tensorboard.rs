//! An event file for TensorBoard, with the numbers of metrics.jsonl as scalars.
//!
//! An event file is a list of records: the length as u64, the masked checksum of these 8 bytes, the bytes, and their masked checksum (TFRecord;
//! CRC-32C). The bytes are a message `tensorflow.Event` of Protocol Buffers: `wall_time` (1, double), `step` (2, varint), and `file_version` (3,
//! text) or `summary` (5), which has values (1) with `tag` (1, text) and `simple_value` (2, float).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::Result;
use crate::base::error::IoContext;

/// What the name of an event file contains, by which TensorBoard finds it.
const MARK: &str = ".tfevents.";
/// Keys of a line of metrics that are no figures.
const NO_FIGURES: [&str; 2] = ["step", "epoch"];

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
        events.append(&event(0, 3, b"brain.Event:2"))?;
        Ok(events)
    }

    /// Writes the figures of a line of metrics at its step, under `TYPE/NAME`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub(super) fn write(&mut self, line: &Value) -> Result<()> {
        let kind = match line["type"].as_str() {
            Some("step") => "train",
            Some("evaluation") => "eval",
            Some(other) => other,
            None => return Ok(()),
        };
        let (Some(step), Some(figures)) = (line["step"].as_u64(), line.as_object()) else { return Ok(()) };
        let mut summary = Vec::new();
        for (name, figure) in figures.iter().filter(|(name, _)| !NO_FIGURES.contains(&name.as_str())) {
            if let Some(figure) = figure.as_f64() {
                let mut value = Vec::new();
                put_bytes(&mut value, 1, format!("{kind}/{name}").as_bytes());
                value.push(2 << 3 | 5);
                value.extend((figure as f32).to_le_bytes());
                put_bytes(&mut summary, 1, &value);
            }
        }
        if summary.is_empty() { Ok(()) } else { self.append(&event(step, 5, &summary)) }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let length = (bytes.len() as u64).to_le_bytes();
        let record = [&length, &masked(&length).to_le_bytes()[..], bytes, &masked(bytes).to_le_bytes()].concat();
        self.file.write_all(&record).at("write", &self.path)
    }
}

/// Returns an event of the present time whose field `field` is `content`.
fn event(step: u64, field: u8, content: &[u8]) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(seconds().to_le_bytes());
    event.push(2 << 3);
    put_varint(&mut event, step);
    put_bytes(&mut event, field, content);
    event
}

/// Returns the seconds since 1970.
fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Appends a field of bytes or of an embedded message.
fn put_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// Appends a number in groups of 7 bits, the lowest first; all but the last have the highest bit set.
fn put_varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
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
    fn checksums_and_numbers_follow_their_formats() {
        // The check value of CRC-32C, and RFC 3720's 32 zeros.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        let varint = |number| {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            bytes
        };
        assert_eq!([varint(0), varint(127), varint(300)], [vec![0], vec![127], vec![0xac, 0x02]]);
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
        // The first record has 8 + 4 + 26 + 4 bytes: the time, step 0 and the version.
        assert_eq!(bytes[..8], 26u64.to_le_bytes());
        assert!(bytes[21..38].starts_with(&[0x10, 0, 0x1a, 13]) && bytes[25..38] == *b"brain.Event:2");
        let second = &bytes[42..];
        assert_eq!(second[12 + 9..][..3], [0x10, 0xac, 0x02], "step 300");
        let want = [&[0x2a, 19, 0x0a, 17, 0x0a, 10][..], b"train/loss", &[0x15, 0, 0, 0, 0x3f]].concat();
        assert_eq!(second[12 + 12..second.len() - 4], want);
        assert_eq!(second[..8], ((second.len() - 16) as u64).to_le_bytes(), "no record for a line without figures");
    }
}
