//! Finds golden files by name pattern and reads their tensors.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::common::say;

/// Returns the golden files whose name matches `pattern` (folders, then a name with at most one `*`): those of the folder `PTL_GOLDEN`,
/// then the committed fixtures that differ from them. If `PTL_GOLDEN` is not set, stderr says what was skipped.
///
/// # Panics
/// `PTL_GOLDEN` is set, and its folder holds no such file.
pub fn files(pattern: &str) -> Vec<PathBuf> {
    let fixtures = matching(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden"), pattern);
    let Some(folder) = std::env::var_os("PTL_GOLDEN") else {
        let n = fixtures.len();
        say(&format!("SKIPPED full golden data ({pattern}): PTL_GOLDEN is not set; checked {n} fixture files"));
        return fixtures;
    };
    let mut found = matching(Path::new(&folder), pattern);
    assert!(!found.is_empty(), "PTL_GOLDEN = {}: no file there matches {pattern}", folder.display());
    let full: Vec<_> = found.iter().map(|path| read(path)).collect();
    found.extend(fixtures.into_iter().filter(|path| !full.contains(&read(path))));
    found
}

fn matching(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let (below, pattern) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let folder = &folder.join(below);
    let (prefix, suffix) = pattern.split_once('*').unwrap_or((pattern, ""));
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot list {}: {e}", folder.display()));
    let mut found: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder entry").path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if pattern.contains('*') {
                name.len() >= prefix.len() + suffix.len() && name.starts_with(prefix) && name.ends_with(suffix)
            } else {
                name == pattern
            }
        })
        .collect();
    found.sort();
    found
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

/// One golden file: `x.safetensors`, `x.json`, or both under one name.
pub struct GoldenFile {
    /// File name without its extension.
    pub name: String,
    /// Metadata of the safetensors file; empty where there is none.
    pub metadata: HashMap<String, String>,
    /// The JSON file of this name, `Null` where there is none.
    pub json: Value,
    tensors: HashMap<String, Stored>,
}

struct Stored {
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl GoldenFile {
    /// Opens `path` and the file of the same name with the other extension, where there is one.
    pub fn open(path: &Path) -> Self {
        let mut golden = Self {
            name: path.file_stem().expect("a file name").to_string_lossy().into_owned(),
            metadata: HashMap::new(),
            json: Value::Null,
            tensors: HashMap::new(),
        };
        let json = path.with_extension("json");
        if json.exists() {
            golden.json = serde_json::from_slice(&read(&json)).unwrap_or_else(|e| panic!("{}: {e}", json.display()));
        }
        let tensors = path.with_extension("safetensors");
        if tensors.exists() {
            let bytes = read(&tensors);
            let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors header");
            golden.metadata = header.metadata().clone().unwrap_or_default();
            for (key, view) in SafeTensors::deserialize(&bytes).expect("a safetensors file").tensors() {
                let stored = Stored { shape: view.shape().to_vec(), dtype: view.dtype(), bytes: view.data().to_vec() };
                golden.tensors.insert(key, stored);
            }
        }
        golden
    }

    /// Returns the keys of all tensors, sorted.
    pub fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<_> = self.tensors.keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    pub fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// Returns the salt of the formula numbers, from the metadata or from the JSON file (at its top or under `meta`).
    pub fn salt(&self) -> &str {
        let json = || self.json["salt"].as_str().or(self.json["meta"]["salt"].as_str());
        let salt = self.metadata.get("salt").map(String::as_str).or_else(json);
        salt.unwrap_or_else(|| panic!("{}: no salt", self.name))
    }

    /// Returns the metadata entry `key`, read as JSON (numbers, lists and objects are stored as their JSON text).
    pub fn meta(&self, key: &str) -> Value {
        let text = self.metadata.get(key).unwrap_or_else(|| panic!("{}: no metadata {key}", self.name));
        serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))
    }

    pub fn shape(&self, key: &str) -> &[usize] {
        &self.stored(key).shape
    }

    pub fn f32(&self, key: &str) -> Vec<f32> {
        self.elements(key, Dtype::F32, f32::from_le_bytes)
    }

    pub fn f64(&self, key: &str) -> Vec<f64> {
        self.elements(key, Dtype::F64, f64::from_le_bytes)
    }

    pub fn i64(&self, key: &str) -> Vec<i64> {
        self.elements(key, Dtype::I64, i64::from_le_bytes)
    }

    pub fn u8(&self, key: &str) -> Vec<u8> {
        self.elements(key, Dtype::U8, |[byte]| byte)
    }

    /// Returns the name of the element type, as safetensors writes it, and the bytes.
    pub fn raw(&self, key: &str) -> (String, &[u8]) {
        let stored = self.stored(key);
        (format!("{:?}", stored.dtype), &stored.bytes)
    }

    fn stored(&self, key: &str) -> &Stored {
        self.tensors.get(key).unwrap_or_else(|| panic!("{}: no tensor {key}; it has {:?}", self.name, self.keys()))
    }

    fn elements<T, const N: usize>(&self, key: &str, dtype: Dtype, convert: fn([u8; N]) -> T) -> Vec<T> {
        let stored = self.stored(key);
        assert_eq!(stored.dtype, dtype, "{}: dtype of {key}", self.name);
        let (elements, rest) = stored.bytes.as_chunks::<N>();
        assert!(rest.is_empty(), "{}: {key} is cut off", self.name);
        elements.iter().map(|bytes| convert(*bytes)).collect()
    }
}

/// Returns the golden folders `name`: that of `PTL_GOLDEN`, then the committed one. As with [`files`], stderr says what was skipped.
pub fn folders(name: &str) -> Vec<PathBuf> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name);
    let Some(folder) = std::env::var_os("PTL_GOLDEN") else {
        say(&format!("SKIPPED full golden data ({name}/): PTL_GOLDEN is not set; checked the committed folder"));
        return vec![fixture];
    };
    let full = Path::new(&folder).join(name);
    assert!(full.is_dir(), "PTL_GOLDEN = {}: there is no folder {name}", folder.display());
    vec![full, fixture]
}

/// Reads the bytes of a file, or of its gzipped form beside it.
pub fn bytes(path: &Path) -> Vec<u8> {
    if path.is_file() {
        return read(path);
    }
    let zipped = PathBuf::from(format!("{}.gz", path.display()));
    let compressed = read(&zipped);
    let mut bytes = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&compressed[..]);
    decoder.read_to_end(&mut bytes).unwrap_or_else(|e| panic!("{}: {e}", zipped.display()));
    bytes
}
