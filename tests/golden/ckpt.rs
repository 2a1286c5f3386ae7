//! Compares torch's checkpoints with safetensors files of the same tensors, and checks that damaged and hostile ones are refused.

use std::path::Path;

use ptl::engine::store::Store;
use ptl::io::checkpoint::{self, File};
use ptl::nn::{Architecture, Classifier, ClassifierConfig, Pool, ResNetConfig, StemKind};
use serde_json::Value;

use crate::support::{Checker, GoldenFile, files};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Converts a name of a type from that of safetensors to torch's, which `expected.json` has.
fn torch_name(dtype: &str) -> &'static str {
    match dtype {
        "F16" => "float16",
        "BF16" => "bfloat16",
        "F32" => "float32",
        "F64" => "float64",
        "I64" => "int64",
        "I32" => "int32",
        "I16" => "int16",
        "I8" => "int8",
        "U8" => "uint8",
        "BOOL" | "Bool" => "bool",
        other => panic!("type {other}"),
    }
}

#[test]
fn checkpoints_of_every_format_have_the_twins_values() {
    let mut compared = 0;
    for listing in files("ckpt/expected.json") {
        for (group, expected) in json(&listing).as_object().unwrap() {
            let keys = expected["keys"].as_object().unwrap();
            for path in files(&format!("ckpt/{group}*")).iter().filter(|path| path.parent() == listing.parent()) {
                let twin = GoldenFile::open(&path.with_file_name(format!("{group}.safetensors")));
                let file = File::open(path).unwrap_or_else(|e| panic!("{e}"));
                let mut check = Checker::new(path.display().to_string());
                let mut names: Vec<&String> = keys.keys().collect();
                names.sort();
                check.that(file.names().iter().eq(names), || format!("names {:?}", file.names()));
                for (name, form) in keys {
                    let shape: Vec<usize> = serde_json::from_value(form[0].clone()).unwrap();
                    check.that(file.shape(name).as_ref() == Some(&shape), || format!("{name}: {:?}", file.shape(name)));
                    let dtype = torch_name(&format!("{:?}", file.dtype(name).unwrap()));
                    check.that(form[1] == dtype, || format!("{name}: {dtype} instead of {}", form[1]));
                    let (stored, bytes) = twin.raw(name);
                    assert_eq!(torch_name(&stored), dtype);
                    check.that(file.bytes(name).unwrap() == bytes, || format!("{name}: other values than the twin's"));
                }
                compared += 1;
            }
        }
    }
    assert!(compared >= 3, "{compared} files compared");
}

#[test]
fn an_optimiser_beside_the_weights_is_left_alone() {
    for path in files("ckpt/with_optimizer.pth") {
        let file = File::open(&path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(file.names(), ["p"]);
        assert_eq!(file.f32("p").unwrap().len(), file.shape("p").unwrap().iter().product::<usize>());
    }
}

/// Checks files that must be refused, and the words that the reason must contain.
#[test]
fn hostile_and_damaged_files_are_refused_and_nothing_is_run() {
    let full = std::env::var_os("PTL_GOLDEN").is_some();
    let families = [("evil", "it names "), ("corrupt", "damaged"), ("truncated", "")];
    for (family, part) in families.iter().filter(|(family, _)| full || *family != "truncated") {
        let found = files(&format!("ckpt/{family}_*"));
        assert!(!found.is_empty(), "no file of the family {family}");
        for path in found {
            let reason =
                File::open(&path).err().unwrap_or_else(|| panic!("{} was accepted", path.display())).to_string();
            let negative = reason.contains("negative");
            assert!(reason.contains(part) || negative, "{reason}");
            assert!(reason.contains(&*path.file_name().unwrap().to_string_lossy()), "{reason}");
        }
    }
    assert!(!Path::new("pwned.mark").exists(), "a pickle was run");
}

/// Checks that a narrow ResNet-18 of torchvision becomes a classifier, and that the classifier writes the same tensors: torchvision can
/// load them like its own.
#[test]
fn a_classifier_has_torchvisions_state_dict() {
    for path in files("ckpt/tiny_resnet18*").iter().filter(|path| path.extension().is_some_and(|e| e != "json")) {
        let file = File::open(path).unwrap_or_else(|e| panic!("{e}"));
        let (base, classes) = (file.shape("conv1.weight").unwrap()[0], file.shape("fc.weight").unwrap()[0]);
        let (architecture, stem) = (Architecture::ResNet18, StemKind::Imagenet);
        let backbone = ResNetConfig { architecture, ibn: None, base, stem, last_stride: 2, classes: None };
        let config = ClassifierConfig { backbone, pool: Pool::Avg, ptl: None, classes, logit_scale: None };
        let mut store = Store::new();
        Classifier::new(&mut store, &config, 5).unwrap();
        checkpoint::load_exact(&mut store, &file, None).unwrap_or_else(|e| panic!("{e}"));

        let folder = tempfile::tempdir().unwrap();
        let written = folder.path().join("model.safetensors");
        checkpoint::write(&written, &checkpoint::state_dict(&store), []).unwrap();
        let written = File::open(&written).unwrap();
        assert_eq!(written.names(), file.names());
        for name in file.names() {
            assert_eq!(written.shape(&name), file.shape(&name), "{name}");
            assert_eq!(written.dtype(&name).unwrap(), file.dtype(&name).unwrap(), "{name}");
            assert!(written.bytes(&name).unwrap() == file.bytes(&name).unwrap(), "{name}: other numbers");
        }
    }
}
