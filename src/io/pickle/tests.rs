//! Tests arrays as numpy 1.16 under Python 2.7 and numpy 2.4 under Python 3.11 write them, opcode by opcode, and the refusals.

use super::{Names, Value, read};

/// Who wrote a pickle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Writer {
    /// cPickle, protocol 2, as the published CIFAR archives.
    Python2,
    /// Protocol 2 by Python 3, which has no strings of bytes there.
    Python3Protocol2,
    Protocol4,
    Protocol5,
}

impl Writer {
    pub(crate) const ALL: [Writer; 4] =
        [Writer::Python2, Writer::Python3Protocol2, Writer::Protocol4, Writer::Protocol5];

    fn text(self, text: &str) -> Vec<u8> {
        let len = text.len() as u32;
        let head = match self {
            Writer::Python2 => vec![b'U', len as u8],
            Writer::Python3Protocol2 => [&b"X"[..], &len.to_le_bytes()].concat(),
            _ => vec![0x8c, len as u8],
        };
        [&head, text.as_bytes()].concat()
    }

    fn bytes(self, bytes: &[u8]) -> Vec<u8> {
        let len = bytes.len() as u32;
        match self {
            Writer::Python2 => [&b"T"[..], &len.to_le_bytes(), bytes].concat(),
            Writer::Python3Protocol2 => {
                let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
                let len = (text.len() as u32).to_le_bytes();
                [b"c_codecs\nencode\nX", &len[..], text.as_bytes(), b"X\x06\x00\x00\x00latin1\x86R"].concat()
            }
            Writer::Protocol4 => [&b"B"[..], &len.to_le_bytes(), bytes].concat(),
            Writer::Protocol5 => [&[0x96][..], &u64::from(len).to_le_bytes(), bytes].concat(),
        }
    }

    /// Returns `numpy.dtype(name)` with its state.
    fn element(self, name: &str) -> Vec<u8> {
        let (dtype, flags) = match self {
            Writer::Python2 => (&b"cnumpy\ndtype\nq\x06"[..], &b"K\x00K\x01\x87Rq\x07"[..]),
            Writer::Python3Protocol2 => (&b"cnumpy\ndtype\nq\x11"[..], &b"\x89\x88\x87Rq\x14"[..]),
            _ => (&b"\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94"[..], &b"\x89\x88\x87\x94R\x94"[..]),
        };
        let state = [b"(K\x03", &self.text("|")[..], b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"].concat();
        [dtype, &self.text(name), flags, &state].concat()
    }

    /// Returns an array of shape `[rows, row]`; with `fortran`, `bytes` lie column by column.
    pub(crate) fn array(self, element: &str, [rows, row]: [u16; 2], fortran: bool, bytes: &[u8]) -> Vec<u8> {
        let [a, b] = [rows, row].map(|side| [&b"M"[..], &side.to_le_bytes()].concat());
        let shape = [&a[..], &b, b"\x86"].concat();
        let (element, bytes) = (self.element(element), self.bytes(bytes));
        let empty: &[u8] = match self {
            Writer::Python2 => b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05",
            Writer::Python3Protocol2 => {
                b"cnumpy._core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85q\x08c_codecs\nencode\nq\tX\x01\x00\
                \x00\x00bq\nX\x06\x00\x00\x00latin1q\x0b\x86q\x0cRq\r\x87q\x0eRq\x0f"
            }
            Writer::Protocol4 => {
                b"\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94\
                K\x00\x85\x94C\x01b\x94\x87\x94R\x94"
            }
            Writer::Protocol5 => {
                let function = b"\x8c\x13numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(";
                let order = self.text(if fortran { "F" } else { "C" });
                return [&function[..], &bytes, &element, &shape, &order, b"t\x94R\x94"].concat();
            }
        };
        [empty, b"(K\x01", &shape, &element, if fortran { b"\x88" } else { b"\x89" }, &bytes, b"tb"].concat()
    }

    pub(crate) fn numbers(self, numbers: &[u8]) -> Vec<u8> {
        [b"](".to_vec(), numbers.iter().flat_map(|&n| [b'K', n]).collect(), b"e".to_vec()].concat()
    }

    pub(crate) fn texts(self, texts: &[&str]) -> Vec<u8> {
        [b"](".to_vec(), texts.iter().flat_map(|text| self.text(text)).collect(), b"e".to_vec()].concat()
    }

    /// Returns a whole pickle of a dictionary.
    pub(crate) fn dict(self, entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let items: Vec<u8> = entries.iter().flat_map(|(key, value)| [self.text(key), value.clone()].concat()).collect();
        let body = [b"}(".to_vec(), items, b"u.".to_vec()].concat();
        match self {
            Writer::Python2 | Writer::Python3Protocol2 => [b"\x80\x02".to_vec(), body].concat(),
            Writer::Protocol4 | Writer::Protocol5 => {
                let protocol = if self == Writer::Protocol4 { 4 } else { 5 };
                [&[0x80, protocol, 0x95][..], &(body.len() as u64).to_le_bytes(), &body].concat()
            }
        }
    }
}

#[test]
fn arrays_of_every_writer_have_their_shape_order_and_bytes() {
    let bytes: Vec<u8> = (0..=255).chain(0..=43).collect();
    for writer in Writer::ALL {
        for fortran in [false, true] {
            let pickle = writer.dict(&[
                ("data", writer.array("u1", [2, 150], fortran, &bytes)),
                ("labels", writer.numbers(&[3, 255])),
                ("filenames", writer.texts(&["a.png", "b.png"])),
            ]);
            let (heap, root, len) = read(&pickle, Names::Numpy).unwrap();
            assert_eq!(len, pickle.len());
            let Value::Dict(entries) = heap.get(root) else { panic!("{writer:?}") };
            let keys: Vec<_> = entries.iter().map(|(key, _)| heap.text(*key).unwrap()).collect();
            assert_eq!(keys, ["data", "labels", "filenames"]);
            let Value::Array(Some(array)) = heap.get(entries[0].1) else { panic!("{writer:?}") };
            assert_eq!(
                (heap.str(&array.element), &array.shape[..], array.fortran),
                (Some("u1"), &[2, 150][..], fortran)
            );
            assert_eq!(heap.bytes(array.data).unwrap()[..], bytes, "{writer:?}");
            let Value::List(labels) = heap.get(entries[1].1) else { panic!("{writer:?}") };
            assert_eq!(labels.iter().map(|&id| heap.get(id)).collect::<Vec<_>>(), [&Value::Int(3), &Value::Int(255)]);
        }
    }
}

#[test]
fn pixels_stay_where_they_are() {
    let writer = Writer::Python2;
    for bytes in [vec![0xff; 64], b"all of these are text".to_vec()] {
        let pickle = writer.dict(&[("data", writer.array("u1", [1, bytes.len() as u16], false, &bytes))]);
        let (heap, root, _) = read(&pickle, Names::Numpy).unwrap();
        let Value::Dict(entries) = heap.get(root) else { panic!() };
        let Value::Array(Some(array)) = heap.get(entries[0].1) else { panic!() };
        assert!(matches!(heap.bytes(array.data), Some(std::borrow::Cow::Borrowed(found)) if *found == bytes));
    }
}

fn refused(pickle: &[u8], part: &str) {
    let reason = read(pickle, Names::Numpy).err().unwrap_or_else(|| panic!("{part}: not refused"));
    assert!(reason.contains(part), "{part:?} is not in: {reason}");
}

#[test]
fn names_beyond_the_list_and_other_forms_are_refused() {
    refused(b"\x80\x02cos\nsystem\nU\x02ls\x85R.", "names os.system, and loading it in Python would run that");
    refused(b"\x8c\x08builtins\x8c\x04eval\x93.", "names builtins.eval");
    refused(b"cnumpy.core.multiarray\nscalar\n.", "names numpy.core.multiarray.scalar");
    refused(b"ctorch._utils\n_rebuild_tensor_v2\n.", "names torch._utils._rebuild_tensor_v2");
    refused(b"c_codecs\ndecode\n.", "names _codecs.decode");
    refused(b"c_codecs\nencode\nU\x01aU\x05utf-8\x86R.", "calls Encode with 2 arguments");
    refused(b"cnumpy\nndarray\n)R.", "calls Ndarray with 0 arguments");
    refused(b"cnumpy.core.multiarray\n_reconstruct\nK\x01K\x00\x85U\x01b\x87R.", "calls Reconstruct");
    let empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R";
    refused(&[&empty[..], b"K\x01b."].concat(), "array in an unknown form");
    let with = |state: &[u8]| [&empty[..], b"(", state, b"tb."].concat();
    refused(&with(b"K\x02K\x01\x85cnumpy\ndtype\nU\x02u1\x85R\x89U\x01a"), "version that is not known");
    refused(&with(b"K\x01K\x01\x85U\x02u1\x89U\x01a"), "without element type");
    refused(&with(b"K\x01J\xff\xff\xff\xff\x85cnumpy\ndtype\nU\x02u1\x85R\x89U\x01a"), "a side -1");
    refused(&with(b"K\x01K\x01\x85cnumpy\ndtype\nU\x02u1\x85R\x89]"), "no bytes");
    refused(b"K\x01K\x01b.", "attributes of something that has none");
}

#[test]
fn a_pickle_cut_off_anywhere_is_refused() {
    for writer in Writer::ALL {
        let pickle = writer.dict(&[("data", writer.array("u1", [2, 3], false, &[1, 2, 3, 200, 5, 6]))]);
        for len in 0..pickle.len() {
            assert!(read(&pickle[..len], Names::Numpy).is_err(), "{writer:?} cut to {len}");
        }
    }
}
