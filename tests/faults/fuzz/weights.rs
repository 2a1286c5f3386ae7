//! Fuzzes files of weights: torch's two formats and safetensors.

use std::io::{Cursor, Read, Write};
use std::path::Path;

use ptl::io::checkpoint::File;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

use super::{fixture, fuzz, written};

/// Reads all tensors, and checks that their sizes agree.
fn read(folder: &Path, bytes: &[u8]) -> ptl::Result<()> {
    let file = File::open(&written(folder, "weights", bytes))?;
    for name in file.names() {
        let count: usize = file.shape(&name).unwrap().iter().product();
        assert_eq!(file.bytes(&name)?.len(), count * file.dtype(&name).unwrap().size());
        let (floats, integers) = (file.f32(&name), file.i64(&name));
        assert!(floats.is_err() || integers.is_err(), "{name} is of two types");
        assert!(floats.is_ok_and(|values| values.len() == count) || integers.is_ok_and(|values| values.len() == count));
    }
    Ok(())
}

fn safetensors() -> Vec<u8> {
    fixture("golden/ckpt/dtypes_strides.safetensors")
}

fn legacy() -> Vec<u8> {
    fixture("golden/ckpt/dtypes_strides_legacy.pth")
}

fn zipped() -> [Vec<u8>; 2] {
    ["dtypes_strides_zip.pth", "with_optimizer.pth"].map(|name| fixture(&format!("golden/ckpt/{name}")))
}

#[test]
fn safetensors_files() {
    fuzz("safetensors", &[safetensors()], read);
}

/// Fuzzes the header alone; its stored length stays correct.
#[test]
fn safetensors_headers() {
    let file = safetensors();
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let (header, data) = file[8..].split_at(len);
    fuzz("safetensors-header", &[header.to_vec()], |folder, header| {
        read(folder, &[&(header.len() as u64).to_le_bytes(), header, data].concat())
    });
}

#[test]
fn legacy_torch_files() {
    fuzz("torch-legacy", &[legacy()], read);
}

#[test]
fn zipped_torch_files() {
    fuzz("torch-zip", &zipped(), read);
}

/// Fuzzes the pickle in an archive whose checksums stay correct.
#[test]
fn pickles_of_torch() {
    let [archive, other] = zipped().map(entries);
    let pickle = |entries: &[(String, Vec<u8>)]| {
        entries.iter().find(|(name, _)| name.ends_with("data.pkl")).expect("a pickle").1.clone()
    };
    fuzz("torch-pickle", &[pickle(&archive), pickle(&other)], |folder, pickle| {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, data) in &archive {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(if name.ends_with("data.pkl") { pickle } else { data }).unwrap();
        }
        read(folder, &zip.finish().unwrap().into_inner())
    });
}

fn entries(archive: Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let mut archive = ZipArchive::new(Cursor::new(archive)).unwrap();
    let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    let content = |name: String| {
        let mut data = Vec::new();
        archive.by_name(&name).unwrap().read_to_end(&mut data).unwrap();
        (name, data)
    };
    names.into_iter().map(content).collect()
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("safetensors", safetensors()), ("legacy", legacy()), ("zip", zipped()[1].clone())] {
        read(folder.path(), &bytes).unwrap();
        for len in 0..bytes.len() {
            assert!(read(folder.path(), &bytes[..len]).is_err(), "{name} cut to {len} bytes");
        }
    }
}
