//! Reads Python's pickles as data: a stack machine for the opcodes of plain data and short lists of names ([`Names`]). Nothing is ever
//! called, and a pickle that refers to any other name is refused.
//!
//! Memory is bounded: every opcode makes at most one value and reads no more bytes than there are, and the number of values and of
//! elements in lists and dictionaries is limited to [`MAX_VALUES`]. So a pickle takes at most about 300 MiB, and only a pickle of many
//! megabytes takes much. Text and bytes are ranges of the pickle.
//!
//! Source: the opcode comments of CPython's `Lib/pickletools.py`.

mod machine;
mod numpy;
mod stack;
mod torch;
mod torch_names;
mod value;

pub(crate) use machine::read;
pub(crate) use value::{Element, Heap, Id, Tensor, Value};

use value::Global;

/// Largest number of values in a pickle, and of references to them. A ResNet-101 with its optimiser has about a hundred thousand, and so
/// does CIFAR-100.
const MAX_VALUES: usize = 1 << 21;

type Parsed<T> = Result<T, String>;

/// The names that a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Names for rebuilding tensors.
    Torch,
    /// Names for rebuilding numpy's arrays.
    Numpy,
}

impl Names {
    fn global(self, module: &str, name: &str) -> Option<Global> {
        match self {
            Names::Torch => torch_names::global(module, name),
            Names::Numpy => numpy::global(module, name),
        }
    }

    /// Returns the kind of files, for errors.
    fn files(self) -> &'static str {
        match self {
            Names::Torch => "torch's checkpoints",
            Names::Numpy => "files of arrays",
        }
    }

    /// Says what to do about a name that is refused.
    fn advice(self) -> &'static str {
        match self {
            Names::Torch => "only tensors in plain containers are read; save the model's state_dict() alone",
            Names::Numpy => "only numpy arrays in plain containers are read; take the file from its original archive",
        }
    }
}

fn pairs(items: &[Id]) -> Parsed<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("its pickle has a key without a value".into());
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

#[cfg(test)]
pub(crate) mod tests;
