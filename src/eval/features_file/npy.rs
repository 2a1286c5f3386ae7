//! The .npy format, versions 1 to 3, for matrices of floating-point numbers: a magic number, a version, the length of a Python dict,
//! the dict, the numbers. (Crates for this format parse all Python literals and big integers; a matrix needs three keys.)

use std::io::{self, Read};
use std::path::Path;

use super::matrix::Matrix;
use crate::base::input;
use crate::io::Dtype;
use crate::io::checkpoint::TensorPlace;
use crate::{Error, Result};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest dict that is read; those of matrices have about a hundred bytes.
const MAX_HEADER: usize = 1 << 16;

/// Returns the header of a matrix in version 1.0: magic number, version, length, a Python dict padded with spaces so that the data
/// start at a multiple of 64.
pub(super) fn header(shape: [usize; 2]) -> Vec<u8> {
    const BEFORE_DICT: usize = 10;
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", shape[0], shape[1]);
    let length = (BEFORE_DICT + dict.len() + 1).next_multiple_of(64) - BEFORE_DICT;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(format!("{dict:width$}\n", width = length - 1).bytes());
    header
}

/// Opens a matrix `[n, dim]` of `<f4`, `<f8` or `<f2` in C order.
///
/// # Errors
/// [`Error::Io`]; [`Error::FeatureFile`] if the file is not such a matrix.
pub(super) fn open(path: &Path) -> Result<Matrix> {
    let bad = |reason: String| Error::FeatureFile { path: path.into(), reason };
    let (file, length) = input::open(path)?;
    let (dict, start) = read_dict(&mut &file).map_err(|e| bad(format!("it is no .npy file ({e})")))?;
    let value = |key: &str| {
        let (_, rest) = dict.split_once(&format!("'{key}'"))?;
        Some(rest.trim_start().strip_prefix(':')?.trim_start())
    };
    let missing = |key: &str| bad(format!("its header has no {key}"));
    let descr = value("descr").ok_or_else(|| missing("descr"))?;
    let descr = descr.strip_prefix('\'').and_then(|rest| rest.split('\'').next()).unwrap_or("a structure");
    let dtype = match descr {
        "<f4" => Dtype::F32,
        "<f8" => Dtype::F64,
        "<f2" => Dtype::F16,
        _ if descr.starts_with('>') => {
            return Err(bad(format!("its numbers are big-endian ({descr}): save it after .astype('<f4')")));
        }
        _ => return Err(bad(format!("its numbers are {descr}, not <f4, <f8 or <f2: save it after .astype('<f4')"))),
    };
    if !value("fortran_order").ok_or_else(|| missing("fortran_order"))?.starts_with("False") {
        return Err(bad("it is in Fortran order: save it after numpy.ascontiguousarray(...)".into()));
    }
    let shape = value("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next());
    let shape = shape.ok_or_else(|| missing("shape"))?;
    let sizes: Option<Vec<usize>> =
        shape.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect();
    let [rows, dim] = sizes.as_deref().unwrap_or(&[])[..] else {
        return Err(bad(format!("its shape is ({shape}), not (images, numbers of a feature)")));
    };
    Matrix::new(path, TensorPlace { file, length, start, dtype }, [rows, dim])
}

/// Returns the dict of the header, and the position of the first number.
fn read_dict(file: &mut impl Read) -> io::Result<(String, u64)> {
    let mut start = [0; 8];
    file.read_exact(&mut start)?;
    if !start.starts_with(MAGIC) {
        return Err(io::Error::other("the magic number is missing"));
    }
    let (size, length) = match start[6] {
        1 => {
            let mut bytes = [0; 2];
            file.read_exact(&mut bytes)?;
            (2, usize::from(u16::from_le_bytes(bytes)))
        }
        2 | 3 => {
            let mut bytes = [0; 4];
            file.read_exact(&mut bytes)?;
            (4, u32::from_le_bytes(bytes) as usize)
        }
        other => return Err(io::Error::other(format!("its version is {other}: versions 1 to 3 are known"))),
    };
    if length > MAX_HEADER {
        return Err(io::Error::other("the header is too long"));
    }
    let mut dict = vec![0; length];
    file.read_exact(&mut dict)?;
    Ok((String::from_utf8(dict).map_err(io::Error::other)?, (start.len() + size + length) as u64))
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn read(path: &Path) -> Result<(Vec<f32>, usize)> {
        let mut matrix = open(path)?;
        let mut values = Vec::new();
        matrix.read(0..matrix.rows(), &mut values)?;
        Ok((values, matrix.dim()))
    }

    fn stored(dict: &str, data: &[u8]) -> Result<(Vec<f32>, usize)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.npy");
        let length = (dict.len() as u16).to_le_bytes();
        std::fs::write(&path, [b"\x93NUMPY\x01\x00", &length[..], dict.as_bytes(), data].concat()).unwrap();
        read(&path)
    }

    fn dict(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
    }

    #[test]
    fn a_header_of_every_length_ends_on_64() {
        for exponent in 0..18 {
            let header = header([10usize.pow(exponent), 7]);
            assert_eq!((header.len() % 64, header.last()), (0, Some(&b'\n')));
        }
    }

    #[test]
    fn three_types_are_read() {
        let values = [0.5f32, -1.0, 2.0, 3.0];
        let want = (values.to_vec(), 2);
        let f4: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(stored(&dict("<f4", "False", "(2, 2)"), &f4).unwrap(), want);
        let f8: Vec<u8> = values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
        assert_eq!(stored(&dict("<f8", "False", "(2, 2)"), &f8).unwrap(), want);
        for (far, want) in [
            ([1e300, 2.0], Err("1 of its numbers is too large for float32")),
            ([1e-300, 1e-40], Err("all numbers of 1 feature are too small for float32")),
            ([1e-300, 2.0], Ok(vec![1.0, 0.0, 0.0, 2.0])),
        ] {
            let f8: Vec<u8> = [1.0, 0.0].iter().chain(&far).flat_map(|x: &f64| x.to_le_bytes()).collect();
            match (stored(&dict("<f8", "False", "(2, 2)"), &f8), want) {
                (Ok((values, _)), Ok(want)) => assert_eq!(values, want),
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
                (got, _) => panic!("{far:?}: {got:?}"),
            }
        }
        let f2: Vec<u8> = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        assert_eq!(stored(&dict("<f2", "False", "(2, 2)"), &f2).unwrap(), want);
    }

    #[test]
    fn what_is_no_such_matrix_is_named_with_the_way_out() {
        let cases = [
            (dict(">f4", "False", "(1, 1)"), "big-endian (>f4)"),
            (dict("<i8", "False", "(1, 1)"), "its numbers are <i8"),
            (dict("<f4", "True", "(1, 1)"), "ascontiguousarray"),
            (dict("<f4", "False", "(4,)"), "its shape is (4,)"),
            (dict("<f4", "False", "(1, 1, 1)"), "its shape is (1, 1, 1)"),
            (dict("<f4", "False", "(2, 1)"), "shorter than its shape (2, 1)"),
            (dict("<f4", "False", "(99999999999, 99999999999)"), "shorter than its shape"),
            ("{}".into(), "no descr"),
        ];
        for (dict, part) in cases {
            let error = stored(&dict, &[0; 4]).unwrap_err().to_string();
            assert!(error.contains("f.npy") && error.contains(part), "{dict}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        for content in ["", "no numpy file at all"] {
            std::fs::write(&path, content).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("it is no .npy file"));
        }
    }
}
