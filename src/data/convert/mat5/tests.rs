//! Tests the reader on good and bad bytes. The small writer of the format also serves the tests of the conversions.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::*;

/// Returns an element with its tag and padding.
fn tagged(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
    bytes.extend_from_slice(data);
    if kind != mi::COMPRESSED {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

fn matrix(class: u8, dims: [i32; 2], name: &str, content: &[u8]) -> Vec<u8> {
    let dims = dims.map(i32::to_le_bytes).concat();
    let parts = [
        tagged(mi::UINT32, &[class, 0, 0, 0, 0, 0, 0, 0]),
        tagged(mi::INT32, &dims),
        tagged(mi::INT8, name.as_bytes()),
        content.to_vec(),
    ];
    tagged(mi::MATRIX, &parts.concat())
}

/// Returns a column of numbers.
pub(in crate::data::convert) fn column(name: &str, values: &[f64]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    matrix(mx::DOUBLE, [values.len() as i32, 1], name, &tagged(mi::DOUBLE, &data))
}

/// Returns a column of strings, in UTF-16 as MATLAB stores them.
pub(in crate::data::convert) fn strings(name: &str, values: &[String]) -> Vec<u8> {
    let cell = |text: &String| {
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        matrix(mx::CHAR, [1, text.len() as i32], "", &tagged(mi::UINT16, &units))
    };
    let cells: Vec<u8> = values.iter().flat_map(cell).collect();
    matrix(mx::CELL, [values.len() as i32, 1], name, &cells)
}

pub(in crate::data::convert) fn zipped(array: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(array).unwrap();
    tagged(mi::COMPRESSED, &encoder.finish().unwrap())
}

pub(in crate::data::convert) fn file(arrays: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"MATLAB 5.0 MAT-file".to_vec();
    bytes.resize(124, b' ');
    bytes.extend_from_slice(&[0, 1, b'I', b'M']);
    bytes.extend(arrays.concat());
    bytes
}

fn sample() -> Vec<u8> {
    let names = ["1_001_1_01.png", "ä", ""].map(String::from);
    // Stored as bytes in a small element, as MATLAB does with short columns.
    let mut small = matrix(mx::DOUBLE, [3, 1], "n", &[2, 0, 3, 0, 7, 8, 9, 0]);
    small[24 + 8] = 3;
    file(&[column("a", &[1.0, -2.5]), zipped(&strings("list", &names)), zipped(&column("empty", &[])), small])
}

#[test]
fn numbers_strings_and_compressed_arrays_are_read() {
    let variables = parse(&sample()).unwrap();
    let texts = ["1_001_1_01.png", "ä", ""].map(|text| Value::Text(text.into()));
    let expected = [
        ("a", vec![2, 1], Value::Numbers(vec![1.0, -2.5])),
        ("list", vec![3, 1], Value::Cell(texts.to_vec())),
        ("empty", vec![0, 1], Value::Numbers(vec![])),
        ("n", vec![3, 1], Value::Numbers(vec![7.0, 8.0, 9.0])),
    ];
    for (variable, (name, dims, value)) in variables.iter().zip(&expected) {
        assert_eq!((variable.name.as_str(), &variable.dims, &variable.value), (*name, dims, value));
    }
    assert_eq!(variables.len(), expected.len());
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mat");
    let mut big_endian = sample();
    big_endian[124..128].copy_from_slice(&[1, 0, b'M', b'I']);
    let cases: [(&[u8], &str); 5] = [
        (b"MATLAB 7.3 MAT-file, Platform", "version 7.3 (HDF5)"),
        (b"MATLAB 5.0", "ends within the header"),
        (&[0; 200], "no MATLAB file of version 5"),
        (&big_endian, "big-endian"),
        (&sample()[..150], "cut off or broken"),
    ];
    for (bytes, part) in cases {
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("x.mat: ") && error.contains(part), "{error}");
    }
    assert!(read(&folder.path().join("none")).unwrap_err().to_string().starts_with("cannot read"));
}

#[test]
fn lengths_dimensions_and_depth_are_held_against_the_bytes() {
    let with = |array: Vec<u8>| parse(&file(&[array])).unwrap_err();
    assert!(with(matrix(mx::CELL, [i32::MAX, 1], "c", &[])).contains("longer than what is left"));
    assert!(with(matrix(mx::DOUBLE, [-1, 1], "d", &tagged(mi::DOUBLE, &[]))).contains("a dimension is -1"));
    assert!(
        with(matrix(mx::DOUBLE, [2, 1], "d", &tagged(mi::DOUBLE, &[0; 8]))).contains("1 number, its dimensions say 2")
    );
    assert!(with(matrix(mx::DOUBLE, [1, 1], "d", &tagged(mi::DOUBLE, &[0; 7]))).contains("part of a number"));
    assert!(with(tagged(mi::COMPRESSED, b"not zlib")).contains("compressed array is broken"));
    let bomb = zipped(&vec![0; LARGEST as usize + 9]);
    assert!(bomb.len() < 1 << 20 && with(bomb).contains("more than 16 MiB"));
    // Each of them is small enough, all together are not.
    let several = vec![zipped(&matrix(mx::DOUBLE, [3 << 20, 1], "d", &tagged(mi::UINT8, &vec![0; 3 << 20]))); 6];
    assert!(parse(&file(&several[..5])).is_ok());
    assert!(parse(&file(&several)).unwrap_err().contains("more than 16 MiB"));
    // Empty arrays in cells take no bytes of their own but their tags.
    let empty = tagged(mi::MATRIX, &[]).repeat(MOST_ARRAYS);
    let cells = with(zipped(&matrix(mx::CELL, [MOST_ARRAYS as i32, 1], "c", &empty)));
    assert!(cells.contains("more than 1048576 arrays"), "{cells}");
    let nested = (0..20).fold(column("", &[1.0]), |inner, _| matrix(mx::CELL, [1, 1], "", &inner));
    assert!(with(nested).contains("cells are nested"));
}

/// Checks that any cut and any changed byte gives variables or an error, never a panic.
#[test]
fn broken_bytes_never_panic() {
    let good = sample();
    for length in 0..good.len() {
        let _ = parse(&good[..length]);
    }
    for i in HEADER..good.len() {
        for value in [0, 1, 0x7f, 0xff, good[i] ^ 0x10] {
            let mut bytes = good.clone();
            bytes[i] = value;
            let _ = parse(&bytes);
        }
    }
}
