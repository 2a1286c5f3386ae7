//! Reads untrusted files: only regular files are opened, and no more is read than a limit allows.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::base::error::IoContext;
use crate::base::memory;
use crate::{Error, Result};

/// Opens the regular file `path` for reading. Returns it with its length in bytes. Links are followed.
///
/// # Errors
/// [`Error::NotAFile`] for a folder, a pipe, a socket or a device: reading one may never end. [`Error::Io`] if the
/// file cannot be opened.
pub fn open(path: &Path) -> Result<(File, u64)> {
    // Checked before opening, as opening a pipe waits for a writer.
    let metadata = fs::metadata(path).at("read", path)?;
    if !metadata.is_file() {
        return Err(Error::NotAFile { path: path.into(), what: kind(metadata.file_type()) });
    }
    let file = File::open(path).at("read", path)?;
    Ok((file, metadata.len()))
}

/// Reads the whole regular file `path`, of at most `limit` bytes.
///
/// # Errors
/// As [`open`]; [`Error::FileTooLarge`] beyond the limit; [`Error::OutOfMemory`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_opened(path, open(path)?, limit)
}

/// Reads the whole file that [`open`] has opened at `path`, of at most `limit` bytes.
///
/// # Errors
/// [`Error::Io`] if reading fails; [`Error::FileTooLarge`] beyond the limit; [`Error::OutOfMemory`].
pub(crate) fn read_opened(path: &Path, (file, len): (File, u64), limit: u64) -> Result<Vec<u8>> {
    let too_large = || Error::FileTooLarge { path: path.into(), limit };
    if len > limit {
        return Err(too_large());
    }
    let mut bytes = memory::reserved("a file", len as usize)?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
}

/// Reads the whole regular text file `path`, of at most `limit` bytes.
///
/// # Errors
/// As [`read`]; [`Error::Io`] for bytes that are no UTF-8.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    let no_text = |_| io::Error::new(io::ErrorKind::InvalidData, "the file is no UTF-8 text");
    String::from_utf8(read(path, limit)?).map_err(no_text).at("read", path)
}

fn kind(kind: fs::FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "no regular file" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read_and_only_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert_eq!(open(&path).unwrap().1, 5);
        assert!(matches!(read(&path, 4), Err(Error::FileTooLarge { limit: 4, .. })));
        fs::write(&path, b"\xff").unwrap();
        assert!(read_text(&path, 5).unwrap_err().to_string().ends_with("the file is no UTF-8 text"));
        assert!(matches!(read(folder.path(), 4), Err(Error::NotAFile { what: "a folder", .. })));
        assert!(matches!(read(&folder.path().join("none"), 4), Err(Error::Io { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_pipes_are_refused_at_once() {
        assert!(matches!(read(Path::new("/dev/zero"), 4), Err(Error::NotAFile { what: "a device", .. })));
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = open(&pipe).unwrap_err().to_string();
        assert_eq!(error, format!("{} is a pipe: name a regular file", pipe.display()));
    }
}
