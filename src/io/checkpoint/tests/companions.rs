//! Tests that weights are found in their dictionary, whatever else torch.save has stored beside them.

use std::path::Path;

use super::damage::{legacy, parse};
use crate::io::checkpoint::File;

/// Opens a checkpoint with the object `pickle` and one storage "0" of 4 bytes of u8.
pub(super) fn with_storage(pickle: &[u8], dictionary: Option<&str>) -> Result<File, String> {
    let head = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    let keys = b"\x80\x02]X\x01\x00\x00\x000a.\x04\x00\x00\x00\x00\x00\x00\x00\x09\x08\x07\x06";
    File::parse(Path::new("x"), [&head[..], pickle, keys].concat(), dictionary)
}

/// A tensor of shape [4] out of storage "0".
pub(super) const TENSOR: &[u8] =
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nByteStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04NtQK\x00K\x04\x85K\x01\x85\x89NtR";

fn text(s: &str) -> Vec<u8> {
    [&[b'X'][..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

/// Returns a dictionary of these entries.
pub(super) fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(".to_vec(), items, b"u".to_vec()].concat()
}

pub(super) fn names(object: Vec<u8>) -> Result<Vec<String>, String> {
    names_of(object, None)
}

pub(super) fn names_of(object: Vec<u8>, dictionary: Option<&str>) -> Result<Vec<String>, String> {
    with_storage(&[object, b".".to_vec()].concat(), dictionary).map(|file| {
        for name in file.names() {
            assert_eq!(file.i64(&name).unwrap(), [9, 8, 7, 6]);
        }
        file.names()
    })
}

/// Values that may lie beside the weights, one on each line, as torch.save pickles them in protocol 2.
const COMPANIONS: [(&str, &[u8]); 35] = [
    ("Counter", b"ccollections\nCounter\n}K\x01K\x02s\x85R"),
    ("OrderedDict", b"ccollections\nOrderedDict\n)R"),
    ("defaultdict", b"ccollections\ndefaultdict\nc__builtin__\nlist\n\x85R(K\x01]u"),
    ("bytearray", b"c__builtin__\nbytearray\nc_codecs\nencode\nX\x03\0\0\0abcX\x06\0\0\0latin1\x86R\x85R"),
    ("no bytes", b"c__builtin__\nbytes\n)R"),
    ("complex", b"c__builtin__\ncomplex\nG?\xf0\0\0\0\0\0\0G@\0\0\0\0\0\0\0\x86R"),
    ("set", b"c__builtin__\nset\n]K\x01a\x85R"),
    ("frozenset", b"c__builtin__\nfrozenset\n]K\x01a\x85R"),
    ("slice", b"c__builtin__\nslice\nK\x01K\x02N\x87R"),
    ("range", b"c__builtin__\nxrange\nK\0K\x03K\x01\x87R"),
    ("torch.Size", b"ctorch\nSize\nK\x01K\x02\x86\x85R"),
    ("device", b"ctorch\ndevice\nX\x03\0\0\0cpu\x85R"),
    ("dtype", b"ctorch\nfloat8_e4m3fn\n"),
    ("layout", b"ctorch.serialization\n_get_layout\nX\x10\0\0\0torch.sparse_coo\x85R"),
    ("memory format", b"ctorch\nchannels_last\n"),
    ("way to quantise", b"ctorch\nper_tensor_affine\n"),
    ("numpy scalar", b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tbc_codecs\nencode\nX\x08\0\0\0\0\0\0\0\0\0\0\0X\x06\0\0\0latin1\x86R\x86R"),
    ("numpy array", b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85X\x01\0\0\0b\x87R(K\x01K\x01\x85N\x89X\x01\0\0\0ctb"),
    ("numpy dtype class", b"cnumpy.dtypes\nFloat64DType\n)R"),
    ("complex tensor", b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nComplexFloatStorage\nX\x01\0\0\0zX\x03\0\0\0cpuK\x02tQK\0K\x02\x85K\x01\x85\x89NtR"),
    ("float8 tensor", b"ctorch._utils\n_rebuild_tensor_v3\n((X\x07\0\0\0storagectorch.storage\nUntypedStorage\nX\x01\0\0\0zX\x03\0\0\0cpuK\x02tQK\0K\x02\x85K\x01\x85\x89Nctorch\nfloat8_e4m3fn\ntR"),
    ("uint16 tensor", b"ctorch._utils\n_rebuild_tensor_v3\n((X\x07\0\0\0storagectorch.storage\nUntypedStorage\nX\x01\0\0\0zX\x03\0\0\0cpuK\x04tQK\0K\x02\x85K\x01\x85\x89Nctorch\nuint16\ntR"),
    ("sparse tensor", b"ctorch._utils\n_rebuild_sparse_tensor\nN)\x86R"),
    ("old sparse tensor", b"ctorch.sparse\nFloatTensor\n)R"),
    ("quantised tensor", b"ctorch._utils\n_rebuild_qtensor\n(NK\0))N\x89NtR"),
    ("meta tensor", b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\nK\x02\x85K\x01\x85\x89tR"),
    ("nested tensor", b"ctorch._utils\n_rebuild_nested_tensor\n(NNNNtR"),
    ("wrapping subclass", b"ctorch._utils\n_rebuild_wrapper_subclass\n(NNNNNNNNtR"),
    ("tensor of numpy", b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n(NNN\x89tR"),
    ("parameter class", b"ctorch.nn.parameter\nParameter\n"),
    ("tensor class", b"ctorch\nTensor\n"),
    ("list of a script", b"ctorch.jit._pickle\nbuild_intlist\n]K\x01a\x85R"),
    ("list of lists", b"](]]e"),
    ("large number", b"\x8a\x0b\0\0\0\0\0\0\0\0\0\0\x01"),
    ("float", b"G\x7f\xf8\0\0\0\0\0\0"),
];

#[test]
fn companions_of_every_kind_do_not_stop_the_weights() {
    for (what, value) in COMPANIONS {
        // Beside the dictionary of weights, and among them.
        let beside = dict(&[("more", value.to_vec()), ("state_dict", dict(&[("w", TENSOR.to_vec())]))]);
        assert_eq!(names(beside).unwrap_or_else(|e| panic!("{what}: {e}")), ["w"], "{what}");
        let among = dict(&[("more", value.to_vec()), ("w", TENSOR.to_vec())]);
        assert_eq!(names(among).unwrap_or_else(|e| panic!("{what}: {e}")), ["w"], "{what}");
    }
}

/// Tests calls that return a tensor: parameters, tensors with attributes, tensors that were on a device.
#[test]
fn tensors_in_wrappings_are_read() {
    let wrapped = |before: &[u8], after: &[u8]| dict(&[("w", [before, TENSOR, after].concat())]);
    let cases: [(&[u8], &[u8]); 5] = [
        (b"ctorch._utils\n_rebuild_parameter\n", b"\x88ccollections\nOrderedDict\n)R\x87R"),
        (b"ctorch._utils\n_rebuild_parameter_with_state\n(", b"\x88ccollections\nOrderedDict\n)R}X\x01\0\0\0a\x88stR"),
        (b"ctorch._utils\n_rebuild_device_tensor_from_cpu_tensor\n(", b"ctorch\nuint8\nX\x03\0\0\0xla\x89tR"),
        (b"ctorch.nn.parameter\nParameter\n", b"\x85\x81"),
        (b"", b"}X\x01\0\0\0a\x88sb"),
    ];
    for (before, after) in cases {
        assert_eq!(names(wrapped(before, after)).unwrap(), ["w"]);
    }
    // By another function, with its arguments, and a state.
    let arguments = &TENSOR[b"ctorch._utils\n_rebuild_tensor_v2\n".len()..TENSOR.len() - 1];
    let from_type = [
        &b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n"[..],
        arguments,
        b"}tR",
    ];
    assert_eq!(names(dict(&[("w", from_type.concat())])).unwrap(), ["w"]);
    // Its type of elements as an argument.
    let typed = b"ctorch._utils\n_rebuild_tensor_v3\n((X\x07\0\0\0storagectorch.storage\nUntypedStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQK\0K\x02\x85K\x01\x85\x89Nctorch\nint16\ntR";
    let file = with_storage(&[dict(&[("w", typed.to_vec())]), b".".to_vec()].concat(), None).unwrap();
    assert_eq!(file.i64("w").unwrap(), [0x0809, 0x0607]);
}

#[test]
fn a_tensor_that_is_not_read_is_named_where_it_is_needed() {
    let unread = COMPANIONS.iter().filter(|(what, _)| what.ends_with(" tensor") && !what.starts_with("old"));
    for (what, value) in unread {
        let among = [dict(&[("conv.weight", value.to_vec()), ("w", TENSOR.to_vec())]), b".".to_vec()].concat();
        let file = with_storage(&among, None).unwrap();
        assert!(file.all_names().eq(["conv.weight", "w"]) && file.shape("conv.weight").is_none(), "{what}");
        let error = file.f32("conv.weight").unwrap_err().to_string();
        assert!(error.contains("conv.weight cannot be used: it"), "{what}: {error}");
    }
}

/// Modules of a TorchScript archive: their attributes are the names of its tensors.
#[test]
fn scripts_are_read_by_their_attributes() {
    let module = |attributes: Vec<u8>| {
        [b"c__torch__.nets.___torch_mangle_3\nNet\n)\x81".to_vec(), attributes, b"b".to_vec()].concat()
    };
    let conv = module(dict(&[("training", b"\x88".to_vec()), ("weight", TENSOR.to_vec())]));
    let object =
        module(dict(&[("conv1", conv.clone()), ("layer1", module(dict(&[("0", conv)]))), ("scale", TENSOR.to_vec())]));
    assert_eq!(names(object).unwrap(), ["conv1.weight", "layer1.0.weight", "scale"]);
    // A module that contains itself.
    let object = b"c__torch__\nNet\n)\x81q\0}X\x04\0\0\0selfh\0sb.";
    assert!(parse(legacy(object)).unwrap().names().is_empty());
}
