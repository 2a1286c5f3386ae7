//! What a torch pickle may hold. Values refer to each other by number, so that a value that holds itself, or one nested a
//! million times, is as harmless as any other.

use std::ops::Range;

use crate::checkpoint::tensor::Dtype;

/// Number of a value in a [`Heap`].
pub type Id = u32;

/// A value. Text and bytes are ranges of the pickle.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A float, a device, a data type, a set, bytes: nothing that weights need.
    Plain,
    /// A whole number of more than 64 bits, as little-endian bytes.
    BigInt(Range<usize>),
    Text(Range<usize>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(Tensor),
}

/// The names that a pickle may use, by what calling them makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    OrderedDict,
    /// `torch._utils._rebuild_tensor` or its second version.
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
    /// `torch.Size`: a tuple.
    Size,
    /// Anything [`Value::Plain`]: a device, a set, bytes that protocol 2 writes as text.
    Plain,
}

/// Numbers in the file under a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    pub dtype: Dtype,
    /// Text in the pickle.
    pub key: Range<usize>,
    /// Elements.
    pub len: usize,
}

/// A view of a storage, not yet held against it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub storage: Id,
    /// Elements.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Elements.
    pub strides: Vec<usize>,
}

/// Values of a pickle, and the pickle that their text lies in.
#[derive(Debug)]
pub struct Heap<'a> {
    pub pickle: &'a [u8],
    pub values: Vec<Value>,
}

impl Value {
    /// Numbers that it holds.
    pub fn len(&self) -> usize {
        match self {
            Value::List(items) | Value::Tuple(items) => items.len(),
            Value::Dict(pairs) => 2 * pairs.len(),
            Value::Tensor(tensor) => tensor.shape.len() + tensor.strides.len(),
            _ => 0,
        }
    }
}

impl<'a> Heap<'a> {
    pub fn get(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    /// Text, `None` for any other value.
    pub fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(range) => self.str(range),
            _ => None,
        }
    }

    /// The text in a range of the pickle; checked to be UTF-8 when it was read.
    pub fn str(&self, range: &Range<usize>) -> Option<&'a str> {
        std::str::from_utf8(&self.pickle[range.clone()]).ok()
    }
}

impl Global {
    /// The global of a name, `None` for every name that is not on the list.
    pub fn named(module: &str, name: &str) -> Option<Global> {
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
