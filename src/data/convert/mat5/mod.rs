//! Reads MATLAB files of version 5, as far as lists of numbers and cells of strings need it.
//!
//! A file is a header of 128 bytes, and data elements: a tag (type, length) and bytes, padded to 8. An array is an element of elements
//! (flags, dimensions, name, content); a compressed element is a zlib stream of one array. Every length is checked against the bytes
//! that are there.
//!
//! Source: MathWorks, *MAT-File Format*, chapter 1 (Level 5).

use std::io::Read;
use std::path::Path;

use flate2::read::ZlibDecoder;

use crate::base::error::IoContext;
use crate::base::input;
use crate::base::text::plural;
use crate::{Error, Result};

/// Bytes of the header; the last four are version and byte order.
const HEADER: usize = 128;
/// Largest number of bytes of a file, and of all its arrays together after decompression. Lists of 14,097 names take about one million.
const LARGEST: u64 = 16 << 20;
/// Largest number of arrays, including those in cells.
const MOST_ARRAYS: usize = 1 << 20;
/// Largest depth of cells in cells.
const DEEPEST: usize = 8;

/// Types of data elements.
mod mi {
    pub(crate) const INT8: u32 = 1;
    pub(crate) const UINT8: u32 = 2;
    pub(crate) const INT16: u32 = 3;
    pub(crate) const UINT16: u32 = 4;
    pub(crate) const INT32: u32 = 5;
    pub(crate) const UINT32: u32 = 6;
    pub(crate) const SINGLE: u32 = 7;
    pub(crate) const DOUBLE: u32 = 9;
    pub(crate) const INT64: u32 = 12;
    pub(crate) const UINT64: u32 = 13;
    pub(crate) const MATRIX: u32 = 14;
    pub(crate) const COMPRESSED: u32 = 15;
    pub(crate) const UTF8: u32 = 16;
    pub(crate) const UTF16: u32 = 17;
}

/// Classes of arrays.
mod mx {
    pub(crate) const CELL: u8 = 1;
    pub(crate) const CHAR: u8 = 4;
    pub(crate) const DOUBLE: u8 = 6;
    pub(crate) const UINT64: u8 = 15;
}

/// One variable.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Name of the variable in the file.
    pub name: String,
    /// Rows, columns, ...; values are stored column by column.
    pub dims: Vec<usize>,
    /// Content of its array.
    pub value: Value,
}

/// Content of an array.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Real numbers of any type.
    Numbers(Vec<f64>),
    /// The characters of a char array.
    Text(String),
    /// The arrays in a cell array, column by column.
    Cell(Vec<Value>),
    /// Structures, objects, sparse and complex arrays.
    Other,
}

/// Reads all variables of a file.
///
/// # Errors
/// [`Error::MatFile`]: the file is of another version, of the other byte order, cut off or broken. As [`input::read`].
pub fn read(path: &Path) -> Result<Vec<Variable>> {
    let refuse = |reason: String| Error::MatFile { path: path.to_path_buf(), reason };
    let mut start = Vec::new();
    let (file, _) = input::open(path)?;
    file.take(HEADER as u64).read_to_end(&mut start).at("read", path)?;
    if start.starts_with(b"MATLAB 7.3") {
        return Err(refuse("this is version 7.3 (HDF5), expected is version 5: is it the file for `mat`?".into()));
    }
    parse(&input::read(path, LARGEST)?).map_err(refuse)
}

/// Reads all variables of a file's bytes.
///
/// # Errors
/// The reason why they cannot be read.
pub fn parse(bytes: &[u8]) -> Result<Vec<Variable>, String> {
    let Some((header, body)) = bytes.split_at_checked(HEADER) else {
        return Err("it ends within the header".into());
    };
    match header[124..] {
        [_, 1, b'I', b'M'] => {}
        [1, _, b'M', b'I'] => return Err("it was written on a big-endian machine: save it again on another".into()),
        _ => return Err("it is no MATLAB file of version 5".into()),
    }
    let mut rest = body;
    let mut budget = Budget { bytes: LARGEST, arrays: MOST_ARRAYS };
    let mut variables = Vec::new();
    while !rest.is_empty() {
        let (kind, data) = element(&mut rest)?;
        match kind {
            mi::MATRIX => variables.push(array(data, 0, &mut budget)?),
            mi::COMPRESSED => variables.push(compressed(data, &mut budget)?),
            // Other top-level elements are allowed and ignored.
            _ => {}
        }
    }
    Ok(variables)
}

/// What may still be read: a few compressed bytes can become many.
struct Budget {
    /// Bytes of decompressed arrays.
    bytes: u64,
    arrays: usize,
}

/// Reads a zlib stream of one array.
fn compressed(data: &[u8], budget: &mut Budget) -> Result<Variable, String> {
    let mut bytes = Vec::new();
    let read = ZlibDecoder::new(data).take(budget.bytes + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("a compressed array is broken ({error})"))?;
    let left = budget.bytes.checked_sub(bytes.len() as u64);
    budget.bytes = left.ok_or_else(|| format!("its arrays have more than {} MiB", LARGEST >> 20))?;
    let mut rest = &bytes[..];
    match element(&mut rest)? {
        (mi::MATRIX, data) => array(data, 0, budget),
        (kind, _) => Err(format!("a compressed element of type {kind} instead of an array")),
    }
}

/// Takes an element off the front. Returns its type and its bytes.
fn element<'a>(rest: &mut &'a [u8]) -> Result<(u32, &'a [u8]), String> {
    let cut = || "it is cut off or broken: an element is longer than what is left".to_string();
    let (tag, after) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let [first, second] = [[tag[0], tag[1], tag[2], tag[3]], [tag[4], tag[5], tag[6], tag[7]]].map(u32::from_le_bytes);
    // A small element has its length in the upper half of the type, and up to four bytes in the tag itself.
    if first >> 16 != 0 {
        let length = (first >> 16) as usize;
        let data = rest[4..8].get(..length).ok_or_else(cut)?;
        *rest = after;
        return Ok((first & 0xffff, data));
    }
    let length = second as usize;
    let data = after.get(..length).ok_or_else(cut)?;
    // Compressed elements are not padded; the padding of a last one may be missing.
    let padded = if first == mi::COMPRESSED { length } else { length.next_multiple_of(8).min(after.len()) };
    *rest = &after[padded..];
    Ok((first, data))
}

/// Reads an array: flags, dimensions, name, content.
fn array(data: &[u8], depth: usize, budget: &mut Budget) -> Result<Variable, String> {
    let left = budget.arrays.checked_sub(1);
    budget.arrays = left.ok_or_else(|| format!("it has more than {MOST_ARRAYS} arrays"))?;
    if data.is_empty() {
        // An empty cell may be an array of no bytes at all.
        return Ok(Variable { name: String::new(), dims: vec![0, 0], value: Value::Numbers(Vec::new()) });
    }
    if depth > DEEPEST {
        return Err(format!("cells are nested more than {DEEPEST} times"));
    }
    let mut rest = data;
    let (kind, flags) = element(&mut rest)?;
    if kind != mi::UINT32 || flags.len() != 8 {
        return Err("an array begins without its flags".into());
    }
    let (class, complex) = (flags[0], flags[1] & 0x08 != 0);
    let (kind, dims) = element(&mut rest)?;
    if kind != mi::INT32 {
        return Err("an array has no dimensions".into());
    }
    let dims = numbers(kind, dims)?.into_iter().map(|n| n as i64);
    let dims: Vec<usize> =
        dims.map(|n| usize::try_from(n).map_err(|_| format!("a dimension is {n}"))).collect::<Result<_, _>>()?;
    let total = dims.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).ok_or("dimensions are too large")?;
    let (_, name) = element(&mut rest)?;
    let name = String::from_utf8_lossy(name).into_owned();
    let value = match class {
        mx::CELL => {
            let mut cells = Vec::new();
            for _ in 0..total {
                match element(&mut rest)? {
                    (mi::MATRIX, data) => cells.push(array(data, depth + 1, budget)?.value),
                    (kind, _) => return Err(format!("a cell of {name} is of type {kind} instead of an array")),
                }
            }
            Value::Cell(cells)
        }
        mx::CHAR => {
            let (kind, data) = element(&mut rest)?;
            Value::Text(text(kind, data)?)
        }
        mx::DOUBLE..=mx::UINT64 if !complex => {
            let (kind, data) = element(&mut rest)?;
            let values = numbers(kind, data)?;
            if values.len() != total {
                return Err(format!(
                    "{name} has {}, its dimensions say {total}",
                    plural(values.len(), "number", "numbers")
                ));
            }
            Value::Numbers(values)
        }
        _ => Value::Other,
    };
    Ok(Variable { name, dims, value })
}

/// Reads numbers of any stored type; MATLAB stores doubles as the smallest type that can represent them.
fn numbers(kind: u32, data: &[u8]) -> Result<Vec<f64>, String> {
    macro_rules! read {
        ($type:ty) => {{
            let (values, rest) = data.as_chunks::<{ size_of::<$type>() }>();
            if !rest.is_empty() {
                return Err("an element holds part of a number".into());
            }
            values.iter().map(|bytes| <$type>::from_le_bytes(*bytes) as f64).collect()
        }};
    }
    Ok(match kind {
        mi::INT8 => read!(i8),
        mi::UINT8 => read!(u8),
        mi::INT16 => read!(i16),
        mi::UINT16 => read!(u16),
        mi::INT32 => read!(i32),
        mi::UINT32 => read!(u32),
        mi::SINGLE => read!(f32),
        mi::DOUBLE => read!(f64),
        mi::INT64 => read!(i64),
        mi::UINT64 => read!(u64),
        other => return Err(format!("an element of type {other} holds no numbers")),
    })
}

/// Reads characters in one of the encodings that MATLAB writes.
fn text(kind: u32, data: &[u8]) -> Result<String, String> {
    match kind {
        mi::UTF8 | mi::INT8 | mi::UINT8 => Ok(String::from_utf8_lossy(data).into_owned()),
        mi::UTF16 | mi::UINT16 => {
            let units = data.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
            Ok(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
        }
        other => Err(format!("characters of type {other} are not supported")),
    }
}

#[cfg(test)]
pub(super) mod tests;
