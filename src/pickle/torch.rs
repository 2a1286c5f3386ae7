//! The names in torch's checkpoints, and what they make of their arguments. No argument is trusted: each is checked for
//! its form.

use super::value::{Global, Heap, Id, Storage, Tensor, Value};
use crate::checkpoint::Dtype;

/// torch's own limit of dimensions.
const MAX_DIMENSIONS: usize = 64;

/// The global of a name, `None` for every name that is not on the list.
pub fn global(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", "Size") => Global::Size,
        ("torch", "device") | ("_codecs", "encode") => Global::Plain,
        ("builtins" | "__builtin__", "set" | "frozenset") => Global::Plain,
        ("torch.storage", "UntypedStorage") => Global::Storage(Dtype::U8),
        ("torch", name) => match name.strip_suffix("Storage") {
            Some(element) => Global::Storage(storage_dtype(element)?),
            None if DTYPES.contains(&name) => Global::Plain,
            None => return None,
        },
        _ => return None,
    })
}

/// The value of `global(*arguments)`.
///
/// # Errors
/// The name is none that makes something, or its arguments have another form.
pub fn call(heap: &Heap<'_>, global: Global, arguments: &[Id]) -> Result<Value, String> {
    match (global, arguments) {
        (Global::OrderedDict, []) => Ok(Value::Dict(Vec::new())),
        (Global::OrderedDict, &[items]) => ordered_dict(heap, items),
        (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
            tensor(heap, storage, offset, [shape, strides]).map(Value::Tensor)
        }
        (Global::RebuildParameter, &[data, ..]) => match heap.get(data) {
            Value::Tensor(tensor) => Ok(Value::Tensor(tensor.clone())),
            _ => Err("its pickle makes a parameter of what is no tensor".into()),
        },
        (Global::Size, &[sides]) => match heap.get(sides) {
            Value::Tuple(sides) | Value::List(sides) if sides.len() <= MAX_DIMENSIONS => {
                Ok(Value::Tuple(sides.clone()))
            }
            _ => Err("its pickle makes a torch.Size of what is no tuple".into()),
        },
        (Global::Plain, _) => Ok(Value::Plain),
        (global, arguments) => Err(format!("its pickle calls {global:?} with {} arguments", arguments.len())),
    }
}

/// `OrderedDict([[key, value], ...])`, as Python 2 wrote it.
fn ordered_dict(heap: &Heap<'_>, items: Id) -> Result<Value, String> {
    let wrong = || "its pickle makes an OrderedDict of what are no pairs".to_string();
    let Value::List(items) = heap.get(items) else { return Err(wrong()) };
    let pair = |&item: &Id| match heap.get(item) {
        Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
        _ => Err(wrong()),
    };
    items.iter().map(pair).collect::<Result<_, _>>().map(Value::Dict)
}

fn tensor(heap: &Heap<'_>, storage: Id, offset: Id, sizes: [Id; 2]) -> Result<Tensor, String> {
    if !matches!(heap.get(storage), Value::Storage(_)) {
        return Err("its pickle makes a tensor of what is no storage".into());
    }
    let offset = size(heap, offset)?;
    let [shape, strides] = sizes.map(|id| match heap.get(id) {
        Value::Tuple(items) | Value::List(items) if items.len() <= MAX_DIMENSIONS => {
            items.iter().map(|&item| size(heap, item)).collect::<Result<Vec<usize>, _>>()
        }
        _ => Err(format!("its pickle makes a tensor whose sizes are no tuple of at most {MAX_DIMENSIONS}")),
    });
    Ok(Tensor { storage, offset, shape: shape?, strides: strides? })
}

/// The storage that a persistent id means: `("storage", type, key, device, length)`, and in legacy files a view, long unused.
///
/// # Errors
/// It has another form.
pub fn storage(heap: &Heap<'_>, id: Id) -> Result<Storage, String> {
    let wrong = || "its pickle refers to a storage in an unknown form".to_string();
    let Value::Tuple(parts) = heap.get(id) else { return Err(wrong()) };
    let (kind, class, key, len) = match parts[..] {
        [kind, class, key, _, len] => (kind, class, key, len),
        [kind, class, key, _, len, view] if *heap.get(view) == Value::None => (kind, class, key, len),
        _ => return Err(wrong()),
    };
    match (heap.text(kind), heap.get(class), heap.get(key)) {
        (Some("storage"), &Value::Global(Global::Storage(dtype)), Value::Text(key)) => {
            Ok(Storage { dtype, key: key.clone(), len: size(heap, len)? })
        }
        _ => Err(wrong()),
    }
}

fn size(heap: &Heap<'_>, id: Id) -> Result<usize, String> {
    match heap.get(id) {
        &Value::Int(n) => usize::try_from(n).map_err(|_| format!("its pickle has a tensor with the negative size {n}")),
        Value::BigInt(_) => Err("its pickle has a tensor with a size of more than 64 bits".into()),
        _ => Err("its pickle has a tensor with a size that is no whole number".into()),
    }
}

/// Element types that are plain names in `torch`.
const DTYPES: [&str; 16] = [
    "float32", "float64", "float16", "bfloat16", "float", "double", "half", "int64", "int32", "int16", "int8", "uint8",
    "long", "int", "short", "bool",
];

fn storage_dtype(element: &str) -> Option<Dtype> {
    Some(match element {
        "Float" => Dtype::F32,
        "Double" => Dtype::F64,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" | "Untyped" => Dtype::U8,
        "Bool" => Dtype::Bool,
        _ => return None,
    })
}
