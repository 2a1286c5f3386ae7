//! Values in a pickle. They refer to each other by number, so that a value that contains itself, or is nested a million times, is
//! harmless.

use std::borrow::Cow;
use std::ops::Range;

use crate::io::Dtype;

/// Number of a value in a [`Heap`].
pub(crate) type Id = u32;

/// A value. Text and bytes are ranges of the pickle.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A float, a device, a set, a numpy array in a checkpoint: its content is not needed.
    Plain,
    /// A whole number of more than 64 bits, as little-endian bytes.
    BigInt(Range<usize>),
    /// Text in UTF-8.
    Text(Range<usize>),
    Bytes(Range<usize>),
    /// Bytes, each stored as the Unicode character with its number, in UTF-8.
    Latin1(Range<usize>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(Tensor),
    /// A tensor that is no plain view of a storage, with its kind: "sparse".
    OtherTensor(&'static str),
    /// A module of a TorchScript archive, with its attributes once they are set.
    Module(Option<Id>),
    /// The name of numpy's element type, such as `u1`.
    ElementType(Range<usize>),
    /// An array of numpy; `None` until its state is set.
    Array(Option<Array>),
}

/// The names that a pickle may use, by the value that they make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    /// `collections.defaultdict`: a dictionary.
    DefaultDict,
    /// `torch._utils._rebuild_tensor` or its second version.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`, whose element type is an argument.
    RebuildTyped,
    /// Makes another kind of tensor of its first argument: a parameter, a tensor on a device.
    RebuildSame,
    /// Makes a tensor by another function, and sets its attributes.
    RebuildFromType,
    /// Makes a tensor that is no plain view of a storage, with its kind.
    RebuildOther(&'static str),
    Storage(Element),
    /// An element type of torch.
    Dtype(Element),
    /// A class of a TorchScript archive.
    Module,
    /// `torch.Size`: a tuple.
    Size,
    /// Anything that makes a [`Value::Plain`]: a device, a set, a counter, a numpy array.
    Plain,
    /// `numpy.ndarray`, and the function that makes an empty array.
    Ndarray,
    Reconstruct,
    /// numpy's function that makes an array of bytes.
    FromBuffer,
    /// `numpy.dtype`
    ElementType,
    /// `_codecs.encode`
    Encode,
}

/// The element type of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// A type that can be read.
    Known(Dtype),
    /// A type that cannot be read: torch's name of it, and its bytes.
    Other(&'static str, usize),
}

impl Element {
    /// Returns the number of bytes of an element.
    pub(crate) fn size(self) -> usize {
        match self {
            Element::Known(dtype) => dtype.size(),
            Element::Other(_, size) => size,
        }
    }
}

/// A reference to a storage in the file, by its key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Storage {
    pub element: Element,
    /// Text in the pickle.
    pub key: Range<usize>,
    /// Number of elements.
    pub len: usize,
}

/// A view of a storage, not yet checked against its size.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub storage: Id,
    pub element: Element,
    /// In elements.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In elements.
    pub strides: Vec<usize>,
}

/// An array of numpy, not yet checked against its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    /// Name of the element type: text in the pickle.
    pub element: Range<usize>,
    pub shape: Vec<usize>,
    /// Whether the first index varies fastest.
    pub fortran: bool,
    /// The value with the elements' bytes.
    pub data: Id,
}

/// Values of a pickle, and the pickle with their text.
#[derive(Debug)]
pub(crate) struct Heap<'a> {
    pub pickle: &'a [u8],
    pub values: Vec<Value>,
}

impl Value {
    /// Returns how much the value counts towards `MAX_VALUES`: its elements, or the sizes of a tensor or an array.
    pub(crate) fn len(&self) -> usize {
        match self {
            Value::List(items) | Value::Tuple(items) => items.len(),
            Value::Dict(pairs) => 2 * pairs.len(),
            Value::Tensor(tensor) => tensor.shape.len() + tensor.strides.len(),
            Value::Array(Some(array)) => array.shape.len(),
            _ => 0,
        }
    }
}

impl<'a> Heap<'a> {
    pub(crate) fn get(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    /// Returns text, or `None` for any other value.
    pub(crate) fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(range) => self.str(range),
            _ => None,
        }
    }

    /// Returns bytes in any of the forms in which Python 2 and 3 write them, or `None` for any other value.
    pub(crate) fn bytes(&self, id: Id) -> Option<Cow<'a, [u8]>> {
        match self.get(id) {
            Value::Text(range) | Value::Bytes(range) => Some(Cow::Borrowed(&self.pickle[range.clone()])),
            Value::Latin1(range) => {
                let bytes = self.str(range)?.chars().map(|c| u8::try_from(c).ok());
                bytes.collect::<Option<Vec<u8>>>().map(Cow::Owned)
            }
            _ => None,
        }
    }

    /// Returns the text in a range of the pickle, which was checked to be UTF-8 when it was read.
    pub(crate) fn str(&self, range: &Range<usize>) -> Option<&'a str> {
        std::str::from_utf8(&self.pickle[range.clone()]).ok()
    }
}
