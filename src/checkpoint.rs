//! Model weights as safetensors under torch's names, shapes and order (OIHW), so that PyTorch loads them as they are.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};

use crate::error::IoContext;
use crate::report::Table;

use crate::store::Store;
use crate::{Error, Result};

/// A named tensor that goes into a file.
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    data: Data,
}

enum Data {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Tensor {
    /// f32 values in torch's order.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> Tensor {
        Tensor { name: name.into(), shape: shape.to_vec(), data: Data::F32(values) }
    }

    /// i64 values; a scalar has the shape `[]`.
    pub fn i64(name: impl Into<String>, shape: &[usize], values: Vec<i64>) -> Tensor {
        Tensor { name: name.into(), shape: shape.to_vec(), data: Data::I64(values) }
    }

    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::F32(values) => bytemuck::cast_slice(values),
            Data::I64(values) => bytemuck::cast_slice(values),
        }
    }
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        match self.data {
            Data::F32(_) => Dtype::F32,
            Data::I64(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes().into()
    }

    fn data_len(&self) -> usize {
        self.bytes().len()
    }
}

/// Writes a safetensors file; not atomic by itself, see [`crate::run_dir::atomic_write`].
pub fn write(path: &Path, tensors: &[Tensor], metadata: HashMap<String, String>) -> Result<()> {
    let named = tensors.iter().map(|t| (t.name.as_str(), t));
    let bytes = safetensors::serialize(named, Some(metadata)).map_err(|e| bad_file(path, e.to_string()))?;
    crate::run_dir::atomic_write(path, |file| std::io::Write::write_all(file, &bytes))
}

/// The state dict of a model: parameters, running statistics, counters.
pub fn state_dict(store: &Store) -> Vec<Tensor> {
    let params =
        store.params.iter().map(|p| Tensor::f32(&p.name, &p.shape, p.to_torch(&store.values[p.range.clone()])));
    let buffers = store.buffers.iter().map(|b| Tensor::f32(&b.name, &[b.values.len()], b.values.clone()));
    let counters = store.counters.iter().map(|(name, count)| Tensor::i64(name, &[], vec![*count as i64]));
    params.chain(buffers).chain(counters).collect()
}

/// A file of tensors held in memory.
pub struct File {
    bytes: Vec<u8>,
    /// The file's string metadata.
    pub metadata: HashMap<String, String>,
    path: std::path::PathBuf,
}

impl File {
    /// Reads and checks a safetensors file.
    ///
    /// # Errors
    /// The file cannot be read or is not safetensors.
    pub fn open(path: &Path) -> Result<File> {
        let bytes = std::fs::read(path).at("read", path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad_file(path, e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        SafeTensors::deserialize(&bytes).map_err(|e| bad_file(path, e.to_string()))?;
        Ok(File { bytes, metadata, path: path.to_path_buf() })
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("checked when opened")
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names in the file, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tensors().names().into_iter().map(String::from).collect();
        names.sort();
        names
    }

    /// Shape of a tensor, `None` if there is none of that name.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors().tensor(name).ok().map(|t| t.shape().to_vec())
    }

    /// Values as f32, whatever float type they are stored in.
    ///
    /// # Errors
    /// No tensor of that name, or not floating point.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).map_err(|e| bad_file(&self.path, format!("{name}: {e}")))?;
        to_f32(&tensor).ok_or_else(|| {
            bad_file(&self.path, format!("{name} has the type {:?}, not f32, f64, f16 or bf16", tensor.dtype()))
        })
    }

    /// Integer values.
    ///
    /// # Errors
    /// No tensor of that name, or not i64.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).map_err(|e| bad_file(&self.path, format!("{name}: {e}")))?;
        if tensor.dtype() != Dtype::I64 {
            return Err(bad_file(&self.path, format!("{name} has the type {:?}, not i64", tensor.dtype())));
        }
        Ok(chunks(tensor.data(), i64::from_le_bytes))
    }
}

fn chunks<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|c| read(c.try_into().expect("a chunk of N bytes"))).collect()
}

fn to_f32(tensor: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = tensor.data();
    Some(match tensor.dtype() {
        Dtype::F32 => chunks(data, f32::from_le_bytes),
        Dtype::F64 => chunks(data, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => chunks(data, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => chunks(data, |b| bf16::from_le_bytes(b).to_f32()),
        _ => return None,
    })
}

fn bad_file(path: &Path, reason: String) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), reason }
}

/// How a checkpoint's names were matched with a model's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names of the model that were filled.
    pub loaded: Vec<String>,
    /// Names in the file that were not used, and why.
    pub skipped: Vec<(String, String)>,
    /// Names of the model that keep their start values.
    pub new: Vec<String>,
}

impl LoadReport {
    /// The table of what was loaded, skipped and new, grouped by the first parts of the names.
    pub fn table(&self) -> Table {
        let mut rows: BTreeMap<(u8, String), (usize, String)> = BTreeMap::new();
        let mut add = |kind: u8, name: &str, note: &str| {
            let group: Vec<&str> = name.split('.').take(2).collect();
            let entry = rows.entry((kind, group.join("."))).or_insert((0, note.to_string()));
            entry.0 += 1;
        };
        self.loaded.iter().for_each(|name| add(0, name, ""));
        self.skipped.iter().for_each(|(name, why)| add(1, name, why));
        self.new.iter().for_each(|name| add(2, name, "keeps its start value"));
        let mut table = Table::new(["tensors", "count", "", "note"]);
        for ((kind, group), (count, note)) in rows {
            let verdict = ["loaded", "skipped", "new"][kind as usize];
            table.row([group, count.to_string(), verdict.to_string(), note]);
        }
        table
    }
}

/// How to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadMode {
    /// Every tensor of the model must be in the file, and nothing else: a checkpoint of the same model.
    Exact,
    /// What fits by name and shape is loaded; identity heads always start afresh. Names may carry a `module.` prefix or be
    /// those of a bare torchvision backbone.
    FineTune,
}

/// Fills `store` from `file`.
///
/// # Errors
/// [`LoadMode::Exact`]: a name is missing, superfluous or has another shape. [`LoadMode::FineTune`]: nothing at all fits.
pub fn load(store: &mut Store, file: &File, mode: LoadMode, is_head: impl Fn(&str) -> bool) -> Result<LoadReport> {
    let names = file.names();
    // From the model's name to the file's.
    let mut sources: HashMap<String, &String> = HashMap::new();
    for name in &names {
        let bare = if mode == LoadMode::FineTune { name.strip_prefix("module.").unwrap_or(name) } else { name };
        sources.insert(bare.to_string(), name);
        if mode == LoadMode::FineTune {
            sources.entry(format!("backbone.{bare}")).or_insert(name);
        }
    }
    let mut report = LoadReport::default();
    let mut used: HashMap<&String, String> = HashMap::new();
    let mut take = |name: &str, shape: &[usize]| -> Option<&String> {
        let source = *sources.get(name)?;
        if mode == LoadMode::FineTune && is_head(name) {
            used.insert(source, "identity head: starts afresh".into());
            return None;
        }
        let found = file.shape(source)?;
        let why = if found == shape { String::new() } else { format!("shape {found:?}, the model has {shape:?}") };
        let fits = why.is_empty();
        used.insert(source, why);
        fits.then_some(source)
    };
    let Store { params, values, buffers, counters, .. } = store;
    let mut note =
        |loaded: bool, name: &str| if loaded { &mut report.loaded } else { &mut report.new }.push(name.into());
    let mut fitting = 0;
    for param in params.iter() {
        let source = take(&param.name, &param.shape);
        if let Some(source) = source {
            param.from_torch(&file.f32(source)?, &mut values[param.range.clone()]);
        }
        fitting += usize::from(source.is_some());
        note(source.is_some(), &param.name);
    }
    for buffer in buffers.iter_mut() {
        let source = take(&buffer.name, &[buffer.values.len()]);
        if let Some(source) = source {
            buffer.values = file.f32(source)?;
        }
        note(source.is_some(), &buffer.name);
    }
    for (name, count) in counters.iter_mut() {
        let source = take(name, &[]);
        if let Some(source) = source {
            *count = file.i64(source)?[0].max(0) as u64;
        }
        note(source.is_some(), name);
    }
    for name in &names {
        match used.get(name) {
            Some(why) if why.is_empty() => {}
            Some(why) => report.skipped.push((name.clone(), why.clone())),
            None => report.skipped.push((name.clone(), "the model has no such tensor".into())),
        }
    }
    if mode == LoadMode::Exact && !(report.skipped.is_empty() && report.new.is_empty()) {
        let example = report.new.first().or(report.skipped.first().map(|s| &s.0)).cloned().unwrap_or_default();
        return Err(bad_file(
            &file.path,
            format!(
                "it belongs to another model: {} tensors are missing and {} do not fit, {example} among them",
                report.new.len(),
                report.skipped.len()
            ),
        ));
    }
    if fitting == 0 {
        let have = names.first().map_or("no tensor at all", String::as_str);
        return Err(bad_file(&file.path, format!("no weight fits the model by name and shape (it has {have})")));
    }
    Ok(report)
}
