//! Hostile pickles, opcode by opcode: always an error, never more memory than stated. (Damage at random: `tests/faults/fuzz`.)

use std::path::Path;

use super::File;

fn parse(bytes: Vec<u8>) -> Result<File, String> {
    File::parse(Path::new("x"), bytes)
}

/// A legacy file whose object is `pickle`.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let head = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    [&head[..], pickle, b"\x80\x02]."].concat()
}

fn refused(pickle: &[u8], part: &str) {
    let reason = parse(legacy(pickle)).err().unwrap_or_else(|| panic!("{part}: not refused"));
    assert!(reason.contains(part), "{part:?} is not in: {reason}");
}

#[test]
fn names_beyond_the_list_are_refused_in_every_form() {
    refused(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "names os.system");
    refused(b"\x8c\x08builtins\x8c\x04eval\x93.", "names builtins.eval");
    refused(b"(ios\nsystem\n.", "names os.system");
    refused(b"ctorch.nn.modules.linear\nLinear\n.", "names torch.nn.modules.linear.Linear");
    refused(b"ctorch\nComplexFloatStorage\n.", "names torch.ComplexFloatStorage");
    refused(b"cnumpy.core.multiarray\nscalar\n.", "names numpy.core.multiarray.scalar");
    refused(b"c\x1b[2J\nx\n.", "\\u{1b}[2J.x");
    refused(b"\x82\x01.", "0x82");
    refused(b"(ccollections\nOrderedDict\no.", "0x6f");
    // What is on the list does nothing but what it is there for.
    refused(b"ctorch\nFloatStorage\n)R.", "calls Storage(F32)");
    refused(b"X\x01\x00\x00\x00a)R.", "calls what is no name");
    refused(b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01))tR.", "no storage");
    refused(b"K\x01Q.", "storage in an unknown form");
}

#[test]
fn bombs_end_in_an_error() {
    // Millions of lists, and lists in lists, a hundred thousand deep: no recursion anywhere.
    let mut deep = vec![b']'; 1 << 21];
    deep.push(b'.');
    refused(&deep, "more than");
    let nested: Vec<u8> = [vec![b']'; 100_000], vec![b'a'; 99_999], vec![b'.']].concat();
    refused(&nested, "no dictionary of tensors");
    // Each list holds the one before twice: 2^60 in all, if it were unfolded.
    let mut doubling = b"]q\x00".to_vec();
    for _ in 0..60 {
        doubling.extend(b"](h\x00h\x00eq\x00");
    }
    doubling.push(b'.');
    refused(&doubling, "no dictionary of tensors");
    // A list of itself, and a dictionary under known keys of itself.
    refused(b"]q\x00h\x00a.", "no dictionary of tensors");
    refused(b"}q\x00X\x05\x00\x00\x00modelh\x00s.", "no dictionary of tensors");
    // Lengths and numbers beyond all bytes.
    refused(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "cut off");
    refused(b"X\xff\xff\xff\xff.", "cut off");
    refused(b"\x8b\xff\xff\xff\x7f.", "cut off");
    refused(b"Nr\xff\xff\xff\xff.", "keeps a value under number 4294967295");
    refused(b"j\x05\x00\x00\x00.", "never kept");
    refused(b"0.", "more from the stack");
    refused(b"t.", "no mark");
    // A million tensors of 64 dimensions out of one tuple.
    let mut many = b"(".to_vec();
    many.extend([b"K\x01".as_slice(); 64].concat());
    many.extend(b"tq\x01ctorch\nSize\nq\x00");
    many.extend(b"h\x00h\x01\x85R".repeat(40_000));
    many.push(b'.');
    refused(&many, "more than");
}

/// A checkpoint of one storage "0" of 4 bytes of u8, with this object.
fn with_storage(pickle: &[u8]) -> Result<File, String> {
    let head = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    let keys = b"\x80\x02]X\x01\x00\x00\x000a.\x04\x00\x00\x00\x00\x00\x00\x00\x09\x08\x07\x06";
    parse([&head[..], pickle, keys].concat())
}

/// A tensor of shape [4] out of storage "0".
const TENSOR: &[u8] =
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nByteStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04NtQK\x00K\x04\x85K\x01\x85\x89NtR";

fn text(s: &str) -> Vec<u8> {
    [&[b'X'][..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

/// A dictionary of these entries.
fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(".to_vec(), items, b"u".to_vec()].concat()
}

fn names(object: Vec<u8>) -> Result<Vec<String>, String> {
    with_storage(&[object, b".".to_vec()].concat()).map(|file| {
        for name in file.names() {
            assert_eq!(file.i64(&name).unwrap(), [9, 8, 7, 6]);
        }
        file.names()
    })
}

#[test]
fn the_one_dictionary_of_tensors_is_found() {
    let tensor = || TENSOR.to_vec();
    let weights = |name: &str| dict(&[(name, tensor()), ("epoch", b"K\x03".to_vec())]);
    assert_eq!(names(weights("w")).unwrap(), ["w"]);
    assert_eq!(names(dict(&[("state_dict", weights("w")), ("epoch", b"K\x0c".to_vec())])).unwrap(), ["w"]);
    assert_eq!(names(dict(&[("anything", weights("w"))])).unwrap(), ["w"]);
    // A known key wins over others, and over tensors beside it.
    assert_eq!(names(dict(&[("ema", weights("e")), ("model", weights("w"))])).unwrap(), ["w"]);
    assert_eq!(names(dict(&[("best", tensor()), ("net", weights("w"))])).unwrap(), ["w"]);
    assert_eq!(names(dict(&[("model", dict(&[("state_dict", weights("w"))]))])).unwrap(), ["w"]);
    // The optimiser's state lies deeper and is no candidate.
    let optimizer = dict(&[("state", dict(&[("0", weights("exp_avg"))]))]);
    assert_eq!(names(dict(&[("model", weights("w")), ("optimizer", optimizer)])).unwrap(), ["w"]);
    // Only a prefix that all names share goes.
    assert_eq!(names(dict(&[("module.a", tensor()), ("module.b", tensor())])).unwrap(), ["a", "b"]);
    assert_eq!(names(dict(&[("module.a", tensor()), ("b", tensor())])).unwrap(), ["b", "module.a"]);

    let error = names(dict(&[("a", weights("w")), ("b", weights("w"))])).unwrap_err();
    assert!(error.contains("several") && error.contains("a, b"), "{error}");
    let error = names(dict(&[("model", weights("w")), ("net", weights("w"))])).unwrap_err();
    assert!(error.contains("model, net"), "{error}");
    refused(&[dict(&[("epoch", b"K\x03".to_vec())]), b".".to_vec()].concat(), "no dictionary of tensors");
}
