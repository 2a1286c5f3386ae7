//! A safetensors file of which only the header is in memory: its tensors are read when they are needed, whole or in parts.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::bad_file;
use super::safetensors_in::{self, LENGTH};
use super::tensor::{Entry, View};
use crate::Result;
use crate::base::error::IoContext;
use crate::base::text::Shown;
use crate::base::{input, memory};
use crate::io::Dtype;

/// Numbers in an open file, one after the other.
#[derive(Debug)]
pub(crate) struct TensorPlace {
    pub file: fs::File,
    /// Bytes of the file.
    pub length: u64,
    /// Position of the first number, bytes.
    pub start: u64,
    pub dtype: Dtype,
}

/// An open safetensors file.
pub(crate) struct TensorFile {
    path: PathBuf,
    file: fs::File,
    /// Bytes of the file.
    length: u64,
    entries: BTreeMap<String, Entry>,
    /// Metadata of the header.
    pub metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The file cannot be read, has another format, or is damaged.
    pub(crate) fn open(path: &Path) -> Result<TensorFile> {
        let (mut file, length) = input::open(path)?;
        let bad = |reason: String| bad_file(path, reason);
        let mut start = [0; LENGTH + 1];
        if length <= LENGTH as u64 {
            return Err(bad("it is no safetensors file: it is too short".into()));
        }
        file.read_exact(&mut start).at("read", path)?;
        if !safetensors_in::recognises(&start) {
            return Err(bad("it is no safetensors file".into()));
        }
        let header_length = safetensors_in::header_length(&start[..LENGTH]).map_err(bad)?;
        if header_length as u64 > length - LENGTH as u64 {
            return Err(bad(safetensors_in::damaged("it ends in its header")));
        }
        let mut header = memory::reserved("a header", header_length)?;
        file.seek(SeekFrom::Start(LENGTH as u64)).at("read", path)?;
        (&file).take(header_length as u64).read_to_end(&mut header).at("read", path)?;
        let (entries, metadata) = safetensors_in::contents(&header, length).map_err(bad)?;
        Ok(TensorFile { path: path.into(), file, length, entries, metadata })
    }

    /// Returns the names of all tensors, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    /// Returns the shape of a tensor, or `None` if it is not there or has a type that is not read.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.view(name)?.shape)
    }

    /// Returns the values of an integer tensor of any type; booleans are 0 and 1.
    ///
    /// # Errors
    /// There is no such tensor, its type is no integer, or it cannot be read.
    pub(crate) fn i64(&self, name: &str) -> Result<Vec<i64>> {
        let bad = || bad_file(&self.path, format!("it has no tensor {} of an integer type", name.shown()));
        let view = self.view(name).ok_or_else(bad)?;
        let mut bytes = memory::reserved("a tensor", view.bytes.len())?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(view.bytes.start as u64)).at("read", &self.path)?;
        file.take(view.bytes.len() as u64).read_to_end(&mut bytes).at("read", &self.path)?;
        if bytes.len() != view.bytes.len() {
            return Err(bad_file(&self.path, "it has become shorter".into()));
        }
        View { bytes: 0..bytes.len(), ..view.clone() }.i64(&bytes).ok_or_else(bad)
    }

    /// Returns the place of a tensor in the open file.
    ///
    /// # Errors
    /// There is no such tensor, or one of a type that is not read.
    pub(crate) fn into_tensor(self, name: &str) -> Result<TensorPlace> {
        let missing = || bad_file(&self.path, format!("it has no tensor {} that can be read", name.shown()));
        let view = self.view(name).ok_or_else(missing)?;
        let (start, dtype) = (view.bytes.start as u64, view.dtype);
        Ok(TensorPlace { file: self.file, length: self.length, start, dtype })
    }

    fn view(&self, name: &str) -> Option<&View> {
        match self.entries.get(name)? {
            Entry::View(view) => Some(view),
            Entry::Unread(_) => None,
        }
    }
}
