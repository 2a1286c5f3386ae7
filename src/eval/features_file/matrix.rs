//! A matrix of floating-point numbers in a file, of which rows are read when they are needed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};

use super::narrow::Narrow;
use crate::base::error::IoContext;
use crate::base::memory;
use crate::io::Dtype;
use crate::io::checkpoint::TensorPlace;
use crate::{Error, Result};

/// Numbers that are converted at once.
const AT_ONCE: usize = 1 << 13;

/// A matrix `[rows, dim]` in row-major order, little-endian.
#[derive(Debug)]
pub(super) struct Matrix {
    path: PathBuf,
    file: File,
    /// Position of the first number, bytes.
    start: u64,
    dtype: Dtype,
    rows: usize,
    dim: usize,
}

impl Matrix {
    /// Describes the matrix of the given shape at a place in a file.
    ///
    /// # Errors
    /// [`Error::FeatureFile`] if the numbers are no floating point, a row has none, or the file is too short for the shape.
    pub(super) fn new(path: &Path, place: TensorPlace, shape: [usize; 2]) -> Result<Matrix> {
        let TensorPlace { file, length, start, dtype } = place;
        let bad = |reason: String| Error::FeatureFile { path: path.into(), reason };
        let [rows, dim] = shape;
        if !matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
            return Err(bad(format!("its features are {dtype:?}, not floating-point numbers")));
        }
        if dim == 0 {
            return Err(bad("its features have no numbers".into()));
        }
        let bytes = rows.checked_mul(dim).and_then(|values| (values as u64).checked_mul(dtype.size() as u64));
        if bytes.and_then(|bytes| bytes.checked_add(start)).is_none_or(|end| end > length) {
            return Err(bad(format!("it is shorter than its shape ({rows}, {dim}) says")));
        }
        Ok(Matrix { path: path.into(), file, start, dtype, rows, dim })
    }

    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the length of a row.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Reads some rows as f32 into `values`, in the place of what is there.
    ///
    /// # Errors
    /// [`Error::Io`], also if the file has become shorter; [`Error::FeatureFile`] if numbers in f64 are too large or too small for f32;
    /// [`Error::OutOfMemory`].
    ///
    /// # Panics
    /// There are no such rows.
    pub(super) fn read(&mut self, rows: Range<usize>, values: &mut Vec<f32>) -> Result<()> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows of the matrix");
        let count = rows.len() * self.dim;
        if count > values.capacity() {
            *values = memory::reserved("the features", count)?;
        }
        values.resize(count, 0.0);
        let from = self.start + (rows.start * self.dim * self.dtype.size()) as u64;
        self.file.seek(SeekFrom::Start(from)).at("read", &self.path)?;
        let mut narrow = Narrow::new(self.dim);
        match self.dtype {
            Dtype::F16 => numbers(&self.file, values, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => numbers(&self.file, values, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => numbers(&self.file, values, |b| narrow.next(f64::from_le_bytes(b))),
            _ => {
                let read = (&self.file).read_exact(bytemuck::cast_slice_mut(values));
                values.iter_mut().for_each(|x| *x = f32::from_le_bytes(x.to_ne_bytes()));
                read
            }
        }
        .at("read", &self.path)?;
        narrow.check().map_err(|reason| Error::FeatureFile { path: self.path.clone(), reason })
    }
}

/// Reads numbers of `N` bytes each.
fn numbers<const N: usize>(
    mut file: &File,
    values: &mut [f32],
    mut convert: impl FnMut([u8; N]) -> f32,
) -> io::Result<()> {
    let mut block = vec![0; N * AT_ONCE];
    for values in values.chunks_mut(AT_ONCE) {
        let bytes = &mut block[..N * values.len()];
        file.read_exact(bytes)?;
        let (numbers, _) = bytes.as_chunks::<N>();
        values.iter_mut().zip(numbers).for_each(|(value, number)| *value = convert(*number));
    }
    Ok(())
}
