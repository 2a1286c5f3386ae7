//! Tests hostile pickles, opcode by opcode: each is an error, and none takes more memory than stated. (`tests/faults/fuzz` has random
//! damage.)

use std::path::Path;

use crate::io::checkpoint::File;

pub(super) fn parse(bytes: Vec<u8>) -> Result<File, String> {
    File::parse(Path::new("x"), bytes, None)
}

/// Returns a legacy file whose object is `pickle`.
pub(super) fn legacy(pickle: &[u8]) -> Vec<u8> {
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
    refused(b"ctorch\nOtherStorage\n.", "names torch.OtherStorage");
    refused(b"ctorch\nload\n.", "names torch.load");
    refused(b"ctorch.storage\n_load_from_bytes\n.", "names torch.storage._load_from_bytes");
    refused(b"cnumpy\nload\n.", "names numpy.load");
    refused(b"c__builtin__\ngetattr\n.", "names __builtin__.getattr");
    refused(b"cargparse\nNamespace\n.", "names argparse.Namespace");
    refused(b"c\x1b[2J\nx\n.", "\\u{1b}[2J.x");
    refused(b"\x82\x01.", "0x82");
    refused(b"(ccollections\nOrderedDict\no.", "0x6f");
    // A name on the list can be used for its own purpose only.
    refused(b"ctorch\nFloatStorage\n)R.", "calls Storage(Known(F32))");
    refused(b"X\x01\x00\x00\x00a)R.", "calls something that is no name");
    refused(b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01))tR.", "no storage");
    refused(b"K\x01Q.", "storage in an unknown form");
    // A function that makes a tensor with another function must not name itself.
    let again = b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\nN)NtR.";
    refused(again, "by something that is no function");
}

#[test]
fn bombs_end_in_an_error() {
    // Millions of lists, and lists in lists, a hundred thousand deep: no recursion anywhere.
    let mut deep = vec![b']'; 1 << 21];
    deep.push(b'.');
    refused(&deep, "more than");
    let nested: Vec<u8> = [vec![b']'; 100_000], vec![b'a'; 99_999], vec![b'.']].concat();
    refused(&nested, "no dictionary of tensors");
    // Each list contains the one before twice: 2^60 elements, if they were copied.
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
    refused(b"Nr\xff\xff\xff\xff.", "stores a value under number 4294967295");
    refused(b"j\x05\x00\x00\x00.", "never stored");
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
