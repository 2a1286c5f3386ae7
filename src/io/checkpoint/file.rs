//! A file of tensors in any of the supported formats.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::tensor::{Entry, View};
use super::{bad_file, kind, safetensors_in, torch, words};
use crate::base::text::{Shown, are, plural};
use crate::base::{input, memory};
use crate::io::Dtype;
use crate::{Error, Result};

/// A file of tensors. Its bytes are in memory once; values of a tensor are converted on request.
pub struct File {
    path: PathBuf,
    bytes: Vec<u8>,
    entries: BTreeMap<String, Entry>,
    /// The dictionary of tensors that was taken: its keys joined by dots; empty if it is the top of the file.
    pub(super) dictionary: String,
    /// Other dictionaries of tensors.
    pub(super) other_dictionaries: Vec<String>,
    /// The string metadata of a safetensors file; torch's own formats have none.
    pub metadata: HashMap<String, String>,
}

impl File {
    /// Reads and checks a safetensors file or a torch checkpoint (`.pth`, zip or legacy); the format is told by the content. Code in a
    /// checkpoint is never run. Segments that wrappers such as `DataParallel` add to names (`module.`) are removed.
    ///
    /// # Errors
    /// The file cannot be read, has another format, is damaged, has no or several dictionaries of tensors, or refers to anything but plain
    /// data and tensors.
    pub fn open(path: &Path) -> Result<File> {
        File::open_dictionary(path, None)
    }

    /// Reads a file as [`File::open`] does, taking the dictionary of tensors called `dictionary`, or the tensors whose names begin with
    /// it.
    ///
    /// # Errors
    /// As [`File::open`]; nothing has that name.
    pub(crate) fn open_dictionary(path: &Path, dictionary: Option<&str>) -> Result<File> {
        let opened = input::open(path)?;
        memory::ensure("a file of weights", opened.1)?;
        let bytes = input::read_opened(path, opened, u64::MAX)?;
        File::parse(path, bytes, dictionary).map_err(|reason| bad_file(path, reason))
    }

    pub(super) fn parse(path: &Path, bytes: Vec<u8>, dictionary: Option<&str>) -> Result<File, String> {
        let mut file = File {
            path: path.to_path_buf(),
            bytes,
            entries: BTreeMap::new(),
            dictionary: String::new(),
            other_dictionaries: Vec::new(),
            metadata: HashMap::new(),
        };
        if safetensors_in::recognises(&file.bytes) {
            (file.entries, file.metadata) = safetensors_in::read(&file.bytes)?;
        } else if torch::recognises(&file.bytes) {
            let contents = torch::read(&file.bytes, dictionary)?;
            (file.entries, file.dictionary, file.other_dictionaries) =
                (contents.entries, contents.dictionary, contents.others);
        } else {
            return Err(kind::other(&file.bytes));
        }
        if let Some(dictionary) =
            dictionary.filter(|name| !file.dictionary.split('.').any(|key| key == *name) && file.dictionary != *name)
        {
            file.keep_under(dictionary)?;
        }
        file.entries = unwrap_names(file.entries);
        Ok(file)
    }

    /// Keeps only the tensors whose names begin with `prefix`, and removes the prefix from their names.
    fn keep_under(&mut self, prefix: &str) -> Result<(), String> {
        let dotted = format!("{prefix}.");
        let all = std::mem::take(&mut self.entries);
        let mut first: Vec<String> = all.keys().filter_map(|name| Some(name.split_once('.')?.0.to_string())).collect();
        first.dedup();
        let under = |(name, entry): (String, Entry)| Some((name.strip_prefix(&dotted)?.to_string(), entry));
        self.entries = all.into_iter().filter_map(under).collect();
        if self.entries.is_empty() {
            let here = if self.dictionary.is_empty() { None } else { Some(&self.dictionary) };
            let names: Vec<String> = here
                .into_iter()
                .chain(&self.other_dictionaries)
                .chain(&first)
                .take(12)
                .map(|name| name.shown().to_string())
                .collect();
            let has = if names.is_empty() {
                "its names have no parts".into()
            } else {
                format!("it has {}", names.join(", "))
            };
            return Err(format!("it has no dictionary of tensors and no names under {}: {has}", prefix.shown()));
        }
        self.dictionary = prefix.to_string();
        Ok(())
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the names of the tensors that can be read, sorted.
    pub fn names(&self) -> Vec<String> {
        let read = |(_, entry): &(&String, &Entry)| matches!(entry, Entry::View(_));
        self.entries.iter().filter(read).map(|(name, _)| name.clone()).collect()
    }

    /// Returns all names in the file, sorted, including those of tensors that cannot be read.
    pub(crate) fn all_names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Returns why a tensor cannot be read: `its type complex64 is not read`. `None` if it can be read, or is not there.
    pub(crate) fn unread(&self, name: &str) -> Option<&str> {
        match self.entries.get(name)? {
            Entry::Unread(why) => Some(why),
            Entry::View(_) => None,
        }
    }

    /// Returns the shape of a tensor, or `None` if it is not there or cannot be read.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.view(name).ok().map(|view| view.shape.clone())
    }

    /// Returns the element type of a tensor, or `None` if it is not there or cannot be read.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.view(name).ok().map(|view| view.dtype)
    }

    /// Returns the little-endian bytes of a tensor's elements, in row-major order.
    ///
    /// # Errors
    /// There is no such tensor, or it cannot be read.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        Ok(self.view(name)?.gather(&self.bytes))
    }

    /// Returns the values of a floating-point tensor of any type as f32, in row-major order.
    ///
    /// # Errors
    /// There is no such tensor, it cannot be read, or its type is no floating point.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        let view = self.view(name)?;
        view.f32(&self.bytes).ok_or_else(|| self.wrong_type(name, view, "f32, f64, f16 or bf16"))
    }

    /// Returns the values of a tensor of f64, or `None` for another type.
    ///
    /// # Errors
    /// There is no such tensor, or it cannot be read.
    pub fn f64(&self, name: &str) -> Result<Option<Vec<f64>>> {
        Ok(self.view(name)?.f64(&self.bytes))
    }

    /// Returns values as [`File::f32`] does, and checks that all are finite.
    ///
    /// # Errors
    /// As [`File::f32`]; a value is NaN, infinite (it may have overflowed float16), or too large for f32.
    pub fn finite(&self, name: &str) -> Result<Vec<f32>> {
        let values = self.f32(name)?;
        let bad = values.iter().filter(|value| !value.is_finite()).count();
        if bad == 0 {
            return Ok(values);
        }
        let nan = values.iter().any(|value| value.is_nan());
        let what = if nan { "not finite (NaN or infinite)" } else { "infinite or beyond float32" };
        let reason = format!(
            "{bad} of the {} of {} (stored as {:?}) {} {what}: these weights are broken, take a checkpoint from before \
             they diverged or overflowed",
            plural(values.len(), "value", "values"),
            name.shown(),
            self.view(name)?.dtype,
            are(bad)
        );
        Err(bad_file(&self.path, reason))
    }

    /// Returns the values of an integer tensor of any type; booleans are 0 and 1.
    ///
    /// # Errors
    /// There is no such tensor, it cannot be read, or its type is floating point.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>> {
        let view = self.view(name)?;
        view.i64(&self.bytes).ok_or_else(|| self.wrong_type(name, view, "an integer type"))
    }

    fn view(&self, name: &str) -> Result<&View> {
        match self.entries.get(name) {
            Some(Entry::View(view)) => Ok(view),
            Some(Entry::Unread(why)) => Err(bad_file(&self.path, format!("{} cannot be used: {why}", name.shown()))),
            None => Err(bad_file(&self.path, format!("it has no tensor {}", name.shown()))),
        }
    }

    fn wrong_type(&self, name: &str, view: &View, wanted: &str) -> Error {
        bad_file(&self.path, format!("{} has the type {:?}, not {wanted}", name.shown(), view.dtype))
    }
}

/// Removes the segments of wrappers from the names, unless two names would become equal.
fn unwrap_names(entries: BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    let unwrapped: BTreeMap<String, &Entry> =
        entries.iter().map(|(name, entry)| (words::unwrapped(name), entry)).collect();
    if unwrapped.len() < entries.len() {
        return entries;
    }
    entries.into_iter().map(|(name, entry)| (words::unwrapped(&name), entry)).collect()
}
