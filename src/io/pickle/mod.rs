//! Python's pickles, read as data: a stack machine that knows the opcodes of plain data and short lists of names
//! ([`Names`]). Nothing is ever called; a pickle that names anything else is refused.
//!
//! Bounds: every opcode makes at most one value and reads no more bytes than there are; values and the elements that are put
//! into lists and dictionaries are counted up to [`MAX_VALUES`]. So a pickle takes at most some 300 MiB, and only one that
//! is itself of many megabytes takes much. Text and bytes stay where they are in the pickle.
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

/// Values in a pickle, and their uses. A ResNet-101 with its optimiser has some hundred thousand, CIFAR-100 too.
const MAX_VALUES: usize = 1 << 21;

type Parsed<T> = Result<T, String>;

/// Which names a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Those that rebuild tensors.
    Torch,
    /// Those that rebuild numpy's arrays.
    Numpy,
}

impl Names {
    fn global(self, module: &str, name: &str) -> Option<Global> {
        match self {
            Names::Torch => torch_names::global(module, name),
            Names::Numpy => numpy::global(module, name),
        }
    }

    /// Whose pickles these are, for errors.
    fn files(self) -> &'static str {
        match self {
            Names::Torch => "torch's checkpoints",
            Names::Numpy => "files of arrays",
        }
    }

    /// What to do about a name that is refused.
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
