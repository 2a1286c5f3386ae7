//! Recognises files that are no files of weights, and says what to do.

use crate::base::placeholder::placeholder;

/// Says in one sentence what a file is that begins neither like safetensors nor like torch's files.
pub(super) fn other(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "it is empty: if it was downloaded, download it again".into();
    }
    let is = |magic: &[u8]| bytes.starts_with(magic);
    if let Some((_, name, unpack)) = COMPRESSED.iter().find(|(magic, ..)| is(magic)) {
        return format!("it is compressed by {name}: unpack it first ({unpack})");
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return "it is a tar archive: unpack it and give the file of weights in it; one that torch wrote before 2017 must be \
                loaded and saved again in Python"
            .into();
    }
    let foreign = if is(b"\x89HDF\r\n\x1a\n") {
        Some("an HDF5 file (Keras and others write them)")
    } else if is(b"\x93NUMPY") {
        Some("an array of numpy's (.npy)")
    } else if bytes.get(4..8) == Some(b"TFL3") {
        Some("a TensorFlow Lite model")
    } else if is(b"GGUF") {
        Some("a GGUF model")
    } else if is_onnx(bytes) {
        Some("an ONNX model")
    } else if is_tensorflow(bytes) {
        Some("a TensorFlow model")
    } else {
        None
    };
    if let Some(name) = foreign {
        return format!(
            "it is {name}, which is not read: load it in its own framework and save the weights under torch's names with \
             torch.save or safetensors"
        );
    }
    text(bytes).unwrap_or_else(|| {
        "it is neither safetensors nor a torch checkpoint: give a .safetensors or .pth file of weights".into()
    })
}

const COMPRESSED: [(&[u8], &str, &str); 6] = [
    (b"\x1f\x8b", "gzip", "gunzip, or tar -xzf for a .tar.gz"),
    (b"BZh", "bzip2", "bunzip2, or tar -xjf for a .tar.bz2"),
    (b"\xfd7zXZ\0", "xz", "unxz, or tar -xJf for a .tar.xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x"),
    (b"Rar!\x1a\x07", "RAR", "unrar x"),
];

/// Returns whether it is a protocol buffer whose first field is a version and whose second is the producer's name, as in ONNX.
fn is_onnx(bytes: &[u8]) -> bool {
    let &[0x08, version, 0x12, len, ref rest @ ..] = bytes else { return false };
    let name = rest.get(..usize::from(len)).unwrap_or_default();
    (1..0x40).contains(&version) && !name.is_empty() && name.iter().all(|b| b.is_ascii_graphic() || *b == b' ')
}

/// Returns whether it is a SavedModel (version, then graphs), a frozen graph (nodes whose first field is a name), or the table of a
/// checkpoint.
fn is_tensorflow(bytes: &[u8]) -> bool {
    let saved = bytes.starts_with(b"\x08\x01\x12");
    let graph = matches!(bytes, [0x0a, _, 0x0a, ..] | [0x0a, 0x80..=0xff, _, 0x0a, ..]);
    saved || graph || bytes.ends_with(b"\x57\xfb\x80\x8b\x24\x75\x47\xdb")
}

/// Says what a text file is. Returns `None` if the file is no text.
fn text(bytes: &[u8]) -> Option<String> {
    let head = &bytes[..bytes.len().min(1024)];
    let head = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The limit may split a character.
        Err(e) if e.valid_up_to() + 4 > head.len() => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let start = head.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    if start.is_empty() || head.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    Some(if let Some(placeholder) = placeholder(bytes) {
        placeholder.into()
    } else if start.starts_with('{') && head.contains("\"weight_map\"") {
        "it is the index of weights in several files: give a single file of weights".into()
    } else {
        "it is text, not weights: give a .safetensors or .pth file of weights".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_sentence() {
        let tar: Vec<u8> = [&[b'a'][..], &[0; 256], b"ustar\x0000"].concat();
        let cases: [(&[u8], &str); 22] = [
            (b"", "it is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git lfs pull"),
            (b"<!DOCTYPE html><html lang=\"en\">", "web page"),
            (b"\xef\xbb\xbf\n <HTML>\n", "web page"),
            (b"\x1f\x8b\x08\0", "gunzip"),
            (b"BZh91AY", "bunzip2"),
            (b"\xfd7zXZ\0\0", "unxz"),
            (b"\x28\xb5\x2f\xfd\x04", "unzstd"),
            (b"7z\xbc\xaf\x27\x1c\0\x04", "7z x"),
            (b"Rar!\x1a\x07\x01\0", "unrar"),
            (&tar, "tar archive"),
            (b"\x89HDF\r\n\x1a\n\0", "HDF5 file (Keras"),
            (b"\x93NUMPY\x01\0", "numpy's (.npy)"),
            (b"\x1c\0\0\0TFL3\0", "TensorFlow Lite"),
            (b"GGUF\x03", "GGUF"),
            (b"\x08\x08\x12\x07pytorch\x1a\x05", "ONNX"),
            (b"\x08\x01\x12\xf8\xff\x02", "a TensorFlow model"),
            (b"\x0a\x1c\x0a\x05input\x12", "a TensorFlow model"),
            (b"{\"weight_map\": {}}", "several files"),
            (b"404: Not Found", "it is text"),
            (b"\0\x01\x02\xff", "neither safetensors nor"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", "neither safetensors nor"),
        ];
        for (bytes, part) in cases {
            let sentence = other(bytes);
            assert!(sentence.contains(part) && !sentence.contains('\n'), "{part}: {sentence}");
        }
        let long = "ü".repeat(600);
        assert!(other(format!("x{long}").as_bytes()).contains("it is text"));
    }
}
