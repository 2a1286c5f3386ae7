//! Element types of tensors in files.

/// An element type that can be read. Numbers are stored little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 half precision, 2 bytes.
    F16,
    /// bfloat16: the upper half of an [`F32`](Dtype::F32), 2 bytes.
    BF16,
    /// IEEE 754 single precision, 4 bytes.
    F32,
    /// IEEE 754 double precision, 8 bytes.
    F64,
    /// Signed integer of 8 bytes.
    I64,
    /// Signed integer of 4 bytes.
    I32,
    /// Signed integer of 2 bytes.
    I16,
    /// Signed integer of 1 byte.
    I8,
    /// Unsigned integer of 1 byte.
    U8,
    /// Truth value of 1 byte: 0 is false.
    Bool,
}

impl Dtype {
    /// Returns the number of bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::BF16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }
}
