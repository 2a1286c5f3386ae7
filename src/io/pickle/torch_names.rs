//! The names that torch's checkpoints may use: those of its own safe loader (`weights_only=True`), and those of numpy's scalars and
//! arrays and of TorchScript's modules. None is ever called; [`super::torch`] makes their values.
//!
//! Source: `_get_allowed_globals` in torch's `_weights_only_unpickler.py`.

use super::value::{Element, Global};
use crate::io::Dtype;

/// Returns the global of a name, or `None` if it is not on the list.
pub(crate) fn global(module: &str, name: &str) -> Option<Global> {
    match module {
        "collections" => match name {
            "OrderedDict" => Some(Global::OrderedDict),
            "defaultdict" => Some(Global::DefaultDict),
            "Counter" => Some(Global::Plain),
            _ => None,
        },
        // Protocol 2 writes Python 2's name of the module.
        "builtins" | "__builtin__" => BUILTINS.contains(&name).then_some(Global::Plain),
        "_codecs" => (name == "encode").then_some(Global::Plain),
        "torch._utils" => rebuild(name),
        "torch._tensor" => (name == "_rebuild_from_type_v2").then_some(Global::RebuildFromType),
        "torch.nn.parameter" => ["Parameter", "Buffer"].contains(&name).then_some(Global::RebuildSame),
        "torch.serialization" => (name == "_get_layout").then_some(Global::Plain),
        "torch.storage" => match name {
            "UntypedStorage" => Some(Global::Storage(Element::Known(Dtype::U8))),
            _ => None,
        },
        "torch.jit._pickle" => (name.starts_with("build_") || name == "restore_type_tag").then_some(Global::Plain),
        "torch" | "torch.cuda" | "torch.sparse" | "torch.cuda.sparse" => torch(module, name),
        "numpy.core.multiarray" | "numpy._core.multiarray" => {
            ["scalar", "_reconstruct"].contains(&name).then_some(Global::Plain)
        }
        "numpy.core.numeric" | "numpy._core.numeric" => (name == "_frombuffer").then_some(Global::Plain),
        "numpy" => ["dtype", "ndarray"].contains(&name).then_some(Global::Plain),
        "numpy.dtypes" => name.ends_with("DType").then_some(Global::Plain),
        _ => (module == "__torch__" || module.starts_with("__torch__.")).then_some(Global::Module),
    }
}

/// Python's built-in types of plain values.
const BUILTINS: [&str; 16] = [
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "long",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
    "xrange",
];

/// Returns the functions that make tensors.
fn rebuild(name: &str) -> Option<Global> {
    Some(match name {
        "_rebuild_tensor" | "_rebuild_tensor_v2" => Global::RebuildTensor,
        "_rebuild_tensor_v3" => Global::RebuildTyped,
        "_rebuild_parameter" | "_rebuild_parameter_with_state" | "_rebuild_device_tensor_from_cpu_tensor" => {
            Global::RebuildSame
        }
        "_rebuild_device_tensor_from_numpy" | "_rebuild_xla_tensor" => Global::RebuildOther("a numpy array"),
        "_rebuild_qtensor" => Global::RebuildOther("quantised"),
        "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => Global::RebuildOther("sparse"),
        "_rebuild_meta_tensor_no_storage" => Global::RebuildOther("without numbers (on the device meta)"),
        "_rebuild_nested_tensor" => Global::RebuildOther("nested"),
        "_rebuild_wrapper_subclass" => Global::RebuildOther("of a subclass that wraps another"),
        _ => return None,
    })
}

/// Returns the globals of `torch` itself, and of its modules for devices and sparse tensors.
fn torch(module: &str, name: &str) -> Option<Global> {
    if let Some(element) = name.strip_suffix("Storage") {
        return storage(element).map(Global::Storage);
    }
    if let Some(element) = name.strip_suffix("Tensor") {
        let known = element.is_empty() || storage(element).is_some();
        return (known && element != "Untyped").then_some(Global::Plain);
    }
    if module != "torch" {
        return None;
    }
    match name {
        "Size" => Some(Global::Size),
        "device" => Some(Global::Plain),
        name if CONSTANTS.contains(&name) => Some(Global::Plain),
        name => dtype(name).map(Global::Dtype),
    }
}

/// Quantisation schemes, layouts and memory formats.
const CONSTANTS: [&str; 14] = [
    "channels_last",
    "channels_last_3d",
    "contiguous_format",
    "per_channel_affine",
    "per_channel_affine_float_qparams",
    "per_channel_symmetric",
    "per_tensor_affine",
    "per_tensor_symmetric",
    "preserve_format",
    "sparse_bsc",
    "sparse_coo",
    "sparse_csc",
    "sparse_csr",
    "strided",
];

/// Returns the element type of the storage class `<element>Storage`.
fn storage(element: &str) -> Option<Element> {
    Some(match element {
        "Float" => Element::Known(Dtype::F32),
        "Double" => Element::Known(Dtype::F64),
        "Half" => Element::Known(Dtype::F16),
        "BFloat16" => Element::Known(Dtype::BF16),
        "Long" => Element::Known(Dtype::I64),
        "Int" => Element::Known(Dtype::I32),
        "Short" => Element::Known(Dtype::I16),
        "Char" => Element::Known(Dtype::I8),
        "Byte" | "Untyped" => Element::Known(Dtype::U8),
        "Bool" => Element::Known(Dtype::Bool),
        "ComplexFloat" => Element::Other("complex64", 8),
        "ComplexDouble" => Element::Other("complex128", 16),
        "QInt8" => Element::Other("qint8", 1),
        "QUInt8" => Element::Other("quint8", 1),
        "QInt32" => Element::Other("qint32", 4),
        "QUInt4x2" => Element::Other("quint4x2", 1),
        "QUInt2x4" => Element::Other("quint2x4", 1),
        _ => return None,
    })
}

/// Returns the element type `torch.<name>`.
fn dtype(name: &str) -> Option<Element> {
    let known = match name {
        "float32" | "float" => Dtype::F32,
        "float64" | "double" => Dtype::F64,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        _ => {
            return OTHER_DTYPES
                .iter()
                .find(|(other, _)| *other == name)
                .map(|&(name, size)| Element::Other(name, size));
        }
    };
    Some(Element::Known(known))
}

/// Element types that cannot be read, and their bytes.
const OTHER_DTYPES: [(&str, usize); 39] = [
    ("bits16", 2),
    ("bits1x8", 1),
    ("bits2x4", 1),
    ("bits4x2", 1),
    ("bits8", 1),
    ("cdouble", 16),
    ("cfloat", 8),
    ("chalf", 4),
    ("complex128", 16),
    ("complex32", 4),
    ("complex64", 8),
    ("float4_e2m1fn_x2", 1),
    ("float8_e4m3fn", 1),
    ("float8_e4m3fnuz", 1),
    ("float8_e5m2", 1),
    ("float8_e5m2fnuz", 1),
    ("float8_e8m0fnu", 1),
    ("int1", 1),
    ("int2", 1),
    ("int3", 1),
    ("int4", 1),
    ("int5", 1),
    ("int6", 1),
    ("int7", 1),
    ("qint32", 4),
    ("qint8", 1),
    ("quint2x4", 1),
    ("quint4x2", 1),
    ("quint8", 1),
    ("uint1", 1),
    ("uint16", 2),
    ("uint2", 1),
    ("uint3", 1),
    ("uint32", 4),
    ("uint4", 1),
    ("uint5", 1),
    ("uint6", 1),
    ("uint64", 8),
    ("uint7", 1),
];
