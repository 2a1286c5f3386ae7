//! Numbers that are not finite, archives without checksums and with compressed entries.

use std::path::Path;

use crate::engine::store::{Group, Layout, Store};
use crate::io::checkpoint::{File, FineTune, Tensor, TensorNames, fine_tune, load_exact, write};

/// Returns a model of a weight, a running variance, and a classifier.
fn store() -> Store {
    let mut store = Store::new();
    store.add_param("conv.weight".into(), &[2, 1, 1, 1], Layout::Conv, Group::Backbone);
    store.add_param("fc.weight".into(), &[2, 2], Layout::Conv, Group::Head);
    store.add_buffer("bn.running_var".into(), 2, 1.0);
    store
}

struct OneConvolution;

impl TensorNames for OneConvolution {
    fn pretrained_names(&self, name: &str) -> Vec<String> {
        vec![name.into()]
    }

    fn is_backbone(&self, name: &str) -> bool {
        name.starts_with("conv")
    }
}

/// Returns a safetensors file with one tensor of these bytes.
fn typed(name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) -> Vec<u8> {
    let header =
        serde_json::json!({ name: { "dtype": dtype, "shape": shape, "data_offsets": [0, bytes.len()] } }).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), bytes].concat()
}

fn parse(bytes: Vec<u8>) -> Result<File, String> {
    File::parse(Path::new("x"), bytes, None)
}

#[test]
fn a_number_that_is_not_finite_is_named_where_it_is_used() {
    let with = |conv: f32, variance: f32, head: f32| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let tensors = [
            Tensor::f32("conv.weight", &[2, 1, 1, 1], vec![conv, 1.0]),
            Tensor::f32("bn.running_var", &[2], vec![variance; 2]),
            Tensor::f32("fc.weight", &[2, 2], vec![head; 4]),
        ];
        write(&path, &tensors, []).unwrap();
        File::open(&path).unwrap()
    };
    let start = |file: &File, keep: bool| {
        let is_head = |name: &str| !keep && name.starts_with("fc");
        fine_tune(&mut store(), file, FineTune { names: &OneConvolution, is_head: &is_head, partial: false }).map(drop)
    };
    let cases = [
        (with(f32::NAN, 1.0, 0.0), "1 of the 2 values of conv.weight"),
        (with(1.0, f32::INFINITY, 0.0), "2 of the 2 values of bn.running_var"),
        (with(1.0, f32::NEG_INFINITY, 0.0), "2 of the 2 values of bn.running_var"),
    ];
    for (file, part) in &cases {
        for result in [start(file, false), load_exact(&mut store(), file, None)] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("`optim.lr`"), "{error}");
        }
    }
    // The values of a classifier that is newly initialised are not checked.
    let file = with(1.0, 1.0, f32::NAN);
    start(&file, false).unwrap();
    assert!(start(&file, true).unwrap_err().to_string().contains("4 of the 4 values of fc.weight"));
    assert!(load_exact(&mut store(), &file, None).is_err());
}

#[test]
fn overflow_of_other_types_is_seen() {
    let f16 = |x: f32| half::f16::from_f32(x).to_le_bytes().to_vec();
    let bf16 = |x: f32| half::bf16::from_f32(x).to_le_bytes().to_vec();
    for (dtype, bytes, good) in [
        ("F16", f16(7e4), false),
        ("F16", f16(6e4), true),
        ("BF16", bf16(f32::NAN), false),
        ("BF16", bf16(3e38), true),
        ("F64", 1e300f64.to_le_bytes().to_vec(), false),
        ("F64", 1e38f64.to_le_bytes().to_vec(), true),
        ("F32", f32::MAX.to_le_bytes().to_vec(), true),
    ] {
        let file = parse(typed("running_var", dtype, &[1], &bytes)).unwrap();
        let values = file.finite("running_var");
        assert_eq!(values.is_ok(), good, "{dtype} {bytes:?}");
        assert!(values.err().is_none_or(|e| e.to_string().contains("1 of the 1 value of running_var (stored as ")));
    }
}

#[test]
fn types_that_safetensors_has_and_we_do_not_are_set_aside() {
    for dtype in ["F8_E4M3", "U32", "U64", "U16"] {
        let bytes = vec![
            0;
            if dtype == "U64" {
                8
            } else if dtype == "U32" {
                4
            } else if dtype == "U16" {
                2
            } else {
                1
            }
        ];
        let file = parse(typed("scale", dtype, &[1], &bytes)).unwrap();
        assert!(
            file.names().is_empty() && file.unread("scale").is_some_and(|why| why.contains("is not read")),
            "{dtype}"
        );
    }
}

/// Returns an archive of torch in which `change` has edited the headers of the entries whose names end in `ending`: local headers and
/// those of the directory.
fn archive(ending: &str, change: impl Fn(&mut [u8], usize, usize)) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/ckpt");
    let mut bytes = std::fs::read(folder.join("dtypes_strides_zip.pth")).unwrap();
    let mut changed = 0;
    // Compression and checksum stand at other places in the two kinds of headers.
    for (magic, method, name_len, name) in [(b"PK\x03\x04", 8, 26, 30), (b"PK\x01\x02", 10, 28, 46)] {
        for at in 0..bytes.len() - name {
            if bytes[at..].starts_with(magic) {
                let len = usize::from(u16::from_le_bytes([bytes[at + name_len], bytes[at + name_len + 1]]));
                if bytes[at + name..].get(..len).is_some_and(|name| name.ends_with(ending.as_bytes())) {
                    change(&mut bytes, at + method, at + method + 6);
                    changed += 1;
                }
            }
        }
    }
    assert!(changed >= 2, "{ending}");
    bytes
}

#[test]
fn an_archive_without_checksums_is_read_and_a_wrong_checksum_is_not() {
    let zero = archive("", |bytes, _, crc| bytes[crc..crc + 4].fill(0));
    assert!(!parse(zero).unwrap().names().is_empty());
    let wrong = archive("data.pkl", |bytes, _, crc| bytes[crc] ^= 1);
    let error = parse(wrong).err().unwrap();
    assert!(error.contains("damaged zip archive") && error.contains("download it again"), "{error}");
}

#[test]
fn compressed_entries_matter_only_where_they_are_needed() {
    let deflated = |ending: &str| archive(ending, |bytes, method, _| bytes[method] = 8);
    // Entries that are not needed may be compressed, such as TorchScript's code.
    assert!(!parse(deflated("version")).unwrap().names().is_empty());
    for needed in ["data.pkl", "data/0"] {
        let error = parse(deflated(needed)).err().unwrap();
        assert!(error.contains("is compressed") && error.contains("zip -0 -r"), "{error}");
    }
}

#[test]
fn a_counter_of_half_precision_counts() {
    let mut store = Store::new();
    store.add_counter("n.num_batches_tracked".into());
    let half = typed("n.num_batches_tracked", "F16", &[], &half::f16::from_f32(12.0).to_le_bytes());
    load_exact(&mut store, &parse(half).unwrap(), None).unwrap();
    assert_eq!(store.counters[0].1, 12);
}
