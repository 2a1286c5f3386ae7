//! A file of tensors, whatever its format.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::tensor::{Entry, View};
use super::{bad_file, kind, safetensors_in, torch, words};
use crate::base::text::{Shown, are, plural};
use crate::base::{input, memory};
use crate::io::Dtype;
use crate::{Error, Result};

/// A file of tensors: its bytes are held once, and a tensor's values are made when they are asked for.
pub struct File {
    path: PathBuf,
    bytes: Vec<u8>,
    entries: BTreeMap<String, Entry>,
    /// The dictionary of tensors that was taken: keys joined by dots, empty at the top.
    pub(super) dictionary: String,
    /// Other dictionaries of tensors.
    pub(super) other_dictionaries: Vec<String>,
    /// The file's string metadata; torch's own formats have none.
    pub metadata: HashMap<String, String>,
}

impl File {
    /// Reads and checks a safetensors file or a torch checkpoint (`.pth`, zip or legacy), told apart by their content. Code in a
    /// checkpoint is never run. Names lose what wrappers such as `DataParallel` (`module.`) put into them.
    ///
    /// # Errors
    /// The file cannot be read, is of neither format, is damaged, has no single dictionary of tensors, or names anything beyond
    /// plain data and tensors.
    pub fn open(path: &Path) -> Result<File> {
        File::open_dictionary(path, None)
    }

    /// As [`File::open`]; of several dictionaries of tensors the one called `dictionary`, or the tensors whose names begin with it.
    ///
    /// # Errors
    /// As [`File::open`]; there is nothing of that name.
    pub fn open_dictionary(path: &Path, dictionary: Option<&str>) -> Result<File> {
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

    /// Keeps the tensors whose names begin with `prefix`, without it.
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

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors that are read, sorted.
    pub fn names(&self) -> Vec<String> {
        let read = |(_, entry): &(&String, &Entry)| matches!(entry, Entry::View(_));
        self.entries.iter().filter(read).map(|(name, _)| name.clone()).collect()
    }

    /// Names in the file, sorted; those of tensors that are not read too.
    pub fn all_names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Why a tensor is not read: `its type complex64 is not read`. `None` if it is, or is not there.
    pub fn unread(&self, name: &str) -> Option<&str> {
        match self.entries.get(name)? {
            Entry::Unread(why) => Some(why),
            Entry::View(_) => None,
        }
    }

    /// Shape of a tensor, `None` if there is none of that name, or it is not read.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.view(name).ok().map(|view| view.shape.clone())
    }

    /// Type of a tensor's elements, `None` if there is none of that name, or it is not read.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.view(name).ok().map(|view| view.dtype)
    }

    /// The elements' little-endian bytes in row-major order.
    ///
    /// # Errors
    /// No tensor of that name.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        Ok(self.view(name)?.gather(&self.bytes))
    }

    /// Values as f32, whatever float type they are stored in.
    ///
    /// # Errors
    /// No tensor of that name, or not floating point.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        let view = self.view(name)?;
        view.f32(&self.bytes).ok_or_else(|| self.wrong_type(name, view, "f32, f64, f16 or bf16"))
    }

    /// The values of a tensor of f64; `None` for one of another type.
    ///
    /// # Errors
    /// No tensor of that name.
    pub fn f64(&self, name: &str) -> Result<Option<Vec<f64>>> {
        Ok(self.view(name)?.f64(&self.bytes))
    }

    /// As [`File::f32`], of weights or of what belongs to them.
    ///
    /// # Errors
    /// As [`File::f32`]; a value is NaN or infinite, as one that overflowed float16, or overflows f32.
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

    /// Integer values, whatever integer type they are stored in; truth values as 0 and 1.
    ///
    /// # Errors
    /// No tensor of that name, or floating point.
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

/// Drops the segments of wrappers from the names, unless two names would become one.
fn unwrap_names(entries: BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    let unwrapped: BTreeMap<String, &Entry> =
        entries.iter().map(|(name, entry)| (words::unwrapped(name), entry)).collect();
    if unwrapped.len() < entries.len() {
        return entries;
    }
    entries.into_iter().map(|(name, entry)| (words::unwrapped(&name), entry)).collect()
}
