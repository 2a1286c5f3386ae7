//! A file of tensors, whatever its format.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::tensor::{Dtype, View};
use super::{bad_file, safetensors_in, torch};
use crate::error::IoContext;
use crate::{Error, Result, memory};

/// What wrappers (`DataParallel`, `torch.compile`) put before every name.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// A file of tensors: its bytes are held once, and a tensor's values are made when they are asked for.
pub struct File {
    path: PathBuf,
    bytes: Vec<u8>,
    views: BTreeMap<String, View>,
    /// The file's string metadata; torch's own formats have none.
    pub metadata: HashMap<String, String>,
}

impl File {
    /// Reads and checks a safetensors file or a torch checkpoint (`.pth`, zip or legacy), told apart by their content. Code in a
    /// checkpoint is never run. Where all names begin with `module.` (of `DataParallel`), they lose it.
    ///
    /// # Errors
    /// The file cannot be read, is of neither format, is damaged, has no single dictionary of tensors, or names anything beyond
    /// plain data and tensors.
    pub fn open(path: &Path) -> Result<File> {
        let bytes = read(path)?;
        File::parse(path, bytes).map_err(|reason| bad_file(path, reason))
    }

    pub(super) fn parse(path: &Path, bytes: Vec<u8>) -> Result<File, String> {
        let (views, metadata) = if safetensors_in::recognises(&bytes) {
            safetensors_in::read(&bytes)?
        } else if torch::recognises(&bytes) {
            (torch::read(&bytes)?, HashMap::new())
        } else {
            let kind =
                if bytes.is_empty() { "it is empty" } else { "it is neither safetensors nor a torch checkpoint" };
            return Err(format!("{kind}: give a .safetensors or .pth file of weights"));
        };
        Ok(File { path: path.to_path_buf(), bytes, views: unwrap_names(views), metadata })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names in the file, sorted.
    pub fn names(&self) -> Vec<String> {
        self.views.keys().cloned().collect()
    }

    /// Shape of a tensor, `None` if there is none of that name.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.views.get(name).map(|view| view.shape.clone())
    }

    /// Type of a tensor's elements, `None` if there is none of that name.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.views.get(name).map(|view| view.dtype)
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

    /// Integer values, whatever integer type they are stored in; truth values as 0 and 1.
    ///
    /// # Errors
    /// No tensor of that name, or floating point.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>> {
        let view = self.view(name)?;
        view.i64(&self.bytes).ok_or_else(|| self.wrong_type(name, view, "an integer type"))
    }

    fn view(&self, name: &str) -> Result<&View> {
        self.views.get(name).ok_or_else(|| bad_file(&self.path, format!("it has no tensor {name}")))
    }

    fn wrong_type(&self, name: &str, view: &View, wanted: &str) -> Error {
        bad_file(&self.path, format!("{name} has the type {:?}, not {wanted}", view.dtype))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut file = std::fs::File::open(path).at("read", path)?;
    let len = file.metadata().at("read", path)?.len();
    memory::ensure("a file of weights", len)?;
    let mut bytes = Vec::with_capacity(len as usize);
    file.read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes)
}

/// Drops a wrapper's prefix where all names have it.
fn unwrap_names(mut views: BTreeMap<String, View>) -> BTreeMap<String, View> {
    while let Some(prefix) =
        WRAPPERS.iter().find(|p| !views.is_empty() && views.keys().all(|name| name.starts_with(**p)))
    {
        views = views.into_iter().map(|(name, view)| (name[prefix.len()..].to_string(), view)).collect();
    }
    views
}
