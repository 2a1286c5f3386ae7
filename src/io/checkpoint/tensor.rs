//! A tensor in a file: a view of some of its bytes, by shape and strides.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};

use crate::base::text::plural;
use crate::io::dtype::Dtype;

/// Largest number of elements of a view that repeats its storage (an expanded tensor), so that a file of a few bytes cannot ask for all
/// memory.
const MAX_REPEATED: usize = 1 << 26;

/// A named tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    View(View),
    /// A tensor that cannot be read, and why: "its type complex64 is not read".
    Unread(String),
}

/// Where a tensor is in the bytes of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Distance between neighbours along each axis, in elements.
    pub strides: Vec<usize>,
    /// Position in the file: from the tensor's first element to the end of its storage, bytes.
    pub bytes: Range<usize>,
}

impl View {
    /// Creates a view in row-major order; `bytes` must be as many as `shape` needs.
    pub(crate) fn contiguous(dtype: Dtype, shape: &[usize], bytes: Range<usize>) -> View {
        View { dtype, shape: shape.to_vec(), strides: row_major(shape), bytes }
    }

    /// Creates a view of `storage` from element `offset` on.
    ///
    /// # Errors
    /// Elements are outside of the storage, or repeat it to more than [`MAX_REPEATED`] elements.
    pub(crate) fn of_storage(
        dtype: Dtype,
        shape: &[usize],
        strides: &[usize],
        offset: usize,
        storage: Range<usize>,
    ) -> Result<View, String> {
        let available = storage.len() / dtype.size();
        let outside = || {
            format!(
                "a tensor of shape {shape:?}, strides {strides:?} and offset {offset} reaches beyond its storage of {}",
                plural(available, "element", "elements")
            )
        };
        if shape.len() != strides.len() {
            return Err(format!("shape {shape:?} and strides {strides:?} differ in length"));
        }
        let count = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        let count = if shape.contains(&0) { 0 } else { count.ok_or_else(outside)? };
        let last = (shape.iter().zip(strides)).try_fold(offset, |at, (&side, &stride)| {
            side.saturating_sub(1).checked_mul(stride).and_then(|step| at.checked_add(step))
        });
        if count > 0 && last.is_none_or(|last| last >= available) {
            return Err(outside());
        }
        if count > available.max(MAX_REPEATED) {
            return Err(format!(
                "a tensor of shape {shape:?} repeats a storage of {} too often",
                plural(available, "element", "elements")
            ));
        }
        let start = if count == 0 { storage.start } else { storage.start + offset * dtype.size() };
        Ok(View { dtype, shape: shape.to_vec(), strides: strides.to_vec(), bytes: start..storage.end })
    }

    /// Returns the number of elements.
    pub(super) fn len(&self) -> usize {
        // The other sides of an empty tensor may be of any size, so their product may overflow.
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }

    /// Returns the elements' bytes in row-major order, copied only if the view is not contiguous.
    pub(crate) fn gather<'a>(&self, file: &'a [u8]) -> Cow<'a, [u8]> {
        let size = self.dtype.size();
        let storage = &file[self.bytes.clone()];
        if self.is_contiguous() {
            return Cow::Borrowed(&storage[..self.len() * size]);
        }
        let mut out = Vec::with_capacity(self.len() * size);
        let mut index = vec![0; self.shape.len()];
        let mut at = 0;
        for _ in 0..self.len() {
            out.extend_from_slice(&storage[at * size..(at + 1) * size]);
            // Increments the index, the last axis first.
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
        Cow::Owned(out)
    }

    /// Returns whether the elements are contiguous. Strides of axes of length 1 do not matter.
    fn is_contiguous(&self) -> bool {
        let wanted = row_major(&self.shape);
        let agrees = |axis: usize| self.shape[axis] <= 1 || self.strides[axis] == wanted[axis];
        self.len() == 0 || (0..self.shape.len()).all(agrees)
    }

    /// Returns the values of a floating-point type as f32, or `None` for another type.
    pub(super) fn f32(&self, file: &[u8]) -> Option<Vec<f32>> {
        let data = self.gather(file);
        Some(match self.dtype {
            Dtype::F32 => elements(&data, f32::from_le_bytes),
            Dtype::F64 => elements(&data, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => elements(&data, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => elements(&data, |b| bf16::from_le_bytes(b).to_f32()),
            _ => return None,
        })
    }

    /// Returns the values of the type f64, or `None` for another type.
    pub(super) fn f64(&self, file: &[u8]) -> Option<Vec<f64>> {
        (self.dtype == Dtype::F64).then(|| elements(&self.gather(file), f64::from_le_bytes))
    }

    /// Returns the values of an integer or boolean type, or `None` for another type.
    pub(super) fn i64(&self, file: &[u8]) -> Option<Vec<i64>> {
        let data = self.gather(file);
        Some(match self.dtype {
            Dtype::I64 => elements(&data, i64::from_le_bytes),
            Dtype::I32 => elements(&data, |b| i32::from_le_bytes(b).into()),
            Dtype::I16 => elements(&data, |b| i16::from_le_bytes(b).into()),
            Dtype::I8 => elements(&data, |b| i8::from_le_bytes(b).into()),
            Dtype::U8 => elements(&data, |[b]| b.into()),
            Dtype::Bool => elements(&data, |[b]| (b != 0).into()),
            _ => return None,
        })
    }
}

fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        // Only empty tensors saturate, whose strides are never used.
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// Returns whether tensors of these shapes have the same values in the same order: the shapes are equal, or those of a linear weight
/// `[out, in]` and a 1x1 convolution `[out, in, 1, 1]`.
pub(super) fn same_numbers(a: &[usize], b: &[usize]) -> bool {
    let linear = |shape: &[usize]| match *shape {
        [out, input] | [out, input, 1, 1] => Some([out, input]),
        _ => None,
    };
    a == b || (linear(a).is_some() && linear(a) == linear(b))
}

fn elements<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(|&b| read(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the numbers 0 to 11 behind a header of 3 bytes.
    fn file() -> Vec<u8> {
        (0..3).chain(0..12).collect()
    }

    fn values(shape: &[usize], strides: &[usize], offset: usize) -> Result<Vec<i64>, String> {
        let view = View::of_storage(Dtype::U8, shape, strides, offset, 3..15)?;
        Ok(view.i64(&file()).unwrap())
    }

    #[test]
    fn views_walk_their_storage() {
        assert_eq!(values(&[2, 3], &[3, 1], 0).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(values(&[3, 2], &[1, 3], 6).unwrap(), [6, 9, 7, 10, 8, 11]);
        assert_eq!(values(&[2, 2], &[4, 2], 1).unwrap(), [1, 3, 5, 7]);
        assert_eq!(values(&[2, 3], &[0, 1], 9).unwrap(), [9, 10, 11, 9, 10, 11]);
        assert_eq!(values(&[], &[], 11).unwrap(), [11]);
        assert_eq!(values(&[1, 2], &[77, 1], 3).unwrap(), [3, 4]);
        assert!(values(&[0, 4], &[4, 1], 99).unwrap().is_empty());
        assert!(values(&[1 << 62, 1 << 62, 0], &[1, 1, 1], 0).unwrap().is_empty());
    }

    #[test]
    fn views_outside_their_storage_are_refused() {
        for (shape, strides, offset) in [
            (&[13][..], &[1][..], 0),
            (&[2], &[11], 1),
            (&[], &[], 12),
            (&[2, 2], &[1], 0),
            (&[1 << 40, 1 << 40], &[1 << 40, 1], 0),
            (&[2], &[usize::MAX], 1),
            (&[1 << 62], &[0], 0),
            (&[1 << 32, 1 << 32], &[0, 0], 0),
        ] {
            assert!(values(shape, strides, offset).is_err(), "{shape:?} {strides:?} {offset}");
        }
    }
}
