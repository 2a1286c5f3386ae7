//! Recognises files that no decoder reads, by their first bytes.

use crate::base::placeholder::placeholder;

/// Says what a file is that no decoder reads, and what to do. Returns `None` for any other file.
pub(super) fn reason(bytes: &[u8]) -> Option<String> {
    let convert =
        |format: &str| Some(format!("it is of the format {format}, which is not read: convert it to JPEG or PNG"));
    if bytes.is_empty() {
        return Some("it is empty".into());
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return match &bytes[8..bytes.len().min(12)] {
            b"avif" | b"avis" => convert("AVIF"),
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1" => convert("HEIC"),
            b"crx " => convert("CR3 (raw)"),
            _ => Some("it is a film or another file of the MP4 family, not an image".into()),
        };
    }
    let beginnings: [(&[u8], &str); 8] = [
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"8BPS", "PSD"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"%PDF", "PDF"),
        (b"DDS ", "DDS"),
    ];
    if let Some((_, format)) = beginnings.iter().find(|(start, _)| bytes.starts_with(start)) {
        return convert(format);
    }
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(256)]).trim_start().to_ascii_lowercase();
    if start.starts_with("<svg") || (start.starts_with("<?xml") && start.contains("<svg")) {
        return convert("SVG");
    }
    placeholder(bytes).map(String::from)
}
